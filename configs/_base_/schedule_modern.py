# A modern recipe: AdamW with warm-up and cosine, averaged weights; beside it a config switches on label smoothing,
# mixup, CutMix and RandAugment, as hardnet68_imagenet_modern.py does.
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
auto_scale_lr = dict(enable=True, base_batch_size=256)  # another batch size scales the learning rate
