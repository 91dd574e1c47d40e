# FC-HarDNet-70 on CamVid from a trunk that benchmarks/distill_trunk.py trained on photographs without labels (set
# model.backbone.pretrained to its file), for streets that the training images do not show: rare objects of other images are pasted
# in front of each street, exposure, colour and sharpness change within what street cameras record, and all pixels count. The last
# epoch counts; validation only reports.
_base_ = "fchardnet70_camvid.py"

weights_tag = None
epochs = 90
#                Sky Build. Pole Road Pavem. Tree Sign Fence Car Pedest. Bicyclist
class_weight = [1.0, 1.0, 2.5, 1.0, 1.2, 1.0, 2.5, 1.0, 1.2, 2.0, 2.0]
model = dict(
    backbone=dict(pretrained=None),
    decode_head=dict(loss_decode=dict(threshold=0.0, class_weight=class_weight)),
)

# The data: crops, one of which goes into another, then what changes both.
data_root = "data/camvid/"
crop_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.7, 2.0), keep_ratio=True),
    dict(type="mmseg.RandomCrop", crop_size=_base_.crop, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
]
train_pipeline = [
    dict(
        type="PasteClasses", classes=[2, 6, 7, 8, 9, 10], prob=0.5
    ),  # poles, signs, fences, cars, people, cyclists
    dict(type="RandomExposure", gain=1.3, gamma=1.4, white_balance=1.1),
    dict(type="mmseg.PhotoMetricDistortion", hue_delta=9),
    dict(
        type="RandomApply",
        prob=0.15,
        transforms=[dict(type="torchvision/GaussianBlur", kernel_size=5, sigma=(0.2, 1.0))],
    ),
    dict(type="RandomApply", prob=0.15, transforms=[dict(type="torchvision/GaussianNoise", sigma=0.03)]),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="mmseg.MultiImageMixDataset",
        dataset=dict(
            type="SegmentationDataset",
            labels="camvid",
            data_root=data_root,
            data_prefix=dict(img_path="train", seg_map_path="trainannot"),
            pipeline=crop_pipeline,
        ),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))

train_cfg = dict(max_epochs=epochs, val_interval=10)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=200),
    dict(
        type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=4, end=epochs, convert_to_iter_based=True
    ),
]
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.002, gamma=50),
]
default_hooks = dict(
    checkpoint=dict(
        _delete_=True, type="ResumableCheckpointHook", interval=4, every_minutes=10, max_keep_ckpts=3
    )
)
