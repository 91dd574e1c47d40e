"""What stored values mean: generated mappings, one class, reduce_zero_label and ignore_index."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image
from stored_images import tiff

from hardnet_suite.data.segmentation import (
    IGNORE,
    LABEL_SETS,
    check_segmentation,
    own_labels,
    predicted_as,
    read_label,
    write_label,
)
from hardnet_suite.data.segmentation.label_images import read_colors, read_segments, read_stored, read_values
from hardnet_suite.errors import UserError


def custom(count: int, stored=None, **options):
    classes = [f"class {index}" for index in range(count)]
    return own_labels(classes, [(index, 0, 0) for index in range(count)], stored, **options)


def save(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def mapping(seed: int) -> tuple[int, dict[int, int]]:
    """(number of classes, stored values that name every class); 255 is the first class in every other one."""
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 30))
    values = random.permutation(255)[: random.integers(count, 60)].tolist()
    if seed % 2:
        values[0] = 255
    labels = [*range(count), *random.choice([*range(count), IGNORE], len(values) - count).tolist()]
    return count, dict(zip(values, labels, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_explicit_entries_win_and_other_values_are_errors(tmp_path, seed):
    count, stored = mapping(seed)
    path, labels = tmp_path / "a.png", custom(count, stored)
    values = np.array([[*stored]])
    assert read_label(save(path, values), labels).tolist() == [[stored[value] for value in values[0]]]
    for value in sorted({*range(256)} - {*stored})[::60]:
        save(path, [[value]])
        if value == IGNORE:
            assert read_label(path, labels).tolist() == [[IGNORE]]
            continue
        with pytest.raises(UserError, match=rf"a\.png holds {value}, which the config has no class for"):
            read_label(path, labels)


@pytest.mark.parametrize("seed", range(20))
def test_written_labels_are_read_back(tmp_path, seed):
    count, stored = mapping(seed)
    labels = custom(count, stored)
    known = sorted({*labels.values.values()})
    array = np.random.default_rng(seed).choice(known, (5, 7))
    path = tmp_path / "a.png"
    write_label(path, array, labels)
    assert np.array_equal(read_label(path, labels), array)
    write_label(path, array, predicted_as(labels))
    assert np.array_equal(read_label(path, predicted_as(labels)), array)


def test_a_binary_mask_of_0_and_255(tmp_path):
    labels = custom(2, {0: 0, 255: 1})
    path = save(tmp_path / "a.png", [[0, 255]])
    assert read_label(path, labels).tolist() == [[0, 1]]
    with pytest.raises(UserError, match="stores no value for the label 255"):
        write_label(tmp_path / "b.png", np.array([[IGNORE]]), labels)


def test_classes_without_an_entry_are_stored_as_their_number(tmp_path):
    labels = custom(3, {255: 2, 9: IGNORE})
    path = save(tmp_path / "a.png", [[0, 1, 255, 9]])
    assert read_label(path, labels).tolist() == [[0, 1, 2, IGNORE]]
    with pytest.raises(UserError, match="holds 2, which"):
        read_label(save(path, [[2]]), labels)


@pytest.mark.parametrize("bits", [1, 8])
def test_images_of_one_bit_are_read_too(tmp_path, bits):
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1" if bits == 1 else "L")
    image.save(tmp_path / "a.png")
    labels = custom(2) if bits == 1 else custom(2, {0: 0, 255: 1})
    assert read_label(tmp_path / "a.png", labels).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("count", [1, 2, 3, 19, 150])
def test_reduce_zero_label_is_mmsegs(tmp_path, count):
    """0 is ignored (with one class: not of the class), k is class k − 1, 255 is ignored."""
    labels = custom(count, reduce_zero_label=True)
    path = save(tmp_path / "a.png", [[*range(count + 1), 255]])
    outside = 1 if count == 1 else IGNORE
    assert read_label(path, labels).tolist() == [[outside, *range(count), IGNORE]]
    with pytest.raises(UserError, match=f"holds {count + 1}, which"):
        read_label(save(path, [[count + 1]]), labels)


@pytest.mark.parametrize("ignored", [0, 2, 3, 17, 254])
@pytest.mark.parametrize("reduced", [False, True])
def test_ignore_index_is_ignored_besides_255(tmp_path, ignored, reduced):
    labels = custom(3, ignore_index=ignored, reduce_zero_label=reduced)
    shift = int(reduced)
    path = save(tmp_path / "a.png", [[0 + shift, 1 + shift, 2 + shift, ignored + shift, 255]])
    expected = [IGNORE if label == ignored else label for label in (0, 1, 2)]
    assert read_label(path, labels).tolist() == [[*expected, IGNORE, IGNORE]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stored": {1: 0}, "reduce_zero_label": True}, "both reduce_zero_label and stored"),
        ({"stored": {7: 1}, "ignore_index": 7}, r"ignore_index=7, but stored=\{7: 1\}"),
        ({"ignore_index": -1}, "ignore_index=-1, expected an integer from 0 to 255"),
        ({"ignore_index": 256}, "ignore_index=256, expected"),
        ({"ignore_index": None}, "ignore_index=None, expected"),
        ({"stored": [0, 1]}, r"stored=\[0, 1\], expected a dict"),
        ({"stored": {True: 0}}, r"stored=\{True: 0\}"),
        ({"stored": {0: 1.0}}, r"stored=\{0: 1\.0\}"),
        ({"stored": {0: "class 0"}}, r"stored=\{0: 'class 0'\}"),
        ({"stored": {-1: 0}}, r"stored=\{-1: 0\}"),
        ({"stored": {0: 254}}, r"stored=\{0: 254\}"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        custom(2, **options)


@pytest.mark.parametrize(
    ("classes", "palette", "message"),
    [
        ("road", [(1, 2, 3)] * 4, "the string 'road'"),
        (("a", 1), [(1, 2, 3)] * 2, "contains 1"),
        (("a", "a"), [(1, 2, 3)] * 2, "'a' twice"),
        (("a", "b"), [(1, 2, 3)], "2 classes, but 1 color"),
        (("a", "b"), "red", "palette='red', expected a list of 2"),
        (("a", "b"), [(1, 2, 3), "red"], "the color 'red'"),
        (("a", "b"), [(1, 2, 3), (1, 2)], r"the color \(1, 2\)"),
        (("a", "b"), [(1, 2, 3), (1, 2, 256)], r"the color \(1, 2, 256\)"),
        (("a", "b"), [(1, 2, 3), (0.1, 0.2, 0.3)], r"the color \(0\.1, "),
        (("a", "b"), [(1, 2, 3), (True, 2, 3)], r"the color \(True, "),
    ],
)
def test_classes_and_palettes_that_cannot_be(classes, palette, message):
    with pytest.raises(UserError, match=message):
        own_labels(classes, palette)


ONE_CLASS = [  # stored, {value: train label}: 0 the class, 1 not of it, 255 ignored
    (None, {0: 1, 1: 0}),
    ({255: 0}, {0: 1, 255: 0}),
    ({0: 1, 255: 0}, {0: 1, 255: 0}),
    ({0: 255, 255: 0}, {0: 1, 255: 0}),  # nothing else to tell the class from
    ({0: 255, 1: 0}, {0: 1, 1: 0, 255: 255}),
    ({1: 0}, {0: 1, 1: 0, 255: 255}),
    ({0: 1, 1: 0, 255: 255}, {0: 1, 1: 0, 255: 255}),
    ({255: 255}, {0: 1, 1: 0, 255: 255}),
    ({7: 0, 0: 255, 3: 1}, {7: 0, 0: 255, 3: 1, 255: 255}),
    ({0: 0, 255: 1}, {0: 0, 255: 1}),
]


@pytest.mark.parametrize(("stored", "meanings"), ONE_CLASS)
def test_one_class(tmp_path, stored, meanings):
    labels = custom(1, stored)
    array = read_label(save(tmp_path / "a.png", [[*meanings]]), labels)
    assert array.tolist() == [[*meanings.values()]]
    for value in sorted({*range(256)} - {*meanings})[::50]:
        with pytest.raises(UserError, match=rf"a\.png holds {value}, which"):
            read_label(save(tmp_path / "a.png", [[value]]), labels)
    write_label(tmp_path / "b.png", array, labels)
    assert read_label(tmp_path / "b.png", labels).tolist() == array.tolist()


def test_255_in_a_mask_of_one_class_is_never_dropped_silently(tmp_path):
    path = save(tmp_path / "a.png", [[0, 255]])
    with pytest.raises(UserError, match=r"holds 255, which may be the class or ignored: set stored=\{0: 1,"):
        read_label(path, custom(1))


def test_one_class_needs_something_to_tell_it_from():
    with pytest.raises(UserError, match=r"stored=\{0: 0\} leaves no value for pixels that are not of it"):
        custom(1, {0: 0})


def test_only_one_class_has_a_background():
    assert [custom(count).background for count in (1, 2, 3)] == [1, None, None]
    assert LABEL_SETS["camvid"].background is None
    array = np.array([[0, 1, IGNORE]])
    assert custom(1).hide_background(array).tolist() == [[0, IGNORE, IGNORE]]
    assert custom(1).show_background(array).tolist() == [[0, 1, 1]]
    assert custom(2).hide_background(array) is array
    assert custom(2).show_background(array) is array


def test_predictions_of_one_class_are_0_and_255(tmp_path):
    path = save(tmp_path / "a.png", [[0, 255]])
    assert read_label(path, predicted_as(custom(1, {1: 0}))).tolist() == [[0, 1]]


def pair(tmp_path, values):
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", np.shape(values)[::-1]).save(tmp_path / "in/a.png")
    save(tmp_path / "out/a.png", values)
    return tmp_path / "in", tmp_path / "out"


def test_check_counts_the_background_of_one_class(tmp_path):
    report = check_segmentation(*pair(tmp_path, [[0, 0, 255, 9]]), custom(1, {255: 0, 9: 255}))
    assert (report.pixels, report.background, report.ignored) == ({"class 0": 1}, 2, 1)
    assert report.findings == ()
    assert "(background)        50.0%" in report.table()


def test_check_refuses_255_where_it_hides_a_class(tmp_path):
    (finding,) = check_segmentation(*pair(tmp_path, [[0, 255]]), custom(2)).findings
    assert (finding.level, finding.kind, finding.where) == ("error", "class without pixels", "class 1")
    assert "hold 0, 255, of which 255 is ignored; set stored={255: 1} if 255 is that class" in finding.what


@pytest.mark.parametrize("bits", [2, 4])
def test_a_tiff_of_few_bits_holds_the_numbers_that_it_stores(tmp_path, bits):
    values = np.arange(6 * 10).reshape(6, 10) % 2**bits
    (tmp_path / "a.tif").write_bytes(tiff(values, bits))
    np.testing.assert_array_equal(read_stored(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_tiff_whose_0_is_white_is_refused(tmp_path, bits):
    """Pillow and OpenCV invert it, programs for maps do not."""
    values = np.arange(4)[None]
    (tmp_path / "a.tif").write_bytes(tiff(values, bits, photometric=0))
    with pytest.raises(UserError, match=r"a\.tif: its lowest value is white .*; save it as PNG$"):
        read_stored(tmp_path / "a.tif")
    mask = read_values(
        tmp_path / "a.tif", own_labels(["mask"], [(9, 9, 9)], mask_threshold=128)
    )  # as it is displayed
    assert mask[0, 0] == 255


def test_a_tiff_of_one_bit_is_read_as_it_is_displayed(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.array([[0, 1]]), 1, photometric=0))
    assert read_stored(tmp_path / "a.tif").tolist() == [[1, 0]]


@pytest.mark.parametrize("highest", [1, 3, 49, 100, 149, 254, 255])
@pytest.mark.parametrize("form", ["P2", "P5"])
def test_a_greymap_holds_the_numbers_that_it_stores(tmp_path, form, highest):
    """Pillow scales them to 0…255."""
    values = np.arange(highest + 1)
    content = values.astype(np.uint8).tobytes() if form == "P5" else " ".join(map(str, values)).encode()
    (tmp_path / "a.pgm").write_bytes(f"{form}\n{len(values)} 1\n{highest}\n".encode() + content)
    np.testing.assert_array_equal(read_stored(tmp_path / "a.pgm"), values[None])


def test_a_pixmap_holds_the_ids_that_it_stores(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6\n2 1\n7\n" + bytes([1, 2, 0, 7, 0, 1]))
    assert read_segments(tmp_path / "a.ppm").tolist() == [[1 + 256 * 2, 7 + 256**2]]
    assert read_colors(tmp_path / "a.ppm").tolist() == [[[36, 73, 0], [255, 0, 36]]]  # as it is displayed


@pytest.mark.parametrize("name", ["a.ppm", "b.ppm", "a.png", "a.pgm"])
def test_label_images_of_16_bits_are_refused(tmp_path, name):
    """Pillow keeps the upper 8 bits of colors."""
    values = np.array([[[1, 2, 0], [7, 0, 1]]], np.uint16)
    if name == "a.png":
        cv2.imwrite(str(tmp_path / name), values)
    else:
        form, highest = ("P5", 999) if name == "a.pgm" else ("P6", 65535 if name == "a.ppm" else 999)
        content = values[..., 0] if form == "P5" else values
        head = f"{form}\n2 1\n{highest}\n".encode()
        (tmp_path / name).write_bytes(head + content.astype(">u2").tobytes())
    for read in (read_stored, read_segments, read_colors):
        with pytest.raises(UserError, match=r"is of mode (RGB;16|I|I;16), expected"):
            read(tmp_path / name)


def test_what_is_no_image_is_told_by_its_path(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(UserError, match=r"a\.png: it is not an image; replace the file$"):
        read_stored(tmp_path / "a.png")
