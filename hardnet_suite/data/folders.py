"""What a data folder holds, told from its layout: boxes, label images or folders of classes."""

from __future__ import annotations

import itertools
import random
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from hardnet_suite.data.boxes import beside_splits, images_beside, split_name, told_left_out
from hardnet_suite.data.classes import read_class_names
from hardnet_suite.data.conversion.convert import detect_format
from hardnet_suite.data.files import is_file
from hardnet_suite.data.images import IMAGE_SUFFIXES, walk_files
from hardnet_suite.data.report import counted
from hardnet_suite.data.segmentation.label_images import read_stored
from hardnet_suite.data.segmentation.labels import IGNORE, LABEL_SETS, ONE_CLASS_AND_IGNORED, LabelSet
from hardnet_suite.data.segmentation.pairs import find_pairs, require_pairs
from hardnet_suite.errors import UserError

_IMAGES = ("images", "imgs", "image", "JPEGImages")
_LABELS = ("labels", "masks", "annotations", "SegmentationClass", "label", "mask", "annots")
_NAMES = tuple(itertools.product(_IMAGES, _LABELS))
_NAME_FILES = ("classes.txt", "labels.txt", "names.txt")
_MOST_SCANNED = 2000  # label images of which the values are read where no file names the classes
_LEFT_OUT = "images left out: {}; train, val and test are used"
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
    """Folders of classes.

    Attributes:
        root: the folder.
        splits: name -> folder relative to ``root``, "." where there are no splits.
        notes: what is left out.
    """

    root: Path
    splits: Mapping[str, str]
    notes: tuple[str, ...] = ()


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
    if folder.is_dir() and _has_pairs(folder):
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
        beside = beside_splits(folder, ["."], splits.values(), depth=1)
        notes = (_LEFT_OUT.format(beside),) if beside else ()
        return ClassFolder(folder, splits, notes)
    return ClassFolder(folder, {"train": "."}) if _has_images_in_folders(folder) else None


def find_segmentation(folder: Path) -> SegmentationFolder | None:
    """The images and label images of a folder; None for another layout.

    The layouts are Cityscapes', CamVid's (train/, trainannot/), and folders of images and label images:
    images/train and labels/train, train/images and train/labels, or images and labels alone, where labels
    may be called masks, annotations or SegmentationClass. Classes are the lines of classes.txt; without it
    they are the values in the label images, told in ``notes``.

    Raises:
        UserError: label images that cannot be read, that go by several endings, or whose values are no
            indices of classes; an unusable classes.txt; two folders of one split; a validation split without
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
        classes = LABEL_SETS["cityscapes"].classes
        return SegmentationFolder(folder, places, "cityscapes", classes, notes=(*_left_out(folder, places),))
    suffix = _label_suffix(folder, places)
    left_out = _left_out(folder, places)
    lists = {}
    for split in ("train", "val", "test"):
        file = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        if list(places) == ["train"] and file.is_file():
            lists[split] = file
    if lists:
        places = dict.fromkeys(lists, places["train"])
        left_out += _unlisted(folder, places["train"][0], lists)
    files = _label_files(folder, places, suffix, lists)
    found = partial(SegmentationFolder, folder, places, label_suffix=suffix, lists=lists)
    names = next((folder / name for name in _NAME_FILES if is_file(folder / name)), None)
    if names:
        classes = read_class_names(names)
        stored = _stored_of_one_class({*np.flatnonzero(_values(files)).tolist()}) if len(classes) == 1 else {}
        return found(None, classes, stored, notes=(*left_out,))
    counts = _values(files)
    values = {*np.flatnonzero(counts).tolist()}
    if _is_camvid(places, values):
        note = f"{folder.name} has CamVid's layout: its 11 classes, 11 is void"
        return found("camvid", LABEL_SETS["camvid"].classes, notes=(note, *left_out))
    if values <= {0, 1} or values == {0, IGNORE}:
        note = "the label images hold two values: one class, object, and background (classes.txt names it)"
        stored = {IGNORE: 0} if IGNORE in values else {}
        return found(None, ("object",), stored, notes=(note, *left_out))
    if values == {IGNORE}:
        raise UserError(
            f"{folder}: the label images hold {IGNORE} alone, which may be a class or ignored: map it in a "
            f"config, with stored={{0: 1, {IGNORE}: 0}} where it is the one class"
        )
    _require_indices(folder, counts)
    count = max(values - {IGNORE}) + 1
    classes = tuple(f"class_{index}" for index in range(count))
    note = f"no classes.txt: {count} classes by the values in the label images, 255 is ignored"
    if absent := sorted({*range(count)} - values):
        note += f"; no pixel has {', '.join(map(str, absent[:8]))}" + (", …" if len(absent) > 8 else "")
    return found(None, classes, notes=(note, *left_out))


def draw_validation(names: Sequence[str], share: float = HELD_OUT) -> set[str]:
    """The names of a validation split; the same for the same names.

    Of two names or more it has at least one and never all, of one or none nothing.
    """
    count = max(0, min(max(1, round(share * len(names))), len(names) - 1))
    return set(random.Random(0).sample(sorted(names), count))


def _children(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir() if path.is_file())


def _has_images_in_folders(folder: Path) -> bool:
    return any(_has_images(child) for child in _children(folder))


@dataclass(frozen=True)
class _Location:
    """Where images and their label images may lie, relative to the folder of the data.

    Attributes:
        split: what the folder's name says; None: nothing.
        images: folder of the images.
        labels: folder of the label images.
    """

    split: str | None
    images: str
    labels: str

    @property
    def pair(self) -> tuple[str, str]:
        return self.images, self.labels

    def is_like(self, pair: tuple[str, str]) -> bool:
        """Whether the place calls images and label images as another pair does."""
        return _folder_names(self.pair) == _folder_names(pair)


def _segmentation_places(folder: Path) -> dict[str, tuple[str, str]]:
    """Split -> (images, label images), relative to a folder.

    Raises:
        UserError: two folders are of one split.
    """
    if pairs := _cityscapes_places(folder):
        return pairs
    parts = _split_places(folder)
    named = [place for place in parts if place.split and _is_pair(folder, *place.pair)]
    found: dict[str | None, _Location] = {}
    for place in named or _whole_pairs(folder):
        _require_one(folder, found.setdefault(place.split, place), place)
    for place in parts if named else ():  # also images of one split without label images
        first = found.get(place.split)
        if first and place.is_like(first.pair) and _image_files(folder / place.images):
            _require_one(folder, first, place)
    return {split: found[split].pair for split in ("train", "val", "test") if split in found}


def _has_pairs(folder: Path) -> bool:
    """Whether a folder has images and label images in a known layout."""
    parts = (place for place in _split_places(folder) if place.split)
    is_split = any(_is_pair(folder, *place.pair) for place in parts)
    return is_split or bool(_whole_pairs(folder) or _cityscapes_places(folder))


def _cityscapes_places(folder: Path) -> dict[str, tuple[str, str]]:
    pairs = {split: (f"leftImg8bit/{split}", f"gtFine/{split}") for split in ("train", "val")}
    has_labels = (folder / "gtFine").is_dir()
    return {split: pair for split, pair in pairs.items() if has_labels and (folder / pair[0]).is_dir()}


def _require_one(folder: Path, place: _Location, other: _Location) -> None:
    """UserError unless two places of one split are the same, under whatever name."""
    for one, two in zip(place.pair, other.pair, strict=True):
        if (folder / one).resolve() != (folder / two).resolve():
            raise UserError(f"{folder} has both {one} and {two}: rename one of them")


def _split_places(folder: Path) -> list[_Location]:
    """Places that have a part of the data: NAME/images and NAME/labels, NAME and NAMEannot, images/NAME and
    labels/NAME."""
    places = []
    for child in _children(folder):
        name, split = child.name, split_name(child.name)
        places.append(_Location(split, name, f"{name}annot"))
        inner = [images for images in _IMAGES if (child / images).is_dir()]
        places += [
            _Location(split, f"{name}/{images}", f"{name}/{labels}") for images in inner for labels in _LABELS
        ]
    for whole in _whole_places(folder):
        for child in _children(folder / whole.images):
            name = child.name
            places.append(_Location(split_name(name), f"{whole.images}/{name}", f"{whole.labels}/{name}"))
    return places


def _whole_places(folder: Path) -> list[_Location]:
    """Places that have all of the data: images and labels."""
    return [
        _Location("train", images, labels)
        for images, labels in _NAMES
        if (folder / images).is_dir() and (folder / labels).is_dir()
    ]


def _whole_pairs(folder: Path) -> list[_Location]:
    return [place for place in _whole_places(folder) if _is_pair(folder, *place.pair)]


def _left_out(folder: Path, places: Mapping[str, tuple[str, str]]) -> list[str]:
    """A line about the images that lie beside those of the splits; none where there are none."""
    pairs = [*places.values()]
    beside = [
        place.images
        for place in (*_split_places(folder), *_whole_places(folder))
        if _is_pair(folder, *place.pair) or (place.split and any(map(place.is_like, pairs)))
    ]
    if (folder / "leftImg8bit").is_dir():  # of Cityscapes' test the label images are empty
        names = [child.name for child in _children(folder / "leftImg8bit") if not split_name(child.name)]
        parts = [(f"leftImg8bit/{name}", f"gtFine/{name}") for name in names]
        beside += [images for images, labels in parts if _is_pair(folder, images, labels)]
    beside += [top for images, _ in pairs if (top := images.split("/")[0]) in _IMAGES]
    told = beside_splits(folder, beside, [images for images, _ in pairs])
    return [_LEFT_OUT.format(told)] if told else []


def _unlisted(folder: Path, images: str, lists: Mapping[str, Path]) -> list[str]:
    """A line about the images that the lists do not name; none where there are none."""
    labels = LabelSet("the data", (), ())
    named = [path for file in lists.values() for path, _ in find_pairs(folder / images, None, labels, file)]
    told = told_left_out(images_beside(named, [folder / images]), f"in {images}, which no list names")
    return [f"{finding.kind}: {finding.what}" for finding in told]


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
    for place in (*_split_places(folder), *_whole_places(folder)):
        if place.split != split or (like is not None and not place.is_like(like)):
            continue
        images, labels = place.pair
        has_place = like is not None or (folder / labels).is_dir() or images.split("/")[0] in _IMAGES
        if has_place and _image_files(folder / images) and not _is_pair(folder, images, labels):
            return images, labels
    return None


def _folder_names(pair: tuple[str, str]) -> list[str]:
    """What a pair calls images and label images, without the split; nothing in CamVid's layout."""
    return [part for path in pair for part in path.split("/") if part in (*_IMAGES, *_LABELS)]


def _image_files(folder: Path) -> list[Path]:
    return walk_files(folder, IMAGE_SUFFIXES) if folder.is_dir() else []


def _is_pair(folder: Path, images: str, labels: str) -> bool:
    """Whether a folder has images and another label images."""
    if not ((folder / images).is_dir() and (folder / labels).is_dir()):
        return False
    return bool(_image_files(folder / images)) and bool(walk_files(folder / labels, (".png",)))


def _label_suffix(folder: Path, places: Mapping[str, tuple[str, str]]) -> str:
    """How the names of label images go on after those of the images: as most of them do.

    Raises:
        UserError: two endings belong to most images, and neither is .png alone.
    """
    fitting: Counter[str] = Counter()
    count = 0
    for images, labels in dict.fromkeys(places.values()):
        names = {file.relative_to(folder / images).with_suffix("") for file in _image_files(folder / images)}
        count += len(names)
        for file in walk_files(folder / labels, (".png",)):
            place, name = file.relative_to(folder / labels).parent, file.name
            ends = [cut for cut, character in enumerate(name) if character in "._-"]
            fitting.update(name[cut:-4] + ".png" for cut in ends if place / name[:cut] in names)
    if 2 * fitting[".png"] > count or not fitting:
        return ".png"
    most = max(fitting.values())
    endings = [ending for ending, number in fitting.items() if 2 * number > most]
    if len(endings) > 1:
        told = " or ".join(f"*{ending} ({counted(fitting[ending], 'image')})" for ending in sorted(endings))
        raise UserError(
            f"{folder}: the label images could be {told}: move those away that hold something else"
        )
    return endings[0]


def _label_files(
    folder: Path, places: Mapping[str, tuple[str, str]], suffix: str, lists: Mapping[str, Path]
) -> list[Path]:
    """The label images of the images of all splits."""
    labels = LabelSet("the data", (), (), label_endings=(suffix,))
    splits = [
        (folder / pair[0], folder / pair[1], labels, lists.get(split)) for split, pair in places.items()
    ]
    files = dict.fromkeys(label for split in splits for _, label in find_pairs(*split) if label is not None)
    if not files:
        require_pairs(*splits[0])  # says what is missing
    return [*files]


def _values(files: Sequence[Path]) -> np.ndarray:
    """How many pixels of label images store each value, (256,); of many files, some are read."""
    step = max(1, len(files) // _MOST_SCANNED)
    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(_count, files[::step]), np.zeros(256, np.int64))


def _count(path: Path) -> np.ndarray:
    return np.bincount(read_stored(path).ravel(), minlength=256)


def _stored_of_one_class(values: set[int]) -> dict[int, int]:
    """What the values in the label images of one class mean: 255 is ignored where 1 is the class."""
    if {1, IGNORE} <= values:
        return ONE_CLASS_AND_IGNORED
    return {IGNORE: 0} if values == {0, IGNORE} else {}


def _require_indices(folder: Path, counts: np.ndarray) -> None:
    """Checks that the values of label images can be the indices of classes that nothing names.

    A few may be missing, as a class may be absent from the data; most of them must occur.

    Raises:
        UserError: they are the grey values of masks, or half of the indices or more are missing.
    """
    values = [value for value in np.flatnonzero(counts).tolist() if value != IGNORE]
    last = values[-1]
    dark, bright = (part.sum() / counts.sum() for part in (counts[:16], counts[240:]))
    if last >= 240 and len(values) > 2 and min(dark, bright) > 0.01 and dark + bright > 0.8:
        raise UserError(
            f"{folder}: the label images hold {len(values)} values from {values[0]} to {last}, as grey masks "
            "with soft edges do: train a config with mask_threshold=128 on them, such as a copy of "
            "hardnet_mseg_polyps; if they are classes, name these in classes.txt, one per line"
        )
    if 2 * len(values) <= last + 1:
        listed = ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")
        stored = {value: label for label, value in enumerate(values[:3])}
        more = ", …" if len(values) > 3 else ""
        raise UserError(
            f"{folder}: the label images hold {listed}, few of the indices 0 to {last}: name the classes in "
            f"classes.txt, one line for each index, or map the values in a config, with "
            f"stored={str(stored)[:-1]}{more}}}"
        )


def _is_camvid(places: Mapping[str, tuple[str, str]], values: set[int]) -> bool:
    return all(labels == f"{images}annot" for images, labels in places.values()) and values <= {*range(12)}
