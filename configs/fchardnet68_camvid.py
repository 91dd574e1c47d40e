# FC-HarDNet-68, a network of HarDNet's paper for CamVid at full resolution, from random weights. Published: 62.9 mIoU on test.
_base_ = "fchardnet70_camvid.py"

arch = "fchardnet68"  # row of hardnet_suite.networks.ARCHS
weights_tag = None  # none were published
model = dict(arch=arch)
