# HarDNet-39DS with aligned widths on ten classes of Tiny-ImageNet: data and recipe of its twin.
_base_ = "hardnet39ds_tiny_imagenet10.py"

arch = "hardnet39dsa"
model = dict(arch=arch)
weights_tag = "tiny_imagenet10"  # in the weights registry; `test --pretrained` scores them
