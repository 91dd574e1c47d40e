"""What drawings share: free paths for the files of a call, titles, legends."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hardnet_suite.data.segmentation import LabelSet
from hardnet_suite.visualization.canvas import (
    PAPER,
    captioned,
    fitted,
    free_path,
    is_figure,
    ranked_name,
    save_image,
    sheet,
    with_legend,
)
from hardnet_suite.visualization.detection import draw_results
from hardnet_suite.visualization.fonts import Font
from hardnet_suite.visualization.heatmap import draw_heatmaps
from hardnet_suite.visualization.segmentation import draw_segmentation_results


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a", "A", "a"], ["a", "A_2", "a_3"]),
        (["a", "a", "a_2", "a"], ["a", "a_2", "a_2_2", "a_3"]),
        (["a_2", "a", "a"], ["a_2", "a", "a_3"]),
        (["a.v1", "a.v2", "a.v1"], ["a.v1", "a.v2", "a.v1_2"]),
        (["caf\u00e9", "cafe\u0301"], ["caf\u00e9", "cafe\u0301_2"]),  # composed and decomposed
        (["STRASSE", "straße"], ["STRASSE", "straße_2"]),
        (["кот", "КОТ"], ["кот", "КОТ_2"]),
    ],
)
def test_free_paths_of_one_call_differ_in_more_than_case(tmp_path, names, expected):
    numbers = {}
    paths = [free_path(tmp_path / f"{name}.jpg", numbers) for name in names]
    assert [path.name for path in paths] == [f"{name}.jpg" for name in expected]


@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_free_path_avoids_what_exists(tmp_path, kind):
    taken = tmp_path / "a.jpg"
    if kind == "file":
        taken.touch()
    elif kind == "folder":
        taken.mkdir()
    else:
        taken.symlink_to(tmp_path / "gone")
    (tmp_path / "a_2.jpg").touch()
    assert free_path(taken, {}).name == "a_3.jpg"
    assert free_path(tmp_path / "a.png", {}).name == "a.png"


def test_free_path_of_many_equal_names(tmp_path):
    numbers = {}
    assert len({free_path(tmp_path / "a.jpg", numbers) for _ in range(20_000)}) == 20_000


IMAGES = {
    "equal names in subfolders": ["train/a.png", "val/a.png", "test/a.png", "x/b.png", "y/b.png", "b.png"],
    "suffixes": ["a.jpg", "a.png", "a.bmp", "a.webp", "a.v1.png", "a.v2.png"],
    "case": ["a.png", "A.png", "sub/A.PNG", "Sub/a.Png", "b.png", "B.jpg"],
    "numbers": ["a.png", "sub/a.png", "a_2.png", "sub/a_2.png", "a_2_2.png", "a_3.png"],
}


def draw_detections(root, names, out):
    data = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "categories": [{"id": 1, "name": "кот"}],
        "annotations": [],
    }
    (root / "truth.json").write_text(json.dumps(data))
    (root / "results.json").write_text("[]")
    return draw_results(root / "truth.json", root / "results.json", root / "images", out)


def draw_heat(root, names, out):
    draw_detections(root, names, root / "unused")
    (root / "heat").mkdir()
    for number in range(len(names)):
        Image.new("L", (4, 4)).save(root / "heat" / f"{number}.png")
    return draw_heatmaps(root / "truth.json", root / "heat", root / "images", out)


def draw_masks(root, names, out):
    pairs = [(root / "images" / name, None, np.zeros((16, 24), np.uint8)) for name in names]
    return draw_segmentation_results(pairs, LabelSet("", ("road",), ((9, 9, 9),)), out)


DRAW = pytest.mark.parametrize(
    ("draw", "ending"), [(draw_detections, ".jpg"), (draw_heat, "_heatmap.png"), (draw_masks, ".jpg")]
)


def make_images(root, names):
    """Images that differ in their grey; returns it for each."""
    for number, name in enumerate(names):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16), (40 * number,) * 3).save(path)
    return [40 * number for number in range(len(names))]


@DRAW
@pytest.mark.parametrize("case", IMAGES)
def test_each_image_has_its_own_drawing(tmp_path, draw, ending, case):
    names = IMAGES[case]
    greys, out = make_images(tmp_path, names), tmp_path / "out"
    assert draw(tmp_path, names, out) == len(names)
    files = sorted(out.iterdir())
    assert len(files) == len(names)
    assert len({path.name.casefold() for path in files}) == len(names)

    if draw is draw_heat:  # lossless: the image itself is in the drawing
        shown = {
            value
            for path in files
            for value in greys
            if (np.asarray(Image.open(path)) == value).all(-1).sum() >= 16 * 24
        }
        assert shown == set(greys)
    else:
        assert len({path.read_bytes() for path in files}) == len(files)


@DRAW
def test_files_of_others_are_never_overwritten(tmp_path, draw, ending):
    names, out = ["a.png", "b.png"], tmp_path / "out"
    make_images(tmp_path, names)
    out.mkdir()
    (out / f"a{ending}").write_text("mine")
    assert draw(tmp_path, names, out) == 2
    assert (out / f"a{ending}").read_text() == "mine"
    assert len(list(out.iterdir())) == 3


def test_drawings_into_the_folder_of_the_images_spare_them(tmp_path):
    make_images(tmp_path, ["a.jpg", "b.jpg"])
    before = {path: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert draw_detections(tmp_path, ["a.jpg", "b.jpg"], tmp_path / "images") == 2
    assert {path: path.read_bytes() for path in before} == before
    assert len(list((tmp_path / "images").iterdir())) == 4


@pytest.mark.parametrize("name", ["x" * 5000, "длинное имя " * 400, "猫" * 3000])
def test_legends_stay_narrow_enough_to_be_saved(name):
    image = np.zeros((40, 60, 3), np.uint8)
    drawn = with_legend(image, [((200, 0, 0), name), ((0, 200, 0), "b")], Font(12))
    assert drawn.shape[1] < 500
    assert (drawn == (200, 0, 0)).all(-1).sum() > 60
    assert (drawn[-10:, :5] == PAPER).all()


@pytest.mark.parametrize("stem", ["漢" * 83, "a" * 250 + "é", "漢" * 80 + "_heatmap"])
def test_a_long_name_leaves_room_for_a_number(tmp_path, stem):
    numbers = {}
    paths = [free_path(tmp_path / f"{stem}.jpg", numbers) for _ in range(2)]
    for path in paths:
        save_image(path, np.zeros((8, 8, 3), np.uint8))
        assert len(path.stem.encode()) <= 202
        assert path.stem.removesuffix("_2") in stem
    assert sorted(tmp_path.iterdir()) == sorted(paths)


MARK = b"hardnet-suite plot (replaced by the next)"


@pytest.mark.parametrize(
    "content",
    [
        b"# my project, uses hardnet-suite",
        b"a note about " + MARK,
        b"%PDF-1.4 https://x/hardnet-suite my thesis",
        b"%PDF-1.4 (" + MARK + b")",
        b"<svg><text>" + MARK + b"</text></svg>",
        b"<?xml?><svg><text>hardnet-suite</text></svg>",
        b"<?xml?>" + b" " * 4096 + b"<dc:title>" + MARK + b"</dc:title>",
        b"\x89PNG\r\n\x1a\n" + MARK,
        b"\xff\xd8\xff" + MARK,
        b"",
    ],
)
def test_a_file_that_only_mentions_the_suite_is_no_figure(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert not is_figure(tmp_path / "file")


@pytest.mark.parametrize("text", ["hardnet-suite", "made after " + MARK.decode()])
def test_an_image_of_another_program_is_no_figure(tmp_path, text):
    info = PngInfo()
    info.add_text("Software", text)
    info.add_text("Title", MARK.decode())
    image = Image.new("RGB", (8, 8))
    image.save(tmp_path / "a.png", pnginfo=info)
    image.save(tmp_path / "a.jpg", comment=text)
    assert not is_figure(tmp_path / "a.png")
    assert not is_figure(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((20, 40), (60, 120)), ((400, 200), (120, 60)), ((1, 5000), (1, 120)), ((120, 120), (120, 120))],
)
def test_fitted_images_have_the_longer_side_asked_for(shape, expected):
    assert fitted(np.zeros((*shape, 3), np.uint8), 120).shape == (*expected, 3)


def test_captions_stand_below_and_stay_within_the_width():
    image = np.full((50, 300, 3), (200, 30, 30), np.uint8)
    for lines in (("2 missed",), ("2 missed", "a name that is much too long for one line " * 3)):
        drawn = captioned(image, lines)
        assert drawn.shape[1] == 300
        np.testing.assert_array_equal(drawn[:50], image)
        rows = np.flatnonzero((drawn[50:] != PAPER).any(-1).any(1))
        breaks = (np.diff(rows) > 4).sum()
        assert breaks == len(lines) - 1
        assert (drawn[50:, :3] == PAPER).all()


def test_a_sheet_has_three_columns_and_rows_as_high_as_their_images():
    sizes = {10: (20, 30), 20: (50, 30), 30: (20, 10), 40: (25, 30)}
    drawn = sheet([np.full((*size, 3), value, np.uint8) for value, size in sizes.items()])
    assert drawn.shape == (50 + 25 + 2 * 28, 3 * (30 + 28), 3)
    places = {value: np.argwhere((drawn == value).all(-1)) for value in sizes}
    for value, (height, width) in sizes.items():
        assert len(places[value]) == height * width
    bottoms = [places[value][:, 0].max() for value in sizes]
    assert bottoms[0] == bottoms[1] == bottoms[2] < places[40][:, 0].min()
    middles = [places[value][:, 1].mean() for value in sizes]
    assert middles[0] == middles[3] < middles[1] < middles[2]
    assert sheet([np.zeros((20, 30, 3), np.uint8)]).shape == (48, 58, 3)


@pytest.mark.parametrize("count", [5, 12_345])
def test_ranked_names_sort_by_rank(count):
    assert ranked_name("a.jpg", None, count) == "a.jpg"
    names = [ranked_name("a.jpg", rank, count) for rank in range(1, count + 1)]
    assert names == sorted(names)
    assert names[0].endswith("01_a.jpg")
