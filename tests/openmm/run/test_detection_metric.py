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


def meta(tmp_path, name="evaluator", **more):
    return {"classes": ("dog", "cat"), "annotation_file": str(tmp_path / f"{name}.json"), **more}


def metric(tmp_path, content, **options):
    path = tmp_path / "evaluator.json"
    path.write_text(json.dumps(content))
    return CocoDetection(str(path), **options)


@pytest.mark.parametrize("name", ["evaluator", "./evaluator", "images/../evaluator", "link"])
def test_only_the_data_sets_own_file_is_accepted(tmp_path, content, name):
    """By whatever path; a copy may be changed later."""
    (tmp_path / "images").mkdir()
    scorer = metric(tmp_path, content)
    (tmp_path / "link.json").symlink_to(tmp_path / "evaluator.json")
    given = meta(tmp_path, name)
    scorer.dataset_meta = given
    assert scorer.dataset_meta == given
    (tmp_path / "copy.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"copy\.json; give both the same file"):
        scorer.dataset_meta = meta(tmp_path, "copy")
    scorer.dataset_meta = {"classes": ("cat",)}  # a data set that does not say where its annotations are


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"annotations": []}, ("dog", "cat"), "holds no box"),
        ({"annotations": None}, ("dog", "cat"), "'annotations' that is no list"),
        ({}, ("dog", "owl"), "lacks 'owl'"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path, content, changes, classes, message):
    scorer, given = metric(tmp_path, {**content, **changes}), meta(tmp_path, classes=classes)
    with pytest.raises(UserError, match=message) as caught:
        scorer.dataset_meta = given
    assert str(tmp_path / "evaluator.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_format_only_needs_no_boxes(tmp_path, content):
    del content["annotations"]
    scorer = metric(tmp_path, content, format_only=True, results_file=str(tmp_path / "results.json"))
    scorer.dataset_meta = meta(tmp_path)
    assert scorer.compute_metrics([(1, [[1.0, 2.0, 3.0, 4.0]], [0.5], [0]), (2, [], [], [])]) == {}
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"image_id": 1, "category_id": 5, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    ]
