# FC-HarDNet-70 on Cityscapes, 180 000 batches.
_base_ = "fchardnet70_cityscapes.py"

train_cfg = dict(max_epochs=973)
param_scheduler = [
    dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=True, begin=0, end=973, convert_to_iter_based=True)
]
