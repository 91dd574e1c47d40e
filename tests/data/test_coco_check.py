"""``check_coco`` says nothing of a clean set and finds every defect put into it."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from hardnet_suite.data.coco import Finding, check_coco, require_coco
from hardnet_suite.errors import UserError

NAMES = ("cat", "dog")


@pytest.fixture
def clean(tmp_path):
    """A set of three pictures with a box each, as (content of the annotation file, image folder)."""
    folder = tmp_path / "train2017"
    folder.mkdir()
    for key in (1, 2, 3):
        Image.effect_noise((64, 48), 50).convert("RGB").save(folder / f"{key}.jpg")
    data = {
        "images": [{"id": key, "file_name": f"{key}.jpg", "width": 64, "height": 48} for key in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}],
        "annotations": [
            {"id": 10 + key, "image_id": key, "category_id": (1, 4, 4)[key - 1], "bbox": [4.5, 4, 20, 20]}
            for key in (1, 2, 3)
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


def cut_picture(data, folder):
    path = folder / "2.jpg"
    path.write_bytes(path.read_bytes()[:-400])


def text_as_picture(data, folder):
    (folder / "2.jpg").write_text("<html>404</html>")


def remove_picture(data, folder):
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
    (remove_picture, "error", "missing image", "image 2"),
    (cut_picture, "error", "unreadable image", "image 2"),
    (text_as_picture, "error", "unreadable image", "image 2"),
    (other_size, "error", "image size differs", "image 2"),
    (turned_by_exif, "error", "image size differs", "image 2"),
    (set_key("images", "id", 1), "error", "duplicate image id", "image id 1"),
    (set_key("annotations", "id", 11), "error", "duplicate annotation id", "annotation id 11"),
    (set_key("categories", "id", 1), "error", "duplicate category id", "category id 1"),
    (set_key("categories", "name", "cat"), "error", "duplicate category name", "category name cat"),
    (set_key("annotations", "image_id", 77), "error", "unknown image", "annotation 12 of image 77"),
    (set_key("annotations", "category_id", 3), "error", "unknown category", "annotation 12 of image 2"),
    (set_key("categories", "name", "wolf"), "error", "missing class", "class dog"),
    (set_key("categories", "name", "wolf"), "warning", "extra class", "class wolf"),
    (set_box(4, 4, 0, 5), "error", "empty box", "annotation 12 of image 2"),
    (set_box(4, 4, 5, -5), "error", "empty box", "annotation 12 of image 2"),
    (set_box(4, 4, float("nan"), 5), "error", "invalid box", "annotation 12 of image 2"),
    (set_box(4, 4, float("inf"), 5), "error", "invalid box", "annotation 12 of image 2"),
    (set_box(4, 4, 5), "error", "invalid box", "annotation 12 of image 2"),
    (set_box(64, 4, 5, 5), "error", "box outside the picture", "annotation 12 of image 2"),
    (set_box(4, -9, 5, 5), "error", "box outside the picture", "annotation 12 of image 2"),
    (set_box(60, 4, 6, 5), "warning", "box partly outside the picture", "annotation 12 of image 2"),
    (set_box(-2, 4, 6, 5), "warning", "box partly outside the picture", "annotation 12 of image 2"),
    (set_box(4, 4, 0.5, 5), "warning", "tiny box", "annotation 12 of image 2"),
    (drop_key("images", "file_name"), "error", "incomplete image", "image 2"),
    (drop_key("images", "id"), "error", "incomplete image", "image number 1"),
    (drop_key("images", "width"), "error", "incomplete image", "image 2"),
    (set_key("images", "height", 0), "error", "incomplete image", "image 2"),
    (drop_key("annotations", "bbox"), "error", "incomplete annotation", "annotation 12"),
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


def test_pictures_turned_by_exif_may_state_the_turned_size(clean):
    turned_by_exif(*clean)
    clean[0]["images"][1].update(width=48, height=64)
    assert check(*clean).findings == ()


def test_without_reading_images_only_missing_ones_are_found(clean):
    cut_picture(*clean)
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
    with pytest.raises(UserError, match="no valid JSON"):
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
