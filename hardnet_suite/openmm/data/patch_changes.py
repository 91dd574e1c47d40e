"""Random changes of patches for the training of a descriptor: their geometry and their grey levels.

All functions take a batch of patches and uniform random numbers of each, (N, K) in [0, 1), so that a patch
changes in the same way in any batch. Patches are (N, S, S) uint8, grey.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import cv2
import numpy as np

from hardnet_suite.data.options import require_known
from hardnet_suite.errors import UserError
from hardnet_suite.numeric import is_number

JITTER_NUMBERS = 5  # random numbers that ``jitter`` takes per patch
PHOTOMETRIC_NUMBERS = 19


@dataclass(frozen=True)
class Jitter:
    """A rotation about the centre, then a crop, independent for the two patches of a pair.

    The defaults are those of the original program: torchvision's ``RandomRotation(5)`` and
    ``RandomResizedCrop(scale=(0.9, 1.0), ratio=(0.9, 1.1))``.

    Attributes:
        rotation: Largest angle in degrees, in either direction.
        scale: Least and largest area of the crop, as shares of the patch.
        ratio: Least and largest width / height of the crop.
    """

    rotation: float = 5.0
    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (0.9, 1.1)

    def __post_init__(self) -> None:
        if not (is_number(self.rotation) and 0 <= self.rotation <= 180):
            raise UserError(f"jitter.rotation is {self.rotation!r}, expected degrees from 0 to 180")
        for name, most in (("scale", 1.0), ("ratio", 10.0)):
            pair = getattr(self, name)
            is_pair = isinstance(pair, tuple | list) and len(pair) == 2 and all(map(is_number, pair))
            if not is_pair or not 0 < pair[0] <= pair[1] <= most:
                raise UserError(
                    f"jitter.{name} is {pair!r}, expected two numbers, the least and the largest, above 0 "
                    f"and at most {most:g}"
                )


@dataclass(frozen=True)
class Photometric:
    """Changes of the grey levels, independent for the two patches of a pair, in this order.

    Attributes:
        shadow: Probability of a soft-edged half plane that is darkened to 30…80 %.
        gamma: Probability of a gamma of 1/2…2, log-uniform.
        contrast: Probability of a contrast of 0.4…2 and a brightness of ±64 grey levels, clipped.
        blur: Probability of a Gaussian blur with a standard deviation of 0.5…2.5 pixels, or, in one of three
            cases, a motion blur over 3…9 pixels.
        noise: Probability of Gaussian noise with a standard deviation of 2…16 grey levels.
        jpeg: Probability of a JPEG compression with a quality of 15…80.
    """

    shadow: float = 0.0
    gamma: float = 0.0
    contrast: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if not (is_number(value) and 0 <= value <= 1):
                raise UserError(f"photometric.{name} is {value!r}, expected a probability, 0 to 1")


@dataclass(frozen=True)
class PatchChanges:
    """What a data set changes in its patches.

    Attributes:
        flips: Whether pairs are flipped and rotated by multiples of 90°, each of the eight ways being equally
            probable and the same for both patches.
        jitter: None: patches are taken whole.
        photometric: None: grey levels stay.
    """

    flips: bool = True
    jitter: Jitter | None = field(default_factory=Jitter)
    photometric: Photometric | None = None

    @classmethod
    def of_options(
        cls, flips: bool, jitter: bool | Mapping | None, photometric: Mapping | None
    ) -> PatchChanges:
        """From a config's options; True and None for ``jitter`` are the defaults and nothing.

        Raises:
            UserError: an unknown name, or a value out of range.
        """
        if not isinstance(flips, bool):
            raise UserError(f"flips is {flips!r}, expected True or False")
        if isinstance(jitter, bool) or jitter is None:
            jitter = {} if jitter else None
        made = {}
        for name, kind, given in (("jitter", Jitter, jitter), ("photometric", Photometric, photometric)):
            if given is None:
                made[name] = None
                continue
            if not isinstance(given, Mapping):
                raise UserError(f"{name} is {given!r}, expected a dict of options")
            require_known(given, {f.name for f in fields(kind)}, name)
            made[name] = kind(**given)
        return cls(flips, **made)


def jittered(patches: np.ndarray, options: Jitter, random: np.ndarray) -> np.ndarray:
    """Rotates and crops patches, bilinearly; beyond the border the nearest pixel is repeated.

    Args:
        patches: (N, S, S) uint8.
        options: The ranges.
        random: (N, 5) in [0, 1).

    Returns:
        (N, S, S) uint8.
    """
    side = patches.shape[-1]
    angle = np.radians(options.rotation) * (2 * random[:, 0] - 1)
    area = options.scale[0] + (options.scale[1] - options.scale[0]) * random[:, 1]
    low, high = np.log(options.ratio)
    ratio = np.exp(low + (high - low) * random[:, 2])
    size = np.minimum(np.sqrt(area[:, None] * np.stack([ratio, 1 / ratio], 1)), 1)  # (N, 2): width, height
    # from the output to the input, both in units of half a side, from the centre
    offset = (1 - size) * (2 * random[:, 3:5] - 1)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)], 1)  # (N, 2, 2)
    centre = (side - 1) / 2
    linear = rotation * size[:, None, :]
    shift = (rotation @ offset[..., None])[..., 0] * (side / 2) + centre - linear.sum(2) * centre
    matrices = np.concatenate([linear, shift[..., None]], 2)
    out = np.empty_like(patches)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for patch, matrix, target in zip(patches, matrices, out, strict=True):
        cv2.warpAffine(patch, matrix, (side, side), target, flags, cv2.BORDER_REPLICATE)
    return out


def flipped(patches: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """Flips and rotates by multiples of 90°.

    Args:
        patches: (N, …, S, S).
        ways: (N,) integers 0…7: bit 0 transposes, then bit 1 flips left to right, bit 2 top to bottom.

    Returns:
        An array of the same shape.
    """
    out = np.empty_like(patches)
    for way in range(8):
        chosen = ways == way
        some = patches[chosen]
        some = some.swapaxes(-1, -2) if way & 1 else some
        some = some[..., ::-1] if way & 2 else some
        out[chosen] = some[..., ::-1, :] if way & 4 else some
    return out


def change_grey_levels(patches: np.ndarray, options: Photometric, random: np.ndarray) -> np.ndarray:
    """Applies each change to the patches that it is drawn for.

    Args:
        patches: (N, S, S) uint8.
        options: The probabilities.
        random: (N, 19) in [0, 1).

    Returns:
        (N, S, S) uint8, a new array.
    """
    out = patches.copy()
    drawn = {name: random[:, k] < getattr(options, name) for k, name in enumerate(_CHANGES)}
    for name, (change, first, count) in _CHANGES.items():
        index = np.flatnonzero(drawn[name])
        if len(index):
            out[index] = change(out[index], random[index, first : first + count])
    return out


def _shadow(patches: np.ndarray, random: np.ndarray) -> np.ndarray:
    side = patches.shape[-1]
    angle, place = 2 * np.pi * random[:, 0], side * (random[:, 1] - 0.5)
    soft, dark = 0.5 + 0.15 * side * random[:, 2], 0.3 + 0.5 * random[:, 3]
    line = (np.arange(side, dtype=np.float32) - (side - 1) / 2)[None]
    along_x, along_y = (line * part[:, None].astype(np.float32) for part in (np.cos(angle), np.sin(angle)))
    distance = along_x[:, None, :] + (along_y - place[:, None].astype(np.float32))[:, :, None]
    share = np.clip(0.5 + distance / (2 * soft[:, None, None].astype(np.float32)), 0, 1)
    factor = 1 - (1 - dark[:, None, None].astype(np.float32)) * share
    return (patches * factor + 0.5).astype(np.uint8)


def _gamma(patches: np.ndarray, random: np.ndarray) -> np.ndarray:
    exponents = 2.0 ** (2 * random[:, 0] - 1)
    return _through_tables(patches, 255 * (np.arange(256) / 255) ** exponents[:, None])


def _contrast(patches: np.ndarray, random: np.ndarray) -> np.ndarray:
    factor, shift = 0.4 * 5 ** random[:, :1], 128 * (random[:, 1:2] - 0.5)
    return _through_tables(patches, (np.arange(256) - 127.5) * factor + 127.5 + shift)


def _through_tables(patches: np.ndarray, tables: np.ndarray) -> np.ndarray:
    tables = np.clip(np.rint(tables), 0, 255).astype(np.uint8)
    return np.stack([cv2.LUT(patch, table) for patch, table in zip(patches, tables, strict=True)])


def _blur(patches: np.ndarray, random: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            _motion(patch, 3 + 6 * strength, 180 * direction)
            if kind < 1 / 3
            else cv2.GaussianBlur(patch, (0, 0), 0.5 + 2 * strength)
            for patch, (kind, strength, direction) in zip(patches, random, strict=True)
        ]
    )


def _motion(patch: np.ndarray, length: float, degrees: float) -> np.ndarray:
    """Mean over a line of that length; its ends are weighted by the part of a pixel that it covers."""
    half = int(length / 2) + 1
    steps = np.linspace(-length / 2, length / 2, 4 * half + 1)
    kernel = np.zeros((2 * half + 3, 2 * half + 3), np.float32)
    angle = math.radians(degrees)
    x, y = math.cos(angle) * steps + half + 1, math.sin(angle) * steps + half + 1
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for row, column, weight in (
        (top, left, (1 - y + top) * (1 - x + left)),
        (top, left + 1, (1 - y + top) * (x - left)),
        (top + 1, left, (y - top) * (1 - x + left)),
        (top + 1, left + 1, (y - top) * (x - left)),
    ):
        np.add.at(kernel, (row, column), weight.astype(np.float32))
    return cv2.filter2D(patch, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _noise(patches: np.ndarray, random: np.ndarray) -> np.ndarray:
    pixels = patches[0].size
    deviations = (2 + 14 * random[:, :1]).astype(np.float32)
    starts = (random[:, 1] * (len(_NORMAL) - pixels)).astype(np.int64)
    noise = np.stack([_NORMAL[start : start + pixels] for start in starts]) * deviations
    return np.clip(np.rint(patches + noise.reshape(patches.shape)), 0, 255).astype(np.uint8)


_NORMAL = np.random.default_rng(0).standard_normal(1 << 20, np.float32)  # noise is a run of it


def _jpeg(patches: np.ndarray, random: np.ndarray) -> np.ndarray:
    out = np.empty_like(patches)
    for patch, quality, target in zip(patches, 15 + 65 * random[:, 0], out, strict=True):
        _, content = cv2.imencode(".jpg", patch, (cv2.IMWRITE_JPEG_QUALITY, int(quality)))
        target[...] = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    return out


# name -> the change, and which of the random numbers it takes: the first, and how many
_CHANGES = {
    "shadow": (_shadow, 6, 4),
    "gamma": (_gamma, 10, 1),
    "contrast": (_contrast, 11, 2),
    "blur": (_blur, 13, 3),
    "noise": (_noise, 16, 2),
    "jpeg": (_jpeg, 18, 1),
}
