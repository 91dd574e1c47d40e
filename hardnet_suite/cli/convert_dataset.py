"""``convert-dataset voc SOURCE TARGET``."""

from __future__ import annotations

import argparse
import shlex

from hardnet_suite.data.voc import convert_voc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=["voc"], help="what the data set is now")
    parser.add_argument("source", help="its folder: Annotations/, ImageSets/Main/, JPEGImages/")
    parser.add_argument("target", help="where to put annotations/instances_SPLIT.json and images/")
    parser.add_argument("--splits", nargs="+", help="default: those of train, val, test that are there")
    parser.add_argument("--classes", nargs="+", help="in this order, no others (default: all, by name)")
    parser.add_argument(
        "--difficult",
        choices=["ignore", "keep"],
        default="ignore",
        help="objects that VOC calls difficult: regions that do not count (default), or as all others",
    )
    parser.add_argument("--link", action="store_true", help="link to the images instead of copying them")


def run(args: argparse.Namespace) -> None:
    report = convert_voc(
        args.source,
        args.target,
        splits=args.splits,
        classes=args.classes,
        difficult=args.difficult,
        link=args.link,
    )
    print(report.table())
    print(f"COCO annotations and images: {args.target}")
    print(f"next: hardnet-suite check-data CONFIG --data-root {shlex.quote(args.target)}")
