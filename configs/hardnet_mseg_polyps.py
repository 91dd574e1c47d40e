# HarDNet-MSEG on polyps. Published: Dice 0.912 on the Kvasir test set of PraNet, which also chooses the best epoch, as published.
_base_ = ["_base_/runtime.py", "_base_/polyps.py"]

arch = "hardnet_mseg"  # row of hardnet_suite.networks.ARCHS
crop = (352, 352)  # height, width
num_classes = 1
custom_imports = dict(imports=["hardnet_suite.openmm.segmentation"], allow_failed_imports=False)

# Input: RGB, (x / 255 − mean) / std with ImageNet's mean and std.
model = dict(
    type="HarDNetSegmentor",
    arch=arch,
    data_preprocessor=dict(
        type="mmseg.SegDataPreProcessor",
        mean=[255 * value for value in (0.485, 0.456, 0.406)],
        std=[255 * value for value in (0.229, 0.224, 0.225)],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=crop,
    ),
    # published ImageNet weights of the classifier with this trunk; --from-scratch trains without them
    backbone=dict(type="HarDNet", init_cfg=dict(type="HarDNetPretrained", tag="base")),
    decode_head=dict(type="FCHarDNetHead", num_classes=num_classes, loss_decode=dict(type="StructureLoss")),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

# The data: scales of 0.75 to 1.25; the published program trains each batch at 256, 352 and 448 pixels, without flips.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="Resize", scale=crop[::-1], keep_ratio=False),
    dict(type="RandomResize", scale=crop[::-1], ratio_range=(0.75, 1.25), keep_ratio=True),
    dict(type="mmseg.RandomCrop", crop_size=crop),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomFlip", prob=0.5, direction="vertical"),
    dict(type="mmseg.PhotoMetricDistortion", hue_delta=9),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# The published recipe: 100 epochs of batches of 16, Adam with learning rate 1e-4, gradients clipped to 0.5.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=100, val_interval=1)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="Adam", lr=1e-4),
    clip_grad=dict(type="value", clip_value=0.5),
)
param_scheduler = []
default_hooks = dict(checkpoint=dict(save_best="meanDice", rule="greater"))
