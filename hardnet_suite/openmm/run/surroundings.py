"""A training and what happens around it: a work dir that is removed, a full disk, a killed worker."""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn import functional

from hardnet_suite.errors import UserError
from hardnet_suite.failures import explain
from hardnet_suite.openmm.run.lock import TrainingLock
from hardnet_suite.openmm.run.logs import reopen_log
from hardnet_suite.outputs import writing

# torch's message for batch, instance and group normalization; the size of the batch
_TOO_FEW = re.compile(r"Expected more than 1 .* when training, got input size \D*([\d, ]+)")


@contextmanager
def explained(work_dir: str | Path, advice: Callable[[], str] | None = None) -> Iterator[None]:
    """Within, what the system does to a run becomes one line, as do too few values or candidates.

    Args:
        work_dir: of the run.
        advice: gives the end of the line.

    Raises:
        UserError: space, memory or files ran out, the work dir cannot be written, a data loader worker was
            killed, a batch is too small to be normalized, or an image has too few candidates.
    """
    try:
        yield
    except Exception as error:
        reason = explain(error, work_dir) or _explain_batch(error) or _explain_choice(error)
        if reason is None:
            raise
        raise UserError(f"{reason}; {advice()}" if advice else reason) from error


def _explain_batch(error: Exception) -> str | None:
    """A batch that torch's normalization layers refuse in training: one image whose last map is of 1×1."""
    size = _TOO_FEW.search(str(error)) if isinstance(error, ValueError) else None
    if size is None:
        return None
    shape = size[1].strip(", ").replace(", ", "×")
    if _is_of_groups(error):  # also at test time, of one image; torch's message has another shape
        return (
            "group normalization takes more than a single value per group, but has as many groups as "
            "channels, and maps of 1×1: use larger images, more channels, or fewer groups (num_groups)"
        )
    return (
        f"normalization cannot train on a single value per channel, as in maps of {shape}: use a larger "
        "train_dataloader.batch_size, drop_last=True if the last batch alone has one image, or larger images"
    )


def _explain_choice(error: Exception) -> str | None:
    """More of the best than there are, as in the two stages of mmdet's DINO on small images."""
    if not isinstance(error, RuntimeError) or "selected index k out of range" not in str(error):
        return None
    return (
        "the model takes more of the best candidates than it has: lower the numbers of them in its config "
        "(num_queries, topk, those of test_cfg), or use larger images"
    )


def _is_of_groups(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is functional.group_norm.__code__ for frame, _ in frames)


def how_to_resume(runner: Runner | None, work_dir: str | Path) -> str:
    """The end of a message about a training that has ended early.

    Args:
        runner: of the training, if it has begun.
        work_dir: its folder.
    """
    saved = getattr(runner, "last_saved", None)
    if saved is None:
        return "no checkpoint has been saved yet"
    if not saved.exists():
        return f"the last checkpoint, {saved}, is gone"
    is_own = saved.resolve().parent == Path(work_dir).resolve()
    option = "" if is_own else f" {shlex.quote(str(saved))}"
    return f"the last good checkpoint is {saved}: resume with --resume{option}"


class WorkDirHook(Hook):
    """Creates a work dir anew that was removed during the training: what is still to come is not lost.

    Its priority puts it before the hooks that log and save.

    Args:
        lock: of the work dir, which goes with it.

    Raises:
        UserError: another training has begun in the folder.
        WriteError: the folder cannot be created.
    """

    priority = "VERY_HIGH"

    def __init__(self, lock: TrainingLock):
        self._lock = lock

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._require_work_dir(runner)

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._require_work_dir(runner)

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._require_work_dir(runner)

    def _require_work_dir(self, runner) -> None:
        if not self._lock.is_lost():
            return
        self._lock.renew()
        log_dir = Path(runner.log_dir)
        if log_dir.is_dir():  # somebody removed the lock alone
            return
        with writing(log_dir):
            Path(log_dir, "vis_data").mkdir(parents=True)
            reopen_log(runner.logger)
            runner.dump_config()
        runner.logger.warning(
            f"{runner.work_dir} was removed during the training and is created again; the checkpoints and "
            "the log up to here are lost"
        )
