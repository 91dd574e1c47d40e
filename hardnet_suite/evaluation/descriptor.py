"""How well the distance of descriptors tells patches of one point from patches of different points.

The measure of the Brown et al. patch data (Liberty, Notre Dame, Yosemite): pairs of patches are accepted up
to a distance, and the fewer different pairs are among them, the better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from hardnet_suite.evaluation.tables import class_table

__all__ = ["fpr95", "fpr95_table", "pair_distances", "recall_threshold", "row_distances"]

_RECALL = 95  # percent
_BLOCK = 1 << 22  # values of a block of differences


def fpr95(labels: ArrayLike, distances: ArrayLike) -> float:
    """The false-positive rate at 95% recall: FPR95, the lower the better.

    The threshold is the smallest distance within which 95% of the matching pairs lie; the rate is the share
    of the other pairs within it. Pairs at the threshold itself all count, so that the order of the pairs has
    no effect: descriptors that are all equal score 1.

    Args:
        labels: (N,) 1 or True for pairs that match, 0 or False for the others.
        distances: (N,) numbers, smaller for pairs that are more alike; infinity is allowed.

    Returns:
        The rate, 0 to 1.

    Raises:
        ValueError: the shapes differ, labels of other values, a distance is NaN, or pairs of one kind are
            missing.
    """
    labels, distances = np.asarray(labels), np.asarray(distances)
    if labels.ndim != 1 or labels.shape != distances.shape:
        raise ValueError(
            f"expected labels and distances of one shape (N,), got {labels.shape} and {distances.shape}"
        )
    if distances.dtype.kind not in "fiu" or np.isnan(distances).any():
        raise ValueError("expected real numbers as distances, got NaN or another type")
    is_match = labels == 1
    if not (is_match | (labels == 0)).all():
        raise ValueError("expected labels of 0 and 1 alone")
    matches = distances[is_match]
    others = distances[~is_match]
    if not len(matches) or not len(others):
        raise ValueError(
            f"expected pairs that match and pairs that do not, got {len(matches)} and {len(others)}"
        )
    return float((others <= recall_threshold(matches)).mean())


def recall_threshold(distances: np.ndarray) -> float:
    """The smallest distance within which 95% of the matching pairs lie: the threshold of ``fpr95``.

    Args:
        distances: (N,) of the matching pairs, N at least 1.
    """
    rank = math.ceil(_RECALL * len(distances) / 100)
    return np.partition(distances, rank - 1)[rank - 1].item()


def fpr95_table(rates: Mapping[str, float], pairs: Mapping[str, int]) -> str:
    """FPR95 of each set of pairs in percent as aligned plain text; of several sets, their mean, too.

    Args:
        rates: set -> its rate, 0 to 1.
        pairs: set -> number of its pairs.
    """
    percents = [100 * rate for rate in rates.values()]
    columns = {"FPR95, %": percents, "pairs": [pairs[name] for name in rates]}
    mean = {"mean": (sum(percents) / len(percents), sum(pairs.values()))} if len(rates) > 1 else None
    return class_table(list(rates), columns, totals=mean, digits=2, heading="set")


def pair_distances(descriptors: ArrayLike, pairs: ArrayLike) -> np.ndarray:
    """The Euclidean distances of pairs of descriptors.

    Args:
        descriptors: (N, D) numbers.
        pairs: (M, 2) or more columns, integers; the first two are indices of descriptors.

    Returns:
        (M,) float64.

    Raises:
        ValueError: other shapes, or indices out of range.
    """
    descriptors, pairs = np.asarray(descriptors), np.asarray(pairs)
    if descriptors.ndim != 2:
        raise ValueError(f"expected descriptors of shape (N, D), got {descriptors.shape}")
    if pairs.ndim != 2 or pairs.shape[1] < 2 or pairs.dtype.kind not in "iu":
        raise ValueError(f"expected integer pairs of shape (M, 2), got {pairs.dtype} {pairs.shape}")
    if pairs.size and not (pairs[:, :2].min() >= 0 and pairs[:, :2].max() < len(descriptors)):
        raise ValueError(f"expected indices below {len(descriptors)}")
    distances = np.empty(len(pairs))
    step = max(1, _BLOCK // max(1, descriptors.shape[1]))
    for start in range(0, len(pairs), step):
        block = slice(start, start + step)
        distances[block] = row_distances(descriptors[pairs[block, 0]], descriptors[pairs[block, 1]])
    return distances


def row_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The Euclidean distance of each row of two arrays (…, D), in float64; the leading axes are broadcast."""
    difference = first.astype(np.float64) - second
    return np.sqrt(np.einsum("...d,...d->...", difference, difference))
