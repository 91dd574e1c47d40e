# The published recipe: 150 to 250 epochs of batches of 256, SGD with Nesterov's momentum from 0.05, falling as a cosine.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=150, val_interval=1)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.05, momentum=0.9, nesterov=True, weight_decay=6e-5),
)
auto_scale_lr = dict(enable=True, base_batch_size=256)  # another batch size scales the learning rate
