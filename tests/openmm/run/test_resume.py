"""A run that is killed and resumed ends where an uninterrupted one ends, bit for bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DATASETS, HOOKS, METRICS
from mmengine.visualization import Visualizer
from toy_runs import ToyNumbers, assert_identical, toy_config

import hardnet_suite.openmm  # noqa: F401  (lets torch.load read mmengine's log buffers)
from hardnet_suite.cli import main
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.sampling import ResumableBatchSampler, SeededDataset
from hardnet_suite.openmm.run.hooks import Stopped
from hardnet_suite.openmm.run.loops import ResumableEpochLoop


@pytest.fixture
def here(capfd):
    """Trains in this process; returns (exit status, stdout, stderr)."""

    def train(*arguments: object) -> tuple[int, str, str]:
        for shared in (MMLogger, MessageHub, Visualizer):  # by runs of one second
            shared._instance_dict.clear()
        capfd.readouterr()
        status = main(["train", *map(str, arguments)])
        return status, *capfd.readouterr()

    return train


def wait_for(path, process, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read()[-4000:]
        assert time.monotonic() < end, f"no {path.name} after {seconds} s"
        time.sleep(0.005)


def test_killed_in_mid_epoch_and_resumed_is_bit_for_bit_the_same(tiny, launch, run, here, tmp_path):
    config, data = tiny
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    common = ["tools/train.py", config, "--data-root", data, "--seed", 7, "--device", "cpu"]
    run(*common, "--work-dir", whole)

    process = launch(*common, "--work-dir", broken, start_new_session=True)
    wait_for(broken / "iter_8.pth", process, 300)  # 6 iterations an epoch: this one lies in the second
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "epoch_2.pth").exists()
    meta = torch.load(broken / "iter_8.pth", weights_only=False)["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 8)

    run(*common, "--work-dir", broken, "--resume")
    ends = [torch.load(folder / "epoch_2.pth", weights_only=False) for folder in (whole, broken)]
    assert ends[0]["meta"]["iter"] == 12
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert_identical(ends[0][part], ends[1][part], part)
    assert not list(broken.glob("iter_*.pth"))
    assert not list(broken.glob(".*.tmp"))

    for folder in (whole, broken):
        assert list(folder.glob("*/vis_data/scalars.json"))
    other = ["--work-dir", broken, "--resume", "--cfg-options", "train_dataloader.batch_size=3"]
    status, _, err = here(*common[1:], *other)
    assert status == 2
    assert "an epoch has 6 batches in the checkpoint, but 4 in this run" in err.splitlines()[-1]

    changed = torch.load(whole / "epoch_1.pth", weights_only=False)["state_dict"]
    assert any(not torch.equal(changed[key], value) for key, value in ends[0]["state_dict"].items())


class Numbers:
    """A data set of one random number a sample."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> float:
        return torch.rand(()).item()


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    data = SeededDataset(Numbers(), seed=3)
    value = data[(2, 4)]
    torch.rand(10)
    assert data[(2, 4)] == value
    assert len({value, data[(1, 4)], data[(2, 3)], SeededDataset(Numbers(), seed=4)[(2, 4)]}) == 4


@pytest.mark.parametrize("start", [0, 1, 3])
def test_batches_begin_where_they_are_told_to(start):
    sampler = torch.utils.data.SequentialSampler(range(7))
    sampler.epoch = 0
    batches = ResumableBatchSampler(sampler, batch_size=2)
    batches.epoch = 5
    everything = list(batches)
    assert everything[0] == [(5, 0), (5, 1)]
    assert len(everything) == len(batches) == 4
    batches.start = start
    assert list(batches) == everything[start:]


def test_an_epoch_killed_before_its_validation_is_validated_on_resuming(tiny, here, tmp_path):
    config, data = tiny
    common = [config, "--data-root", data, "--device", "cpu", "--work-dir", tmp_path, "--verbose"]
    options = ["--cfg-options", "train_cfg.max_epochs=1", "train_dataloader.batch_size=6"]
    (_, first, _), (_, again, _) = here(*common, *options), here(*common, *options, "--resume")
    for output in (first, again):
        assert output.count("coco/bbox_mAP:") == 1
    assert "Epoch(train)" not in again


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_terminated_run_saves_and_resumes_bit_for_bit(tiny, launch, run, tmp_path, workers):
    """SIGTERM to all processes of the group, as schedulers and torchrun send it."""
    config, data = tiny
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = ["--cfg-options", f"train_dataloader.num_workers={workers}"]
    common = ["tools/train.py", config, "--data-root", data, "--seed", 7, "--device", "cpu"]
    run(*common, "--work-dir", whole, *options)

    process = launch(*common, "--work-dir", broken, *options, start_new_session=True)
    wait_for(broken / "iter_4.pth", process, 300)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    saved = max(broken.glob("*_*.pth"), key=lambda path: path.stat().st_mtime_ns)
    assert f"interrupted: the run is saved in {saved}; --resume resumes it" in output
    run(*common, "--work-dir", broken, "--resume", *options)
    ends = [torch.load(folder / "epoch_2.pth", weights_only=False) for folder in (whole, broken)]
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert_identical(ends[0][part], ends[1][part], part)


@HOOKS.register_module()
class StopIn(Hook):
    event: threading.Event

    def __init__(self, iteration: int):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter + 1 == self.iteration:
            self.event.set()


@HOOKS.register_module()
class StopInValidation(Hook):
    event: threading.Event

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.event.set()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_that_is_stopped_in_validation_loses_no_epoch(toy_train, monkeypatch, resumed):
    """Also where its epoch was not to be saved; the weights in training are saved, not those validated."""

    def config(*hooks: str, epochs: int = 2):
        cfg = toy_config(
            epochs=epochs,
            val_cfg={"type": "ValLoop"},
            val_dataloader={"batch_size": 2, "num_workers": 0, "dataset": {"type": "ToyNumbers"}},
            val_evaluator={"type": "NoScore"},
        )
        cfg.val_dataloader.sampler = {"type": "DefaultSampler", "shuffle": False}
        cfg.default_hooks.checkpoint.interval = 2
        cfg.custom_hooks = [{"type": "EMAHook", "momentum": 0.1}, *({"type": kind} for kind in hooks)]
        return cfg

    toy_train(config(), "whole")
    stop = threading.Event()
    monkeypatch.setattr(StopInValidation, "event", stop, raising=False)
    with pytest.raises(Stopped, match=r"the run is saved in .*epoch_1\.pth"):
        toy_train(config("StopInValidation"), stop=stop)
    if resumed:  # in the validation again
        stop.clear()
        with pytest.raises(Stopped, match=r"the run is saved in .*epoch_1\.pth"):
            toy_train(config("StopInValidation"), resume=True, stop=stop)
    toy_train(config(), resume=True)
    ends = [
        torch.load(toy_train.folder(name) / "epoch_2.pth", weights_only=False) for name in ("whole", "work")
    ]
    for part in ("state_dict", "ema_state_dict", "optimizer"):
        assert_identical(*(end[part] for end in ends), part)


@METRICS.register_module()
class Worse(BaseMetric):
    """A score that falls from its first value on: by the epoch, however often it is asked for."""

    epoch = 0

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        return {"score": -self.epoch}


@HOOKS.register_module()
class TellEpoch(Hook):
    def before_val(self, runner) -> None:
        Worse.epoch = runner.epoch


def scored_config(*hooks: str):
    """Four epochs, of which the first is the best, with all that goes by scores."""
    cfg = toy_config(
        epochs=4,
        schedule=[{"type": "ReduceOnPlateauLR", "monitor": "score", "rule": "greater", "patience": 1}],
        val_cfg={"type": "ValLoop"},
        val_dataloader={"batch_size": 2, "num_workers": 0, "dataset": {"type": "ToyNumbers"}},
        val_evaluator={"type": "Worse"},
    )
    cfg.val_dataloader.sampler = {"type": "DefaultSampler", "shuffle": False}
    cfg.default_hooks.checkpoint.update(save_best="score", rule="greater", max_keep_ckpts=-1)
    stopping = {"type": "EarlyStoppingHook", "monitor": "score", "rule": "greater", "patience": 3}
    cfg.custom_hooks = [stopping, {"type": "TellEpoch"}]
    cfg.custom_hooks += [{"type": kind, "iteration": 6} for kind in hooks]
    return cfg


@pytest.mark.parametrize("loop", ["ResumableEpochLoop", "EpochBasedTrainLoop"])
def test_a_best_epochs_checkpoint_has_a_score_that_resuming_does_not_repeat(toy_train, loop):
    cfg = scored_config()
    cfg.train_cfg.type = loop
    cfg.train_cfg.max_epochs = 2
    toy_train(cfg)
    (schedule,) = torch.load(toy_train.folder() / "epoch_1.pth", weights_only=False)["param_schedulers"]
    assert schedule["last_step"] == (-1 if loop == "ResumableEpochLoop" else 0)


@pytest.mark.parametrize("width", [{}, {"norm_decay_mult": 0.0}])
def test_a_score_counts_once_however_often_its_epoch_is_validated(toy_train, monkeypatch, width):
    """The checkpoint of the best epoch is saved again after its validation, which resuming repeats."""

    def config(*hooks: str):
        cfg = scored_config(*hooks)
        cfg.optim_wrapper.paramwise_cfg = width
        return cfg

    toy_train(config(), "whole")
    monkeypatch.setattr(StopIn, "event", stop := threading.Event(), raising=False)
    with pytest.raises(Stopped):
        toy_train(config("StopIn"), stop=stop)
    for path in toy_train.folder().glob("iter_*.pth"):
        path.unlink()  # as if killed there
    toy_train(config(), resume=True)
    ends = [
        torch.load(toy_train.folder(name) / "epoch_4.pth", weights_only=False) for name in ("whole", "work")
    ]
    for part in ("optimizer", "param_schedulers", "state_dict"):
        assert_identical(*(end[part] for end in ends), part)
    counts = [end["message_hub"]["runtime_info"]["early_stopping"] for end in ends]
    assert counts[0] == counts[1] == [[2, -1.0]]
    assert ends[0]["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.01)


@DATASETS.register_module()
class ToyRandom(ToyNumbers):
    """Its samples are drawn."""

    def __getitem__(self, index: int) -> dict:
        return {"inputs": torch.tensor([index, torch.rand(()).item()])}


@HOOKS.register_module()
class LookAtSamples(Hook):
    def before_train(self, runner) -> None:
        runner.samples = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        runner.samples += [tuple(inputs.tolist()) for inputs in data_batch["inputs"]]


def random_config(epochs=2, **sampler):
    cfg = toy_config(epochs=epochs)
    cfg.train_dataloader.dataset.type = "ToyRandom"
    cfg.train_dataloader.sampler.update(sampler)
    cfg.default_hooks.checkpoint.update(every_iters=3, max_keep_ckpts=-1)
    cfg.custom_hooks = [{"type": "LookAtSamples"}]
    return cfg


def order(runner):
    return [index for index, _ in runner.samples]


def test_the_seed_of_the_sampler_is_that_of_the_config(toy_train):
    """The run's own seed changes the augmentation alone."""
    runs = [toy_train(random_config(1, seed=seed))[0] for seed in (None, 0, 1, 2)]
    assert order(runs[0]) == order(runs[1])
    assert len({tuple(order(run)) for run in runs}) == 3
    cfg = random_config(1, seed=1)
    cfg.randomness.seed = 5
    other, _ = toy_train(cfg)
    assert order(other) == order(runs[2])
    assert other.samples != runs[2].samples


def test_ranks_with_seeds_of_their_own_share_the_order(toy_train, monkeypatch):
    plain, _ = toy_train(random_config(1))
    monkeypatch.setattr("mmengine.runner.utils.get_rank", lambda: 1)
    monkeypatch.setattr("hardnet_suite.openmm.run.loops.get_rank", lambda: 1)
    cfg = random_config(1)
    cfg.randomness.diff_rank_seed = True
    second, _ = toy_train(cfg)
    assert second.seed == plain.seed + 1
    assert order(second) == order(plain)
    assert second.samples != plain.samples


@pytest.mark.parametrize("seeds", [(1, 2), (None, 1), (1, None)])
def test_another_seed_of_the_sampler_is_refused_within_an_epoch(toy_train, seeds):
    cfg = random_config(2, seed=seeds[0])
    stop = threading.Event()
    cfg.custom_hooks = [{"type": "StopIn", "iteration": 6}]
    StopIn.event = stop
    with pytest.raises(KeyboardInterrupt):
        toy_train(cfg, stop=stop)
    with pytest.raises(UserError, match=rf"within an epoch: the seed of the sampler is {seeds[0] or 0} in"):
        toy_train(random_config(2, seed=seeds[1]), resume=True)
    runner, _ = toy_train(random_config(2, seed=seeds[0]), resume=True)
    whole, _ = toy_train(random_config(2, seed=seeds[0]), "whole")
    assert runner.samples == whole.samples[12:]


def test_without_the_hook_of_the_sampler_the_augmentation_differs_by_epoch(toy_train):
    cfg = random_config(2)
    cfg.default_hooks.sampler_seed = None
    runner, _ = toy_train(cfg)
    assert order(runner)[:8] == order(runner)[8:]  # as mmengine has it
    assert not set(runner.samples[:8]) & set(runner.samples[8:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_batch_per_epoch": 2}, r"num_batch_per_epoch cannot be resumed .*dataset\.indices"),
        (
            {"drop_last": True, "batch_sampler": {"type": "mmdet.AspectRatioBatchSampler"}},
            r"drop_last=True has no effect on its batch_sampler: .*batch_sampler\.drop_last=True",
        ),
    ],
)
def test_options_of_a_loader_that_its_loop_cannot_follow_are_refused(toy_train, options, message):
    cfg = toy_config(epochs=1)
    cfg.train_dataloader.update(options)
    with pytest.raises(UserError, match=rf"train_dataloader\.{message}"):
        toy_train(cfg)


def test_mmengines_own_loop_takes_a_number_of_batches(toy_train):
    cfg = toy_config(epochs=2)
    cfg.train_dataloader.num_batch_per_epoch = 2
    cfg.train_cfg.type = "EpochBasedTrainLoop"
    runner, _ = toy_train(cfg)
    assert runner.iter == 4


@pytest.mark.parametrize("kind", ["MultiSourceSampler", "InfiniteSampler"])
@pytest.mark.parametrize("batches", [None, {"type": "mmdet.AspectRatioBatchSampler"}])
@pytest.mark.parametrize("loop", ["EpochBasedTrainLoop", "ResumableEpochLoop"])
def test_samplers_that_never_end_an_epoch_are_refused(toy_train, kind, batches, loop):
    cfg = toy_config(epochs=1)
    cfg.train_cfg.type = loop
    data = cfg.train_dataloader.dataset
    cfg.train_dataloader.update(batch_sampler=batches, sampler={"type": kind})
    if kind == "MultiSourceSampler":
        cfg.train_dataloader.dataset = {"type": "ToyJoined", "datasets": [data, data]}
        options = {"type": "mmdet.MultiSourceSampler", "batch_size": 2, "source_ratio": [1, 1]}
        cfg.train_dataloader.sampler = options
    with pytest.raises(UserError, match=f"sampler is {kind}, which has no epochs"):
        toy_train(cfg)


@DATASETS.register_module()
class ToyJoined(torch.utils.data.ConcatDataset):
    def __init__(self, datasets):
        super().__init__([DATASETS.build(dataset) for dataset in datasets])
        self.metainfo = self.datasets[0].metainfo


@HOOKS.register_module()
class LookAtValidation(Hook):
    def before_train(self, runner) -> None:
        runner.validated = []

    def before_val(self, runner) -> None:
        runner.validated.append(runner.epoch)


@METRICS.register_module()
class NoScore(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        return {}


@pytest.mark.parametrize(("first", "then", "validated"), [(10, 1, [4, 5]), (1, 10, [5])])
def test_a_changed_interval_of_validation_holds_at_the_resumed_epoch(toy_train, first, then, validated):
    def config(epochs):
        cfg = toy_config(
            epochs=epochs,
            val_cfg={"type": "ValLoop"},
            val_dataloader={"batch_size": 2, "num_workers": 0, "dataset": {"type": "ToyNumbers"}},
            val_evaluator={"type": "NoScore"},
        )
        cfg.val_dataloader.sampler = {"type": "DefaultSampler", "shuffle": False}
        cfg.train_cfg.update(val_interval=first, dynamic_intervals=[(2, then)])
        cfg.custom_hooks = [{"type": "LookAtValidation"}]
        return cfg

    whole, _ = toy_train(config(5), "whole")
    assert [epoch for epoch in whole.validated if epoch >= 4] == validated
    toy_train(config(4))
    runner, _ = toy_train(config(5), resume=True)
    assert runner.validated == validated


@pytest.mark.parametrize(
    ("step", "stop", "workers", "persistent", "warns"),
    [
        ("CachedMixUp", 6, 0, False, True),
        ("CachedMixUp", 4, 0, False, True),
        ("mmdet.CachedMixUp", 6, 1, False, True),
        ("CachedMixUp", 4, 1, False, False),
        ("CachedMixUp", 4, 1, True, True),
        ("mmdet.BatchSyncRandomResize", 4, 1, False, True),
        ("Resize", 6, 0, True, False),
        ("CachedMixUp", 0, 0, False, False),
    ],
)
def test_augmentation_that_depends_on_earlier_iterations_is_told_on_resuming(
    step, stop, workers, persistent, warns
):
    lines: list[str] = []
    is_size = step.endswith("RandomResize")
    cfg = {
        "model": {"data_preprocessor": {"batch_augments": [{"type": step}] if is_size else []}},
        "train_dataloader": {"dataset": {"pipeline": [] if is_size else [{"type": step}]}},
    }
    batches = torch.utils.data.DataLoader(
        range(4), num_workers=workers, persistent_workers=persistent and workers > 0
    )
    loop = SimpleNamespace(
        dataloader=batches,
        runner=SimpleNamespace(cfg=cfg, logger=SimpleNamespace(warning=lines.append)),
        _iter=stop,
        _epoch=stop // 4,
    )
    ResumableEpochLoop._warn_of_lost_state(loop)
    assert len(lines) == warns
    if warns:
        kind = step.removeprefix("mmdet.")
        assert lines[0].startswith(f"{kind}: what earlier iterations left there is in no checkpoint")
