"""Heat maps over images: colours, dimming, resizing, and the folder of a whole test."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.errors import UserError
from hardnet_suite.visualization.heatmap import draw_heatmaps, overlay_heatmap


def draw_image(height=60, width=80, color=(40, 160, 220)):
    return np.full((height, width, 3), color, np.uint8)


def saturation(colors):
    colors = np.asarray(colors, int)
    return colors.max(-1) - colors.min(-1)


def lightness(colors):
    return np.asarray(colors, float) @ (0.299, 0.587, 0.114)


def test_cold_places_show_the_image_dimmed_and_greyed():
    image = draw_image()
    image[:30] //= 2
    before = image.copy()
    drawn = overlay_heatmap(image, np.zeros((3, 4)))
    np.testing.assert_array_equal(image, before)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (lightness(drawn) < 0.7 * lightness(image)).all()
    assert (saturation(drawn) < 0.3 * saturation(image)).all()
    assert lightness(drawn[45, 40]) > 1.8 * lightness(drawn[15, 40])  # what is in the image can still be seen


@pytest.mark.parametrize("value", [0, 128, 255])
def test_more_heat_is_more_light_and_hides_more_of_the_image(value):
    scores = np.linspace(0, 1, 11)
    dark, light = (
        np.array([overlay_heatmap(draw_image(2, 2, [v] * 3), np.full((1, 1), s))[0, 0] for s in scores], int)
        for v in (value, 255 - value // 2)
    )
    seen = np.abs(light - dark).sum(-1)  # how much two images differ under equal heat
    assert (np.diff(seen) <= 0).all()
    if value < 255:
        assert seen[-1] < 0.5 * seen[0]
    on_black = [lightness(overlay_heatmap(draw_image(1, 1, (0, 0, 0)), [[s]])[0, 0]) for s in scores]
    assert (np.diff(on_black) > 0).all()


def test_hot_places_are_vivid():
    drawn = overlay_heatmap(draw_image(1, 1, (120, 120, 120)), [[0.8]])
    assert saturation(drawn).item() > 100


def test_opacity():
    image, heat = draw_image(), np.full((2, 2), 0.9)
    cold = overlay_heatmap(image, np.zeros((1, 1)))
    np.testing.assert_array_equal(overlay_heatmap(image, heat, opacity=0), cold)
    hot = overlay_heatmap(image, np.ones((1, 1)), opacity=1)
    assert np.abs(hot.astype(int) - [252, 255, 164]).max() <= 1  # inferno's last colour


@pytest.mark.parametrize(("height", "width"), [(60, 80), (7, 13), (500, 3)])
def test_heat_of_any_resolution_lies_where_it_belongs(height, width):
    heat = np.zeros((height, width))
    heat[: height // 2 + 1, 2 * width // 3 :] = 1
    drawn = lightness(overlay_heatmap(draw_image(color=(0, 0, 0)), heat))
    assert drawn[:20, 70:].min() > 100
    assert drawn[45:].max() < 5
    assert drawn[:, :30].max() < 5


def test_low_resolution_is_blown_up_smoothly():
    drawn = lightness(overlay_heatmap(draw_image(1, 200, (0, 0, 0)), [[0, 1]]))[0]
    assert (np.diff(drawn) >= -1).all()
    assert np.diff(drawn).max() < 12  # no step
    assert drawn[-1] > drawn[0] + 150


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((8, 8), np.uint8)}, "an image must be"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, "an image must be"),
        ({"heat": np.zeros((1, 4, 4))}, "heat must be"),
        ({"heat": np.zeros((0, 4))}, "heat must be"),
        ({"heat": [[0.5, np.nan]]}, r"heat must lie in \[0, 1\]"),
        ({"heat": [[0.5, 1.01]]}, r"heat must lie in \[0, 1\]"),
        ({"heat": [[-0.01, 0.5]]}, r"heat must lie in \[0, 1\]"),
        ({"opacity": 1.5}, "opacity must lie"),
        ({"opacity": float("nan")}, "opacity must lie"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"image": draw_image(), "heat": np.zeros((4, 4)), **change}
    with pytest.raises(ValueError, match=message):
        overlay_heatmap(**arguments)


@pytest.fixture
def scored(tmp_path):
    """A set of two images with heat maps: annotations, heat map folder, image folder."""
    heatmaps, folder = tmp_path / "heatmaps", tmp_path / "images"
    heatmaps.mkdir()
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(draw_image()).save(folder / "sub" / "a.png")
    Image.fromarray(draw_image()).save(folder / "b.v2.jpg")
    heat = np.zeros((15, 20), np.uint8)
    heat[:8, 10:] = 255
    Image.fromarray(heat).save(heatmaps / "7.png")
    Image.fromarray(0 * heat).save(heatmaps / "9.png")
    data = {
        "images": [{"id": 7, "file_name": "sub/a.png"}, {"id": 9, "file_name": "b.v2.jpg"}],
        "categories": [],
        "annotations": [],
    }
    (tmp_path / "truth.json").write_text(json.dumps(data))
    return tmp_path / "truth.json", heatmaps, folder


def test_draw_heatmaps_image_left_overlay_right(scored, tmp_path):
    out = tmp_path / "new" / "drawn"
    assert draw_heatmaps(*scored, out) == 2
    assert sorted(path.name for path in out.iterdir()) == ["a_heatmap.png", "b.v2_heatmap.png"]
    drawn = np.asarray(Image.open(out / "a_heatmap.png"))
    left, right = drawn[-60:, :80], drawn[-60:, -80:]
    np.testing.assert_array_equal(left, draw_image())
    heat = np.asarray(Image.open(scored[1] / "7.png")) / 255
    np.testing.assert_array_equal(right, overlay_heatmap(draw_image(), heat))
    assert lightness(right[5, 75]) > lightness(right[50, 75]) + 50
    assert drawn.shape[0] > 60 + 10  # the titles


def test_draw_heatmaps_of_some_images_only(scored, tmp_path):
    (scored[1] / "7.png").unlink()
    assert draw_heatmaps(*scored, tmp_path / "drawn", image_ids=iter([9])) == 1
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["b.v2_heatmap.png"]
    assert draw_heatmaps(*scored, tmp_path / "none", image_ids=[]) == 0


def test_draw_heatmaps_bad_files(scored, tmp_path):
    truth, heatmaps, folder = scored

    def error() -> str:
        with pytest.raises(UserError) as caught:
            draw_heatmaps(truth, heatmaps, folder, tmp_path / "drawn")
        message = str(caught.value)
        assert "\n" not in message
        return message

    Image.new("RGB", (4, 4)).save(heatmaps / "7.png")
    assert f"expected an 8-bit grey heat map {heatmaps / '7.png'}, got mode RGB" in error()
    (heatmaps / "7.png").write_bytes(b"\x89PNG broken")
    assert f"cannot read the heat map {heatmaps / '7.png'}" in error()
    (heatmaps / "7.png").unlink()
    assert f"no heat map {heatmaps / '7.png'} for the image sub/a.png" in error()
    (folder / "sub" / "a.png").unlink()
    assert f"cannot read the image {folder / 'sub' / 'a.png'}" in error()
    with pytest.raises(UserError, match=r"cannot write .*truth\.json"):
        draw_heatmaps(truth, heatmaps, folder, truth / "drawn", image_ids=[9])
