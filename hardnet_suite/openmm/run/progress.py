"""The progress of a run on the console: a live line on terminals, a few lines elsewhere."""

from __future__ import annotations

import bisect
import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from numbers import Real
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner.base_loop import BaseLoop
from tqdm import tqdm

from hardnet_suite.data.report import counted, has_live_line
from hardnet_suite.openmm.data.parts import LOADERS, parts
from hardnet_suite.openmm.run.logs import announce, say
from hardnet_suite.openmm.run.summary import announce_foreign_data
from hardnet_suite.visualization.curves import main_scores, score_text

_REFRESH = 0.1  # seconds between two states of a live line
_SPARSE = 30.0  # seconds between two lines where there is no live one, at least
_MOST_LINES = 200  # of a training
_MOST_EPOCHS = 8  # that a line lists
_WINDOW = 50  # iterations that the speed is taken over


@HOOKS.register_module()
class ProgressLineHook(Hook):
    """Shows where a run is: epoch, iteration, loss, images per second, time left, GPU memory.

    If standard error is a terminal, this is one live line on it. Otherwise, a console that
    ``logs.quiet_console`` keeps quiet gets a line after the first iteration, then one every 30 s at most and
    200 per training. A quiet console also gets a line per validation.
    """

    priority = "VERY_LOW"  # after the hook that saves the best checkpoint

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._epochs = False
        self._best: dict[str, Any] = {}
        self._unit = "image"  # what a sample is

    def before_train(self, runner) -> None:
        self._epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        self._unit = _unit(runner)
        self._began, self._first_iter = time.monotonic(), runner.iter
        self._times: deque[tuple[float, int]] = deque([(self._began, 0)], maxlen=_WINDOW)
        self._shown_at, self._shown_iter = -math.inf, -math.inf
        if getattr(runner, "cfg", None):  # mmengine's own runner may have none
            announce_foreign_data(runner)
        announce(runner.logger, f"schedule: {self._schedule(runner)}")

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        now = time.monotonic()
        self._times.append((now, _count(data_batch)))
        per_epoch, done = len(runner.train_dataloader), runner.iter + 1
        if not self._is_due(now, done, runner.max_iters):
            return
        left = (now - self._began) / (done - self._first_iter) * (runner.max_iters - done)
        loss = (outputs or {}).get("loss", math.nan)
        loss = float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        parts = [f"loss {loss:.4g}", self._speed(now), f"{timedelta(seconds=round(left))} left"]
        if torch.cuda.is_available():
            parts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        if self._epochs:
            title = f"epoch {runner.epoch + 1}/{runner.max_epochs}"
            self._show(runner, title, batch_idx + 1, per_epoch, parts)
        else:
            self._show(runner, "iteration", done, runner.max_iters, parts)

    def before_val_epoch(self, runner) -> None:
        self._begin_scoring(runner)

    def before_test_epoch(self, runner) -> None:
        self._begin_scoring(runner)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._scored(runner, "validating", batch_idx + 1, len(runner.val_dataloader), data_batch)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._scored(runner, "testing", batch_idx + 1, len(runner.test_dataloader), data_batch)

    def after_val_epoch(self, runner, metrics: Mapping[str, Any] | None = None) -> None:
        self.close()
        if not isinstance(runner._train_loop, BaseLoop):  # a validation without a training
            return
        step = (
            f"epoch {runner.epoch}/{runner.max_epochs}"
            if self._epochs
            else f"iteration {runner.iter}/{runner.max_iters}"
        )
        found = main_scores(metrics or {}, first=_choosing_keys(runner))
        scores = "  ".join(f"{name} {score_text(name, value)}" for name, value in found)
        mark = "  (best so far)" if _best_scores(runner) != self._best else ""
        say(runner.logger, f"{step}: {scores or 'no scores'}{mark}")
        # what validation took is no part of the speed of training
        self._times = deque([(time.monotonic(), 0)], maxlen=_WINDOW)

    def after_test_epoch(self, runner, metrics: Mapping[str, Any] | None = None) -> None:
        self.close()

    def after_train_epoch(self, runner) -> None:
        self.close()

    def close(self) -> None:
        """Removes the live line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin_scoring(self, runner) -> None:
        self._best = _best_scores(runner)
        self._unit = _unit(runner)
        now = time.monotonic()
        self._scoring = deque([(now, 0)], maxlen=_WINDOW)
        self._scoring_shown = now

    def _scored(self, runner, title: str, done: int, total: int, data_batch) -> None:
        now = time.monotonic()
        self._scoring.append((now, _count(data_batch)))
        if now - self._scoring_shown < (_REFRESH if _has_live_line() else _SPARSE) and done < total:
            return
        if not _has_live_line() and now - self._scoring_shown < _SPARSE:
            return
        self._scoring_shown = now
        self._show(runner, title, done, total, [_speed(self._scoring, now, self._unit)])

    def _is_due(self, now: float, done: int, total: int) -> bool:
        if not is_main_process():
            return False
        if _has_live_line():
            due = now - self._shown_at >= _REFRESH
        else:
            due = now - self._shown_at >= _SPARSE and done - self._shown_iter >= total / _MOST_LINES
        if due:
            self._shown_at, self._shown_iter = now, done
        return due

    def _speed(self, now: float) -> str:
        return _speed(self._times, now, self._unit)

    def _show(self, runner, title: str, done: int, total: int, parts: list[str]) -> None:
        if not is_main_process():
            return
        if not _has_live_line():
            say(runner.logger, f"{title}  {done}/{total}  {'  '.join(parts)}")
            return
        if self._bar is None or (self._bar.desc, self._bar.total) != (title, total):
            self.close()
            self._bar = tqdm(
                total=total,
                desc=title,
                leave=False,
                position=0,
                dynamic_ncols=True,
                file=sys.stderr,
                mininterval=0,
                bar_format="{desc} |{bar:16}| {n_fmt}/{total_fmt}{postfix}",
            )
            self._bar.desc = title  # without tqdm's colon
        self._bar.n = done
        self._bar.postfix = "  ".join(parts)
        self._bar.refresh()

    def _schedule(self, runner) -> str:
        size = getattr(getattr(runner.train_dataloader, "batch_sampler", None), "batch_size", None)
        images = f" of {counted(size * get_world_size(), self._unit)}" if size else ""
        if not self._epochs:
            return f"{counted(runner.max_iters, 'iteration')}{images}"
        per_epoch = counted(len(runner.train_dataloader), "iteration")
        text = f"{counted(runner.max_epochs, 'epoch')} of {per_epoch}{images}"
        if runner.val_loop is not None:
            text += f"; {_validations(runner.train_loop, runner.max_epochs)}"
        if runner.iter >= runner.max_iters:
            text += "; all of them are done already"
        elif runner.iter:
            text += f"; resumes after iteration {runner.iter} of {runner.max_iters}"
        return text


def _validations(loop: EpochBasedTrainLoop, epochs: int) -> str:
    """After which epochs a loop validates, in words."""
    interval, begin = loop.val_interval, loop.val_begin
    intervals = getattr(loop, "dynamic_intervals", None) or [interval]
    if len(intervals) == 1 and begin <= interval <= epochs:
        return f"validation every {interval} epochs" if interval > 1 else "validation every epoch"
    milestones = getattr(loop, "dynamic_milestones", None) or [0]
    due = []
    for epoch in range(1, epochs + 1):
        interval = intervals[bisect.bisect(milestones, epoch + 1) - 1]  # as mmengine chooses it
        if epoch >= begin and (epoch % interval == 0 or epoch == epochs):
            due.append(epoch)
    if len(due) > _MOST_EPOCHS:
        return f"{len(due)} validations, the first after epoch {due[0]}"
    return f"validation after epoch {', '.join(map(str, due))}" if due else "no validation"


def _has_live_line() -> bool:
    return has_live_line(sys.stderr)


def _unit(runner) -> str:
    """What a sample of the run's data sets is: "image" or "pair"."""
    cfg = getattr(runner, "cfg", None)  # mmengine's own runner may have none
    return next((part.unit for part in parts(cfg, LOADERS)), "image") if cfg else "image"


def _speed(times: deque[tuple[float, int]], now: float, unit: str) -> str:
    """Samples per second over the window, of all ranks."""
    images = sum(count for _, count in list(times)[1:])
    seconds = max(now - times[0][0], 1e-9)
    short = "img" if unit == "image" else f"{unit}s"
    return f"{get_world_size() * images / seconds:.1f} {short}/s"


def _count(data_batch: Any) -> int:
    """The number of images in a batch, 0 where the model's batches have another form."""
    inputs = data_batch.get("inputs") if isinstance(data_batch, Mapping) else None
    return len(inputs) if hasattr(inputs, "__len__") else 0


def _choosing_keys(runner) -> list[str]:
    """The keys of the scores that choose the best epoch."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    return list(getattr(hook, "key_indicators", None) or ())


def _best_scores(runner) -> dict[str, Any]:
    info = runner.message_hub.runtime_info
    return {
        key: value
        for key, value in info.items()
        if key.startswith("best_score") and isinstance(value, Real | str)
    }
