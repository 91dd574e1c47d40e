"""Sequences of images of a plane with the homographies between them (HPatches' and Oxford's layouts)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardnet_suite.data.files import read_text
from hardnet_suite.data.images import IMAGE_SUFFIXES
from hardnet_suite.data.patch_frames import checked_homography
from hardnet_suite.errors import UserError

_HOMOGRAPHY = re.compile(r"H_1_(\d{1,4})(?:\.txt|\.csv)?|H1to(\d{1,4})p(?:\.txt)?", re.IGNORECASE)
_IMAGE = re.compile(r"(?:img)?0*(\d{1,4})", re.IGNORECASE)
_LONGEST = 4096  # bytes of a file with nine numbers


@dataclass(frozen=True, eq=False)
class HomographySequence:
    """Images of a plane, or taken from one place, and how to get from the first to each other one.

    Attributes:
        name: of the folder.
        images: K + 1 paths, the reference first.
        homographies: (K, 3, 3) float64; homographies[k - 1] maps images[0] to images[k], in pixels of the
            upright images (as ``read_grey`` decodes them), whose centres have integer coordinates.
    """

    name: str
    images: list[Path]
    homographies: np.ndarray


def read_sequence(folder: str | Path) -> HomographySequence:
    """A sequence of images with homographies.

    Args:
        folder: with the images 1, 2, … (``1.png``, ``img1.ppm``, any format that is read) and, for each but
            the first, the 3×3 matrix that maps image 1 to it: ``H_1_2`` (HPatches) or ``H1to2p`` (Oxford),
            nine numbers in three rows, separated by spaces or commas. Other files are ignored.

    Raises:
        UserError: no such folder; no homographies; an image without its homography, or the other way round;
            two images of one number; a file that is not a 3×3 matrix of finite numbers, or is not invertible.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    images: dict[int, Path] = {}
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if name := _HOMOGRAPHY.fullmatch(path.name):
            _add(files, int(name[1] or name[2]), path)
        elif path.suffix.lower() in IMAGE_SUFFIXES and (name := _IMAGE.fullmatch(path.stem)):
            _add(images, int(name[1]), path)
    if not files and len(images) < 2:
        raise UserError(f"no homographies in {folder}: expected files H_1_2, … or H1to2p, …")
    if 1 not in images:
        raise UserError(f"{folder} lacks image 1, which the homographies start from (1.png, img1.ppm, …)")
    for number, path in files.items():
        if number not in images:
            raise UserError(f"{folder} has {path.name}, but no image {number}")
    for number, path in images.items():
        if number not in files and number != 1:
            raise UserError(f"{folder} has {path.name}, but no homography H_1_{number}")
    numbers = sorted(number for number in files if number != 1)
    if not numbers:
        raise UserError(f"{folder} has no image but the first")
    return HomographySequence(
        folder.resolve().name,
        [images[1], *(images[number] for number in numbers)],
        np.stack([_read_matrix(files[number]) for number in numbers]),
    )


def read_sequences(root: str | Path) -> list[HomographySequence]:
    """The sequences of a folder: itself, or those of its subfolders, sorted by name.

    A folder that holds homographies, or image 1 and others, is read as a sequence; other subfolders are
    ignored.

    Raises:
        UserError: there are none, or as ``read_sequence``.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"no folder {root}")
    if _is_sequence(root):
        return [read_sequence(root)]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and _is_sequence(path))
    if not folders:
        raise UserError(
            f"no sequences in {root}: expected folders of 1.png, 2.png, …, H_1_2, … (or H1to2p, …)"
        )
    return [read_sequence(folder) for folder in folders]


def _is_sequence(folder: Path) -> bool:
    """Whether a folder is a sequence, whole or damaged."""
    numbers = set()
    for path in folder.iterdir():
        if _HOMOGRAPHY.fullmatch(path.name):
            return True
        if path.suffix.lower() in IMAGE_SUFFIXES and (name := _IMAGE.fullmatch(path.stem)):
            numbers.add(int(name[1]))
    return 1 in numbers and len(numbers) > 1


def _add(numbered: dict[int, Path], number: int, path: Path) -> None:
    if number in numbered:
        raise UserError(f"{path.parent} has {numbered[number].name} and {path.name}: remove one of them")
    numbered[number] = path


def _read_matrix(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size > _LONGEST:
            raise UserError(f"{path} is not a homography: expected nine numbers in three rows")
        text = read_text(path)
        rows = [[float(word) for word in line.replace(",", " ").split()] for line in text.splitlines()]
    except UserError:
        raise
    except ValueError:  # also of text that is not UTF-8
        raise UserError(f"{path} is not a homography: expected nine numbers in three rows") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    rows = [row for row in rows if row]
    if [len(row) for row in rows] != [3, 3, 3]:
        raise UserError(f"{path} is not a homography: expected nine numbers in three rows")
    try:
        return checked_homography(np.array(rows))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
