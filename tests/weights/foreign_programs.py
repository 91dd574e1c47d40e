"""Independent readings of other programs' HarDNets, in plain torch: names, links, activations and pooling.

They share no code with the suite, so that key maps and answers can be compared with them.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict

import torch
from torch import Tensor, nn

# model -> stem, growth factor, (growth, layers, channels, halved after), depthwise, dropout in the last stage
MODELS = {
    "hardnet39ds": (
        (24, 48),
        1.6,
        [(16, 4, 96, True), (20, 16, 320, True), (64, 8, 640, True), (160, 4, 1024, False)],
        True,
        False,
    ),
    "hardnet68": (
        (32, 64),
        1.7,
        [
            (14, 8, 128, True),
            (16, 16, 256, False),
            (20, 16, 320, True),
            (40, 16, 640, True),
            (160, 4, 1024, False),
        ],
        False,
        False,
    ),
    "hardnet85": (
        (48, 96),
        1.7,
        [
            (24, 8, 192, True),
            (24, 16, 256, False),
            (28, 16, 320, True),
            (36, 16, 480, False),
            (48, 16, 720, True),
            (256, 4, 1280, False),
        ],
        False,
        True,
    ),
}
MODELS["hardnet68ds"] = (*MODELS["hardnet68"][:3], True, False)


def formula_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values in double precision that follow from the names, with activations beyond 6."""
    values = {}
    for key, value in state.items():
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        uniform = torch.rand(value.shape, generator=generator, dtype=torch.float64)
        if key.endswith("num_batches_tracked"):
            values[key] = torch.tensor(7)
        elif value.ndim > 1:
            values[key] = (uniform - 0.5) * (12 / value[0].numel()) ** 0.5
        elif "var" in key:
            values[key] = 0.5 + uniform
        elif key.endswith("weight"):
            values[key] = 1.5 + uniform
        else:
            values[key] = 4 * uniform - 1
    return values


def widths_and_links(
    first: int, growth: int, factor: float, layers: int
) -> tuple[list[int], list[list[int]]]:
    """Channels of a block's input and layers, and what each layer reads, nearest first."""
    widths, links = [first], []
    for layer in range(1, layers + 1):
        steps = [2**power for power in range(10) if layer % 2**power == 0]
        width = growth
        for _ in steps[1:]:
            width *= factor
        widths.append(int(int(width + 1) / 2) * 2)
        links.append([layer - step for step in steps])
    return widths, links


class Unit(nn.Module):
    """A block: ``layers`` read each other along ``links``; the output joins the odd layers and the last."""

    def __init__(self, layers: nn.Module, links: list[list[int]]):
        super().__init__()
        self.layers, self.links = layers, links

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer, links in zip(self.layers, self.links, strict=True):
            maps.append(layer(torch.cat([maps[link] for link in links], 1)))
        count = len(maps) - 1
        return torch.cat([maps[i] for i in range(1, count + 1) if i % 2 or i == count], 1)


def conv(names: tuple[str, str], inside: int, out: int, kernel: int, act: nn.Module | None, **options):
    layers = [
        (names[0], nn.Conv2d(inside, out, kernel, padding=kernel // 2, bias=False, **options)),
        (names[1], nn.BatchNorm2d(out)),
    ]
    return nn.Sequential(OrderedDict(layers + ([("act", act)] if act else [])))


# ------------------------------------------------------------------------------------------- pytorchcv


class _Inits(nn.Module):
    def __init__(self, stem: tuple[int, int], depthwise: bool):
        super().__init__()
        names = ("conv", "bn")
        self.conv1 = conv(names, 3, stem[0], 3, nn.ReLU6(), stride=2)
        self.conv2 = conv(names, stem[0], stem[1], 1 if depthwise else 3, nn.ReLU6())
        self.downsample = (
            conv(names, stem[1], stem[1], 3, None, stride=2, groups=stem[1])
            if depthwise
            else nn.MaxPool2d(3, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.conv2(self.conv1(x)))


class _PytorchcvUnit(nn.Module):
    def __init__(self, first: int, factor: float, stage: tuple, depthwise: bool, down: bool):
        super().__init__()
        growth, layers, channels, _ = stage
        widths, self.links = widths_and_links(first, growth, factor, layers)
        names, blocks = ("conv", "bn"), OrderedDict()
        for index, links in enumerate(self.links, 1):
            inside, out = sum(widths[link] for link in links), widths[index]
            if depthwise:
                blocks[f"block{index}"] = nn.Sequential(
                    OrderedDict(
                        pw_conv=conv(names, inside, out, 1, nn.ReLU6()),
                        dw_conv=conv(names, out, out, 3, None, groups=out),
                    )
                )
            else:
                blocks[f"block{index}"] = conv(names, inside, out, 3, nn.ReLU())  # not ReLU6
        self.blocks = nn.Sequential(blocks)
        joined = sum(widths[i] for i in range(1, layers + 1) if i % 2 or i == layers)
        self.conv = conv(names, joined, channels, 1, nn.ReLU6())
        self.downsample = nn.Identity()
        if down:
            self.downsample = (
                conv(names, channels, channels, 3, None, stride=2, groups=channels)
                if depthwise
                else nn.MaxPool2d(2, 2)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.conv(Unit(self.blocks, self.links)(x)))


def pytorchcv(model: str, classes: int = 1000) -> nn.Module:
    stem, factor, stages, depthwise, _ = MODELS[model]
    features = OrderedDict(init_block=_Inits(stem, depthwise))
    first, units, stage_number = stem[1], OrderedDict(), 1
    for index, stage in enumerate(stages):
        last = index == len(stages) - 1
        units[f"unit{len(units) + 1}"] = _PytorchcvUnit(
            first, factor, stage, depthwise, stage[3] and not last
        )
        first = stage[2]
        if stage[3] or last:
            features[f"stage{stage_number}"] = nn.Sequential(units)
            units, stage_number = OrderedDict(), stage_number + 1
    network = nn.Module()
    network.features = nn.Sequential(features)
    network.output = nn.Sequential(OrderedDict(fc=nn.Linear(first, classes)))
    network.forward = lambda x: network.output(network.features(x).mean((2, 3)))
    return network


# ---------------------------------------------------------------------------------- the authors' names


def _numbered(
    model: str, act: type[nn.Module], first_pool: nn.Module, pool, *, cut: bool = False, classes: int = 1000
) -> nn.ModuleList:
    stem, factor, stages, depthwise, dropout = MODELS[model]
    names = ("conv", "norm")
    base = [
        conv(names, 3, stem[0], 3, act(), stride=2),
        conv(names, stem[0], stem[1], 1 if depthwise else 3, act()),
        conv(("dwconv", "norm"), stem[1], stem[1], 3, None, stride=2, groups=stem[1])
        if depthwise
        else first_pool,
    ]
    first = stem[1]
    stages = stages[:-1] if cut else stages
    for index, (growth, layers, channels, halved) in enumerate(stages):
        last = index == len(stages) - 1
        widths, all_links = widths_and_links(first, growth, factor, layers)
        members = []
        for number, links in enumerate(all_links, 1):
            inside, out = sum(widths[link] for link in links), widths[number]
            members.append(
                nn.Sequential(
                    OrderedDict(
                        layer1=conv(names, inside, out, 1, act()),
                        layer2=conv(("dwconv", "norm"), out, out, 3, None, groups=out),
                    )
                )
                if depthwise
                else conv(names, inside, out, 3, act())
            )
        base.append(Unit(nn.ModuleList(members), all_links))
        joined = sum(widths[i] for i in range(1, layers + 1) if i % 2 or i == layers)
        if cut and last:
            break
        base += [nn.Dropout(0.1)] if dropout and last else []
        base.append(conv(names, joined, channels, 1, act()))
        first = channels
        if halved and not last:
            base.append(
                conv(("dwconv", "norm"), first, first, 3, None, stride=2, groups=first)
                if depthwise
                else pool(index)
            )
    if not cut:
        base.append(
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(first, classes))
        )
    return nn.ModuleList(base)


def official(model: str, classes: int = 1000) -> nn.Module:
    """The authors' classifier, which HarDNet-MSEG and AutoSAM contain."""
    network = nn.Module()
    network.base = _numbered(
        model, nn.ReLU6, nn.MaxPool2d(3, 2, 1), lambda index: nn.MaxPool2d(2, 2), classes=classes
    )
    network.forward = lambda x: nn.Sequential(*network.base)(x)
    return network


paddleclas = official  # the same network, under Paddle's names for statistics


def paddledetection(model: str = "hardnet85") -> nn.Module:
    """PaddleDetection's trunk: ReLU6, average pools that do not count the padding; four maps."""
    network, taps = nn.Module(), [1, 3, 8, 13]
    network.base = _numbered(
        model,
        nn.ReLU6,
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        lambda index: nn.AvgPool2d(2, 2, ceil_mode=index == 0),
        cut=True,
    )

    def forward(x: Tensor) -> list[Tensor]:
        maps = []
        for index, layer in enumerate(network.base):
            x = layer(x)
            if index in taps:
                maps.append(x)
        return maps

    network.forward = forward
    return network


def paddle_arrays(state: dict[str, Tensor], linear: tuple[str, ...] = ()) -> dict:
    """A state dict as Paddle has it: NumPy arrays, other names of statistics, linear layers transposed."""
    names = {"running_mean": "_mean", "running_var": "_variance"}
    arrays = {}
    for key, value in state.items():
        *prefix, last = key.split(".")
        if last == "num_batches_tracked":
            continue
        array = (value.t() if key in linear else value).contiguous().numpy()
        arrays[".".join([*prefix, names.get(last, last)])] = array
    return arrays


# ------------------------------------------------------------------------- sithu31296/semantic-segmentation


class _Streets(nn.Module):
    """FC-HarDNet-70 with ReLU6 throughout, under the authors' names."""

    def __init__(self, classes: int):
        super().__init__()
        stem, widths = (16, 24, 32, 48), (64, 96, 160, 224, 320)
        growths, depths = (10, 16, 18, 24, 32), (4, 4, 8, 8, 8)
        self.base, self.taps, skips, channels = nn.ModuleList(), [], [], 3
        for index, width in enumerate(stem):
            self.base.append(self._conv(channels, width, 3, stride=2 if index % 2 == 0 else 1))
            channels = width
        for index, (growth, depth, width) in enumerate(zip(growths, depths, widths, strict=True)):
            block, channels = self._block(channels, growth, depth)
            self.taps.append(len(self.base))
            skips.append(channels)
            self.base += [block, self._conv(channels, width, 1)]
            channels = width
            if index < 4:
                self.base.append(nn.AvgPool2d(2, 2))
        self.taps.pop()
        self.conv1x1_up, self.denseBlocksUp = nn.ModuleList(), nn.ModuleList()
        for index in (3, 2, 1, 0):
            joined = channels + skips[index]
            self.conv1x1_up.append(self._conv(joined, joined // 2, 1))
            block, channels = self._block(joined // 2, growths[index], depths[index])
            self.denseBlocksUp.append(block)
        self.finalConv = nn.Conv2d(channels, classes, 1)

    @staticmethod
    def _conv(inside: int, out: int, kernel: int, **options):
        return conv(("conv", "norm"), inside, out, kernel, nn.ReLU6(), **options)

    def _block(self, first: int, growth: int, depth: int) -> tuple[Unit, int]:
        widths, links = widths_and_links(first, growth, 1.7, depth)
        layers = [
            self._conv(sum(widths[link] for link in each), widths[index], 3)
            for index, each in enumerate(links, 1)
        ]
        joined = sum(widths[i] for i in range(1, depth + 1) if i % 2 or i == depth)
        return Unit(nn.ModuleList(layers), links), joined

    def forward(self, x: Tensor) -> Tensor:
        def enlarged(x: Tensor, size: torch.Size) -> Tensor:
            return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=True)

        size, skips = x.shape[-2:], []
        for index, layer in enumerate(self.base):
            x = layer(x)
            if index in self.taps:
                skips.append(x)
        for narrow, block in zip(self.conv1x1_up, self.denseBlocksUp, strict=True):
            skip = skips.pop()
            x = block(narrow(torch.cat([enlarged(x, skip.shape[-2:]), skip], 1)))
        return enlarged(self.finalConv(x), size)


def semantic_segmentation(classes: int = 19) -> nn.Module:
    """sithu31296's FC-HarDNet."""
    return _Streets(classes)
