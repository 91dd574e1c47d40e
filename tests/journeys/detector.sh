#!/usr/bin/env bash
# A detector of one's own from the installed package: data in COCO layout, a config, training, score, predictions.
# QUICK=1: the same commands on a few images.
set -euo pipefail
train=240 val=40
if [ -n "${QUICK:-}" ]; then train=8 val=3 short="--cfg-options train_cfg.max_epochs=1 train_cfg.val_interval=1"; fi

hardnet-suite draw-shapes data/shapes --train $train --val $val --size 224  # stands for your own data

cat > mine.py <<'CONFIG'
_base_ = "ssd320_hardnet39ds_bccd.py"

weights_tag = None
arch = "ssd224_hardnet29"
classes = ("circle", "square", "triangle", "star", "ring", "cross")
size = 224
model = dict(arch=arch, bbox_head=dict(num_classes=len(classes)))

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PhotoMetricDistortion", hue_delta=9),
    dict(type="MinIoURandomCrop", min_ious=(0.5, 0.7, 0.9), min_crop_size=0.5),
    dict(type="Resize", scale=(size, size), keep_ratio=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(size, size), keep_ratio=False),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
data_root = "data/shapes/"
mine = dict(data_root=data_root, metainfo=dict(classes=classes))
held_out = dict(
    dataset=dict(
        pipeline=test_pipeline,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        **mine,
    ),
)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        pipeline=train_pipeline,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        **mine,
    ),
)
val_dataloader = held_out
test_dataloader = held_out
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=10, val_interval=5)
param_scheduler = [
    dict(type="OneCycleLR", eta_max=2e-3, total_steps=10, by_epoch=True, convert_to_iter_based=True)
]
CONFIG

hardnet-suite check-data mine.py
hardnet-suite train mine.py ${short:-}
hardnet-suite test mine.py --show-dir drawings
hardnet-suite predict data/shapes/val2017 --model work_dirs/mine --out found

test "$(find found -name '*.jpg' | wc -l)" -eq $val
test "$(wc -l < found/predictions.jsonl)" -eq $val
test "$(find drawings -name '*.jpg' | wc -l)" -eq $val
