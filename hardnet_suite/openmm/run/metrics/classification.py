"""Classification scores during training and testing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from hardnet_suite.data.classes import readable
from hardnet_suite.evaluation.classification import score_guesses
from hardnet_suite.evaluation.tables import MOST_CLASSES
from hardnet_suite.inference import logits_to_guesses
from hardnet_suite.outputs import writing


@METRICS.register_module()
class ImageClassification(BaseMetric):
    """``top1`` and ``top5`` accuracy, in [0, 1].

    Args:
        results_file: File to save the guesses to, one JSON line per image with ``name``, ``label`` and the
            first five ``guesses`` with their ``probabilities``; None saves nothing.
        collect_device: As in mmengine.

    Attributes:
        image_ids: After scoring, the names of the images.
        details: After scoring, the metrics and the accuracies per class.
        summary: After scoring, the scores as a table, of many classes the best and the worst.
        guesses: After scoring, (name, label, first five guesses, their probabilities, cross-entropy of the
            label) of each image.
        confusion: After scoring, (C, C) counts; rows are true classes, columns first guesses.
    """

    def __init__(self, results_file: str | None = None, collect_device: str = "cpu"):
        super().__init__(collect_device=collect_device)
        self.results_file = results_file
        self.image_ids: list[str] = []
        self.details: dict[str, Any] = {}
        self.summary = ""
        self.guesses: list[tuple[str, int, list[int], list[float], float]] = []
        self.confusion = np.zeros((0, 0), np.int64)

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            answer = logits_to_guesses(sample["scores"][None])[0]
            # five only: the scores of all classes would fill the memory
            guesses, shares = answer.labels[:5].tolist(), answer.scores[:5].tolist()
            label, logits = int(sample["label"]), sample["scores"].float()
            loss = float(logits.logsumexp(0) - logits[label])
            self.results.append((sample["name"], label, guesses, shares, loss))

    def compute_metrics(self, results: list) -> dict[str, float]:
        classes = self.dataset_meta["classes"]
        names, labels, guesses, *_ = zip(*results, strict=True)  # mmengine has dropped the ranks' duplicates
        self.image_ids, self.guesses = list(names), results
        if self.results_file:
            self._save(results, classes)
        scores = score_guesses(np.array(guesses), np.array(labels), len(classes))
        self.details, self.confusion = scores.report(classes), scores.confusion
        self.summary = scores.table(readable(classes), MOST_CLASSES)
        MMLogger.get_current_instance().info("\n" + scores.table(readable(classes)))
        return scores.metrics

    def _save(self, results: list, classes: Sequence[str]) -> None:
        path = Path(self.results_file)
        with writing(path), path.open("w", encoding="utf-8") as stream:
            for name, label, guesses, shares, _ in results:
                row = {
                    "name": name,
                    "label": classes[label],
                    "guesses": [classes[index] for index in guesses],
                    "probabilities": [round(share, 6) for share in shares],
                }
                stream.write(json.dumps(row) + "\n")
