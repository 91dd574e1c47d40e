"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4), as COCO scores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardnet_suite.evaluation.coco import without_nan
from hardnet_suite.evaluation.tables import class_table

__all__ = ["MATCH_IOU", "PanopticScores", "TrueSegment", "match_segments", "score_segments"]

MATCH_IOU = 0.5  # above it, a predicted segment matches a true one: no segment can match two
_TP, _FP, _FN, _IOU = range(4)


@dataclass(frozen=True)
class TrueSegment:
    """What a label image's id means: a class index, and whether the region is a crowd (of the truth)."""

    label: int
    iscrowd: bool = False


@dataclass(frozen=True, eq=False)
class PanopticScores:
    """Panoptic quality, PQ = SQ · RQ, in [0, 1]; nan where there is nothing to measure it on.

    Attributes:
        classes: class names.
        counts: (C, 4) matched, false and missed segments per class, and the sum of the matches' IoU.
        things: number of classes that have instances; they come first.
    """

    classes: tuple[str, ...]
    counts: np.ndarray
    things: int

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Class name -> its "PQ", "SQ" (mean IoU of the matches), "RQ" (F1 score) and "segments" to find."""
        rows = {}
        for name, (hits, false, missed, iou) in zip(self.classes, self.counts, strict=True):
            size = hits + 0.5 * false + 0.5 * missed
            measured = size > 0
            rows[name] = {
                "PQ": float(iou / size) if measured else float("nan"),
                "SQ": float(iou / hits) if hits else 0.0 if measured else float("nan"),
                "RQ": float(hits / size) if measured else float("nan"),
                "segments": int(hits + missed),
            }
        return rows

    @property
    def metrics(self) -> dict[str, float]:
        """PQ, SQ and RQ: means over the classes that occur, in the truth or predicted; then those of the
        things and of the stuff (``PQ_things`` …)."""
        rows = list(self.per_class.values())
        groups = {"": rows, "_things": rows[: self.things], "_stuff": rows[self.things :]}
        return {
            f"{figure}{group}": _mean([row[figure] for row in members])
            for group, members in groups.items()
            for figure in ("PQ", "SQ", "RQ")
        }

    def table(self, most: int | None = None) -> str:
        """PQ, SQ, RQ and segments per class, and the means, as aligned plain text.

        Args:
            most: as of ``tables.class_table``.
        """
        rows, metrics = list(self.per_class.values()), self.metrics
        columns = {key: [row[key] for row in rows] for key in ("PQ", "SQ", "RQ", "segments")}
        totals = {
            name: [*(metrics[f"{figure}{group}"] for figure in ("PQ", "SQ", "RQ")), None]
            for name, group in (("all", ""), ("things", "_things"), ("stuff", "_stuff"))
        }
        return class_table(self.classes, columns, totals=totals, most=most)

    def report(self) -> dict[str, Any]:
        """The figures and those of each class, for JSON: None instead of nan."""
        return {
            "metrics": without_nan(self.metrics),
            "per_class": {name: without_nan(row) for name, row in self.per_class.items()},
        }


def match_segments(
    truth: np.ndarray,
    true_segments: Mapping[int, TrueSegment],
    prediction: np.ndarray,
    predicted_labels: Mapping[int, int],
    num_classes: int,
) -> np.ndarray:
    """Matched, false and missed segments of one image per class, and the sum of the matches' IoU.

    A predicted segment matches a true one of its class where their IoU, void pixels of the truth left out,
    is above 0.5. Crowds of the truth match nothing and are not missed; a predicted segment that matches
    nothing is not false if more than half of it is void or a crowd of its class.

    Args:
        truth: (H, W) ids, 0: void.
        true_segments: id -> what it means; the ids are those of ``truth``.
        prediction: (H, W) ids, 0: nothing.
        predicted_labels: id -> class index; the ids are those of ``prediction``.
        num_classes: number of classes C.

    Returns:
        (C, 4) float64.

    Raises:
        ValueError: sizes or ids that differ.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"the truth is of shape {truth.shape}, the prediction of {prediction.shape}")
    true_ids, true_index = np.unique(truth, return_inverse=True)
    predicted_ids, predicted_index = np.unique(prediction, return_inverse=True)
    for what, ids, known in (
        ("truth", true_ids, true_segments),
        ("prediction", predicted_ids, predicted_labels),
    ):
        if set(ids.tolist()) - {0} != set(known):
            raise ValueError(f"the {what} has the ids {set(ids.tolist()) - {0}}, expected {set(known)}")
    pairs = true_index.ravel() * len(predicted_ids) + predicted_index.ravel()
    shape = len(true_ids), len(predicted_ids)
    shared = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    true_areas, areas = shared.sum(1), shared.sum(0)
    void = shared[true_ids == 0].sum(0)  # (predicted ids,) pixels

    counts = np.zeros((num_classes, 4))
    matched_true, matched = set(), set()
    for i, j in np.argwhere(shared):
        true_id, predicted_id = int(true_ids[i]), int(predicted_ids[j])
        if 0 in (true_id, predicted_id) or true_segments[true_id].iscrowd:
            continue
        label = predicted_labels[predicted_id]
        iou = shared[i, j] / (true_areas[i] + areas[j] - shared[i, j] - void[j])
        if true_segments[true_id].label == label and iou > MATCH_IOU:
            counts[label, _TP] += 1
            counts[label, _IOU] += iou
            matched_true.add(true_id)
            matched.add(predicted_id)
    for true_id, segment in true_segments.items():
        if true_id not in matched_true and not segment.iscrowd:
            counts[segment.label, _FN] += 1
    for predicted_id, label in predicted_labels.items():
        if predicted_id in matched:
            continue
        j = int(np.searchsorted(predicted_ids, predicted_id))
        crowds = [key for key, segment in true_segments.items() if segment.iscrowd and segment.label == label]
        excused = void[j] + shared[np.isin(true_ids, crowds), j].sum()
        if excused / areas[j] <= MATCH_IOU:
            counts[label, _FP] += 1
    return counts


def score_segments(counts: np.ndarray, classes: Sequence[str], things: int) -> PanopticScores:
    """The scores of a data set.

    Args:
        counts: (C, 4), the sum of the images' ``match_segments``.
        classes: C names, those of things first.
        things: number of things.
    """
    return PanopticScores(tuple(classes), np.asarray(counts, float), things)


def _mean(values: Sequence[float]) -> float:
    measured = [value for value in values if value == value]
    return sum(measured) / len(measured) if measured else float("nan")
