"""``convert-dataset SOURCE TARGET``."""

from __future__ import annotations

import argparse
import shlex

from hardnet_suite.cli._options import show
from hardnet_suite.data.conversion.convert import SOURCES, TARGETS, convert_dataset
from hardnet_suite.data.masks import MaskReport
from hardnet_suite.errors import UserError

_WRITTEN = {
    "coco": "COCO annotations and images",
    "voc": "VOC annotations, lists and images",
    "yolo": "data.yaml, labels and images",
    "labelme": "images and a LabelMe JSON file for each",
    "cvat": "annotations.xml (CVAT for images 1.1) and images",
    "masks": "classes.txt, labels and images",
    "cvat-masks": "labelmap.txt, SegmentationClass/, lists and images",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder of the data set, COCO's JSON, YOLO's YAML or CVAT's XML file")
    parser.add_argument("target", help="folder to write to")
    parser.add_argument("after", nargs="?", help=argparse.SUPPRESS)  # FORMAT SOURCE TARGET
    parser.add_argument(
        "--from", dest="source_format", choices=SOURCES, help="format of the source (default: as detected)"
    )
    parser.add_argument(
        "--to",
        dest="target_format",
        choices=TARGETS,
        help="format to write: masks (folders of label images) and cvat-masks of LabelMe's shapes or CVAT's "
        "masks, the others of boxes (default: masks for CVAT's masks, else coco)",
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        help="splits to convert (default: all; of VOC and YOLO data sets those called train, val and test)",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        help="class names in this order; others are dropped (default: all, in the order of the data set, or "
        "sorted where it has none)",
    )
    parser.add_argument(
        "--difficult",
        choices=["ignore", "keep"],
        default="ignore",
        help="objects marked difficult (VOC, LabelMe, CVAT): regions that do not count (default), or "
        "kept like others",
    )
    parser.add_argument(
        "--link", action="store_true", help="create symbolic links to the images instead of copies"
    )


def run(args: argparse.Namespace) -> None:
    source, target, source_format = args.source, args.target, args.source_format
    if args.after is not None:
        if source not in SOURCES:
            raise UserError(f"expected SOURCE TARGET, got {source} {target} {args.after}")
        if source_format not in (None, source):
            raise UserError(f"{source} and --from {source_format} contradict each other: leave out one")
        source_format, source, target = source, target, args.after
    report = convert_dataset(
        source,
        target,
        source_format=source_format,
        target_format=args.target_format,
        splits=args.splits,
        classes=args.classes,
        difficult=args.difficult,
        link=args.link,
    )
    show(report.table())
    masks = isinstance(report, MaskReport)
    written = args.target_format or ("masks" if masks else "coco")
    show(f"{_WRITTEN[written]}: {target}")
    images = report.images if masks else {name: split.images for name, split in report.splits.items()}
    # CVAT's masks are for CVAT; of one image, no other is left to validate with
    if written != "cvat-masks" and images.get("train") and sum(images.values()) > 1:
        model = "fchardnet70" if masks else "ssd320_hardnet39ds"
        show(f"next: hardnet-suite train {model} --data {shlex.quote(target)}")
