# The demo: SSD224-HarDNet29 on the built-in drawn shapes, minutes on a CPU. It starts from weights of drawn symbols,
# which are other objects (ssd224_hardnet29_symbols.py); --from-scratch starts from random ones.
_base_ = "ssd512_hardnet68.py"

arch = "ssd224_hardnet29"
size = 224
classes = ("circle", "square", "triangle", "star", "ring", "cross")
data_root = "data/shapes/"  # hardnet-suite draw-shapes data/shapes

model = dict(
    arch=arch,
    bbox_head=dict(num_classes=len(classes)),
    init_cfg=dict(type="HarDNetPretrained", tag="symbols"),
)

# Flips are enough augmentation for drawn scenes, and cheap on a machine with few cores.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(size, size), keep_ratio=False),
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(size, size), keep_ratio=False),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
drawn = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline, **drawn))
val_dataloader = dict(batch_size=16, num_workers=1, dataset=dict(pipeline=test_pipeline, **drawn))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=4, val_interval=2)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=60),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        by_epoch=True,
        begin=1,
        end=4,
        T_max=3,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(enable=False)
default_hooks = dict(logger=dict(interval=10))
