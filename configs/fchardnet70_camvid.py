# FC-HarDNet-70 on CamVid from random weights.
_base_ = ["_base_/runtime.py", "_base_/fchardnet.py", "_base_/camvid.py"]

arch = "fchardnet70"  # row of hardnet_suite.networks.ARCHS
weights_tag = "camvid"  # in the weights registry; `test --pretrained` scores them
crop = (288, 384)  # height, width
num_classes = 11
custom_imports = dict(imports=["hardnet_suite.openmm.segmentation"], allow_failed_imports=False)

model = dict(
    arch=arch,
    data_preprocessor=dict(size=crop),
    decode_head=dict(
        num_classes=num_classes,
        loss_decode=dict(type="BootstrappedCrossEntropyLoss", min_kept=16384, threshold=0.3),
    ),
)

# The data.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.6, 2.0), keep_ratio=True),
    dict(type="mmseg.RandomCrop", crop_size=crop, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="mmseg.PhotoMetricDistortion", hue_delta=9),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# The averaged weights are validated and saved as the best.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=280, val_interval=10)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.02),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=300),
    dict(
        type="PolyLR",
        power=0.9,
        eta_min=1e-6,
        by_epoch=True,
        begin=6,
        end=280,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=15), checkpoint=dict(interval=5, save_best="mIoU", rule="greater"))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.001, gamma=100),
]
