"""The score of a patch descriptor during training and testing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from hardnet_suite.evaluation.descriptor import fpr95, fpr95_table, recall_threshold
from hardnet_suite.outputs import write_file


@dataclass(frozen=True)
class WrongPair:
    """A pair on the wrong side of its set's threshold.

    Attributes:
        set: name of the set.
        first: index of a patch.
        second: index of the other.
        label: 1 for patches of one point, 0 for others.
        distance: of the descriptors.
        threshold: the distance within which 95% of the pairs of one point lie.
    """

    set: str
    first: int
    second: int
    label: int
    distance: float
    threshold: float

    @property
    def severity(self) -> float:
        return abs(self.distance - self.threshold)


@METRICS.register_module()
class PatchFPR95(BaseMetric):
    """``fpr95``, the false-positive rate at 95 % recall, in [0, 1], lower is better: the mean over the sets.

    ``fpr95/NAME`` is that of one set, where there are several.

    Args:
        results_file: CSV file to save the distances to, one line per pair: set, first, second (indices of
            patches), same, distance. None saves nothing.
        collect_device: As in mmengine.

    Attributes:
        image_ids: After scoring, (set, first, second) of the pairs.
        details: After scoring, the metrics and the threshold of each set.
        summary: After scoring, the scores as a table.
        labels: After scoring, set -> (N,) 1 for pairs of one point.
        distances: After scoring, set -> (N,) distances of descriptors.
        thresholds: After scoring, set -> the distance within which 95% of the pairs of one point lie.
    """

    def __init__(self, results_file: str | None = None, collect_device: str = "cpu"):
        super().__init__(collect_device=collect_device)
        self.results_file = results_file
        self.image_ids: list[tuple[str, int, int]] = []
        self.details: dict[str, Any] = {}
        self.summary = ""
        self.labels: dict[str, np.ndarray] = {}
        self.distances: dict[str, np.ndarray] = {}
        self.thresholds: dict[str, float] = {}
        self._patches: dict[str, np.ndarray] = {}

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            self.results.append((*sample["name"], int(sample["label"]), float(sample["distance"])))

    def compute_metrics(self, results: list) -> dict[str, float]:
        names = self.dataset_meta["sets"]
        rows, distances = np.array([row[:4] for row in results]), np.array([row[4] for row in results])
        self.labels, self.distances, self.thresholds, self._patches = {}, {}, {}, {}
        scores = {}
        for number, name in enumerate(names):
            chosen = rows[:, 0] == number
            labels, own = rows[chosen, 3], distances[chosen]
            self.labels[name], self.distances[name], self._patches[name] = labels, own, rows[chosen, 1:3]
            scores[name] = fpr95(labels, own)
            self.thresholds[name] = recall_threshold(own[labels == 1])
        self.image_ids = [(names[row[0]], int(row[1]), int(row[2])) for row in rows]
        if self.results_file:
            self._save()
        metrics = {"fpr95": float(np.mean(list(scores.values())))}
        if len(names) > 1:
            metrics |= {f"fpr95/{name}": score for name, score in scores.items()}
        pairs = {name: len(labels) for name, labels in self.labels.items()}
        self.details = {
            "sets": {
                name: {"fpr95": scores[name], "pairs": pairs[name], "threshold": self.thresholds[name]}
                for name in names
            }
        }
        self.summary = fpr95_table(scores, pairs)
        MMLogger.get_current_instance().info("\n" + self.summary)
        return metrics

    def mistakes(self) -> Iterator[WrongPair]:
        """The pairs of one point beyond their set's threshold, and the others within."""
        for name, labels in self.labels.items():
            distances, threshold = self.distances[name], self.thresholds[name]
            wrong = np.flatnonzero((distances <= threshold) != (labels == 1))
            for index in wrong.tolist():
                first, second = map(int, self._patches[name][index])
                yield WrongPair(name, first, second, int(labels[index]), float(distances[index]), threshold)

    def _save(self) -> None:
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("set", "first", "second", "same", "distance"))
        for name, labels in self.labels.items():
            for pair, label, distance in zip(self._patches[name], labels, self.distances[name], strict=True):
                writer.writerow((name, *map(int, pair), int(label), f"{distance:.6f}"))
        write_file(Path(self.results_file), stream.getvalue())
