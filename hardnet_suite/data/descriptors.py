"""Descriptors in files, so that they are computed once and scored without the model.

A file is what ``hardnet-suite describe`` writes (an ``.npz`` archive whose ``descriptors`` are (N, D)), or
text as the HPatches benchmark and the original HardNet write it: a line of numbers per patch, separated by
commas, semicolons or blanks. A folder of them has a sub-folder per sequence: ``SEQUENCE/ref.npz``, ….
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hardnet_suite.data.files import is_file, require_regular
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import write_file

__all__ = [
    "DescriptorFolder",
    "is_descriptors",
    "read_descriptors",
    "require_described",
    "write_descriptors",
]

KEY = "descriptors"  # of an archive
_PROGRAM = "hardnet-suite"  # the mark of archives that the suite writes
SUFFIXES = (".npz", ".csv", ".txt")
_STRIP = re.compile(r"(ref|[eht][1-9]\d{0,3})\.(?i:npz|csv|txt)")


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


def write_descriptors(
    file: str | Path, descriptors: np.ndarray, *, weights: str = "", patches: np.ndarray | None = None
) -> None:
    """Writes descriptors as an archive, which ``read_descriptors`` reads.

    Args:
        file: ``.npz``; replaced where it exists.
        descriptors: (N, D).
        weights: digest of the network, so that those of different networks are not taken for one's.
        patches: (N, s, s) uint8, what they describe, of which a digest is kept.

    Raises:
        WriteError: the file cannot be written.
    """
    content = io.BytesIO()
    marks = {"program": _PROGRAM, "weights": weights, "patches": "" if patches is None else digest(patches)}
    np.savez(content, **{KEY: descriptors}, **{key: np.array(value) for key, value in marks.items()})
    write_file(file, content.getvalue())


def digest(patches: np.ndarray) -> str:
    """SHA-256 of (N, s, s) uint8 patches, in hex."""
    hashed = hashlib.sha256(f"{patches.shape}".encode())
    hashed.update(np.ascontiguousarray(patches).data)
    return hashed.hexdigest()


def require_described(file: str | Path, *, weights: str = "", patches: np.ndarray | None = None) -> str:
    """Checks what a file of descriptors was made of, as far as it says so: text does not.

    Args:
        file: as for ``read_descriptors``.
        weights: digest of the network that others are of; "" where that is not known.
        patches: (N, s, s) uint8 that the descriptors are to be of.

    Returns:
        The digest of its network; "" where it says none.

    Raises:
        UserError: it is of another network, or of other patches.
    """
    path = Path(file)
    if path.suffix.lower() != ".npz":
        return ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            marks = {key: str(archive[key]) for key in ("weights", "patches") if key in archive.files}
    except Exception:  # as in _read_archive, which tells it
        return ""
    own = marks.get("weights", "")
    if own and weights and own != weights:
        raise UserError(
            f"{path} is of other weights, or of them in another precision (digest {own[:12]}), than the "
            f"descriptors before it (digest {weights[:12]}): describe all of them with one network"
        )
    if patches is not None and marks.get("patches") and marks["patches"] != digest(patches):
        raise UserError(f"{path} is of other patches: describe these anew")
    return own


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
        UserError: no such folder, no descriptors in it, those of a sequence beside sequences, or a sub-folder
            with descriptors that are of no strip; on access, what ``read_descriptors`` raises, and
            descriptors of different networks.
    """

    def __init__(self, folder: str | Path):
        root = Path(folder)
        self._weights = ""
        if not root.is_dir():
            raise UserError(f"{root}: no such folder of descriptors")
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        self._folders = {path.name: path for path in folders if _strips(path)}
        if _strips(root):
            if self._folders:
                raise UserError(
                    f"{root} has descriptors of its own and sequences with some, such as "
                    f"{next(iter(self._folders))}: leave one or the other"
                )
            self._folders = {root.resolve().name: root}
        elif unknown := [path for path in folders if path.name not in self._folders and _has_tables(path)]:
            raise UserError(
                f"{unknown[0]} has files of descriptors, but none of a strip: expected ref.npz, e1.npz, … "
                "(or .csv, .txt)"
            )
        if not self._folders:
            raise UserError(
                f"{root} has no descriptors: expected SEQUENCE/ref.npz, SEQUENCE/e1.npz, … (or .csv, .txt)"
            )

    def __getitem__(self, sequence: str) -> dict[str, np.ndarray]:
        strips = {}
        for name, path in sorted(_strips(self._folders[sequence]).items()):
            strips[name] = read_descriptors(path)
            self._weights = require_described(path, weights=self._weights) or self._weights
        return strips

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


def _has_tables(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES and is_file(path) for path in folder.iterdir())


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
