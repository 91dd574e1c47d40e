"""The harmonic dense block (HarDNet, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hardnet_suite.networks.layers import ConvNormAct, PointwiseDepthwise


def harmonic_links(layer: int) -> list[int]:
    """The layers that layer ``layer`` (counted from 1; 0 is the block's input) takes in, nearest first.

    Layer k is linked to layer k − 2^n for every 2^n that divides k.
    """
    if layer < 1:
        raise ValueError(f"layers count from 1, got {layer}")
    return [layer - 2**n for n in range(layer.bit_length()) if layer % 2**n == 0]


def layer_width(layer: int, growth: int, growth_mul: float) -> int:
    """Output channels of layer ``layer``: growth · growth_mul^m, m the links beyond the first, made even."""
    width = float(growth)
    for _ in harmonic_links(layer)[1:]:
        width *= growth_mul  # one by one, as the published programs round
    return int(int(width + 1) / 2) * 2


class HarDBlock(nn.Module):
    """``layers`` convolutions with harmonic links; the output joins the odd layers and the last one.

    (N, in_channels, H, W) -> (N, out_channels, H, W), in layer order.
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
    ):
        super().__init__()
        make_layer = PointwiseDepthwise if depthwise else ConvNormAct
        widths = [in_channels] + [layer_width(k, growth, growth_mul) for k in range(1, layers + 1)]
        self.links = [harmonic_links(k) for k in range(1, layers + 1)]
        self.outputs = [k for k in range(1, layers + 1) if k % 2 == 1 or k == layers]
        self.out_channels = sum(widths[k] for k in self.outputs)
        self.layers = nn.ModuleList(
            make_layer(sum(widths[i] for i in links), width, act=act)
            for links, width in zip(self.links, widths[1:], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for links, layer in zip(self.links, self.layers, strict=True):
            maps.append(layer(torch.cat([maps[i] for i in links], 1)))
        return torch.cat([maps[k] for k in self.outputs], 1)
