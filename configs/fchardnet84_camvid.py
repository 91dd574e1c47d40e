# FC-HarDNet-84, a network of HarDNet's paper for CamVid at full resolution, from random weights. Published: 67.7 mIoU on test.
_base_ = "fchardnet70_camvid.py"

arch = "fchardnet84"  # row of hardnet_suite.networks.ARCHS
weights_tag = None  # none were published
model = dict(arch=arch)
