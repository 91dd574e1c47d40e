"""The task files of the HPatches benchmark: splits, pairs of patches, queries and distractors."""

from __future__ import annotations

import csv
import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.files import is_file, require_regular
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name

__all__ = ["PatchList", "official_splits", "read_pairs", "read_patches", "split_sequences"]

_OFFICIAL = Path(__file__).with_name("hpatches_splits.json")
_TABLES = ("splits.json", "splits/splits.json")  # in a folder of task files
_FILE = re.compile(r"(?:verif_(?:pos|neg_intra|neg_inter)|retr_(?:queries|distractors))_split-(.+)\.csv")
_PAIR = ("s1", "t1", "idx1", "s2", "t2", "idx2")  # headers
_PATCH = ("s", "idx")
_LAST_IMAGE = 5
_BLOCK = 1 << 16  # rows


class PatchList(NamedTuple):
    """Patches of HPatches sequences.

    Attributes:
        names: the sequences that occur.
        sequence: (N,) index of each patch's sequence in ``names``.
        image: (N,) 0 for the reference image, 1 to 5 for the others.
        index: (N,) number of the patch in its strip, from 0.
    """

    names: tuple[str, ...]
    sequence: np.ndarray
    image: np.ndarray
    index: np.ndarray


@cache
def official_splits() -> dict[str, tuple[str, ...]]:
    """The test sequences of the benchmark's splits a, b, c, full, illum and view, in its order.

    For training, a, b and c leave the other sequences of "full".
    """
    return {name: tuple(names) for name, names in json.loads(_OFFICIAL.read_text(encoding="utf-8")).items()}


def split_sequences(split: str, tasks_dir: Path | None) -> tuple[str, tuple[str, ...] | None]:
    """The name of a split as its files have it, and its test sequences.

    Args:
        split: an official name, or one of ``tasks_dir``, in any case.
        tasks_dir: folder of task files; it may hold a table of further splits, ``splits.json`` as the
            benchmark has it. None: the official splits alone.

    Returns:
        The name; the sequences, or None where there are files of the name and no table tells.

    Raises:
        UserError: no such folder or split, or the table is malformed.
    """
    table = dict(official_splits())
    names = set(table)
    if tasks_dir is not None:
        if not tasks_dir.is_dir():
            raise UserError(f"{tasks_dir}: no such folder of HPatches task files")
        for path in map(tasks_dir.joinpath, _TABLES):
            if is_file(path):
                table |= _read_table(path)
        in_folder = (_FILE.fullmatch(path.name) for path in tasks_dir.iterdir())
        names |= {*table, *(match[1] for match in in_folder if match)}
    name = known_name(split, sorted(names))
    if name is None:
        known = ", ".join(sorted(names))
        raise UserError(f"unknown HPatches split {split!r}: {did_you_mean(split, names)}known: {known}")
    return name, table.get(name)


def _read_table(path: Path) -> dict[str, tuple[str, ...]]:
    content = read_json(path)
    try:
        table = {name: tuple(entry["test"]) for name, entry in content.items()}
    except (TypeError, KeyError, AttributeError):
        table = {"": ()}
    if not all(table.values()) or not all(isinstance(each, str) for each in itertools.chain(*table.values())):
        raise UserError(
            f'{path}: expected {{"NAME": {{"test": ["SEQUENCE", …]}}, …}} as the benchmark has it'
        )
    return table


def read_pairs(tasks_dir: Path, kind: str, split: str) -> tuple[PatchList, PatchList]:
    """The first and the second patches of the pairs of a verification task.

    Args:
        tasks_dir: folder of task files.
        kind: "pos", "neg_intra" or "neg_inter".
        split: as ``split_sequences`` returns it.

    Raises:
        UserError: the file is missing or malformed.
    """
    names, columns = _read(tasks_dir / f"verif_{kind}_split-{split}.csv", _PAIR)
    return PatchList(names, *columns[:3]), PatchList(names, *columns[3:])


def read_patches(tasks_dir: Path, kind: str, split: str) -> PatchList:
    """The patches of the reference images that a retrieval task names.

    Args:
        tasks_dir: folder of task files.
        kind: "queries" or "distractors".
        split: as ``split_sequences`` returns it.

    Raises:
        UserError: the file is missing or malformed.
    """
    names, (sequence, index) = _read(tasks_dir / f"retr_{kind}_split-{split}.csv", _PATCH)
    return PatchList(names, sequence, np.zeros_like(index), index)


def _read(path: Path, columns: tuple[str, ...]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The names of sequences in a file, and its columns as integers: a sequence is its place in the names.

    Args:
        path: a CSV file with a header.
        columns: its header; columns of sequences begin with "s", of images with "t", of patches with "idx".
    """
    if not path.exists():
        raise UserError(
            f"{path} does not exist: expected the HPatches task files, and a split that they have"
        )
    codes: dict[str, int] = {}
    blocks: list[list[np.ndarray]] = []
    try:
        require_regular(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if tuple(header) != columns:
                found = ",".join(header)[:80]
                raise UserError(f"{path}: expected the header {','.join(columns)}, got {found!r}")
            line = 2
            while block := list(itertools.islice(rows, _BLOCK)):
                blocks.append(_parsed(path, line, block, columns, codes))
                line += len(block)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8") from error
    if not blocks:
        raise UserError(f"{path} has no rows below its header")
    return tuple(codes), [np.concatenate(parts) for parts in zip(*blocks, strict=True)]


def _parsed(
    path: Path, line: int, rows: list[list[str]], columns: tuple[str, ...], codes: dict[str, int]
) -> list[np.ndarray]:
    try:
        values = [
            np.fromiter(
                (codes.setdefault(value, len(codes)) for value in column)
                if name.startswith("s")
                else map(int, column),
                np.int64,
                len(rows),
            )
            for name, column in zip(columns, zip(*rows, strict=True), strict=True)
        ]
    except (ValueError, OverflowError):
        values = []
    if not values or any(
        (array < 0).any() or (name.startswith("t") and (array > _LAST_IMAGE).any())
        for name, array in zip(columns, values, strict=True)
    ):
        number, row = _first_wrong(line, rows, columns)
        raise UserError(
            f"{path}, line {number}: expected {','.join(columns)} with images 0 to {_LAST_IMAGE} and patches "
            f"from 0, got {','.join(row)[:80]!r}"
        )
    return values


def _first_wrong(line: int, rows: list[list[str]], columns: tuple[str, ...]) -> tuple[int, list[str]]:
    for number, row in enumerate(rows, line):
        if len(row) != len(columns) or not all(map(_is_valid, columns, row)):
            return number, row
    return line, rows[0]


def _is_valid(column: str, value: str) -> bool:
    if column.startswith("s"):
        return True
    try:
        number = int(value)
    except ValueError:
        return False
    return 0 <= number <= (_LAST_IMAGE if column.startswith("t") else np.iinfo(np.int64).max)
