"""Sets of patches that show points of the world several times, and their files (Brown's PhotoTour layout).

Such a folder (liberty, notredame, yosemite, or one that ``make-patches`` wrote) has sheets
``patches0000.bmp``, … of 16×16 grey patches of 64×64 pixels, row by row, the last one partly empty;
``info.txt`` with one line per patch, "point_id unused"; and files of pairs such as
``m50_100000_100000_0.txt`` with lines "patch1 point1 unused patch2 point2 unused unused", where equal points
make a matching pair.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from hardnet_suite.data.files import is_file, read_text
from hardnet_suite.data.hpatches import read_sequence_strips, strip_folders
from hardnet_suite.data.images import read_grey
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import whole_file, write_file

SIDE = 64  # pixels of a patch
_ROW = 16  # patches per row and per column of a sheet
_SHEET = SIDE * _ROW
_PER_SHEET = _ROW**2
_SHEET_NAME = re.compile(r"patches(\d{4,9})\.bmp", re.IGNORECASE)
_PAIRS_NAME = re.compile(r"m50_(\d{1,12})_\1_0\.txt")
_OFFICIAL_PAIRS = 100_000  # those of the published scores


@dataclass(frozen=True, eq=False)
class PatchSet:
    """Patches with the points that they show.

    Attributes:
        name: of the set.
        patches: (N, s, s) uint8, grey.
        point_ids: (N,) int64; patches of the same point match.
        pairs: (M, 3) int64 rows [patch, patch, 1 if they match else 0] to be scored, or None.
    """

    name: str
    patches: np.ndarray
    point_ids: np.ndarray
    pairs: np.ndarray | None = None

    def __post_init__(self):
        patches, points, pairs = self.patches, self.point_ids, self.pairs
        if patches.ndim != 3 or patches.shape[1] != patches.shape[2] or patches.dtype != np.uint8:
            raise ValueError(f"expected patches (N, s, s) uint8, got {patches.shape} {patches.dtype}")
        if points.shape != (len(patches),) or points.dtype != np.int64:
            raise ValueError(f"expected point_ids ({len(patches)},) int64, got {points.shape} {points.dtype}")
        if pairs is None:
            return
        if pairs.ndim != 2 or pairs.shape[1] != 3 or pairs.dtype != np.int64:
            raise ValueError(f"expected pairs (M, 3) int64, got {pairs.shape} {pairs.dtype}")
        if len(pairs) and (pairs[:, :2].min() < 0 or pairs[:, :2].max() >= len(patches)):
            raise ValueError(f"expected pairs of patches 0 to {len(patches) - 1}")
        if not np.isin(pairs[:, 2], (0, 1)).all():
            raise ValueError("expected 0 or 1 in the third column of pairs")

    def __len__(self) -> int:
        return len(self.patches)


def read_patch_set(folder: str | Path) -> PatchSet:
    """A set to train on, in any layout that is read.

    Args:
        folder: Brown's layout (``read_brown``); an HPatches sequence or a folder of them, whose strips are
            the patches of as many points as the strips are long; or what ``make-patches`` wrote, of which
            its ``brown`` folder is read, or ``hpatches`` where that is all.

    Raises:
        UserError: none of these, files that are missing or damaged, or fewer than two points with two
            patches each, which is too few to train on.
    """
    folder = Path(folder)
    if is_file(folder / "info.txt"):
        patch_set = read_brown(folder)
    elif is_file(folder / "brown" / "info.txt"):
        patch_set = replace(read_brown(folder / "brown"), name=folder.resolve().name)
    elif sequences := strip_folders(folder) or _made_strips(folder):
        patch_set = _of_strips(folder, sequences)
    else:
        raise UserError(
            f"no patches in {folder}: expected info.txt and patches0000.bmp, …, or HPatches sequences "
            "(ref.png, e1.png, …)"
        )
    _, counts = np.unique(patch_set.point_ids, return_counts=True)
    several = np.count_nonzero(counts >= 2)
    if several < 2:
        raise UserError(
            f"{folder} cannot be trained on: {several} of {len(counts)} points have two patches or more, "
            "expected at least 2"
        )
    return patch_set


def read_brown(folder: str | Path, pairs: int | str | bool | None = None) -> PatchSet:
    """A set in Brown's layout.

    Args:
        folder: of the files, such as ``data/liberty``.
        pairs: which file of pairs is read: 100000 for ``m50_100000_100000_0.txt``; None for that one, or the
            largest, where there is any; False for none.

    Returns:
        The set, named after the folder. Points with a single patch, which has no match, are kept.

    Raises:
        UserError: sheets that are missing, of another size or no image; two sheets, or files of pairs, of one
            number; an ``info.txt`` that is missing, has other lines, or is shorter or longer than the sheets;
            a file of pairs with other numbers of them than its name says, pairs of patches that are not
            there, or whose points are not those of ``info.txt``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    info = folder / "info.txt"
    point_ids = _read_integers(info, (0, 1))[:, 0]
    sheets = _sheets(folder, len(point_ids))
    patches = np.empty((len(point_ids), SIDE, SIDE), np.uint8)
    for number, path in enumerate(sheets):
        pixels = read_grey(path)
        if pixels.shape != (_SHEET, _SHEET):
            size = f"{pixels.shape[1]}×{pixels.shape[0]}"
            raise UserError(
                f"{path} has {size} pixels, expected {_SHEET}×{_SHEET}: 16×16 patches of {SIDE}×{SIDE}"
            )
        part = patches[number * _PER_SHEET : (number + 1) * _PER_SHEET]
        of_sheet = pixels.reshape(_ROW, SIDE, _ROW, SIDE).swapaxes(1, 2).reshape(-1, SIDE, SIDE)
        part[:] = of_sheet[: len(part)]
        rest = of_sheet[len(part) :]
        if more := int((rest != rest[:, :1, :1]).any((1, 2)).sum()):
            warnings.warn(
                f"{path} has {more} more patches than {info} has lines for: they are left out; is {info} cut "
                "short?",
                stacklevel=2,
            )
    file = _pairs_file(folder, pairs)
    rows = None if file is None else _read_pairs(file, point_ids)
    return PatchSet(folder.resolve().name, patches, point_ids, rows)


def write_brown(folder: str | Path, patch_set: PatchSet) -> None:
    """Writes a set in Brown's layout; ``read_brown`` reads the same.

    Args:
        folder: is created; may hold other files.
        patch_set: of patches of 64×64 pixels, with non-negative point ids.

    Raises:
        UserError: the folder holds such a set already.
        ValueError: no patches, or of another size; negative ids; no pairs where there should be some, or
            pairs that contradict the points. Nothing is written then.
    """
    if not len(patch_set):
        raise ValueError("expected patches, got an empty set")
    if patch_set.pairs is not None:
        _pair_lines(patch_set.pairs, patch_set.point_ids)
    with BrownWriter(folder) as writer:
        writer.add(patch_set.patches, patch_set.point_ids)
        writer.pairs = patch_set.pairs


class BrownWriter:
    """Writes a set in Brown's layout part by part, for sets that do not fit into memory.

    ``info.txt`` is written last: without it the folder is no set.

    Attributes:
        pairs: (M, 3) rows [patch, patch, 0 or 1] to be written at the end, or None.
        point_ids: those of the patches so far.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if self.folder.is_dir() and any(
            path.name == "info.txt" or _SHEET_NAME.fullmatch(path.name) for path in self.folder.iterdir()
        ):
            raise UserError(f"{self.folder} holds patches already: move them away, or choose another folder")
        self.pairs: np.ndarray | None = None
        self._ids: list[np.ndarray] = []
        self._sheet = np.zeros((_PER_SHEET, SIDE, SIDE), np.uint8)
        self._count = 0

    @property
    def point_ids(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *self._ids])

    def add(self, patches: np.ndarray, point_ids: np.ndarray) -> None:
        """Adds (N, 64, 64) uint8 patches of (N,) points."""
        part = PatchSet("", patches, np.asarray(point_ids, np.int64))
        if patches.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"expected patches of {SIDE}×{SIDE} pixels, got {patches.shape[1:]}")
        if len(part) and part.point_ids.min() < 0:
            raise ValueError(f"expected point ids of at least 0, got {part.point_ids.min()}")
        self._ids.append(part.point_ids.copy())
        start = 0
        while start < len(patches):
            at = self._count % _PER_SHEET
            taken = patches[start : start + _PER_SHEET - at]
            self._sheet[at : at + len(taken)] = taken
            self._count += len(taken)
            start += len(taken)
            if self._count % _PER_SHEET == 0:
                self._write_sheet()

    def _write_sheet(self) -> None:
        number = (self._count - 1) // _PER_SHEET
        rows = self._sheet.reshape(_ROW, _ROW, SIDE, SIDE).swapaxes(1, 2).reshape(_SHEET, _SHEET)
        with whole_file(self.folder / f"patches{number:04d}.bmp") as temporary:
            Image.fromarray(rows).save(temporary, format="BMP")
        self._sheet[:] = 0

    def close(self) -> None:
        """Writes what is left: the last sheet, the pairs and ``info.txt``."""
        point_ids, lines = self.point_ids, None
        if self.pairs is not None:
            PatchSet("", np.zeros((len(point_ids), 1, 1), np.uint8), point_ids, self.pairs)
            lines = _pair_lines(self.pairs, point_ids)
        if self._count % _PER_SHEET:
            self._write_sheet()
        if self.pairs is not None and lines is not None:
            write_file(self.folder / f"m50_{len(self.pairs)}_{len(self.pairs)}_0.txt", lines)
        write_file(self.folder / "info.txt", "".join(f"{point} 0\n" for point in point_ids.tolist()))

    def __enter__(self) -> BrownWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()


def random_pairs(point_ids: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Pairs to be scored, as in Brown's files: half of them match.

    Args:
        point_ids: (N,) of the patches.
        count: of pairs, rounded up to an even number.
        seed: of the choice.

    Returns:
        (count, 3) int64 rows [patch, patch, 1 or 0] in random order; the patches of a pair differ. Of few
        patches, pairs are drawn several times.

    Raises:
        ValueError: no point has two patches, or there is a single point.
    """
    point_ids = np.asarray(point_ids, np.int64)
    order = np.argsort(point_ids, kind="stable")
    _, starts, counts = np.unique(point_ids[order], return_index=True, return_counts=True)
    several = np.flatnonzero(counts >= 2)
    if not len(several) or len(starts) < 2:
        raise ValueError("expected at least two points, one of them with two patches")
    rng = np.random.default_rng(seed)
    half = (count + 1) // 2
    chosen = rng.choice(several, half)
    first = rng.integers(counts[chosen])
    second = (first + rng.integers(1, counts[chosen])) % counts[chosen]
    matching = np.stack([order[starts[chosen] + first], order[starts[chosen] + second]], 1)
    a = rng.integers(len(starts), size=half)
    b = (a + rng.integers(1, len(starts), size=half)) % len(starts)
    other = np.stack([order[starts[point] + rng.integers(counts[point])] for point in (a, b)], 1)
    pairs = np.concatenate([np.c_[matching, np.ones(half, int)], np.c_[other, np.zeros(half, int)]])
    return rng.permutation(pairs).astype(np.int64)


def _made_strips(folder: Path) -> list[Path]:
    """The sequences that ``make-patches`` wrote."""
    made = folder / "hpatches"
    return strip_folders(made) if made.is_dir() else []


def _of_strips(folder: Path, sequences: list[Path]) -> PatchSet:
    patches, points, first = [], [], 0
    for sequence in sequences:
        strips = read_sequence_strips(sequence)
        count = len(strips["ref"])
        for strip in strips.values():
            patches.append(strip)
            points.append(first + np.arange(count))
        first += count
    sides = sorted({strip.shape[1] for strip in patches})
    if len(sides) > 1:
        raise UserError(f"the sequences in {folder} have patches of {' and '.join(map(str, sides))} pixels")
    return PatchSet(folder.resolve().name, np.concatenate(patches), np.concatenate(points).astype(np.int64))


def _numbered_files(folder: Path, pattern: re.Pattern) -> dict[int, Path]:
    """The files whose names match, by the number that is the pattern's first group."""
    files: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if name := pattern.fullmatch(path.name):
            other = files.setdefault(int(name[1]), path)
            if other != path:
                raise UserError(f"{folder} has {other.name} and {path.name}: remove one of them")
    return files


def _sheets(folder: Path, count: int) -> list[Path]:
    """The sheets of so many patches, in order."""
    numbered = _numbered_files(folder, _SHEET_NAME)
    wanted = -(-count // _PER_SHEET)
    missing = [number for number in range(wanted) if number not in numbered]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of {wanted} sheets for the {count} patches of info.txt, "
            f"e.g. patches{missing[0]:04d}.bmp"
        )
    if len(numbered) > wanted:
        raise UserError(
            f"{folder / 'info.txt'} is too short: its {count} patches fill {wanted} sheets, there are "
            f"{len(numbered)}"
        )
    return [numbered[number] for number in range(wanted)]


def _pairs_file(folder: Path, pairs: int | str | bool | None) -> Path | None:
    if pairs is False:
        return None
    if pairs is None or pairs is True:
        files = _numbered_files(folder, _PAIRS_NAME)
        if not files:
            return None
        return files.get(_OFFICIAL_PAIRS) or files[max(files)]
    file = folder / f"m50_{pairs}_{pairs}_0.txt"
    if not is_file(file):
        names = sorted(path.name for path in folder.glob("m50_*_0.txt"))
        raise UserError(f"no file of pairs {file} (there are: {', '.join(names) or 'none'})")
    return file


def _read_pairs(file: Path, point_ids: np.ndarray) -> np.ndarray:
    rows = _read_integers(file, (0, 3, 1, 4))
    named = _PAIRS_NAME.fullmatch(file.name)
    # of the name's two numbers, of pairs that match and that do not, either or both are counted
    if named and len(rows) not in (int(named[1]), 2 * int(named[1])):
        raise UserError(
            f"{file} has {counted(len(rows), 'pair')}, but its name says {named[1]}: is it cut short?"
        )
    indices, points = rows[:, :2], rows[:, 2:]
    bad = ((indices < 0) | (indices >= len(point_ids))).any(1)
    if bad.any():
        raise UserError(
            f"{file}, line {bad.argmax() + 1}: patches {indices[bad.argmax()].tolist()}, expected 0 to "
            f"{len(point_ids) - 1}"
        )
    bad = (point_ids[indices] != points).any(1)
    if bad.any():
        line = bad.argmax()
        raise UserError(
            f"{file}, line {line + 1}: points {points[line].tolist()}, but "
            f"{point_ids[indices[line]].tolist()} in info.txt: the files are of different sets"
        )
    return np.c_[indices, points[:, 0] == points[:, 1]].astype(np.int64)


def _pair_lines(pairs: np.ndarray, point_ids: np.ndarray) -> str:
    if not len(pairs):
        raise ValueError("expected pairs or None, got none")
    points = point_ids[pairs[:, :2]]
    if ((points[:, 0] == points[:, 1]) != pairs[:, 2]).any():
        raise ValueError("expected pairs that match where their points are equal")
    rows = zip(
        pairs[:, 0].tolist(), points[:, 0].tolist(), pairs[:, 1].tolist(), points[:, 1].tolist(), strict=True
    )
    return "".join(f"{a} {p} 0 {b} {q} 0 0\n" for a, p, b, q in rows)


def _read_integers(path: Path, columns: tuple[int, ...]) -> np.ndarray:
    """(lines, columns) int64 of a text file of numbers."""
    try:
        text = read_text(path)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text: replace the file") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{path} is empty")
    rows = np.empty((len(lines), len(columns)), np.int64)
    for number, line in enumerate(lines):
        words = line.split()
        try:
            rows[number] = [int(words[column]) for column in columns]
        except (ValueError, IndexError, OverflowError):
            least = max(columns) + 1
            expected = "an integer" if least == 1 else f"at least {least} integers"
            raise UserError(
                f"{path}, line {number + 1}: expected {expected}, got {line.strip()[:60]!r}"
            ) from None
    return rows
