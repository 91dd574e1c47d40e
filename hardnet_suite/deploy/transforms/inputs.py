"""The input normalisation, folded into the first convolution."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardnet_suite.deploy.transforms.descriptors import RawPatchDescriptor, take_raw_pixels
from hardnet_suite.networks import PatchDescriptor, Preprocess


class RawConv2d(nn.Conv2d):
    """A convolution of raw pixels and, as its last input channel, ones.

    The convolution's padding is zero in the channel of ones, too, so that the offset of the normalisation is
    missing at the border of the image exactly where the padded pixels are.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(with_ones(pixels, self.weight.dtype))


def with_ones(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, 3, H, W) of any dtype -> (N, 4, H, W) with a channel of ones."""
    return F.pad(pixels.to(dtype), (0, 0, 0, 0, 0, 1), value=1.0)


def fold_normalization(network: nn.Module, preprocess: Preprocess | None = None) -> nn.Module:
    """A copy for inference that takes raw RGB pixels, 0…255, uint8 or floating point.

    The order of the channels, the division by the scale, mean and standard deviation become part of the first
    convolution, exactly, also where that pads the image.

    Args:
        network: Of ``create_model``, in any of the forms of this package.
        preprocess: The input rule; default: ``network.usage.preprocess``.

    Returns:
        The copy in eval mode. Its ``usage``, if it has one, says that the input is raw.

    Raises:
        ValueError: The network has no input rule and none is given, its number of input channels is not the
            rule's, or its input is raw already.
    """
    usage = getattr(network, "usage", None)
    rule = preprocess if preprocess is not None else getattr(usage, "preprocess", None)
    if rule is None:
        raise ValueError("the network has no input rule (network.usage): preprocess must be given")
    raw = copy.deepcopy(network).eval()
    matrix, offset = rule.affine()
    if isinstance(raw, PatchDescriptor):
        _check(raw.in_chans, matrix, isinstance(raw, RawPatchDescriptor))
        take_raw_pixels(raw, matrix[0], offset[0])
    else:
        parent, name = first_conv(raw)
        conv = getattr(parent, name)
        _check(conv.in_channels, matrix, isinstance(conv, RawConv2d))
        setattr(parent, name, _raw(conv, matrix, offset))
        getattr(raw, "trunk", raw).in_chans = 3
    if usage is not None:
        raw.usage = replace(usage, preprocess=_raw_rule(rule))
    return raw


def _check(channels: int, matrix: Tensor, raw: bool) -> None:
    if raw:
        raise ValueError("the network takes raw pixels already")
    if channels != len(matrix):
        raise ValueError(f"the network takes {channels} channels, the input rule makes {len(matrix)}")


def first_conv(network: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the first convolution, and its name there."""
    path = next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, name = path.rpartition(".")
    return network.get_submodule(parent), name


def _raw(conv: nn.Conv2d, matrix: Tensor, offset: Tensor) -> RawConv2d:
    """W (A x + b) = (W A) x + (W b) · 1."""
    raw = RawConv2d.__new__(RawConv2d)
    raw.__dict__ = conv.__dict__
    raw.in_channels = matrix.shape[1] + 1
    with torch.no_grad():
        matrix = torch.cat([matrix, offset[:, None]], 1).to(conv.weight.device)
        weight = torch.einsum("ocyx,cr->oryx", conv.weight.double(), matrix).to(conv.weight.dtype)
    raw.weight = nn.Parameter(weight, conv.weight.requires_grad)
    return raw


def _raw_rule(rule: Preprocess) -> Preprocess:
    """The rule without normalisation; what is padded after it has the value that was normalised to."""
    value = tuple(
        mean + rule.input_value * std for mean, std in zip(rule.pixel_mean, rule.pixel_std, strict=True)
    )
    value = {"rgb": value, "bgr": value[::-1], "grey": value * 3}[rule.channels]
    return replace(rule, channels="rgb", scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3, input_value=value)
