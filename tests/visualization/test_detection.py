"""Boxes, pairs and contact sheets: what is drawn where, and what is left alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.errors import UserError
from hardnet_suite.visualization.canvas import beside, class_color, grid
from hardnet_suite.visualization.detection import draw_boxes, draw_results, draw_worst_detections

NAMES = ("cat", "dog", "wine glass")


def draw_image(height=120, width=160, value=90):
    return np.full((height, width, 3), value, np.uint8)


def changed(before, after):
    return (before != after).any(-1)


def test_draws_lines_and_chip_in_the_colour_of_the_class():
    image = draw_image()
    drawn = draw_boxes(image, [[40, 50, 120, 100]], [1], names=NAMES)
    assert (image == 90).all()  # the input is left alone
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    color = class_color(1)
    for y, x in ((100, 80), (75, 40), (75, 120)):
        assert tuple(drawn[y, x]) == color
    assert not changed(image, drawn)[60:90, 50:110].any()  # nothing inside the box
    chip = (drawn[:49] == color).all(-1)
    assert chip.sum() > 50  # the label stands above
    assert chip[:, :38].sum() == 0


def test_scores_make_the_chip_longer():
    plain, scored = (
        draw_boxes(draw_image(), [[10, 50, 120, 100]], [1], names=NAMES, scores=scores)
        for scores in (None, [0.87])
    )
    columns = [np.flatnonzero((drawn[:48] == class_color(1)).all(-1).any(0)) for drawn in (plain, scored)]
    assert columns[1].max() > columns[0].max()


@pytest.mark.parametrize(
    "box", [[0, 0, 159, 119], [150, 0, 159, 6], [-50, -50, 10, 10], [120, 110, 900, 900], [100, 80, 60, 40]]
)
def test_label_stays_within_the_image(box):
    drawn = draw_boxes(draw_image(), [box], [0], names=NAMES, scores=[0.5])
    # the chip is a solid run of colour, whole inside the image: as wide wherever the box lies
    runs = (drawn == class_color(0)).all(-1).sum(1)
    middle = draw_boxes(draw_image(), [[50, 60, 110, 100]], [0], names=NAMES, scores=[0.5])
    chip_rows = (middle[:58] == class_color(0)).all(-1).sum(1).max()
    assert runs.max() >= chip_rows - 8  # the smaller font of narrow boxes is a little shorter


def test_label_wider_than_the_image_is_cut():
    drawn = draw_boxes(draw_image(200, 60), [[2, 100, 58, 190]], [0], names=["W" * 30])
    chip = (drawn[89:98] == class_color(0)).all(-1)
    first, *_, last = np.flatnonzero(chip[0])
    assert chip[:, last - 1 : last + 1].all()  # the text ends before its chip does
    assert not chip[:, first : last + 1].all()


def test_labels_of_equal_boxes_do_not_hide_each_other():
    drawn = draw_boxes(draw_image(), [[40, 50, 120, 100]] * 2, [0, 1], names=NAMES)
    for label in (0, 1):
        chip = (drawn == class_color(label)).all(-1)
        chip[[49, 50, 51, 99, 100, 101]] = chip[:, [39, 40, 41, 119, 120, 121]] = (
            False  # the lines of the boxes
        )
        assert chip.sum() > 50


def test_box_outside_the_image_draws_nothing():
    image = draw_image()
    for box in ([-30, 10, -5, 40], [10, 130, 40, 150]):
        assert not changed(image, draw_boxes(image, [box], [0], names=NAMES)).any()


def test_line_width_grows_with_the_image():
    def width(side):
        drawn = draw_boxes(
            draw_image(side, side), [[side * 0.2, side * 0.4, side * 0.8, side * 0.8]], [0], names=NAMES
        )
        return (drawn[round(side * 0.7), : side // 2] == class_color(0)).all(-1).sum()

    assert width(100) == 1
    assert width(1200) == 6


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4), np.float32)])
def test_no_boxes(boxes):
    image = draw_image()
    drawn = draw_boxes(image, boxes, [], names=NAMES, scores=[])
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_colours_are_stable_and_distinct():
    colors = [class_color(index) for index in range(80)]
    assert colors == [class_color(index) for index in range(80)]
    assert len(set(colors)) == 80
    first = np.array(colors[:10], int)
    distances = np.abs(first[:, None] - first[None]).sum(-1) + 1000 * np.eye(10, dtype=int)
    assert distances.min() > 60


def test_own_palette():
    drawn = draw_boxes(draw_image(), [[40, 50, 120, 100]], [0], names=NAMES, palette=[(1, 2, 3)])
    assert tuple(drawn[100, 80]) == (1, 2, 3)
    with pytest.raises(ValueError, match=r"labels must be integers in \[0, 1\)"):
        draw_boxes(draw_image(), [[40, 50, 120, 100]], [1], names=NAMES, palette=[(1, 2, 3)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((8, 8), np.uint8)}, "an image must be"),
        ({"image": np.zeros((8, 8, 4), np.uint8)}, "an image must be"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, "an image must be"),
        ({"boxes": [1, 2, 3, 4]}, "boxes must be"),
        ({"boxes": [[1, 2, 3]]}, "boxes must be"),
        ({"boxes": [[1, 2, np.nan, 4]]}, "boxes must be"),
        ({"labels": [0, 1]}, "labels and scores must have shape"),
        ({"scores": [0.1, 0.2]}, "labels and scores must have shape"),
        ({"labels": [3]}, "labels must be integers"),
        ({"labels": [-1]}, "labels must be integers"),
        ({"labels": [0.0]}, "labels must be integers"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"image": draw_image(), "boxes": [[1, 2, 30, 40]], "labels": [0], "names": NAMES, **change}
    with pytest.raises(ValueError, match=message):
        draw_boxes(**arguments)


def test_beside_puts_a_title_bar_over_each():
    left, right = draw_image(60, 80, 10), draw_image(60, 80, 200)
    pair = beside(left, right)
    bar = pair.shape[0] - 60
    assert bar > 10
    np.testing.assert_array_equal(pair[bar:, :80], left)
    np.testing.assert_array_equal(pair[bar:, -80:], right)
    for half in (pair[:bar, :80], pair[:bar, -80:]):
        assert half.max() > 200  # paper
        assert half.min() < 100  # ink
    assert not np.array_equal(pair[:bar, :80], beside(left, right, titles=("a", "b"))[:bar, :80])


def test_grid_places_row_by_row():
    values = (10, 20, 30, 40, 50)
    sheet = grid([draw_image(20, 30, value) for value in values], 3)
    gap = (sheet.shape[1] - 90) // 2
    assert sheet.shape == (40 + gap, 90 + 2 * gap, 3)
    for index, value in enumerate(values):
        y, x = (index // 3) * (20 + gap), (index % 3) * (30 + gap)
        assert (sheet[y : y + 20, x : x + 30] == value).all()


def test_grid_of_different_sizes_and_few_images():
    sheet = grid([draw_image(20, 30, 1), draw_image(40, 10, 2)], 5)
    assert sheet.shape[0] == 40
    assert (sheet == 1).all(-1).sum() == 600
    assert (sheet == 2).all(-1).sum() == 400


@pytest.mark.parametrize("arguments", [([], 2), ([draw_image()], 0), ([np.zeros((4, 4))], 1)])
def test_grid_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"grid needs|an image must be"):
        grid(*arguments)


@pytest.fixture
def scored(tmp_path):
    """A tested set of two images, "b" grey and without detections: annotations, results, image folder."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(draw_image()).save(folder / "sub" / "a.png")
    Image.fromarray(draw_image()[..., 0]).save(folder / "b.jpg")
    box = {"image_id": 7, "category_id": 18, "bbox": [40, 50, 80, 50]}
    data = {
        "images": [{"id": 7, "file_name": "sub/a.png"}, {"id": 9, "file_name": "b.jpg"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [box, {**box, "category_id": 3, "iscrowd": 1, "bbox": [0, 0, 160, 120]}],
    }
    results = [
        {**box, "category_id": 3, "score": 0.8, "bbox": [20, 40, 60, 40]},
        {**box, "score": 0.2, "bbox": [100, 70, 40, 40]},
    ]
    for name, content in (("truth.json", data), ("results.json", results)):
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path / "truth.json", tmp_path / "results.json", folder


def near(image, color):
    """Which pixels have about this colour (JPEG changes it a little)."""
    return (np.abs(image.astype(int) - color) < 40).all(-1)


def test_draw_results_truth_left_detections_right(scored, tmp_path):
    out = tmp_path / "new" / "drawn"
    assert draw_results(*scored, out, least_score=0.3) == 2
    assert sorted(path.name for path in out.iterdir()) == ["a.jpg", "b.jpg"]
    drawn = np.asarray(Image.open(out / "a.jpg"))
    drawn = drawn[-120:]  # below the titles
    left, right = drawn[:, :160], drawn[:, -160:]
    cat, dog = class_color(0), class_color(1)
    assert near(left, dog)[98:103, 50:110].any(0).all()  # its lower line
    assert near(right, cat)[78:83, 30:75].any(0).all()
    assert not near(left, cat).any()  # the crowd region
    assert not near(right, dog).any()  # a score below the least
    empty = np.asarray(Image.open(out / "b.jpg"))[-120:]
    assert np.ptp(empty[:, :150]) < 20
    assert np.ptp(empty[:, -150:]) < 20

    assert draw_results(*scored, tmp_path / "one", image_ids=[]) == 0
    draw_results(*scored, tmp_path / "more", least_score=0.2)
    assert near(np.asarray(Image.open(tmp_path / "more" / "a.jpg"))[-120:, -160:], dog).any()


def test_draw_results_applies_the_exif_orientation(scored, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draw_image(120, 160)).save(scored[2] / "b.jpg", exif=exif)
    draw_results(*scored, tmp_path / "drawn")
    assert Image.open(tmp_path / "drawn" / "b.jpg").size[0] < 2 * 160


def test_draw_results_bad_files(scored, tmp_path):
    truth, results, folder = scored
    entries = json.loads(results.read_text())
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps([{**entries[0], "category_id": 99}]))
    with pytest.raises(UserError, match="category_id 99, which"):
        draw_results(truth, foreign, folder, tmp_path / "drawn")
    with pytest.raises(UserError, match=r"cannot write .*truth\.json"):
        draw_results(truth, results, folder, truth / "drawn")
    (folder / "b.jpg").write_bytes(b"\xff\xd8 broken")
    with pytest.raises(UserError, match=r"cannot read the image .*b\.jpg"):
        draw_results(truth, results, folder, tmp_path / "drawn")


def test_ranks_stand_in_front_of_the_names_in_the_order_given(scored, tmp_path):
    assert draw_results(*scored, tmp_path / "drawn", image_ids=[9, 7], ranked=True) == 2
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["001_b.jpg", "002_a.jpg"]
    draw_results(*scored, tmp_path / "drawn", image_ids=["7"], ranked=True)
    assert (tmp_path / "drawn/001_a.jpg").exists()


def test_worst_images_are_drawn_on_one_sheet_in_the_order_given(scored, tmp_path):
    draw_worst_detections(*scored, tmp_path / "worst.jpg", {9: "1 missed", 7: "1 false"})
    drawn = np.asarray(Image.open(tmp_path / "worst.jpg"))
    assert drawn.shape[1] > 4 * 480
    cat, dog = class_color(0), class_color(1)
    half = drawn.shape[1] // 2
    assert not near(drawn[:, :half], cat).any()  # the grey image without boxes
    places = np.argwhere(near(drawn[:, half:], dog))  # the true box, three times as large
    height, width = places.max(0) - places.min(0)
    assert width == pytest.approx(240, abs=6)
    assert 150 <= height <= 190  # with the chip above it
    assert near(drawn[:, half:], cat).any()
    draw_worst_detections(*scored, tmp_path / "all.jpg", {7: "1 false"}, least_score=0.9)
    assert not near(np.asarray(Image.open(tmp_path / "all.jpg")), cat).any()


def test_masks_are_tinted_in_the_colour_of_their_boxes():
    image, mask = draw_image(), np.zeros((120, 160), bool)
    mask[60:90, 50:110] = True
    plain = draw_boxes(image, [[40, 50, 120, 100]], [1], names=NAMES)
    drawn = draw_boxes(image, [[40, 50, 120, 100]], [1], names=NAMES, masks=[mask])
    inner = drawn[62:88, 52:108].reshape(-1, 3)
    assert (inner == np.rint(90 + 0.5 * (np.array(class_color(1)) - 90))).all()
    assert (changed(plain, drawn) == mask).all()
    assert (image == 90).all()


@pytest.mark.parametrize("masks", [[], [np.zeros((9, 9), bool)]])
def test_masks_of_another_number_or_size_are_an_error(masks):
    with pytest.raises(ValueError, match="masks must be 1 of shape"):
        draw_boxes(draw_image(), [[40, 50, 120, 100]], [1], names=NAMES, masks=masks)
