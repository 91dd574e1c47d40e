# Overfits 8 training images from random weights and is scored on them.
_base_ = "centernet_hardnet68.py"

size = 384
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(size, size), keep_ratio=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(size, size), keep_ratio=False),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
same_images = dict(
    ann_file="annotations/instances_train2017.json",
    data_prefix=dict(img="train2017/"),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    indices=8,
)
train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(pipeline=train_pipeline, **same_images))
val_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(pipeline=test_pipeline, test_mode=False, **same_images)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=_base_.data_root + "annotations/instances_train2017.json")
test_evaluator = val_evaluator

model = dict(init_cfg=None)
train_cfg = dict(max_epochs=120, val_interval=20)
optim_wrapper = dict(
    type="BFloat16OptimWrapper",
    optimizer=dict(_delete_=True, type="AdamW", lr=7e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=40, end=120, T_max=80),
]
auto_scale_lr = dict(enable=False)
default_hooks = dict(logger=dict(interval=2), checkpoint=dict(interval=20, max_keep_ckpts=1))
