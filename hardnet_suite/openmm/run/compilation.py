"""``torch.compile`` of a model's networks while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import nn

from hardnet_suite.data.options import require_known
from hardnet_suite.errors import UserError

_PARTS = ("network", "backbone", "neck", "bbox_head", "decode_head")  # of the suite's models
_OPTIONS = ("fullgraph", "dynamic", "backend", "mode", "options")


def compile_options(cfg: Config) -> dict[str, Any] | None:
    """The options of ``torch.compile`` that a config asks for: ``compile=True``, or a dict of them.

    Raises:
        UserError: another value or option.
    """
    value = cfg.get("compile")
    if value is None or value is False:
        return None
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"compile is {value!r}, expected True, or a dict of options of torch.compile")
    require_known(value, _OPTIONS, "compile")
    return dict(value)


def require_compiler(options: Mapping[str, Any]) -> None:
    """Compiles a small function, so that what is missing is told before anything is trained.

    Raises:
        UserError: it cannot be compiled on this machine, or with these options.
    """
    try:
        function = torch.compile(lambda values: (values * 2 + 1).relu(), **options)
        function(torch.ones(8, device=get_device()))
    except Exception as error:  # of the compiler, of Triton, of the toolchain
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"torch.compile does not work on this machine: {reason.strip()[:200]}; leave out --compile "
            "(compile in the config)"
        ) from error
    finally:
        torch.compiler.reset()


def compile_networks(model: nn.Module, options: Mapping[str, Any]) -> list[str]:
    """Compiles the networks of one of the suite's models, for training alone.

    The modules stay what they are: keys of their weights, copies, and the forward pass in eval mode are
    those of the model as it was.

    Args:
        model: changed.
        options: of ``torch.compile``.

    Returns:
        The names of the parts that are compiled; none of a model that has no such part.
    """
    names = [name for name in _PARTS if isinstance(getattr(model, name, None), nn.Module)]
    for name in names:
        part = getattr(model, name)
        for each in part if isinstance(part, nn.ModuleList) else [part]:  # the heads of a cascade
            each.forward = _InTraining(each, torch.compile(each.forward, **options))
    return names


class _InTraining:
    """A module's ``forward``: compiled in training mode, and its own in eval mode, at any image size.

    It takes the place of ``forward`` rather than of the module's call, as the heads of mmseg call their
    ``forward`` themselves, which ``nn.Module.compile`` leaves as it is.
    """

    def __init__(self, module: nn.Module, compiled: Callable[..., Any]):
        self._module, self._own, self._compiled = module, module.forward, compiled

    def __call__(self, *args: Any, **options: Any) -> Any:
        return (self._compiled if self._module.training else self._own)(*args, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return deepcopy(self._own, memo)  # of the copied module, which is not compiled
