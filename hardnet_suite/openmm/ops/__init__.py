"""Operators of mmcv on torchvision, for where mmcv's compiled part is not installed."""
