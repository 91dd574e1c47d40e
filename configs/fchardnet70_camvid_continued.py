# FC-HarDNet-70 on CamVid, trained further from weights of the second stage (set load_from) with changes of exposure, colour and
# sharpness that stay within what street cameras record. The dusk of 0001TP, a sixth of the training images and a quarter of the
# test split, is drawn twice. The last epoch counts; validation only reports. A run of it is in docs/experiments.md; its weights
# are not shipped.
_base_ = "fchardnet70_camvid.py"

weights_tag = None
epochs = 116
#                Sky Build. Pole Road Pavem. Tree Sign Fence Car Pedest. Bicyclist
class_weight = [1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.5, 1.5]
model = dict(decode_head=dict(loss_decode=dict(threshold=0.0, class_weight=class_weight)))

# The data.
data_root = "data/camvid/"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.7, 1.8), keep_ratio=True),
    dict(type="mmseg.RandomCrop", crop_size=_base_.crop, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
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
train_split = dict(
    type="SegmentationDataset",
    labels="camvid",
    data_root=data_root,
    data_prefix=dict(img_path="train", seg_map_path="trainannot"),
    pipeline=train_pipeline,
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ConcatDataset",
        datasets=[train_split, dict(indices=62, **train_split)],  # 0001TP: the first 62 of the 367 images
    )
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = dict(dataset=dict(data_root=data_root))

train_cfg = dict(max_epochs=epochs, val_interval=10)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(
        type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=2, end=epochs, convert_to_iter_based=True
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
