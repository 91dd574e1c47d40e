from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardnet_suite.evaluation.descriptor import fpr95, fpr95_table, pair_distances, recall_threshold

DISTANCES = st.lists(st.tuples(st.booleans(), st.integers(-5, 5)), min_size=2, max_size=60).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


def test_the_original_answers_the_same(golden):
    arrays = golden.arrays("functions.npz")
    labels, distances = arrays["fpr95_labels"], arrays["fpr95_distances"]
    assert fpr95(labels, distances) == pytest.approx(arrays["fpr95"].item(), abs=1e-12)
    assert fpr95(torch.tensor(labels), torch.tensor(distances)) == fpr95(labels.astype(bool), distances)


@pytest.mark.parametrize(
    ("labels", "distances", "expected"),
    [
        ([1, 0], [0, 1], 0),
        ([1, 0], [1, 0], 1),
        ([1, 1, 0, 0], [0, 2, 1, 3], 0.5),
        ([0, 1], [1, 1], 1),  # equal descriptors tell nothing
        ([1, 0, 0], [math.inf, 2, math.inf], 1),
        ([1] * 20 + [0, 0], [*range(19), 90, 18.5, 80], 0),  # the twentieth lies beyond 95%
        ([1] * 19 + [0, 0], [*range(18), 90, 18.5, 95], 0.5),  # of nineteen, all must be found
    ],
)
def test_small_cases(labels, distances, expected):
    assert fpr95(labels, distances) == expected


@given(DISTANCES, st.randoms())
def test_as_counted_over_all_thresholds(pairs, random):
    """The lowest rate among the thresholds that keep 95% of the matches, whatever the order of the pairs."""
    labels, distances = (np.array(column) for column in zip(*pairs, strict=True))
    rates = [
        (distances[~labels] <= threshold).mean()
        for threshold in distances
        if 100 * (distances[labels] <= threshold).sum() >= 95 * labels.sum()
    ]
    assert fpr95(labels, distances) == pytest.approx(min(rates), abs=1e-12)
    order = random.sample(range(len(labels)), len(labels))
    assert fpr95(labels[order], distances[order]) == fpr95(labels, distances)
    assert fpr95(labels, 2.0 * distances + 7) == fpr95(labels, distances)  # the scale has no effect


@pytest.mark.parametrize(
    ("labels", "distances", "message"),
    [
        ([], [], "got 0 and 0"),
        ([1, 1], [0, 1], "got 2 and 0"),
        ([0, 0, 0], [0, 1, 2], "got 0 and 3"),
        ([0, 1], [0, math.nan], "got NaN"),
        ([0, 1], ["a", "b"], "another type"),
        ([0, 1], [0, 1j], "another type"),
        ([0, 1], [0], r"got \(2,\) and \(1,\)"),
        ([[0, 1]], [[0, 1]], r"one shape \(N,\)"),
        ([1, -1], [0, 1], "labels of 0 and 1"),
        ([0, 2], [0, 1], "labels of 0 and 1"),
        ([0, math.nan], [0, 1], "labels of 0 and 1"),
    ],
)
def test_bad_input(labels, distances, message):
    with pytest.raises(ValueError, match=message):
        fpr95(labels, distances)


def test_distances_of_pairs(monkeypatch):
    monkeypatch.setattr("hardnet_suite.evaluation.descriptor._BLOCK", 7)  # several blocks
    descriptors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    pairs = np.random.default_rng(1).integers(0, 9, (30, 3))
    expected = [np.linalg.norm(descriptors[i].astype(float) - descriptors[j]) for i, j, _ in pairs]
    np.testing.assert_allclose(pair_distances(descriptors, pairs), expected, rtol=1e-12)
    assert pair_distances(descriptors, np.zeros((0, 2), int)).shape == (0,)
    assert pair_distances(np.array([[0], [255]], np.uint8), np.array([[0, 1]])) == [255]


@pytest.mark.parametrize(
    ("descriptors", "pairs", "message"),
    [
        (np.zeros(3), np.zeros((1, 2), int), "descriptors of shape"),
        (np.zeros((3, 2)), np.zeros((1, 1), int), "pairs of shape"),
        (np.zeros((3, 2)), np.zeros((1, 2)), "integer pairs"),
        (np.zeros((3, 2)), np.array([[0, 3]]), "indices below 3"),
        (np.zeros((3, 2)), np.array([[-1, 0]]), "indices below 3"),
    ],
)
def test_pairs_of_other_shapes(descriptors, pairs, message):
    with pytest.raises(ValueError, match=message):
        pair_distances(descriptors, pairs)


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 40, 100, 60_000])
def test_the_threshold_keeps_95_percent_and_no_more(count):
    distances = np.random.default_rng(count).random(count)
    threshold = recall_threshold(distances)
    assert 100 * (distances <= threshold).sum() >= 95 * count
    assert 100 * (distances < threshold).sum() < 95 * count


def test_the_table_has_a_mean_of_several_sets():
    rows = fpr95_table({"liberty": 0.01, "yosemite": 0.03}, {"liberty": 100_000, "yosemite": 50}).splitlines()
    assert [row.split() for row in rows] == [
        ["set", "FPR95,", "%", "pairs"],
        ["liberty", "1.00", "100,000"],
        ["yosemite", "3.00", "50"],
        ["mean", "2.00", "100,050"],
    ]
    assert "mean" not in fpr95_table({"liberty": 0.01}, {"liberty": 4})
