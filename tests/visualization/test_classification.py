from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.visualization.classification import (
    GuessResult,
    _count,
    draw_confusion,
    draw_guess_results,
    draw_guesses,
    draw_worst_guesses,
)


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


def test_guesses_are_drawn_below_the_image():
    image = np.full((50, 400, 3), (200, 30, 30), np.uint8)
    drawn = draw_guesses(
        image, ("Samoyed", "a name that is much too long for its line " * 3), np.array([0.9, 0.1])
    )
    assert drawn.shape[1] == 400
    assert np.array_equal(drawn[:50], image)
    below = drawn[50:].astype(int)
    blue = (np.abs(below - (31, 78, 158)).max(-1) < 10).sum(axis=1)
    rows = np.flatnonzero(blue > 5)
    upper, lower = (blue[rows[rows < len(below) // 2]].max(), blue[rows[rows > len(below) // 2]].max())
    assert upper > 6 * lower  # bars as long as the probabilities


def test_narrow_images_are_padded_and_no_guesses_add_nothing():
    drawn = draw_guesses(np.zeros((20, 10, 3), np.uint8), ("cat",), np.array([1.0]))
    assert drawn.shape[1] == 320
    assert (drawn[:20, 155:165] == 0).all()
    assert draw_guesses(np.zeros((20, 400, 3), np.uint8), (), np.zeros(0)).shape == (20, 400, 3)
    with pytest.raises(ValueError, match="as many names as scores"):
        draw_guesses(np.zeros((20, 10, 3), np.uint8), ("cat",), np.zeros(2))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (9_999, "9999"), (12_345, "12.3k"), (1_070_000, "1.07M"), (5 * 10**9, "5G")],
)
def test_counts_are_short(number, text):
    assert _count(number) == text


def test_of_a_background_and_many_classes_every_row_is_named(tmp_path):
    names = [*(f"class {index}" for index in range(80)), "background"]
    draw_confusion(np.eye(81, dtype=int), names, tmp_path / "named.png", unit="boxes", title="IoU 0.50")
    draw_confusion(np.eye(81, dtype=int), names, tmp_path / "plain.png")
    named, plain = (Image.open(tmp_path / f"{name}.png").size for name in ("named", "plain"))
    assert min(named) > 1500
    assert named == plain


def test_worst_guesses_on_one_sheet(tmp_path):
    images = [np.full((size, 40, 3), (0, 200, 0), np.uint8) for size in (40, 20, 40, 80)]
    captions = [("predicted cat, 88 %", "true class dog")] * 4
    draw_worst_guesses(iter(images), captions, tmp_path / "worst.png")
    drawn = np.asarray(Image.open(tmp_path / "worst.png"))
    green = (np.abs(drawn.astype(int) - (0, 200, 0)).max(-1) < 10).sum()
    assert green == pytest.approx(420 * 420 * (1 + 0.5 + 1 + 0.5), rel=0.02)


def test_each_image_is_drawn_above_its_guesses(tmp_path):
    images = [np.full((40, 60, 3), 90, np.uint8), np.full((900, 30, 3), 30, np.uint8)]
    results = [
        GuessResult(f"sub/{number}/a.png", image, ["猫", "dog"], [0.9, 0.1], "dog")
        for number, image in enumerate(images)
    ]
    assert draw_guess_results(iter(results), tmp_path / "ranked", ranks=2) == 2
    assert sorted(path.name for path in (tmp_path / "ranked").iterdir()) == ["001_a.jpg", "002_a.jpg"]
    for _ in range(2):  # no drawing is overwritten
        assert draw_guess_results(results[:1], tmp_path / "plain") == 1
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["a.jpg", "a_2.jpg"]
    drawn = np.asarray(Image.open(tmp_path / "ranked/001_a.jpg")).astype(int)
    assert drawn.shape[1] == 512
    assert (abs(drawn[:300] - 90) < 6).all()
    assert (drawn[-30:] < 100).any()  # the caption
