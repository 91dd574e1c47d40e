# Beyond the published recipe: averaged weights, gradient clipping, mosaic.
_base_ = "centernet_hardnet85.py"

custom_hooks = [
    *_base_.custom_hooks,
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=0.0002),
]
optim_wrapper = dict(clip_grad=dict(max_norm=35.0))

# A mosaic joins four whole images; mmdet's Mosaic does not carry masks, so they are not loaded.
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
