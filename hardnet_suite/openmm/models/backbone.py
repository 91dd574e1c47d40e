"""HarDNet as a backbone for any model of mmdet or mmsegmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hardnet_suite.networks import HarDNetTrunk, trunk_arch
from hardnet_suite.numeric import is_integer, require_count, require_number
from hardnet_suite.openmm.models.initializers import pretrained_init

NORMS = ("BN", "SyncBN")


@MODELS.register_module()
class HarDNet(BaseModule):
    """A HarDNet trunk.

    forward: (N, in_channels, H, W), normalised images -> tuple of maps, one per entry of ``out_indices``.
    ``out_channels`` and ``out_strides`` record their channels and strides; configs get the channels from
    ``hardnet_suite.networks.feature_channels``.

    Args:
        arch: a name of ``list_models()``; a detector's name gives the detector's trunk.
        in_channels: of the input.
        out_indices: a sequence of 0 … 4 for the strides 2, 4, 8, 16, 32 (the last stage at each stride);
            stages beyond the largest index are not built.
        output_stride: the largest stride of a map, 8, 16 or 32; what would downsample further is dilated
            instead, as DeepLab and PSPNet have it. Parameters and ``out_indices`` stay the same.
        strides: in detail, and as ResNet has it: the downsampling before each of the levels from stride 4 on,
            such as (1, 2, 1, 1); the first is 1. An alternative to ``output_stride``.
        dilations: of the convolutions of each of these levels, such as (1, 1, 2, 4).
        tap: "transition" (after a stage's 1×1 convolution) or "block" (before it).
        frozen_stages: −1 freezes nothing, 0 the stem, i everything up to the map of stride 2^(i+1).
        norm_eval: batch norms keep their running statistics in training.
        norm_cfg: type "BN" or "SyncBN", with requires_grad, eps and momentum.
        with_cp: recompute blocks in the backward pass, which saves memory.
        pretrained: weights to begin with: True for the published ImageNet weights, a tag of the weights
            registry, or a file. An alternative to ``init_cfg``.
        init_cfg: dict(type="HarDNetPretrained", …), or dict(type="Pretrained", checkpoint=FILE), which means
            the same file.

    Raises:
        ValueError: an option out of range, or two that exclude each other.
        UserError: ``pretrained`` is neither a tag nor a file.
    """

    def __init__(
        self,
        arch: str = "hardnet68",
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        output_stride: int | None = None,
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        tap: str = "transition",
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
        pretrained: bool | str | None = None,
        init_cfg: dict | list | None = None,
    ):
        require_count("in_channels", in_channels)
        super().__init__(_initial_weights(arch, pretrained, init_cfg))
        self.arch = arch
        trunk = HarDNetTrunk(
            trunk_arch(arch),
            in_chans=in_channels,
            out_indices=out_indices,
            tap=tap,
            with_cp=with_cp,
            output_stride=output_stride,
            levels=_levels(strides, dilations),
        )
        levels = len(trunk.features)
        if not is_integer(frozen_stages) or frozen_stages not in range(-1, levels):
            raise ValueError(f"frozen_stages={frozen_stages!r} must be an integer from −1 to {levels - 1}")
        self.trunk = _with_norm(trunk, {"type": "BN"} if norm_cfg is None else norm_cfg)
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.out_channels = list(trunk.channels)
        self.out_strides = list(trunk.strides)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.trunk(x))

    def train(self, mode: bool = True) -> HarDNet:
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.trunk.stem]
        if self.frozen_stages > 0:
            last = self.trunk.features[self.frozen_stages].stage
            stage = self.trunk.stages[last]  # its ``down`` leads to the next map, and so stays free
            frozen += [self.trunk.stem_down, *self.trunk.stages[:last]]
            frozen += [stage.block, stage.dropout, stage.transition]
        for module in frozen:
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False


def _levels(strides: Sequence[int] | None, dilations: Sequence[int] | None) -> list[tuple[int, int]] | None:
    """The trunk's ``levels`` of what a config gives; None for neither."""
    if strides is None and dilations is None:
        return None
    are_lists = all(isinstance(each, Sequence) and not isinstance(each, str) for each in (strides, dilations))
    if not are_lists or len(strides) != len(dilations):
        raise ValueError(
            f"strides={strides} and dilations={dilations} go together, one of each per level from stride 4 on"
        )
    return list(zip(strides, dilations, strict=True))


def _initial_weights(arch: str, pretrained: bool | str | None, init_cfg: Any) -> Any:
    """The ``init_cfg`` that a config's ``pretrained`` or ``init_cfg`` means."""
    if pretrained is not None and pretrained is not False:
        if init_cfg is not None:
            raise ValueError("pretrained and init_cfg are alternatives: give one of them")
        return pretrained_init(arch, pretrained)
    if isinstance(init_cfg, list | tuple):
        each = [_found_by_itself(arch, cfg) for cfg in init_cfg]
        return sorted(each, key=lambda cfg: cfg.get("type") == "HarDNetPretrained")  # last, as in mmengine
    return _found_by_itself(arch, init_cfg)


def _found_by_itself(arch: str, init_cfg: Any) -> Any:
    """OpenMMLab's "Pretrained" as the suite's, which finds the trunk in a file and misses nothing of it."""
    if not isinstance(init_cfg, dict) or init_cfg.get("type") != "Pretrained":
        return init_cfg
    if unknown := init_cfg.keys() - {"type", "checkpoint"}:
        raise ValueError(f"init_cfg has {sorted(unknown)}: a HarDNet finds its trunk in a file by itself")
    if not init_cfg.get("checkpoint"):
        raise ValueError(f"init_cfg={dict(init_cfg)} has no checkpoint")
    return pretrained_init(arch, init_cfg["checkpoint"])


def _with_norm(trunk: HarDNetTrunk, norm_cfg: dict) -> HarDNetTrunk:
    if not isinstance(norm_cfg, Mapping) or "type" not in norm_cfg:
        raise ValueError(f"norm_cfg={norm_cfg!r} has no type; allowed: {', '.join(NORMS)}")
    options = dict(norm_cfg)
    kind = options.pop("type")
    if kind not in NORMS:
        raise ValueError(f"norm_cfg type {kind!r} is unknown; allowed: {', '.join(NORMS)}")
    requires_grad = options.pop("requires_grad", True)
    unknown = options.keys() - {"eps", "momentum"}
    if unknown:
        raise ValueError(f"norm_cfg has unknown entries {sorted(unknown)}")
    if not isinstance(requires_grad, bool):
        raise ValueError(f"norm_cfg requires_grad must be True or False, got {requires_grad!r}")
    if "eps" in options:
        require_number("norm_cfg eps", options["eps"], 0)
    if options.get("momentum") is not None:  # None: the mean of all batches
        require_number("norm_cfg momentum", options["momentum"], 0, 1)
    for module in trunk.modules():
        if isinstance(module, _BatchNorm):
            for name, value in options.items():
                setattr(module, name, value)
            for parameter in module.parameters():
                parameter.requires_grad = requires_grad
    return nn.SyncBatchNorm.convert_sync_batchnorm(trunk) if kind == "SyncBN" else trunk
