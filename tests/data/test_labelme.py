from __future__ import annotations

import base64
import io
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
        ("mask", [[2, 3], [11, 22]]),  # the first and the last pixel
        ("mask", [[11, 22], [2, 3]]),
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


def png(width, height):
    stream = io.BytesIO()
    Image.new("1", (width, height), 1).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize(
    ("mask", "size", "told"),
    [
        (png(10, 20), (10, 20), None),
        (png(9, 19), (9, 19), None),  # points that end behind the last pixel
        (None, (10, 20), None),
        (png(10, 19), (10, 20), "its mask is of 10×19 pixels, its points span 10×20; these are used"),
        (png(30, 2), (10, 20), "its mask is of 30×2 pixels, its points span 10×20; these are used"),
        ("é", (10, 20), "its mask is no PNG image, its points span 10×20; these are used"),
        ([], (10, 20), "its mask is no PNG image, its points span 10×20; these are used"),
    ],
)
def test_the_points_of_a_mask(tmp_path, mask, size, told):
    put(tmp_path, "a", shape(kind="mask", points=[[2, 3], [11, 22]]) | {"mask": mask})
    data = read_labelme(tmp_path)
    assert boxes(data) == [[("cat", 2, 3, *size)]]
    assert [f.what for f in data.findings if f.kind == "mask"] == ([told] if told else [])


def test_a_mask_of_one_pixel(tmp_path):
    put(tmp_path, "a", shape(kind="mask", points=[[2, 3], [2, 3]]))
    assert boxes(read_labelme(tmp_path)) == [[("cat", 2, 3, 1, 1)]]


WRONG = (True, 2, 1.5, "x", "1", [], [[1]], {}, {"a": 1}, 10**400, "\ud800", "rectangle")


@pytest.mark.parametrize("value", [None, *WRONG], ids=ascii)
@pytest.mark.parametrize(
    "key", ["label", "points", "shape_type", "flags", "group_id", "difficult", "mask", "description"]
)
@pytest.mark.parametrize("kind", ["polygon", "mask"])
def test_values_of_another_type(tmp_path, key, value, kind):
    """A shape is read, dropped or told; nothing else is an error."""
    points = POLYGON if kind == "polygon" else RECTANGLE
    put(tmp_path, "a", shape(), shape("dog", kind, points) | {key: value})
    data = read_labelme(tmp_path)
    ((first, *others),) = boxes(data)
    assert first == ("cat", 2, 3, 10, 20)
    told = [finding for finding in data.findings if finding.kind not in ("polygons", "circles and masks")]
    if not others:
        assert [finding.kind for finding in told] == ["shape dropped"]
        assert told[0].where.startswith("a.json, ")
    elif key == "group_id":
        assert bool(told) == (isinstance(value, bool | float | list | dict))
    elif key == "difficult":
        is_marked = data.splits["train"][0].boxes[1].difficult
        assert (is_marked, bool(told)) == (value in (True, "1"), value not in (None, True, "1"))


@pytest.mark.parametrize("value", [None, *WRONG], ids=ascii)
@pytest.mark.parametrize("key", ["shapes", "imagePath", "imageData", "imageWidth", "flags", "version"])
def test_fields_of_another_type(tmp_path, key, value):
    put(tmp_path, "a", shape(), **{key: value})
    is_refused = (key == "shapes" and value != []) or (key == "imageWidth" and value in (2, 1.5, "1"))
    if is_refused:
        with pytest.raises(UserError, match=r"^\S+a\.json"):
            read_labelme(tmp_path)
    else:
        assert boxes(read_labelme(tmp_path)) == [[] if key == "shapes" else [("cat", 2, 3, 10, 20)]]


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
    assert [finding.what for finding in data.findings] == ["1 not annotated: c.png"]


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


@pytest.mark.parametrize(
    ("width", "height", "stated"),
    [
        (48, None, r"48×\?"),
        (None, 64, r"\?×64"),
        ("48", "64", "48×64"),
        ("48", "x", r"48×\?"),
        (64, 47.5, "64×47"),
    ],
)
def test_another_size_of_one_side_or_as_text(tmp_path, width, height, stated):
    put(tmp_path, "a", shape(), imageWidth=width, imageHeight=height)
    with pytest.raises(UserError, match=rf"the file says {stated}"):
        read_labelme(tmp_path)
    put(tmp_path, "a", shape(), imageWidth=width and "64", imageHeight=height and 48.0)
    assert len(boxes(read_labelme(tmp_path))) == 1


@pytest.mark.parametrize(
    ("points", "kind", "told"),
    [
        ([[90, 2], [99, 9]], "rectangle", "shape dropped"),
        ([[-20, 2], [-3, 9]], "rectangle", "shape dropped"),
        ([[10, 60]] * 2 + [[12, 70]], "polygon", "shape dropped"),
        ([[-9, 20], [-5, 20]], "circle", "shape dropped"),
        ([[50, 2], [99, 9]], "rectangle", "shape cut"),
        ([[-5, -5], [5, -5], [5, 5]], "polygon", "shape cut"),
        ([[0, 0], [64, 48]], "rectangle", None),
        ([[0, 0], [63, 47]], "rectangle", None),
        ([[-0.4, 3], [64.4, 9]], "rectangle", None),
        ([[20.6, 20.6], [20.8, 20.6], [20.7, 20.8]], "polygon", None),
        ([[3, 3], [3, 9]], "rectangle", None),
    ],
)
def test_shapes_outside_of_a_mask_are_told(tmp_path, points, kind, told):
    whole = shape(points=[[0, 0], [63, 47]])
    put(tmp_path, "a", whole, shape(kind=kind, points=points), shape("dog", kind, points), whole)
    data = read_labelme_masks(tmp_path)
    assert [finding.kind for finding in data.findings] == [told] * 2 if told else not data.findings


def test_an_image_in_two_splits_is_told_of_masks_as_well(tmp_path):
    for split in ("train", "val"):
        put(tmp_path / split, "a", shape())
    for read in (read_labelme, read_labelme_masks):
        assert [finding.kind for finding in read(tmp_path).findings] == ["image in several splits"]


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


@pytest.mark.parametrize("kind", ["rotation", "oriented_rectangle"])
def test_rotated_rectangles_of_one_group_stay_apart(tmp_path, kind):
    corners = [[5, 10], [15, 11], [14, 20], [4, 19]], [[45, 10], [55, 11], [54, 20], [44, 19]]
    put(tmp_path, "a", *(shape(kind=kind, points=points) | {"group_id": 1} for points in corners))
    assert boxes(read_labelme(tmp_path)) == [[("cat", 4, 10, 11, 10), ("cat", 44, 10, 11, 10)]]


def test_label_images_have_colors(tmp_path):
    put(tmp_path / "in", "a", shape("cat"), shape("dog", points=[[20, 3], [30, 23]]))
    convert_dataset(tmp_path / "in", tmp_path / "out", target_format="masks")
    (label,) = (tmp_path / "out/labels").rglob("*.png")
    with Image.open(label) as image:
        assert image.mode == "P"
        assert {*np.unique(np.asarray(image))} == {0, 1, 2}
        assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
