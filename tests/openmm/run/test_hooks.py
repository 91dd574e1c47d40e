"""Which checkpoints a run can go on from."""

from __future__ import annotations

import threading

import pytest
import torch
from mmcv.transforms import BaseTransform, Compose
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MessageHub
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, TRANSFORMS
from torch.utils.data import BatchSampler
from toy_runs import ToyNumbers, assert_identical, toy_config

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.hooks import Stopped
from hardnet_suite.weights import read_checkpoint
from hardnet_suite.weights.runs import newest_checkpoint


def test_checkpoints_of_another_run_are_left_alone(toy_train):
    """A run removes its own old epochs; those that lie in its folder already are somebody's work."""
    toy_train(toy_config(epochs=2))
    folder = toy_train.folder()
    others = {f"epoch_{k}.pth": folder.joinpath("epoch_2.pth").read_bytes() + bytes(k) for k in (3, 5, 50)}
    for name, content in others.items():
        (folder / name).write_bytes(content)
    cfg = toy_config(epochs=8)
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=1)
    toy_train(cfg)
    kept = sorted(path.name for path in folder.glob("epoch_*.pth"))
    assert kept == sorted([*others, "epoch_1.pth", "epoch_8.pth"])
    assert all((folder / name).read_bytes() == content for name, content in others.items())


def test_a_resumed_run_removes_the_old_epochs_of_its_first_part(toy_train):
    cfg = toy_config(epochs=3)
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=2)
    toy_train(cfg)
    folder = toy_train.folder()
    assert sorted(path.name for path in folder.glob("epoch_*.pth")) == ["epoch_2.pth", "epoch_3.pth"]
    cfg = toy_config(epochs=5)
    cfg.default_hooks.checkpoint.update(max_keep_ckpts=2)
    toy_train(cfg, resume=True)
    assert sorted(path.name for path in folder.glob("epoch_*.pth")) == ["epoch_4.pth", "epoch_5.pth"]


@pytest.mark.parametrize("after", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("interval", [1, 5])
def test_a_stop_saves_the_iteration_it_ends_at(toy_train, after, interval):
    """Within an epoch and at its end (4 iterations each), whether that epoch's checkpoint is due or not."""
    stop = threading.Event()
    cfg = toy_config(epochs=4)
    cfg.default_hooks.checkpoint["interval"] = interval
    cfg.custom_hooks = [{"type": "StopAfter", "iterations": after}]
    StopAfter.event = stop
    with pytest.raises(Stopped, match=r"the run is saved in .*pth; --resume resumes it"):
        toy_train(cfg, stop=stop)
    saved = torch.load(newest_checkpoint(toy_train.folder()).path, weights_only=False)
    assert saved["meta"]["iter"] == after
    cfg.custom_hooks = []
    runner, _ = toy_train(cfg, resume=True)
    assert runner.iter == 16


@pytest.mark.parametrize("kind", ["CheckpointHook", "ResumableCheckpointHook"])
@pytest.mark.parametrize(("after", "epochs"), [(1, 0), (3, 0), (4, 1), (7, 1), (8, 2)])
def test_a_stop_of_mmengines_loop_keeps_whole_epochs(toy_train, kind, after, epochs):
    """It can begin an epoch again, but not go on within one."""
    cfg = toy_config(epochs=4)
    cfg.train_cfg.type = "EpochBasedTrainLoop"
    cfg.default_hooks.checkpoint = {"type": kind, "interval": 1}
    cfg.custom_hooks = [{"type": "StopAfter", "iterations": after}]
    StopAfter.event = stop = threading.Event()
    with pytest.raises(
        Stopped, match=rf"epoch_{epochs}\.pth; --resume" if epochs else "nothing was saved yet"
    ):
        toy_train(cfg, stop=stop)
    assert len([*toy_train.folder().glob("*.pth")]) == epochs
    cfg.custom_hooks = []
    runner, _ = toy_train(cfg, resume=True)
    assert runner.iter == 16


def test_a_stop_of_a_loop_of_iterations_saves_the_iteration_it_ends_at(toy_train):
    cfg = toy_config(log_processor={"by_epoch": False})
    cfg.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 6}
    cfg.train_dataloader.sampler.type = "InfiniteSampler"
    cfg.default_hooks.checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": 5}
    cfg.custom_hooks = [{"type": "StopAfter", "iterations": 3}]
    StopAfter.event = stop = threading.Event()
    with pytest.raises(Stopped, match=r"the run is saved in .*iter_3\.pth; --resume resumes it"):
        toy_train(cfg, stop=stop)
    cfg.custom_hooks = []
    runner, _ = toy_train(cfg, resume=True)
    assert runner.iter == 6


def test_mmengines_loop_does_not_resume_within_an_epoch(toy_train):
    cfg = toy_config(epochs=2)
    cfg.default_hooks.checkpoint.every_iters = 3
    cfg.custom_hooks = [{"type": "StopAfter", "iterations": 6}]
    StopAfter.event = stop = threading.Event()
    with pytest.raises(Stopped, match=r"iter_6\.pth"):
        toy_train(cfg, stop=stop)
    cfg.train_cfg.type, cfg.custom_hooks = "EpochBasedTrainLoop", []
    with pytest.raises(UserError, match="every_iters would have no effect: EpochBasedTrainLoop"):
        toy_train(cfg, "another")
    cfg.default_hooks.checkpoint.every_iters = 0
    with pytest.raises(
        UserError, match=r"iter_6\.pth is of the middle of an epoch, which EpochBasedTrainLoop"
    ):
        toy_train(cfg, resume=True)
    cfg.train_cfg.max_epochs = 3
    cfg.train_dataloader.batch_size = 4  # half as many batches, from the end of the first epoch on
    toy_train(cfg, "other", resume=str(toy_train.folder() / "epoch_1.pth"))
    runner, _ = toy_train(cfg, "other", resume=str(toy_train.folder("other") / "epoch_3.pth"))
    assert runner.iter == 4 + 2 + 2
    logs = [file.read_text() for file in toy_train.folder("other").glob("*/*.log")]
    assert any("EpochBasedTrainLoop (train_cfg) does not resume random numbers" in log for log in logs)


@pytest.mark.parametrize("iteration", [6, 8])
def test_mmengines_checkpoints_of_iterations_are_within_epochs(toy_train, iteration):
    """Also the one of an epoch's last iteration, which has the number of that epoch."""
    cfg = toy_config(epochs=3)
    cfg.train_cfg.type = "EpochBasedTrainLoop"
    cfg.default_hooks.checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": 2}
    toy_train(cfg)
    checkpoint = toy_train.folder() / f"iter_{iteration}.pth"
    with pytest.raises(UserError, match=rf"iter_{iteration}\.pth is of the middle of an epoch, which Epoch"):
        toy_train(cfg, "other", resume=str(checkpoint))
    cfg.train_cfg.type = "ResumableEpochLoop"
    cfg.default_hooks.checkpoint = {"type": "ResumableCheckpointHook"}
    runner, _ = toy_train(cfg, "other", resume=str(checkpoint))
    assert runner.iter == 12


def test_without_a_request_nothing_stops(toy_train):
    runner, _ = toy_train(toy_config(epochs=2), stop=threading.Event())
    assert runner.iter == 8


def test_saving_by_iterations_is_refused(toy_train):
    cfg = toy_config(epochs=1)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    with pytest.raises(UserError, match=r"checkpoint\.by_epoch is False.*set checkpoint\.every_iters"):
        toy_train(cfg)


@pytest.mark.parametrize("kind", ["ResumableCheckpointHook", "CheckpointHook"])
@pytest.mark.parametrize("loop", [{"type": "IterBasedTrainLoop"}, {"by_epoch": False}])
def test_saving_by_epochs_is_refused_where_the_loop_has_none(toy_train, kind, loop):
    cfg = toy_config()
    cfg.train_cfg = {**loop, "max_iters": 4}
    cfg.default_hooks.checkpoint = {"type": kind, "interval": 1}
    with pytest.raises(
        UserError, match=r"IterBasedTrainLoop has no epochs .*ResumableEpochLoop.*by_epoch=False"
    ):
        toy_train(cfg)
    assert not list(toy_train.folder().glob("*.pth"))


def test_a_training_by_iterations_is_saved_and_resumed_by_mmengines_hook(toy_train):
    cfg = toy_config()
    cfg.default_hooks.checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": 3}
    for most, saved in (
        (4, ["iter_3.pth", "iter_4.pth"]),
        (7, ["iter_3.pth", "iter_4.pth", "iter_6.pth", "iter_7.pth"]),
    ):
        cfg.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": most}
        runner, rates = toy_train(cfg, resume=True)
        assert runner.iter == most
        assert len(rates) == (4 if most == 4 else 3)
        assert sorted(path.name for path in toy_train.folder().glob("*.pth")) == saved
        assert newest_checkpoint(toy_train.folder()).path.name == saved[-1]


@HOOKS.register_module()
class OwnAverage(EMAHook):
    """A hook of the user's."""


CHECKPOINTS = {"type": "CheckpointHook", "interval": 1}


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        (["EMAHook", "EMAHook"], r"2 hooks of the type EMAHook .*averaged weights in place.*keep one"),
        (["EMAHook", "OwnAverage"], "2 hooks of the type EMAHook"),
        (["ParamSchedulerHook"], r"2 hooks of the type ParamSchedulerHook .*taken twice"),
        (["ResumableCheckpointHook"], r"2 hooks of the type ResumableCheckpointHook .*remove checkpoints"),
        ([{**CHECKPOINTS, "save_best": "loss", "rule": "less"}], "two checkpoint hooks .*have save_best"),
    ],
)
def test_hooks_that_undo_each_other_are_refused(toy_train, hooks, message):
    cfg = toy_config()
    cfg.default_hooks.checkpoint.update(save_best="mIoU", rule="greater")
    cfg.custom_hooks = [hook if isinstance(hook, dict) else {"type": hook} for hook in hooks]
    with pytest.raises(UserError, match=message):
        toy_train(cfg)
    assert not list(toy_train.folder().glob("*.pth"))


def test_averaged_weights_among_the_default_hooks_are_found(toy_train):
    cfg = toy_config()
    cfg.default_hooks.average = {"type": "EMAHook"}
    cfg.custom_hooks = [{"type": "EMAHook"}]
    with pytest.raises(UserError, match="2 hooks of the type EMAHook"):
        toy_train(cfg)


def test_hooks_that_do_not_meet_stand_beside_each_other(toy_train, tmp_path):
    """One average, checkpoints in another folder, and schedules that the user names himself."""
    cfg = toy_config(epochs=1)
    cfg.default_hooks.param_scheduler = None
    others = {**CHECKPOINTS, "out_dir": str(tmp_path / "others")}
    cfg.custom_hooks = [{"type": "EMAHook"}, {"type": "ParamSchedulerHook"}, others]
    runner, _ = toy_train(cfg)
    assert runner.iter == 4


@HOOKS.register_module()
class StopAfter(Hook):
    event: threading.Event

    def __init__(self, iterations: int):
        self.iterations = iterations

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter + 1 == self.iterations:
            self.event.set()


SCORES = (0.5, 0.7, 0.6, 0.6, 0.6, 0.6, 0.9, 0.9)  # of the epochs


@METRICS.register_module()
class EpochScore(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results) -> dict:
        return {"score": SCORES[MessageHub.get_current_instance().get_info("epoch")]}


def stopped_early(patience: int = 3, **changes):
    """Ends after epoch 5: its score is the third that is no better than that of epoch 2."""
    cfg = toy_config(
        epochs=8,
        val_cfg={"type": "ValLoop"},
        val_dataloader={"batch_size": 2, "num_workers": 0, "dataset": {"type": "ToyNumbers"}},
        val_evaluator={"type": "EpochScore"},
        **changes,
    )
    cfg.val_dataloader.sampler = {"type": "DefaultSampler", "shuffle": False}
    early = {"type": "EarlyStoppingHook", "monitor": "score", "rule": "greater", "min_delta": 0.01}
    cfg.custom_hooks = [{**early, "patience": patience}]
    return cfg


@pytest.mark.parametrize("after", [8, 10, 12, 13, 16, 19, 20])
def test_early_stopping_goes_on_counting_after_a_resume(toy_train, after):
    whole, _ = toy_train(stopped_early(), "whole")
    assert whole.epoch == 5
    cfg = stopped_early()
    cfg.custom_hooks = [*cfg.custom_hooks, {"type": "StopAfter", "iterations": after}]
    StopAfter.event = stop = threading.Event()
    with pytest.raises(Stopped):
        toy_train(cfg, stop=stop)
    runner, _ = toy_train(stopped_early(), resume=True)
    assert runner.epoch == 5
    ends = [read_checkpoint(toy_train.folder(name) / "epoch_5.pth") for name in ("whole", "work")]
    assert_identical(*(end["state_dict"] for end in ends))


def test_a_training_that_is_stopped_early_saves_its_last_epoch(toy_train):
    cfg = stopped_early()
    cfg.default_hooks.checkpoint["interval"] = 4
    runner, _ = toy_train(cfg)
    newest = newest_checkpoint(toy_train.folder()).path
    assert newest.name == "epoch_5.pth"
    saved = read_checkpoint(newest)
    assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == (5, 20)
    assert_identical(saved["state_dict"], runner.model.state_dict())
    again, _ = toy_train(cfg, resume=True)  # its validation is the third without a better score, again
    assert again.epoch == 5


PLATEAU = {"type": "ReduceOnPlateauLR", "monitor": "scores", "rule": "greater"}


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        (r"checkpoint\.save_best is 'scores'", {"default_hooks.checkpoint.save_best": "scores"}),
        (r"checkpoint\.save_best is 'scores'", {"default_hooks.checkpoint.save_best": ["score", "scores"]}),
        (r"EarlyStoppingHook\.monitor is 'scores'", {"custom_hooks.0.monitor": "scores"}),
        ("the monitor of a ReduceOnPlateau schedule is 'scores'", {"param_scheduler": [PLATEAU]}),
    ],
)
@pytest.mark.parametrize("interval", [1, 4])
def test_a_metric_that_the_validation_does_not_give(toy_train, option, changes, interval):
    """The epoch is saved, also where it is not due, with the weights in training."""
    cfg = stopped_early()
    cfg.default_hooks.checkpoint.update(interval=interval, rule="greater")
    cfg.merge_from_dict(changes)
    cfg.custom_hooks.append({"type": "EMAHook", "momentum": 0.5})
    message = (
        rf"^{option}, which the validation .*did you mean score\? it gives score; .*epoch_1\.pth: .*--resume$"
    )
    for resume in (False, True):
        with pytest.raises(UserError, match=message):
            toy_train(cfg, resume=resume)
    saved = read_checkpoint(toy_train.folder() / "epoch_1.pth")
    assert saved["meta"]["iter"] == 4
    weights = {key: value for key, value in saved["state_dict"].items() if key == "layer.weight"}
    trained = {"layer.weight": saved["ema_state_dict"]["module.layer.weight"]}
    cfg = stopped_early(patience=100)
    cfg.custom_hooks.append({"type": "EMAHook", "momentum": 0.5})
    cfg.default_hooks.checkpoint.update(save_best=["score"], rule="greater")
    if "param_scheduler" in changes:
        cfg.param_scheduler = [PLATEAU | {"monitor": "score"}]
    toy_train(cfg, "whole")
    whole = read_checkpoint(toy_train.folder("whole") / "epoch_8.pth")
    toy_train(cfg, resume=True)
    assert_identical(read_checkpoint(toy_train.folder() / "epoch_8.pth")["state_dict"], whole["state_dict"])
    assert not torch.equal(weights["layer.weight"], trained["layer.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"save_best": "score", "rule": "bigger"},
            "default_hooks.checkpoint: rule must be greater, less or None",
        ),
        ({"save_best": "of_mine"}, "default_hooks.checkpoint: Cannot infer the rule for key of_mine"),
    ],
)
def test_a_rule_of_the_best_checkpoint(toy_train, changes, message):
    cfg = stopped_early()
    cfg.default_hooks.checkpoint.update(changes)
    with pytest.raises(UserError, match=f"^{message}"):
        toy_train(cfg)


def test_counts_of_other_early_stopping_are_not_taken_over(toy_train):
    cfg = stopped_early()
    toy_train(cfg)
    cfg.custom_hooks = [*cfg.custom_hooks, {**cfg.custom_hooks[0], "patience": 100}]
    runner, _ = toy_train(cfg, resume=True)  # both begin to count at the epoch that is resumed
    assert runner.epoch == 8


@DATASETS.register_module()
class ToyPipeline(ToyNumbers):
    def __init__(self, pipeline=(), **options):
        super().__init__(**options)
        self.pipeline = Compose(pipeline)

    def full_init(self) -> None:
        """For mmengine's wrappers, as the next."""

    def get_data_info(self, index: int) -> dict:
        return {}

    def __getitem__(self, index: int) -> dict:
        return self.pipeline(super().__getitem__(index))


@TRANSFORMS.register_module()
class Note(BaseTransform):
    """Adds ``offset`` to the inputs, so that they tell which pipeline made them."""

    def __init__(self, offset: float):
        self.offset = offset

    def transform(self, results: dict) -> dict:
        return {**results, "inputs": results["inputs"] + self.offset}


@HOOKS.register_module()
class Look(Hook):
    def before_train(self, runner) -> None:
        self.seen = []
        runner.seen = self.seen

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.seen.append(float(torch.stack(data_batch["inputs"])[:, 0].mean()))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_hook_that_switches_the_pipeline_has_an_effect(toy_train, workers, wrapped):
    """mmdet's, of its RTMDet configs; also in a run that is resumed after the switch."""

    def config(epochs: int):
        cfg = toy_config(epochs=epochs)
        data = {"type": "ToyPipeline", "pipeline": [{"type": "Note", "offset": 10}]}
        if wrapped:  # the pipeline of the wrapper is switched, as mmengine has it
            note = {"type": "Note", "offset": 100}
            data = {"type": "mmdet.MultiImageMixDataset", "dataset": data, "pipeline": [note]}
        cfg.train_dataloader.update(dataset=data, num_workers=workers, persistent_workers=bool(workers))
        switch = [{"type": "Note", "offset": 1000}]
        cfg.custom_hooks = [
            {"type": "mmdet.PipelineSwitchHook", "switch_epoch": 1, "switch_pipeline": switch},
            {"type": "Look"},
        ]
        return cfg

    before, after = (111, 1011) if wrapped else (11, 1001)
    runner, _ = toy_train(config(2))
    assert runner.seen == [before] * 4 + [after] * 4
    runner, _ = toy_train(config(3), resume=True)
    assert runner.seen == [after] * 4


@pytest.mark.parametrize("loop", ["ResumableEpochLoop", "EpochBasedTrainLoop"])
@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ({"type": "ToyNumbers"}, {}, "the ToyNumbers has none"),
        ({"type": "RepeatDataset", "times": 1, "dataset": {"type": "ToyPipeline"}}, {}, "RepeatDataset has"),
        ({"type": "ToyPipeline"}, {"num_batch_per_epoch": 2}, "num_batch_per_epoch"),
        (
            {"type": "mmdet.MultiImageMixDataset", "dataset": {"type": "ToyPipeline"}, "pipeline": []},
            {},
            "switches to 1 steps, of which only the first 0 would run: a MultiImageMixDataset",
        ),
    ],
)
def test_a_switch_of_the_pipeline_without_an_effect_is_refused_before_the_training(
    toy_train, loop, dataset, options, message
):
    cfg = toy_config(epochs=2)
    cfg.train_cfg.type = loop
    cfg.train_dataloader.update(dataset=dataset, **options)
    switch = [{"type": "Note", "offset": 1}]
    cfg.custom_hooks = [{"type": "mmdet.PipelineSwitchHook", "switch_epoch": 1, "switch_pipeline": switch}]
    with pytest.raises(UserError, match=message):
        toy_train(cfg)
    assert not list(toy_train.folder().glob("*.pth"))


@pytest.mark.parametrize("wrapped", [False, True])
def test_steps_that_are_skipped_late_are_looked_for_before_the_training(toy_train, wrapped):
    """mmdet's hook of YOLOX finds no MultiImageMixDataset 15 epochs before the end."""
    cfg = toy_config(epochs=2)
    data = {"type": "ToyPipeline", "pipeline": [{"type": "Note", "offset": 10}]}
    if wrapped:
        data = {"type": "mmdet.MultiImageMixDataset", "dataset": data, "pipeline": []}
    cfg.train_dataloader.update(dataset=data)
    cfg.custom_hooks = [{"type": "mmdet.YOLOXModeSwitchHook", "num_last_epochs": 0}]
    with pytest.raises(
        AttributeError if wrapped else UserError,  # the toy model has no head, which the hook changes last
        match="bbox_head" if wrapped else "YOLOXModeSwitchHook skips .* are a ToyPipeline",
    ):
        toy_train(cfg)
    assert bool(list(toy_train.folder().glob("*.pth"))) == wrapped


@HOOKS.register_module()
class SetAttribute(Hook):
    """Sets an attribute of what a path leads to, before the second epoch."""

    def __init__(self, path: str, value: object):
        self.path, self.value = path.split("."), value

    def before_train_epoch(self, runner) -> None:
        target = runner.train_dataloader
        for name in self.path[:-1]:
            target = getattr(target, name)
        if runner.epoch == 1:
            value = Compose(self.value) if isinstance(self.value, list) else self.value
            setattr(target, self.path[-1], value)


def test_a_hook_reaches_the_data_set_in_a_wrapper_by_mmengines_path(toy_train):
    cfg = toy_config(epochs=2)
    data = {"type": "ToyPipeline", "length": 4}
    cfg.train_dataloader.dataset = {"type": "mmengine.RepeatDataset", "times": 2, "dataset": data}
    pipeline = [{"type": "Note", "offset": 10}]
    cfg.custom_hooks = [
        {"type": "SetAttribute", "path": "dataset.dataset.pipeline", "value": pipeline},
        {"type": "Look"},
    ]
    runner, _ = toy_train(cfg)
    assert runner.seen == [1] * 4 + [11] * 4


@HOOKS.register_module()
class LookAtOrder(Hook):
    def before_train(self, runner) -> None:
        runner.order = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        runner.order += [round(8 * float(inputs[1])) for inputs in data_batch["inputs"]]


@pytest.mark.parametrize("path", ["sampler.shuffle", "batch_sampler.sampler.shuffle"])
def test_a_hook_changes_the_sampler_of_the_loader(toy_train, path):
    cfg = toy_config(epochs=2)
    cfg.custom_hooks = [{"type": "SetAttribute", "path": path, "value": False}, {"type": "LookAtOrder"}]
    runner, _ = toy_train(cfg)
    assert runner.order[:8] != list(range(8)) == runner.order[8:]
    assert runner.train_dataloader.sampler is runner.train_dataloader.batch_sampler.sampler


@DATA_SAMPLERS.register_module()
class ToyBatches(BatchSampler):
    def __init__(self, sampler, batch_size, drop_last=False, reverse=False):
        super().__init__(sampler, batch_size, drop_last)
        self.reverse = reverse

    def __iter__(self):
        batches = list(super().__iter__())
        return iter(batches[::-1] if self.reverse else batches)


def test_a_hook_changes_an_option_of_the_batch_sampler(toy_train):
    cfg = toy_config(epochs=2)
    cfg.train_dataloader.sampler.shuffle = False
    cfg.train_dataloader.batch_sampler = {"type": "ToyBatches"}
    path = {"type": "SetAttribute", "path": "batch_sampler.reverse", "value": True}
    cfg.custom_hooks = [path, {"type": "LookAtOrder"}]
    runner, _ = toy_train(cfg)
    assert runner.order[8:] == [6, 7, 4, 5, 2, 3, 0, 1]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("batch_sampler.batch_size", 4, "a hook sets batch_size of the training batches, which Resumable"),
        ("batch_sampler.drop_last", True, "a hook sets drop_last of the training batches"),
        ("batch_sampler.sampler", None, "a hook sets sampler of the training batches"),
        (
            "batch_sampler.reverse",
            True,
            "sets reverse of the training batches, but the BatchSampler has none",
        ),
        ("batch_sampler.wrapped.batch_size", 4, "changed the batches of an epoch from 4 to 2"),
        ("sampler.num_samples", 4, "changed the batches of an epoch from 4 to 2"),
        ("dataset.other", 4, "sets other of the training data, but the ToyNumbers has none"),
    ],
)
def test_what_a_hook_cannot_change_of_the_batches_is_refused(toy_train, path, value, message):
    cfg = toy_config(epochs=2)
    cfg.custom_hooks = [{"type": "SetAttribute", "path": path, "value": value}]
    with pytest.raises(UserError, match=message):
        toy_train(cfg)


def accumulating():
    """12 iterations in epochs of 4 and steps of 3."""
    cfg = toy_config(epochs=3)
    cfg.optim_wrapper.accumulative_counts = 3
    cfg.custom_hooks = [{"type": "EMAHook"}]
    return cfg


@pytest.mark.parametrize(("after", "bf16"), [(2, False), (4, False), (5, True), (6, False), (8, False)])
def test_a_stop_within_an_accumulation_resumes_bit_for_bit(toy_train, after, bf16):
    """Within an epoch, at the end of one (4 and 8), and between two steps (6)."""
    toy_train(accumulating(), "whole", bf16=bf16)
    cfg = accumulating()
    cfg.custom_hooks.append({"type": "StopAfter", "iterations": after})
    StopAfter.event = threading.Event()
    with pytest.raises(Stopped):
        toy_train(cfg, "broken", bf16=bf16, stop=StopAfter.event)
    saved = newest_checkpoint(toy_train.folder("broken")).path
    content = read_checkpoint(saved)
    assert content["meta"]["iter"] == after
    assert ("accumulated_gradients" in content) == (after % 3 != 0)
    toy_train(accumulating(), "broken", bf16=bf16, resume=True)
    ends = [
        torch.load(toy_train.folder(name) / "epoch_3.pth", weights_only=False) for name in ("whole", "broken")
    ]
    for part in ("state_dict", "ema_state_dict", "optimizer"):
        assert_identical(ends[0][part], ends[1][part], part)
    assert "accumulated_gradients" not in ends[0]


def test_a_moved_end_of_the_training_scales_the_accumulated_gradients(toy_train):
    """The last step of 2 epochs is of 2 iterations; of 3 epochs, they begin a step of 3."""
    toy_train(accumulating(), "whole")
    cfg = accumulating()
    cfg.train_cfg.max_epochs = 2
    cfg.custom_hooks.append({"type": "StopAfter", "iterations": 7})
    StopAfter.event = threading.Event()
    with pytest.raises(Stopped):
        toy_train(cfg, "short", stop=StopAfter.event)
    toy_train(accumulating(), "short", resume=True)
    ends = [
        read_checkpoint(toy_train.folder(name) / "epoch_3.pth")["state_dict"] for name in ("whole", "short")
    ]
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counts", [1, 3])
def test_a_checkpoint_without_the_accumulated_gradients_is_told(toy_train, counts):
    """The file of another program does not say whether it has lost some; ours is between two steps.

    With steps of 3, the last one of an epoch of 4 iterations that ends a training is of one.
    """
    cfg = accumulating()
    cfg.train_cfg.max_epochs = 1
    cfg.optim_wrapper.accumulative_counts = counts
    toy_train(cfg)
    path = toy_train.folder() / "epoch_1.pth"
    content = torch.load(path, weights_only=False)
    assert content["meta"].pop("between_steps") is True
    runner, _ = toy_train(accumulating(), resume=True)
    assert runner.iter == 12
    log = "".join(path.read_text() for path in toy_train.folder().glob("*/*.log"))
    assert "lacks the gradients" not in log
    assert (
        "last step was at iteration 4, which is no multiple of optim_wrapper.accumulative_counts=3: " in log
    )
    assert "the first step is of 2 iterations\n" in log
    torch.save(content, path)
    toy_train(accumulating(), "other", resume=str(path))
    log = "".join(path.read_text() for path in toy_train.folder("other").glob("*/*.log"))
    assert "the checkpoint lacks the gradients accumulated in its last 1 iteration " in log
    assert "last step was" not in log


def test_a_finished_training_lacks_no_gradients(toy_train):
    cfg = accumulating()
    cfg.train_cfg.max_epochs = 1
    for resume in (False, True):
        toy_train(cfg, resume=resume)
    log = "".join(path.read_text() for path in toy_train.folder().glob("*/*.log"))
    assert "lacks the gradients" not in log
    assert "the first step is of" not in log


def test_steps_of_another_number_of_iterations_are_refused_in_the_middle_of_one(toy_train):
    cfg = accumulating()
    cfg.custom_hooks.append({"type": "StopAfter", "iterations": 4})
    StopAfter.event = threading.Event()
    with pytest.raises(Stopped):
        toy_train(cfg, stop=StopAfter.event)
    cfg = accumulating()
    cfg.optim_wrapper.accumulative_counts = 2
    with pytest.raises(UserError, match=r"cannot resume: .* step of 3 .*resume with accumulative_counts=3"):
        toy_train(cfg, resume=True)
