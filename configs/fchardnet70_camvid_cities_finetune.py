# FC-HarDNet-70 on the data of fchardnet70_camvid_cities with three times as much of CamVid, at a falling learning rate, from the
# weights that config trained (set load_from). The last epoch counts; shipped is a mean of its weights and earlier ones.
_base_ = "fchardnet70_camvid_cities.py"

epochs = 6

# The data: CamVid six times per epoch, 42 % of the images.
camvid = _base_.train_dataloader.dataset.dataset.datasets[:2]
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type="ConcatDataset",
            datasets=[*camvid * 4, *_base_.train_dataloader.dataset.dataset.datasets],
        )
    )
)

train_cfg = dict(max_epochs=epochs)
optim_wrapper = dict(optimizer=dict(lr=6e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(
        type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=1, end=epochs, convert_to_iter_based=True
    ),
]
