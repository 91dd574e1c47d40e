"""FC-HarDNet and HarDNet-MSEG as mmsegmentation models, their decoders as a decode head, and their losses.

``HarDNetSegmentor`` builds the ``HarDNet`` backbone and ``FCHarDNetHead`` from one row of the architecture
table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder, SegTTAModel
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss, LovaszLoss
from mmseg.models.losses.lovasz_loss import lovasz_hinge
from mmseg.structures import SegDataSample
from mmseg.structures.sampler import OHEMPixelSampler
from mmseg.utils import SampleList
from torch import Tensor, nn

from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.inference.masks import logits_to_mask, mean_to_mask, segmentation_logits
from hardnet_suite.inference.prepare import Placement
from hardnet_suite.losses import bootstrapped_cross_entropy, structure_loss
from hardnet_suite.networks import (
    FCHarDNetArch,
    MSEGArch,
    SegmentationArch,
    SegmentationPostprocess,
    find_arch,
)
from hardnet_suite.networks.fchardnet import build_decoder
from hardnet_suite.networks.layers import enlarge
from hardnet_suite.networks.mseg import PartialDecoder
from hardnet_suite.numeric import is_number, require_count, require_number
from hardnet_suite.openmm.data.parts import kind_of
from hardnet_suite.openmm.models.arch import (
    agreed,
    backbone_config,
    build_scope,
    model_arch,
    neck_channels,
    part_config,
    row_of,
    trunk_channels,
)
from hardnet_suite.openmm.models.forms import LoadsEveryForm
from hardnet_suite.openmm.models.inference import PerShapeInference, ReplaceableNetwork, placement_of
from hardnet_suite.openmm.models.rules import postprocess_of

_DECODERS = {FCHarDNetArch: build_decoder, MSEGArch: PartialDecoder}


def require_losses_of_classes(head: nn.Module, where: str) -> None:
    """Checks that the losses of a head are made for its number of classes, and for its sampler.

    The suite's own are tried on one pixel, mmseg's sampler on a few. With one logit, mmseg's others encode
    the target by its number of classes: they learn the background, are constant, or fail in the first
    iteration. Losses that are neither mmseg's nor the suite's are left to their authors.

    Args:
        head: A decode head of mmseg's kind.
        where: What messages call it.

    Raises:
        UserError: A loss needs another number of classes, has other class weights than one finite number of
            at least 0 per class, or cannot be computed with the sampler.
    """
    losses = getattr(head, "loss_decode", ())
    losses = list(losses) if isinstance(losses, nn.ModuleList) else [losses]
    sampler = getattr(head, "sampler", None)
    for loss in losses:
        _require_class_weight(loss, head.out_channels, where)
        if isinstance(loss, BootstrappedCrossEntropyLoss | StructureLoss):
            try:
                _try(loss, head.out_channels, is_weighted=sampler is not None)
            except ValueError as error:
                raise UserError(f"{where}.loss_decode: {type(loss).__name__}: {error}") from None
        if head.num_classes != 1:
            continue
        if not isinstance(loss, nn.Module) or type(loss).__module__.partition(".")[0] != "mmseg":
            continue
        if isinstance(loss, CrossEntropyLoss) and loss.use_sigmoid:
            continue
        if isinstance(loss, LovaszLoss) and loss.cls_criterion is lovasz_hinge:
            continue
        raise UserError(
            f"{where}.loss_decode: {type(loss).__name__} needs two classes or more as it is set here, but "
            "num_classes is 1; losses of one class: StructureLoss, BootstrappedCrossEntropyLoss, "
            'CrossEntropyLoss(use_sigmoid=True), LovaszLoss(loss_type="binary", reduction="none")'
        )
    if type(sampler) is OHEMPixelSampler and all(map(_is_known, losses)):
        labels = torch.arange(64, device="cpu").reshape(1, 1, 8, 8) % 2
        try:
            sampler.sample(torch.zeros(1, head.out_channels, 8, 8, device="cpu"), labels)
        except Exception as error:
            names = ", ".join(type(loss).__name__ for loss in losses)
            reason = str(error).partition("\n")[0][:200]
            raise UserError(
                f"{where}.sampler: OHEMPixelSampler(thresh={sampler.thresh}) cannot be used with {names} and "
                f"{counted(head.out_channels, 'logit')} ({type(error).__name__}: {reason}): leave it out"
            ) from None


def _is_known(loss: object) -> bool:
    """Whether a loss is mmseg's or the suite's."""
    return isinstance(loss, nn.Module) and type(loss).__module__.partition(".")[0] in (
        "mmseg",
        "hardnet_suite",
    )


def _require_class_weight(loss: object, classes: int, where: str) -> None:
    """UserError unless ``class_weight`` of mmseg's or the suite's loss, if set, is one weight per class."""
    weights = getattr(loss, "class_weight", None) if _is_known(loss) else None
    if weights is None or (isinstance(loss, LovaszLoss) and loss.cls_criterion is lovasz_hinge):
        return
    key = f"{where}.loss_decode.class_weight ({type(loss).__name__})"
    values = list(weights) if isinstance(weights, Sequence | np.ndarray) else [weights]
    bad = [value for value in values if not is_number(value) or value < 0]
    if bad:
        raise UserError(f"{key} must hold finite numbers of at least 0, got {bad[0]!r}")
    if len(values) != classes:
        raise UserError(f"{key} has {counted(len(values), 'value')}, expected one per class: {classes}")
    if classes > 1 and isinstance(loss, CrossEntropyLoss) and loss.use_sigmoid:
        raise UserError(
            f"{key} cannot be used with use_sigmoid=True and {classes} classes: mmseg would apply it to the "
            "columns of the image"
        )


def require_samplers(heads: object, where: str) -> None:
    """Checks the options of mmseg's sampler in the config of a head, or of several.

    Raises:
        UserError: ``min_kept`` is not an integer of at least 2, or ``thresh`` neither None nor a number.
    """
    for head in heads if isinstance(heads, list | tuple) else [heads]:
        sampler = head.get("sampler") if isinstance(head, Mapping) else None
        if not isinstance(sampler, Mapping) or not sampler.get("type"):
            continue
        if kind_of(sampler) != OHEMPixelSampler.__name__:
            continue
        try:
            require_count("min_kept", sampler.get("min_kept", 100000), 2)
            if sampler.get("thresh") is not None:
                require_number("thresh", sampler["thresh"])
        except ValueError as error:
            raise UserError(f"{where}.sampler.{error}") from None


@MODELS.register_module()
class FCHarDNetHead(BaseDecodeHead):
    """Decoder and classifier: the trunk's maps -> (N, num_classes, H/s, W/s) logits.

    s is the stride of the finest of them, 4 for FC-HarDNet-70 and 8 for HarDNet-MSEG.

    With ``num_classes=1`` there is a single logit, and pixels whose probability exceeds ``threshold``
    (default 0.5) belong to the class. The losses then get targets for binary cross entropy: 1 for the class,
    0 for the background.

    Args:
        arch: An FC-HarDNet or HarDNet-MSEG of the architecture table.
        in_channels: Input channels; if given, they must agree with the table.
        channels: Output channels of the decoder; if given, they must agree with the table.
        options: Options of mmseg's ``BaseDecodeHead``; ``num_classes`` defaults to that of the table.

    Raises:
        UserError: ``out_channels`` differs from ``num_classes``, or a loss of mmseg's needs several classes.
    """

    # of full-resolution logits, a teacher's probabilities, and the mask of pixels that count
    distillation: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __init__(
        self, arch: str, in_channels: Sequence[int] | None = None, channels: int | None = None, **options
    ):
        row = row_of(arch, SegmentationArch)
        num_classes = options.setdefault("num_classes", row.num_classes)
        if options.setdefault("out_channels", num_classes) != num_classes:
            raise UserError(
                "FCHarDNetHead requires out_channels equal to num_classes; for binary segmentation with one "
                "logit set num_classes=1 and name the object as the only class"
            )
        require_samplers(options, "decode_head")
        options.setdefault("threshold", SegmentationPostprocess().threshold)  # mmseg's is 0.3, with a warning
        in_channels = agreed(in_channels, trunk_channels(arch), "decode_head.in_channels", arch)
        super().__init__(
            in_channels=list(in_channels),
            channels=agreed(channels, *neck_channels(arch), "decode_head.channels", arch),
            in_index=list(range(len(in_channels))),
            input_transform="multiple_select",
            align_corners=row.align_corners,
            dropout_ratio=0.0,
            **options,
        )
        require_losses_of_classes(self, "decode_head")
        self.decoder = _DECODERS[type(row)](row, in_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.cls_seg(self.decoder(maps))

    def _stack_batch_gt(self, batch_data_samples) -> Tensor:
        target = super()._stack_batch_gt(batch_data_samples)
        if self.num_classes > 1:
            return target
        # training labels with one class: 0 is the class, 1 the background
        return torch.where(target == self.ignore_index, target, 1 - target)

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples) -> dict[str, Tensor]:
        losses = super().loss_by_feat(seg_logits, batch_data_samples)
        if self.num_classes == 1:  # mmseg's accuracy uses argmax, meaningless for one logit
            target = self._stack_batch_gt(batch_data_samples)
            logits = enlarge(seg_logits.detach(), target.shape[2:], self.align_corners)
            counted = target != self.ignore_index
            right = (logits.sigmoid() > self.threshold) == (target == 1)
            losses["acc_seg"] = 100 * (right & counted).sum() / counted.sum().clamp(min=1)
        if self.distillation is not None:
            losses["loss_distillation"] = self._distillation_loss(seg_logits, batch_data_samples)
        return losses

    def _distillation_loss(self, seg_logits: Tensor, batch_data_samples) -> Tensor:
        """The divergence from what the samples' teachers predict; the padding of the batch does not count."""
        size = batch_data_samples[0].gt_sem_seg.shape
        logits = enlarge(seg_logits, size, self.align_corners)
        probabilities, mask = (
            torch.zeros_like(logits, dtype=torch.float32),
            logits.new_zeros(len(logits), *size, dtype=torch.bool),
        )
        for number, sample in enumerate(batch_data_samples):
            height, width = sample.teacher.shape
            probabilities[number, :, :height, :width] = sample.teacher.data
            mask[number, :height, :width] = True
        return self.distillation(logits, probabilities, mask)


@MODELS.register_module()
class HarDNetSegmentor(LoadsEveryForm, PerShapeInference, ReplaceableNetwork, EncoderDecoder):
    """FC-HarDNet or HarDNet-MSEG as an mmsegmentation model.

    Args:
        arch: Its name in the architecture table ("fchardnet70", "hardnet_mseg"). It determines channels,
            indices and tap of backbone and decode head; configs that contradict it are an error.
        backbone: Further options of ``HarDNet``.
        decode_head: Further options of ``FCHarDNetHead``.
        options: Options of mmseg's ``EncoderDecoder``.
    """

    def __init__(
        self,
        arch: str | None = None,
        backbone: dict | None = None,
        decode_head: dict | None = None,
        **options,
    ):
        arch = model_arch(arch, SegmentationArch, backbone=backbone, decode_head=decode_head)
        require_samplers(options.get("auxiliary_head"), "auxiliary_head")
        with build_scope("mmseg"):
            super().__init__(
                backbone=backbone_config(arch, backbone),
                decode_head=part_config(arch, decode_head, FCHarDNetHead),
                **options,
            )
        if self.with_auxiliary_head:
            heads = self.auxiliary_head
            for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                require_losses_of_classes(head, "auxiliary_head")
        self.arch = arch

    @property
    def rule(self) -> SegmentationPostprocess:
        """The postprocessing defined by ``test_cfg`` and the head's threshold."""
        return postprocess_of(
            find_arch(self.arch), self.test_cfg, "test_cfg", threshold=self.decode_head.threshold
        )

    def predict(self, inputs: Tensor, data_samples: SampleList | None = None) -> SampleList:
        """Predicts masks and logits at the size of each image; those of flipped inputs are flipped back."""
        samples = [SegDataSample() for _ in inputs] if data_samples is None else data_samples
        size = tuple(inputs.shape[2:])
        placements = [
            placement_of(sample.metainfo) if "ori_shape" in sample.metainfo else Placement(size, size)
            for sample in samples
        ]
        rule, maps = self.rule, segmentation_logits(self.outputs, inputs, placements, self.rule)
        for sample, logits in zip(samples, maps, strict=True):
            if sample.metainfo.get("flip"):
                logits = logits.flip(2 if sample.metainfo["flip_direction"] == "horizontal" else 1)
            mask = logits_to_mask(logits, rule)[None]
            sample.set_data({"seg_logits": PixelData(data=logits), "pred_sem_seg": PixelData(data=mask)})
        return samples

    def own_outputs(self, inputs: Tensor) -> Tensor:
        head = self.decode_head
        return enlarge(head(self.extract_feat(inputs)), inputs.shape[2:], head.align_corners)


@MODELS.register_module()
class HarDNetSegmentorTTA(SegTTAModel):
    """Test-time augmentation: averages the probabilities of several views of each image."""

    def merge_preds(self, data_samples_list: list[SampleList]) -> SampleList:
        merged = []
        for views in data_samples_list:
            mask = mean_to_mask([view.seg_logits.data for view in views], self.module.rule)
            sample = views[0]
            sample.set_data({"pred_sem_seg": PixelData(data=mask[None])})
            if self.module.decode_head.num_classes == 1:  # what masks are scored by
                mean = torch.stack([view.seg_logits.data.sigmoid() for view in views]).mean(0)
                sample.set_data({"seg_logits": PixelData(data=mean.logit(eps=1e-6))})
            merged.append(sample)
        return merged


def _try(loss: nn.Module, classes: int, *, is_weighted: bool = False) -> None:
    """Computes a loss of one pixel, so that wrong options fail now and not in the first iteration."""
    logits = torch.zeros(1, classes, 1, 1, device="cpu")
    target = torch.zeros(1, 1, 1, device="cpu", dtype=torch.long)
    loss(logits, target, weight=torch.ones(1, 1, 1, device="cpu") if is_weighted else None)


@MODELS.register_module()
class BootstrappedCrossEntropyLoss(nn.Module):
    """``losses.bootstrapped_cross_entropy`` for mmseg's heads.

    Args:
        min_kept: Minimum number of pixels per image.
        threshold: Threshold on the loss of a pixel.
        class_weight: One weight per class, at least 0; with one class, the weight of its pixels.
        loss_weight: Factor on the loss, at least 0.
        loss_name: Name in the log.

    Raises:
        ValueError: An option out of range.
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
        require_number("loss_weight", loss_weight, 0)
        is_list = isinstance(class_weight, Sequence) and not isinstance(class_weight, str)
        if class_weight is not None and not (
            is_list and class_weight and all(is_number(value) and value >= 0 for value in class_weight)
        ):
            raise ValueError(
                "class_weight must be a list of one finite number of at least 0 per class, got "
                f"{class_weight!r}"
            )
        self.min_kept, self.threshold, self.class_weight = min_kept, threshold, class_weight
        self.loss_weight, self.loss_name = loss_weight, loss_name
        _try(self, 2 if class_weight is None else len(class_weight))

    def forward(
        self, logits: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = 255
    ) -> Tensor:
        if weight is not None:
            raise ValueError(
                "this loss selects the hard pixels itself: remove the sampler, or use another loss with it"
            )
        of_class = None
        if self.class_weight is not None:
            of_class = logits.new_tensor(self.class_weight, dtype=torch.float32)
        return self.loss_weight * bootstrapped_cross_entropy(
            logits, target, self.min_kept, self.threshold, ignore_index, weight=of_class
        )


@MODELS.register_module()
class StructureLoss(nn.Module):
    """``losses.structure_loss`` for mmseg's heads with one class.

    Args:
        window: Side of the window that finds the edges, in pixels.
        edge_weight: Additional weight of a pixel whose surroundings are all different.
        weighted_bce: Whether the weights count in the cross entropy; False: only in the IoU, as in the
            published program.
        loss_weight: Factor on the loss, at least 0.
        loss_name: Name in the log.

    Raises:
        ValueError: An option out of range.
    """

    def __init__(
        self,
        window: int = 31,
        edge_weight: float = 5.0,
        weighted_bce: bool = True,
        loss_weight: float = 1.0,
        loss_name: str = "loss_structure",
    ):
        super().__init__()
        require_number("loss_weight", loss_weight, 0)
        self.options = {"window": window, "edge_weight": edge_weight, "weighted_bce": weighted_bce}
        self.loss_weight, self.loss_name = loss_weight, loss_name
        _try(self, 1)

    def forward(
        self, logits: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = 255
    ) -> Tensor:
        if weight is not None:
            raise ValueError("this loss weights the pixels itself: remove the sampler, or use another loss")
        return self.loss_weight * structure_loss(logits, target, ignore_index=ignore_index, **self.options)
