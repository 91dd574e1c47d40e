"""Learning rates of a resumed run: the config's schedule decides, not the one that the checkpoint kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmengine.optim.scheduler.param_scheduler import ReduceOnPlateauParamScheduler, _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import kind_of
from hardnet_suite.openmm.run.optimizers import differ, is_scheduled

if TYPE_CHECKING:
    from hardnet_suite.openmm.run.runner import SuiteRunner

# what a schedule counts while it runs; everything else in its state is the config's
_PROGRESS = (
    "last_step",
    "_global_step",
    "_last_value",
    "verbose",
    "best",
    "num_bad_epochs",
    "cooldown_counter",
)


def without_single_steps(scheduler: Any, batches: int) -> tuple[Any, list[Mapping[str, Any]]]:
    """Leaves out schedules over a single iteration, whose factor mmengine would keep to the end.

    Args:
        scheduler: ``param_scheduler`` of the config: a schedule, a list of them, or such for each optimizer.
        batches: number of batches per epoch.

    Returns:
        The remaining ones in the same form (an empty list for a single schedule), and those left out.
    """
    if isinstance(scheduler, Mapping) and "type" not in scheduler:
        each = {name: without_single_steps(inner, batches) for name, inner in scheduler.items()}
        return {name: kept for name, (kept, _) in each.items()}, [
            one for _, out in each.values() for one in out
        ]
    several = scheduler if isinstance(scheduler, list | tuple) else [scheduler]
    dropped = [one for one in several if _iterations(one, batches) == 1]
    if not dropped:
        return scheduler, []
    return [one for one in several if _iterations(one, batches) != 1], dropped


def _iterations(scheduler: Any, batches: int) -> float:
    """The length of a schedule that counts iterations; infinite of others."""
    if not isinstance(scheduler, Mapping) or not isinstance(end := scheduler.get("end"), int | float):
        return math.inf
    length = end - scheduler.get("begin", 0)
    if not scheduler.get("by_epoch", True):
        return length
    return length * batches if scheduler.get("convert_to_iter_based") else math.inf


def require_iterations(scheduler: Any) -> None:
    """Checks the schedules of a training that counts iterations: mmengine never steps one in epochs there.

    Args:
        scheduler: ``param_scheduler`` of the config: a schedule, a list of them, or such for each optimizer.

    Raises:
        UserError: a schedule counts epochs, or ends after the first epoch because it has no ``end``.
    """
    if isinstance(scheduler, Mapping) and "type" not in scheduler:
        scheduler = list(scheduler.values())
    if isinstance(scheduler, list | tuple):
        for one in scheduler:
            require_iterations(one)
        return
    if not isinstance(scheduler, Mapping) or not scheduler.get("by_epoch", True):
        return
    kind = kind_of(scheduler)
    if kind.startswith("ReduceOnPlateau"):  # stepped by validations
        return
    if not scheduler.get("convert_to_iter_based"):
        raise UserError(
            f"param_scheduler: {kind} counts epochs, of which a training by max_iters completes none: "
            "set by_epoch=False and its begin and end in iterations"
        )
    if "end" not in scheduler:
        raise UserError(
            f"param_scheduler: {kind} has no end, so that it would end after one epoch of a training by "
            "max_iters: set its end in epochs, or by_epoch=False"
        )


def warn_of_early_end(runner: SuiteRunner) -> None:
    """Logs where every schedule ends before the training does: the rate stays where they leave it.

    So it is when a run resumes with a larger ``max_epochs`` or ``max_iters`` alone.
    """
    schedulers = runner.param_schedulers
    ends = [scheduler.end for scheduler in schedulers] if isinstance(schedulers, list) else []
    if not ends:
        return
    by_epoch = [scheduler.by_epoch for scheduler in schedulers]
    steps = runner.max_epochs, runner.max_iters
    early = [end < (steps[0] if epochs else steps[1]) for end, epochs in zip(ends, by_epoch, strict=True)]
    if all(early):
        unit = "epoch" if by_epoch[-1] else "iteration"
        length = "max_epochs" if isinstance(runner.train_loop, EpochBasedTrainLoop) else "max_iters"
        runner.logger.warning(
            f"the last schedule ends at {unit} {max(ends)}, before the training: the learning rate stays "
            f"constant from there on; set its end (param_scheduler) as well as train_cfg.{length}"
        )


def resume_schedules(runner: SuiteRunner, fresh: Sequence[dict], states: Any) -> None:
    """Brings the runner's schedules to its current iteration.

    If the checkpoint's schedules are those of the config, their state is loaded as it is. If they differ in
    anything but their progress (length, form, base learning rate), every learning rate is recomputed as if
    the config's schedules had run from the start.

    Args:
        runner: with the optimizer's state loaded, and its schedules built but not stepped.
        fresh: the optimizer's parameter groups, without the parameters, as the config made them.
        states: ``param_schedulers`` of the checkpoint.

    Raises:
        UserError: a schedule that depends on past scores was changed.
    """
    groups, schedulers = runner.optim_wrapper.param_groups, runner.param_schedulers
    schedulers = [] if schedulers is None else schedulers
    if isinstance(schedulers, dict):  # several optimizers; the suite's configs have one
        raise UserError("cannot resume: a run of several optimizers is not supported")
    states = states if isinstance(states, list) else []
    if _same_schedules(schedulers, states) and _same_rates(groups, fresh):
        for scheduler, state in zip(schedulers, states, strict=True):
            scheduler.load_state_dict(state)
        return
    if any(isinstance(scheduler, ReduceOnPlateauParamScheduler) for scheduler in schedulers):
        _resume_plateau(schedulers, states, _same_rates(groups, fresh))
        return
    runner.logger.warning(
        "the config's learning rate schedule differs from the checkpoint's: "
        f"recomputed from the start to iteration {runner.iter}"
    )
    for group, config_group in zip(groups, fresh, strict=True):
        # beside "lr" itself "initial_lr", "max_lr" …
        rates = [key for key in config_group if is_scheduled(key, schedulers)]
        group.update({key: config_group[key] for key in rates})
    _replay(runner, schedulers)


def _resume_plateau(schedulers: Sequence[_ParamScheduler], states: Sequence[dict], same_rates: bool) -> None:
    """It depends on past scores: its counters are kept, its options are the config's."""
    kinds = [isinstance(scheduler, ReduceOnPlateauParamScheduler) for scheduler in schedulers]
    same = len(schedulers) == len(states) and all(
        plateau or _same_schedules([scheduler], [state])
        for scheduler, state, plateau in zip(schedulers, states, kinds, strict=True)
    )
    if not (same and same_rates):
        raise UserError(
            "cannot resume: the config's param_scheduler or learning rate differs from the checkpoint's, and "
            "a ReduceOnPlateau schedule cannot be recomputed without the past scores; resume with the "
            "schedule of the run"
        )
    for scheduler, state in zip(schedulers, states, strict=True):
        scheduler.load_state_dict({key: value for key, value in state.items() if key in _PROGRESS})


def _replay(runner: SuiteRunner, schedulers: Sequence[_ParamScheduler]) -> None:
    """Steps the schedules as mmengine's ParamSchedulerHook does, from the start to the current iteration."""
    in_epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
    per_epoch = len(runner.train_dataloader)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice to step the optimizer first
        for done in range(1, runner.iter + 1):
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
            if in_epochs and done % per_epoch == 0:
                for scheduler in schedulers:
                    if scheduler.by_epoch:
                        scheduler.step()


def _same_schedules(schedulers: Sequence[_ParamScheduler], states: Sequence[dict]) -> bool:
    return len(schedulers) == len(states) and all(
        not differ(_configured(scheduler.state_dict()), _configured(state))
        for scheduler, state in zip(schedulers, states, strict=True)
    )


def _same_rates(groups: Sequence[dict], fresh: Sequence[dict]) -> bool:
    """Without a schedule the checkpoint's rate would stay; with one its base rate is compared."""
    return not any(
        differ(old.get("initial_lr", old["lr"]), new.get("initial_lr", new["lr"]))
        for old, new in zip(groups, fresh, strict=True)
    )


def _configured(state: dict) -> dict:
    return {key: value for key, value in state.items() if key not in _PROGRESS and not callable(value)}
