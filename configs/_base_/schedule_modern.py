# A modern recipe: AdamW with warm-up and cosine, label smoothing, mixup or CutMix, RandAugment, averaged weights.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=300, val_interval=1)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=256)  # scales the learning rate with the batch size
# added by a config to its model, pipeline and hooks
recipe = dict(
    model=dict(
        label_smoothing=0.1,
        data_preprocessor=dict(num_classes=1000, mixup=0.2, cutmix=1.0),
    ),
    transforms=[dict(type="torchvision/RandAugment", num_ops=2, magnitude=9)],
    hooks=[dict(type="EMAHook", momentum=1e-4, update_buffers=True)],
)
