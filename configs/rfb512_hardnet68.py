# RFBNet512-HarDNet68 on COCO. Published: 33.9 mAP on test-dev. Recipe and data as for SSD512-HarDNet68.
_base_ = "ssd512_hardnet68.py"

arch = "rfb512_hardnet68"
model = dict(arch=arch)
# batch norms of levels of one pixel need two images: epochs end with the last full batch, as published
train_dataloader = dict(drop_last=True)
