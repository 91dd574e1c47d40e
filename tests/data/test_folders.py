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
    put(tmp_path / labels / "a.png", [0, 1, 2, 3, 5, 255])
    assert tasks_of(tmp_path) == ["segmentation"]
    folder = find_segmentation(tmp_path)
    assert folder.splits == {"train": (images, labels)}
    assert folder.known is None
    assert len(folder.classes) == 6
    assert "6 classes" in folder.notes[0]
    assert "no pixel has 4" in folder.notes[0]


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
    folder = find_segmentation(tmp_path)
    assert list(folder.splits) == ["train"]
    assert folder.notes[-1] == "images left out: images/test (1 image); train, val and test are used"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("images/train labels/train", "images/training labels/training", "images/train and images/training"),
        ("images/val labels/val", "images/validation labels/validation", "images/val and images/validation"),
        ("images/val labels/val", "images/validation", "images/val and images/validation"),
        ("train/images train/masks", "training/images training/masks", "train/images and training/images"),
        ("train/images train/masks", "images/train labels/train", "train/images and images/train"),
        ("train trainannot", "training trainingannot", "train and training"),
        ("train/images train/labels", "train/masks", "train/labels and train/masks"),
        ("images labels", "masks", "labels and masks"),
        ("images/train labels/train", "masks/train", "labels/train and masks/train"),
        ("images labels", "imgs", "images and imgs"),
    ],
)
def test_two_folders_of_one_split_or_of_labels_are_not_chosen_from(tmp_path, first, second, message):
    for place in first.split():
        fill(tmp_path / place)
    find_segmentation(tmp_path)
    for place in second.split():
        fill(tmp_path / place)
    assert tasks_of(tmp_path) == ["segmentation"]
    with pytest.raises(UserError, match=f"has both {message}: rename one of them"):
        find_segmentation(tmp_path)


def test_splits_of_several_layouts_and_links_are_found(tmp_path):
    for place in ("train/images", "train/labels", "images/val", "labels/val"):
        fill(tmp_path / place)
    (tmp_path / "images/validation").symlink_to("val")
    (tmp_path / "labels/validation").symlink_to("val")
    folder = find_segmentation(tmp_path)
    assert folder.splits == {"train": ("train/images", "train/labels"), "val": ("images/val", "labels/val")}
    assert len(folder.notes) == 1


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("layout", "beside", "told"),
    [
        ("split last", "images/street/a labels/street/a", "images/street (2 images)"),
        ("split last", "images labels", "images (2 images)"),
        ("split last", "images/street images", "images (2 images), images/street (2 images)"),
        ("split first", "extra/images extra/masks", "extra/images (2 images)"),
        ("split first", "images labels", "images (2 images)"),
        ("split first", "test/images", "test/images (2 images)"),
        ("CamVid", "night nightannot", "night (2 images)"),
        ("CamVid", "test", "test (2 images)"),
        ("no split", "extra/images extra/labels", "extra/images (2 images)"),
    ],
)
def test_images_beside_the_splits_are_told(tmp_path, layout, beside, told, named):
    for place in LAYOUTS[layout]:
        fill(tmp_path / place)
    if named:
        (tmp_path / "classes.txt").write_text("road\npath\n")
    before = find_segmentation(tmp_path)
    for place in beside.split():
        fill(tmp_path / place)
    folder = find_segmentation(tmp_path)
    assert folder.splits == before.splits
    assert folder.notes == (*before.notes, f"images left out: {told}; train, val and test are used")


def test_images_that_no_list_names_are_told(tmp_path):
    for name in "abcdef":
        put(tmp_path / f"JPEGImages/{name}.jpg")
        put(tmp_path / f"SegmentationClass/{name}.png", [0, 1, 2])
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    told = "images left out: 4 in JPEGImages, which no list names: c.jpg, d.jpg, e.jpg, …"
    assert find_segmentation(tmp_path).notes[-1] == told
    (lists / "val.txt").write_text("b\nc\nd\ne\nf\n")
    assert told not in find_segmentation(tmp_path).notes


def fill(folder):
    """Two images, or label images."""
    is_labels = any(name in folder.as_posix() for name in ("labels", "masks", "annot"))
    for name in ("a", "b"):
        put(folder / (f"{name}.png" if is_labels else f"{name}.jpg"), [0, 1, 2] if is_labels else None)


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


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([0, 1], {}),
        ([1], {}),
        ([0], {}),
        ([0, 255], {255: 0}),
        ([0, 1, 255], {0: 1, 1: 0, 255: 255}),
        ([1, 255], {0: 1, 1: 0, 255: 255}),
        ([255], {}),  # an error where it is read
    ],
)
def test_one_class_by_name(tmp_path, values, stored):
    put(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/a.png", values)
    (tmp_path / "classes.txt").write_text("road\n")
    assert find_segmentation(tmp_path).stored == stored


def test_label_images_of_255_alone(tmp_path):
    put(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/a.png", [255])
    with pytest.raises(UserError, match="hold 255 alone, which may be a class or ignored"):
        find_segmentation(tmp_path)


def test_classes_by_name(tmp_path):
    put(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/a_mask.png", [0, 1])
    (tmp_path / "classes.txt").write_bytes("\ufeffroad\r\nside walk\r\n\n".encode())
    folder = find_segmentation(tmp_path)
    assert folder.classes == ("road", "side walk")
    assert folder.label_suffix == "_mask.png"
    assert not folder.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("road\n\npath\n", r"classes\.txt, line 2 is empty, but each line is the name of a class"),
        ("\nroad\n", "line 1 is empty"),
        ("\n\n", "names no class"),
        ("road\nroad\n", "names 'road' twice"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_class_lists_that_would_shift_the_labels(tmp_path, content, message):
    put(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/a.png", [0, 1])
    (tmp_path / "classes.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        find_segmentation(tmp_path)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("listed", [False, True])
def test_labels_of_no_image_do_not_count_but_those_of_all_splits(tmp_path, split, listed):
    for name, number in (("train", 1), ("val", 2 if split == "val" else 0)):
        put(tmp_path / f"images/{name}/a.jpg")
        put(tmp_path / f"labels/{name}/a.png", [0, 1, number, 255])
    put(tmp_path / "labels/train/old.png", [0, 9])
    put(tmp_path / "labels/train/a_color.png", [0, 7])
    if listed:
        (tmp_path / "classes.txt").write_text("road\n")
        put(tmp_path / "labels/train/a.png", [0, 255])
        put(tmp_path / "labels/val/a.png", [0, 255])
        assert find_segmentation(tmp_path).stored == {255: 0}
    else:
        assert len(find_segmentation(tmp_path).classes) == (3 if split == "val" else 2)


@pytest.mark.parametrize(
    ("images", "labels", "ending"),
    [
        ("im0 im0_2", "im0_mask im0_2_mask", "_mask.png"),
        ("im im_1 im_2", "im-gt im_1-gt im_2-gt", "-gt.png"),
        ("a b", "a b a_inst b_inst", ".png"),
        ("a b c", "a b a_inst b_inst c_inst", ".png"),
        ("a b c", "a a_mask b_mask c_mask", "_mask.png"),
        ("a b c d", "a_mask b_mask", "_mask.png"),
        ("a.b a.c", "a.b.mask a.c.mask", ".mask.png"),
        ("a", "a_mask a2_mask other", "_mask.png"),
    ],
)
def test_the_ending_of_label_images_is_that_of_most(tmp_path, images, labels, ending):
    for name in images.split():
        put(tmp_path / f"images/{name}.jpg")
    for name in labels.split():
        put(tmp_path / f"labels/{name}.png", [0, 1])
    assert find_segmentation(tmp_path).label_suffix == ending


def test_label_images_of_two_endings(tmp_path):
    for name in ("a", "b"):
        put(tmp_path / f"images/{name}.jpg")
        put(tmp_path / f"labels/{name}_color.png", [0, 1])
        put(tmp_path / f"labels/{name}_mask.png", [0, 1])
    with pytest.raises(UserError, match=r"could be \*_color\.png \(2 images\) or \*_mask\.png \(2 images\)"):
        find_segmentation(tmp_path)


def test_label_images_of_other_names(tmp_path):
    put(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/x.png", [0, 1])
    with pytest.raises(UserError, match=r"no label image in .*labels for .*a\.jpg"):
        find_segmentation(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 254], r"hold 0, 254, few of the indices 0 to 254: .*classes\.txt.*stored=\{0: 0, 254: 1\}"),
        ([0, 3, 7], r"hold 0, 3, 7, few of the indices 0 to 7: .*stored=\{0: 0, 3: 1, 7: 2\}"),
        ([0, 1, 14, 20, 255], r"few of the indices 0 to 20: .*stored=\{0: 0, 1: 1, 14: 2, …\}"),
        ([2, 255], "hold 2, few of the indices 0 to 2"),
        ([0] * 20 + [60, 130, 200, 246] + [255] * 20, "5 values from 0 to 246.*mask_threshold.*hardnet_mseg"),
    ],
)
def test_values_that_are_no_indices(tmp_path, values, message):
    put(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/a.png", values)
    with pytest.raises(UserError, match=message):
        find_segmentation(tmp_path)
    (tmp_path / "classes.txt").write_text("".join(f"{number}\n" for number in range(255)))
    assert len(find_segmentation(tmp_path).classes) == 255


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
    assert not city.notes
    put(tmp_path / "city/leftImg8bit/train_extra/bonn/a_leftImg8bit.png")
    put(tmp_path / "city/gtFine/train_extra/bonn/a_gtFine_labelIds.png", [7])
    assert "leftImg8bit/train_extra (1 image)" in find_segmentation(tmp_path / "city").notes[0]


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


def test_what_is_beside_the_class_folders_is_told(tmp_path):
    for place in ("train/cat", "extra/cat", "val"):
        put(tmp_path / place / "a.jpg")
    assert find_class_folders(tmp_path).notes == (
        "images left out: extra (1 image), val (1 image); train, val and test are used",
    )


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


@pytest.mark.parametrize("names", [[], ["a.jpg"]])
def test_no_split_is_drawn_of_less_than_two(names):
    assert draw_validation(names) == set()
