# CenterNet-HarDNet68 on COCO, trained at 512×512 pixels, tested at the size of each image.
_base_ = "centernet_hardnet85.py"

arch = "centernet_hardnet68"
model = dict(arch=arch)

# Images are centre-padded to multiples of 32, hence batches of one.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="CenterPad", multiple=32),
    dict(type="PackDetInputs", meta_keys=_base_.meta_keys),
]
train_dataloader = dict(batch_size=24)
val_dataloader = dict(batch_size=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=150)
optim_wrapper = dict(optimizer=dict(lr=0.005))
param_scheduler = [
    dict(
        type="LinearLR", start_factor=5e-5 / 0.005, by_epoch=True, begin=0, end=1, convert_to_iter_based=True
    ),
    dict(type="MultiStepLR", milestones=[100, 130], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=24)
