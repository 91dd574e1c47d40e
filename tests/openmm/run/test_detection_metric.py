"""The COCO metric refuses what it could not score when it learns the data set, before any prediction."""

from __future__ import annotations

import json

import pytest

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.metrics.detection import CocoDetection


@pytest.fixture
def content():
    return {
        "images": [{"id": key, "file_name": f"{key}.jpg", "width": 64, "height": 48} for key in (1, 2)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 1, 30, 30], "area": 900}],
    }


def meta(tmp_path, content, **more):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(content))
    return {"classes": ("dog", "cat"), "annotation_file": str(path), **more}


def metric(tmp_path, content, **options):
    path = tmp_path / "evaluator.json"
    path.write_text(json.dumps(content))
    return CocoDetection(str(path), **options)


def test_same_images_are_accepted(tmp_path, content):
    given = meta(tmp_path, content)
    scorer = metric(tmp_path, {**content, "images": content["images"][::-1]})
    scorer.dataset_meta = given
    assert scorer.dataset_meta == given
    scorer.dataset_meta = {"classes": ("cat",)}  # a data set that does not say where its annotations are


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"annotations": []}, ("dog", "cat"), "holds no box"),
        ({"annotations": None}, ("dog", "cat"), "'annotations' that is no list"),
        ({}, ("dog", "owl"), "lacks 'owl'"),
        (
            {"images": [{"id": 1, "file_name": "1.jpg"}]},
            ("dog", "cat"),
            "has no image 2, which the data set's",
        ),
        ({"images": [{"id": 1}, {"id": 3}]}, ("dog", "cat"), "give both the same file"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path, content, changes, classes, message):
    scorer, given = metric(tmp_path, {**content, **changes}), meta(tmp_path, content, classes=classes)
    with pytest.raises(UserError, match=message) as caught:
        scorer.dataset_meta = given
    assert str(tmp_path / "evaluator.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_format_only_needs_no_boxes(tmp_path, content):
    del content["annotations"]
    scorer = metric(tmp_path, content, format_only=True, results_file=str(tmp_path / "results.json"))
    scorer.dataset_meta = meta(tmp_path, content)
    assert scorer.compute_metrics([(1, [[1.0, 2.0, 3.0, 4.0]], [0.5], [0]), (2, [], [], [])]) == {}
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"image_id": 1, "category_id": 5, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    ]
