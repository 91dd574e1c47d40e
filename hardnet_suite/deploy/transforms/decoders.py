"""Decoders that reduce the channels before they enlarge the map, and average windows in two passes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardnet_suite.deploy.transforms.blocks import replace_modules
from hardnet_suite.networks.centernet import CenterNetDecoder, ContextConcat, share_of_sum
from hardnet_suite.networks.fchardnet import FCHarDNetDecoder
from hardnet_suite.networks.layers import ConvNormAct, enlarge


class MergedConv(nn.Module):
    """The 1×1 convolution of [enlarged coarse map, fine map] without either copy.

    Bilinear interpolation and a 1×1 convolution commute, since the weights of a pixel's neighbours add up to
    1: the coarse map is convolved at its own size, a quarter of the pixels, and the result is enlarged.

    Args:
        layer: Convolution, batch norm and activation of the concatenated maps; its modules are used.
        fine_channels: Channels of the fine map; 0: there is none.
        align_corners: Of the interpolation.
    """

    def __init__(self, layer: ConvNormAct, fine_channels: int, align_corners: bool = True):
        super().__init__()
        self.align_corners = align_corners
        coarse = layer.conv.in_channels - fine_channels
        self.coarse = _columns(layer.conv, 0, coarse, bias=True)
        self.fine = (
            _columns(layer.conv, coarse, coarse + fine_channels, bias=False) if fine_channels else None
        )
        self.tail = nn.Sequential(layer.norm, layer.act)

    def forward(self, coarse: Tensor, fine: Tensor | None, size: Sequence[int]) -> Tensor:
        x = enlarge(self.coarse(coarse), size, self.align_corners)
        if self.fine is not None:
            x = x + self.fine(fine)
        return self.tail(x)


class MergedFCHarDNetDecoder(nn.Module):
    """`FCHarDNetDecoder` with merged convolutions; the same inputs and outputs."""

    def __init__(self, decoder: FCHarDNetDecoder):
        super().__init__()
        self.channels, self.last_proj, self.blocks = decoder.channels, decoder.last_proj, decoder.blocks
        coarse = [decoder.last_proj.conv.out_channels, *(b.out_channels for b in decoder.blocks)]
        self.convs = nn.ModuleList(
            MergedConv(conv, conv.conv.in_channels - channels, decoder.align_corners)
            for conv, channels in zip(decoder.convs, coarse[:-1], strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *skips, last = maps
        x = self.last_proj(last)
        for conv, block, skip in zip(self.convs, self.blocks, reversed(skips), strict=True):
            x = block(conv(x, skip, skip.shape[2:]))
        return x


class MergedCenterNetDecoder(nn.Module):
    """`CenterNetDecoder` with merged convolutions; the same inputs and outputs."""

    def __init__(self, decoder: CenterNetDecoder):
        super().__init__()
        self.arch, self.channels, self.context = decoder.arch, decoder.channels, decoder.context
        self.last_proj, self.down, self.last_block = decoder.last_proj, decoder.down, decoder.last_block
        self.blocks, self.convs = decoder.blocks, nn.ModuleList()
        coarse = [decoder.last_block.out_channels, *(b.out_channels for b in decoder.blocks)]
        for conv, channels in zip(decoder.convs, coarse[:-1], strict=True):
            self.convs.append(MergedConv(conv, conv.conv.in_channels - channels))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        skips, shortcuts = list(maps), []
        x = self.last_block(self.context(self.down(self.last_proj(maps[-1]))))
        for step, conv, block in zip(self.arch.steps, self.convs, self.blocks, strict=True):
            fine = skips.pop() if step.skip else None
            x = conv(x, fine, [2 * x.shape[2], 2 * x.shape[3]])
            if step.shortcut:
                x, shortcut = x.split([x.shape[1] - step.shortcut, step.shortcut], 1)
                shortcuts.insert(0, shortcut)
            x = block(self.context(x))
        return torch.cat([*(enlarge(shortcut, x.shape[2:]) for shortcut in shortcuts), x], 1)


class SeparableContext(nn.Module):
    """`ContextConcat` whose 9×9 average is that of rows, then of columns: 18 additions instead of 81."""

    def forward(self, x: Tensor) -> Tensor:
        rows = F.avg_pool2d(x, (1, 9), stride=1, padding=(0, 4))
        surroundings = F.avg_pool2d(rows, (9, 1), stride=1, padding=(4, 0))
        return torch.cat([x, surroundings, share_of_sum(x)], 1)


def merge_decoders(network: nn.Module) -> nn.Module:
    """A copy for inference whose decoder convolves before it enlarges, and concatenates nothing there.

    Args:
        network: FC-HarDNet or CenterNet; others are only copied.
    """
    merged = replace_modules(network, FCHarDNetDecoder, MergedFCHarDNetDecoder)
    return replace_modules(merged, CenterNetDecoder, MergedCenterNetDecoder)


def separate_averages(network: nn.Module) -> nn.Module:
    """A copy for inference whose 9×9 averages, in CenterNet's decoder, are computed in two passes."""
    return replace_modules(network, ContextConcat, lambda _: SeparableContext())


def _columns(conv: nn.Conv2d, start: int, stop: int, *, bias: bool) -> nn.Conv2d:
    """The part of a 1×1 convolution that takes the input channels from ``start`` to ``stop``."""
    part = copy.deepcopy(conv)
    part.in_channels = stop - start
    part.weight = nn.Parameter(conv.weight.detach()[:, start:stop].clone(), conv.weight.requires_grad)
    if not bias:
        part.bias = None
    return part
