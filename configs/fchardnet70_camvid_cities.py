# FC-HarDNet-70 on CamVid's train and val, on Cityscapes as pairs of 256×256 pixels (benchmarks/split_pairs.py) and on the
# photographs of fchardnet70_camvid_towns, from that config's weights, or on from its own, those with the tag camvid_trainval (set
# load_from). CamVid comes twice per epoch. The last epoch counts; the mean of its weights and of those before is used elsewhere.
_base_ = "fchardnet70_camvid_towns.py"

epochs = 10

# The data: each image of Cityscapes as wide as it was, which is twice its height.
cities_root = "data/cityscapes_pairs/train/"
cities = dict(
    type="SegmentationDataset",
    labels="camvid",
    data_root=cities_root,
    data_prefix=dict(img_path="images", seg_map_path="labels"),
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="LoadLabels"),
        dict(type="RandomResize", scale=(480, 240), ratio_range=(1.1, 2.0), keep_ratio=False),
        *_base_.crop_pipeline[3:],
    ],
)
train_dataloader = dict(
    dataset=dict(dataset=dict(datasets=[*_base_.train_dataloader.dataset.dataset.datasets, cities]))
)

train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(optimizer=dict(lr=8e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(
        type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=1, end=epochs, convert_to_iter_based=True
    ),
]
