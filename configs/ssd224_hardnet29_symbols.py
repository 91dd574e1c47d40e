# SSD224-HarDNet29 on drawn symbols, from random weights: what the demo starts from. None of its shapes is here.
_base_ = "demo_ssd224_shapes.py"

classes = (
    "heart", "crescent", "arrow", "bolt", "drop", "half disc", "gear",
    "ell", "tee", "chevron", "frame", "pentagon", "ellipse", "hourglass",
)  # fmt: skip
data_root = (
    "data/symbols/"  # hardnet-suite draw-shapes data/symbols --objects symbols --train 16000 --size 224
)

model = dict(bbox_head=dict(num_classes=len(classes)))
drawn = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(batch_size=32, num_workers=4, dataset=drawn)
val_dataloader = dict(dataset=drawn)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator
