"""Mask R-CNN and panoptic Mask2Former on HarDNet through the command line, on drawn shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_configs import MASK2FORMER, MASK_RCNN, write_config
from PIL import Image

from hardnet_suite.cli import main
from hardnet_suite.data.shapes import write_shapes

CONFIGS = {"masks": MASK_RCNN, "panoptic": MASK2FORMER}
FIRST = "train_dataloader.update(batch_size=2)"


@pytest.fixture(scope="module", params=CONFIGS)
def run(request, drawn, tmp_path_factory) -> tuple[str, Path, Path]:
    """(kind, config, work dir) of a run of one epoch of two iterations."""
    folder = tmp_path_factory.mktemp(request.param)
    config = write_config(folder / "small.py", CONFIGS[request.param], FIRST)
    arguments = ["train", config, "--data-root", drawn, "--work-dir", folder / "run"]
    assert main([str(argument) for argument in arguments]) == 0
    return request.param, config, folder / "run"


def test_train_scores_saves_and_draws(run, drawn, cli, tmp_path):
    kind, config, work_dir = run
    status, out, err = cli(
        "test", config, "--data-root", drawn, "--work-dir", work_dir, "--show-dir", tmp_path
    )
    assert status == 0, out + err
    figures = json.loads((work_dir / "metrics.json").read_text())["metrics"]
    names = {
        "masks": ("coco/bbox_mAP", "coco/segm_mAP"),
        "panoptic": ("coco/PQ", "coco/PQ_things", "coco/PQ_stuff"),
    }
    assert all(0 <= figures[name] <= 1 for name in names[kind])
    (best,) = work_dir.glob("best_*.pth")
    assert {"masks": "segm_mAP", "panoptic": "PQ"}[kind] in best.name
    drawings = sorted(tmp_path.glob("*.jpg"))
    assert len(drawings) == 3
    with Image.open(drawings[0]) as drawing:
        assert drawing.width >= 2 * 96
    if kind == "panoptic":
        answers = json.loads((work_dir / "panoptic.json").read_text())["annotations"]
        assert len(answers) == 3
        for answer in answers:
            pixels = np.asarray(Image.open(work_dir / "panoptic" / answer["file_name"])).astype(int)
            ids = set(np.unique(pixels @ [1, 256, 256**2]).tolist()) - {0}
            assert ids == {info["id"] for info in answer["segments_info"]}
    else:
        for found in json.loads((work_dir / "detections.json").read_text()):
            assert found["segmentation"]["size"] == [96, 96]


def test_resume_and_options(run, drawn, cli):
    _, config, work_dir = run
    place = "--data-root", drawn, "--work-dir", work_dir
    status, out, err = cli("train", config, *place, "--resume", "--cfg-options", "train_cfg.max_epochs=2")
    assert status == 0, out + err
    assert "resumes after iteration 2 of 4" in out + err
    assert (work_dir / "epoch_2.pth").is_file()


def test_predictions_without_annotations(run, drawn, cli, tmp_path):
    """As a test server's images have none."""
    kind, config, work_dir = run
    status, out, err = cli(
        *("test", config, work_dir / "epoch_1.pth", "--data-root", drawn, "--work-dir", tmp_path / "w"),
        *("--format-only", "--show-dir", tmp_path / "drawings"),
    )
    assert status == 0, out + err
    assert (tmp_path / "w" / {"masks": "detections.json", "panoptic": "panoptic.json"}[kind]).is_file()
    assert len(list((tmp_path / "drawings").glob("*.jpg"))) == 3


def test_predict_says_what_runs_them(run, drawn, cli):
    _, config, work_dir = run
    for model in (config, work_dir / "epoch_1.pth", work_dir):
        status, _, err = cli("predict", drawn / "val2017", "--model", model)
        (message,) = [line for line in err.splitlines() if not line.startswith("config: ")]
        assert status == 2
        assert message.startswith("error: ")
        assert "model of another program" in message
        assert "test CONFIG --show-dir DIR" in message


@pytest.mark.parametrize("command", ["predict", "export", "benchmark", "serve"])
def test_other_commands_name_themselves(command, tmp_path, cli):
    config = write_config(tmp_path / "c.py", MASK_RCNN)
    (tmp_path / "images").mkdir()
    arguments = {
        "predict": (tmp_path / "images", "--model", config, "--out", tmp_path / "out"),
        "export": ("--model", config, "--out", tmp_path / "c.onnx"),
        "benchmark": (config,),
        "serve": ("--model", config),
    }
    status, _, err = cli(command, *arguments[command])
    (message,) = [line for line in err.splitlines() if not line.startswith("config: ")]
    assert status == 2
    assert f"error: {config} is the config of a MaskRCNN, a model of another program" in message
    assert command in message.partition("another program: ")[2].partition(" are for the suite's own")[0]


def test_arch_is_not_an_option_of_them(run, drawn, error_of, tmp_path):
    _, config, _ = run
    place = "--data-root", drawn, "--work-dir", tmp_path
    assert "takes no arch" in error_of("train", config, *place, "--cfg-options", "arch=hardnet39ds")


@pytest.mark.parametrize("name", CONFIGS)
def test_another_number_of_classes_is_an_error(name, drawn, error_of, tmp_path):
    key = {"masks": "classes", "panoptic": "thing_classes"}[name]
    dataset = (
        f"{{**train_dataloader['dataset'], 'metainfo': {{**drawn['metainfo'], '{key}': ('ring', 'cross')}}}}"
    )
    config = write_config(tmp_path / "c.py", CONFIGS[name], f"train_dataloader['dataset'] = {dataset}")
    message = error_of("train", config, "--data-root", drawn, "--work-dir", tmp_path / "w")
    option = {"masks": "num_classes=6", "panoptic": "num_things_classes=6"}[name]
    assert f"the model has {option}, but train_dataloader has 2 classes" in message


@pytest.mark.parametrize("mask", [None, [], [[1, 2, 3]]])
def test_a_box_without_a_mask_is_an_error(mask, data, error_of, tmp_path):
    path = data / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["segmentation"] = mask
    path.write_text(json.dumps(content))
    config = write_config(tmp_path / "c.py", MASK_RCNN)
    message = error_of("train", config, "--data-root", data, "--work-dir", tmp_path / "w")
    assert "boxes have no valid mask ('segmentation'), which LoadAnnotations(with_mask=True) needs" in message
    assert f"annotation {content['annotations'][1]['id']} of image 1" in message


def test_masks_that_mmdet_would_drop_are_an_error(data, error_of, tmp_path):
    more = (
        "train_pipeline[1].update(poly2mask=False)\ntrain_dataloader['dataset']['pipeline'] = train_pipeline"
    )
    config = write_config(tmp_path / "c.py", MASK_RCNN, more)
    message = error_of("train", config, "--data-root", data, "--work-dir", tmp_path / "w")
    assert "are run-length encodings" in message
    assert "remove poly2mask=False" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "figure", "least", "epochs", "images"),
    [("masks", "coco/segm_AP50", 0.05, 15, 120), ("panoptic", "coco/PQ", 0.1, 25, 120)],
)
def test_they_learn(name, figure, least, epochs, images, cli, tmp_path):
    """A small trunk from random weights, on few images: far from the configs, and from chance."""
    data = write_shapes(tmp_path / "data", train=images, val=12, size=128)
    config = write_config(
        tmp_path / "c.py", CONFIGS[name], f"train_cfg = dict(max_epochs={epochs}, val_interval={epochs})"
    )
    place = "--data-root", data, "--work-dir", tmp_path / "w"
    assert cli("train", config, *place)[0] == 0
    (log,) = (tmp_path / "w").glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert cli("test", config, *place)[0] == 0
    assert json.loads((tmp_path / "w" / "metrics.json").read_text())["metrics"][figure] > least


def test_bfloat16_is_for_training_and_features(drawn, cli, tmp_path):
    """mmdet's own evaluator does not take bfloat16."""
    scored = """
annotations = "data/coco/annotations/instances_val2017.json"
val_evaluator = dict(_delete_=True, type="CocoMetric", ann_file=annotations, metric=["bbox"])
val_dataloader = dict(val_dataloader, dataset=dict(val_dataloader["dataset"], type="CocoDataset"))
default_hooks = dict(checkpoint=dict(save_best="coco/bbox_mAP"))
"""
    config = write_config(tmp_path / "c.py", MASK_RCNN, f"{FIRST}\n{scored}")
    place = "--data-root", drawn, "--work-dir", tmp_path / "run"
    status, out, err = cli("train", config, *place, "--bf16")
    assert status == 0, out + err
    assert "bfloat16 where it is safe" in out + err
    assert len(list((tmp_path / "run").glob("best_*.pth"))) == 1
    status, out, err = cli("test", config, *place, "--bf16")
    assert status == 0, out + err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["precision"] == "bf16"
    found = json.loads((tmp_path / "run" / "detections.json").read_text())
    sides = torch.tensor([answer["bbox"][:2] for answer in found])
    assert (sides.bfloat16() == sides).float().mean() < 0.5
