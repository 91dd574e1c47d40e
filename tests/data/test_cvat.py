from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.conversion.convert import convert_dataset, detect_format, read_boxes
from hardnet_suite.data.folders import find_segmentation, tasks_of
from hardnet_suite.data.segmentation import own_labels, read_label
from hardnet_suite.data.segmentation.cvat import read_cvat
from hardnet_suite.errors import UserError

MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n"
COLORS = np.uint8([[0, 0, 0], [128, 64, 128], [0, 0, 142]])


def make(folder, *, palette=False, images="JPEGImages", text=MAP, lists=("default",)):
    labels = np.resize(np.uint8([0, 1, 2, 2]), (8, 12))
    for name in ("a", "sub/b"):
        mask = folder / "SegmentationClass" / f"{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        if palette:
            image = Image.fromarray(labels)
            image.putpalette(COLORS.flatten().tolist())
            image.save(mask)
        else:
            Image.fromarray(COLORS[labels]).save(mask)
        if images:
            path = folder / images / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 8)).save(path)
    (folder / "labelmap.txt").write_text(text)
    for name in lists:
        path = folder / "ImageSets/Segmentation" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\nsub/b\n")
    return labels


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("images", ["JPEGImages", "images"])
def test_colors_become_indices(tmp_path, palette, images):
    labels = make(tmp_path / "in", palette=palette, images=images)
    assert detect_format(tmp_path / "in") == "cvat-masks"
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    report = convert_dataset(tmp_path / "in", tmp_path / "out")
    assert report.images == {"train": 2}
    assert report.shares == pytest.approx({"background": 0.25, "road": 0.25, "car": 0.5})
    for name in ("a", "sub/b"):
        image = Image.open(tmp_path / f"out/labels/train/{name}.png")
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), labels)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), COLORS[labels])
    assert before == {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    assert tasks_of(tmp_path / "out") == ["segmentation"]
    assert find_segmentation(tmp_path / "out").classes == ("background", "road", "car")


@pytest.mark.parametrize(("lists", "splits"), [((), ["train"]), (("train", "val"), ["train", "val"])])
def test_splits(tmp_path, lists, splits):
    make(tmp_path, lists=lists)
    assert [*read_cvat(tmp_path).splits] == splits


def test_an_image_in_two_lists_of_one_split_is_one_image(tmp_path):
    make(tmp_path, lists=("default", "train"))
    assert {split: len(images) for split, images in read_cvat(tmp_path).splits.items()} == {"train": 2}


def test_an_image_in_two_splits_is_told(tmp_path):
    make(tmp_path, lists=("train", "val"))
    told = [finding.what for finding in read_cvat(tmp_path).findings]
    assert told == ["is in train and val"] * 2
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("c\n")
    for name, place in (("SegmentationClass/{}.png", "a"), ("JPEGImages/{}.jpg", "a")):
        source = tmp_path / name.format(place)
        source.with_stem("c").write_bytes(source.read_bytes())
    (finding,) = read_cvat(tmp_path).findings
    assert "is the same image as" in finding.what


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("background:0,0,0::\nroad:128,64,128::\n", r"has the color \(0, 0, 142\)"),
        (MAP + "bus:0,0,142::\n", "car and bus have one color"),
        (MAP + "bus:0,0::\n", "line 5: expected name:red,green,blue"),
        (MAP + "bus:0,0,300::\n", "line 5: expected"),
        (MAP + "car:1,1,1::\n", "names 'car' twice"),
        ("", "non-empty list"),
    ],
)
def test_a_wrong_labelmap(tmp_path, text, message):
    make(tmp_path, text=text)
    with pytest.raises(UserError, match=message):
        read_cvat(tmp_path)


def test_images_that_were_not_exported(tmp_path):
    make(tmp_path, images=None)
    with pytest.raises(UserError, match="export with images"):
        read_cvat(tmp_path)


def test_a_mask_of_another_size(tmp_path):
    make(tmp_path)
    Image.new("RGB", (13, 8)).save(tmp_path / "JPEGImages/a.jpg")
    with pytest.raises(UserError, match=r"is 12×8, but its image .* is 13×8"):
        read_cvat(tmp_path)


def test_a_listed_image_without_mask_is_told(tmp_path):
    make(tmp_path)
    (tmp_path / "SegmentationClass/a.png").unlink()
    data = read_cvat(tmp_path)
    assert [finding.kind for finding in data.findings] == ["image without mask"]
    assert [image.name for image in data.splits["train"]] == ["sub/b.jpg"]


@pytest.mark.parametrize("images", ["JPEGImages", "images", ""])
def test_two_images_of_one_name(tmp_path, images):
    make(tmp_path, images=images or "images")
    if not images:
        (tmp_path / "images/a.jpg").rename(tmp_path / "a.jpg")
        shutil.rmtree(tmp_path / "images")
        (tmp_path / "ImageSets/Segmentation/default.txt").write_text("a\n")
    Image.new("RGB", (12, 8), "red").save(tmp_path / images / "a.png")
    with pytest.raises(UserError, match=r"a stands for several images in .*, a\.jpg and a\.png: keep one"):
        read_cvat(tmp_path)
    (tmp_path / "ImageSets/Segmentation/default.txt").write_text("sub/b\n")
    if images:  # a name that no list has is not in the way
        assert [image.name for image in read_cvat(tmp_path).splits["train"]] == ["sub/b.jpg"]


def test_two_masks_of_one_name(tmp_path):
    make(tmp_path)
    shutil.copy(tmp_path / "SegmentationClass/a.png", tmp_path / "SegmentationClass/a.PNG")
    with pytest.raises(UserError, match=r"a stands for several masks in .*: keep one of them"):
        read_cvat(tmp_path)


def test_names_of_lists_in_another_form(tmp_path):
    make(tmp_path)
    for folder, suffix in (("SegmentationClass", "png"), ("JPEGImages", "jpg")):
        (tmp_path / folder / f"a.{suffix}").rename(tmp_path / folder / f"a\u0308.{suffix}")
    (tmp_path / "ImageSets/Segmentation/default.txt").write_text("\u00e4\nsub\\b\n")
    assert len(read_cvat(tmp_path).splits["train"]) == 2


@pytest.mark.parametrize("lists", [(), ("train",)])
def test_images_and_masks_that_are_left_out_are_told(tmp_path, lists):
    make(tmp_path, lists=lists)
    if lists:
        (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\n")
    else:
        Image.new("RGB", (12, 8)).save(tmp_path / "JPEGImages/c.jpg")
    told = [(finding.kind, finding.what) for finding in read_cvat(tmp_path).findings]
    unlisted = "1 that no list names: b"
    expected = [("masks left out", f"{unlisted}.png"), ("images left out", f"{unlisted}.jpg")]
    assert told == (expected if lists else [("images left out", "1 without a mask: c.jpg")])


def test_it_has_no_boxes(tmp_path):
    make(tmp_path)
    with pytest.raises(UserError, match="has masks, no boxes"):
        read_boxes(tmp_path)
    with pytest.raises(UserError, match="convert-dataset"):
        tasks_of(tmp_path)


@pytest.mark.parametrize("ignored", [True, False])
@pytest.mark.parametrize("objects", ["all", "some", "none"])
def test_masks_of_one_class_are_read_back(tmp_path, objects, ignored):
    """1 is the class and 255 ignored, whichever of them occur; 0 and 255 alone would be a mask."""
    make(tmp_path / "in", text="road:128,64,128::\n" + ("__ignore__:0,0,0::\n" if ignored else ""))
    number = {"all": 1, "some": 0.5, "none": 0}[objects] if ignored else 1
    for name in ("a", "sub/b"):
        mask = np.zeros((8, 12, 3), np.uint8)
        mask[: int(8 * number)] = (128, 64, 128)
        Image.fromarray(mask).save(tmp_path / f"in/SegmentationClass/{name}.png")
    expected = read_cvat(tmp_path / "in").splits["train"][0].labels
    convert_dataset(tmp_path / "in", tmp_path / "out")
    folder = find_segmentation(tmp_path / "out")
    labels = own_labels(folder.classes, [(1, 2, 3)], folder.stored)
    files = [*(tmp_path / "out/labels").rglob("*.png")]
    assert len(files) == 2
    for file in files:
        if objects == "none" and ignored:
            with pytest.raises(UserError, match="holds 255, which may be the class or ignored"):
                read_label(file, labels)
        else:
            np.testing.assert_array_equal(read_label(file, labels), expected)


WHITE = "background:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\nsnow:255,255,255::\n"


@pytest.mark.parametrize("kind", ["RGBA", "palette", "palette of bytes", "colour key"])
@pytest.mark.filterwarnings("error")
def test_the_stored_colors_count_whatever_is_transparent(tmp_path, kind):
    """Composited on white, the background would become snow."""
    labels = make(tmp_path, palette=kind.startswith("palette"), text=WHITE)
    for name in ("a", "sub/b"):
        path = tmp_path / f"SegmentationClass/{name}.png"
        with Image.open(path) as image:
            image.load()
        options = {"palette": 0, "palette of bytes": b"\0\xff\x80", "colour key": (0, 0, 0)}
        if kind == "RGBA":
            image.convert("RGBA").save(path)
        else:
            image.save(path, transparency=options[kind])
    (image, _) = read_cvat(tmp_path).splits["train"]
    np.testing.assert_array_equal(image.labels, labels)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_have_no_class(tmp_path, mode):
    make(tmp_path, text=WHITE)
    mask = np.array(Image.fromarray(np.zeros((8, 12), np.uint8)).convert(mode))
    mask[..., -1] = 255
    mask[0, 0, -1] = 254
    Image.fromarray(mask).save(tmp_path / "SegmentationClass/a.png")
    with pytest.raises(UserError, match=r"a\.png has transparent pixels"):
        read_cvat(tmp_path)


def test_masks_of_16_bits_have_no_colors(tmp_path):
    make(tmp_path)
    Image.fromarray(np.zeros((8, 12), np.uint16)).save(tmp_path / "SegmentationClass/a.png")
    with pytest.raises(UserError, match="expected colors"):
        read_cvat(tmp_path)
