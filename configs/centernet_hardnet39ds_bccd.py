# The blood cells of BCCD (docs/custom_data.md) with CenterNet, from random weights: the twin of ssd320_hardnet39ds_bccd. Images are
# resized to 384×288, which keeps their shape.
_base_ = "centernet_hardnet85.py"

arch = "centernet_hardnet39ds"
weights_tag = "bccd"  # in the weights registry; `test --pretrained` scores them
size = (384, 288)  # width, height
classes = ("RBC", "WBC", "Platelets")
data_root = "data/bccd/"  # hardnet-suite convert-dataset BCCD data/bccd

model = dict(arch=arch, bbox_head=dict(num_classes=len(classes)), init_cfg=None)

# A microscope slide has no up or down: all flips.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PhotoMetricDistortion", hue_delta=9),
    dict(
        type="Expand",
        mean=_base_.model.data_preprocessor.mean,
        to_rgb=False,
        ratio_range=(1, 1.5),
        prob=0.3,
    ),
    dict(type="MinIoURandomCrop", min_ious=(0.5, 0.7, 0.9), min_crop_size=0.5),
    dict(type="Resize", scale=size, keep_ratio=False),
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=size, keep_ratio=False),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
cells = dict(data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img="images/"))
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        pipeline=train_pipeline,
        ann_file="annotations/instances_train.json",
        filter_cfg=dict(filter_empty_gt=True, min_size=0),
        **cells,
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(pipeline=test_pipeline, ann_file="annotations/instances_val.json", **cells),
)
test_dataloader = dict(
    num_workers=1,
    dataset=dict(pipeline=test_pipeline, ann_file="annotations/instances_test.json", **cells),
)
val_evaluator = dict(ann_file=data_root + "annotations/instances_val.json")
test_evaluator = dict(ann_file=data_root + "annotations/instances_test.json")

# The averaged weights are validated and saved; the best checkpoint is selected by AP50 on the validation split.
train_cfg = dict(max_epochs=90, val_interval=10)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.02),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=200),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        by_epoch=True,
        begin=4,
        end=90,
        T_max=86,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False)
default_hooks = dict(logger=dict(interval=26), checkpoint=dict(interval=5, save_best="coco/bbox_AP50"))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.001, gamma=200),
]
