"""FC-HarDNet for semantic segmentation (HarDNet, section 4.2; https://github.com/PingoLH/FCHarDNet)."""

from __future__ import annotations

import torch
from torch import Tensor, cat, nn

from hardnet_suite.networks.arch import FCHarDNetArch, Stage
from hardnet_suite.networks.hardblock import HarDBlock
from hardnet_suite.networks.hardnet import HarDNetTrunk, last_stages
from hardnet_suite.networks.layers import ConvNormAct, enlarge, init_weights, is_captured


class _Decoder(nn.Module):
    """What the decoders have in common.

    ``forward`` takes the trunk's maps at the indices of ``source_indices``, finest first, and returns
    (N, channels, H, W) at the size of the first.

    Args:
        arch: The network's row of the architecture table.
        in_channels: Channels of the trunk's maps, finest first.

    Attributes:
        channels: Number of output channels.

    Raises:
        ValueError: ``in_channels``, or the maps of ``forward``, are not one per index, or ``last_channels``
            does not fit the decoder.
    """

    def __init__(self, arch: FCHarDNetArch, in_channels: list[int] | tuple[int, ...]):
        super().__init__()
        expected = len(source_indices(arch))
        if len(in_channels) != expected:
            raise ValueError(f"expected in_channels with {expected} entries, one per map, got {in_channels}")
        if (arch.last_channels == 0) != (arch.up == "transposed"):
            raise ValueError(
                f"last_channels={arch.last_channels} does not fit up={arch.up!r}: expected 0 for "
                "'transposed', at least 1 otherwise"
            )

    @staticmethod
    def _block(arch: FCHarDNetArch, stage: Stage, in_channels: int) -> HarDBlock:
        trunk = arch.trunk
        return HarDBlock(
            in_channels,
            stage.growth,
            trunk.growth_mul,
            stage.layers,
            act=trunk.block_act or trunk.act,
            width_multiple=trunk.width_multiple,
        )


class FCHarDNetDecoder(_Decoder):
    """The decoder of FC-HarDNet-70; see `_Decoder` for its arguments.

    Each step upsamples the map to the size of the next finer one, concatenates that one, halves the channels
    with a 1×1 convolution and applies a HarDBlock.
    """

    def __init__(self, arch: FCHarDNetArch, in_channels: list[int] | tuple[int, ...]):
        super().__init__(arch, in_channels)
        act = arch.trunk.act
        self.align_corners = arch.align_corners
        self.last_proj = ConvNormAct(in_channels[-1], arch.last_channels, 1, act=act)
        self.convs, self.blocks = nn.ModuleList(), nn.ModuleList()
        channels = arch.last_channels
        for stage, skip in zip(_steps(arch), in_channels[-2::-1], strict=True):
            half = (channels + skip) // 2
            self.convs.append(ConvNormAct(channels + skip, half, 1, act=act))
            self.blocks.append(self._block(arch, stage, half))
            channels = self.blocks[-1].out_channels
        self.channels = channels
        init_weights(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        if len(maps) != len(self.convs) + 1:
            raise ValueError(f"expected {len(self.convs) + 1} maps, got {len(maps)}")
        x = self.last_proj(maps[-1])
        for index, (conv, block) in enumerate(zip(self.convs, self.blocks)):  # noqa: B905  # TorchScript
            skip = maps[-2 - index]
            x = block(conv(cat([enlarge(x, skip.shape[2:], self.align_corners), skip], 1)))
        return x


class TransposedDecoder(_Decoder):
    """The decoder of FC-DenseNet with HarDBlocks; see `_Decoder` for its arguments.

    Each step enlarges the map to the size of the next finer one by a transposed convolution, concatenates
    that one and applies a HarDBlock.
    """

    def __init__(self, arch: FCHarDNetArch, in_channels: list[int] | tuple[int, ...]):
        super().__init__(arch, in_channels)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        channels = in_channels[-1]
        for stage, skip in zip(_steps(arch), in_channels[-2::-1], strict=True):
            self.ups.append(nn.ConvTranspose2d(channels, channels, 3, 2))
            self.blocks.append(self._block(arch, stage, channels + skip))
            channels = self.blocks[-1].out_channels
        self.channels = channels
        init_weights(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        if len(maps) != len(self.ups) + 1:
            raise ValueError(f"expected {len(self.ups) + 1} maps, got {len(maps)}")
        x = maps[-1]
        for index, (up, block) in enumerate(zip(self.ups, self.blocks)):  # noqa: B905  # TorchScript
            skip = maps[-2 - index]
            x = block(cat([cut(up(x), skip), skip], 1))  # from twice the size and one more
        return x


@torch.fx.wrap
def cut(x: Tensor, like: Tensor) -> Tensor:
    """The first rows and columns of a map, as many as ``like`` has."""
    height, width = like.shape[2], like.shape[3]
    if is_captured(x):  # torch.export cannot prove that a slice of a free size is as large
        rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
        return x.index_select(2, rows).index_select(3, columns)
    return x[:, :, :height, :width]


DECODERS = {"bilinear": FCHarDNetDecoder, "transposed": TransposedDecoder}


def build_decoder(
    arch: FCHarDNetArch, in_channels: list[int] | tuple[int, ...]
) -> FCHarDNetDecoder | TransposedDecoder:
    """The decoder of a row for a trunk whose maps have ``in_channels``; ValueError for an unknown ``up``."""
    if arch.up not in DECODERS:
        raise ValueError(f"up={arch.up!r} is unknown; allowed: {', '.join(DECODERS)}")
    return DECODERS[arch.up](arch, in_channels)


class FCHarDNet(nn.Module):
    """FC-HarDNet segmentation network: (N, in_chans, H, W) -> (N, num_classes, H, W) logits.

    Height and width of the input must be at least ``least_side(arch.trunk)`` pixels, 64 for FC-HarDNet-70.

    Args:
        arch: A row of the architecture table.
        num_classes: Number of classes; default: that of ``arch``.
        in_chans: Number of input channels.
    """

    class_layers = ("classifier.",)  # prefixes of the parameters that depend on the number of classes

    def __init__(self, arch: FCHarDNetArch, *, num_classes: int | None = None, in_chans: int = 3):
        super().__init__()
        self.arch, self.align_corners = arch, arch.align_corners
        self.num_classes = arch.num_classes if num_classes is None else num_classes
        self.trunk = HarDNetTrunk(
            arch.trunk, in_chans=in_chans, out_indices=source_indices(arch), tap="block"
        )
        self.decoder = build_decoder(arch, self.trunk.channels)
        self.classifier = nn.Conv2d(self.decoder.channels, self.num_classes, 1)
        init_weights(self.classifier)

    @property
    @torch.jit.unused
    def official_prefixes(self) -> dict[str, str]:
        names = {f"trunk.{ours}": theirs for ours, theirs in self.trunk.official_prefixes.items()}
        last = names.pop(f"trunk.stages.{len(self.arch.trunk.stages) - 1}.transition")
        parts = {
            "decoder.last_proj": last,  # the official program keeps it in the trunk
            "decoder.convs": "conv1x1_up",
            "decoder.ups": "transUpBlocks",  # in the official program upsampling without weights
            "decoder.blocks": "denseBlocksUp",
            "classifier": "finalConv",
        }
        return names | parts

    def forward_head(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_classes, H/s, W/s) logits, before upsampling.

        s is the stride of the trunk's first stage, 4 for FC-HarDNet-70, or of its stem with ``arch.detail``;
        sides are rounded up.
        """
        return self.classifier(self.decoder(self.trunk(x)))

    def forward(self, x: Tensor) -> Tensor:
        return enlarge(self.forward_head(x), x.shape[2:], self.align_corners)


def source_indices(arch: FCHarDNetArch) -> tuple[int, ...]:
    """The trunk's ``out_indices`` for the maps that the decoder takes.

    These are all strides of the stages, and with ``arch.detail`` the stem's, too.

    Raises:
        ValueError: ``arch.detail``, but the first stage has the stem's stride.
    """
    first = arch.trunk.first_step - 1
    if arch.detail is not None:
        if first == 0:
            raise ValueError("detail requires first_step=2: the first stage has the stem's stride already")
        first -= 1
    return tuple(range(first, len(last_stages(arch.trunk))))


def _steps(arch: FCHarDNetArch) -> list[Stage]:
    """The HarDBlocks of the decoder, coarsest first."""
    steps = list(arch.trunk.stages[-2::-1])
    return steps if arch.detail is None else [*steps, arch.detail]
