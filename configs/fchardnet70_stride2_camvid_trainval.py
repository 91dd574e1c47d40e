# The final run of fchardnet70_stride2 on CamVid: the recipe was chosen with whole training sequences left out
# (docs/experiments.md), then train and val are trained on together. No split is left to choose an epoch: the last one counts.
_base_ = "fchardnet70_stride2_camvid.py"

weights_tag = "camvid"  # in the weights registry; `test --pretrained` scores them
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
default_hooks = dict(
    checkpoint=dict(
        _delete_=True, type="ResumableCheckpointHook", interval=2, every_minutes=10, max_keep_ckpts=3
    )
)
