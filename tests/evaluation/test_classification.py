from __future__ import annotations

import json
import math

import numpy as np
import pytest

from hardnet_suite.evaluation.classification import score_classes, score_guesses


def scores(*guesses, classes=6):
    """Scores whose order is that of the guesses, the first the highest."""
    made = np.zeros((len(guesses), classes))
    for row, order in zip(made, guesses, strict=True):
        for rank, index in enumerate(order):
            row[index] = 10 - rank
    return made


def test_first_and_first_five():
    found = score_classes(
        scores((0, 1, 2, 3, 4), (1, 0, 2, 3, 4), (1, 0, 2, 3, 4), (0, 1, 2, 3, 4)), np.array([0, 0, 4, 5])
    )
    assert found.top1 == 0.25
    assert found.top5 == 0.75  # the fifth guess counts, the sixth does not
    assert found.confusion[0].tolist() == [1, 1, 0, 0, 0, 0]
    assert found.confusion[5].tolist() == [1, 0, 0, 0, 0, 0]
    assert found.per_class[[0, 4, 5]].tolist() == [0.5, 0, 0]
    assert math.isnan(found.per_class[2])
    assert found.mistakes() == [(0, 1, 1), (4, 1, 1), (5, 0, 1)]
    assert found.mistakes(1) == [(0, 1, 1)]


def test_of_equal_scores_the_first_class_is_guessed():
    found = score_classes(np.zeros((2, 7)), np.array([0, 5]))
    assert (found.top1, found.top5) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (bool, False, True),
        (np.uint8, 0, 255),
        (np.uint64, 0, 2**64 - 1),
        (np.int8, -128, 127),
        (np.int64, -(2**63), 2**63 - 1),
        (np.float16, -np.inf, np.inf),
        (">f4", -1, 0),
    ],
)
def test_scores_of_any_type_are_ranked(dtype, low, high):
    values = np.full((7, 7), low, dtype)
    np.fill_diagonal(values, high)
    assert score_classes(values, np.arange(7)).top1 == 1
    others = score_classes(values, np.arange(-1, 6) % 7)  # of equal ones the first four are guessed
    assert others.in_five.tolist() == [1, 1, 1, 1, 0, 0, 0]


def test_nan_is_no_score():
    values = np.zeros((2, 3))
    values[1, 2] = np.nan
    for dtype in (np.float16, np.float64):
        with pytest.raises(ValueError, match="expected real numbers as scores, got NaN"):
            score_classes(values.astype(dtype), np.array([0, 0]))
    for other in (values.astype(complex), values.astype(str), values.astype(object)):
        with pytest.raises(ValueError, match="expected real numbers as scores"):
            score_classes(other, np.array([0, 0]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_guesses_and_labels_of_any_integer_type(dtype):
    found = score_guesses(np.array([[1, 0, 2], [2, 1, 0]], dtype), np.array([1, 0], dtype), 3)
    assert found.confusion.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert found.in_five.tolist() == [1, 1, 0]


@pytest.mark.parametrize("guess", [-1, 3, 1.0, True])
@pytest.mark.parametrize("place", [0, 2])
def test_guesses_are_class_indices(guess, place):
    guesses = np.array([[0, 1, 2]]).astype(type(guess))
    guesses[0, place] = guess
    with pytest.raises(ValueError, match=r"expected integer guesses in \[0, 3\)"):
        score_guesses(guesses, np.array([0]), 3)


def test_fewer_than_five_classes():
    found = score_classes(scores((0, 1, 2), (1, 2, 0), classes=3), np.array([1, 1]))
    assert (found.top1, found.top5) == (0.5, 1.0)


def test_no_images():
    found = score_classes(np.zeros((0, 3)), np.zeros(0, int))
    assert math.isnan(found.top1)
    assert math.isnan(found.top5)
    assert found.report(("a", "b", "c"))["metrics"] == {"top1": None, "top5": None}
    assert "n/a" in found.table(("a", "b", "c"))


def test_report_and_table():
    found = score_classes(scores((0,), (1,), (1,), classes=3), np.array([0, 0, 1]))
    report = json.loads(json.dumps(found.report(("cat", "dog", "ant"))))
    assert report["per_class"] == {
        "cat": {"top1": 0.5, "top5": 1.0, "images": 2},
        "dog": {"top1": 1.0, "top5": 1.0, "images": 1},
        "ant": {"top1": None, "top5": None, "images": 0},
    }
    table = found.table(("cat", "dog", "ant")).splitlines()
    assert [line.split() for line in table[:4]] == [
        ["class", "top-1", "top-5", "images"],
        ["cat", "0.5000", "1.0000", "2"],
        ["dog", "1.0000", "1.0000", "1"],
        ["all", "images", "0.6667", "1.0000", "3"],
    ]
    assert table[-1] == "most often mistaken: cat for dog (1)"


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (np.zeros(3), np.zeros(3, int)),
        (np.zeros((3, 2)), np.zeros(2, int)),
        (np.zeros((0, 0)), np.zeros(0, int)),
        (np.zeros((1, 2)), np.array([2])),
        (np.zeros((1, 2)), np.array([-1])),
        (np.zeros((1, 2)), np.array([0.0])),
    ],
)
def test_bad_arguments(values, labels):
    with pytest.raises(ValueError, match=r"expected (scores of shape|integer labels)"):
        score_classes(values, labels)
