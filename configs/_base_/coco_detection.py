# Boxes in COCO layout: DATA_ROOT/annotations/instances_{train,val}2017.json, DATA_ROOT/{train,val}2017/*.jpg
# (https://cocodataset.org/#download). --data-root moves every path.
default_scope = "mmdet"
data_root = "data/coco/"

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="DetectionDataset",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="DetectionDataset",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="CocoDetection", ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

visualizer = dict(
    type="DetLocalVisualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
