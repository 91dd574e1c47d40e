"""The table of tensors in a checkpoint, whatever it is wrapped in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hardnet_suite.data.report import counted, escaped
from hardnet_suite.errors import UserError

# in the order in which they are looked for. timm's averaged weights (state_dict_ema) are the ones it loads
# itself; mmengine has already swapped its own into state_dict, and leaves the others in ema_state_dict
_WRAPPERS = (
    "state_dict_ema",
    "state_dict",
    "model_state",
    "model_state_dict",
    "model_ema",
    "ema",
    "model",
    "params_ema",
    "params",
    "net",
    "network",
    "module",
    "ema_state_dict",
)
_LEVELS = 100  # of modules within modules
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
# of batch norms; files older than torch 0.4.1 lack it, and those of other frameworks
COUNTER = ".num_batches_tracked"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of 8 bits need scales beside them
_WITHOUT_VALUES = "tensors are on the meta device, where they have shapes but no values"
_EMA_COUNTERS = {"steps", "n_averaged"}  # of mmengine's and torch's averaged models


def is_counter(key: str) -> bool:
    """Whether a tensor of that name counts the batches that a batch norm has seen."""
    return key.endswith(COUNTER)


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network's state dict in float32, without counters, in hex: whatever file it is from."""
    digest = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        if not is_counter(key):
            array = value.detach().cpu().float().contiguous().numpy()
            digest.update(f"{key} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def state_dict_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, as it stands or under ``state_dict``, ``model``, ``net`` and others.

    Wrappers may be nested. Averaged weights are taken from ``state_dict_ema`` (timm) where present, from
    ``ema_state_dict`` only where there is nothing else: mmengine swaps its averages into ``state_dict``. A
    ``module.`` or ``_orig_mod.`` before every key (DataParallel, torch.compile) is dropped; other prefixes
    are dropped where the model is known (``identify``).

    Raises:
        UserError: there is no such table, or its tensors are on the meta device, without values.
    """
    table, _ = _unwrapped(checkpoint)
    if not table or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in table.items()
    ):
        raise UserError(
            f"no state dict in this checkpoint: its keys are {few(map(str, checkpoint))}; "
            f"expected a table of tensors, plain or under one of {', '.join(_WRAPPERS)}"
        )
    deepest = max(table, key=lambda key: key.count("."))
    if deepest.count(".") > _LEVELS:
        raise UserError(f"a tensor's name has {deepest.count('.') + 1} parts, which no network has")
    averaged = [key for key in table if key not in _EMA_COUNTERS]
    if averaged and all(key.startswith("module.") for key in averaged):
        table = {key: table[key] for key in averaged}
    while prefix := next((name for name in _PREFIXES if all(key.startswith(name) for key in table)), None):
        table = {key.removeprefix(prefix): value for key, value in table.items()}
    if empty := [key for key, value in table.items() if value.is_meta]:
        raise UserError(f"{len(empty)} {_WITHOUT_VALUES} ({few(empty[:1])} for one)")
    return {key: _scalar(value) if is_counter(key) else value for key, value in table.items()}


def _scalar(counter: Tensor) -> Tensor:
    """A counter as torch has it, without dimensions; some programs write a list of one number."""
    return counter.reshape(()) if counter.layout is torch.strided and counter.numel() == 1 else counter


def tables_of(checkpoint: Mapping[str, Any]) -> list[str]:
    """The names of the tables of tensors among which ``state_dict_of`` chooses, the chosen one first."""
    return _unwrapped(checkpoint)[1]


def _unwrapped(checkpoint: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """The innermost table, and the names of the tables of tensors at the places where there are several."""
    table, choices = checkpoint, []
    while wrappers := [key for key in _WRAPPERS if _holds_tensors(table.get(key))]:
        choices = wrappers if len(wrappers) > 1 else choices
        table = table[wrappers[0]]
    return table, choices


def _holds_tensors(table: Any) -> bool:
    """Whether it is a table of tensors or wraps one, and is not one of settings, such as a decay."""
    pending, seen = [table], set()
    while pending:
        each = pending.pop()
        if not isinstance(each, Mapping) or id(each) in seen:
            continue
        seen.add(id(each))
        if any(isinstance(value, Tensor) and value.ndim for value in each.values()):
            return True
        pending += [each.get(key) for key in _WRAPPERS]
    return False


def require_sound(tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype] | None = None) -> None:
    """UserError unless the tensors of a network are plain, finite numbers, there and in the network.

    Args:
        tensors: by name; batch norms' counters may be of any kind.
        dtypes: what the network holds them in, by name. Default: all in float32.
    """
    target = {name: torch.float32 if dtypes is None else dtypes[name] for name in tensors}
    if empty := [name for name, value in tensors.items() if value.is_meta]:
        raise UserError(f"{len(empty)} {_WITHOUT_VALUES} ({few(empty[:1])} for one)")
    strange = [
        name
        for name, value in tensors.items()
        if not is_plain(value)
        or (value.is_floating_point() != target[name].is_floating_point and not is_counter(name))
    ]
    if strange:
        value = tensors[strange[0]]
        kind = f"{value.dtype}" if value.layout is torch.strided else f"sparse {value.dtype}"
        wanted = "floats" if target[strange[0]].is_floating_point else "integers"
        raise UserError(
            f"{len(strange)} of these tensors are not plain {wanted} ({few(strange[:1])} is {kind}): "
            "quantised or sparse weights cannot be loaded; save them as float"
        )
    if diverged := non_finite(tensors):
        raise UserError(
            f"{counted(len(diverged), 'weight')} hold{'s' * (len(diverged) == 1)} NaN or infinity, "
            f"{few(diverged[:1])} for one: the training has "
            "diverged; use an earlier checkpoint"
        )
    if beyond := [name for name, value in tensors.items() if overflows(value, target[name])]:
        dtype = str(target[beyond[0]]).removeprefix("torch.")
        raise UserError(
            f"{counted(len(beyond), 'tensor')} hold{'s' * (len(beyond) == 1)} values that the network's "
            f"{dtype} cannot: {few(beyond[:1])} up to {tensors[beyond[0]].abs().max():g}"
        )
    negative = [name for name, value in tensors.items() if name.endswith("running_var") and (value < 0).any()]
    if negative:
        raise UserError(
            f"{len(negative)} batch norms have a negative variance, {few(negative[:1])} for one: "
            "the file is damaged"
        )


def is_plain(value: Tensor) -> bool:
    """Whether a tensor is dense and its numbers mean what they are, without scales beside them."""
    return value.layout is torch.strided and not (value.is_floating_point() and value.dtype not in _FLOATS)


def overflows(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether finite floating-point numbers become infinite in another type of them."""
    if not (tensor.is_floating_point() and dtype.is_floating_point):
        return False
    if torch.finfo(tensor.dtype).max <= torch.finfo(dtype).max:
        return False
    return bool((torch.isfinite(tensor) & ~torch.isfinite(tensor.to(dtype))).any())


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the floating-point tensors that hold NaN or infinity."""
    return [
        name
        for name, tensor in tensors.items()
        if torch.is_floating_point(tensor) and not torch.isfinite(tensor).all()
    ]


def few(names: Iterable[str], most: int = 4) -> str:
    """The first names, without control characters, and "…" where there are more."""
    names = list(names)
    return escaped(", ".join(names[:most])) + (", …" if len(names) > most else "")
