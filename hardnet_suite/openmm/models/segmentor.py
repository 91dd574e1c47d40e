"""FC-HarDNet as an mmsegmentation model: the decoder as a decode head, and its loss."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from hardnet_suite.losses import bootstrapped_cross_entropy
from hardnet_suite.networks import FCHarDNetArch, find_arch
from hardnet_suite.networks.fchardnet import FCHarDNetDecoder


def fchardnet_arch(name: str) -> FCHarDNetArch:
    """The table's row of that name, which must be an FC-HarDNet."""
    row = find_arch(name)
    if not isinstance(row, FCHarDNetArch):
        raise ValueError(f"arch={name!r} is no FC-HarDNet")
    return row


@MODELS.register_module()
class FCHarDNetHead(BaseDecodeHead):
    """The decoder and the classifier: block outputs of strides 4 … 64 -> (N, num_classes, H/4, W/4) logits.

    The further options are those of mmseg's ``BaseDecodeHead``.
    """

    def __init__(self, arch: str, in_channels: Sequence[int], channels: int, **options):
        super().__init__(
            in_channels=list(in_channels),
            channels=channels,
            in_index=list(range(len(in_channels))),
            input_transform="multiple_select",
            align_corners=True,
            dropout_ratio=0.0,
            **options,
        )
        self.decoder = FCHarDNetDecoder(fchardnet_arch(arch), in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.cls_seg(self.decoder(maps))


@MODELS.register_module()
class BootstrappedCrossEntropyLoss(nn.Module):
    """``losses.bootstrapped_cross_entropy`` for mmseg's heads; ``class_weight``: one number a class."""

    def __init__(
        self,
        min_kept: int = 4096,
        threshold: float = 0.3,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = "loss_bootstrapped",
    ):
        super().__init__()
        self.min_kept, self.threshold, self.class_weight = min_kept, threshold, class_weight
        self.loss_weight, self.loss_name = loss_weight, loss_name

    def forward(
        self, logits: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = 255
    ) -> Tensor:
        if weight is not None:
            raise ValueError(
                "this loss picks its own hard pixels: use a sampler, such as OHEMPixelSampler, with another"
            )
        of_class = None if self.class_weight is None else logits.new_tensor(self.class_weight).float()
        return self.loss_weight * bootstrapped_cross_entropy(
            logits, target, self.min_kept, self.threshold, ignore_index, weight=of_class
        )
