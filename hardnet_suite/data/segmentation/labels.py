"""Label sets: the classes of a segmentation data set and what the values of its label images mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.images import IMAGE_SUFFIXES
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError

IGNORE = 255  # the train label of pixels that do not count, and in a prediction: no class
ONE_CLASS_AND_IGNORED = {0: 1, 1: 0, IGNORE: IGNORE}  # stored value -> train label, for one class


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set, how its label images store them, and how its files are named.

    Label images hold *stored values*, everything else works on *train labels*: the index of a class, or
    ``IGNORE``. In a set of one class, train label 1 (``background``) is a pixel that counts and is not of
    the class; predictions mark such pixels with ``IGNORE``.

    Attributes:
        name: what messages call the set.
        classes: their names, in the order of the train labels.
        palette: one RGB color (0–255) per class.
        stored: explicit meanings of stored values, value -> train label; ``values`` completes them.
        categories: category -> its classes.
        image_endings: how the file names of images end.
        label_endings: how those of label images end, best first: NAME + an image ending belongs to NAME + the
            first label ending for which there is a file.
        mask_threshold: for one class whose label images are grey masks of 0 to 255, perhaps with the soft
            edges of lossy files: values from this one on are the class, lower ones the background. None:
            values have exact meanings.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    stored: dict[int, int] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    image_endings: tuple[str, ...] = IMAGE_SUFFIXES
    label_endings: tuple[str, ...] = (".png",)
    mask_threshold: int | None = None

    @property
    def background(self) -> int | None:
        """The train label of pixels that count and are of no class; None except in a set of one class."""
        return background_label(len(self.classes))

    @property
    def values(self) -> dict[int, int]:
        """Every value that a label image may hold -> its train label; other values are errors.

        What ``stored`` says comes first. Then a class that ``stored`` does not name is stored as its index,
        and 255 is ignored. In a set of one class, 1 is the class and 0 the background, as in a mask; 255 is
        ignored only where ``stored`` names the class, because in a mask of 0 and 255 it would be the class.
        Without any class, every value stands for itself.
        """
        if not self.classes:
            return {value: value for value in range(256)}
        if self.mask_threshold is not None:
            return {value: int(value < self.mask_threshold) for value in range(256)}
        if self.background is not None:
            return self._values_of_one_class(self.background)
        unnamed = {*range(len(self.classes))} - {*self.stored.values()}
        return {IGNORE: IGNORE} | {label: label for label in unnamed} | self.stored

    def _values_of_one_class(self, background: int) -> dict[int, int]:
        values = {0: background} if 0 in self.stored.values() else {0: background, 1: 0}
        if 0 in self.stored.values() or IGNORE in self.stored:
            values[IGNORE] = IGNORE
        values |= self.stored
        if background not in values.values():
            # nothing to tell the class from: "ignored" values are what is not of the class
            values |= {value: background for value, label in self.stored.items() if label == IGNORE}
        return values

    def hide_background(self, labels: np.ndarray) -> np.ndarray:
        """Train labels with ``background`` replaced by ``IGNORE``: classes alone, as predictions are."""
        return labels if self.background is None else np.where(labels == self.background, IGNORE, labels)

    def show_background(self, labels: np.ndarray) -> np.ndarray:
        """Predicted labels with ``IGNORE`` replaced by ``background``, where the set has one."""
        return labels if self.background is None else np.where(labels == IGNORE, self.background, labels)


def background_label(num_classes: int) -> int | None:
    """The train label of "not of the class" where there is one class; None for more."""
    return 1 if num_classes == 1 else None


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
    *,
    reduce_zero_label: bool = False,
    ignore_index: int = IGNORE,
    mask_threshold: int | None = None,
) -> LabelSet:
    """The label set of a custom data set.

    Args:
        classes: their names, in the order of the train labels.
        palette: one RGB color (0–255) per class.
        stored: value in a label image -> train label: the index of a class, ``IGNORE``, or, where there is
            one class, 1 for pixels that are not of it. See ``LabelSet.values`` for values it does not name.
        name: what messages call the set.
        reduce_zero_label: the files hold 0 for ignored pixels and 1 … C for the classes, as mmseg's option.
        ignore_index: a further label of ignored pixels, after ``reduce_zero_label``.
        mask_threshold: for one class with grey masks, the least value of the class; see ``LabelSet``.

    Raises:
        UserError: no class, more than 255, duplicate names, a palette of another length or with values that
            are no colors, or options that are out of range or contradict each other.
    """
    classes = class_names(classes, f"{name}: classes") if classes else ()
    if not 0 < len(classes) <= IGNORE:
        raise UserError(f"{name} has {len(classes)} classes, expected 1 to {IGNORE}")
    if mask_threshold is not None:
        if len(classes) != 1 or stored or reduce_zero_label or ignore_index != IGNORE:
            raise UserError(
                f"{name} has mask_threshold={mask_threshold!r}, which is for one class, without stored, "
                "reduce_zero_label and ignore_index"
            )
        if not _is_byte(mask_threshold) or mask_threshold == 0:
            raise UserError(f"{name} has mask_threshold={mask_threshold!r}, expected an integer of 1 to 255")
        checked = _checked_palette(palette, 1, name)
        return LabelSet(name, classes, checked, mask_threshold=mask_threshold, label_endings=IMAGE_SUFFIXES)
    stored = _stored_values(stored, len(classes), name)
    if reduce_zero_label:
        if stored:
            raise UserError(f"{name} has both reduce_zero_label and stored, which exclude each other")
        stored = {0: IGNORE} | {label + 1: label for label in range(min(len(classes), IGNORE - 1))}
    if ignore_index != IGNORE:
        value = ignore_index + bool(reduce_zero_label) if _is_byte(ignore_index) else -1
        if not _is_byte(value):
            raise UserError(f"{name} has ignore_index={ignore_index!r}, expected an integer from 0 to 255")
        if stored.get(value, IGNORE) != IGNORE and not reduce_zero_label:
            raise UserError(
                f"{name} has ignore_index={value}, but stored={{{value}: {stored[value]}}} gives it a class"
            )
        stored[value] = IGNORE
    labels = LabelSet(name, classes, _checked_palette(palette, len(classes), name), stored)
    if labels.background is not None and labels.background not in labels.values.values():
        raise UserError(
            f"{name} has one class and stored={stored} leaves no value for pixels that are not of it; "
            f"map one to {labels.background}, e.g. stored={{0: 1, 255: 0}} for a mask of 0 and 255"
        )
    return labels


def _is_byte(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= value <= 255


def _stored_values(stored: Mapping[int, int] | None, count: int, name: str) -> dict[int, int]:
    if stored is None:
        return {}
    if not isinstance(stored, Mapping):
        raise UserError(f"{name} has stored={stored!r}, expected a dict, value in the label images: class")
    known = {*range(count), IGNORE} | ({1} if count == 1 else set())
    for value, label in stored.items():
        if not (_is_byte(value) and _is_byte(label) and label in known):
            no_class = "1 (not of the class) " if count == 1 else ""
            raise UserError(
                f"{name} has stored={{{value!r}: {label!r}}}, expected a value of 0 to 255 in the label "
                f"images, and for it a class of 0 to {count - 1}, {no_class}or {IGNORE} (ignored)"
            )
    return {int(value): int(label) for value, label in stored.items()}


def _checked_palette(palette: object, count: int, name: str) -> tuple[tuple[int, int, int], ...]:
    if not isinstance(palette, list | tuple):
        raise UserError(f"{name} has palette={palette!r}, expected a list of {count} RGB colors")
    if len(palette) != count:
        raise UserError(
            f"{name} has {counted(count, 'class')}, but {counted(len(palette), 'color')} in its palette"
        )
    for color in palette:
        if not isinstance(color, list | tuple) or len(color) != 3 or not all(map(_is_byte, color)):
            raise UserError(
                f"{name} has the color {color!r} in its palette, expected three integers from 0 to 255"
            )
    return tuple(tuple(int(value) for value in color) for color in palette)


def without_ending(name: str, ending: str) -> str | None:
    """A file name without its ending, which may be in any case; None where it ends otherwise."""
    return name[: -len(ending)] if name.lower().endswith(ending.lower()) else None


def labels_of(path: str | Path, labels: LabelSet) -> LabelSet:
    """The set to read a label image with: in Cityscapes, the file name tells which values it holds."""
    ids = labels.name == "cityscapes" and without_ending(Path(path).name, "_labelIds.png") is not None
    return LABEL_SETS["cityscapes_ids"] if ids else labels


def predicted_as(labels: LabelSet) -> LabelSet:
    """How predictions are stored: each class as its index; void keeps its own value, such as CamVid's 11.

    Where there is one class: 0 is the class and 255 is not.
    """
    count = len(labels.classes)
    if labels.background is not None:
        stored = {0: 0, IGNORE: labels.background}
        return replace(labels, stored=stored, mask_threshold=None, label_endings=(".png",))
    void = {value: IGNORE for value, label in labels.stored.items() if label == IGNORE and value >= count}
    return replace(labels, stored=void, label_endings=(".png",))
