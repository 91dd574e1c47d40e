# What the published recipe does without, switched on: averaged weights, clipped gradients, mosaic.
_base_ = "centernet_hardnet85.py"

custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002),
]
optim_wrapper = dict(clip_grad=dict(max_norm=35.0))

# Mosaics are of four whole images; masks are left out, as mmdet's Mosaic does not carry them.
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="MultiImageMixDataset",
        dataset={**_base_.train_dataloader.dataset, "pipeline": load},
        pipeline=[
            dict(type="Mosaic", img_scale=(_base_.size, _base_.size), prob=0.5),
            *_base_.train_pipeline[2:],
        ],
    )
)
