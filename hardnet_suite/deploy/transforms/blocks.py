"""HarDBlocks without concatenations (the form of HarDNet V2)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hardnet_suite.networks import HarDBlock
from hardnet_suite.networks.layers import PointwiseDepthwise


class SplitHarDBlock(nn.Module):
    """A HarDBlock whose layers are sums: (N, in_channels, H, W) -> (N, out_channels, H, W).

    A convolution of concatenated maps is the sum of convolutions of each. Here, each map is convolved once
    for all the layers that are linked to it, and a layer adds up its parts.

    Args:
        block: The block to rewrite; its modules are used.

    Attributes:
        users: For each map, 0 being the block's input, the layers that are linked to it.
        widths: Channels of each layer before its activation.
        convs: For each map with users, one convolution to the channels of all of them, by the map's number.
        tails: What follows the convolution in each layer.
    """

    def __init__(self, block: HarDBlock):
        super().__init__()
        self.outputs, self.out_channels = block.outputs, block.out_channels
        count = len(block.layers)
        self.users = [[k + 1 for k, links in enumerate(block.links) if i in links] for i in range(count + 1)]
        firsts, self.tails = [], nn.ModuleList()
        for layer in block.layers:
            sequence = layer.layer1 if isinstance(layer, PointwiseDepthwise) else layer
            rest = nn.Sequential(sequence.norm, sequence.act)
            firsts.append(sequence.conv)
            self.tails.append(
                nn.Sequential(*rest, layer.layer2) if isinstance(layer, PointwiseDepthwise) else rest
            )
        self.widths = [conv.out_channels for conv in firsts]
        parts: dict[tuple[int, int], Tensor] = {}  # (map, layer) -> its slice of the layer's weight
        widths = [layer_output(block, i) for i in range(count + 1)]
        for k, (links, conv) in enumerate(zip(block.links, firsts, strict=True), start=1):
            slices = conv.weight.detach().split([widths[i] for i in links], 1)
            parts |= {(i, k): weight for i, weight in zip(links, slices, strict=True)}
        self.convs = nn.ModuleDict()
        for i, users in enumerate(self.users):
            if users:
                biases = [firsts[k - 1].bias if i == k - 1 else None for k in users]  # each bias once
                self.convs[str(i)] = _joint_conv(firsts[users[0] - 1], [parts[i, k] for k in users], biases)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = [x]
        sums: dict[int, Tensor] = {}
        for i, users in enumerate(self.users):
            if i:
                maps.append(self.tails[i - 1](sums.pop(i)))
            if users:
                parts = self.convs[str(i)](maps[i]).split([self.widths[k - 1] for k in users], 1)
                for k, part in zip(users, parts, strict=True):
                    sums[k] = sums[k] + part if k in sums else part
        return torch.cat([maps[k] for k in self.outputs], 1)


def layer_output(block: HarDBlock, index: int) -> int:
    """Channels of a block's map; 0 is its input."""
    if index == 0:
        return _conv_of(block.layers[0]).in_channels
    return _conv_of(block.layers[index - 1]).out_channels


def _conv_of(layer: nn.Module) -> nn.Conv2d:
    return layer.layer1.conv if isinstance(layer, PointwiseDepthwise) else layer.conv


def _joint_conv(like: nn.Conv2d, weights: list[Tensor], biases: list[Tensor | None]) -> nn.Conv2d:
    """One convolution for several outputs."""
    weight = torch.cat(weights)
    has_bias = any(bias is not None for bias in biases)
    conv = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        like.kernel_size,
        like.stride,
        like.padding,
        like.dilation,
        bias=has_bias,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.clone(), like.weight.requires_grad)
    if has_bias:
        filled = [
            weight.new_zeros(len(part)) if bias is None else bias.detach()
            for part, bias in zip(weights, biases, strict=True)
        ]
        conv.bias = nn.Parameter(torch.cat(filled), like.weight.requires_grad)
    return conv


def split_concats(network: nn.Module) -> nn.Module:
    """A copy for inference whose HarDBlocks add instead of concatenating.

    Args:
        network: Any network with HarDBlocks, or without: then it is only copied.

    Returns:
        The copy in eval mode, with a `SplitHarDBlock` in place of each HarDBlock.
    """
    return replace_modules(network, HarDBlock, SplitHarDBlock)


def replace_modules(
    network: nn.Module, kind: type[nn.Module], replacement: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """A copy in eval mode, with ``replacement(module)`` in place of each module of a kind inside it."""
    changed = copy.deepcopy(network).eval()
    for parent in list(changed.modules()):
        for name, module in list(parent._modules.items()):
            if isinstance(module, kind):
                parent._modules[name] = replacement(module).eval()
    return changed
