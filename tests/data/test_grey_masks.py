"""Masks of one class as Kvasir-SEG and CVC-ClinicDB have them: grey, 0 to 255, often lossy, of 3 channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from hardnet_suite.data.segmentation import (
    check_segmentation,
    own_labels,
    predicted_as,
    read_label,
    require_meaning,
    require_pairs,
)
from hardnet_suite.errors import UserError

POLYP = own_labels(("polyp",), [(0, 200, 0)], mask_threshold=128)


def blob(size=(64, 48)):
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((12, 8, 44, 40), fill=255)
    return mask


TRUTH = np.where(np.array(blob()) >= 128, 0, 1)


def saved(path, mask, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.bmp", "m.gif"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_lossless_masks_of_any_format(tmp_path, name, mode):
    """Those of 1 bit and of palettes as they are displayed, too."""
    labels = read_label(saved(tmp_path / name, blob().convert(mode)), POLYP)
    assert labels.dtype == np.uint8
    assert (labels == TRUTH).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_the_edges_of_lossy_masks_are_divided_at_the_threshold(tmp_path, mode, quality):
    path = saved(tmp_path / "m.jpg", blob().convert(mode), quality=quality)
    labels = read_label(path, POLYP)
    assert {*np.unique(labels).tolist()} == {0, 1}
    assert (labels != TRUTH).mean() < 0.02
    stored = np.array(Image.open(path).convert("L"))
    assert len(np.unique(stored)) > 2
    assert (labels == (stored < 128)).all()


@pytest.mark.parametrize("threshold", [1, 64, 128, 255])
def test_the_threshold_is_the_least_value_of_the_class(tmp_path, threshold):
    path = saved(tmp_path / "m.png", Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)))
    labels = read_label(path, replace(POLYP, mask_threshold=threshold)).ravel()
    assert (labels == (np.arange(256) < threshold)).all()
    assert replace(POLYP, mask_threshold=threshold).background == 1


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (blob().convert("RGBA"), "is of mode RGBA, expected a grey image"),
        (Image.merge("RGB", [blob(), Image.new("L", (64, 48)), blob()]), "is in color, expected grey"),
        (
            blob().point(lambda value: value // 255),
            "holds 0 and 1, which mask_threshold takes for background",
        ),
        (
            blob().point(lambda value: value // 3),
            "is not black, but has no value above 85, which mask_thresh",
        ),
        (Image.fromarray(np.zeros((4, 4), np.uint16)), "expected a grey image"),
    ],
)
def test_masks_that_the_threshold_cannot_read(tmp_path, mask, message):
    with pytest.raises(UserError, match=message):
        read_label(saved(tmp_path / "m.png", mask), POLYP)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("value", [0, 255])
def test_empty_and_full_masks_in_a_lossy_format(tmp_path, mode, value):
    """Black becomes 1 to 8 at some qualities; a full mask of 0 and 1 in a lossless format is refused."""
    found = set()
    for quality in (4, 5, 12, 50, 70, 95):
        path = saved(
            tmp_path / f"{quality}.jpg", Image.new("L", (61, 37), value).convert(mode), quality=quality
        )
        found |= set(np.unique(np.array(Image.open(path))).tolist())
        assert (read_label(path, POLYP) == int(value == 0)).all()
    assert len(found) > 2
    with pytest.raises(UserError, match="has no value above 1, which mask_threshold takes for background"):
        read_label(saved(tmp_path / "m.png", Image.new("L", (61, 37), 1)), POLYP)
    almost = Image.new("L", (61, 37), 1)
    almost.putpixel((3, 3), 0)
    with pytest.raises(UserError, match="holds 0 and 1"):
        read_label(saved(tmp_path / "m.png", almost), POLYP)


def test_dark_masks_in_a_lossy_format_are_refused(tmp_path):
    for mask in (blob().point(lambda value: value // 3), Image.new("L", (64, 48), 40)):
        with pytest.raises(UserError, match="is not black, but has no value above"):
            read_label(saved(tmp_path / "m.jpg", mask), POLYP)


def test_a_palette_of_colours_is_refused(tmp_path):
    mask = Image.fromarray(TRUTH.astype(np.uint8))
    mask.putpalette([0, 0, 0, 255, 0, 0])
    with pytest.raises(UserError, match="is in color, expected grey"):
        read_label(saved(tmp_path / "m.png", mask), POLYP)


def test_without_a_threshold_such_masks_are_refused(tmp_path):
    plain = own_labels(("polyp",), [(0, 200, 0)], {0: 1, 255: 0})
    with pytest.raises(UserError, match="of mode RGB, expected one channel"):
        read_label(saved(tmp_path / "m.png", blob().convert("RGB")), plain)
    with pytest.raises(UserError, match=r"the config has no class for; .* with mask_threshold=128"):
        read_label(saved(tmp_path / "m.jpg", blob().filter(ImageFilter.GaussianBlur(2))), plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_threshold": 0}, "expected an integer of 1 to 255"),
        ({"mask_threshold": 256}, "expected an integer of 1 to 255"),
        ({"mask_threshold": 0.5}, "expected an integer of 1 to 255"),
        ({"mask_threshold": 128, "stored": {255: 0}}, "is for one class, without stored"),
        ({"mask_threshold": 128, "ignore_index": 7}, "is for one class, without stored"),
        ({"mask_threshold": 128, "reduce_zero_label": True}, "is for one class, without stored"),
    ],
)
def test_thresholds_that_do_not_exist(options, message):
    with pytest.raises(UserError, match=message):
        own_labels(("polyp",), [(0, 200, 0)], **options)
    with pytest.raises(UserError, match="is for one class"):
        own_labels(("a", "b"), [(0, 0, 0), (1, 1, 1)], mask_threshold=128)


def test_predictions_are_stored_without_a_threshold():
    assert predicted_as(POLYP).values == {0: 0, 255: 1}


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif"])
def test_masks_belong_to_images_of_the_same_name(tmp_path, ending):
    """Images and masks may be of different formats; checks read the masks as training does."""
    for name in ("a", "b"):
        saved(tmp_path / f"images/{name}.jpg", Image.new("RGB", (64, 48), (200, 90, 80)))
        saved(tmp_path / f"masks/{name}{ending}", blob().convert("RGB"))
    pairs = require_pairs(tmp_path / "images", tmp_path / "masks", POLYP)
    assert [label.name for _, label in pairs] == [f"a{ending}", f"b{ending}"]
    require_meaning([label for _, label in pairs], POLYP, "train_dataloader", train=True)
    report = check_segmentation(tmp_path / "images", tmp_path / "masks", POLYP)
    assert not [finding for finding in report.findings if finding.level == "error"]
