# HarDNet-68 as the backbone of another program's model: Mask R-CNN of mmdet, boxes and masks on COCO.
_base_ = ["_base_/runtime.py", "_base_/coco_detection.py", "mmdet::_base_/models/mask-rcnn_r50_fpn.py"]
from hardnet_suite.networks import feature_channels

trunk = "hardnet68"
size = (1333, 800)  # (longest, shortest) side at most

# The network: maps of stride 4, 8, 16 and 32, and one of 64 that the FPN adds. Input: RGB, (x / 255 − mean) / std with
# ImageNet's mean and std, as the published weights of the trunk expect it.
model = dict(
    # published ImageNet weights of the trunk; --from-scratch trains without them
    backbone=dict(_delete_=True, type="HarDNet", arch=trunk, pretrained=True),
    neck=dict(in_channels=feature_channels(trunk)),
)

# The data.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(masks=True)
test_evaluator = val_evaluator

# mmdet's "1x" recipe: 12 epochs, batches of 16, SGD with learning rate 0.02, divided by 10 after 8 and 11.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=12, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", milestones=[8, 11], gamma=0.1),
]
auto_scale_lr = dict(enable=True, base_batch_size=16)  # scales the learning rate with the batch size
default_hooks = dict(checkpoint=dict(save_best="coco/segm_mAP"))
