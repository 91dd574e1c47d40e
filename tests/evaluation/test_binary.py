"""Scores of masks against naive loops over their pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hardnet_suite.evaluation.binary import (
    THRESHOLDS,
    enhanced_alignment,
    score_mask,
    structure_measure,
    summarize_masks,
)

EPS = 2.220446049250313e-16


def case(seed, height=9, width=11, share=0.4):
    """A true mask, and probabilities that agree with it more or less."""
    random = np.random.default_rng(seed)
    target = np.zeros((height, width), bool)
    top, left = random.integers(height // 2 + 1), random.integers(width // 2 + 1)
    target[top : top + max(1, int(share * height)), left : left + max(1, int(share * width))] = True
    return target, np.clip(0.6 * target + 0.4 * random.random((height, width)), 0, 1)


CASES = [case(seed, *size) for seed, size in enumerate([(9, 11), (8, 8), (1, 7), (7, 1), (16, 5), (2, 2)])]


def pixels(array):
    return [value for row in array.tolist() for value in row]


def naive_overlap(target, found):
    both = sum(t and f for t, f in zip(pixels(target), pixels(found), strict=True))
    total = sum(pixels(target)) + sum(pixels(found))
    return 2 * both / total, both / (total - both)


def naive_alignment(target, found):
    truth, predicted = [float(t) for t in pixels(target)], [float(f) for f in pixels(found)]
    n = len(truth)
    if sum(truth) == 0:
        terms = [1 - f for f in predicted]
    elif sum(truth) == n:
        terms = predicted
    else:
        mean_truth, mean_found = sum(truth) / n, sum(predicted) / n
        terms = []
        for t, f in zip(truth, predicted, strict=True):
            a, b = t - mean_truth, f - mean_found
            terms.append((2 * a * b / (a * a + b * b + EPS) + 1) ** 2 / 4)
    return sum(terms) / (n - 1 + EPS)


def mean(values):
    return sum(values) / len(values)


def naive_object(values):
    x = mean(values)
    spread = math.sqrt(sum((v - x) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0
    return 2 * x / (x * x + 1 + spread + EPS)


def naive_similarity(truth, found):
    n, x, y = len(found), mean(found), mean(truth)
    variance_x = sum((f - x) ** 2 for f in found) / (n - 1 + EPS)
    variance_y = sum((t - y) ** 2 for t in truth) / (n - 1 + EPS)
    covariance = sum((f - x) * (t - y) for f, t in zip(found, truth, strict=True)) / (n - 1 + EPS)
    over, under = 4 * x * y * covariance, (x * x + y * y) * (variance_x + variance_y)
    if over != 0:
        return over / (under + EPS)
    return 1.0 if under == 0 else 0.0


def naive_structure(target, found):
    height, width = target.shape
    inside = [(i, j) for i in range(height) for j in range(width) if target[i, j]]
    share = len(inside) / target.size
    fore = [found[i, j] for i, j in inside]
    back = [1 - found[i, j] for i in range(height) for j in range(width) if not target[i, j]]
    objects = share * naive_object(fore) + (1 - share) * naive_object(back)
    # the centre counted from 1 and rounded half up, as in MATLAB
    y = math.floor(mean([i + 1 for i, _ in inside]) + 0.5)
    x = math.floor(mean([j + 1 for _, j in inside]) + 0.5)
    regions = 0.0
    for rows in (range(y), range(y, height)):
        for columns in (range(x), range(x, width)):
            places = [(i, j) for i in rows for j in columns]
            if places:
                truth, values = ([float(a[i, j]) for i, j in places] for a in (target, found))
                regions += len(places) / target.size * naive_similarity(truth, values)
    return max(0.5 * objects + 0.5 * regions, 0.0)


@pytest.mark.parametrize(("target", "found"), CASES)
def test_scores_are_those_of_naive_loops(target, found):
    scores = score_mask(target, found > 0.5, found, stretch=False)
    assert (scores.dice, scores.iou) == pytest.approx(naive_overlap(target, found > 0.5))
    assert scores.mae == pytest.approx(
        mean([abs(t - f) for t, f in zip(pixels(target), pixels(found), strict=True)])
    )
    assert scores.structure == pytest.approx(naive_structure(target, found))
    for index, threshold in enumerate(THRESHOLDS):
        predicted = found >= threshold
        assert (scores.dice_curve[index], scores.iou_curve[index]) == pytest.approx(
            naive_overlap(target, predicted)
        )
        alignment = naive_alignment(target, predicted)
        assert scores.alignment_curve[index] == pytest.approx(alignment)
        assert enhanced_alignment(target, predicted) == pytest.approx(alignment)


@pytest.mark.parametrize("value", [0.0, 1 / 255, 127 / 255, 0.5, 254.4 / 255, 1.0])
def test_a_pixel_is_of_the_class_from_its_threshold_on(value):
    target = np.ones((1, 2), bool)
    curve = score_mask(target, target, np.array([[value, 1.0]]), stretch=False).iou_curve
    assert curve.tolist() == [1.0 if value >= threshold else 0.5 for threshold in THRESHOLDS]


def test_the_true_mask_scores_best():
    target, _ = CASES[0]
    scores = score_mask(target, target, target.astype(float))
    assert (scores.dice, scores.iou, scores.mae) == (1, 1, 0)
    assert scores.structure == pytest.approx(1)
    assert scores.dice_curve[1:] == pytest.approx(1)
    assert scores.alignment_curve[1:] == pytest.approx(target.size / (target.size - 1))


@pytest.mark.parametrize("full", [False, True])
def test_masks_without_the_class_and_without_background(full):
    target, found = np.full((4, 5), full), np.full((4, 5), 0.25)
    scores = score_mask(target, found > 0.5, found)
    assert scores.structure == pytest.approx(0.25 if full else 0.75)
    assert (scores.dice, scores.iou) == ((0, 0) if full else (1, 1))  # both empty: they agree
    assert scores.alignment_curve == pytest.approx([naive_alignment(target, found >= t) for t in THRESHOLDS])


def test_probabilities_are_stretched_as_in_pranets_program():
    target, found = CASES[1]
    narrow = 0.2 + 0.1 * found
    stretched = score_mask(target, found > 0.5, narrow)
    plain = score_mask(
        target, found > 0.5, (narrow - narrow.min()) / (narrow.max() - narrow.min()), stretch=False
    )
    assert stretched.mae == pytest.approx(plain.mae)
    assert stretched.structure == pytest.approx(plain.structure)
    assert (stretched.dice_curve == plain.dice_curve).all()
    assert score_mask(target, found > 0.5, np.full(target.shape, 0.3)).mae == pytest.approx(
        np.abs(target - 0.3).mean()
    )


def test_the_summary_averages_images_then_thresholds():
    scores = [score_mask(target, found > 0.5, found) for target, found in CASES[:3]]
    summary = summarize_masks(scores)
    assert [*summary] == [
        *("Dice", "IoU", "MAE", "Sm", "meanDice", "maxDice", "meanIoU", "maxIoU", "meanEm", "maxEm")
    ]
    assert summary["Dice"] == pytest.approx(mean([score.dice for score in scores]))
    assert summary["Sm"] == pytest.approx(mean([score.structure for score in scores]))
    curve = [mean([score.dice_curve[k] for score in scores]) for k in range(256)]
    assert (summary["meanDice"], summary["maxDice"]) == pytest.approx((mean(curve), max(curve)))
    assert all(math.isnan(value) for value in summarize_masks([]).values())
    assert summarize_masks([]).keys() == summary.keys()


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2))),
        (np.zeros((2, 2), bool), np.zeros((2, 3))),
        (np.zeros(4, bool), np.zeros(4)),
        (np.zeros((0, 2), bool), np.zeros((0, 2))),
        (np.zeros((1, 1), bool), np.array([[1.5]])),
        (np.zeros((1, 1), bool), np.array([[math.nan]])),
    ],
)
def test_other_arrays_are_refused(target, found):
    with pytest.raises(ValueError, match="expected"):
        structure_measure(target, found)
    with pytest.raises(ValueError, match="expected"):
        score_mask(target, found > 0.5, found)


def test_the_predicted_mask_is_boolean():
    target, found = CASES[0]
    for prediction in (found, (found > 0.5)[:, 1:]):
        with pytest.raises(ValueError, match="expected a boolean prediction"):
            score_mask(target, prediction, found)
