# FC-HarDNet-70 on Cityscapes. Published: 77.7 mIoU on val.
_base_ = ["_base_/runtime.py", "_base_/fchardnet.py", "_base_/cityscapes.py"]

arch = "fchardnet70"  # row of hardnet_suite.networks.ARCHS
crop = (1024, 1024)  # height, width
num_classes = 19
custom_imports = dict(imports=["hardnet_suite.openmm.segmentation"], allow_failed_imports=False)

model = dict(
    arch=arch,
    data_preprocessor=dict(size=crop),
    decode_head=dict(
        num_classes=num_classes,
        loss_decode=dict(type="BootstrappedCrossEntropyLoss", min_kept=4096, threshold=0.3),
    ),
    # published ImageNet weights of the encoder; --from-scratch trains without them
    init_cfg=dict(type="HarDNetPretrained", tag="base"),
)

# The data: short side 512 to 2048, then a crop.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomResize", scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="mmseg.RandomCrop", crop_size=crop),
    dict(type="RandomFlip", prob=0.5),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

# The published recipe: 90 000 batches of 16, SGD with learning rate 0.02, polynomial decay. One epoch has 185 batches.
train_cfg = dict(type="ResumableEpochLoop", max_epochs=487, val_interval=5)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = [
    dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=True, begin=0, end=487, convert_to_iter_based=True)
]
auto_scale_lr = dict(enable=True, base_batch_size=16)  # scales the learning rate with the batch size
default_hooks = dict(checkpoint=dict(save_best="mIoU", rule="greater"))
