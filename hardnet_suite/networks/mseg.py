"""HarDNet-MSEG for segmentation of one class, such as polyps (Huang et al. 2021, arXiv 2101.07172).

The decoder is that of the Cascaded Partial Decoder (Wu et al. 2019, arXiv 1904.08739).
"""

from __future__ import annotations

import torch
from torch import Tensor, cat, nn

from hardnet_suite.networks.arch import MSEGArch
from hardnet_suite.networks.hardnet import HarDNetTrunk, last_stages
from hardnet_suite.networks.layers import (
    ConvNorm,
    ReceptiveFieldBlock,
    enlarge,
    field_names,
    init_weights,
)

# parts of the published program that have weights and are never used: reverse attention of PraNet, from which
# it derives, and the trunk's classifier
_REVERSE_ATTENTION = tuple(
    f"ra{level}_conv{index}" for level, count in ((4, 5), (3, 4), (2, 4)) for index in range(1, count + 1)
)
_UNUSED = (*_REVERSE_ATTENTION, *(f"conv{index}" for index in range(2, 7)))


def receptive_field(in_channels: int, channels: int, kernels: tuple[int, ...]) -> ReceptiveFieldBlock:
    """RFB as in the Cascaded Partial Decoder: (N, in_channels, H, W) -> (N, channels, H, W).

    Args:
        in_channels: Input channels.
        channels: Channels of each branch and of the output.
        kernels: Kernel size, and dilation, of each branch but the first.
    """
    branches = [nn.Sequential(ConvNorm(in_channels, channels, 1))]
    for side in kernels:
        branches.append(
            nn.Sequential(
                ConvNorm(in_channels, channels, 1),
                ConvNorm(channels, channels, (1, side)),
                ConvNorm(channels, channels, (side, 1)),
                ConvNorm(channels, channels, dilation=side),
            )
        )
    joined = ConvNorm(len(branches) * channels, channels)
    return ReceptiveFieldBlock(branches, joined, ConvNorm(in_channels, channels, 1))


class PartialDecoder(nn.Module):
    """Receptive field blocks and dense aggregation of the trunk's three coarsest maps.

    ``forward`` takes the maps of strides 8, 16 and 32, finest first, and returns (N, channels, H/8, W/8).

    Args:
        arch: The network's row of the architecture table.
        in_channels: Channels of the maps, finest first.

    Attributes:
        channels: Number of output channels.

    Raises:
        ValueError: ``in_channels``, or the maps of ``forward``, are not three.
    """

    def __init__(self, arch: MSEGArch, in_channels: list[int] | tuple[int, ...]):
        super().__init__()
        if len(in_channels) != 3:
            raise ValueError(f"expected in_channels with 3 entries, one per map, got {in_channels}")
        width = arch.channels
        self.blocks = nn.ModuleList(
            receptive_field(channels, width, arch.kernels) for channels in in_channels
        )
        self.ups = nn.ModuleList(
            [*(ConvNorm(width, width) for _ in range(4)), ConvNorm(2 * width, 2 * width)]
        )
        self.concat2, self.concat3 = ConvNorm(2 * width, 2 * width), ConvNorm(3 * width, 3 * width)
        self.last = ConvNorm(3 * width, 3 * width)
        self.channels = 3 * width
        init_weights(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        if len(maps) != 3:
            raise ValueError(f"expected 3 maps, got {len(maps)}")
        fields: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            fields.append(block(maps[index]))
        fine, middle, coarse = fields[0], fields[1], fields[2]
        enlarged = enlarge(coarse, middle.shape[2:])
        both = self.ups[0](enlarged) * middle
        all_three = (
            self.ups[1](enlarge(enlarged, fine.shape[2:]))
            * self.ups[2](enlarge(middle, fine.shape[2:]))
            * fine
        )
        joined = self.concat2(cat([both, self.ups[3](enlarged)], 1))
        joined = self.concat3(cat([all_three, self.ups[4](enlarge(joined, fine.shape[2:]))], 1))
        return self.last(joined)


class MSEG(nn.Module):
    """HarDNet-MSEG: (N, in_chans, H, W) -> (N, num_classes, H, W) logits.

    Height and width of the input must be at least 32 pixels; the published program takes multiples of 32.

    Args:
        arch: A row of the architecture table.
        num_classes: Number of classes; default: that of ``arch``, 1.
        in_chans: Number of input channels.
    """

    class_layers = ("classifier.",)  # prefixes of the parameters that depend on the number of classes

    def __init__(self, arch: MSEGArch, *, num_classes: int | None = None, in_chans: int = 3):
        super().__init__()
        self.arch = arch
        self.num_classes = arch.num_classes if num_classes is None else num_classes
        self.trunk = HarDNetTrunk(arch.trunk, in_chans=in_chans, out_indices=source_indices(arch))
        self.decoder = PartialDecoder(arch, self.trunk.channels)
        self.classifier = nn.Conv2d(self.decoder.channels, self.num_classes, 1)
        init_weights(self.classifier)

    @property
    @torch.jit.unused
    def official_prefixes(self) -> dict[str, str]:
        names = {
            f"trunk.{ours}": f"hardnet.{theirs}" for ours, theirs in self.trunk.official_prefixes.items()
        }
        parts = {"classifier": "agg1.conv5", "decoder.last": "agg1.conv4"}
        parts |= {f"decoder.ups.{index}": f"agg1.conv_upsample{index + 1}" for index in range(5)}
        parts |= {f"decoder.concat{index}": f"agg1.conv_concat{index}" for index in (2, 3)}
        for index, block in enumerate(self.decoder.blocks):
            for ours, theirs in field_names(block, "conv_cat", "conv_res").items():
                parts[f"decoder.blocks.{index}.{ours}"] = f"rfb{index + 2}_1.{theirs}"
        norms = {f"{ours}.norm": f"{theirs}.bn" for ours, theirs in parts.items() if ours != "classifier"}
        return names | parts | norms

    @property
    @torch.jit.unused
    def official_unused(self) -> tuple[str, ...]:
        """Prefixes of the published program's weights that it never uses, and this network does not have."""
        return (*_UNUSED, f"hardnet.base.{self.trunk.official_length}")

    def forward_head(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_classes, H/8, W/8) logits, before upsampling."""
        return self.classifier(self.decoder(self.trunk(x)))

    def forward(self, x: Tensor) -> Tensor:
        return enlarge(self.forward_head(x), x.shape[2:], False)


def source_indices(arch: MSEGArch) -> tuple[int, ...]:
    """The trunk's ``out_indices`` for the maps that the decoder takes: the three coarsest."""
    return tuple(range(len(last_stages(arch.trunk))))[-3:]
