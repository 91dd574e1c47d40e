"""Readers of classification data: folders of classes, CSV lists, torchvision's data sets."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.classification.samples import Samples
from hardnet_suite.data.files import folder_entries, kept_while_looking, read_bytes, real_path
from hardnet_suite.data.images import IMAGE_SUFFIXES, walk_files
from hardnet_suite.errors import UserError

_COLUMNS = ("file", "label")
_LONGEST_NUMBER = 18  # digits of a label that is a number


def read_folder(folder: str | Path, classes: Sequence[str] | None = None) -> Samples:
    """A folder with a folder of images for each class, as torchvision's ImageFolder.

    Hidden files and folders are skipped. Links to files and folders are followed, except to folders that
    contain the data set or belong to another of its classes. Files in class folders that are
    not named like images, and images outside of class folders, are ``strays``.

    Args:
        folder: FOLDER/CLASS/…/IMAGE.
        classes: the names of the classes' folders in the order of their labels; folders of other names are an
            error, classes without a folder are not. None: the folders in ``folder``, sorted.

    Raises:
        UserError: the folder is missing, has no folder of a class, one of an unknown name or two that are the
            same, or no image at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        if any(folder.parent.glob("*.tar")):
            raise UserError(
                f"no folder {folder}, but tar files beside it: shards are named by a pattern, such as "
                f"{folder.parent}/train-{{000..099}}.tar"
            )
        raise UserError(f"no folder {folder}: expected FOLDER/CLASS/IMAGE; give the data with --data-root")
    return _read_folder(folder, None if classes is None else tuple(class_names(classes, "classes")))


@kept_while_looking
def _read_folder(folder: Path, order: tuple[str, ...] | None) -> Samples:
    root = os.path.realpath(folder)
    names = (entry.name for entry in folder_entries(os.fspath(folder)))
    entries = sorted(folder / name for name in names if not name.startswith("."))
    # a link to the data set or to what contains it is not a class
    places = {path.name: os.path.realpath(path) for path in entries if path.is_dir()}
    places = {name: real for name, real in places.items() if not _contains(real, root)}
    if not places:
        raise UserError(f"{folder} has no folder per class, expected FOLDER/CLASS/IMAGE")
    index = {name: label for label, name in enumerate(order or class_names([*places], str(folder)))}
    unknown = [name for name in places if name not in index]
    if unknown:
        raise UserError(f"{folder / unknown[0]} is not the folder of a class: {_known(index)}")
    seen: dict[str, str] = {}
    for name, real in places.items():
        if real in seen:
            raise UserError(f"{folder / name} and {folder / seen[real]} are one folder under two class names")
        seen[real] = name
    images, labels, strays = [], [], [path for path in entries if path.is_file() and _is_image(path)]
    for name, real in places.items():
        forbidden = [root, *(other for other in places.values() if other != real)]
        files = _own_files(folder / name, forbidden)
        of_class = [path for path in files if _is_image(path)]
        strays += [path for path in files if not _is_image(path)]
        images += of_class
        labels += [index[name]] * len(of_class)
    if not images:
        raise UserError(f"{folder} has {len(places)} class folders, but not a single image in them")
    _require_one_class(images, labels)
    return Samples(str(folder), tuple(index), tuple(images), tuple(labels), strays=tuple(strays))


def _require_one_class(images: Sequence[Path], labels: Sequence[int]) -> None:
    """UserError where links make one file an image of two classes."""
    first: dict[str, tuple[Path, int]] = {}
    for path, real, label in zip(images, _real_paths(images), labels, strict=True):
        other, other_label = first.setdefault(real, (path, label))
        if other_label != label:
            raise UserError(f"{path} and {other} are one file under two class names: remove one of the links")


def _real_paths(paths: Sequence[Path]) -> Iterator[str]:
    """What each path leads to; the links in folders are followed once for each folder."""
    folders: dict[Path, str] = {}
    for path in paths:
        if path.parent not in folders:
            folders[path.parent] = real_path(path.parent)
        if path.name in ("", "..") or os.path.islink(path):
            yield real_path(path)
        else:
            yield os.path.join(folders[path.parent], path.name)


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def _contains(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)


def _own_files(place: Path, forbidden: Sequence[str]) -> list[Path]:
    """The files of a class, without those reached by links into or around the ``forbidden`` folders."""
    root, others = forbidden[0], forbidden[1:]
    is_own: dict[Path, bool] = {place: True}

    def own(parent: Path) -> bool:
        if parent not in is_own:
            real = os.path.realpath(parent) if parent.is_symlink() else None
            strays = real is not None and (_contains(real, root) or any(_contains(o, real) for o in others))
            is_own[parent] = not strays and own(parent.parent)
        return is_own[parent]

    return [path for path in walk_files(place) if own(path.parent)]


def read_csv(path: str | Path, folder: str | Path, classes: Sequence[str] | None = None) -> Samples:
    """A CSV list of images and the names of their classes.

    Args:
        path: a UTF-8 file, commas between the values, whose first line names its columns: ``file`` and
            ``label`` in any order, others are not read.
        folder: what relative paths of files are relative to.
        classes: their order; None: the labels of the list, sorted, by value if all are integers ("01" before
            "1").

    Raises:
        UserError: the file is missing, not of that form, empty, has a label that is not a class, or gives
            one image two labels.
    """
    path = Path(path)
    order = None if classes is None else class_names(classes, "classes")
    pairs = _csv_pairs(path)
    if order is None:
        labels = {label for _, _, label in pairs}
        numbered = all(label.isdecimal() and len(label) <= _LONGEST_NUMBER for label in labels)
        in_order = sorted(sorted(labels), key=int) if numbered else sorted(labels)
        order = class_names(in_order, f"{path}, the column label")
    index = {name: label for label, name in enumerate(order)}
    for number, _, label in pairs:
        if label not in index:
            hint = "; labels are names, not indices" if label.isdecimal() else ""
            raise UserError(f"{path}, line {number}: {label!r} is not a class: {_known(index)}{hint}")
    images = tuple(Path(folder, file) for _, file, _ in pairs)
    _require_one_label(path, images, pairs)
    return Samples(str(path), tuple(index), images, tuple(index[label] for _, _, label in pairs))


def _require_one_label(path: Path, images: Sequence[Path], pairs: Sequence[tuple[int, str, str]]) -> None:
    """An image may be listed twice under one label, in whatever form its path is written, also by links."""
    first: dict[str, tuple[int, str, str]] = {}
    for real, (number, file, label) in zip(_real_paths(images), pairs, strict=True):
        number_before, file_before, label_before = first.setdefault(real, (number, file, label))
        if label != label_before:
            raise UserError(
                f"{path}: line {number_before} labels {file_before} {label_before!r}, line {number} labels "
                f"{file} {label!r}, the same image: keep one of the two lines"
            )


def csv_text(samples: Samples, folder: Path) -> str:
    """The text of a list, which ``read_csv`` reads back.

    Args:
        samples: images that are files.
        folder: what the paths in the list are relative to.

    Raises:
        UserError: a list cannot hold a name.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for image, label in zip(samples.images, samples.labels, strict=True):
        values = [Path(image).relative_to(folder).as_posix(), samples.classes[label]]
        for value in values:
            read = value.encode("utf-8", "replace").decode().strip().replace("\\", "/")
            if read != value or {"\n", "\r"} & {*value}:
                raise UserError(f"the name {value!r} cannot stand in a list of images: rename it")
        writer.writerow(values)
    return stream.getvalue()


def _quoted(name: str) -> str:
    return name if name.isprintable() and len(name) < 100 else ascii(name[:100])


def _csv_pairs(path: Path) -> list[tuple[int, str, str]]:
    """(line, file, label) of each row of a list."""
    try:
        stream = io.StringIO(read_bytes(path).decode("utf-8-sig"), newline="")
        reader = csv.DictReader(stream, skipinitialspace=True)
        header = reader.fieldnames or []
        reader.fieldnames = [name.strip() for name in header]
        rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise UserError(f"no CSV list {path}: give the data with --data-root") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV ({error}); save it as UTF-8 text") from None
    if not header:
        raise UserError(f"{path} lists no image; expected the columns file and label")
    names = [name.strip() for name in header]
    if any(names.count(name) != 1 for name in _COLUMNS):
        separator = next((mark for mark in (";", "\t", "|") if mark in "".join(header)), None)
        cure = f"; separate its values by commas, not by {separator!r}" if separator else ""
        raise UserError(
            f"{path}, line 1: the columns are {', '.join(map(_quoted, names))}, expected file and label "
            f"once each{cure}"
        )
    if not rows:
        raise UserError(f"{path} lists no image; it has a line of column names only")
    pairs = []
    for number, row in rows:
        file, label = ((row[column] or "").strip() for column in _COLUMNS)
        if not file or not label:
            raise UserError(f"{path}, line {number}: expected a value in the columns file and label")
        if None in row:
            raise UserError(
                f"{path}, line {number}: more values than columns; a value that contains a comma needs quotes"
            )
        pairs.append((number, file.replace("\\", "/"), label))
    return pairs


def read_torchvision(
    name: str, root: str | Path, classes: Sequence[str] | None = None, **options: Any
) -> Samples:
    """One of torchvision's classification data sets.

    Args:
        name: its class in ``torchvision.datasets``, such as "CIFAR10".
        root: where its files are.
        classes: the names in the order that labels shall have; None: the data set's own order.
        options: its further arguments, such as ``train=True``, ``split="train"``, ``download=True``.

    Raises:
        UserError: no such data set, its files are missing, it has no list of labels, or other
            classes than those given.
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
        raise UserError(f"torchvision's {name} has no list of labels, which classification needs")
    known = getattr(dataset, "classes", None) or range(max(labels) + 1)
    # a tuple holds synonyms
    names = tuple(", ".join(entry) if isinstance(entry, tuple) else str(entry) for entry in known)
    samples = Samples(f"{name} in {root}", names, tuple(range(len(labels))), labels, dataset)
    return samples if classes is None else _reordered(samples, class_names(classes, "classes"))


def _reordered(samples: Samples, classes: tuple[str, ...]) -> Samples:
    index = {name: label for label, name in enumerate(classes)}
    missing = [name for name in samples.classes if name not in index]
    if missing:
        raise UserError(f"{samples.where} has the class {missing[0]!r}, which is not listed: {_known(index)}")
    labels = tuple(index[samples.classes[label]] for label in samples.labels)
    return replace(samples, classes=classes, labels=labels)


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


def _known(classes: Mapping[str, int]) -> str:
    names = list(classes)
    more = f", … ({len(names)} classes)" if len(names) > 5 else ""
    return f"known are {', '.join(names[:5])}{more}"
