from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardnet_suite.evaluation.geometry import (
    homography_auc,
    homography_error,
    inlier_count,
    mean_matching_accuracy,
    reprojection_errors,
)

SHIFT = np.array([[1, 0, 3], [0, 1, 4], [0, 0, 1]], float)
VIEW = np.array([[1.1, 0.1, -20], [-0.05, 0.9, 30], [1e-4, -2e-4, 1]])
POINTS = np.array([[0, 0], [10, 0], [0, 10], [50, 40], [7, 9]], float)
# x + y = 20 is mapped to infinity
HORIZON = np.array([[1, 0, 0], [0, 1, 0], [-0.05, -0.05, 1]])


def mapped(points: np.ndarray, homography: np.ndarray) -> np.ndarray:
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return homogeneous[:, :2] / homogeneous[:, 2:]


@pytest.mark.parametrize("scale", [1, -3, 1e-6])
def test_reprojection_errors(scale):
    errors = reprojection_errors(POINTS, POINTS, scale * SHIFT)
    np.testing.assert_allclose(errors, 5)  # a shift by (3, 4)
    offsets = np.array([[0, 0], [1, 0], [0, -2], [3, 4], [6, 8]])
    errors = reprojection_errors(POINTS, mapped(POINTS, VIEW) + offsets, scale * VIEW)
    np.testing.assert_allclose(errors, [0, 1, 2, 5, 10], atol=1e-9)


def test_points_beyond_the_horizon_are_no_matches():
    points = [[0, 0], [10, 10], [40, 40]]
    errors = reprojection_errors(points, mapped(np.array(points) + 1e-9, HORIZON), HORIZON)
    assert np.isfinite(errors).tolist() == [True, False, False]
    assert inlier_count(points, mapped(np.array(points) + 1e-9, HORIZON), HORIZON) == 1


def test_mean_matching_accuracy_and_inliers():
    offsets = np.array([[0, 0], [1, 0], [0, -2.5], [3, 4], [60, 80]])
    matches = mapped(POINTS, VIEW) + offsets
    accuracy = mean_matching_accuracy(POINTS, matches, VIEW)
    assert accuracy.tolist() == [0.4, 0.4, 0.6, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert mean_matching_accuracy(POINTS, matches, VIEW, [100.1]).tolist() == [1]
    assert [inlier_count(POINTS, matches, VIEW, t) for t in (0.5, 2, 3, 101)] == [1, 2, 3, 5]
    assert inlier_count(POINTS, matches, VIEW) == 3


def test_no_matches_are_no_right_ones():
    nothing = np.zeros((0, 2))
    assert mean_matching_accuracy(nothing, nothing, VIEW).tolist() == [0] * 10
    assert inlier_count(nothing, nothing, VIEW) == 0


@pytest.mark.parametrize(
    ("first", "second", "homography", "message"),
    [
        (POINTS, POINTS[1:], VIEW, r"one shape \(N, 2\)"),
        (POINTS[:, :1], POINTS[:, :1], VIEW, r"one shape \(N, 2\)"),
        (POINTS[0], POINTS[0], VIEW, r"one shape \(N, 2\)"),
        (POINTS * math.nan, POINTS, VIEW, "finite points"),
        (POINTS, POINTS + math.inf, VIEW, "finite points"),
        (POINTS, POINTS, VIEW[:2], "homography"),
        (POINTS, POINTS, np.zeros((3, 3)), "invertible"),
        (POINTS, POINTS, VIEW * math.nan, "finite homography"),
    ],
)
def test_bad_matches(first, second, homography, message):
    for measure in (reprojection_errors, mean_matching_accuracy, inlier_count):
        with pytest.raises(ValueError, match=message):
            measure(first, second, homography)


@pytest.mark.parametrize("thresholds", [[0], [-1, 2], [], [math.nan], [math.inf], 3])
def test_bad_thresholds(thresholds):
    with pytest.raises(ValueError, match="positive thresholds"):
        mean_matching_accuracy(POINTS, POINTS, VIEW, thresholds)
    with pytest.raises(ValueError, match="positive thresholds"):
        homography_auc([1, 2], thresholds)


def test_errors_of_homographies():
    size = (640, 480)
    assert homography_error(VIEW, VIEW, size) == 0
    assert homography_error(-2 * VIEW, VIEW, size) == pytest.approx(0, abs=1e-9)
    assert homography_error(SHIFT @ VIEW, VIEW, size) == pytest.approx(5)
    assert homography_error(np.diag([2, 1, 1]), np.eye(3), size) == pytest.approx(640 / 2)
    assert homography_error(np.diag([1, 2, 1]), np.eye(3), size) == pytest.approx(480 / 2)


@pytest.mark.parametrize(
    "estimate", [None, np.zeros((3, 3)), np.full((3, 3), math.nan), np.diag([1, 1, 0]), HORIZON]
)
def test_failed_estimates_are_infinitely_wrong(estimate):
    assert homography_error(estimate, VIEW, (640, 480)) == math.inf


@pytest.mark.parametrize(
    ("estimate", "homography", "size", "message"),
    [
        (VIEW, VIEW, (0, 480), "positive width"),
        (VIEW, VIEW, (640, -1), "positive width"),
        (VIEW, VIEW, (640, math.nan), "positive width"),
        (VIEW[:2], VIEW, (640, 480), "estimate of shape"),
        (VIEW, np.zeros((3, 3)), (640, 480), "invertible"),
        (None, HORIZON, (640, 480), "horizon"),
    ],
)
def test_bad_homographies(estimate, homography, size, message):
    with pytest.raises(ValueError, match=message):
        homography_error(estimate, homography, size)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0], [1, 1, 1, 1]),
        ([math.inf], [0, 0, 0, 0]),
        ([math.nan, 20], [0, 0, 0, 0]),
        # from (0, 0) to (2, 1), level from there on
        ([2], [0, (2 / 2 + 1) / 3, (2 / 2 + 3) / 5, (2 / 2 + 8) / 10]),
        ([2, math.inf], [0, (2 / 2 + 1) / 6, (2 / 2 + 3) / 10, (2 / 2 + 8) / 20]),
        ([1], [0, 2.5 / 3, 4.5 / 5, 9.5 / 10]),  # an error as large as the threshold is not below it
    ],
)
def test_areas_of_small_cases(errors, expected):
    assert homography_auc(errors) == pytest.approx(expected)


@given(
    st.lists(st.floats(0, 30, allow_subnormal=False) | st.just(math.inf), min_size=1, max_size=20),
    st.randoms(),
)
def test_areas_grow_with_the_threshold_and_fall_with_the_errors(errors, random):
    areas = homography_auc(errors, range(1, 31))
    assert (areas >= 0).all()
    assert (areas <= 1 + 1e-12).all()
    assert (np.diff(areas) >= -1e-9).all()
    assert (homography_auc([2 * error for error in errors], range(1, 31)) <= areas + 1e-9).all()
    shuffled = random.sample(errors, len(errors))
    assert (homography_auc(shuffled, range(1, 31)) == areas).all()


@pytest.mark.parametrize("errors", [[], [-1], [[1, 2]], 3])
def test_bad_errors(errors):
    with pytest.raises(ValueError, match="at least one error, not negative"):
        homography_auc(errors)
