"""Classification data: images and their classes, their readers, and checks."""

from hardnet_suite.data.classification.check import ClassificationReport, check_classification
from hardnet_suite.data.classification.readers import csv_text, read_csv, read_folder, read_torchvision
from hardnet_suite.data.classification.samples import (
    Samples,
    choose,
    hold_out,
    missing_files,
    require_files,
)
from hardnet_suite.data.classification.shards import is_shards, read_shards, split_shards

__all__ = [
    "ClassificationReport",
    "Samples",
    "check_classification",
    "choose",
    "csv_text",
    "hold_out",
    "is_shards",
    "missing_files",
    "read_csv",
    "read_folder",
    "read_shards",
    "read_torchvision",
    "require_files",
    "split_shards",
]
