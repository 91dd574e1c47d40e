"""Training of the patch descriptor: the suite's own loop, from patches to weights that load everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import HOOKS
from mmengine.visualization import Visualizer
from toy_patches import toy_patches
from toy_runs import assert_identical

from hardnet_suite import create_model
from hardnet_suite.data.patches import read_patch_set, write_brown
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.descriptor import fpr95, pair_distances
from hardnet_suite.inference import resize_patches
from hardnet_suite.openmm.data.parts import parts, require_data
from hardnet_suite.openmm.run.configs import load_config, set_data_root
from hardnet_suite.openmm.run.runner import prepare
from hardnet_suite.openmm.run.test import TestOptions as Options
from hardnet_suite.openmm.run.test import test as score
from hardnet_suite.openmm.run.train import train
from hardnet_suite.visualization.curves import plot_run
from hardnet_suite.weights import open_weights

SMALL = {
    "train_dataloader.batch_size": 8,
    "train_dataloader.batch_sampler.pairs": 40,
    "train_dataloader.num_workers": 0,
    "val_dataloader.num_workers": 0,
    "val_dataloader.batch_size": 16,
    "val_dataloader.dataset.pairs": 60,
    "test_dataloader.num_workers": 0,
    "test_dataloader.dataset.pairs": 60,
    "train_cfg.max_epochs": 2,
    "param_scheduler.0.end": 2,
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.every_iters": 1,
    "visualizer.vis_backends": [{"type": "LocalVisBackend"}],
}
# the published recipe, with every augmentation
TOY = SMALL | {
    "train_dataloader.dataset.sets": "train",
    "train_dataloader.dataset.photometric": dict.fromkeys(
        ("shadow", "gamma", "contrast", "blur", "noise", "jpeg"), 0.3
    ),
    "val_dataloader.dataset.sets": "val",
    "test_dataloader.dataset.sets": "val",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches")
    for seed, name in enumerate(("train", "val", "liberty", "notredame", "yosemite")):
        write_brown(folder / name, toy_patches(name, seed=seed))
    return folder


def config(data, work_dir, small=TOY, *, bf16=False, **options):
    for shared in (MMLogger, MessageHub, Visualizer):  # by runs of one second
        shared._instance_dict.clear()
    cfg = load_config("hardnet_descriptor_liberty", small | options, warn=lambda _: None)
    set_data_root(cfg, data)
    return prepare(cfg, work_dir=work_dir, bf16=bf16)


@HOOKS.register_module()
class StopAt(Hook):
    """Ends a run as a crash does, after an iteration."""

    priority = "LOWEST"

    def __init__(self, iteration: int):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            raise ZeroDivisionError


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    train(config(data, folder))
    return folder


@pytest.mark.parametrize("iteration", [2, 5, 8])
def test_a_run_resumes_bit_for_bit(data, run, tmp_path, iteration):
    cfg = config(data, tmp_path)
    cfg.custom_hooks = [*cfg.custom_hooks, {"type": "StopAt", "iteration": iteration}]
    with pytest.raises(ZeroDivisionError):
        train(cfg)
    assert not (tmp_path / "epoch_2.pth").exists()
    train(config(data, tmp_path), resume=True)
    ends = [torch.load(folder / "epoch_2.pth", weights_only=False) for folder in (run, tmp_path)]
    assert ends[0]["meta"]["iter"] == 10
    for part in ("state_dict", "optimizer", "param_schedulers"):
        assert_identical(ends[0][part], ends[1][part], part)


def test_the_recipe_is_applied(run):
    rows = [json.loads(line) for path in run.glob("*/vis_data/scalars.json") for line in path.open()]
    rates = [row["lr"] for row in rows if "loss" in row]
    assert rates == pytest.approx([10 * (1 - k / 9) for k in range(10)])
    (group,) = torch.load(run / "epoch_2.pth", weights_only=False)["optimizer"]["param_groups"]
    assert (group["momentum"], group["dampening"], group["weight_decay"]) == (0.9, 0.9, 1e-4)


def test_the_best_checkpoint_has_the_lowest_fpr95(run):
    rows = [json.loads(line) for path in run.glob("*/vis_data/scalars.json") for line in path.open()]
    scores = [row["fpr95"] for row in rows if "fpr95" in row]
    assert len(scores) == 2
    (best,) = run.glob("best_fpr95_epoch_*.pth")
    assert best.stem.endswith(str(1 + int(np.argmin(scores))))
    assert plot_run(run).is_file()


def test_the_weights_load_everywhere(run, data, tmp_path):
    (best,) = run.glob("best_fpr95_epoch_*.pth")
    weights = open_weights(best)
    assert (weights.model, weights.form, weights.num_classes) == ("hardnet_descriptor", "mmengine", 0)
    network = create_model("hardnet_descriptor", pretrained=best).eval()
    state = torch.load(best, weights_only=False)["state_dict"]
    assert_identical({f"network.{key}": value for key, value in network.state_dict().items()}, dict(state))
    from hardnet_suite.cli import main

    half = tmp_path / "half.safetensors"
    assert main(["convert-weights", str(best), str(half), "--half"]) in (0, None)
    again = create_model("hardnet_descriptor", pretrained=half)
    for key, value in again.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, network.state_dict()[key], rtol=1e-3, atol=1e-3)


def test_scores_are_those_of_the_network_itself(run, data, tmp_path):
    (best,) = run.glob("best_fpr95_epoch_*.pth")
    plan, outcome = score(config(data, tmp_path), best, Options())
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["metrics"] == outcome.figures
    part = next(parts(plan.cfg, ["test_dataloader"]))
    patches, (pairs,) = read_patch_set(data / "val"), part.pairs
    network = create_model("hardnet_descriptor", pretrained=best).eval()
    with torch.inference_mode():
        descriptors = network(resize_patches(torch.from_numpy(patches.patches))).numpy()
    expected = pair_distances(descriptors, pairs)
    assert outcome.figures["fpr95"] == pytest.approx(fpr95(pairs[:, 2], expected))
    rows = (tmp_path / "distances.csv").read_text().splitlines()
    assert rows[0] == "set,first,second,same,distance"
    assert len(rows) == 61
    first = rows[1].split(",")
    assert first[:4] == ["val", *map(str, pairs[0].tolist())]
    assert float(first[4]) == pytest.approx(expected[0], abs=1e-4)
    assert (tmp_path / "distances.png").is_file()
    mistakes = [json.loads(line) for line in (tmp_path / "mistakes.jsonl").read_text().splitlines()]
    assert all((row["distance"] <= row["threshold"]) != row["same"] for row in mistakes)


def test_several_sets_are_scored_apart(data, tmp_path):
    train(config(data, tmp_path, SMALL, **{"train_cfg.max_epochs": 1}))
    rows = [json.loads(line) for path in tmp_path.glob("*/vis_data/scalars.json") for line in path.open()]
    (scores,) = [row for row in rows if "fpr95" in row]
    assert scores["fpr95"] == pytest.approx((scores["fpr95/notredame"] + scores["fpr95/yosemite"]) / 2)
    assert next(tmp_path.glob("best_fpr95_epoch_1.pth"))


def test_bfloat16_and_regularization(data, tmp_path):
    options = {"model.orthogonality": 1.0, "train_cfg.max_epochs": 1, "model.batch_reduce": "average"}
    runner = train(config(data, tmp_path, bf16=True, **options))
    rows = [json.loads(line) for path in tmp_path.glob("*/vis_data/scalars.json") for line in path.open()]
    losses = [row for row in rows if "loss" in row]
    assert all(row["loss_orthogonality"] > 0 for row in losses)
    assert all(
        row["loss"] == pytest.approx(row["loss_triplet"] + row["loss_orthogonality"]) for row in losses
    )
    assert next(runner.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_dataloader.batch_size": 1000}, "24 points with two patches are too few for a batch of 1000"),
        ({"train_dataloader.dataset.sets": "nowhere"}, "nowhere"),
        ({"val_dataloader.dataset.sets": ["val", "val"]}, "sets="),
        ({"val_dataloader.dataset.pairs": 1}, "pairs=1"),
        ({"train_dataloader.dataset.jitter.rotation": -3}, "jitter.rotation"),
    ],
)
def test_what_does_not_fit_is_one_line(data, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        train(config(data, tmp_path, **options))


def test_an_unknown_architecture_or_another_tasks(data, tmp_path):
    with pytest.raises(UserError, match="does not fit PatchDescriptorModel"):
        config(data, tmp_path, arch="hardnet68")


def test_what_the_console_says_of_the_data(data, tmp_path):
    cfg = config(data, tmp_path, SMALL)
    require_data(cfg, ["train_dataloader", "val_dataloader"])
    (training,), (scored,) = (list(parts(cfg, [f"{name}_dataloader"])) for name in ("train", "val"))
    assert training.counts() == "72 patches, 24 points (liberty)"
    assert scored.counts() == "144 patches, 48 points, 120 pairs (notredame, yosemite)"
    assert scored.check().summary()["pairs"] == "120"
    assert "pairs" not in training.check().summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draw": Path("drawings")}, "worst.jpg in the work dir shows the worst pairs"),
        ({"flip": True}, "--flip for that and for CenterNet"),
        ({"format_only": True}, "--format-only"),
    ],
)
def test_options_of_test_for_images(run, data, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        score(config(data, tmp_path), run, Options(**options))


@pytest.mark.slow
def test_two_ranks_train_on_different_points(data, tmp_path, launch):
    options = [f"{key}={value}" for key, value in SMALL.items() if "backends" not in key]
    process = launch(
        *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "hardnet_suite"],
        *["train", "hardnet_descriptor_homography", "--data-root", data, "--work-dir", tmp_path],
        *["--device", "cpu", "--launcher", "pytorch", "--cfg-options", *options],
    )
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    assert "schedule: 2 epochs of 2 iterations of 16 pairs" in output
    content = torch.load(tmp_path / "epoch_2.pth", weights_only=False)
    assert content["meta"]["iter"] == 4
