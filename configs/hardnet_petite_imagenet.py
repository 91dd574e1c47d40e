# The encoder of FC-HarDNet-70 as a classifier on ImageNet, as its authors pretrain it: the first 100 of 150 epochs with cosine
# decay (FCHarDNet #36). A segmentor starts from it with
# backbone=dict(init_cfg=dict(type="HarDNetPretrained", model="hardnet_petite", file=CHECKPOINT)), and takes RGB as it does.
_base_ = "hardnet68_imagenet.py"

arch = "hardnet_petite"  # row of hardnet_suite.networks.ARCHS
model = dict(arch=arch)
train_cfg = dict(max_epochs=100)
