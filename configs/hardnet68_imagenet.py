# HarDNet-68 on ImageNet, the published recipe. Published: 76.5 % top-1.
_base_ = [
    "_base_/runtime.py",
    "_base_/classifier.py",
    "_base_/imagenet.py",
    "_base_/schedule_published.py",  # or schedule_modern.py
]

arch = "hardnet68"  # row of hardnet_suite.networks.ARCHS
model = dict(arch=arch, num_classes=1000, **_base_.recipe.model)
train_dataloader = dict(
    dataset=dict(pipeline=[*_base_.crop_and_flip, *_base_.recipe.transforms, dict(type="PackClass")])
)
custom_hooks = [*_base_.custom_hooks, *_base_.recipe.hooks]
