# FC-HarDNet-70 on Cityscapes with colour jitter.
_base_ = "fchardnet70_cityscapes.py"

train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(type="mmseg.PhotoMetricDistortion"),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
