"""Descriptors in files, so that they are computed once and scored without the model.

A file is what ``hardnet-suite describe`` writes (an ``.npz`` archive whose ``descriptors`` are (N, D)), or
text as the HPatches benchmark and the original HardNet write it: a line of numbers per patch, separated by
commas, semicolons or blanks. A folder of them has a sub-folder per sequence: ``SEQUENCE/ref.npz``, ….
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hardnet_suite.data.files import is_file, require_regular
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import write_file

__all__ = ["DescriptorFolder", "is_descriptors", "read_descriptors", "write_descriptors"]

KEY = "descriptors"  # of an archive
_PROGRAM = "hardnet-suite"  # the mark of archives that the suite writes
SUFFIXES = (".npz", ".csv", ".txt")
_STRIP = re.compile(r"(ref|[eht][1-9]\d{0,3})\.(?:npz|csv|txt)")


def read_descriptors(file: str | Path) -> np.ndarray:
    """The descriptors in a file, row by row.

    Args:
        file: ``.npz``, ``.csv`` or ``.txt``.

    Returns:
        (N, D) numbers as they are stored; float32 of text.

    Raises:
        UserError: another kind of file, or one that is missing, damaged or empty, has lines of different
            lengths, or holds NaN or infinity.
    """
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: expected descriptors in a file named {', '.join(f'*{s}' for s in SUFFIXES)}"
        )
    try:
        require_regular(path)
        array = _read_archive(path) if path.suffix.lower() == ".npz" else _read_text(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiub":
        raise UserError(f"{path}: expected numbers of shape (N, D), got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise UserError(f"{path} holds NaN or infinity")
    return array


def write_descriptors(file: str | Path, descriptors: np.ndarray) -> None:
    """Writes descriptors as an archive, which ``read_descriptors`` reads.

    Args:
        file: ``.npz``; replaced where it exists.
        descriptors: (N, D).

    Raises:
        WriteError: the file cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, **{KEY: descriptors, "program": np.array(_PROGRAM)})
    write_file(file, content.getvalue())


def is_descriptors(file: Path) -> bool:
    """Whether a file is what ``write_descriptors`` wrote."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return str(archive["program"]) == _PROGRAM
    except Exception:  # as in _read_archive
        return False


class DescriptorFolder(Mapping[str, Mapping[str, np.ndarray]]):
    """The descriptors of sequences in a folder: sequence -> strip ("ref", "e1", …) -> (N, D), read on access.

    Args:
        folder: with a sub-folder per sequence, or a sequence's folder itself.

    Raises:
        UserError: no such folder, or no descriptors in it.
    """

    def __init__(self, folder: str | Path):
        root = Path(folder)
        if not root.is_dir():
            raise UserError(f"{root}: no such folder of descriptors")
        if _strips(root):
            self._folders = {root.resolve().name: root}
        else:
            folders = sorted(path for path in root.iterdir() if path.is_dir())
            self._folders = {path.name: path for path in folders if _strips(path)}
        if not self._folders:
            raise UserError(
                f"{root} has no descriptors: expected SEQUENCE/ref.npz, SEQUENCE/e1.npz, … (or .csv, .txt)"
            )

    def __getitem__(self, sequence: str) -> dict[str, np.ndarray]:
        return {
            name: read_descriptors(path) for name, path in sorted(_strips(self._folders[sequence]).items())
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def __contains__(self, sequence: object) -> bool:  # without reading it
        return sequence in self._folders


def _strips(folder: Path) -> dict[str, Path]:
    """Strip -> its file."""
    strips: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _STRIP.fullmatch(path.name)
        if match and is_file(path):
            if match[1] in strips:
                raise UserError(f"{folder} has {strips[match[1]].name} and {path.name}: remove one of them")
            strips[match[1]] = path
    return strips


def _read_archive(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if KEY not in getattr(archive, "files", ()):
                raise UserError(f"{path} has no array {KEY!r}: expected what hardnet-suite describe writes")
            array = archive[KEY]
            if not isinstance(array, np.ndarray):  # the bytes of a file that is no array
                raise UserError(f"{path} is damaged: its {KEY!r} are no array")
            return array
    except (UserError, OSError):
        raise
    except MemoryError:
        raise UserError(f"{path} is damaged, or too large for the memory") from None
    except Exception:  # of NumPy, zipfile and every decompressor, each with errors of its own
        raise UserError(f"{path} is damaged, or not an archive of NumPy's") from None


def _read_text(path: Path) -> np.ndarray:
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
            delimiter = next((mark for mark in ",;" if mark in first), None)
            file.seek(0)
            return np.loadtxt(file, np.float32, comments=None, delimiter=delimiter, ndmin=2)
    except (ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else "not text"
        raise UserError(f"{path}: expected a line of numbers per patch ({reason})") from None
