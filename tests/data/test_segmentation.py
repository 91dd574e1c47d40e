from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.segmentation import IGNORE, LABEL_SETS, read_label
from hardnet_suite.errors import UserError


def save(path, values, mode=None):
    image = Image.fromarray(np.asarray(values))
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_the_sets_are_whole(labels):
    assert len(labels.classes) == len(labels.palette) == len({*labels.palette}) == len({*labels.classes})
    assert {*labels.stored.values()} <= {*range(len(labels.classes)), IGNORE}
    if labels.categories:
        assert sorted(sum(labels.categories.values(), ())) == sorted(labels.classes)


def test_cityscapes_ids_become_train_labels(tmp_path):
    path = save(tmp_path / "a.png", np.array([[7, 8, 33], [0, 29, 255]], np.uint8))
    found = read_label(path, LABEL_SETS["cityscapes_ids"])
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 1, 18], [255, 255, 255]]


def test_the_table_is_cityscapesscripts(tmp_path):
    scripts = pytest.importorskip(
        "cityscapesscripts.helpers.labels", reason="cityscapesScripts not installed"
    )
    for label in scripts.labels:
        if label.id >= 0:
            assert LABEL_SETS["cityscapes_ids"].stored[label.id] == (
                label.trainId if 0 <= label.trainId < 19 else IGNORE
            )
        if 0 <= label.trainId < 19:
            labels = LABEL_SETS["cityscapes"]
            assert labels.classes[label.trainId] == label.name
            assert labels.palette[label.trainId] == label.color
            assert label.name in labels.categories[label.category]


def test_camvids_void_is_ignored(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 10, 11, 255]], np.uint8))
    assert read_label(path, LABEL_SETS["camvid"]).tolist() == [[0, 10, 255, 255]]


def test_real_pictures(shared):
    for split in ("trainannot", "valannot"):
        path = next(iter(sorted((shared / "data/camvid" / split).iterdir())))
        found = read_label(path, LABEL_SETS["camvid"])
        assert found.shape == (360, 480)
        assert {*np.unique(found)} <= {*range(11), 255}


@pytest.mark.parametrize(
    ("values", "mode", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), None, "of mode RGB"),
        (np.zeros((4, 4), np.uint16), None, "of mode I;16"),
        (np.full((4, 4), 12, np.uint8), None, "holds 12, which camvid has no class for"),
    ],
)
def test_bad_pictures_are_named(tmp_path, values, mode, message):
    path = save(tmp_path / "a.png", values, mode)
    with pytest.raises(UserError, match=message) as caught:
        read_label(path, LABEL_SETS["camvid"])
    assert str(path) in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match=r"no label picture .*a\.png"):
        read_label(tmp_path / "a.png", LABEL_SETS["camvid"])
    path = save(tmp_path / "a.png", np.zeros((40, 40), np.uint8))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot read the label picture"):
        read_label(path, LABEL_SETS["camvid"])


def test_palette_pictures_hold_indices(tmp_path):
    image = Image.fromarray(np.array([[1, 2]], np.uint8), mode="P")
    image.putpalette([value for color in LABEL_SETS["camvid"].palette for value in color])
    image.save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", LABEL_SETS["camvid"]).tolist() == [[1, 2]]
