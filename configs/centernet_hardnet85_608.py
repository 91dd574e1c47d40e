# CenterNet-HarDNet85 on COCO, 608 pixels. Published: 45.3 mAP on test-dev. Recipe as for 512.
_base_ = "centernet_hardnet85.py"

size = 608
weights_tag = "published_608"  # in the weights registry; `test --pretrained` scores them
train_pipeline = _base_.train_pipeline
train_pipeline[2].size = size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (size, size)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
