"""The optimizer of a resumed run: of the checkpoint's kind, with the options of the config."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from logging import Logger
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIMIZERS
from torch.optim import Optimizer, RMSprop

from hardnet_suite.errors import UserError

_TYPE = "optimizer_type"  # of a checkpoint's meta
# options that tell kinds apart where a checkpoint does not name its own
_TELLING = (
    *("betas", "momentum", "alpha", "rho", "lambd", "lr_decay"),
    *("momentum_decay", "amsgrad", "etas", "beta2_decay", "ns_steps", "history_size"),
)
# options that work on an entry of the state, which every parameter has from the first step on
_ENTRIES = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg"}
_AT_START = ("initial_accumulator_value",)  # options that only set the state of the first step


def recorded_optimizer(optimizer: Any) -> dict[str, str]:
    """The entry of a checkpoint's meta that names the kind of its optimizer; empty for several of them."""
    return {_TYPE: type(optimizer.optimizer).__name__} if isinstance(optimizer, OptimWrapper) else {}


def require_same_optimizer(
    optimizer: OptimWrapper | OptimWrapperDict, checkpoint: Mapping[str, Any], path: str
) -> None:
    """Checks that a checkpoint's optimizer can be loaded into the config's.

    Args:
        optimizer: as the config made it.
        checkpoint: with the state of its own as ``optimizer``.
        path: of the checkpoint, for the error.

    Raises:
        UserError: it is of another kind, or has other parameter groups.
    """
    if not isinstance(optimizer, OptimWrapper):  # several optimizers
        return
    state, meta = checkpoint.get("optimizer"), checkpoint.get("meta")
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise UserError(f"cannot resume: {path} has no state of one optimizer")
    own = optimizer.optimizer.param_groups
    name = type(optimizer.optimizer).__name__
    cure = f"or start a new run from its weights: --cfg-options load_from={path}"
    kinds = [{key for key in _TELLING if all(key in group for group in side)} for side in (groups, own)]
    if kinds[0] != kinds[1]:
        old, new = (", ".join(sorted(kind)) or "neither momentum nor betas" for kind in kinds)
        raise UserError(
            f"cannot resume: the optimizer of {path} has {old}, the config's {name} has {new}; resume with "
            f"the optimizer of the run, {cure}"
        )
    saved = meta.get(_TYPE, name) if isinstance(meta, Mapping) else name
    if saved != name and not _are_related(saved, type(optimizer.optimizer)):
        raise UserError(
            f"cannot resume: the optimizer of {path} is {saved}, the config's {name}; resume with the "
            f"optimizer of the run, {cure}"
        )
    sizes = [[len(group["params"]) if "params" in group else 0 for group in side] for side in (groups, own)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"cannot resume: the optimizer of {path} has {len(groups)} parameter groups of {sum(sizes[0])} "
            f"parameters, the config's {len(own)} of {sum(sizes[1])}; resume with the same paramwise_cfg, "
            f"{cure}"
        )


def use_own_options(
    optimizer: OptimWrapper | OptimWrapperDict,
    checkpoint: Mapping[str, Any],
    schedulers: Iterable[_ParamScheduler],
    logger: Logger,
) -> None:
    """Gives the state of a checkpoint's optimizer the config's options, but for those that schedules set.

    Args:
        optimizer: as the config made it.
        checkpoint: that ``require_same_optimizer`` has accepted; its groups are modified, before torch takes
            them.
        schedulers: of the config.
        logger: that is told which options are replaced.

    Raises:
        UserError: the state lacks what an option works on, or it is one of the first step alone.
    """
    if not isinstance(optimizer, OptimWrapper):
        return
    state, kind = checkpoint["optimizer"], type(optimizer.optimizer).__name__
    base = state.get("base_param_settings")
    groups = [*state["param_groups"], *([base] if isinstance(base, dict) else [])]
    schedulers = list(schedulers)
    # a group may also hold what the optimizer counts, such as that of DAdaptation
    keys = [key for key in _options(optimizer.optimizer) if not is_scheduled(key, schedulers)]
    pairs = list(zip(groups, optimizer.param_groups, strict=False))
    changed = [
        key
        for key in keys
        if any(key in old and key in new and differ(old[key], new[key]) for old, new in pairs)
    ]
    for key in changed:
        if key in _AT_START:
            raise UserError(
                f"cannot resume: optim_wrapper.optimizer.{key} differs from the checkpoint's, and has an effect "
                "at the start of a run alone; resume with that of the run"
            )
        entry = _ENTRIES.get(key)
        if key == "momentum" and isinstance(optimizer.optimizer, RMSprop):
            entry = "momentum_buffer"
        values = state.get("state")
        states = list(values.values()) if isinstance(values, Mapping) else []
        if entry and any(new.get(key) for _, new in pairs) and any(entry not in each for each in states):
            raise UserError(
                f"cannot resume: {kind} with {key} needs {entry} of the earlier steps, which the checkpoint "
                f"lacks; resume with optim_wrapper.optimizer.{key} as in the run"
            )
    for old, new in pairs:
        old.update({key: new[key] for key in keys if key in new})
    meta = checkpoint.get("meta")
    saved = meta.get(_TYPE, kind) if isinstance(meta, Mapping) else kind
    if saved != kind:
        logger.warning(f"the config's {kind} goes on with the state of the checkpoint's {saved}")
    if changed:
        logger.warning(f"the config's {', '.join(changed)} replaces the checkpoint's")


def is_scheduled(key: str, schedulers: Iterable[_ParamScheduler]) -> bool:
    """Whether schedules set an entry of an optimizer's group: "lr" in any case, "initial_lr", "max_lr" …"""
    names = {"lr", *(scheduler.param_name for scheduler in schedulers)}
    if "momentum" in names:
        names.add("betas")  # where the optimizer keeps its momentum there
    return key in names or key.split("_", 1)[-1] in names


def differ(old: Any, new: Any) -> bool:
    """Whether two values of a state differ; lists and tuples are one, as are numbers up to rounding."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() != new.keys() or any(differ(old[key], new[key]) for key in old)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) != len(new) or any(map(differ, old, new))
    if isinstance(old, float) or isinstance(new, float):
        try:
            return not math.isclose(old, new, rel_tol=1e-9, abs_tol=1e-15)
        except TypeError:
            return True
    return old != new


def _options(optimizer: Optimizer) -> list[str]:
    """The names of the options that an optimizer is made with."""
    signatures = (inspect.signature(kind.__init__).parameters for kind in type(optimizer).__mro__)
    return [
        name for name in dict.fromkeys(name for names in signatures for name in names) if name != "params"
    ]


def _are_related(saved: Any, own: type) -> bool:
    """Whether the state of one kind serves the other, such as Adam's AdamW: a class and its subclass."""
    other = OPTIMIZERS.get(saved) if isinstance(saved, str) else None
    return isinstance(other, type) and (issubclass(own, other) or issubclass(other, own))
