"""Precision and memory layout."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hardnet_suite.deploy.transforms.descriptors import return_float32
from hardnet_suite.deploy.transforms.inputs import RawConv2d, first_conv
from hardnet_suite.networks import (
    MSEG,
    SSD,
    CenterNet,
    FCHarDNet,
    HarDNetClassifier,
    HarDNetTrunk,
    PatchDescriptor,
)
from hardnet_suite.networks.layers import L2Norm

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class CastConv2d(nn.Conv2d):
    """A convolution that takes any floating point input, and may return another type than it computes in."""

    out_dtype: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x.to(self.weight.dtype))
        return x if self.out_dtype is None else x.to(self.out_dtype)


class CastLinear(nn.Linear):
    """A linear layer that takes any floating point input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


def cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy for inference that computes in ``dtype``, and takes and returns what the network does.

    The input may be float32 (or uint8, where it is raw), and the output is float32: only the maps of a bare
    trunk stay in ``dtype``. In half precision these stay in float32, because they lose too much: the last
    layer of classifiers, segmentation networks and CenterNet's branches; L2Norm; CenterNet's sum over the
    map; the descriptor's normalisation of patches and of its output.

    Args:
        network: Of ``create_model``, in any of the forms of this package.
        dtype: ``torch.bfloat16``, ``torch.float16``, ``torch.float32`` or ``torch.float64``.

    Returns:
        The copy in eval mode.

    Raises:
        ValueError: Another dtype, or another kind of network.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype} must be one of {', '.join(map(str, DTYPES))}")
    kinds = (HarDNetTrunk, HarDNetClassifier, SSD, CenterNet, FCHarDNet, MSEG, PatchDescriptor)
    if not isinstance(network, kinds):
        raise ValueError(f"cannot cast a {type(network).__name__}")
    converted = copy.deepcopy(network).eval().to(dtype)
    half = dtype in (torch.float16, torch.bfloat16)
    if isinstance(converted, PatchDescriptor):
        if half:
            return_float32(converted)
        return converted
    parent, name = first_conv(converted)
    if not isinstance(getattr(parent, name), RawConv2d):  # which casts by itself
        setattr(parent, name, _as(CastConv2d, getattr(parent, name)))
    if half:
        for layer, original in zip(converted.modules(), network.modules(), strict=True):
            if isinstance(layer, L2Norm):
                layer.weight = nn.Parameter(original.weight.detach().float().clone())
        _widen_output(converted, network)
    return converted


def channels_last(network: nn.Module) -> nn.Module:
    """A copy for inference with channels last in memory: the layout that oneDNN and cuDNN are fastest in."""
    return copy.deepcopy(network).eval().to(memory_format=torch.channels_last)


def _widen_output(converted: nn.Module, network: nn.Module) -> None:
    """Makes the output float32: the last layers with their original weights where they are cheap."""
    if isinstance(converted, HarDNetClassifier):
        if isinstance(network.fc, nn.Linear):
            converted.fc = _precise(CastLinear, network.fc)
    elif isinstance(converted, FCHarDNet | MSEG):
        converted.classifier = _precise(CastConv2d, network.classifier)
    elif isinstance(converted, CenterNet):
        for branch, original in ((converted.hm, network.hm), (converted.wh, network.wh)):
            branch[-1] = _precise(CastConv2d, original[-1])
    elif isinstance(converted, SSD):  # 3×3 convolutions of all levels: too much work for float32
        for heads in (converted.cls, converted.box):
            for index, head in enumerate(heads):
                heads[index] = _as(CastConv2d, head)
                heads[index].out_dtype = torch.float32


def _as(kind: type[nn.Module], layer: nn.Module) -> nn.Module:
    """The layer, as one of a subclass of its class."""
    changed = kind.__new__(kind)
    changed.__dict__ = layer.__dict__
    return changed


def _precise(kind: type[nn.Module], layer: nn.Module) -> nn.Module:
    return _as(kind, copy.deepcopy(layer).float())
