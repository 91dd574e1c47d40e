# HarDNet-68DS on ImageNet by the published recipe. Published: 74.3 % top-1.
_base_ = [
    "_base_/runtime.py",
    "_base_/classifier.py",
    "_base_/imagenet.py",
    "_base_/schedule_published.py",
]

arch = "hardnet68ds"  # the row of hardnet_suite.networks.ARCHS
model = dict(arch=arch, num_classes=1000)
train_cfg = dict(max_epochs=250)
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=250, eta_min=0.0, by_epoch=True, convert_to_iter_based=True)
]
