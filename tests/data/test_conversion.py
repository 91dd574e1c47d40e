"""Conversions between COCO, VOC and YOLO."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hardnet_suite.data import own_files
from hardnet_suite.data.boxes import Box, BoxData, BoxImage, ConversionReport, Split
from hardnet_suite.data.coco.folder import annotation_files
from hardnet_suite.data.conversion import tree
from hardnet_suite.data.conversion.coco import coco_content, write_coco
from hardnet_suite.data.conversion.convert import convert_dataset, detect_format, read_boxes
from hardnet_suite.data.conversion.cvat import write_cvat
from hardnet_suite.data.conversion.labelme import write_labelme
from hardnet_suite.data.conversion.target import bring
from hardnet_suite.data.conversion.voc import write_voc
from hardnet_suite.data.conversion.yolo import write_yolo
from hardnet_suite.data.report import Finding
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import write_file

BOXES = ("coco", "voc", "yolo")
TOLERANCE = {"coco": 0, "voc": 0.0101, "yolo": 1e-5}  # pixels


def picture(path, size=(64, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (20, 90, 160)).save(path)
    return path


def data_of(folder, images, classes=None):
    """``images``: name -> boxes; the files are written to ``folder``."""
    made = [BoxImage(picture(folder / name), name, (64, 48), tuple(boxes)) for name, boxes in images.items()]
    return BoxData(folder, "a test", classes, {"train": made}, (), frozenset({folder}))


def records(data, split="train"):
    """Name -> (class, box), in the order of the data set."""
    return {
        Path(image.name).name: [(box.name, *box.bbox) for box in image.boxes] for image in data.splits[split]
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


def test_annotations_of_coco_that_the_user_edited_stay(source, tmp_path):
    """What tools keep of the file, such as the mark of the conversion, does not make them its own."""
    target = tmp_path / "out"
    place = target / "annotations/instances_train.json"
    convert_dataset(source, target)
    written = place.read_text()
    content = json.loads(written)
    content["annotations"][0]["bbox"][2] += 1
    place.write_text(edited := json.dumps(content))
    with pytest.raises(UserError, match=f"{place} exists, and no earlier conversion wrote it"):
        convert_dataset(source, target)
    assert place.read_text() == edited
    place.write_text(json.dumps(json.loads(written), indent=2))  # another form, the same annotations
    convert_dataset(source, target)
    assert place.read_text() == written


def test_annotations_of_coco_without_a_digest_are_replaced(source, tmp_path):
    """Earlier versions wrote none."""
    target = tmp_path / "out"
    place = target / "annotations/instances_train.json"
    convert_dataset(source, target)
    written = place.read_text()
    content = json.loads(written)
    del content["info"]["sha256"]
    place.write_text(json.dumps(content))
    convert_dataset(source, target)
    assert place.read_text() == written


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


class Killed(BaseException):
    """In the place of a signal."""


def interrupt(monkeypatch, number):
    """A conversion ends before it writes the file of a number, a list of the files among them."""
    written = []

    def limited(write):
        def run(path, *args):
            written.append(path)
            if len(written) > number:
                raise Killed
            return write(path, *args)

        return run

    monkeypatch.setattr(tree, "write_file", limited(write_file))
    monkeypatch.setattr(own_files, "write_file", limited(write_file))
    monkeypatch.setattr(tree, "bring", limited(bring))


@pytest.mark.parametrize("number", range(6))  # at least as many files as every format writes, with the list
@pytest.mark.parametrize("kind", ["voc", "yolo", "labelme", "cvat"])
def test_an_interrupted_conversion_is_not_mixed_in(source, tmp_path, monkeypatch, kind, number):
    target = tmp_path / "out"
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        interrupt(patch, number)
        convert_dataset(source, target, target_format=kind)
    before = files(target)
    path = source / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    shorter = {"images": content["images"][:1], "annotations": content["annotations"][:1]}
    path.write_text(json.dumps(content | shorter))
    if number and any(place.stem == "b" for place in before):
        with pytest.raises(UserError, match="other files of an earlier conversion"):
            convert_dataset(source, target, target_format=kind, classes=["cat"])
        assert files(target) == before
    path.write_text(json.dumps(content))
    convert_dataset(source, target, target_format=kind)
    convert_dataset(source, tmp_path / "whole", target_format=kind)
    assert files(target) == files(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["voc", "yolo", "labelme", "cvat"])
def test_an_interrupted_second_conversion_is_known_as_well(source, tmp_path, monkeypatch, kind):
    """A file may be of either of the two."""
    path = source / "annotations/instances_train2017.json"
    first = path.read_text()
    second = json.loads(first)
    for annotation in second["annotations"]:
        annotation["bbox"] = [4, 4, 9, 9]
    for number in range(7):
        target = tmp_path / str(number)
        path.write_text(first)
        picture(source / "images/a.png")
        convert_dataset(source, target, target_format=kind)
        path.write_text(json.dumps(second))
        Image.new("RGB", (64, 48), "red").save(source / "images/a.png")
        for _ in range(2):
            with monkeypatch.context() as patch, contextlib.suppress(Killed):
                interrupt(patch, number)
                convert_dataset(source, target, target_format=kind)
        path.write_text(first)
        convert_dataset(source, target, target_format=kind)
        convert_dataset(source, whole := tmp_path / f"whole {number}", target_format=kind)
        assert files(target) == files(whole)


@pytest.mark.parametrize("kind", BOXES)
def test_the_target_is_not_in_the_source(source, kind):
    before = files(source)
    with pytest.raises(UserError, match="a folder of the data set to convert"):
        convert_dataset(source, source / "images", target_format=kind)
    assert files(source) == before


@pytest.mark.parametrize("place", ["itself", "inner", "link"])
@pytest.mark.parametrize("to", ["coco", "yolo"])  # of either writer
@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "labelme", "cvat"])
def test_no_format_is_written_into_its_source(source, tmp_path, kind, to, place):
    folder = tmp_path / kind
    convert_dataset(source, folder, target_format=kind)
    target = folder / "new" if place == "inner" else folder
    if place == "link":
        target = tmp_path / "link"
        target.symlink_to(folder)
    before = files(folder)
    with pytest.raises(UserError, match="a folder of the data set to convert"):
        convert_dataset(folder, target, target_format=to)
    assert files(folder) == before


@pytest.mark.parametrize("to", [*BOXES, "labelme", "cvat"])
@pytest.mark.parametrize("kind", [*BOXES, "labelme", "cvat"])
def test_a_target_has_one_format(source, tmp_path, kind, to):
    """What a conversion wrote can be read without a choice of the format."""
    target = tmp_path / "out"
    convert_dataset(source, target, target_format=kind)
    before = files(target)
    if kind == to:
        convert_dataset(source, target, target_format=to)
    else:
        with pytest.raises(UserError, match=f"is a data set of {kind}, and would be one of {to} as well"):
            convert_dataset(source, target, target_format=to)
    assert files(target) == before
    assert detect_format(target) == kind


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "labelme", "cvat"])
def test_images_that_nothing_names_are_told(source, tmp_path, kind):
    folder = tmp_path / kind
    convert_dataset(source, folder, target_format=kind)
    assert not read_boxes(folder).findings
    place = next(path.parent for path in folder.rglob("a.png"))
    if kind == "yolo":
        text = (folder / "data.yaml").read_text().replace("train: images/train", "train: list.txt")
        (folder / "data.yaml").write_text(text)
        (folder / "list.txt").write_text("".join(f"images/train/{name}.png\n" for name in "ab"))
    for name in "wxyz":
        picture(place / f"{name}.png")
    (place / "linked.png").symlink_to(place / "a.png")  # is the image itself
    (finding,) = read_boxes(folder).findings
    assert finding.what.startswith("4 ")
    assert finding.what.endswith(": w.png, x.png, y.png, …")


def test_images_of_other_parts_are_not_told(source, tmp_path):
    """They are of another split, or of a list that --splits would choose."""
    (path,) = (source / "annotations").iterdir()
    content = json.loads(path.read_text())
    extra = picture(source / "images/c.png")
    assert [finding.kind for finding in read_boxes(source).findings] == ["images left out"]
    other = content | {
        "images": [content["images"][0] | {"id": 9, "file_name": extra.name}],
        "annotations": [],
    }
    path.with_name("instances_val.json").write_text(json.dumps(other))
    for place, splits in ((source, ["train"]), (path, None)):
        assert not read_boxes(place, splits=splits).findings
    convert_dataset(source, tmp_path / "voc", target_format="voc")
    lists = tmp_path / "voc/ImageSets/Main"
    assert not read_boxes(tmp_path / "voc", splits=["train"]).findings
    (lists / "val.txt").rename(lists / "extra.txt")
    assert [finding.kind for finding in read_boxes(tmp_path / "voc").findings] == ["splits"]


def test_images_of_yolo_beside_its_splits_are_told(source, tmp_path):
    folder = tmp_path / "yolo"
    convert_dataset(source, folder, target_format="yolo")
    picture(folder / "images/other/c.png")
    (finding,) = read_boxes(folder).findings
    assert finding.what == "1 that no split names: c.png"
    with (folder / "data.yaml").open("a") as file:
        file.write("other: images/other\n")
    assert [finding.kind for finding in read_boxes(folder).findings] == ["splits"]


def test_a_file_of_a_folder_is_not_converted_into_it(source):
    before = files(source)
    with pytest.raises(UserError, match="is a data set of coco, and would be one of yolo as well"):
        convert_dataset(source / "annotations/instances_train2017.json", source, target_format="yolo")
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


@pytest.mark.parametrize("through", ["coco", "yolo", "labelme", "cvat"])
@pytest.mark.parametrize("size", [(64, 48), (640, 481), (1921, 1081)])
def test_integers_of_voc_stay_integers(tmp_path, through, size):
    """Also where fractions of the image have six decimals, as many tools write them."""
    width, height = size
    boxes = [
        Box("cat", (x, y, width - 3 * x - 1, height // 2 - y)) for x, y in ((0, 0), (1, 3), (7, 11), (13, 17))
    ]
    image = BoxImage(picture(tmp_path / "in/a.png", size), "a.png", size, tuple(boxes))
    data = BoxData(tmp_path / "in", "a test", None, {"train": [image]}, (), frozenset({tmp_path / "in"}))
    write_voc(data, tmp_path / "voc")
    convert_dataset(tmp_path / "voc", tmp_path / through, target_format=through)
    if through == "yolo":
        (labels,) = (tmp_path / "yolo/labels").rglob("*.txt")
        rows = [line.split() for line in labels.read_text().splitlines()]
        text = "".join(f"{label} {' '.join(f'{float(v):.6f}' for v in values)}\n" for label, *values in rows)
        labels.write_text(text)
    convert_dataset(tmp_path / through, tmp_path / "back", target_format="voc")
    before, after = (
        re.findall("<([xy]m..)>(.*?)<", file.read_text())
        for folder in ("voc", "back")
        for file in (tmp_path / folder / "Annotations").rglob("*.xml")
    )
    assert after == before
    assert all(value.isdigit() for _, value in after)
    assert len(after) == 16


def test_yolo_has_each_row_once(tmp_path):
    """Readers drop a repeated row."""
    box, close = Box("cat", (2, 3, 10, 20)), Box("cat", (2, 3 + 1e-12, 10, 20))
    boxes = [box, close, replace(box, name="dog"), replace(box, difficult=True), replace(box), box]
    report = write_yolo(data_of(tmp_path / "in", {"a.png": boxes, "b.png": [box]}), tmp_path / "out")
    told = [(finding.kind, finding.where) for finding in report.findings if finding.where != "the data set"]
    assert told == [("box dropped", f"a.png, cat {[*each.bbox]}") for each in (close, box, box)]
    back = read_boxes(tmp_path / "out")
    assert not back.findings
    assert report.splits["train"].per_class == back.counts == {"cat": 2, "dog": 1}


def test_names_that_end_like_the_column_of_a_list(tmp_path):
    """Both readings of the training list would be images of the data set."""
    box = Box("cat", (2, 3, 10, 20))
    data = data_of(tmp_path / "in", {name: [box] for name in ("a 1.png", "b -1.png", "a.png", "b.png")})
    images = data.splits["train"]
    data = replace(data, splits={"train": images[:2], "val": images[2:]})
    write_voc(data, tmp_path / "voc")
    back = read_boxes(tmp_path / "voc")
    assert {split: [image.name for image in members] for split, members in back.splits.items()} == {
        "train": ["a 1.png", "b -1.png"],
        "val": ["a.png", "b.png"],
    }
    assert (tmp_path / "voc/ImageSets/Main/val.txt").read_text() == "a\nb\n"
    write_voc(replace(data, splits={"train": images[:2]}), tmp_path / "alone")
    assert (tmp_path / "alone/ImageSets/Main/train.txt").read_text() == "a 1\nb -1\n"


@pytest.mark.parametrize(("name", "other"), [("\xe9 1.png", "e\u0301.png"), ("a.jpg 1.png", "a.png")])
def test_names_that_readers_find_without_the_column_of_a_list(tmp_path, name, other):
    """Without regard to how accents are stored, and to what may be a suffix."""
    data = data_of(tmp_path / "in", {image: [Box("cat", (2, 3, 10, 20))] for image in (name, other)})
    first, second = data.splits["train"]
    write_voc(replace(data, splits={"train": (first,), "val": (second,)}), tmp_path / "voc")
    back = read_boxes(tmp_path / "voc")
    assert {split: [image.path.name for image in images] for split, images in back.splits.items()} == {
        "train": [name],
        "val": [other],
    }


def test_names_that_differ_in_how_accents_are_stored(tmp_path):
    """Readers of VOC take them for one name."""
    folder, box = tmp_path / "in", Box("cat", (2, 3, 10, 20))
    images = [BoxImage(folder / name, name, (64, 48), (box,)) for name in ("\xe9.png", "e\u0301.png")]
    data = BoxData(folder, "a test", None, {"train": images}, (), frozenset())
    with pytest.raises(UserError, match=r"would share .*\.xml: rename one of them"):
        write_voc(data, tmp_path / "voc")
    assert not (tmp_path / "voc").exists()


def test_voc_has_two_decimals(tmp_path):
    data = data_of(tmp_path / "in", {"a.png": [Box("cat", (2.07, 3.123456, 10.5, 20.004))]})
    write_voc(data, tmp_path / "voc")
    text = (tmp_path / "voc/Annotations/a.xml").read_text()
    for tag, value in (("xmin", "3.07"), ("ymin", "4.12"), ("xmax", "12.57"), ("ymax", "23.13")):
        assert f"<{tag}>{value}</{tag}>" in text


def test_images_of_one_name_in_two_splits(tmp_path):
    folder = tmp_path / "in"
    for split in ("train", "val"):
        data = data_of(folder / split, {"a.png": [Box("cat", (1, 1, 9 if split == "val" else 5, 9))]})
        content = coco_content(data.splits["train"], ("cat",), "a test")
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))  # as Roboflow writes it
    assert detect_format(folder) == "coco"
    report = convert_dataset(folder, tmp_path / "out", target_format="yolo")
    assert {name: split.images for name, split in report.splits.items()} == {"train": 1, "val": 1}
    assert records(read_boxes(tmp_path / "out"), "val")["a.png"][0][1:] == pytest.approx(
        (1, 1, 9, 9), abs=1e-5
    )


def in_two_splits(folder, *boxes):
    """One image in train and in val, with other boxes in each."""
    path = picture(folder / "a.png")
    splits = {
        split: [BoxImage(path, "a.png", (64, 48), tuple(own))]
        for split, own in zip(("train", "val"), boxes, strict=True)
    }
    return BoxData(folder, "a test", None, splits, (), frozenset({folder}))


CAT, CROWD = Box("cat", (1, 1, 9, 9)), Box("cat", (4, 4, 8, 8), difficult=True)


@pytest.mark.parametrize("kind", ["coco", "yolo", "labelme", "cvat"])
def test_an_image_with_other_boxes_in_another_split(tmp_path, kind):
    data = in_two_splits(tmp_path / "in", [CAT], [Box("dog", (20, 20, 10, 10)), CAT])
    write_coco(data, tmp_path / "coco")
    convert_dataset(tmp_path / "coco", tmp_path / "out", target_format=kind)
    back = read_boxes(tmp_path / "out")
    assert [len(back.splits[split][0].boxes) for split in ("train", "val")] == [1, 2]


def test_voc_has_one_file_of_boxes_per_image(tmp_path):
    data = in_two_splits(tmp_path / "in", [CAT], [CROWD])
    with pytest.raises(
        UserError, match=r"a\.png has other annotations in another split, but one Annotations/a"
    ):
        write_voc(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_voc(in_two_splits(tmp_path / "in", [CAT], [CAT]), tmp_path / "out")
    assert [*read_boxes(tmp_path / "out").splits] == ["train", "val"]


@pytest.mark.parametrize("boxes", [([CAT, CROWD], [CAT]), ([CAT], [CROWD, CAT])])
def test_boxes_of_every_split_are_counted(tmp_path, boxes):
    (finding,) = write_yolo(in_two_splits(tmp_path / "in", *boxes), tmp_path / "out").findings
    assert finding.what.startswith("1 that count neither way")
    outlined = Box("cat", (2, 3, 30, 20), outline=((2.0, 3.0, 12.0, 3.0, 7.0, 23.5),))
    marked = [[outlined if box.difficult else box for box in own] for own in boxes]
    (finding,) = write_labelme(in_two_splits(tmp_path / "in", *marked), tmp_path / "labelme").findings
    assert finding.what.startswith("1 that differ from their outline")


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
    "bbox",
    [None, [1, 2, 3], [1, 2, float("nan"), 4], "1 2 3 4", [1, 2, -3, 4], [1, 2, 0, 4], [99, 99, 5, 5], ...],
)
@pytest.mark.parametrize("count", [1, 3])
def test_every_dropped_box_of_coco_is_told(source, tmp_path, bbox, count):
    path = source / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    first = content["annotations"][0]
    bad = [first | {"id": 10 + number, "bbox": bbox} for number in range(count)]
    if bbox is ...:
        bad = [{key: value for key, value in entry.items() if key != "bbox"} for entry in bad]
    content["annotations"] = [*bad, *content["annotations"]]
    path.write_text(json.dumps(content))
    assert detect_format(source) == "coco"
    report = convert_dataset(source, tmp_path / "out")
    assert report.splits["train"].boxes == 2
    told = [finding for finding in report.findings if finding.kind == "box dropped"]
    assert [finding.where for finding in told] == [path.name]
    assert "annotation 10" in told[0].what
    assert told[0].what.startswith("3 boxes, ") == (count == 3)
    assert "error" not in report.table()


@pytest.mark.parametrize("images", [[], [{"id": 1, "width": 64, "height": 48}]])
def test_coco_without_a_file_name(source, images):
    path = source / "annotations/instances_train2017.json"
    content = json.loads(path.read_text()) | {"images": images, "annotations": []}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match='names no image: none of its "images" has a file_name'):
        read_boxes(source)


def test_a_place_without_the_images_is_named_once(source):
    path = source / "annotations/instances_train2017.json"
    (source / "annotations/instances_train.json").write_text(path.read_text().replace("a.png", "x.png"))
    path.unlink()
    (source / "images").rename(source / "pictures")
    with pytest.raises(UserError, match=r"nor in its folders train or images or images/train$"):
        read_boxes(source)


@pytest.mark.parametrize(
    "order", [("images", "categories", "annotations"), ("annotations", "images", "info")]
)
def test_a_large_coco_file_is_known_by_keys_in_its_middle(tmp_path, order, monkeypatch):
    monkeypatch.setattr("hardnet_suite.data.coco.folder._START", 64)
    monkeypatch.setattr("hardnet_suite.data.coco.folder._PART", 50)
    content = {key: [{"x": "y" * 100}] for key in order}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert annotation_files(tmp_path) == {"train": tmp_path / "a.json"}


@pytest.mark.parametrize("other", ["captions", "panoptic", "person_keypoints", "stuff", "image_info"])
@pytest.mark.parametrize("year", ["", "2017"])
def test_annotations_of_other_tasks(tmp_path, other, year):
    """As COCO comes: they are no second set of boxes, and no other split."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    content = json.dumps({"images": [], "annotations": [], "categories": []})
    own, *others = (
        folder / f"{name}{year}.json"
        for name in ("instances_train", f"{other}_train", f"{other}_val", "person_test")
    )
    for path in (own, *others):
        path.write_text(content)
    assert annotation_files(tmp_path) == {"train": own, "test": others[-1]}
    (folder / "train.json").write_text(content)
    with pytest.raises(UserError, match=r"instances_train.* and .*train.json are both of the split train"):
        annotation_files(tmp_path)
    (folder / "train.json").unlink()
    own.unlink()
    assert annotation_files(tmp_path) == dict(zip(("train", "val", "test"), others, strict=True))


COCO_2017 = {  # beside the files of other tasks
    "instances_train2017": "train",
    "instances_val2017": "val",
    "image_info_test2017": "test",
    "image_info_test-dev2017": "test-dev",
    "image_info_unlabeled2017": "unlabeled",
}


@pytest.mark.parametrize("names", [[*COCO_2017], [*COCO_2017][2:], ["unlabeled_2"]])
def test_official_files(tmp_path, names):
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name in names:
        (folder / f"{name}.json").write_text('{"images": [], "annotations": [], "categories": []}')
    expected = {COCO_2017.get(name, "unlabeled"): folder / f"{name}.json" for name in names}
    if names[0].startswith("instances"):
        expected = {split: expected[split] for split in ("train", "val")}
    assert annotation_files(tmp_path) == expected


def test_files_of_other_splits_do_not_matter(source, tmp_path):
    """Not even where two are of one split, or broken."""
    split_in_two(source, (1, 2), (1, 2))
    folder = source / "annotations"
    (folder / "instances_val2014.json").write_bytes((folder / "instances_val2017.json").read_bytes())
    (folder / "instances_extra.json").write_text('{"images": [], "annotations": 1, "categories": []}')
    with pytest.raises(UserError, match=r"val2014.json and .*val2017.json are both of the split val"):
        convert_dataset(source, tmp_path / "out")
    assert [*convert_dataset(source, tmp_path / "out", splits=["train"]).splits] == ["train"]
    for split, message in (("val", "both of the split val"), ("other", r"\(there are: train, val, extra\)")):
        with pytest.raises(UserError, match=message):
            convert_dataset(source, tmp_path / "out", splits=[split])


@pytest.mark.parametrize("annotations", [None, []])
def test_a_file_of_a_test_set_is_told(source, tmp_path, annotations):
    split_in_two(source, (1, 2), (1, 2))
    path = source / "annotations/instances_val2017.json"
    content = json.loads(path.read_text()) | {"annotations": annotations}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    (source / "annotations/image_info_test2017.json").write_text(path.read_text())
    findings = convert_dataset(source, tmp_path / "yolo", target_format="yolo").findings
    assert [(finding.kind, finding.where, finding.what) for finding in findings] == [
        ("splits", "source", "left out: image_info_test2017.json, without annotations"),
        ("no annotations", path.name, "its 1 images have no boxes (is it a test set?)"),
    ]


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


@pytest.mark.parametrize(
    ("bbox", "area", "written"),
    [
        ((2, 3, 10, 20), 70.5, 70.5),
        ((2, 3, 10, 20), 200, 200),
        ((54.2, 3, 10, 20), 70, 70),  # a box that rounding explains
        ((60, 3, 10, 20), 70, 80),  # cut, and its mask with it
        *(((2, 3, 10, 20), area, 200) for area in (None, 0, -1, "70", 1e9)),
    ],
)
def test_areas_of_coco_stay(source, tmp_path, bbox, area, written):
    """By them objects are small, medium or large."""
    path = source / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0] |= {"bbox": bbox, "area": area}
    path.write_text(json.dumps(content))
    for folder in (tmp_path / "once", tmp_path / "twice"):
        convert_dataset(source, folder)
        back = json.loads((folder / "annotations/instances_train.json").read_text())
        assert [entry["area"] for entry in back["annotations"]] == pytest.approx([written, 64 * 48])
        source = folder
    convert_dataset(source, tmp_path / "voc", target_format="voc")  # which has no areas


def ids_of(path):
    """Name -> id of the images, and of the categories."""
    content = json.loads(path.read_text())
    names = {image["file_name"]: image["id"] for image in content["images"]}
    return names, {category["name"]: category["id"] for category in content["categories"]}


def split_in_two(source, ids, other_ids, image_ids=(70, 4)):
    """The data set of ``source``, its second image in a split val; ids of cat and dog in the two files."""
    Image.new("RGB", (64, 48), (200, 30, 9)).save(source / "images/b.png")  # no copy of the other
    folder = source / "annotations"
    content = json.loads((folder / "instances_train2017.json").read_text())
    numbers = dict(zip((1, 2), image_ids, strict=True))
    for index, (split, (cat, dog)) in enumerate({"train": ids, "val": other_ids}.items()):
        part = dict(content, images=[dict(content["images"][index])], annotations=[])
        part["images"][0]["id"] = numbers[index + 1]
        part["categories"] = [{"id": dog, "name": "dog"}, {"id": cat, "name": "cat"}]
        entry = content["annotations"][index] | {"image_id": numbers[index + 1]}
        part["annotations"] = [entry | {"category_id": (cat, dog)[index]}]
        (folder / f"instances_{split}2017.json").write_text(json.dumps(part))
    return source


def test_ids_of_coco_stay(source, tmp_path):
    """Results for the new files are results for the user's own."""
    split_in_two(source, (90, 17), (90, 17))
    report = convert_dataset(source, tmp_path / "out", classes=["cat", "bird", "dog"])
    assert not report.findings
    for split, names in (("train", {"a.png": 70}), ("val", {"b.png": 4})):
        path = tmp_path / f"out/annotations/instances_{split}.json"
        assert ids_of(path) == (names, {"cat": 90, "bird": 91, "dog": 17})
        assert [*ids_of(path)[1]] == ["cat", "bird", "dog"]
    convert_dataset(source, tmp_path / "cats", classes=["cat"], splits=["train"])
    assert ids_of(tmp_path / "cats/annotations/instances_train.json")[1] == {"cat": 90}


@pytest.mark.parametrize(
    ("ids", "other_ids", "problem"),
    [
        ((1, 2), (2, 1), "dog has 2 in one file and 1 in another"),
        ((3, 2), (4, 2), "cat has 3 in one file and 4 in another"),
        (("c", 2), ("c", 2), "'c', that of cat, is no integer"),
    ],
)
def test_ids_that_cannot_stay_are_told(source, tmp_path, ids, other_ids, problem):
    split_in_two(source, ids, other_ids)
    report = convert_dataset(source, tmp_path / "out")
    (finding,) = report.findings
    assert finding.kind == "category ids"
    assert finding.what.startswith(problem)
    for split in ("train", "val"):
        assert ids_of(tmp_path / f"out/annotations/instances_{split}.json")[1] == {"dog": 1, "cat": 2}
    # which is so for COCO's files alone
    assert not convert_dataset(source, tmp_path / "yolo", target_format="yolo").findings


def test_one_id_of_two_classes_is_told(source, tmp_path):
    split_in_two(source, (1, 2), (1, 2))
    path = source / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"dog"', '"cow"'))
    (finding,) = convert_dataset(source, tmp_path / "out").findings
    assert finding.what.startswith("2 is that of dog in one file and of cow in another")
    assert ids_of(tmp_path / "out/annotations/instances_val.json")[1] == {"dog": 1, "cat": 2, "cow": 3}


def test_image_ids_that_are_no_integers(source, tmp_path):
    split_in_two(source, (5, 6), (5, 6), image_ids=("a", 9))
    (finding,) = convert_dataset(source, tmp_path / "out").findings
    assert (finding.kind, finding.where) == ("image ids", "instances_train2017.json")
    assert ids_of(tmp_path / "out/annotations/instances_train.json") == ({"a.png": 1}, {"dog": 6, "cat": 5})
    assert ids_of(tmp_path / "out/annotations/instances_val.json")[0] == {"b.png": 9}


def test_a_split_of_an_earlier_conversion_is_told(source, tmp_path):
    """Splits may be converted one by one; a split of another data set would be read with the new ones."""
    split_in_two(source, (1, 2), (1, 2))
    assert not convert_dataset(source, tmp_path / "out", splits=["val"]).findings
    path, other = tmp_path / "out/annotations/instances_val.json", "others, or have other ids"
    before = path.read_bytes()
    for classes, is_other in ((["dog", "cat"], False), (["cat"], True), (["cat", "dog"], True)):
        report = convert_dataset(source, tmp_path / "out", splits=["train"], classes=classes)
        (finding,) = [finding for finding in report.findings if finding.kind == "annotations"]
        assert finding.where == path.name
        assert finding.what.startswith("of an earlier conversion, stays: remove it if")
        assert (other in finding.what) == is_other
        assert path.read_bytes() == before
    assert not convert_dataset(source, tmp_path / "out").findings  # both are written


def test_no_data_set(tmp_path):
    with pytest.raises(UserError, match="is not a data set of boxes"):
        read_boxes(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        read_boxes(tmp_path / "nowhere")


def test_an_empty_format_is_not_the_detected_one(source, tmp_path):
    with pytest.raises(UserError, match="unknown format"):
        read_boxes(source, "")
    with pytest.raises(UserError, match="unknown format"):
        convert_dataset(source, tmp_path / "out", source_format="")


def test_two_formats_in_one_folder(source):
    picture(source / "images/train/a.png")
    (source / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    with pytest.raises(UserError, match=r"of yolo and of coco: choose one, .*--from yolo"):
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


@pytest.mark.parametrize("name", ["../a.png", "b/../../a.png"])
@pytest.mark.parametrize("write", [write_coco, write_yolo, write_voc, write_labelme, write_cvat])
def test_no_image_leaves_the_target(tmp_path, write, name):
    made = data_of(tmp_path / "in", {"a.png": [Box("cat", (1, 1, 9, 9))]})
    (image,) = made.splits["train"]
    data = replace(made, splits={"train": [replace(image, name=name)]})
    with pytest.raises(UserError, match=r"outside of the target|begin with a dot"):
        write(data, tmp_path / "deep/out")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("write", [write_coco, write_yolo, write_voc, write_labelme, write_cvat])
def test_names_that_are_not_utf8(tmp_path, write, link):
    data = data_of(tmp_path / "in", {"a\udcff.png": [Box("cat", (1, 1, 9, 9))]})
    if write in (write_voc, write_cvat):
        with pytest.raises(UserError, match=r"the name 'a\\udcff.png' cannot .*: rename the image"):
            write(data, tmp_path / "out", link=link)
        assert not (tmp_path / "out").exists()
        return
    for _ in range(2):
        write(data, tmp_path / "out", link=link)
    ((row,),) = records(read_boxes(tmp_path / "out")).values()
    assert row == ("cat", *map(pytest.approx, (1, 1, 9, 9)))


@pytest.mark.parametrize("name", ["imgone", "img.two", ".b.png", ".c/b.png", "x.png.bak"])
@pytest.mark.parametrize("write", [write_coco, write_yolo, write_voc, write_labelme, write_cvat])
def test_images_that_readers_would_skip(tmp_path, write, name):
    """Formats whose files name the images have all of them, others refuse."""
    made = data_of(tmp_path / "in", {"a.png": [Box("cat", (1, 1, 9, 9))], "b.png": []})
    image, other = made.splits["train"]
    path = other.path.rename(tmp_path / "in" / "renamed")
    data = replace(made, splits={"train": [image, replace(other, name=name, path=path)]})
    hidden = name.startswith(".")
    if write in (write_yolo, write_voc) or (write is write_labelme and hidden):
        message = "begin with a dot" if hidden else r"suffixes such as .jpg and .png: rename the image"
        with pytest.raises(UserError, match=message):
            write(data, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        write(data, tmp_path / "out")
        assert len(read_boxes(tmp_path / "out").images) == 2


def test_names_that_xml_of_voc_cannot_hold(tmp_path):
    data = data_of(tmp_path / "in", {"a\x01.png": [Box("cat", (1, 1, 9, 9))]})
    with pytest.raises(UserError, match="cannot be stored as VOC's XML: rename the image"):
        write_voc(data, tmp_path / "out")


@pytest.mark.parametrize("count", [1, 10, 11, 80])
def test_a_table_of_many_classes_has_a_row_for_each(count):
    classes = tuple(f"class {number}" for number in range(count))
    splits = {
        split: Split(7, 3 * count, dict.fromkeys(classes, 3)) for split in ("train", "a long name of a split")
    }
    lines = ConversionReport(classes, splits, (Finding("warning", "odd", "here", "so"),)).table().splitlines()
    assert lines[-1] == "odd: here: so"
    assert len({len(line) for line in lines[:-1]}) == 1
    if count > 10:
        assert [line.split()[-2:] for line in lines[3:-1]] == [["3", "3"]] * count
        assert lines[1].split() == ["images", "7", "7"]
    else:
        assert lines[1].split() == ["train", "7", str(3 * count), *["3"] * count]


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_a_missing_image_of_a_conversion_has_no_config(source, tmp_path, to):
    path = source / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "gone.png"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"add the files, or correct file_name$"):
        convert_dataset(source, tmp_path / "out", target_format=to)
