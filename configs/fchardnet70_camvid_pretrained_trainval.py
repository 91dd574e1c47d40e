# FC-HarDNet-70 on CamVid's train and val together, near full resolution, from weights of fchardnet70_camvid_pretrained (set
# load_from): the weights that are used elsewhere. Fewer objects are pasted, and no cars, of which the first stage finds too many. No
# image is left to choose an epoch: the last one counts.
_base_ = "fchardnet70_camvid_pretrained.py"

weights_tag = "camvid_trainval"
epochs = 30
crop = (352, 480)
#                Sky Build. Pole Road Pavem. Tree Sign Fence Car Pedest. Bicyclist
class_weight = [1.0, 1.0, 2.5, 1.0, 1.0, 1.0, 2.5, 1.0, 1.0, 1.5, 1.5]
model = dict(
    data_preprocessor=dict(size=crop),
    decode_head=dict(loss_decode=dict(class_weight=class_weight)),
)

# The data.
data_root = "data/camvid/"
crop_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.8, 1.8), keep_ratio=True),
    dict(type="mmseg.RandomCrop", crop_size=crop, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
]
train_pipeline = [
    dict(type="PasteClasses", classes=[2, 6, 9, 10], prob=0.3),  # Pole, SignSymbol, Pedestrian, Bicyclist
    *_base_.train_pipeline[1:],
]
split = dict(type="SegmentationDataset", labels="camvid", data_root=data_root, pipeline=crop_pipeline)
train_dataloader = dict(
    dataset=dict(
        pipeline=train_pipeline,
        dataset=dict(
            _delete_=True,
            type="ConcatDataset",
            datasets=[
                dict(data_prefix=dict(img_path="train", seg_map_path="trainannot"), **split),
                dict(data_prefix=dict(img_path="val", seg_map_path="valannot"), **split),
            ],
        ),
    )
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="Resize", scale=(600, 450), keep_ratio=True
    ),  # what 480×360 has in the middle of the training's sizes
    dict(type="LoadLabels"),
    dict(type="mmseg.PackSegInputs"),
]
test_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
val_dataloader = None
val_cfg = None
val_evaluator = None

train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(optimizer=dict(lr=4e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=60),
    dict(
        type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=1, end=epochs, convert_to_iter_based=True
    ),
]
