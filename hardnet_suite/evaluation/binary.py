"""Scores of masks of one class, as papers on polyp segmentation report them.

The definitions are those of the evaluation programs of PraNet (Fan et al., MICCAI 2020, arXiv 2006.11392):
structure measure (Fan et al., ICCV 2017, arXiv 1708.00786), enhanced-alignment measure (Fan et al., IJCAI
2018, arXiv 1805.10421), mean absolute error, and Dice and IoU at 256 thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.arange(256) / 255  # a pixel is of the class from its threshold on
_EPS = np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class MaskScores:
    """Scores of one image, in [0, 1].

    Attributes:
        dice: Dice coefficient of the predicted mask; 1 where neither mask has a pixel (PraNet's program: 0).
        iou: Intersection over union of the predicted mask; likewise.
        mae: Mean absolute error of the probabilities.
        structure: S-measure of the probabilities.
        dice_curve: (256,) Dice at each of ``THRESHOLDS``.
        iou_curve: (256,) likewise.
        alignment_curve: (256,) E-measure likewise.
    """

    dice: float
    iou: float
    mae: float
    structure: float
    dice_curve: np.ndarray
    iou_curve: np.ndarray
    alignment_curve: np.ndarray


def score_mask(
    target: np.ndarray, prediction: np.ndarray, probabilities: np.ndarray, *, stretch: bool = True
) -> MaskScores:
    """Scores one image.

    Args:
        target: (H, W) boolean, the true mask.
        prediction: (H, W) boolean, the predicted mask, for ``dice`` and ``iou``.
        probabilities: (H, W) in [0, 1], for the other scores.
        stretch: Map the probabilities of the image linearly to 0…1, as PraNet's program does; constant ones
            stay.

    Raises:
        ValueError: Different shapes, an empty image, or values out of range.
    """
    target, probabilities = _checked(target, probabilities)
    if prediction.dtype != bool or prediction.shape != target.shape:
        raise ValueError(
            f"expected a boolean prediction of shape {target.shape}, "
            f"got {prediction.dtype} {prediction.shape}"
        )
    counts = [float((prediction & mask).sum()) for mask in (target, ~target)]
    dice, iou = (float(value) for value in _overlap(*counts, target.sum()))
    low, high = probabilities.min(), probabilities.max()
    if stretch and high > low:
        probabilities = (probabilities - low) / (high - low)
    true_positive, false_positive = _counts(target, probabilities)
    dice_curve, iou_curve = _overlap(true_positive, false_positive, target.sum())
    return MaskScores(
        dice=dice,
        iou=iou,
        mae=float(np.abs(probabilities - target).mean()),
        structure=structure_measure(target, probabilities),
        dice_curve=dice_curve,
        iou_curve=iou_curve,
        alignment_curve=_alignment(true_positive, false_positive, int(target.sum()), target.size),
    )


def summarize_masks(scores: Sequence[MaskScores]) -> dict[str, float]:
    """Means over the images; nan without any.

    Returns:
        ``Dice`` and ``IoU`` of the predicted masks, ``MAE``, ``Sm`` (S-measure); of the means over the images
        at each threshold, ``meanDice``, ``meanIoU`` and ``meanEm`` (E-measure) average over the thresholds,
        as PraNet's tables do, and ``maxDice``, ``maxIoU`` and ``maxEm`` take the best one.
    """
    names = {"dice": "Dice", "iou": "IoU", "alignment": "Em"}
    if not scores:
        kinds = [f"{kind}{name}" for name in names.values() for kind in ("mean", "max")]
        return dict.fromkeys(["Dice", "IoU", "MAE", "Sm", *kinds], math.nan)
    means = {"Dice": "dice", "IoU": "iou", "MAE": "mae", "Sm": "structure"}
    summary = {
        name: float(np.mean([getattr(score, field) for score in scores])) for name, field in means.items()
    }
    for field, name in names.items():
        curve = np.mean([getattr(score, f"{field}_curve") for score in scores], axis=0)
        summary |= {f"mean{name}": float(curve.mean()), f"max{name}": float(curve.max())}
    return summary


def structure_measure(target: np.ndarray, probabilities: np.ndarray, alpha: float = 0.5) -> float:
    """S-measure: ``alpha`` · object similarity + (1 − ``alpha``) · region similarity, at least 0.

    Without any pixel of the class, 1 − the mean probability; without any other pixel, the mean probability.

    Args:
        target: (H, W) boolean.
        probabilities: (H, W) in [0, 1].
        alpha: Weight of the object similarity.
    """
    target, probabilities = _checked(target, probabilities)
    share = target.mean()
    if share in (0, 1):
        return float(probabilities.mean() if share else 1 - probabilities.mean())
    objects = share * _object(probabilities[target]) + (1 - share) * _object(1 - probabilities[~target])
    return max(float(alpha * objects + (1 - alpha) * _regions(target, probabilities)), 0.0)


def enhanced_alignment(target: np.ndarray, prediction: np.ndarray) -> float:
    """E-measure of a binary mask.

    The sum over the pixels is divided by their number less 1, as in the authors' program.

    Args:
        target: (H, W) boolean.
        prediction: (H, W) boolean.
    """
    target, prediction = (array.astype(bool) for array in _checked(target, prediction))
    counts = (np.array([float((prediction & mask).sum())]) for mask in (target, ~target))
    return float(_alignment(*counts, int(target.sum()), target.size)[0])


def _checked(target: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target, probabilities = np.asarray(target), np.asarray(probabilities)
    if target.dtype != bool or target.ndim != 2 or target.shape != probabilities.shape or not target.size:
        raise ValueError(
            "expected a boolean target and probabilities of the same shape (H, W), "
            f"got {target.dtype} {target.shape} and {probabilities.shape}"
        )
    probabilities = probabilities.astype(np.float64)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("expected probabilities from 0 to 1")
    return target, probabilities


def _counts(target: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(256,) numbers of pixels from each threshold on, of the class and of the background."""
    levels = np.searchsorted(THRESHOLDS, probabilities, side="right") - 1  # the last threshold reached
    found = (np.bincount(levels[mask], minlength=256) for mask in (target, ~target))
    true_positive, false_positive = (counts[::-1].cumsum()[::-1].astype(float) for counts in found)
    return true_positive, false_positive


def _overlap(
    true_positive: np.ndarray, false_positive: np.ndarray, positive: int
) -> tuple[np.ndarray, np.ndarray]:
    """Dice and IoU; 1 where neither mask has a pixel, for which PraNet's program counts 0."""
    predicted = np.asarray(true_positive + false_positive)
    total, union = predicted + positive, predicted + positive - true_positive
    with np.errstate(invalid="ignore"):
        return (
            np.where(total == 0, 1.0, 2 * true_positive / total),
            np.where(union == 0, 1.0, true_positive / union),
        )


def _alignment(true_positive: np.ndarray, false_positive: np.ndarray, positive: int, size: int) -> np.ndarray:
    """E-measure of binary masks of the same image, from their numbers of pixels."""
    predicted = true_positive + false_positive
    if positive == 0:
        total = size - predicted
    elif positive == size:
        total = predicted
    else:
        total = np.zeros_like(predicted)
        mean_target, mean_predicted = positive / size, predicted / size
        for truth, found, count in (
            (1, 1, true_positive),
            (1, 0, positive - true_positive),
            (0, 1, false_positive),
            (0, 0, size - positive - false_positive),
        ):
            a, b = truth - mean_target, found - mean_predicted
            total = total + count * (2 * a * b / (a**2 + b**2 + _EPS) + 1) ** 2 / 4
    return total / (size - 1 + _EPS)


def _object(values: np.ndarray) -> float:
    """Similarity of an object's probabilities to 1."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _regions(target: np.ndarray, probabilities: np.ndarray) -> float:
    """Structural similarity of the four parts around the centre of the true mask, weighted by their areas."""
    rows, columns = np.nonzero(target)
    bottom, right = (
        math.floor(where.mean() + 0.5) + 1 for where in (rows, columns)
    )  # ends of the first part
    total = 0.0
    for vertical in (slice(None, bottom), slice(bottom, None)):
        for horizontal in (slice(None, right), slice(right, None)):
            truth = target[vertical, horizontal]
            if truth.size:
                part = _similarity(truth.astype(np.float64), probabilities[vertical, horizontal])
                total += truth.size / target.size * part
    return total


def _similarity(truth: np.ndarray, found: np.ndarray) -> float:
    mean_found, mean_truth = found.mean(), truth.mean()
    rest = found.size - 1 + _EPS
    variances = (((found - mean_found) ** 2).sum() + ((truth - mean_truth) ** 2).sum()) / rest
    covariance = ((found - mean_found) * (truth - mean_truth)).sum() / rest
    numerator = 4 * mean_found * mean_truth * covariance
    denominator = (mean_found**2 + mean_truth**2) * variances
    if numerator != 0:
        return numerator / (denominator + _EPS)
    return 1.0 if denominator == 0 else 0.0
