# FC-HarDNet-70 on CamVid for streets, cameras and hours of the day that the training images do not have: stronger changes of
# exposure, colour, sharpness and scale. The base of fchardnet70_stride2_camvid; not trained by itself.
_base_ = "fchardnet70_camvid.py"

class_weight = [1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.5, 1.5]
model = dict(decode_head=dict(loss_decode=dict(class_weight=class_weight)))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.5, 2.5), keep_ratio=True),
    dict(type="mmseg.RandomCrop", crop_size=_base_.crop, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomExposure", gain=1.6, gamma=1.8, white_balance=1.2),
    dict(type="mmseg.PhotoMetricDistortion", hue_delta=18),
    dict(
        type="RandomApply",
        prob=0.3,
        transforms=[dict(type="torchvision/GaussianBlur", kernel_size=7, sigma=(0.2, 1.5))],
    ),
    dict(type="RandomApply", prob=0.3, transforms=[dict(type="torchvision/GaussianNoise", sigma=0.04)]),
    dict(type="RandomApply", prob=0.3, transforms=[dict(type="torchvision/JPEG", quality=(20, 90))]),
    dict(type="RandomApply", prob=0.1, transforms=[dict(type="torchvision/RandomGrayscale", p=1.0)]),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
