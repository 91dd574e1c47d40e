"""Strips of patches as HPatches has them: one PNG file per image and difficulty, patches one below another.

A sequence is a folder of ``ref.png`` (of the first image) and, for the images 2, 3, … of the sequence,
``e1.png``, ``e2.png``, … (easy), ``h1.png``, … (hard) and ``t1.png``, … (tough). Row k of each is the same
point. The published sequences have five images beside the first.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from hardnet_suite.data.files import is_file
from hardnet_suite.data.images import read_grey
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import write_file

LEVELS = {"e": "easy", "h": "hard", "t": "tough"}
STRIPS = ("ref", *(f"{level}{number}" for level in LEVELS for number in range(1, 6)))
SIDE = 65  # pixels of a patch


def read_strip(file: str | Path) -> np.ndarray:
    """The patches of a strip.

    Args:
        file: a grey image; colours and 16 bits are converted as by ``read_grey``.

    Returns:
        (N, w, w) uint8, w the width of the image.

    Raises:
        UserError: no image, or one whose height is not a multiple of its width.
    """
    pixels = read_grey(file)
    height, width = pixels.shape
    if height % width:
        raise UserError(
            f"{file} has {width}×{height} pixels, expected a height that is a multiple of the width: "
            "square patches one below another"
        )
    return pixels.reshape(-1, width, width)


def read_sequence_strips(folder: str | Path) -> dict[str, np.ndarray]:
    """All strips of a sequence.

    Args:
        folder: with ref.png, e1.png, …; other files are ignored.

    Returns:
        Name -> (N, w, w) uint8, in the order of ``STRIPS``, of the same shape.

    Raises:
        UserError: strips that are missing (the numbers of each level must be 1, 2, … and the same for all
            levels), no images, or of different shapes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    numbers = {level: set() for level in LEVELS}
    for path in folder.iterdir():
        if name := re.fullmatch(r"([eht])([1-9]\d{0,3})\.png", path.name):
            numbers[name[1]].add(int(name[2]))
    count = max((number for level in numbers.values() for number in level), default=5)
    names = ["ref", *(f"{level}{number}" for level in LEVELS for number in range(1, count + 1))]
    missing = [name for name in names if not is_file(folder / f"{name}.png")]
    if missing:
        examples = ", ".join(f"{name}.png" for name in missing[:5]) + (", …" if len(missing) > 5 else "")
        raise UserError(f"{folder} lacks {len(missing)} of {len(names)} strips: {examples}")
    strips = {name: read_strip(folder / f"{name}.png") for name in names}
    for name, patches in strips.items():
        if patches.shape != strips["ref"].shape:
            raise UserError(
                f"{folder / name}.png has {_described(patches)}, ref.png has {_described(strips['ref'])}"
            )
    return strips


def write_strips(folder: str | Path, strips: Mapping[str, np.ndarray]) -> None:
    """Writes strips as PNG files.

    Args:
        folder: is created where it is missing.
        strips: name, such as "ref" or "e1" -> (N, w, w) uint8, all of the same shape, N at least 1.

    Raises:
        UserError: one of the files exists.
        ValueError: other names, types or shapes.
    """
    folder = Path(folder)
    for name, patches in strips.items():
        if not re.fullmatch(r"ref|[eht][1-9]\d{0,3}", name):
            raise ValueError(f"expected the name of a strip, such as ref or e1, got {name!r}")
        if patches.ndim != 3 or patches.shape[1] != patches.shape[2] or patches.dtype != np.uint8:
            raise ValueError(f"expected patches (N, w, w) uint8, got {patches.shape} {patches.dtype}")
        if not patches.size:
            raise ValueError(f"expected patches, {name} has none")
        if patches.shape != next(iter(strips.values())).shape:
            raise ValueError("expected strips of the same shape")
        if (folder / f"{name}.png").exists():
            raise UserError(f"{folder / name}.png exists: move it away, or choose another folder")
    for name, patches in strips.items():
        content = io.BytesIO()
        Image.fromarray(patches.reshape(-1, patches.shape[2])).save(content, format="PNG", compress_level=3)
        write_file(folder / f"{name}.png", content.getvalue())


def has_strips(folder: str | Path) -> bool:
    """Whether a folder is a sequence of strips, whole or damaged."""
    return any(is_file(Path(folder) / f"{name}.png") for name in ("ref", *(f"{level}1" for level in LEVELS)))


def strip_folders(folder: str | Path) -> list[Path]:
    """The sequences of strips in a folder, sorted by name; the folder itself, if it is one.

    Raises:
        UserError: there is no such folder, or it has strips of its own beside sequences.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    sequences = sorted(path for path in folder.iterdir() if path.is_dir() and has_strips(path))
    if not has_strips(folder):
        return sequences
    if sequences:
        raise UserError(
            f"{folder} has strips of its own and sequences with some, such as {sequences[0].name}: leave one "
            "or the other"
        )
    return [folder]


def _described(patches: np.ndarray) -> str:
    return f"{counted(len(patches), 'patch')} of {patches.shape[2]}×{patches.shape[1]} pixels"
