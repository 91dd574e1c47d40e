# Cityscapes (https://www.cityscapes-dataset.com): DATA_ROOT/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and
# DATA_ROOT/gtFine/{train,val}/CITY/*_gtFine_labelIds.png
# (or, where the frame has it, *_gtFine_labelTrainIds.png). --data-root moves every path.
default_scope = "mmseg"
data_root = "data/cityscapes/"

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="SegmentationDataset",
        labels="cityscapes",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/train", seg_map_path="gtFine/train"),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SegmentationDataset",
        labels="cityscapes",
        data_root=data_root,
        data_prefix=dict(img_path="leftImg8bit/val", seg_map_path="gtFine/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
val_evaluator = dict(type="SegmentationIoU")
test_evaluator = val_evaluator

visualizer = dict(
    type="mmseg.SegLocalVisualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
