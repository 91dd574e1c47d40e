"""Conversions to LabelMe's JSON, CVAT's XML and CVAT's colour masks, and back."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hardnet_suite.data.boxes import Box, BoxData, BoxImage
from hardnet_suite.data.conversion.coco import write_coco
from hardnet_suite.data.conversion.convert import convert_dataset, detect_format, read_boxes
from hardnet_suite.data.conversion.cvat import write_cvat, write_cvat_masks
from hardnet_suite.data.conversion.labelme import write_labelme
from hardnet_suite.data.conversion.masks import write_masks
from hardnet_suite.data.conversion.voc import write_voc
from hardnet_suite.data.conversion.yolo import write_yolo
from hardnet_suite.data.cvat import read_cvat_boxes
from hardnet_suite.data.folders import tasks_of
from hardnet_suite.data.labelme import read_labelme
from hardnet_suite.data.masks import MaskData, MaskImage
from hardnet_suite.data.segmentation.cvat import read_cvat
from hardnet_suite.errors import UserError

WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}
NEW = {"labelme": write_labelme, "cvat": write_cvat}
TRIANGLE = (2.0, 3.0, 12.0, 3.0, 7.0, 23.5)
SQUARE = (20.0, 30.0, 30.0, 30.0, 30.0, 40.0, 20.0, 40.0)
FILES = (
    "a.png",
    "sub/c.png",
    "sub/deep er/b.jpg",
    "a&b<c>'d.png",
    "ünï 漢字.png",
    "100%;1,2.png",
    "{{x}}.png",
)
names = st.one_of(
    st.sampled_from(
        ["cat", "<&>\"'", "a;b,c", "{{x}}", "null", "1", "traffic light", "]]>", "\\", "__ignore__"]
    ),
    st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="￾￿"), min_size=1, max_size=6),
)
side = st.floats(1.6, 30)


def data_of(folder, images, classes=None, split="train"):
    """``images``: name -> boxes; the files are written to ``folder``."""
    members = []
    for name, boxes in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (20, 90, 160)).save(path)
        members.append(BoxImage(path, name, (64, 48), tuple(boxes)))
    return BoxData(folder, "a test", classes, {split: members}, (), frozenset({folder}))


def objects(data):
    """(split, name below the split) -> (class, difficult, box) of each object."""
    return {
        (split, image.name.removeprefix(f"{split}/")): [
            (box.name, box.difficult, *box.bbox) for box in image.boxes
        ]
        for split, images in data.splits.items()
        for image in images
    }


@st.composite
def data_sets(draw):
    classes = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    box = st.builds(
        lambda name, *bbox: Box(name, bbox),
        st.sampled_from(classes),
        st.floats(1, 20),
        st.floats(1, 8),
        side,
        side,
    )
    files = draw(st.lists(st.sampled_from(FILES), min_size=2, max_size=3, unique=True))
    images = {name: draw(st.lists(box, max_size=3, unique=True)) for name in files}
    images[files[0]] = images[files[0]] or [draw(box)]
    images[files[1]] = []
    return classes, images


@pytest.mark.parametrize("through", [*NEW])
@pytest.mark.parametrize("source", [*WRITERS])
@settings(max_examples=6, deadline=None)
@given(drawn=data_sets())
def test_there_and_back(source, through, drawn):
    """The same images, classes by name and boxes, and an image without objects stays one."""
    classes, images = drawn
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        WRITERS[source](data_of(folder / "in", images, tuple(classes)), folder / source)
        report = convert_dataset(folder / source, folder / through, target_format=through)
        assert detect_format(folder / through) == through
        back = convert_dataset(folder / through, folder / "back", target_format=source)
        before, after = read_boxes(folder / source), read_boxes(folder / "back")
    assert report.findings == ()
    assert back.findings == ()
    before, after = objects(before), objects(after)
    assert {*after} == {*before}
    for key, expected in before.items():
        assert [row[:2] for row in after[key]] == [row[:2] for row in expected]
        for one, other in zip(expected, after[key], strict=True):
            assert other[2:] == pytest.approx(one[2:], abs=1e-5)


@pytest.mark.parametrize("kind", [*NEW])
def test_difficult_objects_keep_their_mark(tmp_path, kind):
    data = data_of(tmp_path / "in", {"a.png": [Box("cat", (1, 2, 9, 9), True), Box("cat", (4, 4, 8, 8))]})
    report = NEW[kind](data, tmp_path / "out")
    assert report.findings == ()
    expected = [("cat", True, 1, 2, 9, 9), ("cat", False, 4, 4, 8, 8)]
    assert objects(read_boxes(tmp_path / "out"))["train", "a.png"] == expected
    kept = read_boxes(tmp_path / "out", difficult="keep")
    assert [box.difficult for box in kept.splits["train"][0].boxes] == [False, False]


@pytest.mark.parametrize("kind", [*NEW])
@pytest.mark.parametrize("outline", [(TRIANGLE,), (TRIANGLE, SQUARE)])
def test_outlines(tmp_path, kind, outline):
    """An object of two polygons stays one object."""
    box = Box("cat", (2, 3, 28, 37) if len(outline) == 2 else (2, 3, 10, 20.5), outline=outline)
    data = data_of(tmp_path / "in", {"a.png": [box, Box("dog", (1, 1, 5, 5))], "b.png": [box]})
    report = NEW[kind](data, tmp_path / "out")
    assert report.findings == ()
    back = read_boxes(tmp_path / "out")
    assert [image.boxes for image in back.splits["train"]] == [(box, Box("dog", (1, 1, 5, 5))), (box,)]
    assert [finding.kind for finding in back.findings] == ["polygons"]
    # from one to the other nothing is lost, and nothing is told
    other = next(name for name in NEW if name != kind)
    report = convert_dataset(tmp_path / "out", tmp_path / "other", target_format=other)
    assert report.findings == ()
    assert read_boxes(tmp_path / "other").splits["train"][0].boxes[0] == box


@pytest.mark.parametrize("kind", [*NEW])
def test_outlines_of_coco_and_yolo(tmp_path, kind):
    data = data_of(tmp_path / "in", {"a.png": [Box("cat", (2, 3, 10, 20.5))]})
    write_coco(data, tmp_path / "coco")
    path = tmp_path / "coco/annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [TRIANGLE]
    path.write_text(json.dumps(content))
    write_yolo(data, tmp_path / "yolo")
    row = " ".join(str(value / (64, 48)[index % 2]) for index, value in enumerate(TRIANGLE))
    (tmp_path / "yolo/labels/train/a.txt").write_text(f"0 {row}\n")
    for source in ("coco", "yolo"):
        report = convert_dataset(tmp_path / source, tmp_path / f"from_{source}", target_format=kind)
        assert report.findings == ()
        (box,) = read_boxes(tmp_path / f"from_{source}").splits["train"][0].boxes
        assert box.outline[0] == pytest.approx(TRIANGLE)
        boxed = convert_dataset(tmp_path / source, tmp_path / f"voc_{source}", target_format="voc")
        assert [finding.kind for finding in boxed.findings] == ["polygons"]


@pytest.mark.parametrize("kind", [*NEW])
def test_a_box_that_is_not_that_of_its_outline_is_told(tmp_path, kind):
    wide = Box("cat", (2, 3, 30, 20.5), outline=(TRIANGLE,))
    near = Box("cat", (2.02, 3, 10, 20.5), outline=(TRIANGLE,))
    rounded = Box("cat", (2.01, 3, 9.99, 20.5), outline=(TRIANGLE,))
    for boxes, told in (
        ([wide, near, rounded], "2 that differ from their outline, by up to 20.00 pixels"),
        ([near, rounded], "1 that differ from their outline, by up to 0.02 pixels"),
    ):
        (finding,) = NEW[kind](data_of(tmp_path / "in", {"a.png": boxes}), tmp_path / told).findings
        assert finding.kind == "boxes"
        assert finding.what.startswith(told)
    data = data_of(tmp_path / "in", {"a.png": [rounded]})
    assert NEW[kind](data, tmp_path / "out").findings == ()


@pytest.mark.parametrize("kind", [*NEW])
def test_outlines_that_leave_the_image(tmp_path, kind):
    outline = ((-5.0, 3.0, 12.0, 3.0, 7.0, 60.0),)
    data = data_of(tmp_path / "in", {"a.png": [Box("cat", (0, 3, 12, 45), outline=outline)]})
    assert NEW[kind](data, tmp_path / "out").findings == ()
    back = read_boxes(tmp_path / "out")
    assert objects(back)["train", "a.png"] == [("cat", False, 0, 3, 12, 45)]
    assert [finding.kind for finding in back.findings] == ["box cut", "polygons"]


def test_what_labelme_opens(tmp_path):
    write_labelme(data_of(tmp_path / "in", {"s/a.png": [Box("cat", (1, 2, 9, 10))]}), tmp_path / "out")
    content = json.loads((tmp_path / "out/train/s/a.json").read_text())
    assert {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"} == {*content}
    assert (content["imagePath"], content["imageData"]) == ("a.png", None)
    (shape,) = content["shapes"]
    assert shape["points"] == [[1, 2], [10, 12]]
    assert (tmp_path / "out/train/s/a.png").is_file()


def test_what_cvat_imports(tmp_path):
    write_cvat(data_of(tmp_path / "in", {"s/a.png": [Box("cat", (1, 2, 9, 10.25))]}), tmp_path / "out")
    root = ElementTree.parse(tmp_path / "out/annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [name.text for name in root.findall("meta/project/labels/label/name")] == ["cat"]
    assert [subset.text for subset in root.findall("meta/project/subsets/subset")] == ["train"]
    image = root.find("image")
    assert image.attrib == {"id": "0", "name": "s/a.png", "subset": "train", "width": "64", "height": "48"}
    box = image.find("box").attrib
    assert [box[key] for key in ("label", "xtl", "ytl", "xbr", "ybr")] == ["cat", "1", "2", "10", "12.25"]
    assert (tmp_path / "out/images/train/s/a.png").is_file()


@pytest.mark.parametrize("kind", [*NEW])
@pytest.mark.parametrize("link", [False, True])
def test_conversions_are_repeated_and_replace_nothing_of_the_user(tmp_path, kind, link):
    data = data_of(tmp_path / "in", {"a.png": [Box("cat", (1, 2, 9, 9))]})
    for _ in range(2):
        NEW[kind](data, tmp_path / "out", link=link)
    image = tmp_path / "out" / ("train/a.png" if kind == "labelme" else "images/train/a.png")
    assert image.is_symlink() == link
    place = tmp_path / "out" / ("train/a.json" if kind == "labelme" else "annotations.xml")
    place.write_text("mine")
    with pytest.raises(UserError, match="no earlier conversion wrote it"):
        NEW[kind](data, tmp_path / "out", link=link)
    assert place.read_text() == "mine"


@pytest.mark.parametrize("kind", [*NEW, "cvat-masks", "masks", "yolo"])
def test_images_that_would_share_a_file(tmp_path, kind):
    images = {"a.png": [Box("cat", (1, 2, 9, 9))], "a.jpg": []}
    write = {"yolo": write_yolo, **NEW}.get(kind)
    data = data_of(tmp_path / "in", images)
    if kind == "cvat":  # whose objects are found by the whole name
        write(data, tmp_path / "out")
        assert len(read_boxes(tmp_path / "out").images) == 2
        return
    if write is None:
        write = {"masks": write_masks, "cvat-masks": write_cvat_masks}[kind]
        labels = np.zeros((48, 64), np.uint8)
        masks = {"train": [MaskImage(image.path, image.name, labels) for image in data.splits["train"]]}
        data = MaskData(tmp_path / "in", "a test", ("cat",), None, masks, (), data.folders)
    with pytest.raises(UserError, match="would share"):
        write(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["labelme", "yolo", "voc"])
def test_hidden_images_and_unusual_splits(tmp_path, kind):
    write = {"yolo": write_yolo, "voc": write_voc, **NEW}[kind]
    box = [Box("cat", (1, 2, 9, 9))]
    with pytest.raises(UserError, match="begin with a dot"):
        write(data_of(tmp_path / "in", {".a.png": box}), tmp_path / "out")
    report = write(data_of(tmp_path / "in", {"a.png": box}, split="minival"), tmp_path / "out")
    assert [(finding.kind, finding.where) for finding in report.findings] == [("split", "minival")]


def test_cvat_keeps_any_split(tmp_path):
    write_cvat(
        data_of(tmp_path / "in", {"a.png": [Box("cat", (1, 2, 9, 9))]}, split="minival"), tmp_path / "out"
    )
    assert [*read_boxes(tmp_path / "out").splits] == ["minival"]


@pytest.mark.parametrize("through", ["cvat", "cvat-masks"])
@pytest.mark.parametrize(
    ("split", "read"),
    [("default", "train"), ("Default", "train"), ("Train", "train"), ("valid", "val"), ("", "train")],
)
def test_splits_that_cvat_would_read_as_others(tmp_path, through, split, read):
    message = f"the split '{split}' would be read from CVAT's files as {read}: rename it"
    if through == "cvat":
        data, write = data_of(tmp_path / "in", {"a.png": [Box("cat", (1, 2, 9, 9))]}, split=split), write_cvat
    else:
        data, write = masks_of(tmp_path / "in", ("background", "cat")), write_cvat_masks
        data = replace(data, splits={split: data.splits["train"], "val": data.splits["val"]})
    with pytest.raises(UserError, match=message):
        write(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "val", "test", "minival", "defaults"])
def test_splits_of_masks_there_and_back(tmp_path, split):
    data = masks_of(tmp_path / "in", ("background", "cat"))
    write_cvat_masks(replace(data, splits={split: data.splits["train"]}), tmp_path / "out")
    assert [*read_cvat(tmp_path / "out").splits] == [split]


@pytest.mark.parametrize("name", [" cat", "a￾b"])
def test_names_that_xml_cannot_hold(tmp_path, name):
    with pytest.raises(UserError, match="cannot be stored as CVAT's XML"):
        write_cvat(data_of(tmp_path / "in", {"a.png": [Box(name, (1, 2, 9, 9))]}), tmp_path / "out")


def test_an_image_whose_name_has_a_backslash(tmp_path):
    """The file of that very name comes before one in a folder."""
    data = data_of(
        tmp_path / "in", {"a\\b.png": [Box("cat", (1, 2, 9, 9))], "b.png": [Box("dog", (1, 2, 9, 9))]}
    )
    for kind, write in NEW.items():
        write(data, tmp_path / kind)
        assert [box[0][0] for box in objects(read_boxes(tmp_path / kind)).values()] == ["cat", "dog"]


# CVAT's XML


def xml(
    folder, shapes="", *, name="a.png", attributes='width="64" height="48"', labels=("cat", "dog"), more=""
):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(folder / "images/a.png")
    listed = "".join(f"<label><name>{label}</name></label>" for label in labels)
    (folder / "annotations.xml").write_text(
        f"<annotations><version>1.1</version><meta><job><labels>{listed}</labels></job></meta>"
        f'<image id="0" name="{name}" {attributes}>{shapes}</image>{more}</annotations>'
    )


@pytest.mark.parametrize(
    ("shape", "bbox", "told"),
    [
        ('<box label="cat" xtl="2" ytl="3" xbr="12" ybr="23"/>', (2, 3, 10, 20), []),
        (
            '<box label="cat" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90"/>',
            (13, 7, 4, 10),
            ["polygons"],
        ),
        ('<polygon label="cat" points="2,3;12,3;7,23"/>', (2, 3, 10, 20), ["polygons"]),
        (
            '<ellipse label="cat" cx="20" cy="20" rx="5" ry="3"/>',
            (15, 17, 10, 6),
            ["ellipses, rotated boxes and masks"],
        ),
        (
            '<ellipse label="cat" cx="20" cy="20" rx="5" ry="3" rotation="90"/>',
            (17, 15, 6, 10),
            ["ellipses, rotated boxes and masks"],
        ),
        (
            '<mask label="cat" rle="1, 4" left="2" top="3" width="10" height="20"/>',
            (2, 3, 10, 20),
            ["ellipses, rotated boxes and masks"],
        ),
    ],
)
def test_shapes_of_cvat(tmp_path, shape, bbox, told):
    xml(tmp_path, shape)
    data = read_cvat_boxes(tmp_path)
    assert data.classes == ("cat", "dog")
    (box,) = data.splits["train"][0].boxes
    assert (box.name, box.bbox) == ("cat", pytest.approx(bbox))
    assert [finding.kind for finding in data.findings] == told


@pytest.mark.parametrize(
    "shape",
    [
        '<points label="cat" points="1,2"/>',
        '<polyline label="cat" points="1,2;3,4;5,9"/>',
        '<skeleton label="cat"/>',
        '<tag label="cat"/>',
        '<star label="cat"/>',
        '<polygon label="cat" points="1,2;3,4"/>',
        '<polygon label="cat" points="1,2;3,4;5"/>',
        '<polygon label="cat" points=""/>',
        '<polygon label="cat" points="1,2;3,4;nan,9"/>',
        '<box label="" xtl="2" ytl="3" xbr="12" ybr="23"/>',
        '<box xtl="2" ytl="3" xbr="12" ybr="23"/>',
        '<box label="cat" xtl="2" ytl="3" xbr="12"/>',
        '<box label="cat" xtl="2" ytl="3" xbr="2" ybr="23"/>',
        '<box label="cat" xtl="92" ytl="3" xbr="99" ybr="23"/>',
        '<box label="cat" xtl="2" ytl="3" xbr="12" ybr="23" rotation="x"/>',
    ],
)
def test_shapes_of_cvat_without_a_box_are_told(tmp_path, shape):
    xml(tmp_path, '<box label="dog" xtl="1" ytl="1" xbr="9" ybr="9"/>' + shape)
    data = read_cvat_boxes(tmp_path)
    assert [box.name for box in data.splits["train"][0].boxes] == ["dog"]
    assert len(data.findings) == 1
    assert "dropped" in data.findings[0].kind


@pytest.mark.parametrize(
    ("text", "difficult"),
    [
        *[(text, True) for text in ("true", " Yes ", "1", "1.0")],
        *[(text, False) for text in ("false", "no", "0", "0.0", "")],
        *[(text, None) for text in ("maybe", "2")],
    ],
)
@pytest.mark.parametrize("name", ["difficult", "IsCrowd", "is_crowd"])
def test_marks_of_cvat(tmp_path, name, text, difficult):
    """They mean what they mean in VOC's and LabelMe's files; others are told."""
    mark = f'<attribute name="{name}">{text}</attribute>'
    xml(tmp_path, f'<box label="cat" xtl="2" ytl="3" xbr="12" ybr="23">{mark}</box>')
    data = read_cvat_boxes(tmp_path)
    assert data.images[0].boxes[0].difficult == bool(difficult)
    told = [f"difficult is {text!r}, read as not difficult; write false or true"] * (difficult is None)
    assert [finding.what for finding in data.findings] == told


def test_grouped_polygons_of_cvat_are_one_object(tmp_path):
    shape = '<polygon label="{}" points="{}" group_id="{}"/>'
    points = "2,3;12,3;7,23", "20,30;30,30;30,40"
    grouped = "".join(shape.format("cat", text, 3) for text in points)
    others = shape.format("dog", points[0], 3) + "".join(shape.format("cat", text, 0) for text in points)
    xml(tmp_path, grouped + others)
    boxes = read_cvat_boxes(tmp_path).splits["train"][0].boxes
    assert [(box.name, len(box.outline)) for box in boxes] == [("cat", 2), ("dog", 1), ("cat", 1), ("cat", 1)]
    assert boxes[0].bbox == (2, 3, 28, 37)


@pytest.mark.parametrize("angle", [0, 1, 90])
def test_boxes_of_one_group_stay_apart(tmp_path, angle):
    shape = '<box label="cat" xtl="{}" ytl="10" xbr="{}" ybr="20" rotation="{}" group_id="3"/>'
    xml(tmp_path, shape.format(5, 15, angle) + shape.format(40, 50, angle))
    data = read_cvat_boxes(tmp_path)
    first, second = data.splits["train"][0].boxes
    assert second.bbox == pytest.approx((first.bbox[0] + 35, *first.bbox[1:]))
    assert [finding.what for finding in data.findings] == ["2 objects; bounding boxes are used"] * bool(angle)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "b.png"}, "no image 'b.png' in .*images"),
        ({"name": ""}, "no image ''"),
        ({"attributes": 'width="48" height="64"'}, "the file says 48×64, but .* is 64×48"),
        ({"attributes": 'width="48"'}, r"the file says 48×\?, but .* is 64×48"),
        ({"more": '<track id="0" label="cat"/>'}, "CVAT for images 1.1"),
        ({"more": '<image id="1" name="a.png"/>'}, "twice"),
        ({"shapes": "<box"}, "not valid XML"),
    ],
)
def test_unusable_xml_of_cvat(tmp_path, arguments, message):
    xml(tmp_path, **arguments)
    with pytest.raises(UserError, match=message):
        read_boxes(tmp_path)


@pytest.mark.parametrize(
    ("subset", "split"), [("", "train"), ("default", "train"), ("Validation", "val"), ("extra", "extra")]
)
def test_splits_of_cvat(tmp_path, subset, split):
    xml(tmp_path, '<box label="dog" xtl="1" ytl="1" xbr="9" ybr="9"/>', attributes=f'subset="{subset}"')
    for source in (tmp_path, tmp_path / "annotations.xml"):
        assert detect_format(source) == "cvat"
        assert [*read_boxes(source).splits] == [split]
    assert tasks_of(tmp_path) == ["detection"]


def test_labels_beyond_those_of_the_task(tmp_path):
    xml(tmp_path, '<box label="cow" xtl="1" ytl="1" xbr="9" ybr="9"/>')
    assert read_cvat_boxes(tmp_path).classes == ("cat", "dog", "cow")


# CVAT's colour masks


def masks_of(folder, classes, palette=None, *, ignored=True):
    labels = np.resize(np.arange(len(classes)).astype(np.uint8), (48, 64))
    if ignored:
        labels[0, 0] = 255
    splits = {}
    for split, name in (("train", "a.png"), ("train", "sub/b.png"), ("val", "c.png")):
        path = folder / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (0, 0, 40 * len(splits) + 20 * len(name))).save(path)
        splits.setdefault(split, []).append(MaskImage(path, f"{split}/{name}", labels))
    return MaskData(folder, "a test", tuple(classes), palette, splits, (), frozenset({folder}))


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("palette", [None, ((0, 0, 0), (224, 224, 192), (9, 9, 9)), ((1, 1, 1),) * 3])
def test_masks_there_and_back(tmp_path, palette, ignored):
    data = masks_of(tmp_path / "in", ("background", "<road>", "car, red"), palette, ignored=ignored)
    write_cvat_masks(data, tmp_path / "out")
    assert detect_format(tmp_path / "out") == "cvat-masks"
    back = read_cvat(tmp_path / "out")
    assert back.classes == data.classes
    assert back.findings == ()
    if palette and len({*palette}) == 3:
        assert back.palette == palette
    for split, images in data.splits.items():
        assert [image.name for image in back.splits[split]] == [image.name for image in images]
        for one, other in zip(images, back.splits[split], strict=True):
            np.testing.assert_array_equal(one.labels, other.labels)
    report = convert_dataset(tmp_path / "out", tmp_path / "masks")
    assert report.images == {"train": 2, "val": 1}
    stored = np.array(Image.open(tmp_path / "masks/labels/train/sub/b.png"))
    np.testing.assert_array_equal(stored, data.splits["train"][1].labels)


@pytest.mark.parametrize("write", [write_masks, write_cvat_masks])
def test_names_of_images_with_masks(tmp_path, write):
    """Those that readers would skip or a list cannot hold are errors before anything is written."""
    data = masks_of(tmp_path / "in", ("background", "car"))
    image = data.splits["train"][0]
    for name, fails in (
        ("imgone", True),
        (".a.png", True),
        ("a\udcff.png", write is write_cvat_masks),
        ("b.PNG", False),
    ):
        named = replace(data, splits={"train": [replace(image, name=name)]})
        if fails:
            with pytest.raises(UserError, match="rename the image"):
                write(named, tmp_path / "out")
            assert not (tmp_path / "out").exists()
        else:
            write(named, tmp_path / ascii(name))


def test_cvat_has_one_mask_per_image(tmp_path):
    data = masks_of(tmp_path / "in", ("background", "car"))
    image = data.splits["train"][0]
    for labels, fails in ((image.labels, False), (1 - image.labels % 2, True)):
        shared = replace(data, splits={"train": [image], "val": [replace(image, labels=labels)]})
        if fails:
            with pytest.raises(UserError, match="has other annotations in another split"):
                write_cvat_masks(shared, tmp_path / "other")
        else:
            write_cvat_masks(shared, tmp_path / "out")


def test_255_classes(tmp_path):
    data = masks_of(tmp_path / "in", [f"class {index}" for index in range(255)])
    write_cvat_masks(data, tmp_path / "out")
    back = read_cvat(tmp_path / "out")
    np.testing.assert_array_equal(back.splits["val"][0].labels, data.splits["val"][0].labels)


@pytest.mark.parametrize("name", ["a:b", "#car", " car", "__ignore__"])
def test_names_that_labelmap_cannot_hold(tmp_path, name):
    with pytest.raises(UserError, match="rename"):
        write_cvat_masks(masks_of(tmp_path / "in", ("background", name)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


STRIPPED = ["car ", " car", "\u3000", " ", "\xa0car"]


@pytest.mark.parametrize("name", [*STRIPPED, "x\u2028y", "x\u2029y", "\ufeffcar"])
def test_names_that_a_list_of_classes_cannot_hold(tmp_path, name):
    """They would shift the labels of the classes that follow, or become another class."""
    for write in (write_masks, write_cvat_masks):
        with pytest.raises(UserError, match=r"cannot stand in .*: rename"):
            write(masks_of(tmp_path / "in", (name, "car")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", STRIPPED)
def test_names_that_yolo_cannot_hold(tmp_path, name):
    data = data_of(tmp_path / "in", {"a.png": [Box(name, (1, 2, 9, 9)), Box("car", (1, 2, 9, 9))]})
    with pytest.raises(UserError, match="rename"):
        write_yolo(data, tmp_path / "out")
    write_yolo(data, tmp_path / "out", classes=["car"])


@pytest.mark.parametrize(
    "name", ["x\u2028y", "\ufeffcar", "a: b", "#", "1", "null", "y", "- a", "'", '"', "\\"]
)
def test_names_that_yolo_holds(tmp_path, name):
    data = data_of(tmp_path / "in", {"a.png": [Box(name, (1, 2, 9, 9))]})
    write_yolo(data, tmp_path / "out")
    assert read_boxes(tmp_path / "out").classes == (name,)


def test_labelme_to_masks_of_cvat(tmp_path):
    box = Box("car", (2, 3, 10, 20.5), outline=(TRIANGLE,))
    write_labelme(data_of(tmp_path / "in", {"a.png": [box]}), tmp_path / "labelme")
    convert_dataset(tmp_path / "labelme", tmp_path / "out", target_format="cvat-masks")
    (image,) = read_cvat(tmp_path / "out").splits["train"]
    assert image.labels[10, 7] == 1
    assert image.labels[40, 60] == 0
    assert read_labelme(tmp_path / "labelme").splits["train"][0].name == image.name
