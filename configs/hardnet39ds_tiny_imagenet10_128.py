# HarDNet-39DS on ten classes of Tiny-ImageNet, enlarged: of 64×64 pixels its last stages see 4×4 and 2×2 positions. Trained
# on crops of 96×96, tested on 128×128, so that objects appear in one size in both. It starts from the weights of the
# 64×64 recipe (set load_from). Data and held-out images are those of that recipe; the last epoch counts.
_base_ = "hardnet39ds_tiny_imagenet10.py"

weights_tag = "tiny_imagenet10_128"  # in the weights registry; `test --pretrained` scores them
# Images are changed before they are enlarged: less to compute.
train_pipeline = [
    dict(type="torchvision/RandomHorizontalFlip"),
    dict(type="torchvision/RandAugment", num_ops=2, magnitude=9),
    dict(type="torchvision/ColorJitter", brightness=0.3, contrast=0.3, saturation=0.3),
    dict(type="torchvision/RandomResizedCrop", size=96, scale=(0.3, 1.0)),
    dict(type="PackClass"),
]
test_pipeline = [
    dict(type="torchvision/Resize", size=128),
    dict(type="torchvision/CenterCrop", size=128),
    dict(type="PackClass"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=120, val_interval=10)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, begin=0, end=3, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=3, end=120, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(save_best=None))
