"""Top-1 and top-5 accuracy, and what is taken for what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardnet_suite.evaluation.coco import without_nan


@dataclass(frozen=True, eq=False)
class ClassificationScores:
    """Figures in [0, 1]; nan where there is nothing to measure them on.

    ``confusion``: (C, C) counts, row the true class, column the first guess. ``top5``: share of the images
    whose class is among the five first guesses.
    """

    confusion: np.ndarray
    top5: float

    @property
    def top1(self) -> float:
        """Share of the images whose class is the first guess."""
        total = self.confusion.sum()
        return float(np.trace(self.confusion) / total) if total else math.nan

    @property
    def per_class(self) -> np.ndarray:
        """(C,) share of each class's images that are right; nan for a class without images."""
        with np.errstate(invalid="ignore"):
            return np.diagonal(self.confusion) / self.confusion.sum(axis=1)

    @property
    def metrics(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5}

    def mistakes(self, most: int = 10) -> list[tuple[int, int, int]]:
        """(true class, guessed class, how often) of the most frequent mistakes."""
        counts = self.confusion.copy()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
        return [(int(i), int(j), int(counts[i, j])) for i, j in pairs if counts[i, j]]

    def report(self, classes: Sequence[str]) -> dict[str, Any]:
        """The metrics, and the accuracy of each class, for JSON: None in place of nan."""
        rows = zip(classes, self.per_class.tolist(), strict=True)
        return {"metrics": without_nan(self.metrics), "per_class": without_nan(dict(rows))}

    def table(self, classes: Sequence[str], most: int = 40) -> str:
        """Accuracy and number of images of each class that has some (the ``most`` worst where there are
        more), the most frequent mistakes, and the means, as aligned plain text."""
        counts, accuracy = self.confusion.sum(axis=1), self.per_class
        shown = [index for index in range(len(classes)) if counts[index]]
        if len(shown) > most:
            shown = sorted(shown, key=lambda index: accuracy[index])[:most]
        width = max([len("all images"), *(len(classes[index]) for index in shown)])
        head = "class" if len(shown) == np.count_nonzero(counts) else f"the {len(shown)} worst classes"
        width = max(width, len(head))
        lines = [f"{head:<{width}}  {'top-1':>6}  images"]
        lines += [f"{classes[i]:<{width}}  {accuracy[i]:6.4f}  {counts[i]:8d}" for i in shown]
        lines.append(f"{'all images':<{width}}  {_format(self.top1)}  {counts.sum():8d}")
        lines.append(f"{'top-5':<{width}}  {_format(self.top5)}")
        mistakes = self.mistakes(5)
        if mistakes:
            lines.append(
                "most often mistaken: "
                + ", ".join(f"{classes[i]} for {classes[j]} ({count})" for i, j, count in mistakes)
            )
        return "\n".join(lines)


def score_classes(scores: np.ndarray, labels: np.ndarray) -> ClassificationScores:
    """Accuracy of scores, of which the highest is the first guess; of equal ones the first class.

    Args:
        scores: (N, C) numbers, logits or probabilities.
        labels: (N,) whole numbers in [0, C).

    Raises:
        ValueError: other shapes, or a label outside its range.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores must be (N, C) and labels (N,), got {scores.shape} and {labels.shape}")
    guesses = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return score_guesses(guesses, labels, scores.shape[1])


def score_guesses(guesses: np.ndarray, labels: np.ndarray, count: int) -> ClassificationScores:
    """Accuracy of guesses.

    Args:
        guesses: (N, 5) class indices, best first; fewer columns where there are fewer classes.
        labels: (N,) whole numbers in [0, count).
        count: of classes.

    Raises:
        ValueError: other shapes, or a label outside its range.
    """
    guesses, labels = np.asarray(guesses), np.asarray(labels)
    if guesses.ndim != 2 or labels.shape != guesses.shape[:1] or guesses.shape[1] != min(5, count):
        raise ValueError(
            f"guesses must be (N, {min(5, count)}) and labels (N,), got {guesses.shape} and {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or (
        labels.size and not 0 <= labels.min() <= labels.max() < count
    ):
        raise ValueError(f"labels must be whole numbers in [0, {count})")
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, guesses[:, 0]), 1)
    top5 = float((guesses == labels[:, None]).any(axis=1).mean()) if labels.size else math.nan
    return ClassificationScores(confusion, top5)


def _format(value: float) -> str:
    return f"{'n/a':>6}" if math.isnan(value) else f"{value:6.4f}"
