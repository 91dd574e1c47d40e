"""FC-HarDNet for semantic segmentation (HarDNet, section 4.2; https://github.com/PingoLH/FCHarDNet)."""

from __future__ import annotations

import torch
from torch import Tensor, cat, nn

from hardnet_suite.networks.arch import FCHarDNetArch
from hardnet_suite.networks.hardblock import HarDBlock
from hardnet_suite.networks.hardnet import HarDNetTrunk, last_stages
from hardnet_suite.networks.layers import ConvNormAct, enlarge, init_weights


class FCHarDNetDecoder(nn.Module):
    """The decoder.

    ``forward`` takes the trunk's block outputs of strides 4, 8, 16 …, finest first, and returns
    (N, channels, H/4, W/4). Each step upsamples the map to the size of the next finer one, concatenates that
    one, halves the channels with a 1×1 convolution and applies a HarDBlock.

    Args:
        arch: The network's row of the architecture table.
        in_channels: Channels of the trunk's maps, finest first.

    Attributes:
        channels: Number of output channels.

    Raises:
        ValueError: ``in_channels``, or the maps of ``forward``, are not one per stage.
    """

    def __init__(self, arch: FCHarDNetArch, in_channels: list[int] | tuple[int, ...]):
        super().__init__()
        stages = arch.trunk.stages
        if len(in_channels) != len(stages):
            raise ValueError(
                f"expected in_channels with {len(stages)} entries, one per map, got {in_channels}"
            )
        act, multiple = arch.trunk.act, arch.trunk.width_multiple
        block_act = arch.trunk.block_act or act
        self.last_proj = ConvNormAct(in_channels[-1], arch.last_channels, 1, act=act)
        self.convs, self.blocks = nn.ModuleList(), nn.ModuleList()
        channels = arch.last_channels
        for stage, skip in zip(stages[-2::-1], in_channels[-2::-1], strict=True):
            half = (channels + skip) // 2
            self.convs.append(ConvNormAct(channels + skip, half, 1, act=act))
            self.blocks.append(
                HarDBlock(
                    half,
                    stage.growth,
                    arch.trunk.growth_mul,
                    stage.layers,
                    act=block_act,
                    width_multiple=multiple,
                )
            )
            channels = self.blocks[-1].out_channels
        self.channels = channels
        init_weights(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        if len(maps) != len(self.convs) + 1:
            raise ValueError(f"expected {len(self.convs) + 1} maps, got {len(maps)}")
        x = self.last_proj(maps[-1])
        for index, (conv, block) in enumerate(zip(self.convs, self.blocks)):  # noqa: B905  # TorchScript
            skip = maps[-2 - index]
            x = block(conv(cat([enlarge(x, skip.shape[2:]), skip], 1)))
        return x


LEAST_SIDE = 64  # pixels; the network halves its input six times


class FCHarDNet(nn.Module):
    """FC-HarDNet segmentation network: (N, in_chans, H, W) -> (N, num_classes, H, W) logits.

    Height and width of the input must be at least 64 pixels.

    Args:
        arch: A row of the architecture table.
        num_classes: Number of classes; default: that of ``arch``.
        in_chans: Number of input channels.
    """

    class_layers = ("classifier.",)  # prefixes of the parameters that depend on the number of classes

    def __init__(self, arch: FCHarDNetArch, *, num_classes: int | None = None, in_chans: int = 3):
        super().__init__()
        self.arch = arch
        self.num_classes = arch.num_classes if num_classes is None else num_classes
        self.trunk = HarDNetTrunk(
            arch.trunk, in_chans=in_chans, out_indices=source_indices(arch), tap="block"
        )
        self.decoder = FCHarDNetDecoder(arch, self.trunk.channels)
        self.classifier = nn.Conv2d(self.decoder.channels, self.num_classes, 1)
        init_weights(self.classifier)

    @property
    @torch.jit.unused
    def official_prefixes(self) -> dict[str, str]:
        names = {f"trunk.{ours}": theirs for ours, theirs in self.trunk.official_prefixes.items()}
        last = names.pop(f"trunk.stages.{len(self.arch.trunk.stages) - 1}.transition")
        return names | {
            "decoder.last_proj": last,  # the official program keeps it in the trunk
            "decoder.convs": "conv1x1_up",
            "decoder.blocks": "denseBlocksUp",
            "classifier": "finalConv",
        }

    def forward_head(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_classes, ceil(H/4), ceil(W/4)) logits, before upsampling."""
        return self.classifier(self.decoder(self.trunk(x)))

    def forward(self, x: Tensor) -> Tensor:
        return enlarge(self.forward_head(x), x.shape[2:])


def source_indices(arch: FCHarDNetArch) -> tuple[int, ...]:
    """The trunk's ``out_indices`` for the maps that the decoder takes: all strides from 4 on."""
    return tuple(range(1, len(last_stages(arch.trunk))))
