# HardNet++: trained on all three sets of Brown et al. at once, their points drawn alike in every batch, as the authors'
# HardNetMultipleDatasets.py does. The FPR95 is that of the training data, as theirs: score other data with `eval`.
_base_ = ["_base_/runtime.py", "_base_/descriptor.py"]

arch = "hardnet_descriptor"  # row of hardnet_suite.networks.ARCHS
sets = ["liberty", "notredame", "yosemite"]
model = dict(arch=arch)
train_dataloader = dict(dataset=dict(sets=sets))
val_dataloader = dict(dataset=dict(sets=sets))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(save_best="fpr95", rule="less"))
