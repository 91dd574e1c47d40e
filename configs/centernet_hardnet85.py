# CenterNet-HarDNet85 on COCO, 512 pixels. Published: 44.3 mAP on test-dev.
_base_ = ["_base_/runtime.py", "_base_/coco_detection.py"]

arch = "centernet_hardnet85"  # row of hardnet_suite.networks.ARCHS: trunk, decoder, branches
size = 512
num_classes = 80

# The network. Input: BGR, (x / 255 − mean) / std.
model = dict(
    type="HarDNetCenterNet",
    arch=arch,
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[255 * value for value in (0.40789654, 0.44719302, 0.47026115)],
        std=[255 * value for value in (0.28863828, 0.27408164, 0.27809835)],
        bgr_to_rgb=False,
        pad_size_divisor=32,
    ),
    backbone=dict(type="HarDNet"),
    neck=dict(type="HarDNetCenterNetNeck"),
    bbox_head=dict(type="HarDNetCenterNetHead", num_classes=num_classes),
    train_cfg=dict(),
    # clipping boxes to the image raises mAP a little; the published program does not clip
    test_cfg=dict(max_per_img=100, flip_test=False, clip_border=True),
    # published ImageNet weights of the trunk; --from-scratch trains without them
    init_cfg=dict(type="HarDNetPretrained", tag="base"),
)

# The data. Masks give the visible extent of objects that the crop cuts off.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadBoxesAndMasks"),
    dict(type="RandomScaleStretchCrop", size=size, short_sides=tuple(range(192, 897, 64)), stretch=0.6),
    dict(type="RandomFlip", prob=0.5),
    dict(type="LightingColorJitter"),
    dict(type="PackDetInputs"),
]
meta_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "border")
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(size, size), keep_ratio=False),
    dict(type="PackDetInputs", meta_keys=meta_keys[:-1]),
]
train_dataloader = dict(
    batch_size=48, dataset=dict(pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=False, min_size=0))
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# The published recipe: 300 epochs, batches of 48, SGD with learning rate 0.01, divided by 10 after 230 and 280
# epochs, warm-up from 0.00005 over the first.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=300, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(
        type="LinearLR", start_factor=5e-5 / 0.01, by_epoch=True, begin=0, end=1, convert_to_iter_based=True
    ),
    dict(type="MultiStepLR", milestones=[230, 280], gamma=0.1),
]
auto_scale_lr = dict(enable=True, base_batch_size=48)  # scales the learning rate with the batch size
