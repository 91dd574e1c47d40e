"""CenterNet through the command line, on drawn images with their masks: train, test, heat maps, resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardnet_suite.cli import main

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
_base_ = "{root}/configs/centernet_hardnet68.py"
classes = ("circle", "square", "triangle", "star", "ring", "cross")
data_root = "data/shapes/"
model = dict(bbox_head=dict(num_classes=6), init_cfg=None)
drawn = dict(data_root=data_root, metainfo=dict(classes=classes))
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(size=64, short_sides=(64, 96))
train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(pipeline=train_pipeline, **drawn))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=drawn)
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=drawn)
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
visualizer = dict(vis_backends=[dict(type="LocalVisBackend")])
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(save_best=None))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "centernet.py"
    path.write_text(CONFIG.format(root=ROOT))
    return path


@pytest.fixture(scope="module")
def trained(config, drawn, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("centernet") / "run"
    arguments = ["train", config, "--data-root", drawn, "--work-dir", folder]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_training_logs_the_three_losses(trained):
    (log,) = trained.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [row for row in rows if "loss" in row]
    assert len(losses) == 2
    for row in losses:
        parts = [row[f"loss_{name}"] for name in ("hm", "wh", "off")]
        assert all(np.isfinite(parts))
        assert sum(parts) == pytest.approx(row["loss"], rel=1e-3)


def test_images_and_heat_maps(cli, config, drawn, trained, tmp_path):
    images, work = tmp_path / "images", tmp_path / "work"
    arguments = ("--data-root", drawn, "--work-dir", work, "--show-dir", images)
    status, out, err = cli("test", config, trained, *arguments)
    assert (status, err) == (0, "")
    names = sorted(path.stem for path in (drawn / "val2017").iterdir())
    drawings = {path.stem[4:] for path in images.iterdir()}  # after the ranks
    assert drawings == {*names, *(f"{name}_heatmap" for name in names)}
    assert f"{2 * len(names)} images" in out
    for path in (work / "heatmaps").iterdir():
        heat = np.asarray(Image.open(path))
        assert heat.shape == (24, 24)  # 96 pixels; the padding is cut off
        assert 0 < heat.min() <= heat.max() < 128  # hardly trained: about 0.1 everywhere


def test_without_images_no_heat_maps(cli, config, drawn, trained, tmp_path):
    status, _, _ = cli("test", config, trained, "--data-root", drawn, "--work-dir", tmp_path)
    assert status == 0
    assert not (tmp_path / "heatmaps").exists()


def test_a_stretched_image_keeps_its_heat_map_whole(cli, config, drawn, trained, tmp_path):
    pipeline = tmp_path / "stretched.py"
    pipeline.write_text(
        f'_base_ = "{config}"\n'
        "test_pipeline = _base_.test_pipeline\n"
        'test_pipeline[1] = dict(type="Resize", scale=(128, 64), keep_ratio=False)\n'
        "test_pipeline[2].meta_keys = _base_.meta_keys[:-1]\n"
        "test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n"
    )
    arguments = ("--data-root", drawn, "--work-dir", tmp_path / "w", "--show-dir", tmp_path / "p")
    status, _, err = cli("test", pipeline, trained, *arguments)
    assert status == 0
    assert err.startswith("warning: at test time the config's resize, size, pad differ from those that")
    assert err.count("\n") == 1
    assert {Image.open(path).size for path in (tmp_path / "w" / "heatmaps").iterdir()} == {(32, 16)}


def test_what_training_leaves_out_is_said(cli, config, data, tmp_path):
    """A box without area, a class without a box, an image without boxes: named, and training goes on."""
    path = data / "annotations" / "instances_train2017.json"
    truth = json.loads(path.read_text())
    first = truth["images"][0]["id"]
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] != first]
    cross = next(entry["id"] for entry in truth["categories"] if entry["name"] == "cross")
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["category_id"] != cross]
    truth["annotations"][0]["bbox"][2] = 0
    path.write_text(json.dumps(truth))
    bad = truth["annotations"][0]["id"]
    status, out, _ = cli("train", config, "--data-root", data, "--work-dir", tmp_path / "run")
    assert status == 0
    log = out + next((tmp_path / "run").glob("*/*.log")).read_text()
    assert f"annotation {bad} " in log
    assert "no width or no height" in log
    assert "of 4 images have no box" in log
    assert "class cross: has no box" in log


def test_one_batch_an_epoch_has_no_warm_up(cli, config, drawn, tmp_path):
    options = ("--cfg-options", "train_dataloader.batch_size=4", "train_cfg.max_epochs=2")
    status, _, err = cli("train", config, "--data-root", drawn, "--work-dir", tmp_path / "run", *options)
    assert status == 0
    assert "an epoch has one batch: no warm-up" in err
    assert err.count("\n") == 1
    log = next((tmp_path / "run").glob("*/*.log")).read_text()
    assert "an epoch has one batch: no warm-up" in log
    (scalars,) = (tmp_path / "run").glob("*/vis_data/scalars.json")
    rates = [row["lr"] for row in map(json.loads, scalars.read_text().splitlines()) if "lr" in row]
    assert rates == pytest.approx([0.005 * 4 / 24] * 2)  # the recipe's rate, scaled to the batch


def test_images_too_small_and_crowds_are_logged(cli, error_of, config, data, tmp_path):
    """Some small images are dropped with a line in the log; with nothing but small ones nothing begins."""
    path = data / "annotations" / "instances_train2017.json"
    truth = json.loads(path.read_text())
    truth["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(truth))
    option = "train_dataloader.dataset.filter_cfg.min_size=97"
    arguments = ("train", config, "--data-root", data, "--work-dir")
    message = error_of(*arguments, tmp_path / "none", "--cfg-options", option)
    assert "is left after filter_cfg and indices" in message

    image = truth["images"][0]
    large = Image.open(data / "train2017" / image["file_name"]).resize((120, 120))
    large.save(data / "train2017" / image["file_name"])
    image["width"] = image["height"] = 120
    path.write_text(json.dumps(truth))
    options = ("--cfg-options", option, "train_dataloader.batch_size=1")
    status, out, err = cli(*arguments, tmp_path / "run", *options)
    assert status == 0, err
    log = out + next((tmp_path / "run").glob("*/*.log")).read_text()
    assert "images with a side under 97 pixels are dropped (filter_cfg.min_size)" in log
    assert "1 crowd regions are not trained on" in log


def test_a_coco_checkpoint_begins_a_training_on_other_classes(cli, config, drawn, tmp_path):
    """load_from with 80 classes: all but the heat map branch is taken."""
    from hardnet_suite.networks import build_network

    torch.manual_seed(0)
    network = build_network("centernet_hardnet68")
    path, work = tmp_path / "coco.pth", tmp_path / "run"
    torch.save(network.state_dict(), path)
    arguments = (
        "--data-root",
        drawn,
        "--work-dir",
        work,
        "--cfg-options",
        f"load_from={path}",
        "train_cfg.max_epochs=1",
    )
    status, _, err = cli("train", config, *arguments)
    assert (status, err) == (0, "")
    log = next(work.glob("*/*.log")).read_text()
    assert "4 of the model not in the weights (bbox_head.hm.0.weight" in log
