"""CenterNet-HarDNet as an mmdet detector: the parts of ``networks.centernet``, registered.

``HarDNetCenterNet`` builds the ``HarDNet`` backbone (tap="block"), ``HarDNetCenterNetNeck`` and
``HarDNetCenterNetHead`` from one row of the architecture table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models import SingleStageDetector
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures import SampleList
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor
from torch.nn import functional as F

from hardnet_suite.inference.boxes import centernet_maps, peaks_to_boxes
from hardnet_suite.inference.prepare import Placement
from hardnet_suite.losses.centernet import LOSS_WEIGHTS, centernet_loss
from hardnet_suite.networks import CenterNetArch, DetectionPostprocess
from hardnet_suite.networks.centernet import (
    HM_BIAS,
    OUTPUT_STRIDE,
    CenterNetDecoder,
    branch,
    branch_outputs,
    targets,
)
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
class HarDNetCenterNetNeck(CenterNetDecoder):
    """The decoder: the backbone's block outputs, finest first -> tuple of one map of stride 4.

    Args:
        arch: A CenterNet of the architecture table.
        in_channels: Input channels; if given, they must agree with the table.

    Raises:
        ValueError: maps of images whose sides are not multiples of 32, in ``forward``.
    """

    def __init__(self, arch: str, in_channels: Sequence[int] | None = None):
        row = row_of(arch, CenterNetArch)
        super().__init__(row, agreed(in_channels, trunk_channels(arch), "neck.in_channels", arch))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        height, width = maps[-1].shape[2:]
        sizes = [tuple(each.shape[2:]) for each in reversed(maps)]
        if height % 2 or width % 2 or sizes != [(height << i, width << i) for i in range(len(maps))]:
            raise ValueError(f"expected maps of images with sides that are multiples of 32, got {sizes}")
        return (super().forward(maps),)


@MODELS.register_module()
class HarDNetCenterNetHead(BaseDenseHead):
    """The two output branches, with the targets, dense losses and decoding of CenterNet-HarDNet.

    Args:
        arch: A CenterNet of the architecture table.
        in_channels: Input channels; if given, they must agree with the table.
        num_classes: Number of classes; default: that of the table.
        train_cfg: Unused; mmdet passes it.
        test_cfg: ``max_per_img``, the maximum number of boxes per image (default 100), and ``clip_border``,
            whether boxes are clipped to the image (default False, as in the official program).
    """

    def __init__(
        self,
        arch: str,
        in_channels: int | None = None,
        num_classes: int | None = None,
        train_cfg: ConfigDict | None = None,
        test_cfg: ConfigDict | None = None,
    ):
        super().__init__()
        row = self.arch = row_of(arch, CenterNetArch)
        in_channels = agreed(in_channels, *neck_channels(arch), "bbox_head.in_channels", arch)
        self.num_classes = row.num_classes if num_classes is None else num_classes
        self.train_cfg, self.test_cfg = train_cfg or {}, test_cfg or {}
        self.hm = branch(in_channels, self.num_classes, row.least_width, bias=HM_BIAS)
        self.wh = branch(in_channels, 4, row.least_width)

    def forward(self, maps: tuple[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """((N, in_channels, h, w),) -> hm (N, num_classes, h, w) logits, wh and reg (N, 2, h, w)."""
        out = branch_outputs(self.hm(maps[0]), self.wh(maps[0]))
        return out["hm"], out["wh"], out["reg"]

    def loss_by_feat(
        self,
        hm: Tensor,
        wh: Tensor,
        reg: Tensor,
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses loss_hm, loss_wh and loss_off."""
        image_targets = [
            targets(truth.bboxes / OUTPUT_STRIDE, truth.labels, self.num_classes, hm.shape[2:])
            for truth in batch_gt_instances
        ]
        batch = {key: torch.stack([maps[key] for maps in image_targets]) for key in image_targets[0]}
        losses = centernet_loss({"hm": hm, "wh": wh, "reg": reg}, batch)
        return {f"loss_{name}": LOSS_WEIGHTS[name] * value for name, value in losses.items()}

    def predict_by_feat(
        self,
        hm: Tensor,
        wh: Tensor,
        reg: Tensor,
        batch_img_metas: list[dict],
        rescale: bool = False,
        cfg: ConfigDict | None = None,
    ) -> list[InstanceData]:
        """Decodes the outputs of ``forward`` into boxes, best first.

        Boxes are in pixels of the original image with ``rescale``, otherwise of the input.
        """
        return self.boxes_of(hm.float().sigmoid(), wh.float(), reg.float(), batch_img_metas, rescale)

    @property
    def rule(self) -> DetectionPostprocess:
        """The postprocessing defined by ``test_cfg``."""
        return postprocess_of(self.arch, self.test_cfg, "test_cfg")

    def boxes_of(
        self, hm: Tensor, wh: Tensor, reg: Tensor, batch_img_metas: list[dict], rescale: bool
    ) -> list[InstanceData]:
        """Like ``predict_by_feat``, but ``hm`` holds probabilities."""
        place = placement_of if rescale else input_placement
        return [
            InstanceData(bboxes=answer.boxes, scores=answer.scores, labels=answer.labels)
            for answer in peaks_to_boxes(hm, wh, reg, [place(meta) for meta in batch_img_metas], self.rule)
        ]


@MODELS.register_module()
class HarDNetCenterNet(LoadsEveryForm, PerShapeInference, ReplaceableNetwork, SingleStageDetector):
    """CenterNet-HarDNet as an mmdet detector.

    Args:
        arch: A CenterNet of the architecture table ("centernet_hardnet85"). It determines channels, indices
            and tap of backbone, neck and head; configs that contradict it are an error.
        backbone: Further options of ``HarDNet``.
        neck: Further options of ``HarDNetCenterNetNeck``.
        bbox_head: Further options of ``HarDNetCenterNetHead``.
        options: Options of mmdet's ``SingleStageDetector``. In addition to those of the head, ``test_cfg``
            has ``flip_test``, whether the outputs for an image and its mirror image are averaged, and
            ``keep_heatmap``, whether predictions have ``pred_heatmap``: (1, h, w) in [0, 1], the maximum
            score over the classes at each location of the image, one value per 4 input pixels.
    """

    def __init__(
        self,
        arch: str | None = None,
        backbone: dict | None = None,
        neck: dict | None = None,
        bbox_head: dict | None = None,
        **options,
    ):
        arch = model_arch(arch, CenterNetArch, backbone=backbone, neck=neck, bbox_head=bbox_head)
        with build_scope("mmdet"):
            super().__init__(
                backbone=backbone_config(arch, backbone),
                neck=part_config(arch, neck, HarDNetCenterNetNeck),
                bbox_head=part_config(arch, bbox_head, HarDNetCenterNetHead),
                **options,
            )
        self.arch = arch

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True):
        metas = [sample.metainfo for sample in batch_data_samples]
        if self.returns_boxes:
            results = placed_instances(self.outputs(batch_inputs), metas, self.bbox_head.rule, rescale)
            return self.add_pred_to_datasample(batch_data_samples, results)
        maps = centernet_maps(self.outputs, batch_inputs, flip=self.bbox_head.rule.flip)
        results = self.bbox_head.boxes_of(*maps, metas, rescale)
        if (self.test_cfg or {}).get("keep_heatmap", False):
            for sample, heat in zip(batch_data_samples, maps[0].amax(1, keepdim=True), strict=True):
                sample.pred_heatmap = PixelData(data=_within(heat, placement_of(sample.metainfo)))
        return self.add_pred_to_datasample(batch_data_samples, results)

    def own_outputs(self, inputs: Tensor) -> dict[str, Tensor]:
        return dict(zip(("hm", "wh", "reg"), self.bbox_head(self.extract_feat(inputs)), strict=True))


def _within(heat: Tensor, placement: Placement) -> Tensor:
    """Crops a heat map (1, h, w) of the input to the image's area in it, (1, h', w')."""
    height, width = heat.shape[1:]
    left, top = (value / OUTPUT_STRIDE for value in placement.offset)
    bottom = top + placement.content_size[0] / OUTPUT_STRIDE
    right = left + placement.content_size[1] / OUTPUT_STRIDE
    rows, columns = max(1, round(bottom - top)), max(1, round(right - left))
    y = top + (torch.arange(rows, device=heat.device) + 0.5) * (bottom - top) / rows
    x = left + (torch.arange(columns, device=heat.device) + 0.5) * (right - left) / columns
    grid = torch.stack(torch.meshgrid(2 * x / width - 1, 2 * y / height - 1, indexing="xy"), -1)
    return F.grid_sample(heat[None], grid[None], align_corners=False, padding_mode="border")[0].clamp(0, 1)
