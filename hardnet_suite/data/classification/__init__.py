"""Classification data: images and their classes, their readers, and checks."""

from hardnet_suite.data.classification.check import ClassificationReport, check_classification
from hardnet_suite.data.classification.readers import read_csv, read_folder, read_torchvision
from hardnet_suite.data.classification.samples import Samples, hold_out, imagenet_classes, readable

__all__ = [
    "ClassificationReport",
    "Samples",
    "check_classification",
    "hold_out",
    "imagenet_classes",
    "read_csv",
    "read_folder",
    "read_torchvision",
    "readable",
]
