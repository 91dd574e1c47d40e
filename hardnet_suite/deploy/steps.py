"""The steps from a network to the forms that it is run in: one table for ``deploy`` and ``benchmark``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hardnet_suite.deploy.transforms import (
    cast,
    channels_last,
    fuse_batch_norms,
    merge_decoders,
    pack,
    pad_channels,
    separate_averages,
    split_concats,
)
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean
from hardnet_suite.networks.centernet import CenterNetDecoder
from hardnet_suite.networks.fchardnet import FCHarDNetDecoder

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Step = Callable[[nn.Module, Tensor], nn.Module]

STEPS: dict[str, Step] = {
    "fuse": lambda network, _: _fused(network),
    "merge": lambda network, _: merge_decoders(network),
    "separate": lambda network, _: separate_averages(network),
    "pad8": lambda network, _: pad_channels(network, 8),
    "pad16": lambda network, _: pad_channels(network, 16),
    "pad32": lambda network, _: pad_channels(network, 32),
    "split": lambda network, _: split_concats(network),
    "bf16": lambda network, _: _cast(network, torch.bfloat16),
    "fp16": lambda network, _: _cast(network, torch.float16),
    "channels_last": lambda network, _: channels_last(network),
    "pack": pack,
    "compile": lambda network, _: _compiled(network),
}
_REWRITTEN = {"merge": (FCHarDNetDecoder, CenterNetDecoder), "separate": (CenterNetDecoder,)}


def transformed(network: nn.Module, steps: Sequence[str], example: Tensor) -> nn.Module:
    """A network after several transforms.

    Args:
        network: Of ``create_model``, or of another package, which "merge", "separate" and "split" leave as it
            is; left as it is, but by "compile" where no step before it makes a copy.
        steps: Names of ``STEPS``, applied in order.
        example: A typical input, which "pack" asks for.

    Raises:
        UserError: An unknown step.
    """
    for step in steps:
        if step not in STEPS:
            raise UserError(f"unknown step {step!r}; {did_you_mean(step, STEPS)}known: {', '.join(STEPS)}")
        network = STEPS[step](network, example)
    return network


def rewrites(network: nn.Module) -> tuple[str, ...]:
    """The steps that rewrite the decoder of a network; none where it has no decoder."""
    modules = list(network.modules())
    return tuple(
        step for step, kinds in _REWRITTEN.items() if any(isinstance(module, kinds) for module in modules)
    )


def casts(precision: str) -> tuple[str, ...]:
    """The steps from a network in float32 to one of ``PRECISIONS``."""
    return () if precision == "fp32" else (precision,)


def _fused(network: nn.Module) -> nn.Module:
    """A copy in eval mode without batch norms after convolutions, of any network.

    Networks whose layers are not in order in containers are traced by torch.fx, where that is possible.
    """
    folded = fuse_batch_norms(network)
    if not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules()):
        return folded
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(copy.deepcopy(network).eval())
    except Exception:  # symbolic tracing refuses what depends on data, by errors of many types
        return folded


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in another precision; the suite's networks keep in float32 what needs it."""
    try:
        return cast(network, dtype)
    except ValueError:  # a network of another package
        return copy.deepcopy(network).eval().to(dtype)


def _compiled(network: nn.Module) -> nn.Module:
    """Compiled in place: attributes stay those of the network."""
    network.compile(dynamic=False)
    return network
