# Overfits 16 training images from random weights and is scored on them.
_base_ = "ssd512_hardnet68.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(_base_.size, _base_.size), keep_ratio=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
same_images = dict(
    ann_file="annotations/instances_train2017.json",
    data_prefix=dict(img="train2017/"),
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    indices=16,
)
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline, indices=16))
val_dataloader = dict(num_workers=1, dataset=dict(test_mode=False, **same_images))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=_base_.data_root + "annotations/instances_train2017.json")
test_evaluator = val_evaluator

model = dict(init_cfg=None)
train_cfg = dict(max_epochs=60, val_interval=20)
optim_wrapper = dict(
    type="BFloat16OptimWrapper",
    optimizer=dict(_delete_=True, type="AdamW", lr=7e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=40),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=20, end=60, T_max=40),
]
auto_scale_lr = dict(enable=False)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=20, max_keep_ckpts=1))
