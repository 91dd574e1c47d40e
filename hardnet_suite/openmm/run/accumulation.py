"""Gradients of a step that is made of several iterations: saved in the middle of it, and restored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor

from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError

_BETWEEN = "between_steps"  # of a checkpoint's meta
GRADIENTS = "accumulated_gradients"  # of a checkpoint; see accumulated_gradients


def accumulated_gradients(runner) -> dict[str, Any] | None:
    """What resuming needs of the gradients that no step has used yet; all ranks must call it.

    Returns:
        ``counts``, the iterations of a step; ``scale``, the factor on their losses; ``loss_scale``, the one
        of float16 beside it; ``ranks``, the gradients of each rank, by the names of the parameters. None
        between two steps.
    """
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, OptimWrapper) or wrapper.should_update():
        return None
    own = {
        name: parameter.grad.detach().cpu()
        for name, parameter in _model(runner).named_parameters()
        if parameter.grad is not None
    }
    ranks = all_gather_object(own)
    scales = {"scale": _scale(wrapper), "loss_scale": _loss_scale(wrapper)}
    return {"counts": wrapper._accumulative_counts, **scales, "ranks": ranks}


def recorded_step(gradients: Any) -> dict[str, bool]:
    """The entry of a checkpoint's meta that says whether every gradient has been used, of whatever steps.

    Args:
        gradients: as ``accumulated_gradients`` returned them.
    """
    return {_BETWEEN: gradients is None}


def is_between_steps(meta: Any) -> bool:
    """Whether a checkpoint says, in its meta, that no gradients were accumulated when it was saved."""
    return isinstance(meta, Mapping) and meta.get(_BETWEEN) is True


def restore_gradients(runner, saved: Any, *, lost: bool = True) -> None:
    """Gives a resumed rank the gradients that it had accumulated, once the optimizer's counts are set.

    On another number of ranks each gets their average, as it would be taken before the step. The log warns
    of a first step of fewer iterations: without gradients, as in checkpoints of other programs, or where the
    last step was one of fewer, as at the end of a training.

    Args:
        runner: At the iteration of the checkpoint.
        saved: ``GRADIENTS`` of the checkpoint; None if it has none.
        lost: Whether there may have been some: the checkpoint does not say that it lies between two steps.

    Raises:
        UserError: The entry is damaged, or the config's steps are of another number of iterations.
    """
    wrapper = runner.optim_wrapper
    if not isinstance(wrapper, OptimWrapper):
        return
    counts = wrapper._accumulative_counts
    if saved is None:
        missing = runner.iter % counts
        if missing and lost:
            runner.logger.warning(
                f"the checkpoint lacks the gradients accumulated in its last {counted(missing, 'iteration')} "
                f"(optim_wrapper.accumulative_counts={counts}): the first step is made without them"
            )
        elif missing and runner.iter < runner.max_iters:
            runner.logger.warning(
                f"the checkpoint's last step was at iteration {runner.iter}, which is no multiple of "
                f"optim_wrapper.accumulative_counts={counts}: the first step is of "
                f"{counted(counts - missing, 'iteration')}"
            )
        return
    ranks, scale, loss_scale = _parts_of(saved)
    if saved["counts"] != counts:
        raise UserError(
            f"cannot resume: the checkpoint is in the middle of a step of {saved['counts']} iterations, but "
            f"optim_wrapper.accumulative_counts is {counts}; resume with accumulative_counts="
            f"{saved['counts']}"
        )
    parameters = dict(_model(runner).named_parameters())
    for name, value in chain.from_iterable(values.items() for values in ranks):
        parameter = parameters.get(name)
        is_tensor = isinstance(value, Tensor)
        if (
            parameter is None
            or not is_tensor
            or (value.shape, value.dtype) != (parameter.shape, parameter.dtype)
        ):
            raise _damaged(name)
    own = ranks[get_rank()] if len(ranks) == get_world_size() else _average(ranks)
    # not 1 where the end of the training has moved, or the precision is another
    factor = _scale(wrapper) / scale
    if loss_scale is not None:
        factor *= _loss_scale(wrapper) / loss_scale
    for name, value in own.items():
        gradient = torch.empty_like(parameters[name]).copy_(value)
        parameters[name].grad = gradient if factor == 1 else gradient * factor
    runner.logger.info("the accumulated gradients are those of the checkpoint: none are lost")


def _parts_of(saved: Any) -> tuple[list[dict[str, Tensor]], float, float | None]:
    """The gradients of the ranks, and the scales of their losses; earlier versions wrote none of float16."""
    ranks, scale = (saved.get("ranks"), saved.get("scale")) if isinstance(saved, dict) else (None, None)
    if not isinstance(scale, float) or not 0 < scale <= 1 or type(saved.get("counts")) is not int:
        raise _damaged("counts, scale")
    loss_scale = saved.get("loss_scale")
    if loss_scale is not None and not (isinstance(loss_scale, float) and 0 < loss_scale < math.inf):
        raise _damaged("loss_scale")
    if not isinstance(ranks, list) or not ranks or not all(isinstance(values, dict) for values in ranks):
        raise _damaged("ranks")
    return ranks, scale, loss_scale


def _average(ranks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """That of all ranks; one without a gradient counts as zero, as DistributedDataParallel has it."""
    names = dict.fromkeys(name for values in ranks for name in values)
    return {
        name: torch.stack([values[name] for values in ranks if name in values]).sum(0) / len(ranks)
        for name in names
    }


def _scale(wrapper: OptimWrapper) -> float:
    """The factor on the loss in the step that is under way."""
    return wrapper.scale_loss(torch.ones((), dtype=torch.double, device="cpu")).item()


def _loss_scale(wrapper: OptimWrapper) -> float:
    """The factor that keeps gradients within the range of float16; 1 in other precisions."""
    scaler = getattr(wrapper, "loss_scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def _damaged(what: object) -> UserError:
    return UserError(f"cannot resume: the checkpoint's {GRADIENTS} are damaged ({what})")


def _model(runner) -> torch.nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
