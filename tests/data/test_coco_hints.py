"""Hints on annotations that do not fit their images: how file names are spelt, boxes given as corners."""

from __future__ import annotations

import random

import pytest

from hardnet_suite.data.coco.hints import missing_image_cure, suspect_corners
from hardnet_suite.data.coco.records import CocoBox, CocoImage


@pytest.mark.parametrize(
    ("file_name", "cure"),
    [
        (".\\1.jpg", "write file_name as '1.jpg', with / in place of"),
        ("sub\\2.png", "write file_name as 'sub/2.png'"),
        ("C:\\Users\\me\\sub\\2.png", "write file_name as 'sub/2.png'"),
        ("..\\images\\1.jpg", "write file_name as '1.jpg'"),
        ("images/1.jpg", "both contain 'images'"),
        ("data/images/1.jpg", "both contain 'data/images'"),
        ("images/sub/2.png", "both contain 'images'"),
        ("/elsewhere/images/1.jpg", "both contain '/elsewhere/images'"),
        ("1.JPG", "the folder has '1.jpg', which differs in capitals"),
        ("sub/2.Png", "the folder has '2.png', which differs in capitals"),
        ("1.png", "the folder has '1.jpg', of another suffix"),
        ("1", "the folder has '1.jpg', of another suffix"),
        ("3.jpg", "add the files, or correct"),
        ("nowhere/3.jpg", "add the files, or correct"),
        ("3\\4.jpg", "add the files, or correct"),
        ("a\0b", "add the files, or correct"),
    ],
)
def test_missing_image_cure(tmp_path, file_name, cure):
    (tmp_path / "sub").mkdir()
    for name in ("1.jpg", "sub/2.png"):
        (tmp_path / name).touch()
    assert cure in missing_image_cure(file_name, tmp_path)


def boxes_of(rows):
    return [CocoBox(None, 1, "cat", row, 1.0, False, None) for row in rows]


@pytest.mark.parametrize("seed", range(5))
def test_corners_are_suspected_only_of_corners(seed):
    rng = random.Random(seed)
    images = [CocoImage(1, "1.jpg", 128, 96)]
    rows = []
    for _ in range(20):
        x, y = rng.uniform(0, 90), rng.uniform(0, 60)
        rows.append((x, y, rng.uniform(2, 128 - x), rng.uniform(2, 96 - y)))
    assert suspect_corners(images, boxes_of(rows)) == []
    (finding,) = suspect_corners(images, boxes_of([(x, y, x + w, y + h) for x, y, w, h in rows]))
    assert (finding.level, finding.kind) == ("warning", "boxes like corners")
    assert suspect_corners([CocoImage(1, "1.jpg", None, None)], boxes_of(rows)) == []
    assert suspect_corners(images, []) == []


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_a_name_longer_than_any_path_is_not_looked_into(tmp_path, separator):
    cure = missing_image_cure(20_000 * f"a{separator}" + "x.png", tmp_path)
    assert cure == "correct file_name, which is longer than any path"
