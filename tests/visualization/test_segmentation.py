"""Segmentations as images: exact colours, untouched pixels, legends, counted errors, a folder of strips."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.segmentation import IGNORE, LABEL_SETS, LabelSet
from hardnet_suite.errors import UserError
from hardnet_suite.visualization.canvas import beside
from hardnet_suite.visualization.segmentation import (
    before_after,
    colorize,
    draw_segmentation_results,
    draw_worst_segmentations,
    error_map,
    overlay_labels,
    overlay_with_legend,
    strip,
)

NAMES = ("road", "tree", "traffic sign")
PALETTE = ((128, 64, 200), (10, 140, 30), (250, 200, 0))


def draw_image(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def halves(height=60, width=80, left=0, right=1):
    labels = np.full((height, width), left, np.uint8)
    labels[:, width // 2 :] = right
    return labels


def count(image, color):
    return int((image == color).all(-1).sum())


def is_red(image):
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    return (red > 150) & (green < 100) & (blue < 100)


def test_colorize():
    labels = np.array([[0, 1, 2], [IGNORE, 2, 0]])
    expected = [[PALETTE[0], PALETTE[1], PALETTE[2]], [(0, 0, 0), PALETTE[2], PALETTE[0]]]
    for dtype in (np.uint8, np.int64):
        colors = colorize(labels.astype(dtype), PALETTE)
        assert colors.dtype == np.uint8
        np.testing.assert_array_equal(colors, expected)


@pytest.mark.parametrize(
    ("labels", "palette", "message"),
    [
        ([[0, 3]], PALETTE, r"labels must lie in \[0, 3\) or be 255, got \[3\]"),
        ([[-1, 0]], PALETTE, r"labels must lie in .* got \[-1\]"),
        ([[256, 0]], PALETTE, r"labels must lie in .* got \[256\]"),
        ([[0.0, 1.0]], PALETTE, "labels must be .* integers, got .* float64"),
        ([0, 1], PALETTE, r"labels must be \(H, W\) integers, got shape \(2,\)"),
        (np.zeros((0, 4), int), PALETTE, "labels must be"),
        ([[0]], [], "palette must be"),
        ([[0]], [(1, 2)], r"palette must be \(C, 3\).* got shape \(1, 2\)"),
        ([[0]], np.zeros((256, 3), int), "palette must be"),
        ([[0]], [(0, 0, 256)], r"palette must hold integers in \[0, 255\]"),
        ([[0]], [(0.5, 0, 0)], "palette must hold integers"),
    ],
)
def test_colorize_bad_arguments(labels, palette, message):
    with pytest.raises(ValueError, match=message):
        colorize(labels, palette)


def test_overlay_at_full_opacity_shows_the_colours_exactly_and_leaves_ignored_pixels():
    image, labels = draw_image(), halves()
    labels[:10, :10] = IGNORE
    before = image.copy()
    drawn = overlay_labels(image, labels, PALETTE, opacity=1, outline=False)
    np.testing.assert_array_equal(image, before)
    assert drawn.dtype == np.uint8
    expected = colorize(labels, PALETTE)
    expected[:10, :10] = image[:10, :10]
    np.testing.assert_array_equal(drawn, expected)


def test_overlay_tints_half_and_half():
    image = np.full((4, 6, 3), 100, np.uint8)  # grey stays grey whatever is done to its saturation
    drawn = overlay_labels(image, halves(4, 6), PALETTE, opacity=0.5, outline=False)
    np.testing.assert_array_equal(drawn[0, 0], [114, 82, 150])
    np.testing.assert_array_equal(drawn[0, 5], [55, 120, 65])
    np.testing.assert_array_equal(overlay_labels(draw_image(), halves(), PALETTE, opacity=0), draw_image())


def test_a_class_has_the_same_hue_on_any_ground():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0], image[1] = (255, 0, 0), (0, 0, 255)
    drawn = overlay_labels(image, np.ones((2, 2), int), PALETTE, outline=False)
    assert (drawn.argmax(-1) == 1).all()  # the green of its tree: neither red nor blue


def test_outlines_lie_where_regions_meet_and_nowhere_else():
    image, labels = np.full((60, 80, 3), 90, np.uint8), halves()
    labels[30:] = 2
    plain, lined = (overlay_labels(image, labels, PALETTE, outline=outline) for outline in (False, True))
    lines = (plain != lined).any(-1)
    expected = np.zeros((60, 80), bool)
    expected[29] = expected[:30, 39] = True
    np.testing.assert_array_equal(lines, expected)
    assert (lined[lines].sum(-1) > plain[lines].astype(int).sum(-1)).all()  # lighter


def test_outlines_surround_ignored_pixels_without_touching_them():
    image, labels = draw_image(), np.zeros((60, 80), np.uint8)
    labels[20:30, 40:50] = IGNORE
    plain, lined = (overlay_labels(image, labels, PALETTE, outline=outline) for outline in (False, True))
    np.testing.assert_array_equal(lined[20:30, 40:50], image[20:30, 40:50])
    expected = np.zeros((60, 80), bool)
    expected[19:31, 40:50] = expected[20:30, 39:51] = True
    expected[20:30, 40:50] = False
    lines = (plain != lined).any(-1)
    assert not lines[~expected].any()
    assert lines[expected].mean() > 0.9  # but where the ground is white already


def test_the_legend_shows_the_classes_that_appear_and_no_other():
    image, labels = draw_image(), halves(right=2)
    labels[:5] = IGNORE
    plain = overlay_labels(image, labels, PALETTE)
    drawn = overlay_labels(image, labels, PALETTE, names=NAMES)
    left = (drawn.shape[1] - 80) // 2
    np.testing.assert_array_equal(drawn[:60, left : left + 80], plain)
    legend = drawn[60:]
    assert count(legend, PALETTE[0]) > 60  # a chip
    assert count(legend, PALETTE[2]) == count(legend, PALETTE[0])
    assert count(legend, PALETTE[1]) == 0


def test_the_legend_takes_as_many_rows_as_it_needs():
    names = [f"class {index}" for index in range(12)]
    palette = [(20 * index, 255 - 20 * index, 7) for index in range(12)]
    labels = np.arange(12, dtype=np.uint8)[:, None].repeat(400, 1)
    heights = {}
    for width in (100, 200, 1600):
        image = draw_image(12, width)
        drawn = overlay_labels(image, labels[:, :width].repeat(4, 1)[:, :width], palette, names=names)
        assert drawn.shape[1] == width
        chips = [count(drawn[12:], color) for color in palette]
        assert min(chips) == max(chips) > 60  # every chip is whole
        heights[width] = drawn.shape[0]
    assert heights[100] > heights[200] > heights[1600]


def test_an_image_narrower_than_a_name_gets_a_wider_sheet():
    drawn = overlay_labels(draw_image(200, 3), np.full((200, 3), 2), PALETTE, names=NAMES, outline=False)
    assert drawn.shape[1] > 60
    left = (drawn.shape[1] - 3) // 2
    np.testing.assert_array_equal(
        drawn[:200, left : left + 3], overlay_labels(draw_image(200, 3), np.full((200, 3), 2), PALETTE)
    )


def test_no_legend_where_everything_is_ignored():
    drawn = overlay_labels(draw_image(), np.full((60, 80), IGNORE), PALETTE, names=NAMES)
    np.testing.assert_array_equal(drawn, draw_image())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": halves(80, 60)}, r"of one size, got \(height, width\) \(60, 80\) and \(80, 60\)"),
        ({"labels": np.zeros((60, 80, 1), int)}, "labels must be"),
        ({"labels": halves(right=3)}, r"got \[3\]"),
        ({"image": draw_image()[..., 0]}, "an image must be"),
        ({"opacity": 1.5}, r"opacity must lie in \[0, 1\], got 1.5"),
        ({"opacity": float("nan")}, "opacity must lie"),
        ({"names": NAMES[:2]}, "names and palette must be of one length, got 2 and 3"),
    ],
)
def test_overlay_bad_arguments(change, message):
    arguments = {"image": draw_image(), "labels": halves(), "palette": PALETTE, **change}
    with pytest.raises(ValueError, match=message):
        overlay_labels(**arguments)


def test_errors_are_red_and_right_pixels_dimmed_grey():
    image = draw_image(120, 20)  # too narrow for the share: every pixel may be looked at
    target, prediction = halves(120, 20), halves(120, 20)
    prediction[5:8, 2:6] = 2
    target[100:, :] = IGNORE  # whatever is predicted there
    prediction[100:, 5:] = 2
    prediction[50, 3] = IGNORE  # no answer is a wrong answer
    drawn = error_map(image, target, prediction)
    wrong = (target != prediction) & (target != IGNORE)
    assert wrong.sum() == 13
    np.testing.assert_array_equal(is_red(drawn), wrong)
    right = drawn[(target == prediction)]
    assert (right == right[:, :1]).all()  # grey
    assert right.max() < 180
    assert right.std() > 20  # what is in the image can still be seen
    assert drawn[100:].max() < 80
    assert len(np.unique(drawn[100:].reshape(-1, 3), axis=0)) == 2  # hatched


def test_another_ignored_value():
    target, prediction = halves(40, 8), halves(40, 8, right=0)
    assert is_red(error_map(draw_image(40, 8), target, prediction)).sum() == 160
    drawn = error_map(draw_image(40, 8), target, prediction, ignore=1)
    assert not is_red(drawn).any()
    assert drawn[:, 4:].max() < 80


def share_chip(wrong, ignored=0, height=400, width=400):
    """The corner chip of an error map with so many wrong pixels and ignored ones."""
    target = np.zeros((height, width), np.uint8)
    prediction = target.copy()
    prediction.flat[:wrong] = 1
    target.flat[target.size - ignored :] = IGNORE
    drawn = error_map(np.full((height, width, 3), 200, np.uint8), target, prediction)
    paper = (drawn == drawn[-1, 0]).all(-1)
    rows, columns = np.flatnonzero(paper.any(1)), np.flatnonzero(paper.any(0))
    return drawn[rows.min() :, : columns.max() + 1]


def test_the_share_of_right_pixels_stands_in_the_corner():
    everything = share_chip(0)
    assert 10 < everything.shape[0] < 50
    assert 40 < everything.shape[1] < 200
    assert everything.min() < 60 < 200 < everything.max()  # ink on paper
    one_wrong, thousandth, half = share_chip(1), share_chip(160), share_chip(80_000)
    assert one_wrong.shape[1] < everything.shape[1]  # "99.9" is shorter than "100.0"
    np.testing.assert_array_equal(one_wrong, thousandth)  # 99.9: never rounded up to all
    assert not np.array_equal(one_wrong, half)
    np.testing.assert_array_equal(share_chip(40_000, ignored=80_000), half)  # a share of what counts
    assert not np.array_equal(share_chip(0, ignored=160_000), everything)  # nothing labelled


@pytest.mark.parametrize("name", ["target", "prediction"])
def test_error_map_of_another_size(name):
    arguments = {"image": draw_image(), "target": halves(), "prediction": halves(), name: halves(30, 40)}
    with pytest.raises(ValueError, match=rf"image and {name} .* \(60, 80\) and \(30, 40\)"):
        error_map(**arguments)


def panels(sheet, height, width, number):
    """The images of a row, whatever stands above and below."""
    gap, rest = divmod(sheet.shape[1] - number * width, number - 1)
    assert rest == 0
    first = sheet[:, :width]
    top = next(
        y for y in range(len(sheet)) if np.array_equal(first[y : y + height], draw_image(height, width))
    )
    return [
        sheet[top : top + height, k * (width + gap) : k * (width + gap) + width] for k in range(number)
    ], sheet[top + height :]


def test_strip():
    image = draw_image(90, 120)
    target, prediction = halves(90, 120), halves(90, 120, right=2)
    target[:20] = IGNORE
    parts, below = panels(strip(image, target, prediction, PALETTE, NAMES), 90, 120, 4)
    np.testing.assert_array_equal(parts[1], overlay_labels(image, target, PALETTE))
    np.testing.assert_array_equal(parts[2], overlay_labels(image, prediction, PALETTE))
    np.testing.assert_array_equal(parts[3], error_map(image, target, prediction))
    assert all(count(below, color) > 60 for color in PALETTE)  # the classes of truth and prediction


def test_strip_without_truth():
    parts, below = panels(strip(draw_image(90, 120), None, halves(90, 120), PALETTE, NAMES), 90, 120, 2)
    np.testing.assert_array_equal(parts[1], overlay_labels(draw_image(90, 120), halves(90, 120), PALETTE))
    assert [count(below, color) > 60 for color in PALETTE] == [True, True, False]


def test_before_after():
    image, before, after = draw_image(90, 120), halves(90, 120, right=0), halves(90, 120, right=2)
    parts, below = panels(before_after(image, before, after, PALETTE, NAMES), 90, 120, 3)
    np.testing.assert_array_equal(parts[1], overlay_labels(image, before, PALETTE))
    np.testing.assert_array_equal(parts[2], overlay_labels(image, after, PALETTE))
    assert [count(below, color) > 60 for color in PALETTE] == [True, False, True]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 301), (177, 1), (37, 53)])
def test_images_of_any_size(height, width):
    image, labels = draw_image(height, width), np.full((height, width), 1)
    np.testing.assert_array_equal(
        overlay_labels(image, labels, PALETTE, opacity=1), np.broadcast_to(PALETTE[1], image.shape)
    )
    np.testing.assert_array_equal(overlay_labels(image, labels * IGNORE, PALETTE), image)
    assert is_red(error_map(image, labels, 0 * labels)).any()
    for drawn in (
        strip(image, labels, labels, PALETTE, NAMES),
        strip(image, None, labels, PALETTE, NAMES),
        before_after(image, labels, 0 * labels, PALETTE, NAMES),
    ):
        assert count(drawn, PALETTE[1]) > 60  # the legend's chip


@pytest.mark.parametrize("draw", [strip, before_after])
def test_rows_of_different_sizes_or_lengths(draw):
    with pytest.raises(ValueError, match=r"\(60, 80\) and \(61, 80\)"):
        draw(draw_image(), halves(61), halves(), PALETTE, NAMES)
    with pytest.raises(ValueError, match=r"\(60, 80\) and \(61, 80\)"):
        draw(draw_image(), halves(), halves(61), PALETTE, NAMES)
    with pytest.raises(ValueError, match="got 2 and 3"):
        draw(draw_image(), halves(), halves(), PALETTE, NAMES[:2])


def test_beside_requires_one_title_per_image():
    for number, titles in ((3, ("a", "b")), (1, ("a", "b")), (0, ())):
        with pytest.raises(ValueError, match=f"one title per image, got {len(titles)} for {number}"):
            beside(*[draw_image()] * number, titles=titles)


LABELS = LabelSet("test", NAMES, PALETTE, {9: IGNORE}, {})


@pytest.fixture
def files(tmp_path):
    """An image, its label file (with the stored value 9) and a file of predictions."""
    label = halves()
    label[:20] = 9
    for name, array in (
        ("a.v1.png", draw_image()),
        ("label.png", label),
        ("prediction.png", halves(right=2)),
    ):
        Image.fromarray(array).save(tmp_path / name)
    return tmp_path / "a.v1.png", tmp_path / "label.png", tmp_path / "prediction.png"


def test_draw_segmentation_results(files, tmp_path):
    image, label, prediction = files
    other = tmp_path / "b.jpg"
    Image.new("RGB", (33, 21)).save(other)
    out = tmp_path / "new" / "drawn"
    pairs = [(image, label, halves(right=2)), (str(other), None, halves(21, 33))]
    assert draw_segmentation_results(iter(pairs), LABELS, out) == 2
    assert sorted(path.name for path in out.iterdir()) == ["a.v1.jpg", "b.jpg"]
    target = halves()
    target[:20] = IGNORE
    drawn = np.asarray(Image.open(out / "a.v1.jpg"), int)
    expected = strip(draw_image(), target, halves(right=2), PALETTE, NAMES)
    assert drawn.shape == expected.shape
    assert np.abs(drawn - expected).mean() < 8  # JPEG of noise
    written = (out / "a.v1.jpg").read_bytes()
    assert draw_segmentation_results([(str(image), str(label), str(prediction))], LABELS, out) == 1
    assert (
        (out / "a.v1_2.jpg").read_bytes() == (out / "a.v1.jpg").read_bytes() == written
    )  # a prediction read from a file is the same
    assert draw_segmentation_results([], LABELS, tmp_path / "none") == 0
    twice = [(image, label, prediction)] * 2  # as of two folders
    assert draw_segmentation_results(twice, LABELS, tmp_path / "twice") == 2
    assert sorted(path.name for path in (tmp_path / "twice").iterdir()) == ["a.v1.jpg", "a.v1_2.jpg"]


def test_draw_segmentation_results_bad_files(files, tmp_path):
    image, label, prediction = files

    def error(*pair) -> str:
        with pytest.raises(UserError) as caught:
            draw_segmentation_results([pair], LABELS, tmp_path / "drawn")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    Image.fromarray(halves(30, 40)).save(tmp_path / "small.png")
    small = tmp_path / "small.png"
    for pair, what in (
        ((image, small, prediction), f"the label {small}"),
        ((image, label, small), f"the prediction {small}"),
        ((image, None, halves(30, 40)), "the prediction"),
    ):
        message = error(*pair)
        assert message.startswith(f"{what} has shape (30, 40)")
        assert f"{image} has (60, 80)" in message
    assert str(tmp_path / "gone.png") in error(tmp_path / "gone.png", label, prediction)
    assert str(tmp_path / "gone.png") in error(image, tmp_path / "gone.png", prediction)
    assert str(tmp_path / "gone.png") in error(image, label, tmp_path / "gone.png")
    assert not (tmp_path / "drawn").exists()
    with pytest.raises(UserError, match=r"cannot write .*label\.png"):
        draw_segmentation_results([(image, label, prediction)], LABELS, label / "drawn")
    with pytest.raises(ValueError, match=r"got \[3\]"):
        draw_segmentation_results([(image, None, halves(right=3))], LABELS, tmp_path / "drawn")


def test_overlay_with_legend_is_the_overlay_above_its_classes():
    image, labels = draw_image(), halves(right=2)
    drawn = overlay_with_legend(image, labels, PALETTE, NAMES)
    assert np.array_equal(drawn[:60, :80], overlay_labels(image, labels, PALETTE))
    legend = drawn[60:]
    assert [count(legend, color) > 10 for color in PALETTE] == [True, False, True]
    with pytest.raises(ValueError, match="names and palette"):
        overlay_with_legend(image, labels, PALETTE, NAMES[:2])


def test_cityscapes_truth_may_be_label_ids(tmp_path):
    labels = LABEL_SETS["cityscapes"]
    Image.fromarray(draw_image()).save(tmp_path / "a_leftImg8bit.png")
    Image.fromarray(halves(left=7, right=26)).save(tmp_path / "a_gtFine_labelIds.png")  # road, car
    pair = (tmp_path / "a_leftImg8bit.png", tmp_path / "a_gtFine_labelIds.png", halves(left=0, right=13))
    draw_segmentation_results([pair], labels, tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out/a_leftImg8bit.jpg"), int)
    expected = strip(draw_image(), halves(left=0, right=13), pair[2], labels.palette, labels.classes)
    assert np.abs(drawn - expected).mean() < 8


def test_worst_images_are_drawn_as_truth_beside_prediction(tmp_path):
    labels = LabelSet("own", NAMES, PALETTE)
    pairs = []
    for name in ("a", "b"):
        Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(halves(right=1)).save(tmp_path / f"{name}_label.png")
        pairs.append((tmp_path / f"{name}.png", tmp_path / f"{name}_label.png", halves(right=2)))
    draw_worst_segmentations(pairs, [("mIoU 0.3", "a.png")] * 2, labels, tmp_path / "worst.png")
    drawn = np.asarray(Image.open(tmp_path / "worst.png")).astype(int)
    assert drawn.shape[1] > 4 * 480
    tints = [np.rint(128 + 0.55 * (np.array(color) - 128)) for color in PALETTE]
    shown = [(np.abs(drawn - tint).max(-1) < 3).sum() for tint in tints]
    # a half of four maps, of two, of two
    assert shown == pytest.approx([240 * 360 * 4, 240 * 360 * 2, 240 * 360 * 2], rel=0.05)
    assert draw_segmentation_results(pairs, labels, tmp_path / "drawn", ranks=2) == 2
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["001_a.jpg", "002_b.jpg"]


def test_lines_between_instances_of_one_class():
    image = np.full((20, 30, 3), 90, np.uint8)
    labels = np.zeros((20, 30), int)
    regions = np.repeat([[1] * 15 + [2] * 15], 20, axis=0)
    plain, lined = (overlay_labels(image, labels, [(0, 0, 200)], regions=each) for each in (None, regions))
    assert set(np.flatnonzero((plain != lined).any((0, 2)))) == {14}
