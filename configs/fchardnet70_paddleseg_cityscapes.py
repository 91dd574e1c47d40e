# FC-HarDNet-70 of PaddleSeg, stages from stride 2, on Cityscapes. PaddleSeg publishes 79.03 mIoU on val.
_base_ = "fchardnet70_cityscapes.py"

arch = "fchardnet70_paddleseg"  # row of hardnet_suite.networks.ARCHS

# Input: RGB, (x / 255 − 0.5) / 0.5. No weights of the encoder alone are published.
model = dict(
    arch=arch,
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True),
    init_cfg=None,
)

# The recipe: 160 000 batches of 16 in all (4 on each of 4 GPUs), scales 0.5 to 2, colour jitter. One epoch has 185 batches.
train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type="mmseg.PhotoMetricDistortion"),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=865)
param_scheduler = [
    dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=True, begin=0, end=865, convert_to_iter_based=True)
]
