"""The optimizer of a run: its options in the config, and its state where the run is resumed."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from logging import Logger
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import OPTIMIZERS
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import RMSprop

from hardnet_suite.data.options import require_known
from hardnet_suite.errors import UserError
from hardnet_suite.names import nearest
from hardnet_suite.numeric import is_number
from hardnet_suite.openmm.data.parts import kind_of
from hardnet_suite.weights.tables import few

_TYPE = "optimizer_type"  # of a checkpoint's meta
# options that tell kinds apart where a checkpoint does not name its own
_TELLING = (
    *("betas", "momentum", "alpha", "rho", "lambd", "lr_decay"),
    *("momentum_decay", "amsgrad", "etas", "beta2_decay", "ns_steps", "history_size"),
)
# options that work on an entry of the state, which every parameter has from the first step on
_ENTRIES = {"amsgrad": "max_exp_avg_sq", "centered": "grad_avg"}
_AT_START = ("initial_accumulator_value",)  # options that only set the state of the first step

# of mmengine's constructor, which ignores others; its multiples are factors of the rate or the decay
_MULTIPLES = (
    *("bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "flat_decay_mult", "dwconv_decay_mult"),
    "dcn_offset_lr_mult",
)
_CONSTRUCTORS = {  # the options beside those
    "DefaultOptimWrapperConstructor": ("bypass_duplicate", "custom_keys"),
    "ForceDefaultOptimWrapperConstructor": ("bypass_duplicate", "custom_keys", "force_default_settings"),
}
_WRAPPERS = ("OptimWrapper", "AmpOptimWrapper", "BFloat16OptimWrapper", "ApexOptimWrapper")
_CLIPPING = {"norm": (clip_grad_norm_, "max_norm"), "value": (clip_grad_value_, "clip_value")}


def require_clipping(wrapper: Mapping[str, Any]) -> None:
    """Checks how a config clips gradients, which mmengine would do in the first iteration.

    Args:
        wrapper: config of an optimizer wrapper.

    Raises:
        UserError: an option that nothing reads, or a bound that is not above 0, which would reverse the
            gradients.
    """
    where = "optim_wrapper.clip_grad"
    options = wrapper.get("clip_grad")
    if options is None or (wrapper.get("type") and kind_of(wrapper) not in _WRAPPERS):
        return
    if not isinstance(options, Mapping):
        raise UserError(f"{where} is {options!r}, expected dict(max_norm=…) or None")
    kind = options.get("type", "norm")
    if kind not in _CLIPPING:
        raise UserError(f"{where}.type is {kind!r}, expected 'norm' or 'value'")
    function, bound = _CLIPPING[kind]
    require_known(options, ["type", *list(inspect.signature(function).parameters)[1:]], where)
    value = options.get(bound)
    is_above = isinstance(value, int | float) and not isinstance(value, bool) and value > 0  # False for NaN
    if not is_above:
        told = f"{where}.{bound} is {value!r}" if bound in options else f"{where} has no {bound}"
        raise UserError(f"{told}, expected a number above 0; clip_grad=None turns clipping off")


def require_paramwise(wrapper: Mapping[str, Any], model: nn.Module, logger: Logger) -> None:
    """Checks the options for some parameters alone, of which mmengine ignores those that it does not know.

    Args:
        wrapper: config of an optimizer wrapper, whose constructor may be of another program, with options of
            its own.
        model: whose parameters are trained.
        logger: is warned of names that no parameter has, and of unknown options that are not misspellings:
            configs of mmdet and mmseg have some.

    Raises:
        UserError: an option that nothing reads or that is no factor, one that lacks what it is a factor of,
            or a name that is spelt almost like that of a parameter.
    """
    where = "optim_wrapper.paramwise_cfg"
    options, optimizer = wrapper.get("paramwise_cfg"), wrapper.get("optimizer")
    constructor = wrapper.get("constructor", "DefaultOptimWrapperConstructor")
    beside = _CONSTRUCTORS.get(kind_of({"type": constructor}))
    if options is None or beside is None or not isinstance(optimizer, Mapping):
        return
    if not isinstance(options, Mapping):
        raise UserError(f"{where} is {options!r}, expected a dict or None")
    require_known(options, [*_MULTIPLES, *beside], where)
    _require_factors({key: options[key] for key in _MULTIPLES if key in options}, optimizer, where)
    custom = options.get("custom_keys") or {}
    if not isinstance(custom, Mapping) or not all(isinstance(value, Mapping) for value in custom.values()):
        raise UserError(f"{where}.custom_keys is {custom!r}, expected a dict of dicts, such as lr_mult=0.1")
    kind = _class_of(optimizer.get("type"))
    for key, values in custom.items():
        inner = f"{where}.custom_keys[{key!r}]"
        known = [*values] if kind is None else ["lr_mult", "decay_mult", *_options(kind)]
        for name in (name for name in values if name not in known):
            if nearest(name, known, cutoff=0.8):
                require_known([name], known, inner)
            logger.warning(f"{inner} has no option {name!r}: it has no effect")
        factors = {name: values[name] for name in ("lr_mult", "decay_mult") if name in values}
        _require_factors({"lr_mult": 1.0, **factors}, optimizer, inner)
    names = [f".{name}" for name, _ in model.named_parameters()]
    for key in custom:
        if any(key in name for name in names):
            continue
        if near := _misspelt(key, names):
            raise UserError(
                f"{where}.custom_keys: no parameter has {key!r} in its name; did you mean {near}?"
            )
        logger.warning(f"{where}.custom_keys: no parameter has {key!r} in its name: it has no effect")


def _require_factors(factors: Mapping[str, Any], optimizer: Mapping[str, Any], where: str) -> None:
    for key, value in factors.items():
        if value is None and key in _MULTIPLES:  # mmengine's default
            continue
        if not is_number(value) or value < 0:
            raise UserError(f"{where}.{key} is {value!r}, expected a number of at least 0")
        base = "weight_decay" if "decay" in key else "lr"
        if optimizer.get(base) is None:
            raise UserError(f"{where}: {key} needs optim_wrapper.optimizer.{base}, which is not set")


def _misspelt(key: str, names: Iterable[str]) -> str | None:
    """The part of a parameter's name that is meant by one that no parameter has; None where none is alike.

    All but one of its words are right, and that one is spelt almost like another; other numbers are of other
    models.
    """
    words = key.split(".")
    runs = {
        tuple(parts[start : start + len(words)])
        for parts in (name.split(".") for name in names)
        for start in range(len(parts))
    }
    for run in sorted(run for run in runs if len(run) == len(words)):
        wrong = [(word, other) for word, other in zip(words, run, strict=True) if word != other]
        if len(wrong) != 1:
            continue
        word, other = wrong[0]
        is_number_alone = re.sub(r"\d", "", word) == re.sub(r"\d", "", other)
        if not is_number_alone and nearest(word, [other], cutoff=0.8):
            return ".".join(run)
    return None


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
    saved = meta.get(_TYPE, name) if isinstance(meta, Mapping) else name
    if saved != name and not _are_related(saved, type(optimizer.optimizer)):
        raise UserError(
            f"cannot resume: the optimizer of {path} is {few([str(saved)])}, the config's {name}; resume "
            f"with the optimizer of the run, {cure}"
        )
    kinds = [{key for key in _TELLING if all(key in group for group in side)} for side in (groups, own)]
    if kinds[0] != kinds[1]:
        old, new = (", ".join(sorted(kind)) or "neither momentum nor betas" for kind in kinds)
        raise UserError(
            f"cannot resume: the optimizer of {path} has {old}, the config's {name} has {new}; resume with "
            f"the optimizer of the run, {cure}"
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
    keys = [key for key in _options(type(optimizer.optimizer)) if not is_scheduled(key, schedulers)]
    pairs = list(zip(groups, optimizer.param_groups, strict=False))
    changed = [
        key
        for key in keys
        if any(key in old and key in new and differ(old[key], new[key]) for old, new in pairs)
    ]
    for key in changed:
        if key in _AT_START:
            raise UserError(
                f"cannot resume: optim_wrapper.optimizer.{key} differs from the checkpoint's, and has an "
                "effect at the start of a run alone; resume with that of the run"
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
        logger.warning(f"the config's {kind} continues with the state of the checkpoint's {saved}")
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


def _options(kind: type) -> list[str]:
    """The names of the options that an optimizer is made with."""
    signatures = (inspect.signature(base.__init__).parameters for base in kind.__mro__)
    return [
        name for name in dict.fromkeys(name for names in signatures for name in names) if name != "params"
    ]


def _are_related(saved: Any, own: type) -> bool:
    """Whether the state of one kind serves the other, such as Adam's AdamW: a class and its subclass."""
    other = _class_of(saved)
    return other is not None and (issubclass(own, other) or issubclass(other, own))


def _class_of(kind: Any) -> type | None:
    """The class that a config's type names; None where there is none of that name."""
    found = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    return found if isinstance(found, type) else None
