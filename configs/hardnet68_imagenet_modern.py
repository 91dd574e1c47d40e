# HarDNet-68 on ImageNet by a modern recipe.
_base_ = [
    "_base_/runtime.py",
    "_base_/classifier.py",
    "_base_/imagenet.py",
    "_base_/schedule_modern.py",
]

arch = "hardnet68"  # the row of hardnet_suite.networks.ARCHS
model = dict(
    arch=arch,
    num_classes=1000,
    label_smoothing=0.1,
    data_preprocessor=dict(num_classes=1000, mixup=0.2, cutmix=1.0),
)
train_pipeline = [
    dict(type="torchvision/RandomResizedCrop", size=224),
    dict(type="torchvision/RandomHorizontalFlip"),
    dict(type="torchvision/RandAugment", num_ops=2, magnitude=9),
    dict(type="PackClass"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
default_hooks = dict(checkpoint=dict(save_best="top1", rule="greater"))
custom_hooks = [*_base_.custom_hooks, dict(type="EMAHook", momentum=1e-4, update_buffers=True)]
