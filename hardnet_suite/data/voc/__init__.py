"""PASCAL VOC data sets: lists of images, XML annotations, and their conversion to COCO."""

from hardnet_suite.data.boxes import ConversionReport, Split
from hardnet_suite.data.voc.conversion import convert_voc, read_voc

__all__ = ["ConversionReport", "Split", "convert_voc", "read_voc"]
