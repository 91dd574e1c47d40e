"""Panoptic quality on cases made by hand, and against a reading of its definition pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hardnet_suite.evaluation.panoptic import TrueSegment, match_segments, score_segments

CAT, DOG, GRASS = range(3)
CLASSES = ("cat", "dog", "grass")


def scene() -> tuple[np.ndarray, dict[int, TrueSegment]]:
    """Two cats and a dog on grass, with a void row at the bottom."""
    truth = np.full((20, 20), 9)
    truth[2:8, 2:8], truth[2:8, 12:18], truth[12:18, 4:14], truth[19] = 1, 2, 3, 0
    return truth, {1: TrueSegment(CAT), 2: TrueSegment(CAT), 3: TrueSegment(DOG), 9: TrueSegment(GRASS)}


def scored(truth, true_segments, prediction, labels) -> dict[str, float]:
    counts = match_segments(truth, true_segments, prediction, labels, len(CLASSES))
    return score_segments(counts, CLASSES, 2).metrics


def labels_of(segments: dict[int, TrueSegment]) -> dict[int, int]:
    return {key: segment.label for key, segment in segments.items()}


def test_a_perfect_prediction_scores_1():
    truth, segments = scene()
    assert set(scored(truth, segments, truth, labels_of(segments)).values()) == {1.0}


def test_a_shifted_prediction_scores_less_the_further_the_less():
    truth, segments = scene()
    scores = [
        scored(truth, segments, np.roll(truth, shift, 1), labels_of(segments))["PQ"] for shift in range(5)
    ]
    assert scores[0] == 1
    assert sorted(scores, reverse=True) == scores
    assert scores[1] < 0.95
    assert scores[4] < 0.5


def test_nothing_predicted_scores_0():
    truth, segments = scene()
    metrics = scored(truth, segments, np.zeros_like(truth), {})
    assert metrics["PQ"] == metrics["SQ"] == metrics["RQ"] == 0


def test_what_is_predicted_on_void_counts_neither_way():
    truth, segments = scene()
    prediction = truth.copy()
    prediction[19] = 9  # grass goes on below
    assert scored(truth, segments, prediction, labels_of(segments))["PQ"] == 1
    prediction[19] = 7
    assert scored(truth, segments, prediction, labels_of(segments) | {7: DOG})["PQ"] == 1


def test_the_wrong_class_is_missed_and_false():
    truth, segments = scene()
    counts = match_segments(truth, segments, truth, labels_of(segments) | {3: CAT}, 3)
    np.testing.assert_array_equal(counts[:, :3], [[2, 1, 0], [0, 0, 1], [1, 0, 0]])
    scores = score_segments(counts, CLASSES, 2)
    assert scores.per_class["cat"]["PQ"] == pytest.approx(2 / 2.5)
    assert scores.per_class["dog"] == {"PQ": 0, "SQ": 0, "RQ": 0, "segments": 1}


def test_two_instances_predicted_as_one_segment():
    truth, segments = scene()
    prediction = np.where(truth == 2, 1, truth)
    counts = match_segments(truth, segments, prediction, {1: CAT, 3: DOG, 9: GRASS}, 3)
    np.testing.assert_array_equal(counts[CAT], [0, 1, 2, 0])  # an IoU of 0.5 is no match


def test_crowds_are_neither_found_nor_missed():
    truth, segments = scene()
    segments[2] = TrueSegment(CAT, iscrowd=True)
    for labels in ({2: CAT}, {}):
        prediction = truth if labels else np.where(truth == 2, 0, truth)
        known = {key: segment.label for key, segment in segments.items() if key != 2} | labels
        counts = match_segments(truth, segments, prediction, known, 3)
        np.testing.assert_array_equal(counts[CAT, :3], [1, 0, 0])
    counts = match_segments(truth, segments, truth, labels_of(segments) | {2: DOG}, 3)
    np.testing.assert_array_equal(counts[DOG, :3], [1, 1, 0])  # a crowd of cats excuses no dog


def test_a_class_that_does_not_occur_has_no_score():
    truth, segments = np.full((4, 4), 1), {1: TrueSegment(CAT)}
    counts = match_segments(truth, segments, truth, {1: CAT}, 3)
    scores = score_segments(counts, CLASSES, 2)
    assert math.isnan(scores.per_class["dog"]["PQ"])
    assert scores.metrics["PQ"] == 1
    assert math.isnan(scores.metrics["PQ_stuff"])
    assert scores.report()["metrics"]["PQ_stuff"] is None
    assert "n/a" in scores.table()


@pytest.mark.parametrize("seed", range(20))
def test_against_the_definition_pixel_by_pixel(seed):
    rng = np.random.default_rng(seed)

    def blobs() -> np.ndarray:
        """Rectangles on each other, and some void."""
        ids = np.full((16, 16), 20)
        for key in range(1, 7):
            y, x = rng.integers(0, 12, 2)
            ids[y : y + rng.integers(2, 9), x : x + rng.integers(2, 9)] = key * (rng.random() > 0.15)
        return ids

    truth = blobs()
    prediction = np.roll(truth, rng.integers(0, 3), 1) if rng.random() > 0.3 else blobs()
    segments = {
        key: TrueSegment(int(rng.integers(3)), bool(rng.random() < 0.2))
        for key in set(truth.ravel().tolist()) - {0}
    }
    labels = {
        key: segments[key].label if key in segments and rng.random() < 0.8 else int(rng.integers(3))
        for key in set(prediction.ravel().tolist()) - {0}
    }
    expected = np.zeros((3, 4))
    found_true, found = set(), set()
    for key, label in labels.items():
        mask = prediction == key
        for true_id, segment in segments.items():
            if segment.iscrowd or segment.label != label:
                continue
            both = (mask & (truth == true_id)).sum()
            either = ((mask & (truth != 0)) | (truth == true_id)).sum()
            if both / either > 0.5:
                expected[label] += [1, 0, 0, both / either]
                found_true.add(true_id)
                found.add(key)
        crowd = np.isin(truth, [k for k, s in segments.items() if s.iscrowd and s.label == label])
        if key not in found and (mask & ((truth == 0) | crowd)).sum() <= 0.5 * mask.sum():
            expected[label, 1] += 1
    for true_id, segment in segments.items():
        expected[segment.label, 2] += true_id not in found_true and not segment.iscrowd
    np.testing.assert_allclose(match_segments(truth, segments, prediction, labels, 3), expected)


def test_what_does_not_fit_is_an_error():
    truth, segments = scene()
    with pytest.raises(ValueError, match="of shape"):
        match_segments(truth, segments, truth[1:], labels_of(segments), 3)
    with pytest.raises(ValueError, match="the truth has the ids"):
        match_segments(truth, {1: TrueSegment(CAT)}, truth, labels_of(segments), 3)
    with pytest.raises(ValueError, match="the prediction has the ids"):
        match_segments(truth, segments, truth, {1: CAT}, 3)
