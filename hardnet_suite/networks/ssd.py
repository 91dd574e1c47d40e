"""SSD and RFB Net on a HarDNet trunk.

SSD: Liu et al., ECCV 2016, arXiv 1512.02325. RFB Net, an SSD with receptive field blocks: Liu et al., ECCV
2018, arXiv 1711.07767; here as in HarDNet's SSD program (models/RFB_HarDNet68.py and RFB_HarDNet85.py), whose
blocks do not scale their branches before they add the shortcut.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hardnet_suite.networks.arch import Bridge, Extra, Field, Priors, SSDArch
from hardnet_suite.networks.hardnet import HarDNetTrunk
from hardnet_suite.networks.layers import (
    ConvNorm,
    ConvNormAct,
    Kernel,
    L2Norm,
    ReceptiveFieldBlock,
    checked_squares,
    field_names,
    init_weights,
)

torch.fx.wrap("checked_squares")


Conv = tuple[int, Kernel, int, int]  # output channels, kernel, stride, dilation


class SSDBridge(nn.Sequential):
    """From the second feature map to the second level: (N, in_channels, H, W) -> (N, out_channels, H, W).

    The bridge, which is 3×3 max pooling, a (dilated) 3×3 and a 1×1 convolution, all with stride 1; then RFB
    Net's block.

    Args:
        in_channels: Input channels.
        bridge: The bridge; None: there is none.
        field: Output channels of the receptive field block; None: there is none.

    Attributes:
        out_channels: Output channels.
    """

    def __init__(self, in_channels: int, bridge: Bridge | None, field: int | None):
        super().__init__()
        self.out_channels = in_channels
        if bridge is not None:
            self.pool = nn.MaxPool2d(3, 1, 1)
            self.conv1 = ConvNormAct(in_channels, bridge.mid, 3, dilation=bridge.dilation)
            self.conv2 = ConvNormAct(bridge.mid, bridge.out, 1)
            self.out_channels = bridge.out
        if field is not None:
            self.field = receptive_field(self.out_channels, Field(field, stride=1))
            self.out_channels = field


class SSDExtra(nn.Sequential):
    """One extra level: a 1×1 convolution, then a strided one, both with bias or batch norm, and with ReLU."""

    def __init__(self, in_channels: int, extra: Extra):
        super().__init__()
        if extra.norm:
            self.conv1 = ConvNormAct(in_channels, extra.mid, 1)
            self.conv2 = ConvNormAct(
                extra.mid, extra.out, extra.kernel, stride=extra.stride, padding=extra.padding
            )
            _slow_norms(self)
        else:
            self.conv1 = nn.Conv2d(in_channels, extra.mid, 1)
            self.act1 = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(extra.mid, extra.out, extra.kernel, extra.stride, extra.padding)
            self.act2 = nn.ReLU(inplace=True)


def receptive_field(in_channels: int, field: Field) -> ReceptiveFieldBlock:
    """RFB Net's block of a level: two branches of an eighth of the channels, doubled on the way.

    Raises:
        ValueError: ``in_channels`` is less than 16.
    """
    width, stride, reach = in_channels // 8, field.stride, field.reach
    branches = (
        ((width, 1, 1, 1), (2 * width, 3, stride, 1), (2 * width, 3, 1, reach + 1)),
        (
            (width, 1, 1, 1),
            (width // 2 * 3, 3, 1, 1),
            (2 * width, 3, stride, 1),
            (2 * width, 3, 1, 2 * reach + 1),
        ),
    )
    return _receptive_field(in_channels, field.out, branches, stride)


def first_receptive_field(in_channels: int, out: int) -> ReceptiveFieldBlock:
    """RFB Net's block of the first level: four branches of a quarter of the channels, with smaller kernels.

    Raises:
        ValueError: ``in_channels`` is less than 16.
    """
    width = in_channels // 4
    branches = (
        ((width, 1, 1, 1), (width, 3, 1, 1)),
        ((width, 1, 1, 1), (width, (3, 1), 1, 1), (width, 3, 1, 3)),
        ((width, 1, 1, 1), (width, (1, 3), 1, 1), (width, 3, 1, 3)),
        (
            (width // 2, 1, 1, 1),
            (width // 4 * 3, (1, 3), 1, 1),
            (width, (3, 1), 1, 1),
            (width, 3, 1, 5),
        ),
    )
    return _receptive_field(in_channels, out, branches, 1)


def _receptive_field(
    in_channels: int, out: int, branches: tuple[tuple[Conv, ...], ...], stride: int
) -> ReceptiveFieldBlock:
    """A block from its branches; the last convolution of each, the joined and the shortcut have no ReLU."""
    if in_channels < 16:
        raise ValueError(f"a receptive field block takes at least 16 channels, got {in_channels}")
    chains = []
    for convs in branches:
        before, chain = in_channels, nn.Sequential()
        for place, (width, kernel, step, dilation) in enumerate(convs, start=1):
            if place < len(convs):
                chain.append(ConvNormAct(before, width, kernel, stride=step, dilation=dilation))
            else:
                chain.append(ConvNorm(before, width, kernel, stride=step, dilation=dilation))
            before = width
        chains.append(chain)
    joined = ConvNorm(sum(convs[-1][0] for convs in branches), out, 1)
    block = ReceptiveFieldBlock(chains, joined, ConvNorm(in_channels, out, 1, stride=stride))
    _slow_norms(block)
    return block


def _slow_norms(module: nn.Module) -> None:
    """The momentum of RFB Net's batch norms, a tenth of the usual one."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.01


class SSDNeck(nn.Module):
    """Turns the trunk's two feature maps into the detector's levels.

    ``forward`` takes [(N, C1, S/8, S/8), (N, C2, S/16, S/16)] and returns one map per level: the first map
    scaled by L2Norm, the second after the bridge, then the extra levels. In RFB Net a receptive field block
    takes the place of L2Norm, and others follow the bridge and make extra levels.

    Args:
        arch: The detector's row of the architecture table.
        in_channels: Channels of the two maps.

    Attributes:
        channels: Channels of each level.

    Raises:
        ValueError: ``arch`` has both ``l2norm_scale`` and ``fields``, or neither.
    """

    def __init__(self, arch: SSDArch, in_channels: tuple[int, int] | list[int]):
        super().__init__()
        first, second = in_channels
        fields, scale = arch.fields, arch.l2norm_scale
        if (fields is None) == (scale is None):
            raise ValueError(f"expected either l2norm_scale or fields, got {scale} and {fields}")
        self.norm = L2Norm(first, scale) if fields is None else first_receptive_field(first, fields[0])
        self.bridge = SSDBridge(second, arch.bridge, None if fields is None else fields[1])
        self.channels = [first if fields is None else fields[0], self.bridge.out_channels]
        self.extras = nn.ModuleList()
        for extra in arch.extras:
            before = self.channels[-1]
            level = receptive_field(before, extra) if isinstance(extra, Field) else SSDExtra(before, extra)
            self.extras.append(level)
            self.channels.append(extra.out)
        init_weights(self)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        first, second = maps
        levels = [self.norm(first), self.bridge(second)]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        return levels


def prediction_convs(channels: list[int], per_location: tuple[int, ...], values: int) -> nn.ModuleList:
    """One 3×3 convolution per level, which predicts ``values`` numbers per default box.

    Args:
        channels: Channels of each level.
        per_location: Default boxes per location, for each level.
        values: Numbers per box.
    """
    convs = nn.ModuleList(
        nn.Conv2d(width, boxes * values, 3, padding=1)
        for width, boxes in zip(channels, per_location, strict=True)
    )
    for conv in convs:
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
    return convs


class SSD(nn.Module):
    """SSD detector: (N, in_chans, size, size) -> raw predictions, one map per level.

    ``forward`` returns a dict with ``cls``: list of (N, A·(num_classes+1), h, w) logits, background last, and
    ``box``: list of (N, A·4, h, w) offsets, as in mmdet's SSDHead; A is the number of boxes per location.

    Args:
        arch: A row of the architecture table.
        num_classes: Number of classes, without the background; default: that of ``arch``.
        in_chans: Number of input channels.
    """

    class_layers = ("cls.",)  # prefixes of the parameters that depend on the number of classes

    def __init__(self, arch: SSDArch, *, num_classes: int | None = None, in_chans: int = 3):
        super().__init__()
        self.arch = arch
        self.num_classes = arch.num_classes if num_classes is None else num_classes
        self.size = arch.size
        self.trunk = HarDNetTrunk(arch.trunk, in_chans=in_chans, out_indices=source_indices(arch))
        self.neck = SSDNeck(arch, self.trunk.channels)
        per_location = arch.priors.per_location
        self.cls = prediction_convs(self.neck.channels, per_location, self.num_classes + 1)
        self.box = prediction_convs(self.neck.channels, per_location, 4)

    @property
    @torch.jit.unused
    def official_prefixes(self) -> dict[str, str]:
        names = {f"trunk.{ours}": theirs for ours, theirs in self.trunk.official_prefixes.items()}
        if self.arch.bridge is not None:
            names |= {f"neck.bridge.{ours}": theirs for ours, theirs in self.arch.bridge.official}
        levels = {"neck.norm": "L2Norm"}
        if self.arch.fields is not None:
            levels = {"neck.norm": "Norm", "neck.bridge.field": "extras.0"}
        position = len(levels) - 1  # in the official list of extra layers
        for index, extra in enumerate(self.arch.extras):
            inner = ("",) if isinstance(extra, Field) else (".conv1", ".conv2")
            levels |= {f"neck.extras.{index}{part}": f"extras.{position + i}" for i, part in enumerate(inner)}
            position += len(inner)
        for ours, theirs in list(levels.items()):
            block = self.get_submodule(ours)
            if isinstance(block, ReceptiveFieldBlock):
                del levels[ours]
                parts = field_names(block, "ConvLinear", "shortcut")
                levels |= {f"{ours}.{part}": f"{theirs}.{official}" for part, official in parts.items()}
        norms = {f"{ours}.norm": f"{theirs}.bn" for ours, theirs in levels.items()}
        return names | levels | norms | {"cls": "conf", "box": "loc"}

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        levels = self.neck(self.trunk(checked_squares(x, self.trunk.in_chans, self.size)))
        classes: list[Tensor] = []
        boxes: list[Tensor] = []
        for index, (cls, box) in enumerate(zip(self.cls, self.box)):  # noqa: B905  # TorchScript
            classes.append(cls(levels[index]))
            boxes.append(box(levels[index]))
        if not torch.jit.is_scripting() and torch.jit.is_tracing():
            return {"cls": tuple(classes), "box": tuple(boxes)}  # a traced dict cannot hold lists
        return {"cls": classes, "box": boxes}


def source_indices(arch: SSDArch) -> tuple[int, ...]:
    """The trunk's ``out_indices`` for the maps that SSD takes."""
    return tuple(int(math.log2(stride)) - 1 for stride in arch.source_strides)


def official_order(out: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
    """The network's predictions in the order of the official program and of ``prior_boxes``.

    Args:
        out: What ``SSD.forward`` returns.

    Returns:
        loc (N, P, 4) offsets and conf (N, P, 1 + num_classes) logits, background first.
    """

    def flat(maps: list[Tensor], values: int) -> Tensor:
        # per level (N, A·values, h, w) -> (N, h·w·A, values)
        n = maps[0].shape[0]
        return torch.cat([m.permute(0, 2, 3, 1).reshape(n, -1, values) for m in maps], 1)

    boxes = [m.shape[1] // 4 for m in out["box"]]
    values = out["cls"][0].shape[1] // boxes[0]
    return flat(out["box"], 4), flat(out["cls"], values).roll(1, dims=-1)


def decode(out: dict[str, list[Tensor]], arch: SSDArch) -> tuple[Tensor, Tensor]:
    """Decodes the network's predictions into boxes and probabilities, before non-maximum suppression.

    Args:
        out: What ``SSD.forward`` returns.
        arch: The detector's architecture.

    Returns:
        boxes (N, P, 4), x1, y1, x2, y2 as fractions of the image, not clipped to it; and probabilities
        (N, P, num_classes), without the background.

    Raises:
        ValueError: The number of predictions does not match the priors of ``arch``.
    """
    loc, conf = official_order(out)
    priors = prior_boxes(arch).to(loc.device)
    if loc.shape[1] != len(priors):
        raise ValueError(
            f"expected {len(priors)} boxes, those of a {arch.size}×{arch.size} input, got {loc.shape[1]}"
        )
    centres = priors[:, :2] + loc[..., :2].float() * 0.1 * priors[:, 2:]
    sizes = priors[:, 2:] * (loc[..., 2:].float() * 0.2).exp()
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], -1)
    return boxes, conf.float().softmax(-1)[..., 1:]


def base_boxes(priors: Priors, level: int, size: int) -> list[tuple[float, float]]:
    """(width, height) in pixels of a level's default boxes, clamped to the image as in the official program.

    A small square, a larger one (geometric mean with the next level's size), then for each ratio a wide and a
    tall box.

    Args:
        priors: The default boxes of all levels.
        level: Index of the level.
        size: Height and width of the input in pixels.
    """
    small, large = priors.sizes[level], priors.sizes[level + 1]
    mean = math.sqrt(small * large)
    boxes = [(small, small), (mean, mean)]
    for ratio in priors.ratios[level]:
        root = math.sqrt(ratio)
        boxes += [(small * root, small / root), (small / root, small * root)]
    return [(min(w, size), min(h, size)) for w, h in boxes]


def prior_boxes(arch: SSDArch) -> Tensor:
    """SSD's default boxes, (P, 4) as (cx, cy, w, h) in fractions of the image, level by level, row by row."""
    rows = []
    for level, stride in enumerate(arch.priors.strides):
        cells = math.ceil(arch.size / stride)
        boxes = base_boxes(arch.priors, level, arch.size)
        for y in range(cells):
            for x in range(cells):
                rows += [((x + 0.5) * stride, (y + 0.5) * stride, w, h) for w, h in boxes]
    return torch.tensor(rows, dtype=torch.float64).div(arch.size).float()
