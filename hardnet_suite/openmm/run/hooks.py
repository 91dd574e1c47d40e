"""Hooks of the training run: checkpoints that lose nothing, and an end where it diverges."""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, EMAHook, Hook, ParamSchedulerHook
from mmengine.optim.scheduler.param_scheduler import ReduceOnPlateauParamScheduler
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.runner import _SlicedDataset

from hardnet_suite.data.options import require_known
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean
from hardnet_suite.numeric import is_count
from hardnet_suite.openmm.compat import ATOMIC
from hardnet_suite.openmm.models.config import require_settled
from hardnet_suite.openmm.run.checks import any_rank, require_finite_weights
from hardnet_suite.openmm.run.loops import ResumableEpochLoop
from hardnet_suite.openmm.run.surroundings import how_to_resume
from hardnet_suite.outputs import remove_leftovers, require_replaceable
from hardnet_suite.run_folders import saved_checkpoints
from hardnet_suite.weights.tables import few

# of a run, among mmengine's runtime information
_OWN = "own_checkpoints"
_COUNTS = "early_stopping"


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Ends a training that has diverged, before anything of it is saved or scored, on all ranks at once.

    Its priority puts it before the hooks that average the weights, log and save.

    Raises:
        UserError: the loss of an iteration, or a weight before validation, is NaN or infinite.
    """

    priority = "HIGHEST"

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        losses = {
            key: float(value.detach() if isinstance(value, torch.Tensor) else value)
            for key, value in (outputs or {}).items()
            if "loss" in key
        }
        bad = [key for key, value in losses.items() if not math.isfinite(value)]
        if not any_rank(bool(bad)):
            return
        terms = (
            ", ".join(f"{key} is {losses[key]}" for key in bad) or "the loss of another rank is not finite"
        )
        saved = getattr(runner, "last_saved", None)  # mmengine's own runner has none
        kept = f"the last good checkpoint is {saved}" if saved else "no checkpoint has been saved yet"
        raise UserError(
            f"the training has diverged at epoch {runner.epoch + 1}, iteration {runner.iter + 1}: {terms}; "
            f"{kept}; train with a lower learning rate, a longer warm-up or clipped gradients"
        )

    def before_val(self, runner) -> None:
        where = f"the model after iteration {runner.iter}"
        require_finite_weights(runner.model.state_dict(), where)


@HOOKS.register_module()
class KnownMetricsHook(Hook):
    """Ends a training whose config goes by a metric that its validation does not give, after saving it.

    Its priority puts it after the hooks that average the weights and log, before those that go by a metric.

    Raises:
        UserError: the best checkpoint, a schedule or the end of the training depends on such a metric.
    """

    priority = "BELOW_NORMAL"

    def after_val_epoch(self, runner, metrics=None) -> None:
        if not metrics or not isinstance(runner._train_loop, BaseLoop):
            return
        unknown = [(option, name) for option, name in _monitored(runner) if name not in metrics]
        if not unknown:
            return
        _save_if_new(runner, runner.epoch, runner.iter)
        option, name = unknown[0]
        raise UserError(
            f"{option} is {name!r}, which the validation does not give: {did_you_mean(name, metrics)}"
            f"it gives {few(metrics, 8)}; "
            f"{how_to_resume(runner, runner.work_dir)}"
        )


def _monitored(runner) -> Iterator[tuple[str, str]]:
    """The options that name a metric, each with the name."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            for name in hook.key_indicators:
                if name != "auto":
                    yield "checkpoint.save_best", name
        elif isinstance(hook, EarlyStoppingHook):
            yield "EarlyStoppingHook.monitor", hook.monitor
    schedulers = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
    for scheduler in schedulers:
        if isinstance(scheduler, ReduceOnPlateauParamScheduler):
            yield "the monitor of a ReduceOnPlateau schedule", scheduler.monitor


def _save_if_new(runner, epoch: int, iteration: int) -> None:
    """Saves a run after its epoch or iteration, unless its hooks have done so.

    Args:
        runner: Of the run.
        epoch: How many have been trained; ``runner.epoch`` counts one only after the hooks.
        iteration: How many have been trained; so does ``runner.iter``.
    """
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook):
            continue
        step = epoch if hook.by_epoch else iteration
        if os.path.basename(hook.last_ckpt or "") != hook.filename_tmpl.format(step):
            hook._save_checkpoint_with_step(runner, step, {"epoch": epoch, "iter": iteration})


@HOOKS.register_module()
class StopHook(Hook):
    """Ends a training that was asked to stop, where no ``ResumableCheckpointHook`` does.

    mmengine's ``CheckpointHook`` saves it: after the iteration a run that counts iterations; one that counts
    epochs at the end of an epoch alone, from which its loop can resume, so that the epoch under way is lost.

    Its priority puts it after the hooks that save.
    """

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if (by_epoch and batch_idx + 1 == len(runner.train_dataloader)) or not _is_stopping(runner):
            return
        if not by_epoch:
            _save_if_new(runner, runner.epoch, runner.iter + 1)
        _stop(runner)

    def after_train_epoch(self, runner) -> None:
        if _is_stopping(runner):
            _save_if_new(runner, runner.epoch + 1, runner.iter)
            _stop(runner)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not _is_stopping(runner):
            return
        _leave_averages(runner)
        _save_if_new(runner, runner.epoch, runner.iter)
        _stop(runner)


def _leave_averages(runner) -> None:
    """Puts the weights in training back into the model, where a validation has averages in their place."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.after_val_epoch(runner)


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which also saves within an epoch and where a hook ends the training early,
    keeps what an ``EarlyStoppingHook`` has counted, and removes old epochs only after saving.

    What it removes are checkpoints of this run, or of the one that it resumes in the same folder: those of
    another run stay, unless one of the same name replaces them.

    Args:
        every_minutes, every_iters: how often to save within an epoch (0: never); one such file is kept. With
            a loop that cannot resume there, none is saved, and ``every_iters`` is an error.
        max_keep_ckpts: how many checkpoints of whole epochs to keep (−1: all).

    Raises:
        UserError: an unknown option or rule, ``by_epoch=False``, or a ``filename_tmpl`` that --resume does
            not find.
    """

    def __init__(
        self, *args, every_minutes: float = 10, every_iters: int = 0, max_keep_ckpts: int = 3, **kwargs
    ):
        known = inspect.signature(CheckpointHook.__init__).parameters.keys() - {"self", "kwargs"}
        require_known(kwargs, known | {"every_minutes", "every_iters"}, "ResumableCheckpointHook")
        if kwargs.get("filename_tmpl") not in (None, "epoch_{}.pth", "iter_{}.pth"):
            raise UserError(
                f"checkpoint.filename_tmpl is {kwargs['filename_tmpl']!r}, but --resume and test look for "
                "epoch_N.pth and iter_N.pth: leave it out"
            )
        try:
            super().__init__(*args, **kwargs)
        except (KeyError, ValueError) as error:  # of save_best and its rule
            raise UserError(f"default_hooks.checkpoint: {error.args[0]}") from None
        if not self.by_epoch:
            raise UserError(
                "checkpoint.by_epoch is False, but the ResumableCheckpointHook saves whole epochs, every "
                "checkpoint.interval of them: leave by_epoch out, and set checkpoint.every_iters to save "
                "within an epoch as well"
            )
        self.every_minutes, self.every_iters, self.keep = every_minutes, every_iters, max_keep_ckpts
        self._unscored: _Unscored | None = None  # from a validation to the next epoch

    def before_run(self, runner) -> None:
        require_settled(runner.cfg)

    def before_train(self, runner) -> None:
        self._require_work_dir(runner)
        if self.backend_args is None and "://" not in str(self.out_dir or runner.work_dir):
            self.backend_args = ATOMIC
        super().before_train(runner)
        self._keep_own_best(runner.message_hub.runtime_info)
        self._saved_at = time.monotonic()
        if runner._resume:
            _restore_counts(runner)
        self._own = self._resumed(runner)
        if is_main_process():
            remove_leftovers(self.out_dir, "*.pth")  # of a run killed while writing

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """OneCycle schedules keep a function in their state, which would make the file one that runs code;
        the schedule that is built for a resumed run has it anyway.

        A run that resumes at the end of an epoch validates it. So what is saved again after a validation, for
        a best score, is the state before it: a schedule that goes by scores would take this one twice.
        """
        if self._unscored is not None:
            self._unscored.put_into(checkpoint)
        schedulers = checkpoint.get("param_schedulers", [])
        states = schedulers if isinstance(schedulers, list) else chain.from_iterable(schedulers.values())
        for state in states:
            for key in [key for key, value in state.items() if callable(value)]:
                del state[key]

    def before_val(self, runner) -> None:
        if isinstance(runner._train_loop, ResumableEpochLoop):  # others do not validate again on resuming
            self._unscored = _Unscored(runner)

    def before_train_epoch(self, runner) -> None:
        self._unscored = None

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if batch_idx + 1 == len(runner.train_dataloader):
            return
        is_stopping = _is_stopping(runner)
        if not isinstance(runner.train_loop, ResumableEpochLoop):  # others resume at the end of an epoch
            if is_stopping:
                _stop(runner)
            return
        if not is_stopping and not self._is_due(runner):
            return
        name = f"iter_{runner.iter + 1}.pth"
        self._note(runner, name)
        runner.save_checkpoint(self.out_dir, name, by_epoch=False, backend_args=self.backend_args)
        self._saved_at = time.monotonic()
        self._remove("iter", but=name)
        if is_stopping:
            _stop(runner)

    def after_train_epoch(self, runner) -> None:
        super().after_train_epoch(runner)
        if _is_stopping(runner):
            if self.filename_tmpl.format(runner.epoch + 1) not in self._own:
                self._save_checkpoint(runner)
            _stop(runner)

    def after_train(self, runner) -> None:
        is_ended = getattr(runner.train_loop, "stop_training", False)
        if is_ended and self.filename_tmpl.format(runner.epoch) not in self._own:
            meta = {"epoch": runner.epoch, "iter": runner.iter}
            self._save_checkpoint_with_step(runner, runner.epoch, meta)
        super().after_train(runner)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not _is_stopping(runner):
            return
        if self.filename_tmpl.format(runner.epoch) not in self._own:  # the epoch was not due
            _leave_averages(runner)
            meta = {"epoch": runner.epoch, "iter": runner.iter}
            self._save_checkpoint_with_step(runner, runner.epoch, meta)
        _stop(runner)

    def _is_due(self, runner) -> bool:
        if self.every_iters and (runner.iter + 1) % self.every_iters == 0:
            return True
        if not self.every_minutes or (runner.iter + 1) % 10:
            return False  # asking the other ranks at every iteration would slow a fast one
        due = [time.monotonic() - self._saved_at > 60 * self.every_minutes]
        broadcast_object_list(due)  # the clocks of the ranks differ
        return due[0]

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        self._note(runner, self.filename_tmpl.format(step))
        super()._save_checkpoint_with_step(runner, step, meta)
        self._saved_at = time.monotonic()
        self._remove("iter")
        if self.keep > 0:
            self._remove("epoch", keep=self.keep)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        """mmengine removes the best checkpoint so far before it saves a better one, which may fail."""
        if not self.save_best:
            return
        single, several = getattr(self, "best_ckpt_path", None), getattr(self, "best_ckpt_path_dict", {})
        self.best_ckpt_path, self.best_ckpt_path_dict = None, dict.fromkeys(several)
        super()._save_best_checkpoint(runner, metrics)
        self.best_ckpt_path = self.best_ckpt_path or single
        self.best_ckpt_path_dict = {key: self.best_ckpt_path_dict[key] or several[key] for key in several}
        kept = {self.best_ckpt_path, *self.best_ckpt_path_dict.values()}
        for path in {single, *several.values()} - kept:
            if path and is_main_process() and self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _keep_own_best(self, info: dict) -> None:
        """Of the best checkpoints that a resumed file names, keeps those in this folder.

        They are removed for a better one: another path is of the folder that this one was copied from, or of
        whatever the file says. Scores that are not numbers are dropped.
        """
        if not self.save_best:
            return
        keys = self.key_indicators if len(self.key_indicators) > 1 else [None]
        for key in keys:
            suffix = "" if key is None else f"_{key}"
            path = self._in_folder(info.pop(f"best_ckpt{suffix}", None))
            if path is not None:
                info[f"best_ckpt{suffix}"] = path
            if key is None:
                self.best_ckpt_path = path
            else:
                self.best_ckpt_path_dict[key] = path
            score = info.get(f"best_score{suffix}")
            if isinstance(score, bool) or not isinstance(score, int | float):
                info.pop(f"best_score{suffix}", None)

    def _in_folder(self, path: object) -> str | None:
        """The best checkpoint of that name in this folder; None where there is none."""
        name = os.path.basename(path) if isinstance(path, str) else ""
        own = os.path.join(self.out_dir, name)
        return own if name.startswith("best_") and name.endswith(".pth") and os.path.isfile(own) else None

    def _require_work_dir(self, runner) -> None:
        """Checks, before anything is trained, what saving a checkpoint would meet at its end.

        Raises:
            UserError: checkpoints would go to another folder than the work dir, or ``last_checkpoint`` is not
                what mmengine wrote there.
        """
        work_dir = Path(runner.work_dir)
        folder = str(self.out_dir or work_dir)
        if "://" not in folder and Path(folder).resolve() != work_dir.resolve():
            raise UserError(
                f"default_hooks.checkpoint.out_dir is {folder}, but --resume, test and predict look for "
                "checkpoints in the work dir: leave it out, and choose the folder by --work-dir"
            )
        if is_main_process():
            pointer = work_dir / "last_checkpoint"
            require_replaceable(pointer, _is_pointer, writer="training", option="--work-dir")

    def _note(self, runner, name: str) -> None:
        """Makes a checkpoint that is about to be saved one of this run's, which its file says too."""
        self._own.add(name)
        runner.message_hub.update_info(_OWN, sorted(self._own))
        counts = _counts(runner) if self._unscored is None else self._unscored.counts
        runner.message_hub.update_info(_COUNTS, counts)

    def _resumed(self, runner) -> set[str]:
        """The checkpoints of the run that is resumed, by its own words, if it was trained in this folder."""
        folder = Path(self.out_dir)
        source = Path(runner._load_from) if runner._resume and runner._load_from else None
        if source is None or source.resolve().parent != folder.resolve():
            return set()
        said = runner.message_hub.runtime_info.get(_OWN)
        names = (
            {source.name, *(name for name in said if isinstance(name, str))}
            if isinstance(said, list)
            else set()
        )
        return names & {path.name for path in saved_checkpoints(folder)}

    def _remove(self, kind: str, *, but: str = "", keep: int = 0) -> None:
        """Removes the run's checkpoints of that kind, but for one name or the last few."""
        if not is_main_process():
            return
        own = [path for path in saved_checkpoints(self.out_dir, kind) if path.name in self._own]
        for path in own[: max(len(own) - keep, 0)]:
            if path.name != but:
                path.unlink(missing_ok=True)


def _early_stopping(runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def _counts(runner) -> list[list[float]]:
    """What the ``EarlyStoppingHook``s have counted, and the best score of each."""
    return [[hook.wait_count, float(hook.best_score)] for hook in _early_stopping(runner)]


class _Unscored:
    """What the scores of a validation are about to change.

    Args:
        runner: before the validation.

    Attributes:
        counts: of the ``EarlyStoppingHook``s.
    """

    def __init__(self, runner):
        self.counts = _counts(runner)
        schedulers = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
        self._schedules = {
            index: deepcopy(scheduler.state_dict())
            for index, scheduler in enumerate(schedulers)
            if isinstance(scheduler, ReduceOnPlateauParamScheduler)
        }
        # of several optimizers they are a dict, and so are the schedules
        groups = runner.optim_wrapper.param_groups if self._schedules else []
        self._groups = [_options_of(group) for group in groups]

    def put_into(self, checkpoint: dict) -> None:
        """Puts it in place of the later state, in a checkpoint that a run can be resumed from."""
        if not self._schedules or "optimizer" not in checkpoint or "param_schedulers" not in checkpoint:
            return
        for index, state in self._schedules.items():
            checkpoint["param_schedulers"][index] = state
        optimizer = checkpoint["optimizer"]
        groups = list(optimizer["param_groups"])
        if optimizer.get("base_param_settings") is not None:  # the wrapper's own, and its last group
            optimizer["base_param_settings"] = dict(optimizer["base_param_settings"])
            groups.append(optimizer["base_param_settings"])
        for group, options in zip(groups, self._groups, strict=True):
            group.update(options)


def _options_of(group: dict) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _restore_counts(runner) -> None:
    """Gives the ``EarlyStoppingHook``s of a resumed run what they had counted."""
    saved = runner.message_hub.runtime_info.get(_COUNTS)  # [wait_count, best_score] of each
    hooks = _early_stopping(runner)
    if not isinstance(saved, list) or len(saved) != len(hooks):  # of another config, or an earlier version
        return
    for hook, values in zip(hooks, saved, strict=True):
        count, best = values if isinstance(values, list) and len(values) == 2 else (None, None)
        if is_count(count, least=0) and isinstance(best, float):
            hook.wait_count, hook.best_score = count, best


# hooks that undo or repeat each other's work, and what two of them would do
_SINGLE: dict[type[Hook], str] = {
    EMAHook: "each validation would put the averaged weights in place of those in training",
    ParamSchedulerHook: "each step of the learning rate would be taken twice",
    ResumableCheckpointHook: "each would remove checkpoints of the other",
}


def require_single_hooks(hooks: Iterable[Hook]) -> None:
    """Checks that hooks that act on the same thing are in a run once.

    Args:
        hooks: Those of the run, from ``default_hooks`` and ``custom_hooks``.

    Raises:
        UserError: There are two that average the weights, step the schedules, save resumable checkpoints, or
            choose the best checkpoint.
    """
    hooks = list(hooks)
    for kind, effect in _SINGLE.items():
        if (count := sum(isinstance(hook, kind) for hook in hooks)) > 1:
            raise UserError(
                f"the config has {count} hooks of the type {kind.__name__} (default_hooks, custom_hooks): "
                f"{effect}; keep one"
            )
    if sum(bool(isinstance(hook, CheckpointHook) and hook.save_best) for hook in hooks) > 1:
        raise UserError(
            "two checkpoint hooks of the config have save_best, and a run has one best score: keep it in one "
            "of them (a list names several metrics)"
        )


def require_pipeline_to_switch(hooks: Iterable[Hook], dataset: Any) -> None:
    """Checks that mmdet's ``PipelineSwitchHook`` and ``YOLOXModeSwitchHook`` can change the training data.

    Args:
        hooks: Those of the run.
        dataset: Of the training's loader.

    Raises:
        UserError: The data set has no pipeline, or would run only some steps of the new one.
    """
    hooks = list(hooks)
    skipping = [hook for hook in hooks if hasattr(hook, "skip_type_keys")]  # near the end of the training
    if skipping and not hasattr(dataset, "update_skip_type_keys"):
        kind = type(getattr(dataset, "wrapped", dataset)).__name__
        raise UserError(
            f"{type(skipping[0]).__name__} skips steps of a MultiImageMixDataset, but the training data "
            f"are a {kind}: use a MultiImageMixDataset, or leave out the hook"
        )
    hooks = [hook for hook in hooks if hasattr(hook, "switch_pipeline")]
    if not hooks:
        return
    # registers mmdet's hooks, which a config has done that has this one
    from mmdet.engine.hooks import PipelineSwitchHook

    steps = [len(hook.switch_pipeline) for hook in hooks if isinstance(hook, PipelineSwitchHook)]
    if not steps:
        return
    if not hasattr(dataset, "pipeline") or isinstance(dataset, _SlicedDataset):
        inner = getattr(dataset, "wrapped", dataset)
        told = f"the {type(inner).__name__} has none"
        if hasattr(dataset, "pipeline"):
            told = "train_dataloader.num_batch_per_epoch hides it: set dataset.indices"
        raise UserError(f"PipelineSwitchHook switches the pipeline of the training data, but {told}")
    kinds = getattr(dataset, "pipeline_types", None)  # of mmdet's MultiImageMixDataset, beside its pipeline
    if kinds is not None and max(steps) > len(kinds):
        raise UserError(
            f"PipelineSwitchHook switches to {max(steps)} steps, of which only the first {len(kinds)} would "
            f"run: a {type(getattr(dataset, 'wrapped', dataset)).__name__} keeps the number of steps"
        )


def _is_pointer(path: Path) -> bool:
    """Whether a file holds the path of a checkpoint, as mmengine writes ``last_checkpoint``."""
    if path.is_symlink() or path.stat().st_size > 10_000:
        return False
    text = path.read_text(errors="replace").strip()
    return not text or (text.endswith(".pth") and "\n" not in text)


class Stopped(KeyboardInterrupt):
    """A training that was asked to stop, at an iteration from which it can be resumed."""


def _is_stopping(runner) -> bool:
    """Whether any rank has been asked to stop; asks the others only where a stop can be requested."""
    stop = getattr(runner, "stop", None)  # mmengine's own runner has none
    return stop is not None and any_rank(stop.is_set())


def _stop(runner) -> None:
    barrier()  # the main rank has saved
    saved = runner.last_saved
    raise Stopped(f"the run is saved in {saved}; --resume resumes it" if saved else "nothing was saved yet")
