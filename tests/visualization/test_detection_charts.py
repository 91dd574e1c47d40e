"""Charts of a detector's scores: the curves that are drawn, and where they end."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_hex

from hardnet_suite.evaluation.coco import CocoMistakes, CocoScores, ImageMistakes, evaluate_coco
from hardnet_suite.visualization.canvas import is_figure, save_figure
from hardnet_suite.visualization.detection_charts import (
    CHARTS,
    _reached,
    draw_detection_charts,
    draw_precision_recall,
)

NAMES = ["кошка", "猫", "a$b$\\c_{", "two\nlines", "x" * 300, "bad\ud83d"]


def scores(names, value=0.5):
    """Curves of the same precision up to growing recalls; the last class has no box."""
    precision = np.zeros((10, 101, len(names)))
    for index in range(len(names)):
        precision[:, : 101 * (index + 1) // len(names), index] = value
    precision[..., -1] = np.nan
    keys = ("AP", "AP50", "AP75", "AR_100")
    rows = precision.mean(axis=(0, 1))
    per_class = {name: dict.fromkeys(keys, row) for name, row in zip(names, rows.tolist(), strict=True)}
    mean = float(rows[:-1].mean()) if len(names) > 1 else math.nan
    return CocoScores({"AP50": mean, "AP75": mean}, per_class, precision=precision)


def mistakes(names):
    confusion = np.eye(len(names) + 1, dtype=int)
    return CocoMistakes(tuple(names), confusion, {1: ImageMistakes()}, 0.5, 0.3)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written."""
    written = []

    def keep(figure, path):
        written.append(figure)
        save_figure(figure, path)

    monkeypatch.setattr("hardnet_suite.visualization.detection_charts.save_figure", keep)
    return written


@pytest.mark.parametrize("count", [2, 3, 11, 12, 80])
def test_up_to_ten_classes_have_a_colour(tmp_path, figures, count):
    """The best five and the worst five of more; one class has no box."""
    draw_precision_recall(scores([f"class {index}" for index in range(count)]), tmp_path / "new/curves.png")
    assert is_figure(tmp_path / "new/curves.png")
    for axes in figures[0].axes:
        *lines, mean = axes.get_lines()
        assert len(lines) == count - 1
        assert len({to_hex(line.get_color()) for line in lines}) == min(count - 1, 10 + (count > 11))
        assert mean.get_linewidth() > max(line.get_linewidth() for line in lines)
    names = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert [name.split("  ")[0] for name in names[-1 - (count > 11) :]] == [
        f"mean of {count - 1}",
        *([f"{count - 11} other classes"] if count > 11 else []),
    ]
    if count == 80:
        assert [name.split("  ")[0] for name in names[:10]] == [
            f"class {index}" for index in (*range(78, 73, -1), *range(4, -1, -1))
        ]


def test_curves_are_those_of_the_scores(tmp_path, figures):
    made = scores(["a", "b", "c"], 0.7)
    draw_precision_recall(made, tmp_path / "curves.png")
    for axes, index in zip(figures[0].axes, (0, 5), strict=True):
        *lines, mean = axes.get_lines()
        for line, curve in zip(lines, made.precision[index].T[:2], strict=True):
            np.testing.assert_array_equal(line.get_ydata(), curve[curve > 0])
        np.testing.assert_allclose(mean.get_ydata(), made.precision[index, :67, :2].mean(1))


@pytest.mark.parametrize(
    ("precision", "reached"),
    [([1, 0.5, 0.5], 3), ([1, 0.5, 0], 2), ([0, 0, 0], 0)],
)
def test_a_curve_ends_at_the_highest_recall(precision, reached):
    recall, values = _reached(np.linspace(0, 1, 3), np.array(precision))
    assert len(recall) == len(values) == reached


def test_names_of_any_script_are_drawn_without_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_detection_charts(scores(NAMES), mistakes(NAMES), tmp_path / "charts")
    assert {path.name for path in (tmp_path / "charts").iterdir()} == {*CHARTS.values()}


def test_charts_of_scored_boxes(tmp_path):
    box = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 40, 40]}
    truth = {
        "images": [{"id": 1, "width": 99, "height": 99}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [box],
    }
    found = evaluate_coco(truth, [{**box, "score": 0.9}])
    assert math.isnan(found.per_class["dog"]["AP"])
    draw_precision_recall(found, tmp_path / "curves.png")
    with pytest.raises(ValueError, match="expected a class with a box"):
        draw_precision_recall(scores(["a"]), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
