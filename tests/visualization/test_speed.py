"""Charts of speed: what is drawn, read off the axes."""

from __future__ import annotations

import pytest
from PIL import Image

from hardnet_suite.visualization import speed
from hardnet_suite.visualization.canvas import is_figure
from hardnet_suite.visualization.speed import ChartPoint, plot_latency, plot_roofline

POINTS = [
    ChartPoint("hardnet68", "eager fp32", 100, 76.5, True),
    ChartPoint("hardnet68", "openvino bf16", 12, 76.5, True),
    ChartPoint("resnet50", "eager fp32", 56, 76.1, False),
]


@pytest.fixture
def figures(monkeypatch) -> list:
    saved: list = []
    save = speed.save_figure
    monkeypatch.setattr(speed, "save_figure", lambda figure, path: (saved.append(figure), save(figure, path)))
    return saved


def drawn(axes, color: str) -> set[tuple[float, float]]:
    lines = [line for line in axes.lines if line.get_color() == color and line.get_linestyle() == "None"]
    return {(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)}


def test_each_point_is_drawn_and_each_model_named_once(figures, tmp_path):
    panels = {
        "ImageNet top-1": POINTS,
        "COCO mAP": [ChartPoint("ssd", "eager fp32", 5, 30, True)],
        "none": [],
    }
    plot_latency(panels, tmp_path / "a.png", "a machine")
    (figure,) = figures
    first, second = figure.axes
    assert drawn(first, speed._OURS) == {(100, 76.5), (12, 76.5)}
    assert drawn(first, speed._OTHERS) == {(56, 76.1)}
    assert [text.get_text() for text in first.texts] == ["hardnet68", "resnet50"]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["eager fp32", "openvino bf16"]
    assert (first.get_ylabel(), second.get_ylabel()) == (
        "published ImageNet top-1, %",
        "published COCO mAP, %",
    )
    assert figure.get_suptitle() == "a machine"
    assert is_figure(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width > 1000


def test_a_name_is_text_and_not_mathematics(figures, tmp_path):
    plot_latency({"top-1": [ChartPoint("a$b_c$", "x", 1, 2, True)]}, tmp_path / "a.png")
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["a$b_c$"]


def test_the_roofline_has_a_ridge_per_precision(figures, tmp_path):
    points = [ChartPoint("hardnet68", "eager fp32", 50, 5e10, True)]
    plot_roofline(10e9, {"fp32": 1e11, "bf16": 8e11}, points, tmp_path / "a.png", "limits")
    (axes,) = figures[0].axes
    roofs = [line for line in axes.lines if line.get_linestyle() == "-"]
    corners = [(float(line.get_xdata()[1]), float(line.get_ydata()[1])) for line in roofs]
    assert corners == [(10, 100), (80, 800)]
    for line in roofs:  # the slope is the bandwidth
        x, y = line.get_data()
        assert y[0] == pytest.approx(10 * x[0])
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["fp32: 100 GMAC/s", "bf16: 800 GMAC/s", "10 GB/s", "hardnet68"]
    assert drawn(axes, speed._OURS) == {(50, 50)}


def test_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match="no model with a published accuracy"):
        plot_latency({"COCO mAP": []}, tmp_path / "a.png")
    with pytest.raises(ValueError, match="no matrix rate"):
        plot_roofline(1.0, {}, POINTS, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5"), (1, "1"), (10, "10"), (20, "20"), (2.5, "2.5"), (100, "100"), (2000, "2,000")],
)
def test_ticks(value, text):
    assert speed._short(value) == text
