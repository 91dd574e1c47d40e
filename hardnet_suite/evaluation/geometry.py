"""How well matches between two images agree with the true homography, and the one estimated from them.

Points are (x, y) in pixels; a homography maps the first image to the second: x₂ ~ H x₁.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hardnet_suite.data.patch_frames import checked_homography, project_points

__all__ = [
    "homography_auc",
    "homography_error",
    "inlier_count",
    "mean_matching_accuracy",
    "reprojection_errors",
]


def reprojection_errors(points_a: ArrayLike, points_b: ArrayLike, homography: ArrayLike) -> np.ndarray:
    """The distance of each point of the second image from where the homography maps its match in the first.

    Args:
        points_a: (N, 2) in the first image.
        points_b: (N, 2) in the second image; row i matches row i.
        homography: (3, 3) of any scale.

    Returns:
        (N,) pixels; infinity for points at or beyond the homography's horizon.

    Raises:
        ValueError: other shapes, values that are not finite, or a homography that is not invertible.
    """
    first, second = (np.asarray(points, np.float64) for points in (points_a, points_b))
    if first.ndim != 2 or first.shape[1:] != (2,) or first.shape != second.shape:
        raise ValueError(f"expected points of one shape (N, 2), got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("expected finite points, got NaN or infinity")
    return _distances(project_points(first, homography)[0], second)


def mean_matching_accuracy(
    points_a: ArrayLike,
    points_b: ArrayLike,
    homography: ArrayLike,
    thresholds: Sequence[float] = range(1, 11),
) -> np.ndarray:
    """The share of the matches of an image pair that are right: MMA (Mikolajczyk and Schmid, TPAMI 2005).

    The mean over image pairs is what D2-Net and others plot over the thresholds.

    Args:
        points_a: (N, 2) in the first image.
        points_b: (N, 2) in the second image; row i matches row i.
        homography: (3, 3), the true one.
        thresholds: T pixels, positive; a match is right whose reprojection error is not larger.

    Returns:
        (T,) shares in [0, 1]; without matches, 0.

    Raises:
        ValueError: as for ``reprojection_errors``, or thresholds that are not positive.
    """
    limits = _thresholds(thresholds)
    errors = reprojection_errors(points_a, points_b, homography)
    if not len(errors):
        return np.zeros(len(limits))
    return (errors[:, None] <= limits).mean(0)


def inlier_count(
    points_a: ArrayLike, points_b: ArrayLike, homography: ArrayLike, threshold: float = 3
) -> int:
    """The number of matches of an image pair whose reprojection error is at most ``threshold`` pixels.

    Args:
        points_a: (N, 2) in the first image.
        points_b: (N, 2) in the second image; row i matches row i.
        homography: (3, 3), the true one or an estimate.
        threshold: pixels, positive.

    Raises:
        ValueError: as for ``mean_matching_accuracy``.
    """
    limit = _thresholds([threshold])
    return int((reprojection_errors(points_a, points_b, homography) <= limit).sum())


def homography_error(estimate: ArrayLike | None, homography: ArrayLike, size: tuple[int, int]) -> float:
    """The mean distance between the corners of the first image as an estimate maps them and as it is true.

    Args:
        estimate: (3, 3) of any scale; None where the estimation failed.
        homography: (3, 3), the true one.
        size: (width, height) of the first image, whose corners are (0, 0) … (width, height), as
            glue-factory has them.

    Returns:
        Pixels of the second image; infinity for an estimate that failed, is not finite or not invertible, or
        whose horizon crosses the image.

    Raises:
        ValueError: another shape, a size that is not positive, or a true homography that is not invertible or
            whose horizon crosses the image.
    """
    width, height = size
    if not (width > 0 and height > 0):
        raise ValueError(f"expected a positive width and height, got {width} and {height}")
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    expected, visible = project_points(corners, homography)
    if not visible.all():
        raise ValueError("the horizon of the true homography crosses the image")
    if estimate is None:
        return np.inf
    matrix = np.asarray(estimate, np.float64)
    if matrix.shape != (3, 3):
        raise ValueError(f"expected an estimate of shape (3, 3), got {matrix.shape}")
    try:
        checked_homography(matrix)
    except ValueError:  # a degenerate estimate is a failed one
        return np.inf
    return float(_distances(project_points(corners, matrix)[0], expected).mean())


def homography_auc(errors: ArrayLike, thresholds: Sequence[float] = (1, 3, 5, 10)) -> np.ndarray:
    """The area under the curve of recall over error, up to each threshold: AUC@1, 3, 5, 10 px.

    As SuperGlue and glue-factory define it: recall rises by 1 / N at each error, is joined by straight lines
    from (0, 0) on and stays level after the last error below the threshold; the area is divided by the
    threshold.

    Args:
        errors: (N,) not negative, one per image pair; infinity (or NaN) where the estimation failed.
        thresholds: T pixels, positive.

    Returns:
        (T,) areas in [0, 1].

    Raises:
        ValueError: no errors, negative ones, another shape, or thresholds that are not positive.
    """
    limits = _thresholds(thresholds)
    values = np.asarray(errors, np.float64)
    if values.ndim != 1 or not len(values) or (values < 0).any():
        raise ValueError(f"expected at least one error, not negative, of shape (N,), got {values.shape}")
    values = np.sort(np.where(np.isnan(values), np.inf, values))
    recall = np.arange(len(values) + 1) / len(values)
    values = np.append(0, values)
    areas = []
    for limit in limits:
        count = max(1, np.searchsorted(values, limit))
        area = np.trapezoid(np.append(recall[:count], recall[count - 1]), np.append(values[:count], limit))
        areas.append(area / limit)
    return np.array(areas)


def _thresholds(thresholds: Sequence[float]) -> np.ndarray:
    limits = np.asarray(thresholds, np.float64)
    if limits.ndim != 1 or not len(limits) or not np.isfinite(limits).all() or (limits <= 0).any():
        raise ValueError(f"expected positive thresholds in pixels, got {thresholds}")
    return limits


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    distances = np.hypot(*(first - second).T)
    return np.where(np.isnan(distances), np.inf, distances)
