# The published recipe: batches of 256, SGD with Nesterov momentum, learning rate 0.05 with cosine decay per epoch.
# The authors train for 150 to 250 epochs, from Xavier initialisation; the suite initialises as He et al.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=150, val_interval=1)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.05, momentum=0.9, nesterov=True, weight_decay=6e-5),
)
param_scheduler = [dict(type="CosineAnnealingLR", T_max=150, eta_min=0.0, by_epoch=True)]
auto_scale_lr = dict(enable=True, base_batch_size=256)  # scales the learning rate with the batch size
# added by a config to its model, pipeline and hooks
recipe = dict(model=dict(), transforms=[], hooks=[])
