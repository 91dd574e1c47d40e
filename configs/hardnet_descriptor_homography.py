# HardNet on one's own images, by known homographies or random views: DATA_ROOT/train and DATA_ROOT/val, as
# `hardnet-suite make-patches` writes them. Strong changes of the grey levels; AdamW and batches of 512 pairs, which
# learn from 0.7 M pairs in an hour on one CPU core.
_base_ = ["_base_/runtime.py", "_base_/descriptor.py"]

arch = "hardnet_descriptor"  # row of hardnet_suite.networks.ARCHS
weights_tag = "homography"  # in the weights registry; `test --pretrained` scores them
model = dict(arch=arch)
data_root = "data/homography_patches/"
train_dataloader = dict(
    batch_size=512,
    num_workers=1,
    batch_sampler=dict(pairs=51_200),
    dataset=dict(
        data_root=data_root,
        sets="train",
        jitter=dict(rotation=8.0, scale=(0.75, 1.0), ratio=(0.87, 1.15)),
        photometric=dict(shadow=0.2, gamma=0.4, contrast=0.3, blur=0.3, noise=0.3, jpeg=0.3),
    ),
)
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, sets="val"))
test_dataloader = val_dataloader
default_hooks = dict(checkpoint=dict(save_best="fpr95", rule="less"))

train_cfg = dict(max_epochs=14)
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=2e-3, weight_decay=1e-2))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=60),
    dict(type="PolyLR", power=1.0, eta_min=1e-6, by_epoch=True, begin=0, end=14, convert_to_iter_based=True),
]
