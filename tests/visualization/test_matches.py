from __future__ import annotations

import numpy as np
import pytest

from hardnet_suite.visualization.canvas import PAPER
from hardnet_suite.visualization.matches import draw_matches

GREY = np.full((200, 300, 3), 128, np.uint8)
POINTS = np.array([[50.0, 60.0], [200.0, 40.0], [150.0, 150.0]])


def coloured(drawing: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that are not grey."""
    return np.ptp(drawing.astype(int), axis=2) > 60


def test_images_lie_beside_each_other():
    drawing = draw_matches(GREY, GREY[:100], np.zeros((0, 2)), np.zeros((0, 2)))
    assert drawing.shape == (240, 360 + 8 + 360, 3)
    assert (drawing[:, 360:368] == PAPER).all()
    assert (drawing[:60, 368:] == PAPER).all()  # the lower image is centred
    assert (drawing[70:170, 368:] == 128).all()


def test_points_and_lines_are_where_they_belong():
    drawing = draw_matches(GREY, GREY, POINTS, POINTS)
    marks = coloured(drawing)
    for x, y in POINTS * 1.2:
        for left in (0, 368):
            assert marks[round(y) - 2 : round(y) + 3, round(x + left) - 2 : round(x + left) + 3].any()
        assert marks[round(y + 0.6), 364]  # the line crosses the gap level
    assert not marks[-20:].any()


def test_only_what_is_shown_is_in_colour_and_what_is_rejected_is_white():
    shown = np.array([True, False, False])
    drawing = draw_matches(GREY, GREY, POINTS, POINTS, shown=shown)
    assert coloured(drawing).any()
    assert (drawing[45:55, 300] == 128).all()
    both = draw_matches(GREY, GREY, POINTS, POINTS, shown=shown, rejected=~shown)
    assert both[45:55, 300].min() < 90  # legible on images of any brightness
    assert both[45:55, 300].max() > 165
    assert not coloured(both)[45:55].any()
    nothing = draw_matches(GREY, GREY, POINTS, POINTS, shown=np.zeros(3, bool))
    assert not coloured(nothing).any()


def test_the_outline_of_the_first_image_in_the_second():
    shrink = np.diag([0.5, 0.5, 1.0])
    plain = draw_matches(GREY, GREY, POINTS, POINTS)
    drawing = draw_matches(GREY, GREY, POINTS, POINTS, homography=shrink)
    changed = (plain != drawing).any(2)
    assert changed[:, 368:].any()
    assert not changed[:, :360].any()
    assert not changed[130:, :].any()
    # a horizon through the image: no outline that would be wrong
    fold = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]])
    np.testing.assert_array_equal(draw_matches(GREY, GREY, POINTS, POINTS, homography=fold), plain)


def test_at_most_so_many_lines_but_all_points():
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 180, (300, 2))
    few, many = (draw_matches(GREY, GREY, points, points, lines=lines) for lines in (5, 300))
    none = draw_matches(GREY, GREY, points, points, lines=0)
    assert coloured(none).sum() < coloured(few).sum() < coloured(many).sum()
    assert coloured(none)[:, 361:367].sum() == 0


@pytest.mark.parametrize(
    ("a", "b"), [((1, 1), (1, 1)), ((1, 1), (200, 300)), ((3000, 40), (50, 2000)), ((1500, 2500), (1, 900))]
)
def test_images_of_any_size(a, b):
    images = [np.zeros((*size, 3), np.uint8) for size in (a, b)]
    drawing = draw_matches(
        *images, np.zeros((1, 2)), np.zeros((1, 2)), homography=np.eye(3), caption="1 match"
    )
    assert drawing.ndim == 3
    assert max(drawing.shape) < 2100


def test_a_caption_is_below():
    plain = draw_matches(GREY, GREY, POINTS, POINTS)
    drawing = draw_matches(GREY, GREY, POINTS, POINTS, caption="3 inliers")
    assert drawing.shape[0] > plain.shape[0]
    np.testing.assert_array_equal(drawing[: len(plain)], plain)


@pytest.mark.parametrize(
    ("points", "others", "options", "message"),
    [
        (POINTS, POINTS[:2], {}, "matched points"),
        (POINTS[:, :1], POINTS[:, :1], {}, "matched points"),
        (POINTS, POINTS, {"shown": np.ones(2, bool)}, "masks of 3 matches"),
        (POINTS, POINTS, {"rejected": np.ones(4, bool)}, "masks of 3 matches"),
    ],
)
def test_bad_arguments(points, others, options, message):
    with pytest.raises(ValueError, match=message):
        draw_matches(GREY, GREY, points, others, **options)
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        draw_matches(GREY[..., 0], GREY, POINTS, POINTS)
