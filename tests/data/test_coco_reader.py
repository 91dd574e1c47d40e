"""The records of a COCO file: parsed once, never changed, masks checked before anything decodes them."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from hardnet_suite.data.coco import layout, read_coco, reader
from hardnet_suite.data.coco.masks import _decode_counts, _extent, mask_json, read_mask
from hardnet_suite.data.coco.values import as_flag, as_id, match_id
from hardnet_suite.errors import UserError


def content(**entry):
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{**box, **entry}],
    }


def test_records():
    file = read_coco(content())
    assert file.images == ((1, "1.jpg", 64, 48),)
    assert file.categories == ((1, "cat", None),)
    assert file.boxes == ((1, 1, "cat", (4, 4, 20, 20), 400, False, None),)
    assert (file.annotations, file.findings, file.fatal) == (1, (), ())
    assert file.boxes_of_image == {1: file.boxes}
    assert file.require_boxes().require_classes(["cat"]) is file
    assert read_coco(file) is file


@pytest.mark.parametrize(
    ("used", "groups", "chosen"),
    [
        (7, ("none", "cat"), 7),
        (3, ("none", "cat"), 3),
        (None, ("none", "cat"), 7),
        (None, ("cat", "none"), 3),
        (None, (None, "cat"), None),
        (None, ("pet", "cat"), None),
        (None, ("cat", "cat"), None),
        (None, ("none", "none"), None),
        (None, (None, None), None),
    ],
)
def test_two_categories_of_one_name(used, groups, chosen):
    """Of Roboflow's files, the group may be called like the class; a test set may not use either."""
    data = content(category_id=used or 5)
    data["categories"] = [
        {"id": 5, "name": "dog"},
        *(
            {"id": key, "name": "cat", "supercategory": group}
            for key, group in zip((3, 7), groups, strict=True)
        ),
    ]
    file = read_coco(data)
    if chosen is None:
        with pytest.raises(UserError, match="category name cat belongs to the ids 3 and 7"):
            file.require()
    else:
        assert file.require().category_ids == {"dog": 5, "cat": chosen}
        assert [finding.kind for finding in file.findings] == ["unused category"]


def test_a_file_is_parsed_once_until_it_changes(tmp_path, monkeypatch):
    path, link = tmp_path / "a.json", tmp_path / "link.json"
    path.write_text(json.dumps(content()))
    link.symlink_to(path)
    reads = []
    monkeypatch.setattr(reader, "read_json", lambda source: reads.append(source) or layout.read_json(source))
    first = read_coco(path)
    assert read_coco(str(path)) is first
    other = read_coco(link)
    assert (other.source, other.boxes) == (str(link), first.boxes)
    assert len(reads) == 1
    path.write_text(json.dumps(content(bbox=[5, 4, 20, 20])))
    os.utime(path, ns=(1, 1))
    assert read_coco(path).boxes[0].bbox == (5, 4, 20, 20)
    assert len(reads) == 2
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        read_coco(path)


def test_records_cannot_be_changed():
    mask = [[4, 4, 24, 4, 24, 24]]
    given_content = content(segmentation=mask)
    file = read_coco(given_content)
    given_content["annotations"][0]["bbox"][0] = 99
    mask[0][0] = 99
    assert file.boxes[0].bbox[0] == 4
    assert mask_json(file.boxes[0].segmentation) == [[4, 4, 24, 4, 24, 24]]
    with pytest.raises(ValueError, match="read-only"):
        file.boxes[0].segmentation[0][0] = 99
    with pytest.raises(AttributeError):
        file.boxes[0].area = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(value, value) for value in (0, 7, -3, 10**20, "7", "a/b")],
        *[(7.0, 7), (np.int64(7), 7), (np.float32(7), 7)],
        *[
            (value, None)
            for value in (True, False, np.True_, 7.5, float("nan"), float("inf"), None, "", [7], {})
        ],
    ],
)
def test_ids(value, expected):
    assert (as_id(value), type(as_id(value))) == (expected, type(expected))


@given(st.one_of(st.integers(), st.text(min_size=1)), st.booleans())
@settings(derandomize=True, max_examples=60, deadline=None)
def test_a_reference_matches_its_id_in_either_type(key, as_text):
    assert match_id(str(key) if as_text else key, {str(key): key}) == key


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(value, False) for value in (None, 0, 0.0, False, "0", "false", "No", np.int64(0), np.False_)],
        *[(value, True) for value in (1, 1.0, True, "1", "1.0", "yes", " TRUE ", np.int64(1))],
        *[(value, None) for value in (2, -1, 0.5, "", "maybe", [], [0], {}, float("nan"))],
    ],
)
def test_flags(value, expected):
    if value is np.False_:
        value = bool(value)
    assert as_flag(value) is expected


def encoded(height=48, width=64, **more):
    pixels = np.zeros((height, width), np.uint8, order="F")
    pixels[4:24, 4:24] = 1
    code = coco_mask.encode(pixels)
    return {"size": code["size"], "counts": code["counts"].decode(), **more}


RUNS = {"size": [48, 64], "counts": [100, 20, 48 * 64 - 120]}
POLYGON = [4, 4, 24, 4, 24, 24, 4, 24]


@pytest.mark.parametrize("mask", [[POLYGON], [POLYGON, [1, 1, 3, 1, 3.5, 9]], RUNS, encoded()])
def test_good_masks(mask):
    file = read_coco(content(segmentation=mask))
    assert file.findings == ()
    assert mask_json(file.boxes[0].segmentation) == mask


@pytest.mark.parametrize("mask", [None, [], {}, ""])
def test_no_mask(mask):
    file = read_coco(content(segmentation=mask))
    assert file.findings == ()
    assert file.boxes[0].segmentation is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (POLYGON, "a flat list of numbers"),
        ([np.reshape(POLYGON, (-1, 2)).tolist()], "not a flat list of numbers"),
        ([POLYGON[:-1]], "a polygon of 7 numbers, expected an even count"),
        ([POLYGON[:4]], "a polygon of 4 numbers, expected at least 6"),
        ([[]], "a polygon of 0 numbers"),
        ([[str(value) for value in POLYGON]], "not a flat list of numbers"),
        ([[None] * 8], "not a flat list of numbers"),
        ([[float("nan")] * 8], "NaN or infinity"),
        ([[*POLYGON[:-1], float("inf")]], "NaN or infinity"),
        ([[10**400] * 8], "not a flat list of numbers"),
        ([[{"x": 1, "y": 2}]], "not a flat list of numbers"),
        ([{"x": 1, "y": 2}], "not a flat list of numbers"),
        ([None], "not a flat list of numbers"),
        ([RUNS], "a run-length encoding in a list"),
        ("RLE:abc", "a str, expected polygons"),
        (7, "a int, expected polygons"),
        ({"counts": [3072]}, "size None"),
        ({"size": [48, 64]}, "counts of type NoneType"),
        ({**RUNS, "size": [64, 48]}, r"size \[64, 48\], expected the image's \[height, width\], \[48, 64\]"),
        ({**RUNS, "size": [48]}, r"size \[48\]"),
        ({**RUNS, "size": ["48", "64"]}, "size .*expected"),
        ({**RUNS, "counts": [10, 5]}, "add up to 15"),
        ({**RUNS, "counts": [-8, 3080]}, "not integers from 0"),
        ({**RUNS, "counts": [1.5, 3070.5]}, "not integers from 0"),
        ({**RUNS, "counts": ["3072"]}, "not integers from 0"),
        ({**RUNS, "counts": 3072}, "counts of type int"),
        (encoded(96, 64), "size"),
        (encoded(96, 64, size=[48, 64]), "add up to 6144"),
        (encoded(counts="hello world"), "damaged"),
        (encoded(counts=encoded()["counts"][:-2]), "add up|truncated"),
        (encoded(counts="P\\m0"), "add up|truncated|not integers"),
        (encoded(counts="o" * 90), "damaged"),
    ],
)
def test_bad_masks_are_dropped_and_told(mask, message):
    file = read_coco(content(segmentation=mask))
    (box,) = file.boxes
    assert box.segmentation is None
    (finding,) = file.findings
    assert (finding.level, finding.kind) == ("error", "invalid mask")
    assert finding.where == "annotation 1 of image 1"
    with pytest.raises(ValueError, match=message):
        read_mask(mask, (48, 64))


@pytest.mark.parametrize("rings", [[POLYGON, []], [[], POLYGON], [[], POLYGON, [], [1, 1, 9, 1, 9, 9]]])
def test_empty_rings_leave_the_others(rings):
    file = read_coco(content(segmentation=rings))
    assert file.findings == ()
    assert mask_json(file.boxes[0].segmentation) == [ring for ring in rings if ring]


def runs_of(rows, columns):
    pixels = np.zeros((48, 64), np.uint8, order="F")
    pixels[rows, columns] = 1
    flat = pixels.reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return {"size": [48, 64], "counts": np.diff([0, *edges, flat.size]).tolist()}


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[value / 64 for value in POLYGON]], "normalised"),
        ([[value + 30 for value in POLYGON]], "does not meet its box"),
        ([[value - 40 for value in POLYGON]], "does not meet its box"),
        ([POLYGON, [1e30, 1, 1, 1, 1, 9]], "the coordinate 1e[+]30"),
        ([POLYGON, [1, 1, 1, -1e7, 1, 9]], "the coordinate -1e[+]07"),
        (runs_of(slice(30, 40), slice(4, 24)), "does not meet its box"),
        (runs_of(slice(4, 24), slice(30, 50)), "does not meet its box"),
        (runs_of(slice(0, 48), slice(30, 50)), "does not meet its box"),
        ({"size": [48, 64], "counts": [48 * 64]}, "no pixel"),
        ([[value + 10 for value in POLYGON]], None),
        (runs_of(slice(20, 40), slice(20, 60)), None),
        (runs_of(slice(0, 48), slice(0, 64)), None),
    ],
)
def test_masks_belong_to_their_boxes(mask, message, sized):
    given_content = content(segmentation=mask)
    if not sized:
        del given_content["images"][0]["width"]
    file = read_coco(given_content)
    (box,) = file.boxes
    findings = [finding for finding in file.findings if finding.kind == "invalid mask"]
    assert (box.segmentation is None) == bool(findings) == (message is not None)
    assert not findings or re.search(message, findings[0].what)


@given(st.integers(0, 2**32 - 1))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_the_extent_of_an_encoding_is_that_of_its_pixels(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 30, 2)
    pixels = np.asfortranarray(rng.random(shape) < rng.random() ** 3, np.uint8)
    code = coco_mask.encode(pixels)
    x, y = _extent({"size": code["size"], "counts": code["counts"].decode()})
    rows, columns = np.nonzero(pixels)
    assert len(x) == len(y) == 2 * bool(len(rows))
    if len(rows):
        assert x.tolist() == [columns.min(), columns.max() + 1]
        # a column that runs into the next one covers its whole height
        assert (y[0], y[1]) in {(rows.min(), rows.max() + 1), (0, shape[0])}


@pytest.mark.parametrize("box", [[4, 4, 1e30, 9], [-1e30, 4, 1e30, 9], [4, 700, 9, 9], [4, 4, 9, 641]])
def test_boxes_far_beyond_the_image_are_invalid(box):
    file = read_coco(
        {
            **content(),
            "annotations": [*content()["annotations"], {**content()["annotations"][0], "id": 2, "bbox": box}],
        }
    )
    assert len(file.boxes) == 1
    assert [(finding.kind, finding.where) for finding in file.findings] == [
        ("invalid box", "annotation 2 of image 1")
    ]


@given(st.integers(0, 2**32 - 1))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_compressed_counts_are_read_as_pycocotools_does(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 200, 2)
    pixels = np.asfortranarray(rng.random(shape) < rng.random() ** 3, np.uint8)
    runs = _decode_counts(coco_mask.encode(pixels)["counts"].decode())
    values = np.arange(len(runs)) % 2
    np.testing.assert_array_equal(np.repeat(values, runs).reshape(shape, order="F"), pixels)


@given(st.text(alphabet=[chr(code) for code in range(40, 120)], max_size=30))
@settings(derandomize=True, max_examples=200, deadline=None)
def test_what_passes_is_decoded_and_the_rest_is_refused(text):
    """pycocotools' decoder writes past its buffer for counts that do not fit."""
    try:
        mask = read_mask({"size": [8, 8], "counts": text}, (8, 8))
    except ValueError:
        return
    if mask is not None:
        assert coco_mask.decode(mask_json(mask)).shape == (8, 8)
