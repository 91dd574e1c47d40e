"""Data sets of patches, for the training of a descriptor and for its validation."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hardnet_suite.data.images import IMAGE_SUFFIXES, walk_files
from hardnet_suite.data.patch_check import PatchReport, check_patches
from hardnet_suite.data.patches import PatchSet, random_pairs, read_patch_set
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.part import (
    MOST_WORST,
    WORST,
    Part,
    ScoreSummary,
    kind_of,
    write_mistakes,
)
from hardnet_suite.visualization.patches import DISTANCES, draw_distances, draw_pair, draw_worst_pairs

_TRAINING, _VERIFICATION = "PatchPairsDataset", "PatchVerificationDataset"
_OPTIONS = ("data_root", "sets", "pairs")
_GENERATED = 20_000  # pairs of a set that has none and is not told how many


@dataclass(frozen=True)
class DescriptorPart(Part):
    """A ``PatchPairsDataset`` or ``PatchVerificationDataset`` and its ``options``."""

    task = "descriptor"
    dataset_name = _VERIFICATION
    results = "distances.csv"
    charts = (DISTANCES,)
    outputs = MappingProxyType({"distances": results})
    evaluator = "PatchFPR95"
    drawable = False
    drawn_by = f"{WORST} in the work dir shows the worst pairs"
    classes_key = "sets"
    unit = "pair"

    loader: str
    options: dict
    is_scored: bool

    @classmethod
    def of_dataset(cls, loader: str, dataset: dict) -> DescriptorPart | None:
        """The part of a data set's options; None if the data set is not of this kind."""
        kind = kind_of(dataset)
        if kind not in (_TRAINING, _VERIFICATION):
            return None
        options = {key: dataset[key] for key in _OPTIONS if key in dataset}
        return cls(loader, options, kind == _VERIFICATION)

    @cached_property
    def sets(self) -> tuple[PatchSet, ...]:
        return patch_sets(self.options)

    @property
    def classes(self) -> tuple[str, ...]:
        return ()  # a descriptor has none

    @property
    def declared_classes(self) -> None:
        return None

    @property
    def folders(self) -> tuple[Path, ...]:
        return set_folders(self.options)

    @property
    def key(self) -> Hashable:
        return self.is_scored, repr(sorted(self.options.items()))

    @cached_property
    def pairs(self) -> tuple[np.ndarray, ...]:
        return scored_pairs(self.sets, self.options.get("pairs"))

    def require(self) -> None:
        if self.is_scored:
            _ = self.pairs
        elif not any(_has_pair(patch_set) for patch_set in self.sets):
            names = ", ".join(patch_set.name for patch_set in self.sets)
            raise UserError(f"{self.loader}: no point of {names} has two patches, which a pair needs")

    def counts(self) -> str:
        patches = sum(len(patch_set.patches) for patch_set in self.sets)
        points = sum(len(np.unique(patch_set.point_ids)) for patch_set in self.sets)
        pairs = f", {counted(sum(map(len, self.pairs)), 'pair')}" if self.is_scored else ""
        names = ", ".join(patch_set.name for patch_set in self.sets)
        number = f"{counted(patches, 'patch')}, {counted(points, 'point')}{pairs}"
        return f"{number} ({names})"

    def example(self) -> None:
        return None

    def files(self) -> list[Path]:
        return [path for folder in self.folders for path in walk_files(folder, IMAGE_SUFFIXES)]

    def draw_sample(self, sample: Mapping[str, Any]) -> np.ndarray:
        index, first, second = sample["name"]
        patches = self.sets[index].patches
        label, distance = bool(sample["label"]), float(sample["distance"])
        return draw_pair(patches[first], patches[second], label=label, distance=distance)

    def check(self, *, read: bool = True) -> PatchReport:
        pairs = sum(map(len, self.pairs)) if self.is_scored else None
        return check_patches(self.sets, pairs=pairs, read=read)

    def draw_summary(self, metric: Any, folder: Path, *, score: float) -> ScoreSummary:
        draw_distances(metric.labels, metric.distances, metric.thresholds, folder / DISTANCES)
        rows = sorted(metric.mistakes(), key=lambda row: -row.severity)
        mistakes = write_mistakes(
            folder,
            (
                {"set": row.set, "patches": [row.first, row.second], "same": bool(row.label)}
                | {"distance": round(row.distance, 6), "threshold": round(row.threshold, 6)}
                for row in rows
            ),
        )
        files = {"chart": DISTANCES, "mistakes": mistakes}
        patches = {patch_set.name: patch_set.patches for patch_set in self.sets}
        if worst := rows[:MOST_WORST]:
            drawings = [
                draw_pair(
                    patches[row.set][row.first],
                    patches[row.set][row.second],
                    label=bool(row.label),
                    distance=row.distance,
                    name=f"{row.set}, patches {row.first} and {row.second}",
                )
                for row in worst
            ]
            draw_worst_pairs(drawings, folder / WORST)
            files["worst pairs"] = WORST
        return ScoreSummary(files, [(row.set, row.first, row.second) for row in rows], len(rows))


def set_folders(options: Mapping[str, Any]) -> tuple[Path, ...]:
    """The folders that the options ``data_root`` and ``sets`` name.

    Raises:
        UserError: ``sets`` is not a name or a list of names of different folders.
    """
    sets = options.get("sets", "")
    names = [sets] if isinstance(sets, str) else sets
    is_list = isinstance(names, Sequence) and all(
        isinstance(name, str) and "\0" not in name for name in names
    )
    folders = tuple(Path(options.get("data_root") or "", name) for name in names) if is_list else ()
    if not folders or len(set(map(os.path.realpath, folders))) < len(folders):
        raise UserError(f"sets={sets!r}, expected a folder of patches, or a list of different ones")
    return folders


def patch_sets(options: Mapping[str, Any]) -> tuple[PatchSet, ...]:
    """The sets of patches that the options name, each read once per process.

    A set is named after its path below ``data_root``; elsewhere after its folder. Where two would share a
    name, all are named after their paths.

    Raises:
        UserError: a folder without patches, or with damaged ones; two folders with the same patches.
    """
    folders, root = set_folders(options), Path(options.get("data_root") or "")
    sets = [_read(folder, _stamp(folder)) for folder in folders]
    for (folder, first), (other, second) in combinations(zip(folders, sets, strict=True), 2):
        same = np.array_equal(first.point_ids, second.point_ids)
        if same and np.array_equal(first.patches, second.patches):
            raise UserError(f"{folder} and {other} hold the same patches: leave out one of them")
    below = [folder.relative_to(root) if folder.is_relative_to(root) else Path() for folder in folders]
    names = [
        patch_set.name if path == Path() else path.as_posix()
        for path, patch_set in zip(below, sets, strict=True)
    ]
    if len(set(names)) < len(names):
        names = [folder.as_posix() for folder in folders]
    return tuple(replace(patch_set, name=name) for patch_set, name in zip(sets, names, strict=True))


def _stamp(folder: Path) -> tuple:
    """Changes when a file does that ``read_patch_set`` may read.

    Those are the files of the folder, of its subfolders (``brown``, sequences), and of theirs.
    """
    stamps = []
    for pattern in ("*", "*/*", "*/*/*"):
        for path in folder.glob(pattern):
            try:
                status = path.stat()
            except OSError:  # told by the reader
                continue
            stamps.append((str(path), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(sorted(stamps))


@lru_cache(maxsize=16)
def _read(folder: Path, stamp: tuple) -> PatchSet:
    return read_patch_set(folder)


def _has_pair(patch_set: PatchSet) -> bool:
    return len(np.unique(patch_set.point_ids)) < len(patch_set.point_ids)


def scored_pairs(sets: Sequence[PatchSet], count: int | None) -> tuple[np.ndarray, ...]:
    """The pairs of each set to score: its own, or drawn ones where it has none.

    Args:
        sets: the sets.
        count: how many are drawn where a set has none, half of them of one point, as by ``random_pairs``;
            None: 20,000.

    Returns:
        (M, 3) int64 of each: two indices of patches, and 1 for one point, 0 for two.

    Raises:
        UserError: pairs of one kind alone, patches that make none, or a ``count`` that no set needs.
    """
    if count is not None and (type(count) is not int or count < 2):
        raise UserError(f"pairs={count!r}, expected an integer of at least 2")
    if count is not None and all(patch_set.pairs is not None for patch_set in sets):
        names = ", ".join(patch_set.name for patch_set in sets)
        raise UserError(
            f"pairs={count} has no effect, as each set has a file of pairs ({names}); set it to None"
        )
    made = []
    for patch_set in sets:
        pairs = patch_set.pairs
        if pairs is None:
            pairs = _drawn(patch_set, count or _GENERATED)
        kinds = np.unique(pairs[:, 2]) if len(pairs) else []
        if list(kinds) != [0, 1]:
            raise UserError(
                f"{patch_set.name}: FPR95 needs pairs of one point and pairs of two; there are "
                f"{'none' if not len(kinds) else 'only the former' if kinds[0] else 'only the latter'}"
            )
        made.append(pairs)
    return tuple(made)


def _drawn(patch_set: PatchSet, count: int) -> np.ndarray:
    try:
        return random_pairs(patch_set.point_ids, count)
    except ValueError as error:
        raise UserError(f"{patch_set.name}: no pairs can be drawn: {error}") from None
