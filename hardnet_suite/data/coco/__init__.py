"""COCO annotation files: one reader, whose records training, scoring, checks and drawings use.

``reader`` states the rules; ``check`` reports everything that is wrong with a data set.
"""

from hardnet_suite.data.coco.check import (
    CocoReport,
    annotation_lines,
    check_coco,
    require_coco,
)
from hardnet_suite.data.coco.classes import COCO_CATEGORY_IDS, COCO_CLASSES, COCO_STUFF
from hardnet_suite.data.coco.files import missing_images, wrong_sizes
from hardnet_suite.data.coco.hints import missing_image_cure
from hardnet_suite.data.coco.layout import check_layout, load_annotations, read_json
from hardnet_suite.data.coco.reader import read_coco
from hardnet_suite.data.coco.records import CocoBox, CocoCategory, CocoFile, CocoImage
from hardnet_suite.data.coco.values import as_id, is_box

__all__ = [
    "COCO_CATEGORY_IDS",
    "COCO_CLASSES",
    "COCO_STUFF",
    "CocoBox",
    "CocoCategory",
    "CocoFile",
    "CocoImage",
    "CocoReport",
    "annotation_lines",
    "as_id",
    "check_coco",
    "check_layout",
    "is_box",
    "load_annotations",
    "missing_image_cure",
    "missing_images",
    "read_coco",
    "read_json",
    "require_coco",
    "wrong_sizes",
]
