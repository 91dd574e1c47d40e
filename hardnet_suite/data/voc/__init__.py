"""PASCAL VOC data sets: lists of images, XML annotations, and their conversion to COCO."""

from hardnet_suite.data.voc.conversion import ConversionReport, Split, convert_voc

__all__ = ["ConversionReport", "Split", "convert_voc"]
