"""The harmonic dense block (HarDNet, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardnet_suite.networks.arch import MOST
from hardnet_suite.networks.layers import ConvNormAct, PointwiseDepthwise


def harmonic_links(layer: int) -> list[int]:
    """The layers whose outputs are the input of a layer, nearest first.

    Layer k is linked to layer k − 2^n for every 2^n that divides k.

    Args:
        layer: Layer number, counted from 1; 0 is the block's input.

    Raises:
        ValueError: ``layer`` < 1.
    """
    if layer < 1:
        raise ValueError(f"layers are counted from 1, got {layer}")
    return [layer - 2**n for n in range(layer.bit_length()) if layer % 2**n == 0]


def layer_width(layer: int, growth: int, growth_mul: float, multiple: int = 2) -> int:
    """Output channels of a layer: growth · growth_mul^m with m links beyond the first, rounded.

    Args:
        layer: Layer number, counted from 1.
        growth: Growth rate of the block.
        growth_mul: Width multiplier per link.
        multiple: What the width is rounded to a multiple of; at least one such multiple.

    Raises:
        ValueError: The layer would have more channels than any network, as of a large ``growth_mul``.
    """
    width = float(growth)
    for _ in harmonic_links(layer)[1:]:
        width *= growth_mul  # repeated multiplication, to round like the official program
    if width > MOST:
        raise ValueError(
            f"layer {layer} of a block would have {width:.3g} channels, expected at most {MOST}: "
            f"growth={growth}, growth_mul={growth_mul:g}"
        )
    return max(int((width + multiple / 2) / multiple), 1) * multiple


class HarDBlock(nn.Module):
    """Harmonic dense block: (N, in_channels, H, W) -> (N, out_channels, H, W).

    The output concatenates the odd layers and the last one, in order, after the input with ``keep_input``.

    Args:
        in_channels: Input channels.
        growth: Growth rate.
        growth_mul: Width multiplier per harmonic link.
        layers: Number of convolution layers.
        depthwise: Use pairs of a 1×1 and a depthwise 3×3 convolution instead of 3×3 convolutions.
        act: Activation, a key of ``layers.ACTIVATIONS``.
        width_multiple: What the layers' widths are multiples of.
        dilation: Dilation of the 3×3 convolutions.
        keep_input: Whether the output includes the input.

    Attributes:
        out_channels: Number of output channels.
    """

    def __init__(
        self,
        in_channels: int,
        growth: int,
        growth_mul: float,
        layers: int,
        *,
        depthwise: bool = False,
        act: str = "relu",
        width_multiple: int = 2,
        dilation: int = 1,
        keep_input: bool = False,
    ):
        super().__init__()
        make_layer = PointwiseDepthwise if depthwise else ConvNormAct
        widths = [in_channels]
        widths += [layer_width(k, growth, growth_mul, width_multiple) for k in range(1, layers + 1)]
        self.links = [harmonic_links(k) for k in range(1, layers + 1)]
        self.outputs = [0] if keep_input else []
        self.outputs += [k for k in range(1, layers + 1) if k % 2 == 1 or k == layers]
        self.out_channels = sum(widths[k] for k in self.outputs)
        self.layers = nn.ModuleList(
            make_layer(sum(widths[i] for i in links), width, dilation=dilation, act=act)
            for links, width in zip(self.links, widths[1:], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for index, layer in enumerate(self.layers):
            maps.append(layer(_join([maps[i] for i in self.links[index]])))
        return _join([maps[k] for k in self.outputs])


def _join(maps: list[Tensor]) -> Tensor:
    """Concatenated channels; ``torch.cat`` would copy a single map, too."""
    return torch.cat(maps, 1) if len(maps) > 1 else maps[0]
