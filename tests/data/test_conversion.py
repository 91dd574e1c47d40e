"""Conversions between COCO, VOC and YOLO."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hardnet_suite.data.boxes import Box, BoxData, BoxImage
from hardnet_suite.data.conversion.coco import coco_content, write_coco
from hardnet_suite.data.conversion.convert import convert_dataset, detect_format, read_boxes
from hardnet_suite.data.conversion.voc import write_voc
from hardnet_suite.data.conversion.yolo import write_yolo
from hardnet_suite.errors import UserError

BOXES = ("coco", "voc", "yolo")
TOLERANCE = {"coco": 0, "voc": 1e-9, "yolo": 1e-5}  # pixels


def picture(path, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (20, 90, 160)).save(path)
    return path


def data_of(folder, images, classes=None):
    """``images``: name -> boxes; the files are written to ``folder``."""
    made = [BoxImage(picture(folder / name), name, (64, 48), tuple(boxes)) for name, boxes in images.items()]
    return BoxData(folder, "a test", classes, {"train": made}, (), frozenset({folder}))


def records(data, split="train"):
    """Name -> (class, box), sorted."""
    return {
        Path(image.name).name: sorted((box.name, *box.bbox) for box in image.boxes)
        for image in data.splits[split]
    }


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    data = data_of(
        folder / "images", {"a.png": [Box("cat", (2, 3, 10, 20))], "b.png": [Box("dog", (0, 0, 64, 48))]}
    )
    (folder / "annotations").mkdir()
    content = coco_content(data.splits["train"], ("dog", "cat"), "a test")
    (folder / "annotations/instances_train2017.json").write_text(json.dumps(content))
    return folder


side = st.floats(1.6, 40, allow_nan=False)
names = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="\ufffe\uffff"), min_size=1, max_size=6
)


@st.composite
def box_lists(draw):
    classes = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    boxes = draw(
        st.lists(
            st.tuples(st.sampled_from(classes), st.floats(1, 20), st.floats(1, 8), side, side),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    return classes, [Box(name, tuple(rest)) for name, *rest in boxes]


@pytest.mark.parametrize("through", ["yolo", "voc"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=box_lists())
def test_coco_through_another_format_keeps_boxes_and_names(through, drawn):
    classes, boxes = drawn
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = data_of(folder / "in", {"a.png": boxes, "b.png": []}, tuple(classes))
        write_coco(data, folder / "coco")
        convert_dataset(folder / "coco", folder / through, target_format=through)
        convert_dataset(folder / through, folder / "back")
        before, after = read_boxes(folder / "coco"), read_boxes(folder / "back")
    used = {box.name for box in boxes}
    assert after.classes == (tuple(sorted(used)) if through == "voc" else tuple(classes))
    for name, expected in records(before).items():
        found = records(after)[name]
        assert [row[0] for row in found] == [row[0] for row in expected]
        for one, other in zip(expected, found, strict=True):
            assert other[1:] == pytest.approx(one[1:], abs=TOLERANCE[through])


@pytest.mark.parametrize("kind", BOXES)
def test_formats_are_detected(source, tmp_path, kind):
    convert_dataset(source, tmp_path / "out", target_format=kind)
    assert detect_format(tmp_path / "out") == kind
    expected = {"a.png": [("cat", 2, 3, 10, 20)], "b.png": [("dog", 0, 0, 64, 48)]}
    for name, rows in records(read_boxes(tmp_path / "out")).items():
        assert [row[0] for row in rows] == [row[0] for row in expected[name]]
        assert rows[0][1:] == pytest.approx(expected[name][0][1:], abs=1e-5)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("kind", BOXES)
def test_a_conversion_can_be_repeated_and_changes_nothing_of_the_source(source, tmp_path, kind, link):
    before = files(source)
    target = tmp_path / "out"
    convert_dataset(source, target, target_format=kind, link=link)
    first = files(target)
    convert_dataset(source, target, target_format=kind, link=link)
    assert files(target) == first
    assert files(source) == before
    linked = {path.is_symlink() for path in target.rglob("*.png")}
    assert linked == {link}


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_files_of_the_user_stay(source, tmp_path, kind):
    place = {"voc": "Annotations/a.xml", "yolo": "labels/train/a.txt"}[kind]
    target = tmp_path / "out"
    convert_dataset(source, target, target_format=kind)
    (target / place).write_text("mine")
    with pytest.raises(UserError, match=f"{place} exists, and no earlier conversion wrote it"):
        convert_dataset(source, target, target_format=kind)
    assert (target / place).read_text() == "mine"


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_an_earlier_conversion_of_other_images_is_not_mixed_in(source, tmp_path, kind):
    target = tmp_path / "out"
    convert_dataset(source, target, target_format=kind)
    path = source / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    before = files(target)
    with pytest.raises(UserError, match="other files of an earlier conversion"):
        convert_dataset(source, target, target_format=kind)
    assert files(target) == before


@pytest.mark.parametrize("kind", BOXES)
def test_the_target_is_not_in_the_source(source, kind):
    before = files(source)
    with pytest.raises(UserError, match="a folder of the data set to convert"):
        convert_dataset(source, source / "images", target_format=kind)
    assert files(source) == before


def test_a_linked_target_is_not_in_the_source(source, tmp_path):
    before = files(source)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/images").symlink_to(source / "images")
    with pytest.raises(UserError, match="a folder of the data set to convert"):
        convert_dataset(source, tmp_path / "out", target_format="yolo")
    assert files(source) == before


def test_classes_are_chosen_and_ordered(source, tmp_path):
    report = convert_dataset(source, tmp_path / "out", target_format="yolo", classes=["cat"])
    assert report.classes == ("cat",)
    assert [finding.kind for finding in report.findings] == ["class left out"]
    assert (tmp_path / "out/labels/train/b.txt").read_text() == ""
    with pytest.raises(UserError, match="has no box of bird"):
        convert_dataset(source, tmp_path / "other", target_format="yolo", classes=["bird"])


def test_objects_that_do_not_count(tmp_path):
    """VOC keeps the mark; YOLO cannot."""
    crowd = Box("cat", (1, 1, 9, 9), difficult=True)
    data = data_of(tmp_path / "in", {"a.png": [crowd, Box("cat", (4, 4, 8, 8))]})
    write_voc(data, tmp_path / "voc")
    assert [box.difficult for box in read_boxes(tmp_path / "voc").splits["train"][0].boxes] == [True, False]
    report = write_yolo(data, tmp_path / "yolo")
    assert report.splits["train"].boxes == 1
    assert [finding.kind for finding in report.findings] == ["boxes dropped"]


@pytest.mark.parametrize("bbox", [(3, 3, 1, 9), (3, 3, 9, 0.5), (0, 0, 1.25, 1.25)])
def test_voc_has_no_box_of_one_pixel(tmp_path, bbox):
    data = data_of(tmp_path / "in", {"a.png": [Box("cat", bbox), Box("cat", (4, 4, 8, 8))]})
    report = write_voc(data, tmp_path / "voc")
    assert [finding.kind for finding in report.findings] == ["box dropped"]
    assert records(read_boxes(tmp_path / "voc")) == {"a.png": [("cat", 4, 4, 8, 8)]}


def test_images_of_one_name_in_two_splits(tmp_path):
    for split in ("train", "val"):
        data = data_of(tmp_path / split, {"a.png": [Box("cat", (1, 1, 9 if split == "val" else 5, 9))]})
        content = coco_content(data.splits["train"], ("cat",), "a test")
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))  # as Roboflow writes it
    assert detect_format(tmp_path) == "coco"
    report = convert_dataset(tmp_path, tmp_path / "out", target_format="yolo")
    assert {name: split.images for name, split in report.splits.items()} == {"train": 1, "val": 1}
    assert records(read_boxes(tmp_path / "out"), "val")["a.png"][0][1:] == pytest.approx(
        (1, 1, 9, 9), abs=1e-5
    )


def test_two_images_that_would_share_a_label(tmp_path):
    data = data_of(tmp_path / "in", {"a.png": [Box("cat", (1, 1, 9, 9))], "a.jpg": []})
    for write in (write_yolo, write_voc):
        with pytest.raises(UserError, match="would share"):
            write(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_coco_boxes_are_cut_and_told(source, tmp_path):
    path = source / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [-8, 3, 20, 20]
    path.write_text(json.dumps(content))
    data = read_boxes(source)
    assert records(data)["a.png"] == [("cat", 0, 3, 12, 20)]
    assert "box cut" in [finding.kind for finding in data.findings]


@pytest.mark.parametrize(
    ("key", "value", "message"), [("width", 99, "correct width"), ("file_name", "c.png", "no image")]
)
def test_coco_that_contradicts_its_images(source, key, value, message):
    path = source / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][0][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_boxes(source)


def test_no_data_set(tmp_path):
    with pytest.raises(UserError, match="is no data set of boxes"):
        read_boxes(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        read_boxes(tmp_path / "nowhere")


def test_two_formats_in_one_folder(source):
    picture(source / "images/train/a.png")
    (source / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    with pytest.raises(UserError, match="of yolo and of coco: choose one with --from"):
        detect_format(source)


def test_a_split_that_is_not_there(source, tmp_path):
    for kind in ("coco", "yolo"):
        with pytest.raises(UserError, match=r"no split val .* \(there are: train\)"):
            read_boxes(source if kind == "coco" else tmp_path / "yolo", splits=["val"])
        convert_dataset(source, tmp_path / "yolo", target_format="yolo")


def test_a_target_that_cannot_be_written(source, tmp_path):
    if os.getuid() == 0:
        (tmp_path / "out").write_text("a file")
    else:
        (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(UserError, match="out"):
        convert_dataset(source, tmp_path / "out", target_format="voc")
