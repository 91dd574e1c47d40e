"""HarDNet as a backbone for any model of mmdet or mmsegmentation."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hardnet_suite.networks import HarDNetTrunk, trunk_arch

NORMS = ("BN", "SyncBN")


@MODELS.register_module()
class HarDNet(BaseModule):
    """A HarDNet trunk.

    forward: (N, in_channels, H, W), normalised images -> tuple of maps, one per entry of ``out_indices``.
    ``out_channels`` and ``out_strides`` record their channels and strides, for the neck's config.

    Args:
        arch: a name of ``list_models()``; a detector's name gives the detector's trunk.
        in_channels: of the input.
        out_indices: 0 … 4 for the strides 2, 4, 8, 16, 32 (the last stage at each stride); stages beyond the
            largest index are not built.
        tap: "transition" (after a stage's 1×1 convolution) or "block" (before it).
        frozen_stages: −1 freezes nothing, 0 the stem, i everything up to the map of stride 2^(i+1).
        norm_eval: batch norms keep their running statistics in training.
        norm_cfg: type "BN" or "SyncBN", with requires_grad, eps and momentum.
        with_cp: recompute blocks in the backward pass, which saves memory.
        init_cfg: dict(type="HarDNetPretrained") for the published ImageNet weights.
    """

    def __init__(
        self,
        arch: str = "hardnet68",
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        tap: str = "transition",
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        self.arch = arch
        trunk = HarDNetTrunk(
            trunk_arch(arch), in_chans=in_channels, out_indices=out_indices, tap=tap, with_cp=with_cp
        )
        levels = len(trunk.features)
        if frozen_stages not in range(-1, levels):
            raise ValueError(f"frozen_stages={frozen_stages} must be from −1 to {levels - 1}")
        self.trunk = _with_norm(trunk, norm_cfg or {"type": "BN"})
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


def _with_norm(trunk: HarDNetTrunk, norm_cfg: dict) -> HarDNetTrunk:
    options = dict(norm_cfg)
    kind = options.pop("type")
    if kind not in NORMS:
        raise ValueError(f"norm_cfg type {kind!r} is unknown; allowed: {', '.join(NORMS)}")
    requires_grad = options.pop("requires_grad", True)
    unknown = options.keys() - {"eps", "momentum"}
    if unknown:
        raise ValueError(f"norm_cfg has unknown entries {sorted(unknown)}")
    for module in trunk.modules():
        if isinstance(module, _BatchNorm):
            for name, value in options.items():
                setattr(module, name, value)
            for parameter in module.parameters():
                parameter.requires_grad = requires_grad
    return nn.SyncBatchNorm.convert_sync_batchnorm(trunk) if kind == "SyncBN" else trunk
