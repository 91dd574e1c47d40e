"""What a prediction consists of: one record per box, guess or class of a mask."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Guess:
    """A class of an image.

    Attributes:
        label: index of the class.
        name: its name.
        score: its probability, 0 to 1.
    """

    label: int
    name: str
    score: float


@dataclass(frozen=True)
class PredictedBox:
    """A box.

    Attributes:
        label: index of its class.
        name: the name of its class.
        score: 0 to 1.
        xyxy: x1, y1, x2, y2 in pixels of the image.
    """

    label: int
    name: str
    score: float
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True)
class Segment:
    """The pixels of a class.

    Attributes:
        label: index of the class.
        name: its name.
        score: its share of the image, 0 to 1.
        mask: (H, W) bool, its pixels.
    """

    label: int
    name: str
    score: float
    mask: np.ndarray = field(repr=False, compare=False)
