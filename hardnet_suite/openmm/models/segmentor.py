"""FC-HarDNet as an mmsegmentation model: the decoder as a decode head, and its loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from hardnet_suite.errors import UserError
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

    With ``num_classes=1`` the logit is that of the class, and a pixel is of it where its probability exceeds
    ``threshold`` (0.5 unless given). Losses get the target of binary cross entropy then: 1 where the class
    is, 0 where it is not.

    Args:
        arch: an FC-HarDNet of the table.
        in_channels: of each input map.
        channels: of the map before the classifier.
        num_classes: of the data set.
        options: the further ones of mmseg's ``BaseDecodeHead``.

    Raises:
        UserError: ``out_channels`` other than ``num_classes``.
    """

    def __init__(self, arch: str, in_channels: Sequence[int], channels: int, *, num_classes: int, **options):
        if options.pop("out_channels", None) not in (None, num_classes):
            raise UserError(
                "FCHarDNetHead has no out_channels other than num_classes; for binary segmentation with one "
                "logit set num_classes=1 and name the object as the only class"
            )
        if num_classes == 1:
            options.setdefault("threshold", 0.5)
        super().__init__(
            in_channels=list(in_channels),
            channels=channels,
            num_classes=num_classes,
            out_channels=num_classes,
            in_index=list(range(len(in_channels))),
            input_transform="multiple_select",
            align_corners=True,
            dropout_ratio=0.0,
            **options,
        )
        self.decoder = FCHarDNetDecoder(fchardnet_arch(arch), in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.cls_seg(self.decoder(maps))

    def _stack_batch_gt(self, batch_data_samples) -> Tensor:
        target = super()._stack_batch_gt(batch_data_samples)
        if self.num_classes > 1:
            return target
        # train labels of one class: 0 is the class, 1 is not
        return torch.where(target == self.ignore_index, target, 1 - target)

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples) -> dict[str, Tensor]:
        losses = super().loss_by_feat(seg_logits, batch_data_samples)
        if self.num_classes == 1:  # mmseg's accuracy takes the largest of one logit
            target = self._stack_batch_gt(batch_data_samples)
            logits = F.interpolate(seg_logits.detach(), target.shape[2:], mode="bilinear", align_corners=True)
            counted = target != self.ignore_index
            right = (logits.sigmoid() > self.threshold) == (target == 1)
            losses["acc_seg"] = 100 * (right & counted).sum() / counted.sum().clamp(min=1)
        return losses


@MODELS.register_module()
class BootstrappedCrossEntropyLoss(nn.Module):
    """``losses.bootstrapped_cross_entropy`` for mmseg's heads.

    Args:
        min_kept: as for the function, like ``threshold``.
        class_weight: one number per class; with a single class, of the pixels where it is.
        loss_weight: a factor.
        loss_name: its name in the log.
    """

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
