# The published recipe: batches of 256, SGD with Nesterov's momentum from 0.05, falling as a cosine from epoch to epoch.
# The authors give 150 to 250 epochs; theirs begin at Xavier's random weights, ours at He's.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=150, val_interval=1)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.05, momentum=0.9, nesterov=True, weight_decay=6e-5),
)
param_scheduler = [dict(type="CosineAnnealingLR", T_max=150, eta_min=0.0, by_epoch=True)]
auto_scale_lr = dict(enable=True, base_batch_size=256)  # another batch size scales the learning rate
# what a config adds to its model, its pipeline and its hooks
recipe = dict(model=dict(), transforms=[], hooks=[])
