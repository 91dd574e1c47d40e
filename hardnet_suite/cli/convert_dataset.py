"""``convert-dataset voc SOURCE TARGET``."""

from __future__ import annotations

import argparse
import shlex

from hardnet_suite.cli._options import show
from hardnet_suite.data.voc import convert_voc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=["voc"], help="format of the data set")
    parser.add_argument("source", help="its folder, with Annotations/, ImageSets/Main/ and JPEGImages/")
    parser.add_argument("target", help="folder for annotations/instances_SPLIT.json and images/")
    parser.add_argument(
        "--splits", nargs="+", help="lists in ImageSets/Main (default: those of train, val, test that exist)"
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        help="class names in this order; others are dropped (default: all, alphabetical)",
    )
    parser.add_argument(
        "--difficult",
        choices=["ignore", "keep"],
        default="ignore",
        help="objects marked difficult: regions that do not count (default), or kept like others",
    )
    parser.add_argument(
        "--link", action="store_true", help="create symbolic links to the images instead of copies"
    )


def run(args: argparse.Namespace) -> None:
    report = convert_voc(
        args.source,
        args.target,
        splits=args.splits,
        classes=args.classes,
        difficult=args.difficult,
        link=args.link,
    )
    show(report.table())
    show(f"COCO annotations and images: {args.target}")
    show(f"next: hardnet-suite check-data CONFIG --data-root {shlex.quote(args.target)}")
