"""Classification data: images and their classes, their readers, and checks."""

from hardnet_suite.data.classification.check import ClassificationReport, check_classification
from hardnet_suite.data.classification.readers import read_csv, read_folder, read_torchvision
from hardnet_suite.data.classification.samples import (
    Samples,
    choose,
    hold_out,
    missing_files,
    require_files,
)

__all__ = [
    "ClassificationReport",
    "Samples",
    "check_classification",
    "choose",
    "hold_out",
    "missing_files",
    "read_csv",
    "read_folder",
    "read_torchvision",
    "require_files",
]
