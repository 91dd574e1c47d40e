"""SSD and RFB Net on HarDNet as an mmdet detector: the parts of ``networks.ssd``, registered.

``HarDNetSSD`` builds the ``HarDNet`` backbone, ``HarDNetSSDNeck`` and ``HarDNetSSDHead`` from one row of the
architecture table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from mmdet.models import SingleStageDetector, SSDHead
from mmdet.models.task_modules import SSDAnchorGenerator
from mmdet.structures import SampleList
from mmengine.config import ConfigDict
from mmengine.dist import all_reduce
from mmengine.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor

from hardnet_suite.inference import ssd_boxes
from hardnet_suite.networks import DetectionPostprocess, SSDArch
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
from hardnet_suite.openmm.models.forms import LoadsEveryForm
from hardnet_suite.openmm.models.inference import (
    PerShapeInference,
    ReplaceableNetwork,
    input_placement,
    placed_instances,
    placement_of,
)
from hardnet_suite.openmm.models.rules import postprocess_of


@MODELS.register_module()
class HarDNetSSDNeck(SSDNeck):
    """L2Norm or RFB Net's blocks, bridge and extra levels: the backbone's maps of strides 8 and 16 -> levels.

    Args:
        arch: An SSD or RFB Net of the architecture table.
        in_channels: Input channels; if given, they must agree with the table.
    """

    def __init__(self, arch: str, in_channels: Sequence[int] | None = None):
        row = row_of(arch, SSDArch)
        super().__init__(row, agreed(in_channels, trunk_channels(arch), "neck.in_channels", arch))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(super().forward(maps))


@TASK_UTILS.register_module()
class HarDNetSSDAnchors(SSDAnchorGenerator):
    """The default boxes of SSD-HarDNet: explicit sizes, with width and height clamped to the image.

    Args:
        arch: An SSD of the architecture table.
    """

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
        """The boxes of each level's first cell: one tensor (A, 4) per level, x1, y1, x2, y2 in pixels."""
        levels = []
        for boxes, (cx, cy) in zip(self._boxes, self.centers, strict=True):
            half = torch.tensor(boxes, dtype=torch.float64) / 2
            centre = torch.tensor([cx, cy], dtype=torch.float64)
            levels.append(torch.cat([centre - half, centre + half], 1).float())
        return levels


@MODELS.register_module()
class HarDNetSSDHead(SSDHead):
    """mmdet's SSDHead with the convolutions and default boxes of ``networks.SSD``.

    Unlike mmdet's, it decodes with ``hardnet_suite.inference``, as everywhere in the suite. With several
    ranks the loss is divided by the mean number of positives, so that it equals that of a single rank.

    Args:
        arch: An SSD of the architecture table.
        in_channels: Channels of the levels; if given, they must agree with the table.
        options: Options of mmdet's ``SSDHead``; ``num_classes`` defaults to that of the table.
    """

    loss_cls = None  # read by mmdet 3.3's prediction code, but missing in its SSDHead

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

    def rule(self, cfg: ConfigDict | None = None) -> DetectionPostprocess:
        """The postprocessing defined by ``cfg``, by default ``test_cfg``."""
        return postprocess_of(self.arch, self.test_cfg if cfg is None else cfg, "test_cfg")

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor] | None = None,
        batch_img_metas: list[dict] | None = None,
        cfg: ConfigDict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Decodes the outputs of ``forward`` into boxes, best first.

        Boxes are in pixels of the original image with ``rescale``, otherwise of the input.
        """
        rule = self.rule(cfg)
        if not with_nms:
            rule = replace(rule, iou_threshold=None)
        place = placement_of if rescale else input_placement
        out = {"cls": cls_scores, "box": bbox_preds}
        return [
            InstanceData(bboxes=answer.boxes, scores=answer.scores, labels=answer.labels)
            for answer in ssd_boxes(out, self.arch, [place(meta) for meta in batch_img_metas], rule)
        ]


@MODELS.register_module()
class HarDNetSSD(LoadsEveryForm, PerShapeInference, ReplaceableNetwork, SingleStageDetector):
    """SSD or RFB Net on HarDNet as an mmdet detector.

    Args:
        arch: Its name in the architecture table ("ssd512_hardnet68", "rfb512_hardnet85"). It determines
            channels, indices, tap and default boxes of backbone, neck and head; configs that contradict it
            are an error.
        backbone: Further options of ``HarDNet``.
        neck: Further options of ``HarDNetSSDNeck``.
        bbox_head: Further options of ``HarDNetSSDHead``.
        options: Options of mmdet's ``SingleStageDetector``.
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

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True):
        if self._elsewhere is None:  # the head may be any of mmdet's
            return super().predict(batch_inputs, batch_data_samples, rescale)
        out = self.outputs(batch_inputs)
        metas = [sample.metainfo for sample in batch_data_samples]
        if self.returns_boxes:
            results = placed_instances(out, metas, self.bbox_head.rule(), rescale)
        else:
            results = self.bbox_head.predict_by_feat(
                out["cls"], out["box"], batch_img_metas=metas, rescale=rescale
            )
        return self.add_pred_to_datasample(batch_data_samples, results)

    def own_outputs(self, inputs: Tensor) -> dict[str, list[Tensor]]:
        return dict(zip(("cls", "box"), self.bbox_head(self.extract_feat(inputs)), strict=True))
