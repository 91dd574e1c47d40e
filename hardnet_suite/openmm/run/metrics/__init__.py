"""Scores during training and testing, registered with mmengine."""

from hardnet_suite.openmm.run.metrics.classification import ImageClassification
from hardnet_suite.openmm.run.metrics.descriptor import PatchFPR95
from hardnet_suite.openmm.run.metrics.detection import CocoDetection
from hardnet_suite.openmm.run.metrics.panoptic import CocoPanoptic
from hardnet_suite.openmm.run.metrics.segmentation import SegmentationIoU

__all__ = ["CocoDetection", "CocoPanoptic", "ImageClassification", "PatchFPR95", "SegmentationIoU"]
