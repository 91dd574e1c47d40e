"""Mixed precision in bfloat16, on the CPU and on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import kind_of

_BF16, _FP32, _AMP = "BFloat16OptimWrapper", "OptimWrapper", "AmpOptimWrapper"
_AMP_OPTIONS = ("dtype", "loss_scale", "use_fsdp")  # those of AmpOptimWrapper alone


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs forward passes under autocast to bfloat16.

    bfloat16 has the range of float32, so no loss scaling is needed. mmengine's AmpOptimWrapper does not
    support bfloat16 on the CPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        first = next(model.parameters(), None)  # a teacher may have none
        device = get_device() if first is None else first.device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


def wrapper_in_precision(wrapper: Mapping[str, Any], *, bf16: bool) -> dict[str, Any]:
    """The config of an optimizer wrapper that computes in the given precision, whatever it computed in.

    Args:
        wrapper: mmengine's config of an optimizer wrapper; left unchanged.
        bf16: autocast to bfloat16; False: float32.

    Raises:
        UserError: a wrapper of another kind, whose precision is its own.
    """
    kind = _kind(wrapper)
    if kind not in (_BF16, _FP32, _AMP):
        raise UserError(
            f"optim_wrapper: cannot choose the precision of {kind}, expected {_FP32}, {_AMP} or {_BF16}"
        )
    options = {key: value for key, value in wrapper.items() if key not in _AMP_OPTIONS}
    return options | {"type": _BF16 if bf16 else _FP32}


def training_precision(cfg: Mapping[str, Any]) -> str:
    """What a config's training steps compute in: "float32", "bfloat16", "float16", or a class of wrappers."""
    wrapper = cfg.get("optim_wrapper") or {}
    kind = _kind(wrapper)
    if cfg.get("bf16") or kind == _BF16:
        return "bfloat16"
    if kind == _AMP:
        return str(wrapper.get("dtype") or "float16").removeprefix("torch.")
    return "float32" if kind == _FP32 else kind


def _kind(wrapper: Mapping[str, Any]) -> str:
    """The name of the class; that of mmengine's runner where none is given."""
    return kind_of(wrapper) if wrapper.get("type") else _FP32


@contextmanager
def bfloat16_loops(on: bool) -> Iterator[None]:
    """Context manager in which mmengine's loops with ``fp16=True`` compute in bfloat16 on CUDA, too.

    Args:
        on: False makes it a no-op.
    """
    before = torch.get_autocast_dtype("cuda")
    if on:
        torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_dtype("cuda", before)


@contextmanager
def bfloat16_features(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Context manager in which a model extracts features in bfloat16, and its heads compute in float32.

    For models of other programs at test time: under autocast many heads would decode in bfloat16, in which
    the coordinates of boxes are multiples of 2 from 256 pixels on, and of 4 from 512.

    Args:
        model: whose ``extract_feat``, or that of models inside of it, is changed until the end.
        on: False makes it a no-op.

    Raises:
        UserError: no model there has an ``extract_feat``.
    """
    extractors = [each for each in model.modules() if callable(getattr(each, "extract_feat", None))]
    if on and not extractors:
        kind = type(model).__name__
        raise UserError(
            f"--bf16 computes extract_feat of another program's model in bfloat16, but a {kind} has none: "
            "leave out --bf16"
        )
    for each in extractors if on else ():
        each.extract_feat = _in_bfloat16(each.extract_feat)
    try:
        yield
    finally:
        for each in extractors if on else ():
            del each.extract_feat


def _in_bfloat16(extract: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(extract)
    def extract_feat(*args, **options):
        with torch.autocast(get_device(), dtype=torch.bfloat16):
            return _as_float32(extract(*args, **options))

    return extract_feat


def _as_float32(value: Any) -> Any:
    """The tensors in lists, tuples and dictionaries, those of floating point numbers in float32."""
    if isinstance(value, Mapping):
        return {key: _as_float32(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_as_float32(each) for each in value])
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
