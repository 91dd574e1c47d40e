# HardNet+ trained on Liberty, scored on Notre Dame and Yosemite. Published: a mean FPR95 of 1.51 % over the six pairs of
# a set to train on and another one to score, with flips and without the jitter (train_dataloader.dataset.jitter=None).
_base_ = ["_base_/runtime.py", "_base_/descriptor.py"]

arch = "hardnet_descriptor"  # row of hardnet_suite.networks.ARCHS
model = dict(arch=arch)
train_dataloader = dict(dataset=dict(sets="liberty"))
val_dataloader = dict(dataset=dict(sets=["notredame", "yosemite"]))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(save_best="fpr95", rule="less"))
