# FC-HarDNet-70 with a stem at stride 2 on CamVid, 20 epochs from weights of fchardnet70 (set load_from), with the changes of
# exposure, colour, sharpness and scale of the robust recipe. CamVid's poles are one or two pixels wide at 480×360.
_base_ = "fchardnet70_camvid_robust.py"

arch = "fchardnet70_stride2"  # row of hardnet_suite.networks.ARCHS
weights_tag = None
epochs = 20
model = dict(arch=arch)
train_cfg = dict(max_epochs=epochs, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(
        type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=2, end=epochs, convert_to_iter_based=True
    ),
]
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type="EMAHook", ema_type="MomentumAnnealingEMA", momentum=0.004, gamma=20),
]
