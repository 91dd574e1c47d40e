# The last stage of fchardnet70_stride2 on CamVid: train and val together, from weights of fchardnet70_stride2_camvid (set
# load_from). All pixels count, and the Lovász softmax loss, which follows the IoU of each class, is added. No split is left to
# choose an epoch: the last one counts. A run of it is in docs/experiments.md; its weights are not shipped.
_base_ = "fchardnet70_stride2_camvid.py"

weights_tag = None
epochs = 38
model = dict(
    decode_head=dict(
        loss_decode=[
            dict(
                type="BootstrappedCrossEntropyLoss",
                min_kept=16384,
                threshold=0.0,
                class_weight=[1.0, 1.0, 2.5, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.5, 1.5],
            ),
            dict(type="mmseg.LovaszLoss", reduction="none", loss_weight=0.5),
        ]
    )
)

# The data.
data_root = "data/camvid/"
split = dict(type="SegmentationDataset", labels="camvid", data_root=data_root, pipeline=_base_.train_pipeline)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ConcatDataset",
        datasets=[
            dict(data_prefix=dict(img_path="train", seg_map_path="trainannot"), **split),
            dict(data_prefix=dict(img_path="val", seg_map_path="valannot"), **split),
        ],
    )
)
test_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = None
val_cfg = None
val_evaluator = None

train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(
        type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=2, end=epochs, convert_to_iter_based=True
    ),
]
default_hooks = dict(
    checkpoint=dict(
        _delete_=True, type="ResumableCheckpointHook", interval=2, every_minutes=10, max_keep_ckpts=3
    )
)
