"""Top-1 and top-5 accuracy, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardnet_suite.evaluation.coco import without_nan


@dataclass(frozen=True, eq=False)
class ClassificationScores:
    """Classification scores in [0, 1]; nan where there are no images to score.

    Attributes:
        confusion: (C, C) counts; rows are true classes, columns first guesses.
        top5: Fraction of the images whose class is among the first five guesses.
    """

    confusion: np.ndarray
    top5: float

    @property
    def top1(self) -> float:
        """Fraction of the images whose class is the first guess."""
        total = self.confusion.sum()
        return float(np.trace(self.confusion) / total) if total else math.nan

    @property
    def per_class(self) -> np.ndarray:
        """(C,) top-1 accuracy per class; nan for a class without images."""
        with np.errstate(invalid="ignore"):
            return np.diagonal(self.confusion) / self.confusion.sum(axis=1)

    @property
    def metrics(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5}

    def mistakes(self, most: int = 10) -> list[tuple[int, int, int]]:
        """The most frequent mistakes, as (true class, guessed class, count)."""
        counts = self.confusion.copy()
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
        return [(int(i), int(j), int(counts[i, j])) for i, j in pairs if counts[i, j]]

    def report(self, classes: Sequence[str]) -> dict[str, Any]:
        """The metrics and the accuracy per class, for JSON: None instead of nan."""
        rows = zip(classes, self.per_class.tolist(), strict=True)
        return {"metrics": without_nan(self.metrics), "per_class": without_nan(dict(rows))}

    def table(self, classes: Sequence[str], most: int = 40) -> str:
        """The scores as aligned plain text.

        Lists accuracy and number of images per class (only classes with images, and only the ``most`` worst
        of them), the totals, and the most frequent mistakes.

        Args:
            classes: Class names.
            most: Maximum number of classes listed.
        """
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
    """Scores logits or probabilities. The highest one is the first guess; ties go to the first class.

    Args:
        scores: (N, C) logits or probabilities.
        labels: (N,) integers in [0, C).

    Raises:
        ValueError: Unexpected shapes, or a label out of range.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"expected scores of shape (N, C) and labels of shape (N,), got {scores.shape} and {labels.shape}"
        )
    guesses = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return score_guesses(guesses, labels, scores.shape[1])


def score_guesses(guesses: np.ndarray, labels: np.ndarray, count: int) -> ClassificationScores:
    """Scores guesses.

    Args:
        guesses: (N, 5) class indices, best first; (N, count) with fewer than five classes.
        labels: (N,) integers in [0, count).
        count: Number of classes.

    Raises:
        ValueError: Unexpected shapes, or a label out of range.
    """
    guesses, labels = np.asarray(guesses), np.asarray(labels)
    if guesses.ndim != 2 or labels.shape != guesses.shape[:1] or guesses.shape[1] != min(5, count):
        raise ValueError(
            f"expected guesses of shape (N, {min(5, count)}) and labels of shape (N,), "
            f"got {guesses.shape} and {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or (
        labels.size and not 0 <= labels.min() <= labels.max() < count
    ):
        raise ValueError(f"expected integer labels in [0, {count})")
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, guesses[:, 0]), 1)
    top5 = float((guesses == labels[:, None]).any(axis=1).mean()) if labels.size else math.nan
    return ClassificationScores(confusion, top5)


def _format(value: float) -> str:
    return f"{'n/a':>6}" if math.isnan(value) else f"{value:6.4f}"
