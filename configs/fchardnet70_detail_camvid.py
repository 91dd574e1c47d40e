# FC-HarDNet-70 with a decoder that goes on to stride 2, on CamVid, from weights of fchardnet70 with random ones for the last step
# and the classifier (set load_from; docs/segmentation.md makes the file). Changes of exposure, colour and sharpness that stay within what street cameras record; the dusk of
# 0001TP, a sixth of the training images and a quarter of the test split, is drawn twice. The last epoch counts; validation
# only reports.
_base_ = "fchardnet70_camvid_continued.py"

arch = "fchardnet70_detail"  # row of hardnet_suite.networks.ARCHS
weights_tag = None
epochs = 85
#                Sky Build. Pole Road Pavem. Tree Sign Fence Car Pedest. Bicyclist
class_weight = [1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 2.5, 1.0, 1.0, 1.5, 1.5]
model = dict(
    arch=arch,
    decode_head=dict(loss_decode=dict(threshold=0.3, class_weight=class_weight)),
)

train_cfg = dict(max_epochs=epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=100),
    dict(
        type="PolyLR", power=0.9, eta_min=1e-6, by_epoch=True, begin=2, end=epochs, convert_to_iter_based=True
    ),
]
