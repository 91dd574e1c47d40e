"""HarDNet-MSEG from drawn polyps to figures: ``check-data``, ``train``, ``test`` and ``predict``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hardnet_suite import load_model
from hardnet_suite.cli import main
from hardnet_suite.data.segmentation import own_labels, read_label
from hardnet_suite.deploy import export
from hardnet_suite.evaluation.binary import summarize_masks
from hardnet_suite.openmm.run.configs import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""
_base_ = "{ROOT}/configs/hardnet_mseg_polyps.py"
crop = (64, 64)
model = dict(data_preprocessor=dict(size=crop))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="Resize", scale=crop, keep_ratio=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="mmseg.PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="torchvision/Resize", size=crop),
    dict(type="LoadLabels"),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
train_dataloader["dataset"] = dict(pipeline=train_pipeline)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=12)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=12))
"""
TRUTH = own_labels(("polyp",), [(0, 200, 0)], mask_threshold=128)


def draw(folder, name, seed):
    """A bright ellipse on reddish ground; the mask is a JPEG of three channels, as in Kvasir-SEG."""
    random = np.random.default_rng(seed)
    left, top = random.integers(4, 30), random.integers(4, 20)
    box = (left, top, left + random.integers(24, 40), top + random.integers(20, 32))
    image = Image.fromarray(random.integers(90, 130, (60, 80, 3), np.uint8) // np.array([1, 2, 2], np.uint8))
    mask = Image.new("RGB", image.size)
    ImageDraw.Draw(image).ellipse(box, fill=(230, 190, 160))
    ImageDraw.Draw(mask).ellipse(box, fill=(255, 255, 255))
    for kind, picture in (("images", image), ("masks", mask)):
        path = folder / kind / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=80)


@pytest.fixture(scope="module")
def polyps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("polyps")
    for index in range(8):
        draw(folder / "TrainDataset", f"{index}", index)
    for index in range(3):
        draw(folder / "TestDataset/Kvasir", f"{index}", 100 + index)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def run(polyps, config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mseg") / "run"
    arguments = ["train", config, "--from-scratch", "--data-root", polyps, "--work-dir", folder, "--seed", 3]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_the_data_are_as_they_should_be(cli, polyps, config):
    status, out, err = cli("check-data", config, "--data-root", polyps)
    assert (status, err) == (0, "")
    assert "\n0 errors" in out
    assert re.search(r"^ *polyp +13\.8%$", out, re.MULTILINE)


def test_training_learns_the_shape(run):
    (log,) = run.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [row["decode.loss_structure"] for row in rows if "decode.loss_structure" in row]
    assert len(losses) == 24
    assert losses[-1] < 0.8 * losses[0]  # means of the steps so far
    assert {"Dice", "IoU", "MAE", "Sm", "meanDice", "maxDice", "meanEm", "mIoU"} <= rows[-1].keys()
    assert rows[-1]["Dice"] > 0.5  # all of the image: 0.24
    assert (run / "best_meanDice_epoch_12.pth").is_file()


def test_the_scores_of_test_are_those_of_its_masks(cli, polyps, config, run, tmp_path):
    status, out, err = cli("test", config, run, "--data-root", polyps, "--work-dir", tmp_path)
    assert (status, err) == (0, "")
    assert "meanDice" in out
    report = json.loads((tmp_path / "metrics.json").read_text())
    dice = []
    for index in range(3):
        truth = read_label(polyps / f"TestDataset/Kvasir/masks/{index}.jpg", TRUTH) == 0
        found = np.array(Image.open(tmp_path / f"predictions/{index}.png")) == 0
        dice.append(2 * (truth & found).sum() / (truth.sum() + found.sum()))
    assert report["masks"].keys() == summarize_masks([]).keys()
    assert report["masks"]["Dice"] == pytest.approx(np.mean(dice))
    assert report["metrics"]["mIoU"] > 0.3


def test_predictions_are_the_masks_of_test(polyps, run):
    """The run's own rule: the image is stretched, the mask has the image's size."""
    (prediction,) = load_model(str(run))(str(polyps / "TestDataset/Kvasir/images/0.jpg"))
    truth = read_label(polyps / "TestDataset/Kvasir/masks/0.jpg", TRUTH) == 0
    assert prediction.mask.shape == (60, 80)
    assert prediction.names == ("polyp",)
    found = np.asarray(prediction.mask) == 0
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.4


def test_flipped_views_are_scored_by_their_mean(cli, polyps, config, run, tmp_path):
    status, _, err = cli("test", config, run, "--data-root", polyps, "--work-dir", tmp_path, "--flip")
    assert (status, err) == (0, "")
    assert json.loads((tmp_path / "metrics.json").read_text())["masks"]["Dice"] > 0.4


def test_a_file_that_returns_masks_has_no_probabilities_to_score(
    cli, error_of, polyps, config, run, tmp_path
):
    """Those that can be scored are: of a file without the rule, and of the masks alone."""
    image = np.array(Image.open(polyps / "TestDataset/Kvasir/images/0.jpg"))
    model = load_model(str(run), device="cpu")
    for name, inside in (("logits", False), ("masks", True)):
        export(model, tmp_path / f"{name}.pt", postprocess=inside, images=image)
    arguments = ("--data-root", polyps, "--work-dir", tmp_path / "figures")
    message = error_of("test", config, tmp_path / "masks.pt", *arguments)
    assert "masks.pt returns masks, but the evaluator's masks=True also scores probabilities" in message
    assert not (tmp_path / "figures/metrics.json").exists()
    alone = ("--cfg-options", "test_evaluator.masks=False")
    found = {}
    for name, options in {"logits": (), "masks": alone}.items():
        assert cli("test", config, tmp_path / f"{name}.pt", *arguments, *options)[0] == 0
        found[name] = json.loads((tmp_path / "figures/metrics.json").read_text())
    assert "MAE" in found["logits"]["masks"]
    assert "masks" not in found["masks"]
    assert found["masks"]["metrics"]["mIoU"] == pytest.approx(found["logits"]["metrics"]["mIoU"], abs=0.02)
    assert cli("test", config, tmp_path / "masks.pt", *arguments, "--format-only")[0] == 0


def test_the_recipe_is_the_published_one():
    cfg = load_config("hardnet_mseg_polyps")
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (16, 100)
    assert cfg.optim_wrapper.optimizer == {"type": "Adam", "lr": 1e-4}
    assert cfg.optim_wrapper.clip_grad == {"type": "value", "clip_value": 0.5}
    assert cfg.model.decode_head.loss_decode.type == "StructureLoss"
