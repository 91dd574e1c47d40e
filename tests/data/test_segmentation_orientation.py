"""Images and label images are turned upright by their own EXIF orientation; pairs that differ are errors."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.conversion.masks import write_masks
from hardnet_suite.data.images import exif_orientation, read_rgb
from hardnet_suite.data.masks import MaskData, MaskImage
from hardnet_suite.data.segmentation import check_segmentation, own_labels, read_label, require_aligned
from hardnet_suite.errors import UserError

LABELS = own_labels(("a", "b"), [(0, 0, 0), (1, 1, 1)])
SQUARE, WIDE, TALL = (4, 4), (6, 4), (4, 6)


def save(path, size, orientation, mode="L"):
    """Random zeros and ones, tagged unless ``orientation`` is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 2, size[::-1], np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(values).convert(mode).save(path, exif=exif)
    return path


def pair(root, size, image, label, label_size=None, suffix=".png"):
    path = save(root / f"images/a{suffix}", size, image, "RGB")
    return path, save(root / "labels/a.png", label_size or size, label)


def errors(root):
    report = check_segmentation(root / "images", root / "labels", LABELS)
    return [finding.kind for finding in report.errors]


@pytest.mark.parametrize("size", [SQUARE, WIDE])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pair_with_one_orientation_stays_aligned(tmp_path, size, orientation):
    image, label = pair(tmp_path, size, orientation, orientation)
    assert exif_orientation(image) == exif_orientation(label) == orientation
    assert np.array_equal(read_rgb(image)[..., 0], read_label(label, LABELS))
    require_aligned([(image, label)], "the_loader")
    assert errors(tmp_path) == []


@pytest.mark.parametrize("size", [SQUARE, WIDE])
@pytest.mark.parametrize("orientation", [2, 3, 6])
@pytest.mark.parametrize("tagged", ["image", "label"])
@pytest.mark.parametrize("other", [None, 1])
def test_a_pair_with_two_orientations_is_an_error(tmp_path, size, orientation, tagged, other):
    tags = (orientation, other) if tagged == "image" else (other, orientation)
    image, label = pair(tmp_path, size, *tags)
    found = tuple(tag or 1 for tag in tags)
    message = (
        rf"the_loader: the image .*a\.png has EXIF orientation {found[0]}, its label .*a\.png {found[1]}"
    )
    with pytest.raises(UserError, match=message + ".* if the label fits the image as displayed"):
        require_aligned([(image, label)], "the_loader")
    differs_in_size = size == WIDE and orientation == 6
    assert errors(tmp_path) == ["label size differs" if differs_in_size else "orientation differs"]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_a_label_of_the_size_of_the_displayed_image_fits_it(tmp_path, orientation, suffix):
    image, label = pair(tmp_path, WIDE, orientation, None, TALL, suffix)
    require_aligned([(image, label)], "the_loader")
    assert errors(tmp_path) == []


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("size", [SQUARE, WIDE])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_label_images_of_a_conversion_fit_their_images(tmp_path, size, orientation, link):
    """Drawn on the displayed image, and stored as it is."""
    path = save(tmp_path / "in/a.png", size, orientation, "RGB")
    width, height = size if orientation < 5 else size[::-1]
    drawn = np.zeros((height, width), np.uint8)
    drawn[0, :2] = 1
    image = MaskImage(path, "a.png", drawn)
    data = MaskData(tmp_path, "a test", ("a", "b"), None, {"train": [image]}, (), frozenset({path.parent}))
    write_masks(data, tmp_path / "out", link=link)
    image, label = (tmp_path / f"out/{kind}/train/a.png" for kind in ("images", "labels"))
    assert np.array_equal(read_label(label, LABELS), drawn)
    assert image.read_bytes() == path.read_bytes()
    require_aligned([(image, label)], "the_loader")
    with Image.open(image) as pixels, Image.open(label) as stored:
        assert pixels.size == stored.size


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 8])
def test_the_orientation_is_that_which_the_decoder_applies(tmp_path, suffix, orientation):
    path = save(tmp_path / f"a{suffix}", WIDE, orientation, "RGB")
    assert exif_orientation(path) == orientation
    assert read_rgb(path).shape[:2] == (TALL if orientation == 8 else WIDE)[::-1]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_labels_of_every_mode_are_turned(tmp_path, mode, suffix):
    values = np.random.default_rng(0).integers(0, 2, (4, 6), np.uint8)
    image = Image.fromarray(values * 255).convert("1") if mode == "1" else Image.fromarray(values)
    if mode == "P":
        image = Image.fromarray(values)
        image.putpalette([0, 0, 0, 9, 9, 9])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / f"a{suffix}", exif=exif)
    expected = np.asarray(Image.fromarray(values).transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(read_label(tmp_path / f"a{suffix}", LABELS), expected)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["eXIf", "XMP", "Software"])
def test_the_orientation_of_a_png_is_found_wherever_it_stands(tmp_path, place, kind):
    """``read_rgb`` reads what follows the pixels too; some tools append EXIF there."""
    exif = Image.Exif()
    exif[0x0112] = 6
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6"/>'
    chunks = {
        "eXIf": (b"eXIf", exif.tobytes()[6:]),
        "XMP": (b"iTXt", xmp),
        "Software": (b"tEXt", b"Software\0some tool"),
    }
    name, data = chunks[kind]
    chunk = len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
    path = save(tmp_path / "a.png", WIDE, None, "RGB")
    content = path.read_bytes()
    cut = content.index(b"IDAT" if place == "before" else b"IEND") - 4
    path.write_bytes(content[:cut] + chunk + content[cut:])
    turned = read_rgb(path).shape[:2] == TALL[::-1]
    assert turned == (kind != "Software")
    assert exif_orientation(path) == (6 if turned else 1)
