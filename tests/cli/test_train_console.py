"""What ``train`` prints: which weights, a few lines of progress, and commands that can be pasted."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hardnet_suite.cli.train import _repeated, _report
from hardnet_suite.openmm.run.configs import load_config, set_data_root

ROOT = Path(__file__).resolve().parents[2]
NO_WORKERS = ("train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False")


def rows(out):
    """The lines "name: text" before the progress."""
    return dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)


@pytest.fixture(scope="module")
def said(config, drawn, tmp_path_factory):
    """(output, work dir) of a training, a process of its own, in a folder whose name a shell would split."""
    work = tmp_path_factory.mktemp("said") / "it's my run"
    arguments = ["train", config, "--data-root", drawn, "--work-dir", work, "--from-scratch"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hardnet_suite", *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, work


def test_the_lines_of_a_training(said, config):
    out, work = said
    lines, row = out.splitlines(), rows(out)
    assert lines[0].startswith("hardnet-suite ")
    assert f"train {config}" in lines[0]
    assert lines[1] == "weights: random (seed 0)"
    assert row["model"].startswith("ssd224_hardnet29, ")
    assert row["train"].startswith("4 images, ")
    assert row["val"].startswith("3 images, ")
    assert "6 classes (circle, " in row["val"]
    assert row["device"].endswith("float32")
    assert row["folder"] == str(work)
    assert row["schedule"] == "1 epoch of 2 iterations of 2 images; validation every epoch"
    assert any(line.startswith("epoch 1/1  1/2  loss ") for line in lines)
    assert any(line.startswith("epoch 1/1: mAP 0.") and "AP50" in line for line in lines)
    assert len(lines) < 20
    assert row["best"].endswith(f"{work}/best_coco_bbox_mAP_epoch_1.pth")
    assert row["curves"] == f"{work}/training.png"
    assert Image.open(work / "training.png").size[0] > 1000
    assert "Epoch(train)" in next(work.glob("*/*.log")).read_text()


def test_the_next_commands_work_as_they_are(said, cli):
    out, work = said
    commands = [shlex.split(line) for line in out.partition("next:\n")[2].splitlines()]
    words = [
        command[command.index(name) :] for command, name in zip(commands, ("test", "predict"), strict=True)
    ]
    status, out, _ = cli(*words[0])
    assert status == 0
    assert "best_coco_bbox_mAP_epoch_1.pth, the best of the run" in out
    assert (work / "metrics.json").is_file()
    assert cli(*words[1])[0] == 0
    assert (work / "drawings/predictions.jsonl").is_file()


def test_predictions_are_drawn_for_tensorboard(said):
    _, work = said
    (scalars,) = work.glob("*/vis_data/scalars.json")
    accumulator = EventAccumulator(str(scalars.parent), size_guidance={"images": 0})
    accumulator.Reload()
    assert accumulator.Tags()["images"] == ["predictions/1", "predictions/2", "predictions/3"]
    (event,) = accumulator.Images("predictions/1")
    assert event.step == 1
    assert event.width > 2 * 90  # the labels beside the prediction
    assert "coco/bbox_mAP" in accumulator.Tags()["scalars"]


def test_where_a_resumed_or_started_training_begins(cli, config, drawn, trained, tmp_path):
    arguments = ("train", config, "--data-root", drawn, "--work-dir", tmp_path / "run")
    options = ("--cfg-options", "train_cfg.max_epochs=2", *NO_WORKERS)
    checkpoint = trained / "epoch_1.pth"
    out = cli(*arguments, "--resume", checkpoint, *options)[1]
    assert rows(out)["weights"] == f"{checkpoint}, resumed after epoch 1, iteration 2"
    assert rows(out)["schedule"].endswith("; resumes after iteration 2 of 4")
    out = cli(*arguments, *options, f"load_from={checkpoint}")[1]
    assert rows(out)["weights"] == str(checkpoint)
    assert "load_from" not in out.partition("next:")[2]


def test_a_test_that_would_refuse_the_evaluator_does_not_come_next(config, drawn, tmp_path, capsys):
    cfg = load_config(config)
    set_data_root(cfg, drawn)
    cfg.work_dir = str(tmp_path)
    hub = SimpleNamespace(runtime_info={})
    runner = SimpleNamespace(cfg=cfg, message_hub=hub, hooks=[], last_saved=tmp_path / "epoch_1.pth")
    args = SimpleNamespace(config="mine.py", data_root=drawn, work_dir=None, device=None, cfg_options=[])
    _report(args, runner)
    assert " test mine.py " in capsys.readouterr().out
    cfg.test_evaluator = {"type": "CocoMetric", "ann_file": cfg.test_evaluator.ann_file}
    _report(args, runner)
    out = capsys.readouterr().out
    assert " test mine.py " not in out
    assert " predict " in out


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["train_cfg.max_epochs=2"], []),
        (
            [
                "load_from=a.pth",
                "optim_wrapper.optimizer.lr=1",
                "val_cfg=None",
                "default_hooks.logger.interval=1",
            ],
            [],
        ),
        (["model.test_cfg.score_thr=0.1", "train_cfg.max_epochs=2"], ["model.test_cfg.score_thr=0.1"]),
        (["test_dataloader.batch_size=2"], ["test_dataloader.batch_size=2"]),
    ],
)
def test_what_a_test_does_not_read_is_not_repeated(given, kept):
    args = SimpleNamespace(data_root=None, work_dir="a b", device="cpu", cfg_options=given)
    options = ["--cfg-options", *kept] if kept else []
    assert _repeated(args) == ["--work-dir", "a b", "--device", "cpu", *options]


def test_verbose_shows_the_log(cli, config, drawn, tmp_path):
    arguments = ("train", config, "--data-root", drawn, "--work-dir", tmp_path / "run", "--verbose")
    out = cli(*arguments, "--cfg-options", *NO_WORKERS)[1]
    assert "weights: shipped weights 'symbols' of ssd224_hardnet29" in out  # those of the config
    assert out.count("Epoch(train)") == 2
    assert "Hooks will be executed" in out


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_told_first(error_of, config, drawn, tmp_path, monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    work = tmp_path / "work"
    message = error_of("train", config, "--data-root", drawn, "--work-dir", work, "--log", name)
    assert f"--log {name} needs a package that is not installed: pip install {name}" in message
    assert not work.exists()


def test_a_picture_of_the_users_is_left_alone(cli, config, drawn, tmp_path):
    work = tmp_path / "run"
    work.mkdir()
    (work / "training.png").write_text("mine")
    arguments = ("train", config, "--data-root", drawn, "--work-dir", work, "--from-scratch")
    status, _, err = cli(*arguments, "--cfg-options", *NO_WORKERS)
    assert status == 0
    (line,) = err.splitlines()
    assert line.startswith(f"warning: no curves are drawn: {work}/training.png exists")
    assert (work / "training.png").read_text() == "mine"


@pytest.mark.parametrize(("rank", "lines"), [(None, 2), ("0", 2), ("1", 0)])
def test_the_first_of_several_processes_prints(cli, config, tmp_path, monkeypatch, rank, lines):
    """Its first line, and a warning of an option; the data that are missing are every process's error."""
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    (tmp_path / "empty").mkdir()
    arguments = ("--data-root", tmp_path / "empty", "--work-dir", tmp_path / "work")
    option = "train_dataloader.dataset.indices=2"
    status, out, err = cli("train", config, *arguments, "--cfg-options", option)
    assert status == 2
    printed = [*out.splitlines(), *(line for line in err.splitlines() if line.startswith("warning: "))]
    assert len(printed) == lines
    assert ("error on rank 1: " if rank == "1" else "error: ") in err
