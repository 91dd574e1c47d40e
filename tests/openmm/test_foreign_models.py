"""HarDNet under other people's heads, from plain configs: RetinaNet, Faster R-CNN, UPerNet, FCN."""

from __future__ import annotations

import mmdet.registry
import mmseg.registry
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import parts
from hardnet_suite.openmm.models.initializers import load_checkpoint
from hardnet_suite.openmm.run.amp import bfloat16_features

SIZE, CLASSES = 128, 4

HEADER = """
custom_imports = dict(imports=["hardnet_suite.openmm"], allow_failed_imports=False)
"""
RETINANET = """
default_scope = "mmdet"
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(
        type="DetDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.4, 57.1, 57.4], bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(type="HarDNet", arch="hardnet39ds", norm_cfg=dict(type="BN", requires_grad=True)),
    neck=dict(type="FPN", in_channels=[96, 320, 640, 1024], out_channels=32, start_level=1,
              add_extra_convs="on_input", num_outs=5),
    bbox_head=dict(
        type="RetinaHead", num_classes=4, in_channels=32, stacked_convs=1, feat_channels=32,
        anchor_generator=dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3,
                              ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
                      ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(nms_pre=50, min_bbox_size=0, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5),
                  max_per_img=10))
"""
FASTER_RCNN = """
default_scope = "mmdet"
box_coder = dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])
sampler = dict(type="RandomSampler", num=32, pos_fraction=0.5, neg_pos_ub=-1)
proposals = dict(nms_pre=50, max_per_img=30, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0)
model = dict(
    type="FasterRCNN",
    data_preprocessor=dict(
        type="DetDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.4, 57.1, 57.4], bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(type="HarDNet", arch="hardnet68ds", out_indices=(1, 2, 3, 4)),
    neck=dict(type="FPN", in_channels=[128, 320, 640, 1024], out_channels=32, num_outs=5),
    rpn_head=dict(
        type="RPNHead", in_channels=32, feat_channels=32,
        anchor_generator=dict(type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0],
                              strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0)),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor", roi_layer=dict(type="RoIAlign", output_size=3, sampling_ratio=0),
            out_channels=32, featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(
            type="Shared2FCBBoxHead", in_channels=32, fc_out_channels=64, roi_feat_size=3, num_classes=4,
            bbox_coder=box_coder, reg_class_agnostic=False,
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0))),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3,
                          match_low_quality=True, ignore_iof_thr=-1),
            sampler=dict(add_gt_as_proposals=False, **sampler), allowed_border=-1, pos_weight=-1,
            debug=False),
        rpn_proposal=proposals,
        rcnn=dict(
            assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5,
                          match_low_quality=False, ignore_iof_thr=-1),
            sampler=dict(add_gt_as_proposals=True, **sampler), pos_weight=-1, debug=False)),
    test_cfg=dict(
        rpn=proposals,
        rcnn=dict(score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=10)))
"""
SEGMENTOR = """
default_scope = "mmseg"
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[123.675, 116.28, 103.53], std=[58.4, 57.1, 57.4], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, size=(128, 128)),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
"""
UPERNET = f"""{SEGMENTOR}
    backbone=dict(type="HarDNet", arch="hardnet39ds", norm_cfg=norm_cfg),
    decode_head=dict(
        type="UPerHead", in_channels=[96, 320, 640, 1024], in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6),
        channels=16, dropout_ratio=0.1, num_classes=4, norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0)))
"""
FCN = f"""{SEGMENTOR}
    backbone=dict(type="HarDNet", arch="hardnet68ds", out_indices=(2, 4), tap="block", norm_cfg=norm_cfg),
    decode_head=dict(
        type="FCNHead", in_channels=[328, 782], in_index=[0, 1], input_transform="resize_concat", channels=16,
        num_convs=1, concat_input=True, dropout_ratio=0.1, num_classes=4, norm_cfg=norm_cfg,
        align_corners=False, loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0)))
"""


def image(seed: int) -> torch.Tensor:
    """(3, SIZE, SIZE) uint8."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8))


def build(text: str, scope, tmp_path) -> torch.nn.Module:
    file = tmp_path / "config.py"
    file.write_text(HEADER + text)
    torch.manual_seed(0)
    model = scope.MODELS.build(Config.fromfile(file).model)
    model.init_weights()
    return model


def assert_trains(model: torch.nn.Module, batch: dict) -> None:
    model.train()
    losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    loss, log = model.parse_losses(losses)
    assert all(value.isfinite().all() for value in log.values())
    assert loss > 0
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    trunk = [p.grad for p in model.backbone.parameters()]
    assert all(any((g != 0).any() for g in part) for part in (trunk[:3], trunk[-3:]))


@pytest.mark.parametrize("text", [RETINANET, FASTER_RCNN], ids=["RetinaNet", "Faster R-CNN"])
def test_detectors(text, tmp_path):
    from mmdet.structures import DetDataSample

    def sample(boxes: list[list[float]], labels: list[int]) -> DetDataSample:
        truth = InstanceData(bboxes=torch.tensor(boxes), labels=torch.tensor(labels))
        shape = {"img_shape": (SIZE, SIZE), "ori_shape": (2 * SIZE, 2 * SIZE), "scale_factor": (0.5, 0.5)}
        return DetDataSample(gt_instances=truth, metainfo=shape)

    with DefaultScope.overwrite_default_scope("mmdet"):
        model = build(text, mmdet.registry, tmp_path)
        samples = [
            sample([[10.0, 20, 60, 90], [70, 60, 100, 100]], [0, 3]),
            sample([[0.0, 0, 32, 32]], [1]),
        ]
        assert_trains(model, {"inputs": [image(0), image(1)], "data_samples": samples})

        model.eval()
        with torch.no_grad():
            found = model.test_step({"inputs": [image(2)], "data_samples": [sample([[0.0, 0, 9, 9]], [0])]})
    (result,) = found
    boxes, labels, scores = (result.pred_instances[key] for key in ("bboxes", "labels", "scores"))
    assert 0 < len(boxes) <= 10
    assert boxes.isfinite().all()
    assert scores.isfinite().all()
    assert boxes.max() > SIZE  # in the coordinates of the original image
    assert set(labels.tolist()) <= set(range(CLASSES))


@pytest.mark.parametrize("text", [UPERNET, FCN], ids=["UPerNet", "FCN"])
def test_segmentors(text, tmp_path):
    from mmseg.structures import SegDataSample

    def sample(seed: int) -> SegDataSample:
        truth = torch.randint(0, CLASSES, (1, SIZE, SIZE), generator=torch.Generator().manual_seed(seed))
        shape = {"img_shape": (SIZE, SIZE), "ori_shape": (SIZE, SIZE)}
        return SegDataSample(gt_sem_seg=PixelData(data=truth), metainfo=shape)

    with DefaultScope.overwrite_default_scope("mmseg"):
        model = build(text, mmseg.registry, tmp_path)
        assert_trains(model, {"inputs": [image(0), image(1)], "data_samples": [sample(0), sample(1)]})
        model.eval()
        with torch.no_grad():
            (result,) = model.test_step({"inputs": [image(2)], "data_samples": [sample(2)]})
    assert result.seg_logits.data.shape == (CLASSES, SIZE, SIZE)
    assert result.seg_logits.data.isfinite().all()
    assert result.pred_sem_seg.data.shape == (1, SIZE, SIZE)
    assert set(result.pred_sem_seg.data.unique().tolist()) <= set(range(CLASSES))


@pytest.mark.parametrize(
    ("text", "scope"),
    [(RETINANET, mmdet.registry), (FASTER_RCNN, mmdet.registry), (FCN, mmseg.registry)],
    ids=["RetinaNet", "Faster R-CNN", "FCN"],
)
def test_only_features_are_in_bfloat16(text, scope, tmp_path):
    from mmdet.structures import DetDataSample
    from mmseg.structures import SegDataSample

    name = scope.__name__.partition(".")[0]
    meta = {"img_shape": (SIZE, SIZE), "ori_shape": (1024, 1024), "scale_factor": (SIZE / 1024, SIZE / 1024)}
    sample = DetDataSample if name == "mmdet" else SegDataSample
    data = {"inputs": [image(2)], "data_samples": [sample(metainfo=meta)]}
    seen = {}

    def keep(module, inputs, output):
        seen[module] = output[0].dtype if isinstance(output, tuple) else output.dtype

    with DefaultScope.overwrite_default_scope(name):
        model = build(text, scope, tmp_path).eval()
        last = next(each for each in (getattr(model, "neck", None), model.backbone) if each is not None)
        first = model.decode_head if name == "mmseg" else getattr(model, "rpn_head", None) or model.bbox_head
        convolution = next(each for each in first.modules() if isinstance(each, torch.nn.Conv2d))
        for each in (last, convolution):
            each.register_forward_hook(keep)
        with torch.no_grad():
            (exact,) = model.test_step(data)
            assert seen == {last: torch.float32, convolution: torch.float32}
            with bfloat16_features(model):
                (result,) = model.test_step(data)
                assert seen == {last: torch.bfloat16, convolution: torch.float32}
                with bfloat16_features(model, on=False), torch.autocast("cpu", torch.bfloat16):
                    (rounded,) = model.test_step(data)
            assert "extract_feat" not in vars(model)

    def values(sample):
        return sample.pred_instances.bboxes if name == "mmdet" else sample.seg_logits.data

    def is_rounded(value):
        return (value.bfloat16() == value).float().mean() > 0.9

    assert values(result).dtype == torch.float32
    assert not is_rounded(values(result))
    assert not torch.equal(values(result), values(exact))  # it has an effect
    assert is_rounded(values(rounded)) or name == "mmseg"


def test_models_without_features_are_told():
    model = torch.nn.Linear(2, 2)
    with (
        pytest.raises(UserError, match="but a Linear has none: leave out --bf16"),
        bfloat16_features(model),
    ):
        pass
    with bfloat16_features(model, on=False):
        pass


def test_weights_of_other_classes_where_a_head_reads_the_class_scores(tmp_path):
    """PointRend refines masks from features beside the scores of all classes."""
    import mmdet.models

    def refiner(classes: int) -> torch.nn.ModuleDict:
        shape = {"fc_channels": 8, "in_channels": 4, "coarse_pred_each_layer": True, "num_fcs": 2}
        point_head = {"type": "MaskPointHead", "num_classes": classes, **shape}
        with DefaultScope.overwrite_default_scope("mmdet"):
            head = mmdet.registry.MODELS.build(point_head)
        return torch.nn.ModuleDict({"point_head": head, "fc": torch.nn.Linear(4, 4 * classes)})

    before, model, path = refiner(7), refiner(5), tmp_path / "seven.pth"
    meta = {"dataset_meta": {"classes": tuple("abcdefg")}}
    torch.save({"state_dict": before.state_dict(), "meta": meta}, path)
    report = load_checkpoint(model, path, other_classes=True, classes=5)
    of_classes = {f"point_head.{name}.weight" for name in ("fcs.0.conv", "fcs.1.conv", "fc_logits")}
    assert set(report.missing) == of_classes | {"point_head.fc_logits.bias", "fc.weight", "fc.bias"}
    assert torch.equal(model.point_head.fcs[1].conv.bias, before.point_head.fcs[1].conv.bias)
    for classes in (None, 6, 7):  # the inputs of these layers differ by two
        with pytest.raises(UserError, match="3 of another shape"):
            load_checkpoint(model, path, other_classes=True, classes=classes)


def test_views_are_averaged_of_the_suites_segmentors(tmp_path):
    cfg = Config({"model": {"type": "EncoderDecoder"}, "default_scope": "mmseg"})
    prefix = {"img_path": "val", "seg_map_path": "valannot"}
    dataset = {"type": "SegmentationDataset", "labels": "camvid", "data_prefix": prefix}
    cfg.test_dataloader = {"dataset": {**dataset, "data_root": str(tmp_path), "pipeline": []}}
    (part,) = parts(cfg, ["test_dataloader"])
    for scales, flip in (((1.0,), True), ((0.5, 1.0), False)):
        with pytest.raises(UserError, match=r"--scales and --flip .* leave them out for this EncoderDecoder"):
            part.augment_test(cfg, scales=scales, flip=flip)
