"""Drawings of pairs of patches and of their distances."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.errors import UserError
from hardnet_suite.visualization.canvas import is_figure
from hardnet_suite.visualization.patches import draw_distances, draw_pair, draw_worst_pairs

DARK, LIGHT = np.full((64, 64), 20, np.uint8), np.full((65, 65), 230, np.uint8)


@pytest.mark.parametrize("name", ["", "liberty, patches 3 and 4"])
def test_a_pair_stands_side_by_side_above_its_caption(name):
    drawing = draw_pair(DARK, LIGHT, label=True, distance=0.5, name=name)
    assert drawing.dtype == np.uint8
    height, width = drawing.shape[:2]
    assert height > 192
    assert (drawing[:192, :192] == 20).all()
    assert (drawing[:192, -192:] == 230).all()
    assert width == 2 * 192 + 12
    assert (drawing[192:] < 100).any()  # ink
    longer = draw_pair(DARK, LIGHT, label=True, distance=0.5, name=f"{name} x")
    assert longer.shape[0] > height or name


def test_the_worst_pairs_are_one_sheet(tmp_path):
    drawings = [draw_pair(DARK, LIGHT, label=False, distance=0.1)] * 4
    draw_worst_pairs(drawings, tmp_path / "a" / "worst.png")
    image = Image.open(tmp_path / "a" / "worst.png")
    assert image.size[0] > 3 * drawings[0].shape[1]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        draw_worst_pairs(drawings, tmp_path / "file" / "worst.png")


def colored(path, color):
    """How many pixels of an image have about this colour."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - color).max(-1) < 12).sum())


def test_distances_of_each_set(tmp_path):
    random = np.random.default_rng(0)
    labels = {name: np.arange(500) % 2 for name in ("a", "b")}
    distances = {name: random.random(500) + (1 - labels[name]) for name in labels}
    for names in (["a"], ["a", "b"]):
        path = tmp_path / f"{len(names)}.png"
        draw_distances(
            *({name: d[name] for name in names} for d in (labels, distances, {"a": 0.9, "b": 1})), path
        )
        assert is_figure(path)
    assert Image.open(tmp_path / "2.png").height > 1.6 * Image.open(tmp_path / "1.png").height
    blue, red = (0.6 * np.array(color) + 0.4 * 255 for color in ((31, 78, 158), (192, 57, 43)))
    assert colored(tmp_path / "1.png", blue) > 1000
    assert colored(tmp_path / "1.png", red) > 1000
