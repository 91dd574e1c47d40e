# SSD512-HarDNet68 on COCO. Published: 31.7 mAP on test-dev.
_base_ = ["_base_/runtime.py", "_base_/coco_detection.py"]

arch = "ssd512_hardnet68"  # row of hardnet_suite.networks.ARCHS: trunk, bridge, extra levels, priors
size = 512
num_classes = 80

# The network. Input: BGR, x − mean, x in 0…255.
mean = [104.0, 117.0, 123.0]
model = dict(
    type="HarDNetSSD",
    arch=arch,
    data_preprocessor=dict(type="DetDataPreprocessor", mean=mean, std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(type="HarDNet"),
    neck=dict(type="HarDNetSSDNeck"),
    bbox_head=dict(type="HarDNetSSDHead", num_classes=num_classes),
    train_cfg=dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.5,
            min_pos_iou=0.0,
            ignore_iof_thr=-1,
            gt_max_assign_all=False,
        ),
        sampler=dict(type="PseudoSampler"),
        smoothl1_beta=1.0,
        allowed_border=-1,
        pos_weight=-1,
        neg_pos_ratio=3,
        debug=False,
    ),
    # score > 0.01, NMS per class at IoU 0.45 with sides of +1 pixel, 200 boxes; no cut before NMS
    test_cfg=dict(
        nms_pre=-1,
        score_thr=0.01,
        nms=dict(type="nms", iou_threshold=0.45, offset=1),
        max_per_img=200,
    ),
    # published ImageNet weights of trunk and bridge; --from-scratch trains without them
    init_cfg=dict(type="HarDNetPretrained", tag="base"),
)

# The data.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PhotoMetricDistortion"),
    dict(type="Expand", mean=mean, to_rgb=False, ratio_range=(1, 4)),
    dict(type="MinIoURandomCrop", min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    dict(type="Resize", scale=(size, size), keep_ratio=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(size, size), keep_ratio=False),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# The published recipe: 150 epochs, batches of 32, SGD with learning rate 0.004, divided by 10 after 90, 120 and 140.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=150, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.004, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [dict(type="MultiStepLR", milestones=[90, 120, 140], gamma=0.1)]
auto_scale_lr = dict(enable=True, base_batch_size=32)  # scales the learning rate with the batch size
