"""SSD-HarDNet as an mmdet detector: the parts of ``networks.ssd``, registered.

``HarDNetSSD`` builds the ``HarDNet`` backbone, ``HarDNetSSDNeck`` and ``HarDNetSSDHead`` from one row of the
architecture table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.ops import batched_nms
from mmdet.models import SingleStageDetector, SSDHead
from mmdet.models.task_modules import SSDAnchorGenerator
from mmengine.config import ConfigDict
from mmengine.dist import all_reduce
from mmengine.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

from hardnet_suite.networks import SSDArch
from hardnet_suite.networks.ssd import SSDNeck, base_boxes, prediction_convs
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


@MODELS.register_module()
class HarDNetSSDNeck(SSDNeck):
    """L2Norm, bridge and extra levels: the backbone's maps of stride 8 and 16 -> tuple of SSD's levels.

    Args:
        arch: an SSD of the architecture table.
        in_channels: as the table has them; anything else is an error.
    """

    def __init__(self, arch: str, in_channels: Sequence[int] | None = None):
        row = row_of(arch, SSDArch)
        super().__init__(row, agreed(in_channels, trunk_channels(arch), "neck.in_channels", arch))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(super().forward(maps))


@TASK_UTILS.register_module()
class HarDNetSSDAnchors(SSDAnchorGenerator):
    """The published default boxes: explicit sizes, width and height clamped to the image."""

    def __init__(self, arch: str):
        row = row_of(arch, SSDArch)
        self._boxes = [base_boxes(row.priors, i, row.size) for i in range(len(row.priors.strides))]
        sizes = row.priors.sizes
        super().__init__(
            strides=list(row.priors.strides),
            ratios=[list(ratios) for ratios in row.priors.ratios],
            min_sizes=list(sizes[:-1]),
            max_sizes=list(sizes[1:]),
            input_size=row.size,
            scale_major=False,
        )

    def gen_base_anchors(self) -> list[Tensor]:
        """(A, 4) xyxy in pixels of the first cell, one tensor per level."""
        levels = []
        for boxes, (cx, cy) in zip(self._boxes, self.centers, strict=True):
            half = torch.tensor(boxes, dtype=torch.float64) / 2
            centre = torch.tensor([cx, cy], dtype=torch.float64)
            levels.append(torch.cat([centre - half, centre + half], 1).float())
        return levels


@MODELS.register_module()
class HarDNetSSDHead(SSDHead):
    """mmdet's SSDHead with the network's own convolutions, priors and the published decoding.

    Where it differs: boxes are clipped to the image after NMS, not before; NMS runs class by class on
    the boxes themselves (mmdet moves the classes apart by adding large offsets, which costs precision);
    with several ranks the loss is divided by the mean number of positives, so that it equals one rank's.

    Args:
        arch: an SSD of the architecture table.
        in_channels: as the table has them; anything else is an error.
        options: of mmdet's ``SSDHead``; ``num_classes`` defaults to the table's.
    """

    loss_cls = None  # mmdet 3.3's prediction code reads it, and its own SSDHead lacks it

    def __init__(self, arch: str, in_channels: Sequence[int] | None = None, **options):
        self.arch = row_of(arch, SSDArch)
        options.setdefault("num_classes", self.arch.num_classes)
        super().__init__(
            in_channels=agreed(in_channels, neck_channels(arch), "bbox_head.in_channels", arch),
            anchor_generator={"type": "HarDNetSSDAnchors", "arch": arch},
            bbox_coder={
                "type": "DeltaXYWHBBoxCoder",
                "target_means": (0.0, 0.0, 0.0, 0.0),
                "target_stds": (0.1, 0.1, 0.2, 0.2),
                "clip_border": False,
            },
            init_cfg=None,
            **options,
        )

    def _init_layers(self) -> None:
        boxes = self.arch.priors.per_location
        self.cls_convs = prediction_convs(self.in_channels, boxes, self.cls_out_channels)
        self.reg_convs = prediction_convs(self.in_channels, boxes, 4)

    def get_targets(self, *args, **kwargs) -> tuple:
        *targets, positives = super().get_targets(*args, **kwargs)
        mean = torch.tensor(float(positives), device=targets[0][0].device)
        all_reduce(mean, op="mean")
        return (*targets, max(mean.item(), 1.0))

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: ConfigDict,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: dict | None = None,
    ) -> InstanceData:
        height, width = img_meta["img_shape"][:2]
        if rescale:
            scale = results.bboxes.new_tensor(img_meta["scale_factor"]).repeat(2)
            results.bboxes = results.bboxes / scale
            height, width = img_meta["ori_shape"][:2]
        if with_nms:
            kept = []
            for label in results.labels.unique():
                group = results[results.labels == label]
                keep, scores = _nms(group.bboxes, group.scores, cfg)
                group = group[keep]
                group.scores = scores
                kept.append(group)
            if kept:
                results = InstanceData.cat(kept)
            order = results.scores.argsort(descending=True, stable=True)[: cfg.max_per_img]
            results = results[order]
        results.bboxes[:, 0::2] = results.bboxes[:, 0::2].clamp(0, width)
        results.bboxes[:, 1::2] = results.bboxes[:, 1::2].clamp(0, height)
        return results


@MODELS.register_module()
class HarDNetSSD(SingleStageDetector):
    """SSD on a HarDNet trunk.

    Args:
        arch: an SSD of the architecture table ("ssd512_hardnet68"). Channels, indices, taps and default boxes
            of backbone, neck and head follow from it; one given otherwise is an error.
        backbone, neck, bbox_head: further options of ``HarDNet``, ``HarDNetSSDNeck`` and ``HarDNetSSDHead``.
        options: of mmdet's ``SingleStageDetector``.
    """

    def __init__(
        self,
        arch: str | None = None,
        backbone: dict | None = None,
        neck: dict | None = None,
        bbox_head: dict | None = None,
        **options,
    ):
        arch = model_arch(arch, SSDArch, backbone=backbone, neck=neck, bbox_head=bbox_head)
        with build_scope("mmdet"):
            super().__init__(
                backbone=backbone_config(arch, backbone),
                neck=part_config(arch, neck, HarDNetSSDNeck),
                bbox_head=part_config(arch, bbox_head, HarDNetSSDHead),
                **options,
            )
        self.arch = arch


def _nms(boxes: Tensor, scores: Tensor, cfg: ConfigDict) -> tuple[Tensor, Tensor]:
    """NMS among the boxes (N, 4) of one class: indices of those kept, best first, and their scores (K,).

    Plain NMS decides in the order of the scores, and no more than ``max_per_img`` boxes can be shown. So it
    looks at the best ones only, and at more while too few are kept: the same result, but an untrained
    network's tens of thousands of boxes a class do not take minutes an image.
    """
    order = scores.argsort(descending=True, stable=True)
    count = 1000 if cfg.nms.type == "nms" else len(order)
    while True:
        best = order[:count]
        one_class = torch.zeros_like(best)
        dets, keep = batched_nms(boxes[best], scores[best], one_class, cfg.nms)
        if len(keep) >= cfg.max_per_img or count >= len(order):
            return best[keep], dets[:, -1]
        count *= 4
