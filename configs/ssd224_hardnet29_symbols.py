# SSD224-HarDNet29 on drawn symbols, from random weights: what the demo starts from. None of its shapes is here.
_base_ = "demo_ssd224_shapes.py"

classes = (
    "heart", "crescent", "arrow", "bolt", "drop", "half disc", "gear",
    "ell", "tee", "chevron", "frame", "pentagon", "ellipse", "hourglass",
)  # fmt: skip
data_root = (
    "data/symbols/"  # hardnet-suite draw-shapes data/symbols --objects symbols --train 12800 --size 224
)

weights_tag = "symbols"  # in the weights registry; `test --pretrained` scores them
model = dict(bbox_head=dict(num_classes=len(classes)), init_cfg=None)
drawn = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(batch_size=32, num_workers=4, dataset=drawn)
val_dataloader = dict(dataset=drawn)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

# The training was stopped after three epochs of eight.
train_cfg = dict(max_epochs=3, val_interval=3)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=300),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        by_epoch=True,
        begin=1,
        end=8,
        T_max=7,
        convert_to_iter_based=True,
    ),
]
