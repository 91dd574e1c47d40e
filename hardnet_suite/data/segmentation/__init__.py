"""Segmentation data: label sets, label images, which label belongs to which image, and checks."""

from hardnet_suite.data.options import take
from hardnet_suite.data.segmentation.check import SegmentationReport, check_segmentation
from hardnet_suite.data.segmentation.label_images import read_label, write_label
from hardnet_suite.data.segmentation.labels import (
    IGNORE,
    LABEL_SETS,
    LabelSet,
    background_label,
    labels_of,
    own_labels,
    predicted_as,
)
from hardnet_suite.data.segmentation.pairs import find_pairs, prediction_path, require_pairs
from hardnet_suite.data.segmentation.preflight import hidden_classes, require_aligned, require_meaning

__all__ = [
    "IGNORE",
    "LABEL_SETS",
    "LabelSet",
    "SegmentationReport",
    "background_label",
    "check_segmentation",
    "find_pairs",
    "hidden_classes",
    "labels_of",
    "own_labels",
    "predicted_as",
    "prediction_path",
    "read_label",
    "require_aligned",
    "require_meaning",
    "require_pairs",
    "take",
    "write_label",
]
