"""FPR95 of several sets: each by itself, and their mean."""

from __future__ import annotations

import numpy as np
import pytest

from hardnet_suite.evaluation.descriptor import fpr95
from hardnet_suite.openmm.run.metrics import PatchFPR95

RANDOM = np.random.default_rng(0)


def scored(sets: dict[str, tuple[np.ndarray, np.ndarray]], **options) -> tuple[PatchFPR95, dict]:
    """The metric after these labels and distances of each set, and what it returns."""
    metric = PatchFPR95(**options)
    metric.dataset_meta = {"sets": list(sets)}
    samples = [
        {"name": (number, index, index + 1), "label": label, "distance": distance}
        for number, (labels, distances) in enumerate(sets.values())
        for index, (label, distance) in enumerate(zip(labels, distances, strict=True))
    ]
    metric.process({}, samples)
    return metric, metric.evaluate(len(samples))


def drawn(count: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2
    return labels, RANDOM.random(count) + gap * (1 - labels)


def test_each_set_and_the_mean():
    sets = {"a": drawn(200, 0.3), "b": drawn(400, 0.6)}
    metric, scores = scored(sets)
    expected = {name: fpr95(*pairs) for name, pairs in sets.items()}
    assert scores == {
        "fpr95": pytest.approx(np.mean(list(expected.values()))),
        "fpr95/a": expected["a"],
        "fpr95/b": expected["b"],
    }
    assert expected["a"] > expected["b"] > 0
    assert len(metric.image_ids) == 600
    assert metric.image_ids[200] == ("b", 0, 1)
    assert metric.details["sets"]["b"]["pairs"] == 400
    lines = metric.summary.splitlines()
    assert [line.split()[0] for line in lines] == ["set", "a", "b", "mean"]
    assert f"{100 * expected['a']:.2f}" in lines[1]


def test_one_set_has_no_mean():
    metric, scores = scored({"a": drawn(50, 0.5)})
    assert scores.keys() == {"fpr95"}
    assert "mean" not in metric.summary


def test_the_mistakes_are_those_that_the_rate_counts():
    labels, distances = drawn(400, 0.5)
    metric, scores = scored({"a": (labels, distances)})
    mistakes = list(metric.mistakes())
    others = sum(not mistake.label for mistake in mistakes)
    assert others / (labels == 0).sum() == pytest.approx(scores["fpr95"])
    assert sum(mistake.label for mistake in mistakes) <= 0.05 * (labels == 1).sum()
    threshold = metric.thresholds["a"]
    assert all(mistake.threshold == threshold for mistake in mistakes)
    assert all(mistake.severity == abs(mistake.distance - threshold) for mistake in mistakes)


def test_perfect_descriptors():
    labels = np.array([1, 0] * 10)
    metric, scores = scored({"a": (labels, 1.0 - labels)})
    assert scores["fpr95"] == 0
    assert list(metric.mistakes()) == []


def test_the_distances_are_saved(tmp_path):
    file = tmp_path / "distances.csv"
    scored({"a": ([1, 0], [0.25, 1.5]), "b, c": ([0, 1], [1.0, 0.125])}, results_file=str(file))
    assert file.read_text() == (
        "set,first,second,same,distance\n"
        "a,0,1,1,0.250000\n"
        "a,1,2,0,1.500000\n"
        '"b, c",0,1,0,1.000000\n'
        '"b, c",1,2,1,0.125000\n'
    )
