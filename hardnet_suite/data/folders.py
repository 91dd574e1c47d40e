"""What a data folder holds, told from its layout: boxes, label images or folders of classes."""

from __future__ import annotations

import itertools
import random
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hardnet_suite.data.boxes import split_name
from hardnet_suite.data.classes import class_names
from hardnet_suite.data.conversion.convert import detect_format
from hardnet_suite.data.files import is_file, read_text
from hardnet_suite.data.images import IMAGE_SUFFIXES, walk_files
from hardnet_suite.data.segmentation.label_images import read_stored
from hardnet_suite.data.segmentation.labels import IGNORE, LABEL_SETS
from hardnet_suite.errors import UserError

_IMAGES = ("images", "imgs", "image", "JPEGImages")
_LABELS = ("labels", "masks", "annotations", "SegmentationClass", "label", "mask", "annots")
_NAMES = tuple(itertools.product(_IMAGES, _LABELS))
_NAME_FILES = ("classes.txt", "labels.txt", "names.txt")
_MOST_SCANNED = 2000  # label images of which the values are read where no file names the classes
HELD_OUT = 0.2  # of the images, where a data set has no validation split


@dataclass(frozen=True)
class SegmentationFolder:
    """Images and label images.

    Attributes:
        root: the folder.
        splits: name -> (folder of images, folder of label images), relative to ``root``.
        known: name of a known label set; None: custom classes.
        classes: the names, in the order of the train labels.
        stored: stored value -> train label, where it is not the same.
        label_suffix: how the names of label images end.
        lists: split -> file that lists its images; a split without one has all.
        notes: what was assumed.
    """

    root: Path
    splits: Mapping[str, tuple[str, str]]
    known: str | None
    classes: tuple[str, ...]
    stored: Mapping[int, int] = field(default_factory=dict)
    label_suffix: str = ".png"
    lists: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassFolder:
    """Folders of classes: split -> folder relative to ``root``, "." where there are no splits."""

    root: Path
    splits: Mapping[str, str]


def tasks_of(folder: Path) -> list[str]:
    """The tasks whose data a folder has: "detection", "segmentation" or, of neither, "classification".

    Raises:
        UserError: it does not exist, or is of several formats.
    """
    kind = detect_format(folder)
    if kind == "cvat-masks":
        raise UserError(
            f"{folder} has CVAT's colour masks: convert them first, with "
            f"`hardnet-suite convert-dataset {shlex.quote(str(folder))} TARGET`"
        )
    tasks = ["detection"] if kind else []
    if folder.is_dir() and _segmentation_places(folder):
        tasks.append("segmentation")
    # folders of images such as COCO's train2017 are no classes
    return tasks or (["classification"] if folder.is_dir() and find_class_folders(folder) else [])


def find_class_folders(folder: Path) -> ClassFolder | None:
    """FOLDER/train/CLASS/IMAGE and so on, or FOLDER/CLASS/IMAGE; None for another layout."""
    splits: dict[str, str] = {}
    for child in _children(folder):
        split = split_name(child.name)
        if split and _has_images_in_folders(child):
            if split in splits:
                raise UserError(f"{folder} has both {splits[split]} and {child.name}: rename one of them")
            splits[split] = child.name
    if splits:
        return ClassFolder(folder, splits)
    return ClassFolder(folder, {"train": "."}) if _has_images_in_folders(folder) else None


def other_splits(data: SegmentationFolder | ClassFolder) -> list[str]:
    """The names of folders of the same layout beside those of the splits, such as "extra"."""
    place = next(iter(data.splits.values()))
    images, labels = place if isinstance(place, tuple) else (place, place)
    parts = images.split("/")
    own = next(filter(split_name, parts), None)
    if own is None:
        return []
    top = data.root.joinpath(*parts[: parts.index(own)])
    names = [child.name for child in _children(top) if split_name(child.name) is None]
    if isinstance(data, ClassFolder):
        return [name for name in names if _has_images_in_folders(top / name)]

    def of_other(path: str, name: str) -> str:
        return "/".join(
            name + part.removeprefix(own) if part.startswith(own) else part for part in path.split("/")
        )

    return [name for name in names if _is_pair(data.root, of_other(images, name), of_other(labels, name))]


def find_segmentation(folder: Path) -> SegmentationFolder | None:
    """The images and label images of a folder; None for another layout.

    The layouts are Cityscapes', CamVid's (train/, trainannot/), and folders of images and label images:
    images/train and labels/train, train/images and train/labels, or images and labels alone, where labels
    may be called masks, annotations or SegmentationClass. Classes are the lines of classes.txt; without it
    they are the values in the label images, told in ``notes``.

    Raises:
        UserError: label images that cannot be read, an unusable classes.txt, or a validation split without
            label images.
    """
    places = _segmentation_places(folder)
    if not places:
        return None
    if "val" not in places and (pair := _without_labels(folder, "val", next(iter(places.values())))):
        raise UserError(
            f"{folder}: {pair[0]} has images, but {pair[1]} no label images (.png): add them, or move "
            f"{pair[0]} away"
        )
    if "leftImg8bit/train" in {images for images, _ in places.values()}:
        return SegmentationFolder(folder, places, "cityscapes", LABEL_SETS["cityscapes"].classes)
    suffix = _label_suffix(folder, *next(iter(places.values())))
    lists = {}
    for split in ("train", "val", "test"):
        file = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if list(places) == ["train"] and file.is_file():
            lists[split] = file
    if lists:
        places = dict.fromkeys(lists, places["train"])
    names = next((folder / name for name in _NAME_FILES if is_file(folder / name)), None)
    if names:
        try:
            lines = [line.strip() for line in read_text(names).splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{names} cannot be read: {error}; save it as UTF-8 text") from None
        classes = class_names(lines, str(names))
        stored = {255: 0} if len(classes) == 1 and _is_0_255(folder, places, suffix) else {}
        return SegmentationFolder(folder, places, None, classes, stored, suffix, lists)
    values = _values(folder, places, suffix)
    if _is_camvid(folder, places, values):
        note = f"{folder.name} has CamVid's layout: its 11 classes, 11 is void"
        classes = LABEL_SETS["camvid"].classes
        return SegmentationFolder(folder, places, "camvid", classes, {}, suffix, lists, (note,))
    if values <= {0, 1} or values <= {0, 255}:
        note = "the label images hold two values: one class, object, and background (classes.txt names it)"
        stored = {255: 0} if IGNORE in values else {}
        return SegmentationFolder(folder, places, None, ("object",), stored, suffix, lists, (note,))
    count = max(values - {IGNORE}) + 1
    classes = tuple(f"class_{index}" for index in range(count))
    note = f"no classes.txt: {count} classes by the values in the label images, 255 is ignored"
    return SegmentationFolder(folder, places, None, classes, {}, suffix, lists, (note,))


def draw_validation(names: Sequence[str], share: float = HELD_OUT) -> set[str]:
    """The names of a validation split, at least one of them and never all; the same for the same names."""
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return set(random.Random(0).sample(sorted(names), count))


def _children(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir() if path.is_file())


def _has_images_in_folders(folder: Path) -> bool:
    return any(_has_images(child) for child in _children(folder))


def _segmentation_places(folder: Path) -> dict[str, tuple[str, str]]:
    """Split -> (images, label images), relative to a folder."""
    if (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir():
        pairs = {split: (f"leftImg8bit/{split}", f"gtFine/{split}") for split in ("train", "val")}
        return {split: pair for split, pair in pairs.items() if (folder / pair[0]).is_dir()}
    for layout in _layouts(folder):
        places: dict[str, tuple[str, str]] = {}
        for split, *pair in layout:
            if _is_pair(folder, *pair):
                places.setdefault(split, tuple(pair))
        if places:
            return _in_order(places)
    return {}


def _layouts(folder: Path) -> Iterator[list[tuple[str, str, str]]]:
    """Where a folder may have (split, images, label images), one list per layout, in the order of trial."""
    children = [(split, child.name) for child in _children(folder) if (split := split_name(child.name))]
    split_first = []
    for split, child in children:
        split_first.append((split, child, f"{child}annot"))
        split_first += [(split, f"{child}/{images}", f"{child}/{labels}") for images, labels in _NAMES]
    yield split_first
    for images, labels in _NAMES:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            inside = [child.name for child in _children(folder / images)]
            named = [(split, name) for name in inside if (split := split_name(name))]
            yield [(split, f"{images}/{name}", f"{labels}/{name}") for split, name in named]
            yield [("train", images, labels)]


def missing_labels(folder: Path) -> str | None:
    """What a folder lacks that looks like images and label images, in words; None for another."""
    pair = _without_labels(folder, "train") if folder.is_dir() else None
    return pair and f"{pair[0]} has images, but {pair[1]} no label images (.png)"


def _without_labels(folder: Path, split: str, like: tuple[str, str] | None = None) -> tuple[str, str] | None:
    """The first (images, label images) of a split that has images but no label images.

    Args:
        folder: the data.
        split: "train" or "val".
        like: the pair of another split, whose layout it has; None: any layout, with a folder for labels.
    """
    for layout in _layouts(folder):
        for name, images, labels in layout:
            if name != split or (like is not None and _folder_names((images, labels)) != _folder_names(like)):
                continue
            has_place = like is not None or (folder / labels).is_dir() or images.split("/")[0] in _IMAGES
            has_images = (folder / images).is_dir() and walk_files(folder / images, IMAGE_SUFFIXES)
            if has_place and has_images and not _is_pair(folder, images, labels):
                return images, labels
    return None


def _folder_names(pair: tuple[str, str]) -> list[str]:
    """What a pair calls images and label images, without the split; nothing in CamVid's layout."""
    return [part for path in pair for part in path.split("/") if part in (*_IMAGES, *_LABELS)]


def _in_order(places: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {split: places[split] for split in ("train", "val", "test") if split in places}


def _is_pair(folder: Path, images: str, labels: str) -> bool:
    """Whether a folder has images and another label images."""
    if not ((folder / images).is_dir() and (folder / labels).is_dir()):
        return False
    return bool(walk_files(folder / images, IMAGE_SUFFIXES)) and bool(walk_files(folder / labels, (".png",)))


def _label_suffix(folder: Path, images: str, labels: str) -> str:
    """How the names of label images go on after those of the images."""
    image = walk_files(folder / images, IMAGE_SUFFIXES)[0]
    place = (folder / labels / image.relative_to(folder / images)).parent
    if (place / f"{image.stem}.png").is_file() or not place.is_dir():
        return ".png"
    near = [path.name for path in sorted(place.glob("*.png")) if path.name.startswith(image.stem)]
    endings = [name.removeprefix(image.stem) for name in near]
    return next((ending for ending in endings if re.match("[._-]", ending)), ".png")


def _values(folder: Path, places: Mapping[str, tuple[str, str]], suffix: str) -> set[int]:
    """The values that the label images store."""
    files = [
        path
        for labels in dict.fromkeys(labels for _, labels in places.values())
        for path in walk_files(folder / labels, (suffix,))
    ]
    step = max(1, len(files) // _MOST_SCANNED)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda path: set(np.unique(read_stored(path)).tolist()), files[::step])
        return set().union(*found)


def _is_0_255(folder: Path, places: Mapping[str, tuple[str, str]], suffix: str) -> bool:
    return _values(folder, places, suffix) == {0, IGNORE}


def _is_camvid(folder: Path, places: Mapping[str, tuple[str, str]], values: set[int]) -> bool:
    return all(labels == f"{images}annot" for images, labels in places.values()) and values <= {*range(12)}
