"""Panoptic annotations: what breaks a rule is one clear error, and check-data lists all of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.panoptic import check_panoptic, read_label_image, read_panoptic, segment_colors
from hardnet_suite.data.shapes import SHAPES, draw_scene, write_shapes
from hardnet_suite.errors import UserError

SIZE = 96
CLASSES = (*SHAPES, "ground")


@pytest.fixture
def drawn(tmp_path) -> Path:
    return write_shapes(tmp_path / "set", train=2, val=1, size=SIZE, seed=2)


def changed(drawn: Path, change) -> Path:
    path = drawn / "annotations" / "panoptic_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_drawn_annotations_are_the_scenes(drawn):
    content = read_panoptic(drawn / "annotations" / "panoptic_train2017.json").require_annotated()
    content.require_classes(SHAPES, ("ground",))
    scene = draw_scene(2, 0, SIZE)
    segments = content.segments[1]
    assert [segment.category for segment in segments] == [
        *(SHAPES[label] for label in scene.labels),
        "ground",
    ]
    folder = drawn / "annotations" / "panoptic_train2017"
    ids = read_label_image(folder / content.label_names[1], [segment.id for segment in segments])
    for segment, mask in zip(segments, [*scene.masks, scene.semantic == 0], strict=True):
        np.testing.assert_array_equal(ids == segment.id, mask)
    raw = json.loads((drawn / "annotations" / "panoptic_train2017.json").read_text())
    for info, mask in zip(raw["annotations"][0]["segments_info"], scene.masks, strict=False):
        rows, columns = np.nonzero(mask)
        assert info["area"] == len(rows)
        x, y, width, height = info["bbox"]
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_large_ids_survive_the_colours(tmp_path):
    ids = np.array([[0, 1, 255], [256, 65_536, 256**3 - 1]])
    Image.fromarray(segment_colors(ids)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label_image(tmp_path / "a.png", ids.ravel().tolist()[1:]), ids)


def first(content) -> dict:
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: first(c).update(image_id=7), "has image_id 7, which is not among the images"),
        (lambda c: first(c).update(file_name=3), "lacks a valid file_name"),
        (lambda c: first(c).update(segments_info={}), "lacks a valid segments_info"),
        (
            lambda c: first(c)["segments_info"][0].update(id=0),
            "has the segment id 0, expected an integer from 1",
        ),
        (lambda c: first(c)["segments_info"][0].update(id=2), "has the segment id 2 twice"),
        (lambda c: first(c)["segments_info"][0].update(id=256**3), "expected an integer from 1 to 16777215"),
        (lambda c: first(c)["segments_info"][0].update(category_id=99), "has category_id 99 of segment 1"),
        (lambda c: first(c)["segments_info"][0].update(iscrowd="maybe"), "has iscrowd 'maybe' of segment 1"),
        (lambda c: c["annotations"].append(first(c)), "occurs twice"),
        (lambda c: c["annotations"].pop(), "image 2 has no annotation"),
        (lambda c: c["categories"][0].pop("isthing"), "category 1 has isthing None"),
        (lambda c: c["categories"][0].update(isthing=2), "category 1 has isthing 2"),
        (lambda c: c["categories"][0].update(name="star"), "category name star occurs 2 times"),
        (lambda c: c["categories"][0].update(id=2), "category id 2 occurs 2 times"),
        (lambda c: c["images"][0].update(id=2), "image id 2 occurs 2 times"),
        (lambda c: c.pop("annotations"), "has no 'annotations'"),
        (lambda c: c.pop("categories"), "has no 'categories'"),
        (
            lambda c: [
                info.update(iscrowd=1) for entry in c["annotations"] for info in entry["segments_info"]
            ],
            "holds no segment that is not a crowd",
        ),
    ],
)
def test_what_breaks_a_rule_is_an_error(drawn, change, message):
    path = changed(drawn, change)
    with pytest.raises(UserError, match=message) as caught:
        read_panoptic(path).require_annotated()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_ids_of_another_type_are_matched(drawn, key):
    def change(content):
        entry = first(content) if key == "image_id" else first(content)["segments_info"][0]
        entry[key] = str(entry[key])

    assert len(read_panoptic(changed(drawn, change)).require_annotated().segments) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image: image.convert("L"), "is of mode L, expected RGB"),
        (lambda image: image.convert("RGBA"), "is of mode RGBA, expected RGB"),
        (
            lambda image: Image.new("RGB", image.size, (9, 9, 9)),
            "has pixels of segment 592137, which segments_info",
        ),
        (
            lambda image: Image.new("RGB", image.size, (1, 0, 0)),
            "has no pixel of segment 2, which segments_info",
        ),
    ],
)
def test_a_label_image_with_other_ids_is_an_error(drawn, spoil, message):
    path = drawn / "annotations" / "panoptic_train2017" / "000000000001.png"
    with Image.open(path) as image:
        spoilt = spoil(image)
    spoilt.save(path)
    content = read_panoptic(drawn / "annotations" / "panoptic_train2017.json")
    with pytest.raises(UserError, match=message):
        read_label_image(path, [segment.id for segment in content.segments[1]])
    report = check_panoptic(content, drawn / "train2017", path.parent, CLASSES)
    assert [finding.where for finding in report.errors] == ["image 1"]
    assert "error" in report.table().lower()


def test_a_look_at_the_files(drawn):
    content = read_panoptic(drawn / "annotations" / "panoptic_train2017.json")
    folder = drawn / "annotations" / "panoptic_train2017"
    report = check_panoptic(content, drawn / "train2017", folder, (*CLASSES, "owl"))
    assert [finding.what for finding in report.errors] == [
        "is to be trained, but no category of the file has this name"
    ]
    assert report.void == 0
    assert sum(report.per_class.values()) == sum(map(len, content.segments.values()))
    (folder / "000000000001.png").unlink()
    Image.new("RGB", (8, 8)).save(folder / "000000000002.png")
    problems = [
        finding.what for finding in check_panoptic(content, drawn / "train2017", folder, CLASSES).errors
    ]
    assert "no label image" in problems[0]
    assert "is 8×8 pixels, its image" in problems[1]
    (drawn / "train2017" / "000000000001.jpg").unlink()
    assert "no file" in check_panoptic(content, drawn / "train2017", folder, CLASSES).errors[0].what


def test_a_drawn_set_of_an_older_version_is_an_error(drawn):
    (drawn / "annotations" / "panoptic_val2017.json").unlink()
    with pytest.raises(UserError, match=r"is damaged \(no annotations/panoptic_val2017\.json\)"):
        write_shapes(drawn, train=2, val=1, size=SIZE, seed=2)
