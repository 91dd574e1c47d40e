# HarDNet-39DS from random weights on ten classes of Tiny-ImageNet, 64×64.
# DATA_ROOT/train/WNID/*: 50 of the 500 images per class are held out to choose the best epoch.
_base_ = ["_base_/runtime.py", "_base_/classifier.py", "_base_/schedule_modern.py"]

arch = "hardnet39ds"  # row of hardnet_suite.networks.ARCHS
weights_tag = "tiny_imagenet10"  # in the weights registry; `test --pretrained` scores them
num_classes = 10
model = dict(
    arch=arch,
    num_classes=num_classes,
    label_smoothing=0.1,
    data_preprocessor=dict(num_classes=num_classes, mixup=0.2, cutmix=1.0, mix_probability=0.7),
)

data_root = "data/tiny_imagenet10/"
train_pipeline = [
    dict(type="torchvision/RandomResizedCrop", size=64, scale=(0.3, 1.0)),
    dict(type="torchvision/RandomHorizontalFlip"),
    dict(type="torchvision/RandAugment", num_ops=2, magnitude=9),
    dict(type="torchvision/ColorJitter", brightness=0.3, contrast=0.3, saturation=0.3),
    dict(type="PackClass"),
]
test_pipeline = [
    dict(type="torchvision/Resize", size=64),
    dict(type="torchvision/CenterCrop", size=64),
    dict(type="PackClass"),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="ClassificationDataset",
        data_root=data_root,
        folder="train",
        hold_out=50,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ClassificationDataset",
        data_root=data_root,
        folder="train",
        hold_out=50,
        held_out=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
val_evaluator = dict(type="ImageClassification")
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=300, val_interval=5)
auto_scale_lr = dict(enable=False)
default_hooks = dict(checkpoint=dict(interval=5, save_best="top1", rule="greater"))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.002, gamma=100, update_buffers=True),
]
