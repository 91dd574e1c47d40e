"""The HarDNet trunk and classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hardnet_suite.networks.arch import HarDNetArch, Stage
from hardnet_suite.networks.hardblock import HarDBlock
from hardnet_suite.networks.layers import (
    ACTIVATIONS,
    POOLS,
    ConvNormAct,
    DepthwiseConvNorm,
    checked_images,
    init_weights,
)

torch.fx.wrap("checked_images")

TAPS = ("transition", "block")


@dataclass(frozen=True)
class Feature:
    """A feature map that the trunk can return.

    Attributes:
        stride: Stride in input pixels.
        channels: Number of channels.
        stage: Index of the stage that computes it; −1 for the stem.
    """

    stride: int
    channels: int
    stage: int


class FeatureInfo(list):
    """timm's feature information: one dict per feature map, with num_chs, reduction (stride) and module."""

    def channels(self) -> list[int]:
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[int]:
        return [info["reduction"] for info in self]

    def module_name(self) -> list[str]:
        return [info["module"] for info in self]


class HarDNetStage(nn.Module):
    """HarDBlock, dropout and 1×1 transition, then the downsampling ``down`` to the next stage, if any."""

    def __init__(
        self,
        in_channels: int,
        stage: Stage,
        arch: HarDNetArch,
        *,
        dropout: float,
        down: nn.Module,
    ):
        super().__init__()
        self.block = HarDBlock(
            in_channels,
            stage.growth,
            arch.growth_mul,
            stage.layers,
            depthwise=arch.depthwise,
            act=arch.act,
            width_multiple=arch.width_multiple,
        )
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.transition = ConvNormAct(self.block.out_channels, stage.channels, 1, act=arch.act)
        self.down = down


class HarDNetTrunk(nn.Module):
    """Stem and stages: (N, in_chans, H, W) -> list of feature maps, one per entry of ``out_indices``.

    While it is built, the trunk records its feature maps and the official names of its modules.

    Args:
        arch: The architecture.
        in_chans: Number of input channels.
        out_indices: Feature maps to return: index i is the last map of stride 2^(i+1), 0 to 4 for the strides
            2, 4, 8, 16 and 32. Default: the last stride only. Stages beyond the last index are not built.
        tap: Where in a stage the map is taken: "transition" (after the 1×1 convolution) or "block" (before).
        with_cp: Save memory in training by recomputing the blocks in the backward pass.

    Attributes:
        features: All available feature maps, one ``Feature`` per stride.
        channels: Channels of the returned maps.
        strides: Strides of the returned maps in pixels.
        official_prefixes: Module name -> its name in the official program.

    Raises:
        ValueError: Unknown tap, activation or pooling, or invalid ``out_indices``.
    """

    def __init__(
        self,
        arch: HarDNetArch,
        *,
        in_chans: int = 3,
        out_indices: Sequence[int] | None = None,
        tap: str = "transition",
        with_cp: bool = False,
    ):
        super().__init__()
        for what, value, known in (
            ("tap", tap, TAPS),
            ("act", arch.act, ACTIVATIONS),
            ("pool", arch.pool, POOLS),
        ):
            if value not in known:
                raise ValueError(f"{what}={value!r} is unknown; allowed: {', '.join(known)}")
        arch, self.out_indices = _select(arch, out_indices)
        self.arch, self.tap, self.with_cp, self.in_chans = arch, tap, with_cp, in_chans

        kernel = 1 if arch.depthwise else 3
        self.stem = _convs(in_chans, arch.stem, kernel, arch.act)
        self.official_prefixes = {f"stem.{i}": f"base.{i}" for i in range(len(arch.stem))}
        self.features = [Feature(2, arch.stem[-1], -1)]
        self.stages = nn.ModuleList()
        self.stem_down = nn.Identity()
        channels, official = arch.stem[-1], len(arch.stem)
        if arch.stages and arch.stem_down:
            self.stem_down = _convs(channels, arch.stem_down, kernel, arch.act)
            channels = arch.stem_down[-1]
            for i in range(len(arch.stem_down)):
                self.official_prefixes[f"stem_down.{i}"] = f"base.{official + i}"
            official += len(arch.stem_down)
        elif arch.stages:
            self.stem_down = DepthwiseConvNorm(channels, stride=2) if arch.depthwise else _pool(arch, 3, 1)
            self.official_prefixes["stem_down"] = f"base.{official}"
            official += 1
        self._add_stages(channels, official)
        self.channels = [self.features[i].channels for i in self.out_indices]
        self.strides = [self.features[i].stride for i in self.out_indices]
        self._output_stages = [self.features[i].stage for i in self.out_indices]
        self.least = self.features[-1].stride  # pixels of the input's sides
        init_weights(self)

    def _add_stages(self, channels: int, official: int) -> None:
        arch, stride = self.arch, 4
        first_pool = True
        for index, stage in enumerate(arch.stages):
            last = index == len(arch.stages) - 1
            down = nn.Identity()
            if stage.downsample and not last:
                if arch.depthwise:
                    down = DepthwiseConvNorm(stage.channels, stride=2)
                else:
                    down = _pool(arch, 2, 0, ceil=arch.first_pool_ceil and first_pool)
                first_pool = False
            dropout = arch.last_dropout if last else 0.0
            module = HarDNetStage(channels, stage, arch, dropout=dropout, down=down)
            if last and self.tap == "block":
                module.transition = nn.Identity()  # unused after the tap: it would never get a gradient
            self.stages.append(module)

            name = f"stages.{index}"
            self.official_prefixes[f"{name}.block"] = f"base.{official}"
            official += 1 + (dropout > 0)  # the official module list includes the dropout
            self.official_prefixes[f"{name}.transition"] = f"base.{official}"
            official += 1
            if stage.downsample and not last:
                self.official_prefixes[f"{name}.down"] = f"base.{official}"
                official += 1

            tapped = stage.channels if self.tap == "transition" else module.block.out_channels
            feature = Feature(stride, tapped, index)
            if self.features[-1].stride == stride:
                self.features[-1] = feature
            else:
                self.features.append(feature)
            channels = stage.channels
            stride *= 2 if stage.downsample else 1
        self.official_length = official

    @property
    @torch.jit.unused
    def feature_info(self) -> FeatureInfo:
        """Information about the returned feature maps."""
        return _feature_info([self.features[index] for index in self.out_indices], self.tap)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(checked_images(x, self.in_chans, self.least))
        maps: dict[int, Tensor] = {}  # by stage
        if -1 in self._output_stages:
            maps[-1] = x
        x = self.stem_down(x)
        for index, stage in enumerate(self.stages):
            if self.with_cp and self.training and x.requires_grad:
                if torch.jit.is_scripting():
                    raise RuntimeError("with_cp=True is not for TorchScript: build the trunk without it")
                else:
                    x = _recomputed(stage.block, x)
            else:
                x = stage.block(x)
            if self.tap == "block" and index in self._output_stages:
                maps[index] = x
            x = stage.transition(stage.dropout(x))
            if self.tap == "transition" and index in self._output_stages:
                maps[index] = x
            x = stage.down(x)
        return [maps[index] for index in self._output_stages]


class HarDNetClassifier(nn.Module):
    """HarDNet classifier: (N, in_chans, H, W) -> (N, num_classes) logits.

    Height and width of the input must be at least 32 pixels. The class has timm's model interface.

    Args:
        arch: A row of the architecture table.
        num_classes: Number of classes; 0 returns pooled features. Default: that of ``arch``.
        in_chans: Number of input channels.
    """

    class_layers = ("fc.",)  # prefixes of the parameters that depend on the number of classes

    def __init__(self, arch: HarDNetArch, *, num_classes: int | None = None, in_chans: int = 3):
        super().__init__()
        self.arch = arch
        self.trunk = HarDNetTrunk(arch, in_chans=in_chans)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(arch.dropout)
        self.num_features = self.head_hidden_size = self.trunk.channels[-1]
        self.reset_classifier(arch.num_classes if num_classes is None else num_classes)

    @property
    @torch.jit.unused
    def official_prefixes(self) -> dict[str, str]:
        names = {f"trunk.{ours}": theirs for ours, theirs in self.trunk.official_prefixes.items()}
        return names | {"fc": f"base.{self.trunk.official_length}.3"}

    @property
    @torch.jit.unused
    def feature_info(self) -> FeatureInfo:
        """Information about the feature maps of all five strides, after the transitions."""
        return _feature_info(self.trunk.features, "transition", "trunk.")

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer by a newly initialised one.

        Args:
            num_classes: Number of classes; 0 removes the layer and returns pooled features.
            global_pool: "avg", or "" (only with 0 classes) to return the unpooled features
                (N, num_features, h, w). None keeps the current pooling.

        Raises:
            ValueError: ``num_classes`` is not an integer of at least 0, or an invalid ``global_pool``.
        """
        if type(num_classes) is not int or num_classes < 0:
            raise ValueError(f"num_classes={num_classes!r} must be an integer of at least 0")
        if global_pool not in (None, "avg", "") or (global_pool == "" and num_classes):
            raise ValueError(f"expected global_pool 'avg' or, with 0 classes, '', got {global_pool!r}")
        if global_pool is not None or num_classes:
            self.pool = nn.AdaptiveAvgPool2d(1) if global_pool != "" else nn.Identity()
        self.num_classes = num_classes
        if hasattr(self, "usage"):  # the class names belonged to the former layer
            self.usage = dataclasses.replace(self.usage, classes=None, palette=None)
        like = next(self.trunk.parameters())
        self.fc = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        init_weights(self.fc)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_features, H/32, W/32) features before pooling."""
        return self.trunk(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, num_classes) logits, or pooled (N, num_features) features."""
        x = self.pool(x)
        if isinstance(self.pool, nn.Identity):
            return x
        x = self.drop(x.flatten(1))  # (N, num_features, 1, 1) -> (N, num_features)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _feature_info(features: Sequence[Feature], tap: str, prefix: str = "") -> FeatureInfo:
    return FeatureInfo(
        {
            "num_chs": feature.channels,
            "reduction": feature.stride,
            "module": prefix + ("stem" if feature.stage < 0 else f"stages.{feature.stage}.{tap}"),
        }
        for feature in features
    )


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """A block's output, computed once more in the backward pass instead of being kept."""
    if torch.compiler.is_compiling():  # a compiled graph updates the statistics once
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block))
    )


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keeps the running statistics of batch norms while a block is recomputed: they include this batch."""
    norms = [
        (m, m.momentum, m.num_batches_tracked.clone()) for m in module.modules() if isinstance(m, _BatchNorm)
    ]
    for norm, *_ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in norms:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def _convs(in_channels: int, widths: tuple[int, ...], kernel: int, act: str) -> nn.Sequential:
    """A 3×3 convolution with stride 2, then ``kernel`` × ``kernel`` convolutions with stride 1."""
    pairs = list(zip((in_channels, *widths), widths, strict=False))
    (first, out), *rest = pairs
    return nn.Sequential(
        ConvNormAct(first, out, 3, stride=2, act=act),
        *(ConvNormAct(before, after, kernel, act=act) for before, after in rest),
    )


def _pool(arch: HarDNetArch, kernel: int, padding: int, *, ceil: bool = False) -> nn.Module:
    return POOLS[arch.pool](kernel, 2, padding, ceil_mode=ceil)


def last_stages(arch: HarDNetArch) -> list[int]:
    """Index of the last stage of each stride 2^(i+1) of the trunk; −1 is the stem."""
    last, level = [-1], 1
    for index, stage in enumerate(arch.stages):
        if level == len(last):
            last.append(index)
        last[level] = index
        level += stage.downsample
    return last


def _select(arch: HarDNetArch, out_indices: Sequence[int] | None) -> tuple[HarDNetArch, tuple[int, ...]]:
    """Removes the stages that ``out_indices`` do not need; the default is the last stride only."""
    last = last_stages(arch)
    if out_indices is None:
        return arch, (len(last) - 1,)
    given = tuple(out_indices)
    chosen = tuple(i + len(last) if i in range(-len(last), 0) else i for i in given)
    if not chosen or any(i not in range(len(last)) for i in chosen) or len({*chosen}) < len(chosen):
        allowed = ", ".join(f"{i} (stride {2 ** (i + 1)})" for i in range(len(last)))
        raise ValueError(f"out_indices={given} must be distinct and from {allowed}")
    needed = last[max(chosen)] + 1
    if needed < len(arch.stages):
        arch = replace(arch, stages=arch.stages[:needed], last_dropout=0.0)
    return arch, chosen
