"""``check_coco`` says nothing of a clean set and finds every defect put into it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from hardnet_suite.data.coco import check_coco, require_coco
from hardnet_suite.data.report import Finding, brief_lines
from hardnet_suite.errors import UserError

NAMES = ("cat", "dog")


@pytest.fixture
def clean(tmp_path):
    """A set of three images with a box each, as (content of the annotation file, image folder)."""
    folder = tmp_path / "train2017"
    folder.mkdir()
    for key in (1, 2, 3):
        Image.effect_noise((64, 48), 50).convert("RGB").save(folder / f"{key}.jpg")
    data = {
        "images": [{"id": key, "file_name": f"{key}.jpg", "width": 64, "height": 48} for key in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [
            {"id": 10 + key, "image_id": key, "category_id": category, "bbox": [4.5, 4, 20, 20], "area": 400}
            for key, category in ((1, 1), (2, 4), (3, 4))
        ],
    }
    return data, folder


def check(data, folder, class_names=NAMES, **options):
    path = folder.parent / "instances.json"
    path.write_text(json.dumps(data))
    return check_coco(path, folder, class_names, **options)


def test_clean_set(clean):
    report = check(*clean)
    assert report.findings == ()
    assert (report.images, report.boxes, report.crowds, report.images_without_boxes) == (3, 3, 0, 0)
    assert report.per_class == {"cat": 1, "dog": 2}
    assert report.sizes == (64, 48, 64, 48)


def cut_image(data, folder):
    path = folder / "2.jpg"
    path.write_bytes(path.read_bytes()[:-400])


def text_as_image(data, folder):
    (folder / "2.jpg").write_text("<html>404</html>")


def remove_image(data, folder):
    (folder / "2.jpg").unlink()


def other_size(data, folder):
    Image.new("RGB", (48, 64)).save(folder / "2.jpg")


def turned_by_exif(data, folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90°: readers that obey it see 48×64
    Image.new("RGB", (64, 48)).save(folder / "2.jpg", exif=exif)


def set_box(*bbox):
    def change(data, folder):
        data["annotations"][1]["bbox"] = list(bbox)

    return change


def set_key(part, key, value):
    def change(data, folder):
        data[part][1][key] = value

    return change


def drop_key(part, key):
    def change(data, folder):
        del data[part][1][key]

    return change


DEFECTS = [
    (remove_image, "error", "missing image", "image 2"),
    (cut_image, "error", "unreadable image", "image 2"),
    (text_as_image, "error", "unreadable image", "image 2"),
    (other_size, "error", "image size differs", "image 2"),
    (turned_by_exif, "error", "image size differs", "image 2"),
    (set_key("images", "id", 1), "error", "duplicate image id", "image id 1"),
    (set_key("annotations", "id", 11), "error", "duplicate annotation id", "annotation id 11"),
    (set_key("categories", "id", 1), "error", "duplicate category id", "category id 1"),
    (set_key("categories", "name", "cat"), "error", "duplicate category name", "category name cat"),
    (set_key("annotations", "image_id", 77), "error", "unknown image", "annotation 12 of image 77"),
    (set_key("images", "file_name", "1.jpg"), "error", "duplicate file name", "file_name 1.jpg"),
    (set_key("annotations", "category_id", 3), "error", "unknown category", "annotation 12 of image 2"),
    (set_key("categories", "name", "wolf"), "error", "missing class", "class dog"),
    (set_key("categories", "name", "wolf"), "warning", "extra class", "class wolf"),
    (set_box(4, 4, 0, 5), "error", "empty box", "annotation 12 of image 2"),
    (set_box(4, 4, 5, -5), "error", "empty box", "annotation 12 of image 2"),
    (set_box(4, 4, float("nan"), 5), "error", "invalid box", "annotation 12 of image 2"),
    (set_box(4, 4, float("inf"), 5), "error", "invalid box", "annotation 12 of image 2"),
    (set_box(4, 4, 5), "error", "invalid box", "annotation 12 of image 2"),
    (set_box(64, 4, 5, 5), "error", "box outside the image", "annotation 12 of image 2"),
    (set_box(4, -9, 5, 5), "error", "box outside the image", "annotation 12 of image 2"),
    (set_box(60, 4, 6, 5), "warning", "box partly outside the image", "annotation 12 of image 2"),
    (set_box(-2, 4, 6, 5), "warning", "box partly outside the image", "annotation 12 of image 2"),
    (set_box(4, 4, 0.5, 5), "warning", "tiny box", "annotation 12 of image 2"),
    (set_key("annotations", "area", 0), "warning", "empty area", "annotation 12 of image 2"),
    (set_key("annotations", "area", -4), "warning", "empty area", "annotation 12 of image 2"),
    (set_key("annotations", "iscrowd", "maybe"), "error", "invalid iscrowd", "annotation 12 of image 2"),
    (set_key("annotations", "image_id", "2"), "warning", "id of another type", "annotation 12 of image 2"),
    (set_key("annotations", "category_id", "4"), "warning", "id of another type", "annotation 12 of image 2"),
    (set_key("annotations", "image_id", True), "error", "incomplete annotation", "annotation 12"),
    (set_key("images", "id", "1"), "error", "duplicate image id", "image id 1"),
    (set_key("images", "id", True), "error", "incomplete image", "image True"),
    (
        set_key("annotations", "segmentation", [1, 2, 3, 4, 5, 6]),
        "error",
        "invalid mask",
        "annotation 12 of image 2",
    ),
    (set_key("annotations", "ignore", 1), "warning", "ignored box", "annotation 12 of image 2"),
    (drop_key("images", "file_name"), "error", "incomplete image", "image 2"),
    (drop_key("images", "id"), "error", "incomplete image", "image number 1"),
    (drop_key("images", "width"), "error", "incomplete image", "image 2"),
    (set_key("images", "height", 0), "error", "incomplete image", "image 2"),
    (drop_key("annotations", "bbox"), "error", "incomplete annotation", "annotation 12"),
    (drop_key("annotations", "area"), "warning", "missing area", "annotation 12 of image 2"),
    (set_key("annotations", "area", None), "warning", "missing area", "annotation 12 of image 2"),
    (set_key("annotations", "area", "big"), "warning", "missing area", "annotation 12 of image 2"),
    (set_key("annotations", "area", float("nan")), "warning", "missing area", "annotation 12 of image 2"),
    (set_key("annotations", "image_id", [2]), "error", "incomplete annotation", "annotation 12"),
    (drop_key("categories", "name"), "error", "incomplete category", "category 4"),
    (lambda data, folder: data["annotations"].pop(0), "warning", "class without boxes", "class cat"),
    (lambda data, folder: data["annotations"].pop(0), "warning", "images without boxes", "instances.json"),
]


@pytest.mark.parametrize(("defect", "level", "kind", "where"), DEFECTS)
def test_defect_is_found(clean, defect, level, kind, where):
    defect(*clean)
    report = check(*clean)
    found = [finding for finding in report.findings if finding.kind == kind]
    assert [(finding.level, finding.where) for finding in found] == [(level, where)]
    assert kind in report.table()
    assert found[0].what in report.table()


def test_boxes_off_by_a_rounding_are_fine(clean):
    set_box(-1, -1, 66, 50)(*clean)
    assert check(*clean).findings == ()


def test_images_turned_by_exif_may_state_the_turned_size(clean):
    turned_by_exif(*clean)
    clean[0]["images"][1].update(width=48, height=64)
    assert check(*clean).findings == ()


def test_without_reading_images_only_missing_ones_are_found(clean):
    cut_image(*clean)
    (clean[1] / "3.jpg").unlink()
    assert [finding.kind for finding in check(*clean, read_images=False).findings] == ["missing image"]


def test_class_names_may_be_left_to_the_file(clean):
    set_key("categories", "name", "wolf")(*clean)
    assert check(*clean, class_names=None).findings == ()


def test_crowds_are_counted_apart(clean):
    clean[0]["annotations"][1]["iscrowd"] = 1
    report = check(*clean)
    assert (report.boxes, report.crowds, report.images_without_boxes) == (2, 1, 0)
    assert report.per_class == {"cat": 1, "dog": 1}


def test_table_groups_findings_and_shortens_long_groups(clean):
    data, folder = clean
    for entry in data["annotations"]:
        entry["bbox"] = [0, 0, 0, 0]
    data["annotations"] += [{**data["annotations"][0], "id": 20 + key} for key in range(4)]
    data["images"][0]["file_name"] = "nowhere.jpg"
    table = check(data, folder).table()
    assert "empty box (7)" in table
    assert "… and 4 more" in table
    assert "missing image (1)" in table
    assert table.count("[0, 0, 0, 0]") == 3


def test_empty_set_has_a_report(clean):
    report = check({"images": [], "annotations": [], "categories": []}, clean[1], class_names=None)
    assert report.findings == ()
    assert report.sizes is None
    assert "not stated" in report.table()


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_coco_has_no_errors(shared, split):
    root = shared / "data" / "coco_mini"
    report = check_coco(root / "annotations" / f"instances_{split}.json", root / split)
    assert report.errors == ()
    assert {finding.kind for finding in report.warnings} <= {"class without boxes", "images without boxes"}
    expected = {"train2017": (92, 820, 9), "val2017": (66, 552, 8)}[split]
    assert (report.images, report.boxes, report.crowds) == expected
    assert sum(report.per_class.values()) == report.boxes


def test_missing_data_says_what_to_do(tmp_path):
    annotation_file, folder = tmp_path / "annotations" / "instances_train2017.json", tmp_path / "train2017"
    for call in (require_coco, check_coco):
        with pytest.raises(UserError) as caught:
            call(annotation_file, folder)
        message = str(caught.value)
        for part in (
            str(annotation_file),
            str(folder),
            "ROOT/annotations/instances_train2017.json",
            "https://cocodataset.org/#download",
            "hardnet-suite draw-shapes data/shapes",
            "--data-root data/shapes",
        ):
            assert part in message
        assert "\n" not in message


def test_require_coco_names_only_what_is_missing(clean):
    data, folder = clean
    path = folder.parent / "instances.json"
    with pytest.raises(UserError, match="no annotation file") as caught:
        require_coco(path, folder)
    assert "no image folder" not in str(caught.value)
    path.write_text(json.dumps(data))
    require_coco(path, folder)


def test_annotation_file_that_is_no_json(clean):
    path = clean[1].parent / "instances.json"
    path.write_text('{"images": [')
    with pytest.raises(UserError, match="not valid JSON"):
        check_coco(path, clean[1])


def test_report_splits_errors_and_warnings(clean):
    set_key("categories", "name", "wolf")(*clean)
    report = check(*clean)
    assert report.errors == (
        Finding(
            "error",
            "missing class",
            "class dog",
            "is to be trained, but no category of the file has this name",
        ),
    )
    assert [finding.kind for finding in report.warnings] == ["extra class"]


def test_images_in_other_folders_and_names_spelt_otherwise_are_found(clean):
    data, folder = clean
    (folder / "sub").mkdir()
    (folder / "1.jpg").rename(folder / "sub" / "1.jpg")
    (folder / "2.jpg").rename(folder.parent / "2.jpg")
    for entry, name in zip(data["images"], ("sub//1.jpg", "../2.jpg", str(folder / "3.jpg")), strict=True):
        entry["file_name"] = name
    assert check(data, folder, read_images=False).findings == ()
    data["images"][0]["file_name"] = "sub"  # there, but no file
    data["images"][1]["file_name"] = "nowhere/2.jpg"
    report = check(data, folder, read_images=False)
    assert [(finding.kind, finding.where) for finding in report.findings] == [
        ("missing image", "image 1"),
        ("missing image", "image 2"),
    ]


def test_brief_has_a_line_a_kind_with_count_fate_and_first_example(clean):
    data, folder = clean
    assert check(data, folder).brief() == []
    data["annotations"][0]["bbox"] = [60, 4, 6, 5]
    data["annotations"][1]["bbox"] = [5, 5, 0, 4]
    data["annotations"][2]["bbox"] = [5, 5, 4, 0]
    assert check(data, folder).brief()[:2] == [
        "error: empty box (2, left out of training), e.g. annotation 12 of image 2: "
        "[5, 5, 0, 4] has no width or no height",
        "warning: box partly outside the image (1): annotation 11 of image 1: "
        "[60, 4, 6, 5] (x, y, width, height) in an image of 64×48",
    ]


@pytest.mark.parametrize(
    "where", ["a  b.png", " a.png", "/".join(["", *["folder"] * 60, "a  b.png"]), "x" * 400 + " a.png"]
)
def test_brief_names_the_file_and_the_problem(where):
    """Spaces of names stay, and of a long path its end."""
    for what in ("is broken", f"is no image: {'/'.join(['folder'] * 60)}/b.png does not exist"):
        (line,) = brief_lines([Finding("warning", "kind", where, what)] * 2, frozenset(), "")
        assert line.startswith("warning: kind (2), e.g. " + where[:40])
        assert where[-40:] + ": " + what[:40] in line
        assert line.endswith(what[-40:])
        assert len(line) <= 300


def test_brief_is_short_however_bad_the_data(clean):
    report = check(*clean)
    findings = tuple(Finding("warning", f"kind {key}", "here", "broken\n" * 999) for key in range(13))
    assert len(dataclasses.replace(report, findings=findings[:12]).brief()) == 12
    lines = dataclasses.replace(report, findings=findings).brief()
    assert len(lines) == 12
    assert lines[10].startswith("warning: kind 10 (1): here: broken")
    assert lines[11] == "… and 2 more kinds of findings: `hardnet-suite check-data` shows all"
    for line in lines:
        assert len(line) <= 300
        assert "\n" not in line
