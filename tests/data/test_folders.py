"""What a data folder is recognised as."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.folders import (
    draw_validation,
    find_class_folders,
    find_segmentation,
    missing_labels,
    tasks_of,
)
from hardnet_suite.errors import UserError


def put(path, values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((8, 8, 3), np.uint8) if values is None else np.resize(np.uint8(values), (8, 8))
    Image.fromarray(array).save(path)


LAYOUTS = {
    "split first": ("train/images", "train/masks"),
    "split last": ("images/train", "labels/train"),
    "no split": ("images", "annotations"),
    "VOC": ("JPEGImages", "SegmentationClass"),
    "CamVid": ("train", "trainannot"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_label_images(tmp_path, layout):
    images, labels = LAYOUTS[layout]
    put(tmp_path / images / "a.jpg")
    put(tmp_path / labels / "a.png", [0, 1, 14, 255])
    assert tasks_of(tmp_path) == ["segmentation"]
    folder = find_segmentation(tmp_path)
    assert folder.splits == {"train": (images, labels)}
    assert folder.known is None
    assert len(folder.classes) == 15
    assert "15 classes" in folder.notes[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [None, ".jpg"])
def test_images_without_label_images(tmp_path, layout, suffix):
    images, labels = LAYOUTS[layout]
    put(tmp_path / images / "a.jpg")
    assert not find_segmentation(tmp_path)
    (tmp_path / labels).mkdir(parents=True)
    if suffix:
        put(tmp_path / labels / f"a{suffix}")
    assert missing_labels(tmp_path) == f"{images} has images, but {labels} no label images (.png)"
    put(tmp_path / labels / "a.png", [0, 1])
    assert missing_labels(tmp_path) is None
    assert missing_labels(tmp_path / "none") is None


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("layout", ["split first", "split last", "CamVid"])
def test_a_validation_split_without_label_images_is_not_left_out(tmp_path, layout, name, is_there):
    """A part of train would be drawn in its place."""
    images, labels = LAYOUTS[layout]
    put(tmp_path / images / "a.jpg")
    put(tmp_path / labels / "a.png", [0, 1])
    images, labels = (folder.replace("train", name) for folder in (images, labels))
    put(tmp_path / images / "b.jpg")
    if is_there:
        (tmp_path / labels).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{images} has images, but {labels} no label images"):
        find_segmentation(tmp_path)
    put(tmp_path / labels / "b.png", [0, 1])
    assert list(find_segmentation(tmp_path).splits) == ["train", "val"]


def test_images_of_a_test_split_need_no_labels(tmp_path):
    put(tmp_path / "images/train/a.jpg")
    put(tmp_path / "labels/train/a.png", [0, 1])
    put(tmp_path / "images/test/b.jpg")
    assert list(find_segmentation(tmp_path).splits) == ["train"]


@pytest.mark.parametrize(
    ("values", "classes", "stored"),
    [([0, 1], 1, {}), ([0, 255], 1, {255: 0}), ([0, 1, 255], 2, {}), ([0, 2], 3, {})],
)
def test_classes_by_the_values(tmp_path, values, classes, stored):
    put(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/a.png", values)
    folder = find_segmentation(tmp_path)
    assert len(folder.classes) == classes
    assert folder.stored == stored


def test_classes_by_name(tmp_path):
    put(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/a_mask.png", [0, 1])
    (tmp_path / "classes.txt").write_text("road\n\nside walk\r\n")
    folder = find_segmentation(tmp_path)
    assert folder.classes == ("road", "side walk")
    assert folder.label_suffix == "_mask.png"
    assert not folder.notes


def test_camvid_and_cityscapes(tmp_path):
    for split in ("train", "val"):
        put(tmp_path / "camvid" / split / "a.jpg")
        put(tmp_path / "camvid" / f"{split}annot/a.png", [0, 10, 11])
        put(tmp_path / "city/leftImg8bit" / split / "bonn/a_leftImg8bit.png")
        put(tmp_path / "city/gtFine" / split / "bonn/a_gtFine_labelIds.png", [7])
    camvid, city = (find_segmentation(tmp_path / name) for name in ("camvid", "city"))
    assert camvid.known == "camvid"
    assert camvid.splits["val"] == ("val", "valannot")
    assert city.known == "cityscapes"
    assert [*city.splits] == ["train", "val"]


@pytest.mark.parametrize("suffix", [".png", ".txt"])
def test_labels_of_boxes_are_no_label_images(tmp_path, suffix):
    put(tmp_path / "images/train/a.jpg")
    put(tmp_path / "labels/train/a.png", [0, 1])
    if suffix == ".txt":
        (tmp_path / "labels/train/a.png").unlink()
        (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.5")
        (tmp_path / "classes.txt").write_text("cat")
    assert tasks_of(tmp_path) == ["segmentation" if suffix == ".png" else "detection"]


def test_class_folders(tmp_path):
    for name in ("cat", "dog"):
        put(tmp_path / "flat" / name / "a.jpg")
        put(tmp_path / "split/train" / name / "a.jpg")
        put(tmp_path / "split/valid" / name / "b.jpg")
    assert tasks_of(tmp_path / "flat") == ["classification"]
    assert find_class_folders(tmp_path / "flat").splits == {"train": "."}
    assert find_class_folders(tmp_path / "split").splits == {"train": "train", "val": "valid"}


def test_two_folders_of_one_split(tmp_path):
    for name in ("val", "valid"):
        put(tmp_path / name / "cat/a.jpg")
    with pytest.raises(UserError, match="both val and valid"):
        find_class_folders(tmp_path)


def test_nothing(tmp_path):
    assert tasks_of(tmp_path) == []
    put(tmp_path / "a.jpg")
    assert tasks_of(tmp_path) == []


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_a_drawn_split_is_the_same_each_time_and_leaves_both_sides_something(count):
    names = [f"{number}.jpg" for number in range(count)]
    drawn = draw_validation(names)
    assert drawn == draw_validation(names[::-1])
    assert 1 <= len(drawn) < count
    assert abs(len(drawn) - count / 5) <= 1
