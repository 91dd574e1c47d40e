"""Annotations through ``train`` and ``test``: what scoring needs is required before the first iteration."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def change(data):
    """Changes an annotation file of the data by a function on its content; returns its path."""

    def apply(split, function):
        path = data / f"annotations/instances_{split}2017.json"
        content = json.loads(path.read_text())
        function(content)
        path.write_text(json.dumps(content))
        return path

    return apply


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda content: content["annotations"].clear(), "holds no box"),
        (lambda content: content.pop("annotations"), "has no 'annotations'"),
        (lambda content: content["images"][0].update(file_name="nope.jpg"), "nope.jpg"),
        (lambda content: content["categories"][-1].update(name="blob"), "lacks"),
    ],
    ids=["no boxes", "no annotations", "missing image", "missing class"],
)
@pytest.mark.parametrize("resume", [False, True])
def test_validation_data_are_required_before_the_first_iteration(
    error_of, change, config, data, trained, tmp_path, function, message, resume
):
    path = change("val", function)
    folder = tmp_path / "run"
    options = ["--resume", trained / "epoch_1.pth"] if resume else []
    err = error_of("train", config, "--data-root", data, "--work-dir", folder, *options)
    assert str(path) in err
    assert message in err
    assert not list(folder.rglob("*.log"))


def test_labels_do_not_depend_on_the_order_of_categories(cli, change, config, data, trained, tmp_path):
    """The same run, with the categories of both files in two other orders: the same losses and figures."""
    for split, step in (("train", -1), ("val", 2)):
        change(split, lambda content, step=step: content["categories"].sort(key=lambda c: step * c["id"] % 5))
    arguments = ["train", config, "--data-root", data, "--work-dir", tmp_path / "run", "--seed", 3]
    assert cli(*arguments)[0] == 0
    runs = []
    for folder in (trained, tmp_path / "run"):
        lines = next(folder.rglob("scalars.json")).read_text().splitlines()
        runs.append([{key: row[key] for key in row if "loss" in key} for row in map(json.loads, lines)])
    assert runs[0] == runs[1]
    assert any(runs[0])


@pytest.mark.parametrize("labelled", [True, False])
def test_format_only_saves_detections_without_scores(cli, change, config, data, trained, tmp_path, labelled):
    path = change("val", lambda content: labelled or content.pop("annotations"))
    folder = tmp_path / "run"
    arguments = ["test", config, trained, "--data-root", data, "--work-dir", folder, "--format-only"]
    status, _, err = cli(*arguments)
    assert status == 0, err
    detections = json.loads((folder / "detections.json").read_text())
    content = json.loads(path.read_text())
    assert detections
    assert {entry["image_id"] for entry in detections} <= {image["id"] for image in content["images"]}
    assert {entry["category_id"] for entry in detections} <= {entry["id"] for entry in content["categories"]}
    assert all(entry.keys() == {"image_id", "category_id", "bbox", "score"} for entry in detections)
    assert json.loads((folder / "metrics.json").read_text())["metrics"] == {}


@pytest.mark.parametrize("command", ["train", "test", "check-data"])
def test_an_evaluator_of_other_annotations_is_an_error(cli, config, data, trained, tmp_path, command):
    name = "val" if command == "train" else "test"
    path, other = data / "annotations/instances_val2017.json", data / "annotations/other.json"
    other.write_text(path.read_text())
    options = ["--data-root", data, "--cfg-options", f"{name}_evaluator.ann_file={other}"]
    arguments = {
        "train": ["train", config, "--work-dir", tmp_path / "run"],
        "test": ["test", config, trained, "--work-dir", tmp_path / "run"],
        "check-data": ["check-data", config],
    }[command]
    status, out, err = cli(*arguments, *options)
    assert status in (1, 2)
    (line,) = [line for line in (out + err).splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {name}_evaluator.ann_file is {other}, but {name}_dataloader predicts")
    assert str(path) in line
    assert not list(tmp_path.glob("run/**/*.log"))
