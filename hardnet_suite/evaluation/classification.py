"""Top-1 and top-5 accuracy, and the confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardnet_suite.evaluation.coco import without_nan
from hardnet_suite.evaluation.tables import class_table


@dataclass(frozen=True, eq=False)
class ClassificationScores:
    """Classification scores in [0, 1]; nan where there are no images to score.

    Attributes:
        confusion: (C, C) counts; rows are true classes, columns first guesses.
        in_five: (C,) per true class, the images whose class is among the first five guesses.
    """

    confusion: np.ndarray
    in_five: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """(C,) images per true class."""
        return self.confusion.sum(axis=1)

    @property
    def top1(self) -> float:
        """Fraction of the images whose class is the first guess."""
        total = self.confusion.sum()
        return float(np.trace(self.confusion) / total) if total else math.nan

    @property
    def top5(self) -> float:
        """Fraction of the images whose class is among the first five guesses."""
        total = self.confusion.sum()
        return float(self.in_five.sum() / total) if total else math.nan

    @property
    def per_class(self) -> np.ndarray:
        """(C,) top-1 accuracy per class; nan for a class without images."""
        with np.errstate(invalid="ignore"):
            return np.diagonal(self.confusion) / self.counts

    @property
    def per_class_top5(self) -> np.ndarray:
        """(C,) top-5 accuracy per class; nan for a class without images."""
        with np.errstate(invalid="ignore"):
            return self.in_five / self.counts

    @property
    def metrics(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5}

    def mistakes(self, most: int = 10) -> list[tuple[int, int, int]]:
        """The most frequent mistakes, as (true class, guessed class, count)."""
        counts = self.confusion.copy()
        np.fill_diagonal(counts, 0)
        order = _descending(counts.ravel())[:most]
        pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
        return [(int(i), int(j), int(counts[i, j])) for i, j in pairs if counts[i, j]]

    def report(self, classes: Sequence[str]) -> dict[str, Any]:
        """The metrics, and accuracies and number of images per class, for JSON: None instead of nan."""
        columns = self.per_class.tolist(), self.per_class_top5.tolist(), self.counts.tolist()
        per_class = {
            name: without_nan({"top1": top1, "top5": top5, "images": count})
            for name, top1, top5, count in zip(classes, *columns, strict=True)
        }
        return {"metrics": without_nan(self.metrics), "per_class": per_class}

    def table(self, classes: Sequence[str], most: int | None = None) -> str:
        """The scores as aligned plain text.

        Lists accuracies and number of images per class with images, the totals, and the most frequent
        mistakes.

        Args:
            classes: Class names.
            most: With more classes than this, only the ten best and the ten worst are listed; None: all.
        """
        shown = np.flatnonzero(self.counts)
        columns = {"top-1": self.per_class, "top-5": self.per_class_top5, "images": self.counts}
        lines = [
            class_table(
                [classes[index] for index in shown],
                {name: values[shown].tolist() for name, values in columns.items()},
                totals={"all images": (self.top1, self.top5, int(self.confusion.sum()))},
                digits=4,
                most=most,
            )
        ]
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
        scores: (N, C) logits or probabilities, real numbers of any dtype; infinity is allowed.
        labels: (N,) integers in [0, C).

    Raises:
        ValueError: Unexpected shapes, a score that is NaN or no real number, or a label out of range.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or not scores.shape[1] or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"expected scores of shape (N, C) and labels of shape (N,), got {scores.shape} and {labels.shape}"
        )
    if scores.dtype.kind not in "biuf" or np.isnan(scores).any():
        raise ValueError("expected real numbers as scores, got NaN or another type")
    return score_guesses(_descending(scores)[:, :5], labels, scores.shape[1])


def score_guesses(guesses: np.ndarray, labels: np.ndarray, count: int) -> ClassificationScores:
    """Scores guesses.

    Args:
        guesses: (N, 5) integers in [0, count), best first; (N, count) with fewer than five classes.
        labels: (N,) integers in [0, count).
        count: Number of classes.

    Raises:
        ValueError: Unexpected shapes, or a guess or label out of range.
    """
    guesses, labels = np.asarray(guesses), np.asarray(labels)
    if guesses.ndim != 2 or labels.shape != guesses.shape[:1] or guesses.shape[1] != min(5, count):
        raise ValueError(
            f"expected guesses of shape (N, {min(5, count)}) and labels of shape (N,), "
            f"got {guesses.shape} and {labels.shape}"
        )
    guesses, labels = _classes("guesses", guesses, count), _classes("labels", labels, count)
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (labels, guesses[:, 0]), 1)
    right = labels[(guesses == labels[:, None]).any(axis=1)]
    return ClassificationScores(confusion, np.bincount(right, minlength=count))


def _descending(values: np.ndarray) -> np.ndarray:
    """Indices that sort the last axis from high to low, equal values in their order.

    The values are not negated: unsigned integers and the least signed one would wrap around.
    """
    order = np.argsort(values[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    return values.shape[-1] - 1 - order


def _classes(name: str, values: np.ndarray, count: int) -> np.ndarray:
    """Class indices as int64, checked."""
    if values.dtype.kind not in "iu" or (values.size and not 0 <= values.min() <= values.max() < count):
        raise ValueError(f"expected integer {name} in [0, {count})")
    return values.astype(np.int64)
