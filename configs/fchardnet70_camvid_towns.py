# FC-HarDNet-70 on CamVid's train and val, and on photographs of other towns (LabelMeFacade, whose label images
# benchmarks/merge_labels.py turns into CamVid's classes), from weights of fchardnet70_camvid_pretrained_trainval (set load_from).
# CamVid comes twice per epoch. The last epoch counts; the mean of its weights and of those before is used elsewhere.
_base_ = "fchardnet70_camvid_pretrained_trainval.py"

epochs = 10

# The data: as much of each photograph as of CamVid's images, which are smaller.
photographs_root = "data/labelmefacade/"
camvid = _base_.train_dataloader.dataset.dataset.datasets
photographs = dict(
    type="SegmentationDataset",
    labels="camvid",
    data_root=photographs_root,
    data_prefix=dict(img_path="images", seg_map_path="labels_camvid"),
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="LoadLabels"),
        dict(type="RandomResize", scale=(480, 360), ratio_range=(0.75, 1.7), keep_ratio=True),
        *_base_.crop_pipeline[3:],
    ],
)
train_dataloader = dict(
    dataset=dict(dataset=dict(_delete_=True, type="ConcatDataset", datasets=[*camvid, *camvid, photographs]))
)

train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(optimizer=dict(lr=6e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=60),
    dict(
        type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=1, end=epochs, convert_to_iter_based=True
    ),
]
