# SSD512-HarDNet85 on COCO. Published: 35.1 mAP on test-dev. Recipe and data as for HarDNet68.
_base_ = "ssd512_hardnet68.py"

arch = "ssd512_hardnet85"
model = dict(arch=arch)
