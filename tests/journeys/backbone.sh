#!/usr/bin/env bash
# HarDNet-68 as the backbone of a config of mmdet's: trained, scored, and used by mmdet's own inferencer.
# QUICK=1: the same commands on a few images.
set -euo pipefail
train=40 val=8
if [ -n "${QUICK:-}" ]; then train=2 val=1; fi

hardnet-suite draw-shapes data/shapes --train $train --val $val --size 128  # stands for your own data

cat > retinanet_hardnet68.py <<'CONFIG'
_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"

custom_imports = dict(imports=["hardnet_suite.openmm"], allow_failed_imports=False)
classes = ("circle", "square", "triangle", "star", "ring", "cross")
model = dict(
    backbone=dict(
        _delete_=True,
        type="HarDNet",
        arch="hardnet68",
        out_indices=(1, 2, 3, 4),  # strides 4, 8, 16, 32
        # init_cfg=dict(type="HarDNetPretrained"),  # published ImageNet weights, downloaded
    ),
    neck=dict(in_channels=[128, 320, 640, 1024]),
    bbox_head=dict(num_classes=len(classes)),
)
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
]
keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
# the suite's data set takes labels by the names of the classes; mmdet's CocoDataset, by their order in the file
data = dict(_delete_=True, type="DetectionDataset", data_root="data/shapes/", metainfo=dict(classes=classes))
one_process = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    dataset=dict(
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        pipeline=[*pipeline, dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")],
        **data,
    ),
    **one_process,
)
held_out = dict(
    dataset=dict(
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=[*pipeline, dict(type="PackDetInputs", meta_keys=keys)],
        **data,
    ),
    **one_process,
)
val_dataloader = held_out
test_dataloader = held_out
val_evaluator = dict(
    _delete_=True, type="CocoDetection", ann_file="data/shapes/annotations/instances_val2017.json"
)
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
CONFIG

hardnet-suite train retinanet_hardnet68.py
hardnet-suite test retinanet_hardnet68.py

cat > infer.py <<'PYTHON'
from pathlib import Path

from mmdet.apis import DetInferencer

checkpoint = Path("work_dirs/retinanet_hardnet68/epoch_1.pth")
image = next(Path("data/shapes/val2017").iterdir())
inferencer = DetInferencer("retinanet_hardnet68.py", str(checkpoint), device="cpu", show_progress=False)
result = inferencer(str(image))["predictions"][0]
assert type(inferencer.model.backbone).__name__ == "HarDNet"
assert inferencer.model.dataset_meta["classes"][3] == "star"
print(len(result["bboxes"]), "boxes")
PYTHON
python infer.py
