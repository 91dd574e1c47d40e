"""What is looked at before the first iteration: label images whose classes are hidden in ignored values."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.segmentation import (
    LABEL_SETS,
    check_segmentation,
    own_labels,
    preflight,
    require_aligned,
    require_meaning,
)
from hardnet_suite.errors import UserError


def own(classes: int, stored=None, **options):
    names, palette = [f"c{i}" for i in range(classes)], [(i, i, i) for i in range(classes)]
    return own_labels(names, palette, stored, **options)


def make(root, rows):
    """One image and label per row of stored values."""
    for index, row in enumerate(rows):
        for name in ("images", "labels"):
            (root / name).mkdir(exist_ok=True)
        Image.new("RGB", (len(row), 1)).save(root / f"images/{index}.png")
        Image.fromarray(np.array([row], np.uint8)).save(root / f"labels/{index}.png")
    return sorted((root / "labels").iterdir())


def outcome(root, labels, files, train=True):
    """The message of ``require_meaning``, None where it accepts; ``check_segmentation`` must agree."""
    report = check_segmentation(root / "images", root / "labels", labels, train=train)
    message = None
    try:
        require_meaning(files, labels, "the_loader", train=train)
    except UserError as error:
        message = str(error)
    assert [f"the_loader: {finding.what}" for finding in report.errors] == ([message] if message else [])
    return message


@pytest.mark.parametrize(
    ("labels", "rows", "cure"),
    [
        (own(2), [[0, 255]], "stored={255: 1} if 255 is that class"),
        (own(2), [[0, 0], [0, 255], [255, 255]], "stored={255: 1}"),
        (own(3), [[0, 1, 255]], "stored={255: 2} if 255 is that class, or add {255: 255} if it is not"),
        (own(2, {0: 1}), [[0, 255]], "stored={0: 1, 255: 0}"),
        (own(2, reduce_zero_label=True), [[0, 255]], "stored={0: 255, 1: 0, 2: 1, 255: 1}"),
        (own(1, ignore_index=1), [[0, 1]], "stored={1: 0}"),
        (own(2, ignore_index=1), [[0, 1]], "stored={1: 1}"),
        (own(2, ignore_index=7), [[0, 7]], "stored={7: 1}"),
        (own(1, {7: 255}), [[0, 7]], "stored={7: 0}"),
    ],
)
def test_a_class_hidden_in_ignored_pixels_is_one_error(tmp_path, labels, rows, cure):
    message = outcome(tmp_path, labels, make(tmp_path, rows))
    assert cure in message
    assert f"hold {', '.join(map(str, sorted({value for row in rows for value in row})))}," in message


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        (own(2), [[0, 1]]),
        (own(2), [[0, 0]]),
        (own(2), [[0, 255], [1, 1]]),
        (own(2, {255: 1}), [[0, 255]]),
        (own(3, {255: 255}), [[0, 1, 255]]),
        (own(3, ignore_index=2), [[0, 1, 2]]),
        (own(1), [[0, 1]]),
        (own(1, {0: 1, 255: 0}), [[0, 255]]),
        (own(1, {0: 1, 1: 0, 255: 255}), [[0, 1, 255]]),
        (LABEL_SETS["camvid"], [[0, 255]]),
        (LABEL_SETS["camvid"], [[0, 11]]),
    ],
)
def test_labels_that_mean_what_they_say_are_accepted(tmp_path, labels, rows):
    assert outcome(tmp_path, labels, make(tmp_path, rows)) is None


@pytest.mark.parametrize(
    ("classes", "row", "refused"),
    [(2, [0, 255], True), (2, [0, 1, 255], False), (2, [0, 0], False), (3, [0, 255], False)],
)
def test_data_to_score_on_may_lack_a_class_but_not_hide_it(tmp_path, classes, row, refused):
    message = outcome(tmp_path, own(classes), make(tmp_path, [row]), train=False)
    assert (message is not None) == refused


@pytest.mark.parametrize("last", [0, 1])
def test_only_a_doubt_reads_more_than_the_sample(tmp_path, monkeypatch, last):
    monkeypatch.setattr(preflight, "SAMPLE", 3)
    files = make(tmp_path, [[0, 255]] * 9 + [[0, last]])
    assert (outcome(tmp_path, own(2), files) is None) == (last == 1)
    opened = []
    monkeypatch.setattr(preflight, "read_values", lambda path, _: opened.append(path) or np.array([[0, 1]]))
    require_meaning(files, own(2), "the_loader", train=True)
    assert 0 < len(opened) <= 3


def test_unknown_values_are_named_before_the_first_iteration(tmp_path):
    with pytest.raises(UserError, match=r"labels/0\.png holds 9, which the config has no class for"):
        require_meaning(make(tmp_path, [[0, 9]]), own(2), "the_loader", train=True)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_a_label_of_another_size_is_named_before_the_first_iteration(tmp_path, suffix):
    image, label, turned = (tmp_path / name for name in ("a.jpg", f"b.{suffix}", "c.jpg"))
    Image.new("RGB", (60, 40)).save(image)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 60)).save(turned, exif=exif)  # upright, it is as wide as the other
    for size in ((60, 40), (40, 60), (59, 40)):
        Image.new("L", size).save(label)
        if size == (60, 40):
            require_aligned([(image, label), (turned, label)], "val_dataloader")
            continue
        with pytest.raises(
            UserError, match=rf"val_dataloader: the label image {label} is {size[0]}×{size[1]}"
        ):
            require_aligned([(image, label)], "val_dataloader")
