from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.visualization.classification import draw_confusion


def dark(path) -> int:
    """How many pixels have the blue of shares near 1."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(image - (8, 48, 107)).max(-1) < 12).sum())


def test_right_guesses_are_dark(tmp_path):
    draw_confusion(np.eye(4, dtype=int) * 5, "abcd", tmp_path / "new/right.png")
    draw_confusion(np.ones((4, 4), int), "abcd", tmp_path / "mixed.png")
    assert dark(tmp_path / "new/right.png") > 4 * dark(tmp_path / "mixed.png")


def test_many_classes(tmp_path):
    confusion = np.zeros((1000, 1000), int)
    confusion[[3, 700], [3, 700]] = 1
    draw_confusion(confusion, [str(k) for k in range(1000)], tmp_path / "few.png")
    draw_confusion(np.eye(60, dtype=int), [str(k) for k in range(60)], tmp_path / "many.png")
    few, many = (Image.open(tmp_path / f"{name}.png").size[0] for name in ("few", "many"))
    assert few < many  # of 1000 classes only the two that occur are drawn


def test_bad_shapes(tmp_path):
    for confusion, names in ((np.zeros((2, 3)), "ab"), (np.zeros((2, 2)), "abc"), (np.zeros((0, 0)), "")):
        with pytest.raises(ValueError, match="confusion must be"):
            draw_confusion(confusion, names, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
