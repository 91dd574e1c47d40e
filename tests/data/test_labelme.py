from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.conversion.convert import convert_dataset, detect_format
from hardnet_suite.data.labelme import read_labelme, read_labelme_masks
from hardnet_suite.errors import UserError

RECTANGLE = [[2, 3], [12, 23]]
POLYGON = [[2, 3], [12, 3], [12, 23], [2, 23]]


def shape(label="cat", kind="rectangle", points=RECTANGLE):
    return {"label": label, "shape_type": kind, "points": points, "flags": {}}


def put(folder, name="a", *shapes, size=(64, 48), **content):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (zlib.crc32(name.encode()) % 256, 0, 0)).save(folder / f"{name}.png")
    content = {"imagePath": f"{name}.png", "imageWidth": size[0], "imageHeight": size[1]} | content
    (folder / f"{name}.json").write_text(json.dumps({"shapes": list(shapes), **content}))


def boxes(data, split="train"):
    return [[(box.name, *box.bbox) for box in image.boxes] for image in data.splits[split]]


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("rectangle", RECTANGLE),
        ("rectangle", RECTANGLE[::-1]),
        ("rectangle", POLYGON),
        ("polygon", POLYGON),
        ("mask", RECTANGLE),
    ],
)
def test_boxes(tmp_path, kind, points):
    put(tmp_path, "a", shape(kind=kind, points=points))
    assert detect_format(tmp_path) == "labelme"
    data = read_labelme(tmp_path)
    assert boxes(data) == [[("cat", 2, 3, 10, 20)]]
    kinds = {"rectangle": [], "polygon": ["polygons"], "mask": ["circles and masks"]}
    assert [finding.kind for finding in data.findings] == kinds[kind]
    outline = ((2, 3, 12, 3, 12, 23, 2, 23),) if kind == "polygon" else ()
    assert data.splits["train"][0].boxes[0].outline == outline


def test_a_circle(tmp_path):
    put(tmp_path, "a", shape(kind="circle", points=[[20, 20], [23, 24]]))
    assert boxes(read_labelme(tmp_path)) == [[("cat", 15, 15, 10, 10)]]


@pytest.mark.parametrize(
    "bad",
    [
        shape(kind="point", points=[[3, 3]]),
        shape(kind="line"),
        shape(kind="star"),
        shape(label=""),
        shape(label=None),
        shape(kind="polygon", points=RECTANGLE),
        shape(points=[[1, 2], [3]]),
        shape(points=[[1, 2], [3, float("nan")]]),
        shape(points=None),
        shape(points=[[2, 2], [2, 9]]),
        shape(points=[[90, 2], [99, 9]]),
    ],
)
def test_shapes_without_a_box_are_told(tmp_path, bad):
    put(tmp_path, "a", shape(), bad)
    data = read_labelme(tmp_path)
    assert boxes(data) == [[("cat", 2, 3, 10, 20)]]
    assert len(data.findings) == 1
    assert "dropped" in data.findings[0].kind


def test_splits_and_images_that_are_not_annotated(tmp_path):
    put(tmp_path / "train", "a", shape())
    put(tmp_path / "valid", "b", shape("dog"))
    Image.new("RGB", (8, 8)).save(tmp_path / "train/c.png")
    data = read_labelme(tmp_path)
    assert [*data.splits] == ["train", "val"]
    assert [finding.what for finding in data.findings] == ["1, not annotated; left out"]


@pytest.mark.parametrize("named", ["..\\images\\a.png", "C:\\photos\\a.png", "b.png", None])
def test_image_paths(tmp_path, named):
    put(tmp_path, "a", shape(), imagePath=named)
    assert boxes(read_labelme(tmp_path)) == [[("cat", 2, 3, 10, 20)]]


def test_no_image(tmp_path):
    put(tmp_path, "a", shape())
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"no image 'a\.png'"):
        read_labelme(tmp_path)


def test_another_size(tmp_path):
    put(tmp_path, "a", shape(), imageWidth=48, imageHeight=64)
    with pytest.raises(UserError, match=r"the file says 48×64, but .*a\.png is 64×48"):
        read_labelme(tmp_path)


def test_no_labelme_file(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match="no JSON file of LabelMe"):
        read_labelme(tmp_path)


def test_masks(tmp_path):
    """Later shapes cover earlier ones; __ignore__ is 255."""
    put(
        tmp_path / "in",
        "a",
        shape("road", "polygon", [[0, 0], [63, 0], [63, 47], [0, 47]]),
        shape("car", "rectangle", [[10, 10], [20, 20]]),
        shape("__ignore__", "circle", [[40, 20], [44, 20]]),
    )
    data = read_labelme_masks(tmp_path / "in")
    assert data.classes == ("background", "car", "road")
    report = convert_dataset(tmp_path / "in", tmp_path / "out", target_format="masks")
    assert report.images == {"train": 1}
    values = np.array(Image.open(tmp_path / "out/labels/train/a.png"))
    assert (values[0, 0], values[15, 15], values[20, 40]) == (2, 1, 255)
    assert set(np.unique(values)) == {1, 2, 255}
    assert (tmp_path / "out/classes.txt").read_text() == "background\ncar\nroad\n"


def test_masks_of_boxes_alone(tmp_path):
    put(tmp_path / "in", "a", shape())
    convert_dataset(tmp_path / "in", tmp_path / "coco")
    with pytest.raises(UserError, match="masks are made of LabelMe's shapes or CVAT's masks"):
        convert_dataset(tmp_path / "coco", tmp_path / "out", target_format="masks")


def test_folders_that_are_no_split_beside_those_that_are(tmp_path):
    put(tmp_path / "train", "a", shape())
    put(tmp_path / "val", "b", shape())
    put(tmp_path / "more", "c", shape())
    data = read_labelme(tmp_path)
    assert [len(images) for images in data.splits.values()] == [2, 1]
    assert [finding.what for finding in data.findings] == [
        "1 file in no folder train, val or test; read as train"
    ]


def test_files_in_deep_folders_are_found(tmp_path):
    put(tmp_path / "train/street/night", "a", shape())
    assert detect_format(tmp_path) == "labelme"
    assert [*read_labelme(tmp_path).splits] == ["train"]


def test_grouped_shapes_are_one_object(tmp_path):
    parts = [[2, 3], [12, 3], [7, 23]], [[20, 30], [30, 30], [30, 40]]
    grouped = [shape(kind="polygon", points=points) | {"group_id": 0} for points in parts]
    boxed = [shape(points=points) | {"group_id": 0} for points in ([[1, 1], [4, 4]], [[5, 5], [9, 9]])]
    put(tmp_path, "a", *grouped, *boxed, shape("dog", "polygon", parts[0]) | {"group_id": 0})
    found = [
        (box.name, box.bbox, len(box.outline)) for box in read_labelme(tmp_path).splits["train"][0].boxes
    ]
    assert found == [
        ("cat", (2, 3, 28, 37), 2),
        ("cat", (1, 1, 3, 3), 0),
        ("cat", (5, 5, 4, 4), 0),
        ("dog", (2, 3, 10, 20), 1),
    ]


def test_label_images_have_colors(tmp_path):
    put(tmp_path / "in", "a", shape("cat"), shape("dog", points=[[20, 3], [30, 23]]))
    convert_dataset(tmp_path / "in", tmp_path / "out", target_format="masks")
    (label,) = (tmp_path / "out/labels").rglob("*.png")
    with Image.open(label) as image:
        assert image.mode == "P"
        assert {*np.unique(np.asarray(image))} == {0, 1, 2}
        assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
