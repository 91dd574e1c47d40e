"""The runner: data loaders without workers, and what it leaves of the process."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from copy import deepcopy
from logging import FileHandler
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, METRICS, MODELS
from mmengine.visualization import LocalVisBackend
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_runs import assert_identical, toy_config

from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import launch
from hardnet_suite.openmm.run import runner as run
from hardnet_suite.openmm.run import train as training
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.weights import find


@pytest.mark.parametrize(
    "options",
    [
        {"persistent_workers": True},
        {"prefetch_factor": 4},
        {"persistent_workers": True, "prefetch_factor": 2, "timeout": 30, "multiprocessing_context": "spawn"},
    ],
)
@pytest.mark.parametrize("workers", [{"num_workers": 0}, {}])
def test_options_for_workers_are_dropped_without_any(toy_train, options, workers):
    cfg = toy_config(epochs=1)
    del cfg.train_dataloader["num_workers"]
    cfg.train_dataloader.update(options | workers)
    before = deepcopy(cfg._cfg_dict)
    runner, _ = toy_train(cfg)
    assert runner.iter == 4
    assert cfg._cfg_dict == before


def test_with_workers_the_options_stay(toy_train):
    cfg = toy_config(epochs=1)
    cfg.train_dataloader.update(num_workers=1, persistent_workers=True, prefetch_factor=3)
    runner, _ = toy_train(cfg)
    loader = runner.train_dataloader
    assert (loader.num_workers, loader.persistent_workers, loader.prefetch_factor) == (1, True, 3)


PROCESS = """
import sys, torch
from mmengine.registry import DefaultScope
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.runner import prepare
cfg = load_config("fchardnet70_camvid")
prepare(cfg, work_dir=sys.argv[1], bf16=True)
assert DefaultScope.get_current_instance() is None
assert (torch.tensor([1e-40]) * 1.0).item() > 0, "denormal numbers are flushed"
assert torch.get_autocast_dtype("cuda") is torch.float16
assert cfg.optim_wrapper.type == "OptimWrapper"
"""


def test_the_library_switches_nothing_of_the_process(tmp_path):
    import os
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).resolve().parents[3]
    env = os.environ | {"PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("hook", [{"type": "LoggerHook", "interval": 1}, None])
def test_the_trackers_of_a_run_are_closed_once(toy_train, monkeypatch, hook):
    """A second time begins another run of MLflow's."""
    closed = []
    monkeypatch.setattr(LocalVisBackend, "close", lambda self: closed.append(1))
    cfg = toy_config(epochs=1)
    cfg.default_hooks.logger = hook
    toy_train(cfg)
    assert closed == [1]


@METRICS.register_module()
class ToyScore(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(1)

    def compute_metrics(self, results) -> dict:
        return {"score": len(results)}


@pytest.mark.parametrize("hierarchy", [False, True])
def test_the_steps_of_every_curve_rise(toy_train, hierarchy):
    """Those of validation are epochs, those of training iterations."""
    cfg = toy_config(
        epochs=2,
        val_dataloader=deepcopy(toy_config().train_dataloader),
        val_cfg={"type": "ValLoop"},
        val_evaluator={"type": "ToyScore"},
        log_processor={"type": "LogProcessor", "window_size": 2, "log_with_hierarchy": hierarchy},
    )
    cfg.visualizer.vis_backends.append({"type": "TensorboardVisBackend"})
    toy_train(cfg)
    (scalars,) = toy_train.folder().glob("*/vis_data/scalars.json")
    steps = defaultdict(list)
    for row in map(json.loads, scalars.read_text().splitlines()):
        for name in row:
            steps[name].append(row["step"])
    train = "train/" if hierarchy else ""
    for name in ("time", "data_time"):
        assert steps[f"{train}{name}"] == list(range(1, 9))
        assert steps[f"val/{name}"] == [1, 2]
    assert steps["val/score" if hierarchy else "score"] == [1, 2]
    board = EventAccumulator(str(scalars.parent)).Reload()
    for name in board.Tags()["scalars"]:
        assert [event.step for event in board.Scalars(name)] == steps[name]


def test_runs_of_the_same_second_write_into_their_own_folders(toy_train, monkeypatch):
    now = SimpleNamespace(time=lambda: 1.7e9, strftime=time.strftime, localtime=time.localtime)
    monkeypatch.setattr("mmengine.runner.runner.time", now)
    for name in ("first", "second"):
        toy_train(toy_config(epochs=1), name)
    first, second = (
        {path.name for path in toy_train.folder(name).rglob("*") if path.suffix in (".py", ".json", ".log")}
        for name in ("first", "second")
    )
    assert first == second
    assert {"config.py", "scalars.json"} <= second


def test_runs_whose_visualizer_has_a_name_write_into_their_own_folders(toy_train):
    for name in ("first", "second"):
        cfg = toy_config(epochs=1)
        cfg.visualizer.name = "visualizer"  # as in mmdet's configs
        toy_train(cfg, name)
    for name in ("first", "second"):
        (scalars,) = toy_train.folder(name).glob("*/vis_data/scalars.json")
        assert len(scalars.read_text().splitlines()) == 4


def test_a_resumed_checkpoint_runs_none_of_its_config(toy_train, tmp_path):
    toy_train(toy_config(epochs=1))
    path, canary = toy_train.folder() / "epoch_1.pth", tmp_path / "canary"
    content = torch.load(path, weights_only=False)
    content["meta"]["config"] = f"open({str(canary)!r}, 'w').close()\n"
    torch.save(content, path)
    runner, _ = toy_train(toy_config(epochs=2), resume=True)
    assert runner.iter == 8
    assert not canary.exists()


def test_on_gpus_the_ranks_start_before_the_runner(monkeypatch, tmp_path):
    """They agree on one folder for their results before a runner exists."""
    started = []
    monkeypatch.setattr(launch, "get_device", lambda: "cuda")
    monkeypatch.setattr(launch, "set_multi_processing", lambda **options: None)
    monkeypatch.setattr(launch, "init_dist", lambda launcher, **options: started.append((launcher, options)))
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_NODELIST": "node1"}.items():
        monkeypatch.setenv(name, value)
    cfg = toy_config(epochs=1)
    cfg.env_cfg = {"dist_cfg": {"backend": "nccl", "timeout": 60}}
    run.prepare(cfg, work_dir=tmp_path, launcher="slurm")
    assert started == [("slurm", {"backend": "nccl", "timeout": 60})]


@pytest.mark.parametrize("way", ["resume", "load_from"])
def test_a_checkpoint_is_read_once(toy_train, monkeypatch, way):
    """From the comparison of classes to the optimizer's state: one reading, one hash."""
    toy_train(toy_config(epochs=1))
    path = toy_train.folder() / "epoch_1.pth"
    reads, hashes = [], []
    torch_load, sha256 = torch.load, hashlib.sha256
    monkeypatch.setattr(
        torch, "load", lambda *args, **options: reads.append(1) or torch_load(*args, **options)
    )
    monkeypatch.setattr(hashlib, "sha256", lambda *data: hashes.append(1) or sha256(*data))
    if way == "resume":
        runner, _ = toy_train(toy_config(epochs=2), resume=str(path))
        assert runner.optim_wrapper.optimizer.state_dict()["state"].keys()
    else:
        runner, _ = toy_train(toy_config(epochs=1, load_from=str(path)), "other")
    assert runner.iter == (8 if way == "resume" else 4)
    assert (len(reads), len(hashes)) == (1, 1)


@HOOKS.register_module()
class ChangeWeights(Hook):
    """Puts sevens in the place of biases, under the name of another program for one of them."""

    def __init__(self, drop: str = ""):
        self.drop = drop

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        runner.entries = set(checkpoint)
        state = checkpoint["state_dict"]
        state["layer.bias"] = torch.full_like(state["layer.bias"], 7.0)
        state["norm.bias"].fill_(7.0)
        if "scale" in state:
            state["norm.weight"] = state.pop("scale")
        state.pop(self.drop, None)

    def before_train(self, runner) -> None:
        runner.start = {key: value.clone() for key, value in runner.model.state_dict().items()}


def test_hooks_change_the_weights_that_a_training_starts_from(toy_train, tmp_path):
    """Also those whose names fit the model only after a hook; averages begin with what it leaves."""
    toy_train(toy_config(epochs=1))
    content = torch.load(toy_train.folder() / "epoch_1.pth", weights_only=False)
    state = content["state_dict"]
    expected = {"layer.weight": state["layer.weight"], "norm.weight": state["norm.weight"]}
    state["scale"] = state.pop("norm.weight")
    torch.save(content, tmp_path / "renamed.pth")
    cfg = toy_config(epochs=1, load_from=str(tmp_path / "renamed.pth"))
    cfg.custom_hooks = [
        {"type": "ChangeWeights"},
        {"type": "EMAHook", "begin_epoch": 1},
        {"type": "Averages"},
    ]
    runner, _ = toy_train(cfg, "other")
    assert {"meta", "optimizer", "state_dict"} <= runner.entries
    for start in (runner.start, runner.averages):
        assert start["layer.bias"].tolist() == start["norm.bias"].tolist() == [7.0] * 3
        for key, value in expected.items():
            assert torch.equal(start[key], value)


@HOOKS.register_module()
class Averages(Hook):
    def before_train(self, runner) -> None:
        (hook,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
        module = hook.ema_model.module
        runner.averages = {key: value.clone() for key, value in module.state_dict().items()}


@HOOKS.register_module()
class WeightsInTraining(Hook):
    """Notes the weights that a run begins and ends with."""

    priority = "LOWEST"

    def before_train(self, runner) -> None:
        runner.began = {key: value.clone() for key, value in runner.model.state_dict().items()}

    def after_train(self, runner) -> None:
        runner.ended = {key: value.clone() for key, value in runner.model.state_dict().items()}


@HOOKS.register_module()
class OtherAverages(Hook):
    """Averages of another kind than mmengine's, under the name of its entry; it takes them itself."""

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        averages = checkpoint["ema_state_dict"]
        checkpoint["state_dict"].update({key[7:]: averages[key] for key in averages if key[:7] == "module."})


EMA = {"type": "EMAHook", "momentum": 0.3, "update_buffers": True}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([EMA], [], "averaged weights, but the config no EMAHook: the averages are dropped"),
        ([EMA], [{"type": "OtherAverages"}], None),
        ([EMA], [EMA], None),
        ([], [], None),
        ([], [EMA], "has no averaged weights: those of the EMAHook begin here"),
        (
            [EMA],
            [{"type": "EMAHook", "ema_type": "StochasticWeightAverage"}],
            "by StochasticWeightAverage(), the checkpoint by ExponentialMovingAverage(momentum=0.3, "
            "update_buffers=True): its averages are continued",
        ),
        (
            [EMA],
            [EMA | {"momentum": 0.1}],
            "by ExponentialMovingAverage(momentum=0.1, update_buffers=True), the",
        ),
    ],
)
def test_a_run_resumes_from_the_weights_in_training(toy_train, capsys, before, after, said):
    """Also where the config has no hook any more that knows of the averages in their place."""
    cfg = toy_config(epochs=1)
    cfg.custom_hooks = [{"type": "WeightsInTraining"}, *before]
    first, _ = toy_train(cfg)
    cfg = toy_config(epochs=2)
    cfg.custom_hooks = [{"type": "WeightsInTraining"}, *after]
    second, _ = toy_train(cfg, resume=True)
    assert_identical(first.ended, second.began)
    (log,) = (path for path in toy_train.folder().glob("*/*.log") if path.stem == second.timestamp)
    lines = [line for line in log.read_text().splitlines() if "averag" in line and "WARNING" in line]
    assert len([line for line in lines if said and said in line]) == (said is not None), lines
    assert said is not None or not lines
    saved = torch.load(toy_train.folder() / "epoch_2.pth", weights_only=False)
    assert ("ema_state_dict" in saved) == ("EMAHook" in {hook["type"] for hook in after})


def test_weights_that_a_hook_makes_unfit_are_refused(toy_train):
    toy_train(toy_config(epochs=1))
    cfg = toy_config(epochs=1, load_from=str(toy_train.folder() / "epoch_1.pth"))
    cfg.custom_hooks = [{"type": "ChangeWeights", "drop": "layer.weight"}]
    with pytest.raises(UserError, match=r"epoch_1\.pth: .*layer\.weight"):
        toy_train(cfg, "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "ToyModel", "width": 4}}, r"another model: 6 tensors of another shape \(layer"),
        ({"optimizer": {"type": "AdamW", "lr": 0.1}}, r"epoch_1\.pth is SGD, the config's AdamW;"),
        ({"optimizer": {"type": "RMSprop", "lr": 0.1}}, r"is SGD, the config's RMSprop;"),
        ({"paramwise_cfg": {"bias_lr_mult": 2.0}}, "has 1 parameter groups of 4 .* config.s 4 of 4"),
    ],
)
def test_a_run_of_another_model_or_optimizer_is_not_resumed(toy_train, change, message):
    toy_train(toy_config(epochs=1))
    cfg = toy_config(epochs=2)
    if "model" in change:
        cfg.merge_from_dict(change)
    else:
        cfg.optim_wrapper = cfg.optim_wrapper.to_dict() | change
    with pytest.raises(UserError, match=f"cannot resume: .*{message}") as raised:
        toy_train(cfg, resume=True)
    assert "\n" not in str(raised.value)


def test_the_config_of_a_user_is_never_replaced(toy_train):
    """A config that lies in the work dir, or is linked there, under the name of the run's record of it."""
    folder = toy_train.folder()
    folder.mkdir()
    text = "# notes\nepochs = 1\n"
    (folder / "mine.py").write_text(text)
    cfg = toy_config(epochs=1)
    cfg._filename = str(folder / "mine.py")
    toy_train(cfg)
    assert (folder / "mine.py").read_text() == text


def test_an_unknown_option_of_the_checkpoint_hook_is_told_at_once(toy_train):
    cfg = toy_config(epochs=1)
    cfg.default_hooks.checkpoint["intervall"] = 1
    with pytest.raises(UserError, match="no option 'intervall'; did you mean interval"):
        toy_train(cfg)


@pytest.mark.parametrize("key", ["batch_size", "num_workers"])
@pytest.mark.parametrize("value", [None, -1, 2.0, "2", True])
def test_counts_of_a_data_loader_are_integers(toy_train, key, value):
    cfg = toy_config(epochs=1)
    cfg.train_dataloader[key] = value
    with pytest.raises(UserError, match=f"a data loader's {key} is {value!r}, expected an integer"):
        toy_train(cfg)


def test_after_a_run_models_of_mmengine_initialize(toy_train):
    """mmengine writes the initialization to the files of the log, which the run has closed."""
    runner, _ = toy_train(toy_config(epochs=1))
    runner.close()
    MODELS.build({"type": "HarDNet", "arch": "hardnet39ds"}).init_weights()
    assert not [handler for handler in runner.logger.handlers if isinstance(handler, FileHandler)]


SYMBOLS = find("ssd224_hardnet29", "symbols").classes


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (SYMBOLS, []),
        (SYMBOLS[:6], []),
        (("a", *SYMBOLS[1:]), ["the layers that depend on the classes start from the file's"]),
    ],
)
def test_classes_of_the_weights_that_a_config_starts_from(tiny, classes, said, monkeypatch):
    cfg = load_config(tiny[0])
    part = SimpleNamespace(classes=classes, loader="train_dataloader", classes_key="metainfo.classes")
    monkeypatch.setattr(training, "parts", lambda *_: [part])
    notes = training._compare_published(cfg)
    assert len(notes) == len(said)
    assert all(text in note for text, note in zip(said, notes, strict=True))


def test_the_same_classes_in_another_order_are_refused(tiny, monkeypatch):
    part = SimpleNamespace(classes=SYMBOLS[::-1], loader="train_dataloader", classes_key="metainfo.classes")
    monkeypatch.setattr(training, "parts", lambda *_: [part])
    with pytest.raises(UserError, match="ssd224_hardnet29:symbols"):
        training._compare_published(load_config(tiny[0]))


RGB = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "bgr_to_rgb": True}
BGR = {"mean": RGB["mean"][::-1], "std": RGB["std"][::-1], "bgr_to_rgb": False}


@pytest.mark.parametrize(
    ("given", "different"),
    [
        ({"type": "DetDataPreprocessor", **RGB}, None),
        ({"type": "mmdet.DetDataPreprocessor", **RGB}, None),
        ({"type": "SegDataPreProcessor", **RGB, "size": (64, 64)}, None),
        ({"type": "DetDataPreprocessor", **BGR}, "channels"),
        ({"type": "DetDataPreprocessor", **RGB, "std": [1.0, 1.0, 1.0]}, "std"),
        ({"type": "DetDataPreprocessor", "pad_size_divisor": 32}, "channels, mean, std"),
        ({}, "channels, mean, std"),
        (
            {
                "type": "MultiBranchDataPreprocessor",
                "data_preprocessor": {"type": "DetDataPreprocessor", **RGB},
            },
            None,
        ),
        (
            {
                "type": "MultiBranchDataPreprocessor",
                "data_preprocessor": {"type": "DetDataPreprocessor", **BGR},
            },
            "channels",
        ),
        ({"type": "MyPreprocessor", "mean": 3}, None),
    ],
)
@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ({"pretrained": True}, "hardnet68:published"),
        ({"init_cfg": {"type": "HarDNetPretrained"}}, "hardnet68:published"),
        ({"arch": "hardnet39ds", "pretrained": "tiny_imagenet10"}, "hardnet39ds:tiny_imagenet10"),
        ({"arch": "hardnet39ds", "pretrained": "a.pth"}, "a.pth"),
        ({"arch": "hardnet39ds", "init_cfg": {"type": "Pretrained", "checkpoint": "a.pth"}}, "a.pth"),
    ],
)
def test_other_input_than_that_of_a_pretrained_trunk_is_told(
    backbone, name, given, different, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if name == "a.pth":
        torch.save(create_model("hardnet39ds", num_classes=3).state_dict(), "a.pth")
    backbone = {"type": "HarDNet", "arch": "hardnet68", **backbone}
    cfg = Config({"model": {"type": "FCOS", "data_preprocessor": given, "backbone": backbone}})
    notes = training._compare_trunks(cfg)
    if different is None:
        assert notes == []
    else:
        assert notes == [
            f"{name}: model.data_preprocessor has other {different} than the trunk was trained with: set "
            "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True"
        ]


@pytest.mark.parametrize(
    "backbone",
    [
        {"type": "HarDNet", "arch": "hardnet68"},
        {"type": "HarDNet", "arch": "hardnet68", "pretrained": "no such file"},
        {
            "type": "CSPNeXt",
            "arch": "P5",
            "init_cfg": {"type": "Pretrained", "checkpoint": "https://a/b.pth"},
        },
    ],
)
def test_nothing_is_told_of_other_backbones(backbone):
    assert training._compare_trunks(Config({"model": {"type": "FCOS", "backbone": backbone}})) == []
    own = load_config("demo_ssd224_shapes")
    assert training._compare_trunks(own) == []


def test_the_text_of_a_config_is_formatted_once(toy_train, monkeypatch):
    """yapf takes a second for a long config, and mmengine asks for the text at every checkpoint."""
    from mmengine.config import config

    texts, format_code = [], config.FormatCode

    def count(text, **options):
        texts.append(text)
        return format_code(text, **options)

    monkeypatch.setattr(config, "FormatCode", count)
    runner, _ = toy_train(toy_config(epochs=3))
    assert len(texts) == 2  # and that of the copy in the work dir
    first = runner.cfg.pretty_text
    runner.cfg.train_cfg.max_epochs = 7
    assert "max_epochs=7" in runner.cfg.pretty_text != first
