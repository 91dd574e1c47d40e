"""``eval coco``, ``eval segmentation`` and their files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.evaluation.coco import COCO_METRICS


@pytest.fixture
def files(tmp_path):
    """Annotations of two cats and a dog, and results that find the cats alone."""
    boxes = [(1, 1, [10, 10, 40, 40]), (2, 1, [5, 5, 60, 50]), (2, 2, [80, 10, 50, 50])]
    keys = ("image_id", "category_id", "bbox")
    annotations = {
        "images": [{"id": 1, "width": 200, "height": 200}, {"id": 2, "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [dict(zip(keys, box, strict=True)) for box in boxes],
    }
    results = [{**entry, "score": 0.9} for entry in annotations["annotations"][:2]]
    for name, content in (("truth.json", annotations), ("found.json", results)):
        (tmp_path / name).write_text(json.dumps(content))
    return "--annotations", tmp_path / "truth.json", "--results", tmp_path / "found.json"


def test_figures_are_printed_and_written(cli, files, tmp_path):
    status, out, err = cli("eval", "coco", *files, "--classwise", "--out", tmp_path / "figures.json")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert set(COCO_METRICS) | {"cat", "dog"} <= rows.keys()
    assert rows["mAP"][-1] == "0.500"
    assert rows["cat"] == ["1.000", "1.000", "1.000", "1.000", "2"]
    assert rows["dog"] == ["0.000", "0.000", "0.000", "0.000", "1"]
    content = json.loads((tmp_path / "figures.json").read_text())
    assert content["metrics"]["mAP"] == pytest.approx(0.5)
    assert list(content["metrics"]) == list(COCO_METRICS)
    assert content["per_class"]["cat"]["AP"] == pytest.approx(1)
    assert content["per_class"]["dog"]["AP_large"] is None
    assert content["per_class"]["dog"]["boxes"] == 1
    assert "NaN" not in (tmp_path / "figures.json").read_text()


def test_plots_replace_plots_alone(cli, error_of, files, tmp_path):
    plots = tmp_path / "plots"
    for _ in range(2):
        status, out, err = cli("eval", "coco", *files, "--plots", plots)
        assert (status, err) == (0, "")
        assert sorted(path.name for path in plots.iterdir()) == ["confusion.png", "precision_recall.png"]
        assert f"plot: {plots / 'confusion.png'}" in out
    (plots / "confusion.png").write_text("mine")
    message = error_of("eval", "coco", *files, "--plots", plots)
    assert f"{plots / 'confusion.png'} exists, and no earlier eval wrote it" in message
    assert (plots / "confusion.png").read_text() == "mine"
    assert "cannot write" in error_of("eval", "coco", *files, "--plots", files[1])


def test_classes_are_listed_on_demand_only(cli, files):
    assert "dog" not in cli("eval", "coco", *files)[1]


@pytest.mark.parametrize(
    ("which", "content", "message"),
    [
        (1, None, "truth.json does not exist"),
        (3, None, "found.json does not exist"),
        (1, "garbage", "truth.json is not valid JSON"),
        (3, '[{"image_id": 1, "categ', "found.json is not valid JSON, or is truncated"),
        (1, "[]", "truth.json holds a JSON list, expected COCO annotations"),
        (1, '{"images": []}', "truth.json has no 'categories'"),
        (3, "{}", "found.json: expected a list of detections"),
        (3, '[{"image_id": 1}]', "found.json: entry 0 lacks category_id, bbox, score"),
        (
            3,
            '[{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
            "image_id 7 not among",
        ),
        (3, "\x80binary", "found.json is not valid JSON"),
    ],
)
def test_missing_and_garbage_files(error_of, files, which, content, message):
    if content is None:
        files[which].unlink()
    else:
        files[which].write_bytes(content.encode("latin-1"))
    assert message in error_of("eval", "coco", *files)


def test_figures_that_cannot_be_written(error_of, files, tmp_path):
    out = files[1] / "figures.json"
    assert f"cannot write {out}" in error_of("eval", "coco", *files, "--out", out)
    assert f"{tmp_path} exists, and no earlier eval" in error_of("eval", "coco", *files, "--out", tmp_path)


@pytest.mark.parametrize("which", [1, 3, "mine", '{"metrics": {"mAP": 0.5}}'])
def test_figures_replace_figures_alone(cli, error_of, files, tmp_path, which):
    """Neither the annotations nor the detections, nor another file of the user's."""
    out = tmp_path / "notes.json" if isinstance(which, str) else files[which]
    if isinstance(which, str):
        out.write_text(which)
    before = out.read_bytes()
    assert f"{out} exists, and no earlier eval wrote it" in error_of("eval", "coco", *files, "--out", out)
    assert out.read_bytes() == before
    for _ in range(2):
        assert cli("eval", "coco", *files, "--out", tmp_path / "figures.json")[0] == 0


@pytest.fixture
def label_folders(tmp_path):
    """Truth and prediction of one CamVid image: a road right, half of a car taken for a bicyclist."""
    for folder, values in (("truth", [[3, 3, 8, 8, 11]]), ("found", [[3, 3, 8, 10, 0]])):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.array(values, np.uint8)).save(tmp_path / folder / "a.png")
    return "--predictions", tmp_path / "found", "--annotations", tmp_path / "truth"


def test_segmentation_figures_are_printed_and_written(cli, label_folders, tmp_path):
    out, plots = tmp_path / "figures.json", tmp_path / "plots"
    options = "--dataset", "camvid", "--out", out, "--plots", plots
    status, printed, err = cli("eval", "segmentation", *label_folders, *options)
    assert (status, err) == (0, "")
    assert [path.name for path in plots.iterdir()] == ["confusion.png"]
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines()}
    assert rows["Road"] == ["1.0000", "1.0000", "0.5000"]
    assert rows["Car"] == ["0.5000", "0.5000", "0.5000"]
    assert rows["Sky"] == ["n/a", "n/a", "0.0000"]
    assert "category" not in rows
    content = json.loads(out.read_text())
    assert "NaN" not in out.read_text()
    assert content["metrics"] == {"mIoU": 0.5, "aAcc": 0.75, "mAcc": 0.75}
    assert content["per_class"]["Bicyclist"] == {"IoU": 0.0, "Acc": None}
    assert content["per_category"] == {}


@pytest.mark.parametrize(("ids", "stored"), [("trainIds", 13), ("labelIds", 26)])
def test_cityscapes_predictions_in_both_forms(cli, tmp_path, ids, stored):
    for name, value in (
        ("gtFine/ulm_000000_000019_gtFine_labelIds.png", 26),
        ("found/ulm_000000_000019.png", stored),
    ):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.full((2, 2), value, np.uint8)).save(tmp_path / name)
    folders = "--predictions", tmp_path / "found", "--annotations", tmp_path / "gtFine"
    status, out, err = cli(
        "eval", "segmentation", *folders, "--dataset", "cityscapes", "--prediction-ids", ids
    )
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["car"] == ["1.0000", "1.0000", "1.0000"]
    assert rows["vehicle"] == ["1.0000"]


def test_segmentation_errors(error_of, label_folders):
    command = "eval", "segmentation", *label_folders, "--dataset", "camvid"
    assert "exist for cityscapes only, camvid has trainIds" in error_of(
        *command, "--prediction-ids", "labelIds"
    )
    (label_folders[1] / "a.png").unlink()
    assert f"{label_folders[1]} has no PNG" in error_of(*command)
    (label_folders[1] / "b.png").touch()
    assert f"{label_folders[1]} has no a.png" in error_of(*command)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bbox": [9, 9, 0, 4]},
            "error: empty box (1, dropped; a detection of it counts as false): annotation",
        ),
        ({"image_id": "1"}, "warning: id of another type (1)"),
        ({"ignore": 1}, "warning: ignored box (1)"),
    ],
)
def test_boxes_that_are_dropped_or_read_otherwise_are_told(cli, files, change, message):
    content = json.loads(files[1].read_text())
    content["annotations"][0].update(change)
    files[1].write_text(json.dumps(content))
    status, _, err = cli("eval", "coco", *files)
    assert status == 0
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_references_to_nothing_are_one_error(error_of, files, key):
    content = json.loads(files[1].read_text())
    content["annotations"][0][key] = 77
    files[1].write_text(json.dumps(content))
    assert f"has {key} 77, which is not among the" in error_of("eval", "coco", *files)


def test_boxes_that_are_not_checked_are_told(cli, files):
    content = json.loads(files[1].read_text())
    for image in content["images"]:
        image["width"] = True
    files[1].write_text(json.dumps(content))
    status, _, err = cli("eval", "coco", *files)
    assert status == 0
    assert "images state no valid width and height: their boxes were not checked against the image" in err
    assert err.count("\n") == 1
