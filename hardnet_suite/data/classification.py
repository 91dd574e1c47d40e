"""Classification data: folders of classes, CSV lists, torchvision's data sets, and what is wrong in them."""

from __future__ import annotations

import csv
import os
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hardnet_suite.data.images import open_rgb, to_rgb
from hardnet_suite.data.report import Finding, Report
from hardnet_suite.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class Samples:
    """Images and their classes.

    ``images``: a path each, or the index in ``dataset``, one of torchvision's. ``labels``: an index into
    ``classes`` each. ``where``: the folder or file they come from.
    """

    where: str
    classes: tuple[str, ...]
    images: tuple[Path | int, ...]
    labels: tuple[int, ...]
    dataset: Any = None

    def __len__(self) -> int:
        return len(self.images)

    def open(self, index: int):
        """The image as a PIL image, RGB; UserError where it cannot be read."""
        if self.dataset is None:
            return open_rgb(self.images[index])
        return to_rgb(self.dataset[self.images[index]][0])


@cache
def imagenet_classes() -> dict[str, str]:
    """WordNet id -> name of the 1000 classes of ImageNet, in the order of their indices (258: Samoyed)."""
    with Path(__file__).with_name("imagenet_classes.csv").open(encoding="utf-8") as stream:
        return {row["wnid"]: row["name"] for row in csv.DictReader(stream)}


def readable(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes for people: ImageNet's WordNet ids become its names, others stay."""
    names = imagenet_classes()
    return tuple(names.get(name, name) for name in classes)


def read_folder(folder: str | Path, classes: Sequence[str] | None = None) -> Samples:
    """A folder with a folder of images for each class, as torchvision's ImageFolder.

    Args:
        folder: FOLDER/CLASS/…/IMAGE.
        classes: the names of the classes' folders in the order of their labels; folders of other names are an
            error, classes without a folder are not. None: the folders there are, sorted.

    Raises:
        UserError: no such folder, no folder of a class in it, one of an unknown name, or no image at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: wanted is FOLDER/CLASS/IMAGE; give the data with --data-root")
    there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not there:
        raise UserError(f"{folder} holds no folders: wanted is one for each class, FOLDER/CLASS/IMAGE")
    order = {name: index for index, name in enumerate(there if classes is None else classes)}
    unknown = [name for name in there if name not in order]
    if unknown:
        raise UserError(f"{folder / unknown[0]} is the folder of no class: {_known(order)}")
    images, labels = [], []
    for name in there:
        found = sorted(
            Path(place, file)
            for place, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith(".")
        )
        images += found
        labels += [order[name]] * len(found)
    if not images:
        raise UserError(f"{folder} holds no image in its {len(there)} folders")
    return Samples(str(folder), tuple(order), tuple(images), tuple(labels))


def read_csv(path: str | Path, folder: str | Path, classes: Sequence[str] | None = None) -> Samples:
    """A CSV file with the columns ``file``, relative to ``folder``, and ``label``, the name of a class.

    Args:
        path: the file, with a line of headings.
        folder: what the names of files are relative to.
        classes: their order; None: the labels there are, sorted, by their value where all are whole numbers.

    Raises:
        UserError: the file is missing, no CSV of that form, empty, or has a label that is no class.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError:
        raise UserError(f"no CSV list {path}: give the data with --data-root") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV ({error}); save it as UTF-8 text") from None
    if not rows:
        raise UserError(f"{path} lists no image: wanted are the columns file and label")
    for number, row in enumerate(rows, start=2):
        if not row.get("file") or not row.get("label"):
            raise UserError(f"{path}, line {number}: wanted are the columns file and label")
    labels = {row["label"] for row in rows}
    numbers = all(label.isdecimal() for label in labels)
    order = sorted(labels, key=int if numbers else None) if classes is None else classes
    index = {name: label for label, name in enumerate(order)}
    for number, row in enumerate(rows, start=2):
        if row["label"] not in index:
            raise UserError(f"{path}, line {number}: {row['label']!r} is no class: {_known(index)}")
    images = tuple(Path(folder, row["file"]) for row in rows)
    return Samples(str(path), tuple(index), images, tuple(index[row["label"]] for row in rows))


def read_torchvision(name: str, root: str | Path, **options: Any) -> Samples:
    """One of torchvision's classification data sets.

    Args:
        name: its class in ``torchvision.datasets``, such as "CIFAR10".
        root: where its files are.
        options: its further arguments, such as ``train=True``, ``split="train"``, ``download=True``.

    Raises:
        UserError: no such data set, its files are missing, or it has no list of labels.
    """
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name, None)
    if not isinstance(kind, type):
        raise UserError(f"torchvision has no data set {name!r}, such as CIFAR10 or Flowers102")
    try:
        dataset = kind(str(root), **options)
    except Exception as error:  # each has its own way to say that files are missing
        what = " ".join(str(error).split())
        raise UserError(
            f"torchvision's {name} in {root}: {what}; its option download=True fetches it"
        ) from None
    labels = _labels_of(dataset)
    if labels is None:
        raise UserError(f"torchvision's {name} has no list of labels: it cannot be used for classification")
    known = getattr(dataset, "classes", None) or range(max(labels) + 1)
    classes = tuple(", ".join(one) if isinstance(one, tuple) else str(one) for one in known)  # synonyms
    return Samples(f"{name} in {root}", classes, tuple(range(len(labels))), labels, dataset)


def _labels_of(dataset: Any) -> tuple[int, ...] | None:
    """All labels of a data set of torchvision without opening an image; each keeps them in its own place."""
    for key in ("targets", "labels", "_labels", "y"):
        labels = getattr(dataset, key, None)
        if labels is not None:
            return tuple(int(label) for label in labels)
    pairs = getattr(dataset, "_samples", None)  # (image or its path, label)
    if pairs is None or any(label is None for _, label in pairs):
        return None
    return tuple(int(label) for _, label in pairs)


def hold_out(samples: Samples, per_class: int, seed: int = 0) -> tuple[Samples, Samples]:
    """(the rest, ``per_class`` images drawn of each class): one to train on, the other to choose by.

    UserError where a class has no more than that many images.
    """
    kept: list[int] = []
    drawn: list[int] = []
    by_label: dict[int, list[int]] = {}
    for index, label in enumerate(samples.labels):
        by_label.setdefault(label, []).append(index)
    for label, own in sorted(by_label.items()):
        if len(own) <= per_class:
            name = samples.classes[label]
            raise UserError(
                f"{samples.where}: the class {name} has {len(own)} images, {per_class} cannot be kept aside"
            )
        random.Random(f"{seed} {label}").shuffle(own)
        drawn += sorted(own[:per_class])
        kept += sorted(own[per_class:])
    return _chosen(samples, kept), _chosen(samples, drawn)


def _chosen(samples: Samples, indices: Sequence[int]) -> Samples:
    return replace(
        samples,
        images=tuple(samples.images[index] for index in indices),
        labels=tuple(samples.labels[index] for index in indices),
    )


def _known(classes: Sequence[str] | dict[str, int]) -> str:
    names = list(classes)
    more = f", … ({len(names)} classes)" if len(names) > 5 else ""
    return f"known are {', '.join(names[:5])}{more}"


@dataclass(frozen=True, kw_only=True)
class ClassificationReport(Report):
    """What a classification set holds and what was found wrong with it.

    ``per_class``: class name -> images. ``sizes`` is (smallest width, smallest height, largest width,
    largest height) in pixels, None where no image was read.
    """

    where: str
    images: int
    per_class: dict[str, int]
    sizes: tuple[int, int, int, int] | None

    def summary(self) -> dict[str, str]:
        used = {name: count for name, count in self.per_class.items() if count}
        fewest, most = min(used, key=used.get), max(used, key=used.get)
        rows = {
            "images of": self.where,
            "images": str(self.images),
            "classes with images": f"{len(used)} of {len(self.per_class)}",
            "a class has": f"{used[fewest]} ({fewest}) to {used[most]} ({most})",
        }
        if self.sizes:
            rows["image sizes"] = "{}×{} to {}×{}".format(*self.sizes)
        return rows


def check_classification(samples: Samples, *, read: bool = True) -> ClassificationReport:
    """Look through a classification set for what would stop or spoil a training.

    ``read``: decode every image; False only looks whether it is there.
    """
    findings, sizes = [], []

    def look(index: int) -> tuple[int, int] | Finding | None:
        image = samples.images[index]
        where = str(image)
        if not read:
            missing = isinstance(image, Path) and not image.is_file()
            return Finding("error", "missing image", where, "no such file") if missing else None
        try:
            return samples.open(index).size
        except Exception as error:
            kind = "missing image" if isinstance(image, Path) and not image.exists() else "unreadable image"
            return Finding("error", kind, where, str(error))

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(look, range(len(samples))):
            if isinstance(found, Finding):
                findings.append(found)
            elif found:
                sizes.append(found)
    twice = [name for name, count in Counter(samples.images).items() if count > 1]
    findings += [Finding("warning", "image listed twice", str(name), "counts twice") for name in twice]
    counts = Counter(samples.labels)
    per_class = {name: counts[label] for label, name in enumerate(samples.classes)}
    empty = [name for name, count in per_class.items() if not count]
    findings += [Finding("warning", "class without images", name, "has not a single image") for name in empty]
    return ClassificationReport(
        where=samples.where,
        images=len(samples),
        per_class=per_class,
        sizes=(*map(min, zip(*sizes, strict=True)), *map(max, zip(*sizes, strict=True))) if sizes else None,
        findings=tuple(findings),
    )
