"""Label pictures of segmentation data sets: what their values mean, and reading them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from hardnet_suite.errors import UserError

IGNORE = 255  # the train label of pixels that do not count


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set, and how its label pictures store them.

    ``palette``: an RGB colour (0–255) a class. ``stored``: value in a label picture -> train label
    (0 … C − 1, or ``IGNORE``), where the two differ. ``categories``: category -> its classes.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    stored: dict[int, int] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)


# Cityscapes: class -> (id in labelIds pictures, colour), in the order of the train labels
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
)
_TRAIN_LABELS = {number: label for label, (number, _) in enumerate(_CITYSCAPES.values())}

LABEL_SETS: dict[str, LabelSet] = {
    "cityscapes": _CITYSCAPES_SET,  # …_labelTrainIds.png
    "cityscapes_ids": replace(  # …_labelIds.png
        _CITYSCAPES_SET,
        name="cityscapes_ids",
        stored={number: _TRAIN_LABELS.get(number, IGNORE) for number in _CITYSCAPES_IDS},
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


def read_label(path: str | Path, labels: LabelSet) -> np.ndarray:
    """A label picture as (H, W) uint8 train labels and ``IGNORE``.

    UserError for a file that is missing, broken, in colour or of 16 bits, and for a value that is neither a
    class nor known to the set.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.array(image)
    except FileNotFoundError:
        raise UserError(f"no label picture {path}") from None
    except Exception as error:  # PIL raises half a dozen types on broken files
        raise UserError(f"cannot read the label picture {path} ({error}): replace the file") from None
    if mode not in ("L", "P"):
        raise UserError(
            f"the label picture {path} is of mode {mode}; wanted is one channel of 8 bits (mode L or P) with "
            "the number of a class a pixel"
        )
    table = np.full(256, -1, np.int16)
    known = {label: label for label in range(len(labels.classes))} | labels.stored
    table[list(known)] = list(known.values())
    table[IGNORE] = IGNORE
    found = table[values]
    if (found < 0).any():
        unknown = ", ".join(map(str, np.unique(values[found < 0])[:5]))
        raise UserError(f"the label picture {path} holds {unknown}, which {labels.name} has no class for")
    return found.astype(np.uint8)
