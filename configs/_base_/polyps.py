# Images and masks of one class in the layout of Kvasir-SEG (https://datasets.simula.no/kvasir-seg), CVC-ClinicDB and the sets
# of PraNet (https://github.com/DengPingFan/PraNet): DATA_ROOT/{TrainDataset,TestDataset/Kvasir}/{images,masks}/NAME.*, masks
# from 0 (background) to 255, in any format. --data-root moves every path.
default_scope = "mmseg"
data_root = "data/polyps/"
metainfo = dict(classes=("polyp",), palette=[(0, 200, 0)])
mask_threshold = 128  # the least grey value of a mask that is of the class

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="torchvision/Resize", size=(352, 352)),
    dict(type="LoadLabels"),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="SegmentationDataset",
        metainfo=metainfo,
        mask_threshold=mask_threshold,
        data_root=data_root,
        data_prefix=dict(img_path="TrainDataset/images", seg_map_path="TrainDataset/masks"),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="SegmentationDataset",
        metainfo=metainfo,
        mask_threshold=mask_threshold,
        data_root=data_root,
        data_prefix=dict(img_path="TestDataset/Kvasir/images", seg_map_path="TestDataset/Kvasir/masks"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
val_evaluator = dict(type="SegmentationIoU", masks=True)  # and Dice, MAE, S-measure, E-measure per image
test_evaluator = val_evaluator

visualizer = dict(
    type="mmseg.SegLocalVisualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
