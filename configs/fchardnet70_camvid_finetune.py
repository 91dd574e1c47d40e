# FC-HarDNet-70 on CamVid, second stage: 16 epochs from the best weights of the first stage (set load_from), near full
# resolution and with larger class weights for thin objects that the first stage misses: poles and signs.
_base_ = "fchardnet70_camvid.py"

crop = (352, 480)
#                Sky Build. Pole Road Pavem. Tree Sign Fence Car Pedest. Bicyclist
class_weight = [1.0, 1.0, 4.0, 1.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.5]
model = dict(
    data_preprocessor=dict(size=crop),
    decode_head=dict(loss_decode=dict(min_kept=25000, class_weight=class_weight)),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.8, 1.6), keep_ratio=True),
    dict(type="mmseg.RandomCrop", crop_size=crop, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="mmseg.PhotoMetricDistortion", hue_delta=9),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=16, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=45),
    dict(type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=1, end=16, convert_to_iter_based=True),
]
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.005, gamma=20),
]
default_hooks = dict(checkpoint=dict(interval=2))
