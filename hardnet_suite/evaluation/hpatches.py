"""The HPatches benchmark (Balntas et al., CVPR 2017): verification, matching, retrieval.

A sequence has sixteen strips of patches of the same points: "ref" of the reference image, and five each of
the levels easy (e1 … e5), hard (h1 … h5) and tough (t1 … t5) of geometric noise. The measures are those of
the benchmark's Python program; its Matlab program measures retrieval otherwise (docs/descriptor.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hardnet_suite.data.hpatches import LEVELS
from hardnet_suite.data.hpatches_tasks import PatchList, read_pairs, read_patches, split_sequences
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.descriptor import row_distances
from hardnet_suite.evaluation.tables import class_table
from hardnet_suite.inference.nearest import nearest_neighbours
from hardnet_suite.names import did_you_mean

__all__ = ["TASKS", "StripMatching", "hpatches", "hpatches_table", "match_strips", "strip_matching_ap"]

TASKS = ("verification", "matching", "retrieval")

_MEASURES = {
    "intra balanced_auc": "AUC, same sequence",
    "inter balanced_auc": "AUC, other sequences",
    "intra imbalanced_ap": "AP, same sequence",
    "inter imbalanced_ap": "AP, other sequences",
    "ap": "mAP",
    "success_rate": "success rate",
    **{str(pool): f"mAP of up to {pool:,}" for pool in (100, 500, 1000, 5000, 10000, 15000, 20000)},
}
_IMAGES = range(1, 6)  # of the benchmark's sequences, beside the reference image
_POOLS = (100, 500, 1000, 5000, 10000, 15000, 20000)  # patches that are ranked for a query, its five included
_IMBALANCE = 0.2  # positive pairs to negative ones
_TIE = 1e-12  # relative: squared distances that differ by less are equal but for rounding
_SMALL = 1e-10  # so that the precision of no items is 1
_QUERIES = 256  # ranked at a time
_PAIRS = 1 << 16  # compared at a time
_SHOWN = 3  # names in a message


class StripMatching(NamedTuple):
    """How well the patches of one strip find themselves in another strip of the same points.

    Attributes:
        ap: average precision of the nearest neighbours in order of distance; recall counts all patches.
        success_rate: share of patches whose nearest neighbour is right.
    """

    ap: float
    success_rate: float


def hpatches(
    descriptors: Mapping[str, Mapping[str, np.ndarray]],
    tasks_dir: str | Path | None,
    split: str | None,
    *,
    tasks: Iterable[str] = TASKS,
) -> dict[str, dict]:
    """Scores descriptors by the protocol of the benchmark's Python program.

    Args:
        descriptors: sequence -> strip ("ref", "e1" … "t5") -> (N, D) numbers; row i is the same point in all
            strips of a sequence. Sequences that the split does not have are not used. Matching alone takes
            any number of strips per level.
        tasks_dir: the benchmark's folder ``tasks``, with its lists of pairs, queries and distractors; None
            suffices for matching, which needs none.
        split: an official split (a, b, c, full, illum, view), or another one that the files in ``tasks_dir``
            or a ``splits.json`` there are named after. Without an entry there, it has all sequences; so has
            None, for matching alone.
        tasks: those of verification, matching and retrieval that are wanted.

    Returns:
        One entry per task, each by level ("e", "h", "t"). ``verification[level]["intra" | "inter"]`` has
        ``balanced_auc`` and ``imbalanced_ap``; ``matching[level]`` has ``ap`` and ``success_rate``;
        ``retrieval[level]`` has the mean average precision per pool of up to 100, 500, … patches, with keys
        "100", "500", …; the last pool is the first that has room for all distractors. All are in [0, 1].

    Raises:
        UserError: an unknown split or task; a sequence or strip is missing, or of another size; descriptors
            that are not finite; task files that are missing, malformed or name patches that do not exist;
            queries without distractors of other sequences.
    """
    wanted = {tasks} if isinstance(tasks, str) else set(tasks)
    for task in wanted - set(TASKS):
        known = ", ".join(TASKS)
        raise UserError(f"unknown HPatches task {task!r}: {did_you_mean(task, TASKS)}known: {known}")
    folder = None if tasks_dir is None else Path(tasks_dir)
    if wanted != {"matching"} and (folder is None or split is None):
        raise UserError("verification and retrieval need the folder of the HPatches task files and a split")
    if not descriptors:
        raise UserError("expected descriptors of HPatches sequences, got none")
    name, sequences = (None, None) if split is None else split_sequences(split, folder)
    if sequences is None:
        sequences = tuple(sorted(descriptors))
    store = _Store(descriptors)
    store.require(sequences, f"split {name}")
    results: dict[str, dict] = {}
    if "verification" in wanted:
        results["verification"] = _verification(store, folder, name)
    if "matching" in wanted:
        results["matching"] = _matching(store, sequences)
    if "retrieval" in wanted:
        results["retrieval"] = _retrieval(store, folder, name)
    return results


def hpatches_table(results: Mapping[str, Mapping]) -> str:
    """The results of ``hpatches`` in percent as aligned plain text: a column per level, and their mean."""
    rows: dict[str, list[float]] = {}
    for task, levels in results.items():
        for scores in levels.values():
            for name, value in _flat(scores):
                rows.setdefault(f"{task} {_MEASURES.get(name, name)}", []).append(100 * value)
    columns = {LEVELS[level]: index for index, level in enumerate(LEVELS)}
    table = {heading: [values[index] for values in rows.values()] for heading, index in columns.items()}
    table["mean"] = [sum(values) / len(values) for values in rows.values()]
    return class_table(list(rows), table, heading="percent", digits=2)


def _flat(scores: Mapping) -> Iterator[tuple[str, float]]:
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from ((f"{key} {name}", score) for name, score in _flat(value))
        else:
            yield key, value


def strip_matching_ap(ref_descriptors: np.ndarray, other_descriptors: np.ndarray) -> float:
    """The average precision of matching two strips: the ``ap`` of ``match_strips``."""
    return match_strips(ref_descriptors, other_descriptors).ap


def match_strips(ref_descriptors: np.ndarray, other_descriptors: np.ndarray) -> StripMatching:
    """Matches each patch of the reference strip to its nearest neighbour in another strip.

    Args:
        ref_descriptors: (N, D), N > 0.
        other_descriptors: (N, D); row i is the same point.

    Raises:
        ValueError: other shapes, or values that are not finite.
    """
    ref, other = np.asarray(ref_descriptors), np.asarray(other_descriptors)
    if ref.ndim != 2 or ref.shape != other.shape or not len(ref):
        raise ValueError(f"expected descriptors of one shape (N, D), got {ref.shape} and {other.shape}")
    nearest = nearest_neighbours(ref, other)[0][:, 0]
    order = np.argsort(row_distances(ref, other[nearest]), kind="stable")
    is_right = (nearest == np.arange(len(ref)))[order]
    ap = _average_precision(np.cumsum(~is_right)[is_right], len(ref))
    return StripMatching(float(ap), float(is_right.mean()))


def _average_precision(false_before: np.ndarray, positives: int) -> np.ndarray:
    """The area under the curve of precision over recall, by trapezia.

    Args:
        false_before: (..., K) the number of wrong items before each of the K right ones, ascending.
        positives: number of right items, those that are never found included.
    """
    found = np.arange(1, false_before.shape[-1] + 1)
    after = found / (found + false_before)
    before = np.maximum(found - 1, _SMALL) / np.maximum(found - 1 + false_before, _SMALL)
    return (before + after).sum(-1) / (2 * positives)


class _Store:
    """Descriptors that are checked when they are first used."""

    def __init__(self, descriptors: Mapping[str, Mapping[str, np.ndarray]]):
        self._descriptors = descriptors
        self._checked: dict[str, dict[str, np.ndarray]] = {}
        self._length: int | None = None

    def require(self, names: Sequence[str], where: str) -> None:
        missing = [name for name in names if name not in self._descriptors]
        if missing:
            raise UserError(
                f"{where} has {counted(len(names), 'sequence')}, the descriptors lack {len(missing)}: "
                f"{_some(missing)}"
            )

    def __getitem__(self, sequence: str) -> dict[str, np.ndarray]:
        if sequence not in self._checked:
            self._checked[sequence] = self._check(sequence)
        return self._checked[sequence]

    def images(self, sequence: str) -> range:
        """The numbers of a sequence's strips of each level."""
        return range(1, (len(self[sequence]) - 1) // len(LEVELS) + 1)

    def _check(self, sequence: str) -> dict[str, np.ndarray]:
        strips = self._descriptors[sequence]
        numbers = [int(name[1:]) for name in strips if re.fullmatch(r"[eht][1-9]\d{0,3}", name)]
        images = range(1, max(numbers, default=_IMAGES[-1]) + 1)
        names = ["ref", *(f"{level}{image}" for level in LEVELS for image in images)]
        missing = [name for name in names if name not in strips]
        if missing:
            raise UserError(
                f"sequence {sequence} lacks {len(missing)} of {len(names)} strips: {_some(missing)}"
            )
        checked = {name: np.asarray(strips[name]) for name in names}
        count = len(checked["ref"]) if checked["ref"].ndim else 0
        for name, array in checked.items():
            where = f"descriptors of {sequence}/{name}"
            if array.ndim != 2 or not array.size or array.dtype.kind not in "fiub":
                raise UserError(f"{where}: expected numbers of shape (N, D), got {array.dtype} {array.shape}")
            if len(array) != count:
                raise UserError(f"{where}: expected {count} as in ref, got {len(array)}")
            if self._length is None:
                self._length = array.shape[1]
            if array.shape[1] != self._length:
                raise UserError(f"{where}: expected {self._length} numbers each, got {array.shape[1]}")
            if not np.isfinite(array).all():
                raise UserError(f"{where} hold NaN or infinity")
        return checked

    def require_patches(self, patches: PatchList, where: str) -> None:
        self.require(patches.names, where)
        for name in patches.names:
            if self.images(name) != _IMAGES:
                raise UserError(
                    f"{where}: sequence {name} has {len(self.images(name))} strips per level, "
                    f"expected {_IMAGES[-1]}"
                )
        counts = np.array([len(self[name]["ref"]) for name in patches.names])
        wrong = np.flatnonzero(patches.index >= counts[patches.sequence])
        if len(wrong):
            first = wrong[0]
            code = patches.sequence[first]
            raise UserError(
                f"{where}, row {first + 1}: patch {patches.index[first]} of {patches.names[code]} does not "
                f"exist, its strips have {counts[code]} descriptors"
            )

    def gather(self, patches: PatchList, level: str, rows: slice = slice(None)) -> np.ndarray:
        """(N, D) float64 descriptors of some patches, at a level of noise."""
        sequence, image, index = patches.sequence[rows], patches.image[rows], patches.index[rows]
        result = np.empty((len(index), self._length))
        strips = sequence * 6 + image
        order = np.argsort(strips, kind="stable")
        starts = np.flatnonzero(np.diff(strips[order], prepend=-1))
        for group in np.split(order, starts[1:]):
            name, number = patches.names[sequence[group[0]]], image[group[0]]
            result[group] = self[name][f"{level}{number}" if number else "ref"][index[group]]
        return result


def _verification(store: _Store, folder: Path, split: str) -> dict[str, dict]:
    pairs = {}
    for kind in ("pos", "neg_intra", "neg_inter"):
        pairs[kind] = read_pairs(folder, kind, split)
        for patches in pairs[kind]:
            store.require_patches(patches, f"verif_{kind}_split-{split}.csv")
    counts = {len(first.index) for first, _ in pairs.values()}
    if len(counts) > 1:
        raise UserError(
            f"{folder}: the verification files of split {split} differ in length: {sorted(counts)}"
        )
    if int(min(counts) * _IMBALANCE) == 0:
        raise UserError(f"{folder}: verification needs 5 pairs of each kind, split {split} has {min(counts)}")
    results: dict[str, dict] = {}
    for level in LEVELS:
        positive, intra, inter = (_distances(store, *pairs[kind], level) for kind in pairs)
        fewer = np.sort(positive[: int(len(positive) * _IMBALANCE)])
        positive.sort()
        results[level] = {}
        for kind, negative in (("intra", intra), ("inter", inter)):
            negative.sort()
            results[level][kind] = {
                "balanced_auc": float(np.searchsorted(positive, negative).mean() / len(positive)),
                "imbalanced_ap": float(
                    _average_precision(np.searchsorted(negative, fewer, side="right"), len(fewer))
                ),
            }
    return results


def _distances(store: _Store, first: PatchList, second: PatchList, level: str) -> np.ndarray:
    distances = np.empty(len(first.index))
    for start in range(0, len(distances), _PAIRS):
        rows = slice(start, start + _PAIRS)
        distances[rows] = row_distances(store.gather(first, level, rows), store.gather(second, level, rows))
    return distances


def _matching(store: _Store, sequences: Sequence[str]) -> dict[str, dict]:
    results = {}
    for level in LEVELS:
        scores = [
            match_strips(store[name]["ref"], store[name][f"{level}{image}"])
            for name in sequences
            for image in store.images(name)
        ]
        ap, success_rate = np.mean(scores, axis=0)
        results[level] = {"ap": float(ap), "success_rate": float(success_rate)}
    return results


def _retrieval(store: _Store, folder: Path, split: str) -> dict[str, dict]:
    queries, distractors = (read_patches(folder, kind, split) for kind in ("queries", "distractors"))
    store.require_patches(queries, f"retr_queries_split-{split}.csv")
    store.require_patches(distractors, f"retr_distractors_split-{split}.csv")
    sequences = np.array(distractors.names)[distractors.sequence]
    # patches of the query's own sequence are no distractors
    others = {name: np.flatnonzero(sequences != name) for name in queries.names}
    for name, rows in others.items():
        if not len(rows):
            raise UserError(
                f"{folder}: retrieval needs distractors of other sequences, split {split} has none for the "
                f"queries of {name}"
            )
    # the first pool that has room for all distractors is the last that differs
    room = [pool - len(_IMAGES) for pool in _POOLS]
    most = max(map(len, others.values()))
    pools = [pool for pool, smaller in zip(_POOLS, (0, *room), strict=False) if smaller < most]
    references = store.gather(distractors, "e")
    precisions = np.zeros((len(queries.index), len(LEVELS), len(pools)))
    for code, name in enumerate(queries.names):
        rows = np.flatnonzero(queries.sequence == code)
        wrong = references[others[name]]
        for part in np.split(rows, range(_QUERIES, len(rows), _QUERIES)):
            precisions[part] = _rank(store[name], queries.index[part], wrong, pools)
    mean = precisions.mean(0)
    return {
        level: {str(pool): float(value) for pool, value in zip(pools, values, strict=True)}
        for level, values in zip(LEVELS, mean, strict=True)
    }


def _rank(
    strips: Mapping[str, np.ndarray], patches: np.ndarray, distractors: np.ndarray, pools: Sequence[int]
) -> np.ndarray:
    """(Q, levels, pools) average precision of queries of one sequence.

    Args:
        strips: descriptors of the sequence.
        patches: (Q,) the queries' numbers.
        distractors: (M, D) float64, of other sequences; a pool holds as many of the first as it has room for.
        pools: ascending sizes.
    """
    queries = strips["ref"][patches].astype(np.float64)
    names = [f"{level}{image}" for level in LEVELS for image in _IMAGES]
    right = row_distances(queries[:, None], np.stack([strips[name][patches] for name in names], 1)) ** 2
    # from one of them, as a common offset would hide the distances; such differences are exact of float32
    distractors, queries = distractors - queries[:1], queries - queries[:1]
    norms = np.einsum("nd,nd->n", distractors, distractors)
    query_norms = np.einsum("nd,nd->n", queries, queries)[:, None]
    wrong = query_norms - 2 * queries @ distractors.T + norms  # (Q, M) squared distances
    # of equal distances, the right ones come first
    limits = right - _TIE * (query_norms + norms.max(initial=0))
    counts = np.zeros((len(patches), len(pools), len(names)), int)
    ends = [min(pool - len(_IMAGES), len(distractors)) for pool in pools]
    for place, (start, end) in enumerate(zip((0, *ends), ends, strict=False)):
        added = np.sort(wrong[:, start:end], axis=1)
        for row, (distances, thresholds) in enumerate(zip(added, limits, strict=True)):
            counts[row, place] = np.searchsorted(distances, thresholds)
    before = np.cumsum(counts, axis=1).reshape(len(patches), len(pools), len(LEVELS), len(_IMAGES))
    # the nearer a right patch, the fewer wrong ones before it
    return _average_precision(np.sort(before, axis=-1), len(_IMAGES)).swapaxes(1, 2)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
