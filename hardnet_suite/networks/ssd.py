"""SSD on a HarDNet trunk (SSD: Liu et al., ECCV 2016, arXiv 1512.02325)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardnet_suite.networks.arch import Extra, Priors, SSDArch
from hardnet_suite.networks.hardnet import HarDNetTrunk
from hardnet_suite.networks.layers import ConvNormAct, L2Norm, checked_squares, init_weights

torch.fx.wrap("checked_squares")


class SSDBridge(nn.Sequential):
    """3×3 max pooling, a (dilated) 3×3 and a 1×1 convolution, all with stride 1.

    (N, in_channels, H, W) -> (N, out, H, W)
    """

    def __init__(self, in_channels: int, mid: int, out: int, dilation: int):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.conv1 = ConvNormAct(in_channels, mid, 3, dilation=dilation)
        self.conv2 = ConvNormAct(mid, out, 1)


class SSDExtra(nn.Module):
    """One extra level: a 1×1 convolution, then a strided one, both with bias and ReLU, without norm."""

    def __init__(self, in_channels: int, extra: Extra):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, extra.mid, 1)
        self.conv2 = nn.Conv2d(extra.mid, extra.out, extra.kernel, extra.stride, extra.padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))))


class SSDNeck(nn.Module):
    """Turns the trunk's two feature maps into SSD's levels.

    ``forward`` takes [(N, C1, S/8, S/8), (N, C2, S/16, S/16)] and returns one map per level: the first map
    scaled by L2Norm, the second after the bridge, then the extra levels.

    Args:
        arch: The detector's row of the architecture table.
        in_channels: Channels of the two maps.

    Attributes:
        channels: Channels of each level.
    """

    def __init__(self, arch: SSDArch, in_channels: tuple[int, int] | list[int]):
        super().__init__()
        first, second = in_channels
        self.norm = L2Norm(first, arch.l2norm_scale)
        self.bridge = SSDBridge(second, arch.bridge.mid, arch.bridge.out, arch.bridge.dilation)
        self.channels = [first, arch.bridge.out]
        self.extras = nn.ModuleList()
        for extra in arch.extras:
            self.extras.append(SSDExtra(self.channels[-1], extra))
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
        names["neck.norm"] = "L2Norm"
        names |= {f"neck.bridge.{ours}": theirs for ours, theirs in self.arch.bridge.official}
        for i in range(len(self.arch.extras)):
            names[f"neck.extras.{i}.conv1"] = f"extras.{2 * i}"
            names[f"neck.extras.{i}.conv2"] = f"extras.{2 * i + 1}"
        return names | {"cls": "conf", "box": "loc"}

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
