# HardNet, the patch descriptor, with the recipe of its paper (arXiv 1705.10872) and program: SGD with a learning rate
# of 10 that decays linearly to 0 at every iteration, batches of 1024 pairs, the hardest negative in each batch.
default_scope = "mmengine"
visualizer = dict(
    type="Visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
model = dict(
    type="PatchDescriptorModel",
    anchor_swap=True,
    margin=1.0,
    batch_reduce="min",  # or "average", "random"
    loss_type="triplet_margin",  # or "softmax", "contrastive"
    orthogonality=0.0,  # weight of the global orthogonal regularisation
)

# DATA_ROOT/liberty, notredame and yosemite, as Brown et al. publish them. --data-root moves them.
data_root = "data/brown/"
# sets: one folder of patches or several; pairs: of one epoch; lookalikes, neighbours: shares of a batch that come in
# groups of points that are hard to tell apart
train_dataloader = dict(
    batch_size=1024,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type="whole_batch"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="DifferentPoints", pairs=5_000_000, lookalikes=0.0, neighbours=0.0),
    dataset=dict(
        type="PatchPairsDataset",
        data_root=data_root,
        flips=True,  # and rotations by 90°, of both patches of a pair alike
        jitter=dict(rotation=5.0, scale=(0.9, 1.0), ratio=(0.9, 1.1)),  # of each patch by itself; None: none
        photometric=dict(shadow=0.0, gamma=0.0, contrast=0.0, blur=0.0, noise=0.0, jpeg=0.0),  # probabilities
    ),
)
val_dataloader = dict(
    batch_size=1024,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type="whole_batch"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="PatchVerificationDataset", data_root=data_root, pairs=None),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="PatchFPR95")
test_evaluator = val_evaluator
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

train_cfg = dict(type="ResumableEpochLoop", max_epochs=10, val_interval=1)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=10.0, momentum=0.9, dampening=0.9, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=True, begin=0, end=10, convert_to_iter_based=True)
]
