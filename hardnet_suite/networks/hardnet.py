"""The HarDNet trunk and classifier."""

# no postponed annotations: torch.fx copies those of ``forward`` into its code, where TorchScript needs types
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hardnet_suite.networks.arch import HarDNetArch, Stage
from hardnet_suite.networks.hardblock import HarDBlock
from hardnet_suite.networks.layers import (
    POOLS,
    ConvNormAct,
    DepthwiseConvNorm,
    DilatedPool,
    checked_images,
    init_weights,
)
from hardnet_suite.networks.preprocess import Preprocess
from hardnet_suite.numeric import is_count, is_integer, is_number, require_count

torch.fx.wrap("checked_images")

if TYPE_CHECKING:
    Indices = int | Sequence[int] | None
else:  # TorchScript has lists alone
    Indices = int | list[int] | None

TAPS = ("transition", "block")
OUTPUT_STRIDES = (8, 16, 32)


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
    """timm's feature information: the dicts of the chosen feature maps, with the methods of timm's class.

    Args:
        info: One dict per available map: num_chs (channels), reduction (stride), module (name) and index.
        out_indices: Which of them are chosen.
    """

    def __init__(self, info: Sequence[dict[str, Any]], out_indices: Sequence[int]):
        self.info, self.out_indices = list(info), tuple(out_indices)
        super().__init__(self.info[index] for index in self.out_indices)

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """The dicts, cut to ``keys``: the chosen ones, or those of ``idx`` among all that are available."""
        if isinstance(idx, int):
            (found,) = self.get_dicts(keys, [idx])
            return found
        dicts = list(self) if idx is None else [self.info[index] for index in idx]
        return dicts if keys is None else [{key: info[key] for key in keys} for info in dicts]

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """The values under ``key``; ``idx`` as of ``get_dicts``."""
        dicts = self.get_dicts([key], idx)
        return dicts[key] if isinstance(idx, int) else [info[key] for info in dicts]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("module", idx)


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
        dilation: int = 1,
    ):
        super().__init__()
        self.block = HarDBlock(
            in_channels,
            stage.growth,
            arch.growth_mul,
            stage.layers,
            depthwise=arch.depthwise,
            act=arch.block_act or arch.act,
            width_multiple=arch.width_multiple,
            dilation=dilation,
            keep_input=stage.keep_input,
        )
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.transition = ConvNormAct(self.block.out_channels, stage.channels, 1, act=arch.act)
        self.down = down


class _NoTimmConfig(Mapping):
    """In place of timm's configuration: reading it is an error, looking whether a network has one is not.

    ``torch.jit.trace``, for one, looks at every property of a module.

    Args:
        error: Why there is none.
    """

    def __init__(self, error: ValueError):
        self._error = error

    def __getitem__(self, key: str) -> Any:
        raise self._error

    def __iter__(self) -> Iterator[str]:
        raise self._error

    def __len__(self) -> int:
        raise self._error


@torch.jit.unused
def _pretrained_cfg(network: nn.Module) -> Mapping[str, Any]:
    """What timm reads of a network, ``timm.data.resolve_model_data_config`` for one: its input rule.

    timm sets it for the networks that it builds; for others it follows from the network. Where timm's
    transforms cannot express the rule, reading any entry raises a ValueError.
    """
    if network._timm_cfg is not None:
        return network._timm_cfg
    try:
        return network._own_cfg()
    except ValueError as error:
        return _NoTimmConfig(error)


@torch.jit.unused
def _set_pretrained_cfg(network: nn.Module, cfg: dict[str, Any]) -> None:
    network._timm_cfg = cfg


class HarDNetTrunk(nn.Module):
    """Stem and stages: (N, in_chans, H, W) -> list of feature maps, one per entry of ``out_indices``.

    While it is built, the trunk records its feature maps and the official names of its modules.

    Args:
        arch: The architecture.
        in_chans: Number of input channels.
        out_indices: Feature maps to return: index i is the last map of stride ``stem_stride`` · 2^i, usually
            0 to 4 for the strides 2, 4, 8, 16 and 32. Default: the last stride only. Stages beyond the last
            index are not built.
        tap: Where in a stage the map is taken: "transition" (after the 1×1 convolution) or "block" (before).
        with_cp: Save memory in training by recomputing the blocks in the backward pass.
        output_stride: Largest stride of a map: 8, 16 or 32. What would downsample further has stride 1, and
            the convolutions after it are dilated instead, so that the maps have more pixels of the same
            receptive field; parameters and ``out_indices`` are the same. Default: the strides above. Every
            second or fourth pixel is that of the usual maps if the network is depthwise, or if the sides of
            the maps that it would pool are even: a pool drops the last row of an odd side, ``DilatedPool``
            does not.
        levels: The same in detail, instead of ``output_stride``: (stride, dilation) of each level of the
            stages, as ``levels_of`` returns it. The stride, 1 or 2, is that of the downsampling to the level;
            the first level, usually at stride 4, has 1. The dilation is that of the level's convolutions.

    Attributes:
        features: All available feature maps, one ``Feature`` per level.
        channels: Channels of the returned maps.
        strides: Strides of the returned maps in pixels.
        official_prefixes: Module name -> its name in the official program.
        preprocess: The input rule of a trunk that ``create_model`` built; otherwise None.

    Raises:
        ValueError: Unknown tap, or invalid ``in_chans``, ``out_indices``, ``output_stride`` or ``levels``.
    """

    __jit_ignored_attributes__ = ("pretrained_cfg", "default_cfg")  # or scripting would evaluate them
    _timm_cfg = None
    pretrained_cfg = default_cfg = property(_pretrained_cfg, _set_pretrained_cfg)  # a new and an old name

    def __init__(
        self,
        arch: HarDNetArch,
        *,
        in_chans: int = 3,
        out_indices: Sequence[int] | None = None,
        tap: str = "transition",
        with_cp: bool = False,
        output_stride: int | None = None,
        levels: Sequence[tuple[int, int]] | None = None,
    ):
        super().__init__()
        require_count("in_chans", in_chans)
        if tap not in TAPS:
            raise ValueError(f"tap={tap!r} is unknown; allowed: {', '.join(TAPS)}")
        if levels is None:
            levels = levels_of(arch, output_stride)
        elif output_stride is not None:
            raise ValueError("output_stride and levels are alternatives: give one of them")
        else:
            _check_levels(levels, levels_of(arch))
            levels = [(int(stride), int(dilation)) for stride, dilation in levels]
        arch, self.out_indices = _select(arch, out_indices)
        in_chans = int(in_chans)  # one of NumPy's would not be scripted
        self.arch, self.tap, self.with_cp, self.in_chans = arch, tap, with_cp, in_chans
        self.preprocess: Preprocess | None = None

        kernel = 1 if arch.depthwise else 3
        self.stem_stride = arch.stem_stride
        self.stem = _convs(in_chans, arch.stem, kernel, arch.act, stride=arch.stem_stride)
        self.official_prefixes = {f"stem.{i}": f"base.{i}" for i in range(len(arch.stem))}
        self.features = [Feature(arch.stem_stride, arch.stem[-1], -1)]
        self.stages = nn.ModuleList()
        self.stem_down = nn.Identity()
        channels, official = arch.stem[-1], len(arch.stem)
        if arch.stages and arch.stem_down:
            self.stem_down = _convs(
                channels, arch.stem_down, kernel, arch.act, stride=arch.first_step, same=arch.same_padding
            )
            channels = arch.stem_down[-1]
            for i in range(len(arch.stem_down)):
                self.official_prefixes[f"stem_down.{i}"] = f"base.{official + i}"
            official += len(arch.stem_down)
        elif arch.stages and arch.first_step == 2:
            self.stem_down = DepthwiseConvNorm(channels, stride=2) if arch.depthwise else _pool(arch, 3, 1)
            self.official_prefixes["stem_down"] = f"base.{official}"
            official += 1
        self._add_stages(channels, official, levels)
        self._record_outputs()
        init_weights(self)

    def _record_outputs(self) -> None:
        self.channels = [self.features[i].channels for i in self.out_indices]
        self.strides = [self.features[i].stride for i in self.out_indices]
        self._map_stages = [feature.stage for feature in self.features]
        self._output_stages = [self._map_stages[i] for i in self.out_indices]
        self.least = self.features[-1].stride  # pixels of the input's sides

    def _add_stages(self, channels: int, official: int, levels: Sequence[tuple[int, int]]) -> None:
        arch, level, stride = self.arch, 0, self.arch.first_step * self.arch.stem_stride
        before = len(self.features) if arch.first_step == 2 else 0  # features of finer strides
        for index, stage in enumerate(arch.stages):
            last = index == len(arch.stages) - 1
            down = nn.Identity()
            dilation = levels[level][1]
            if stage.downsample and not last:
                down = _down(arch, stage.channels, levels[level + 1][0], dilation, first=level == 0)
            dropout = arch.last_dropout if last else 0.0
            module = HarDNetStage(channels, stage, arch, dropout=dropout, down=down, dilation=dilation)
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
            self.features[before + level :] = [feature]  # the last stage of a level counts
            channels = stage.channels
            if stage.downsample and not last:
                level += 1
                stride *= levels[level][0]
        self.official_length = official

    @property
    @torch.jit.unused
    def feature_info(self) -> FeatureInfo:
        """Information about the returned feature maps."""
        return _feature_info(self.features, self.out_indices, self.tap)

    @torch.jit.unused
    def _own_cfg(self) -> dict[str, Any]:
        if self.preprocess is None:
            raise AttributeError("the trunk has no input rule")
        return {"num_classes": 0, "first_conv": "stem.0.conv", **self.preprocess.timm_config()}

    def prune(self, index: int) -> None:
        """Removes, in place, what comes after a feature map, which becomes the only output.

        Args:
            index: Index of the map, as in ``out_indices``.

        Raises:
            ValueError: There is no such map.
        """
        self.arch, self.out_indices = _select(self.arch, [index])
        self.features = self.features[: self.out_indices[0] + 1]
        del self.stages[len(self.arch.stages) :]
        no_layer = nn.Identity().train(self.training)
        if self.stages:
            self.stages[-1].down = no_layer
        else:
            self.stem_down = no_layer
        kept = {name for name, module in self.named_modules() if not isinstance(module, nn.Identity)}
        self.official_prefixes = {
            ours: theirs for ours, theirs in self.official_prefixes.items() if ours in kept
        }
        self._record_outputs()

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.maps(x, self._output_stages)

    def maps(self, x: Tensor, stages: list[int]) -> list[Tensor]:
        """The maps of some stages, in the order given; nothing after the last of them is computed.

        Args:
            x: Images, (N, in_chans, H, W).
            stages: ``Feature.stage`` of each map.
        """
        x = self.stem(checked_images(x, self.in_chans, self.least))
        last = max(stages)
        maps: dict[int, Tensor] = {}  # by stage
        if -1 in stages:
            maps[-1] = x
        if last >= 0:
            x = self.stem_down(x)
        for index, stage in enumerate(self.stages):
            if index <= last:
                if self.with_cp and self.training and x.requires_grad:
                    if torch.jit.is_scripting():
                        raise RuntimeError("with_cp=True is not for TorchScript: build the trunk without it")
                    else:
                        x = _recomputed(stage.block, x)
                else:
                    x = stage.block(x)
                if self.tap == "block" and index in stages:
                    maps[index] = x
                x = stage.transition(stage.dropout(x))
                if self.tap == "transition" and index in stages:
                    maps[index] = x
                if index < last:
                    x = stage.down(x)
        return [maps[index] for index in stages]


class HarDNetClassifier(nn.Module):
    """HarDNet classifier: (N, in_chans, H, W) -> (N, num_classes) logits.

    Height and width of the input must be at least 32 pixels (``output_stride``). The class has timm's model
    interface.

    Args:
        arch: A row of the architecture table.
        num_classes: Number of classes; 0 returns pooled features. Default: that of ``arch``.
        in_chans: Number of input channels.
        global_pool: "avg", or "" (only with 0 classes) to return the unpooled features.
        drop_rate: Dropout probability before the last layer. Default: that of ``arch``.
        output_stride: As of ``HarDNetTrunk``.

    Raises:
        ValueError: An argument is out of range.
    """

    class_layers = ("fc.",)  # prefixes of the parameters that depend on the number of classes
    __jit_ignored_attributes__ = ("pretrained_cfg", "default_cfg")  # or scripting would evaluate them
    _timm_cfg = None
    pretrained_cfg = default_cfg = property(_pretrained_cfg, _set_pretrained_cfg)  # a new and an old name

    def __init__(
        self,
        arch: HarDNetArch,
        *,
        num_classes: int | None = None,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float | None = None,
        output_stride: int | None = None,
    ):
        super().__init__()
        self.arch = arch
        self.trunk = HarDNetTrunk(arch, in_chans=in_chans, output_stride=output_stride)
        self.in_chans = self.trunk.in_chans
        rate = arch.dropout if drop_rate is None else drop_rate
        if not is_number(rate) or not 0 <= rate <= 1:
            raise ValueError(f"drop_rate={drop_rate!r} is invalid: expected a dropout probability, 0 to 1")
        self.drop_rate = float(rate)
        self.drop = nn.Dropout(self.drop_rate)
        self.num_features = self.head_hidden_size = self.trunk.channels[-1]
        self.reset_classifier(arch.num_classes if num_classes is None else num_classes, global_pool)

    @property
    @torch.jit.unused
    def official_prefixes(self) -> dict[str, str]:
        names = {f"trunk.{ours}": theirs for ours, theirs in self.trunk.official_prefixes.items()}
        return names | {"fc": f"base.{self.trunk.official_length}.3"}

    @property
    @torch.jit.unused
    def feature_info(self) -> FeatureInfo:
        """Information about the feature maps of all five levels, after the transitions."""
        features = self.trunk.features
        return _feature_info(features, range(len(features)), "transition", "trunk.")

    @torch.jit.unused
    def _own_cfg(self) -> dict[str, Any]:
        return {
            "architecture": self.usage.name,
            "num_classes": self.num_classes,
            "first_conv": "trunk.stem.0.conv",
            "classifier": "fc",
            **self.usage.preprocess.timm_config(),
        }

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The last layer, or its name."""
        return "fc" if name_only else self.fc

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Saves memory in training by recomputing the blocks in the backward pass."""
        self.trunk.with_cp = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters beside norms and biases that are trained without weight decay: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that group the parameters by depth, for timm's layer-wise learning rates.

        Args:
            coarse: One group per stage instead of one per layer of a block.
        """
        with_previous = (99999,)  # timm's mark of what belongs to the group before it
        layers = [
            (r"^trunk\.stages\.(\d+)\.block\.layers\.(\d+)", None),
            (r"^trunk\.stages\.(\d+)\.(?:transition|down)", with_previous),
        ]
        return {"stem": r"^trunk\.stem", "blocks": r"^trunk\.stages\.(\d+)" if coarse else layers}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer by a newly initialised one.

        Args:
            num_classes: Number of classes; 0 removes the layer and returns pooled features.
            global_pool: "avg", or "" (only with 0 classes) to return the unpooled features
                (N, num_features, h, w). None keeps the current pooling.

        Raises:
            ValueError: ``num_classes`` is not an integer of at least 0, or an invalid ``global_pool``.
        """
        if not is_count(num_classes, least=0):
            raise ValueError(f"num_classes={num_classes!r} must be an integer of at least 0")
        num_classes = int(num_classes)
        if global_pool not in (None, "avg", "") or (global_pool == "" and num_classes):
            raise ValueError(f"expected global_pool 'avg' or, with 0 classes, '', got {global_pool!r}")
        if global_pool is not None or num_classes:
            self.global_pool = "avg" if global_pool is None else global_pool
            self.pool = nn.AdaptiveAvgPool2d(1) if self.global_pool else nn.Identity()
        self.num_classes = num_classes
        if hasattr(self, "usage"):  # the class names belonged to the former layer
            self.usage = dataclasses.replace(self.usage, classes=None, palette=None)
        like = next(self.trunk.parameters())
        self.fc = nn.Identity()
        if num_classes:
            self.fc = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        init_weights(self.fc)
        for layer in (self.pool, self.fc):
            layer.train(self.training)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The feature maps of ``feature_info``.

        Args:
            x: Images, (N, in_chans, H, W).
            indices: The maps to return, in this order; an integer takes so many of the last, None all.
            norm: For the networks of timm that normalise at the end; HarDNet does not.
            stop_early: Compute nothing after the last of these maps.
            output_fmt: "NCHW".
            intermediates_only: Return the maps alone.

        Returns:
            (what ``forward_features`` returns, or the last map with ``stop_early``; the maps), or the maps.

        Raises:
            ValueError: No such map, or another ``output_fmt``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt='{output_fmt}' is unknown; allowed: NCHW")
        stages = self.trunk._map_stages
        chosen = [stages[index] for index in self._absolute(indices)]
        final = max(chosen) if stop_early else stages[-1]
        wanted = list(chosen)
        if not (intermediates_only and stop_early):
            wanted.append(final)
        maps = self.trunk.maps(x, wanted)
        intermediates = maps[: len(chosen)]
        if intermediates_only:
            return intermediates
        return maps[-1], intermediates

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes, in place, the stages after the last of some feature maps.

        Args:
            indices: As of ``forward_intermediates``.
            prune_norm: For the networks of timm that normalise at the end; HarDNet does not.
            prune_head: Remove the last layer, too; it goes in any case where stages are removed.

        Returns:
            The indices, counted from the beginning.
        """
        indices = self._absolute(indices)
        if max(indices) < len(self.trunk.features) - 1:
            self.trunk.prune(max(indices))
            self.arch = self.trunk.arch
            self.num_features = self.head_hidden_size = self.trunk.channels[-1]
            prune_head = True
        if prune_head:
            self.reset_classifier(0, "avg")
        return indices

    def _absolute(self, indices: Indices) -> list[int]:
        count = len(self.trunk._map_stages)
        if indices is None:
            return list(range(count))
        if isinstance(indices, int):
            if not 1 <= indices <= count:
                raise ValueError(f"indices={indices} must be from 1 to {count}: so many of the last maps")
            return list(range(count - indices, count))
        return _absolute(list(indices), count, self.trunk.stem_stride)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, num_features, H/s, W/s) features before pooling, s = 32 by default."""
        return self.trunk(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) -> (N, num_classes) logits, or pooled (N, num_features) features."""
        x = self.pool(x)
        if torch.jit.is_scripting():  # which may have several types of one class, and tells them apart
            is_pooled = self.global_pool != ""
        else:
            is_pooled = not isinstance(self.pool, nn.Identity)
        if not is_pooled:
            return x
        x = self.drop(x.flatten(1))  # (N, num_features, 1, 1) -> (N, num_features)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _feature_info(
    features: Sequence[Feature], out_indices: Sequence[int], tap: str, prefix: str = ""
) -> FeatureInfo:
    info = [
        {
            "num_chs": feature.channels,
            "reduction": feature.stride,
            "module": prefix + ("stem" if feature.stage < 0 else f"stages.{feature.stage}.{tap}"),
            "index": index,
        }
        for index, feature in enumerate(features)
    ]
    return FeatureInfo(info, out_indices)


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


def _convs(
    in_channels: int, widths: tuple[int, ...], kernel: int, act: str, *, stride: int, same: bool = False
) -> nn.Sequential:
    """A 3×3 convolution with ``stride``, padded as ``same`` says, then ``kernel`` × ``kernel`` ones."""
    pairs = list(zip((in_channels, *widths), widths, strict=False))
    (first, out), *rest = pairs
    return nn.Sequential(
        ConvNormAct(first, out, 3, stride=stride, act=act, same=same),
        *(ConvNormAct(before, after, kernel, act=act) for before, after in rest),
    )


def _pool(arch: HarDNetArch, kernel: int, padding: int, *, ceil: bool = False) -> nn.Module:
    return POOLS[arch.pool](kernel, 2, padding, ceil_mode=ceil)


def _down(arch: HarDNetArch, channels: int, stride: int, dilation: int, *, first: bool) -> nn.Module:
    """The downsampling between two levels; ``dilation`` is that of the level before it."""
    if arch.depthwise:
        return DepthwiseConvNorm(channels, stride=stride, dilation=dilation)
    if (stride, dilation) == (2, 1):
        return _pool(arch, 2, 0, ceil=arch.first_pool_ceil and first)
    return DilatedPool(arch.pool, stride=stride, dilation=dilation)


def levels_of(arch: HarDNetArch, output_stride: int | None = None) -> list[tuple[int, int]]:
    """(stride, dilation) of each level of a trunk's stages: the ``levels`` of ``HarDNetTrunk``.

    Args:
        arch: The architecture.
        output_stride: Largest stride of a map: 8, 16 or 32; default: that of ``arch``.

    Raises:
        ValueError: Another ``output_stride``.
    """
    if output_stride is not None and not (is_integer(output_stride) and output_stride in OUTPUT_STRIDES):
        allowed = ", ".join(map(str, OUTPUT_STRIDES))
        raise ValueError(f"output_stride={output_stride!r} is invalid; allowed: {allowed}")
    levels, stride, dilation = [], arch.first_step * arch.stem_stride, 1
    for level in range(len(last_stages(arch)) + 1 - arch.first_step):
        step = 2 if level else 1
        if step > 1 and stride == output_stride:
            step, dilation = 1, 2 * dilation
        stride *= step
        levels.append((step, dilation))
    return levels


def _check_levels(levels: Sequence[tuple[int, int]], usual: Sequence[tuple[int, int]]) -> None:
    given = [tuple(level) for level in levels]
    valid = len(given) == len(usual) and all(
        len(level) == 2 and all(map(is_integer, level)) and level[0] in (1, strides) and level[1] >= 1
        for level, (strides, _) in zip(given, usual, strict=True)
    )
    if not valid:
        raise ValueError(
            f"levels={given} must have {len(usual)} entries (stride, dilation), strides of 1 or 2 after a "
            f"first one of 1 and dilations of at least 1, such as {list(usual)}"
        )


def last_stages(arch: HarDNetArch) -> list[int]:
    """Index of the last stage of each stride of the trunk, ``stem_stride`` · 2^i; −1 is the stem."""
    last, level = [-1], arch.first_step - 1
    for index, stage in enumerate(arch.stages):
        if level == len(last):
            last.append(index)
        last[level] = index
        level += stage.downsample
    return last


def least_side(arch: HarDNetArch) -> int:
    """Least height and width of the input in pixels: the trunk's largest stride."""
    return arch.stem_stride * 2 ** (len(last_stages(arch)) - 1)


def _absolute(indices: list[int], count: int, stem_stride: int) -> list[int]:
    """Indices of maps, counted from the beginning."""
    first, last = list(range(count)), list(range(-count, 0))
    absolute = [index + count if index in last else index for index in indices]
    is_wrong = not absolute
    for number, index in enumerate(absolute):
        is_wrong = is_wrong or index not in first or index in absolute[:number]
    if is_wrong:
        allowed = ", ".join([f"{index} (stride {stem_stride << index})" for index in first])
        given = str(indices)[1:-1] + ("," if len(indices) == 1 else "")
        raise ValueError(f"out_indices=({given}) must be distinct and from {allowed}")
    return absolute


def _select(arch: HarDNetArch, out_indices: Sequence[int] | None) -> tuple[HarDNetArch, tuple[int, ...]]:
    """Removes the stages that ``out_indices`` do not need; the default is the last stride only."""
    last = last_stages(arch)
    if out_indices is None:
        return arch, (len(last) - 1,)
    # one integer is ambiguous: an index, or, to timm, so many of the last maps
    indices = list(out_indices) if isinstance(out_indices, Iterable) else None
    if indices is None or not all(map(is_integer, indices)):
        raise ValueError(
            f"out_indices={out_indices!r} must be a sequence of integers, such as (3,) for the map of index 3"
        )
    chosen = tuple(_absolute([int(index) for index in indices], len(last), arch.stem_stride))
    needed = last[max(chosen)] + 1
    if needed < len(arch.stages):
        arch = replace(arch, stages=arch.stages[:needed], last_dropout=0.0)
    return arch, chosen
