"""``eval coco --annotations A.json --results R.json``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import evaluate_coco, without_nan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    coco = kinds.add_parser("coco", help="boxes in COCO result format")
    coco.add_argument("--annotations", required=True, help="COCO annotation file")
    coco.add_argument("--results", required=True, help="COCO result file")
    coco.add_argument("--classwise", action="store_true", help="print AP and AP50 of every class too")
    coco.add_argument("--out", help="write the figures as JSON")


def run(args: argparse.Namespace) -> None:
    scores = evaluate_coco(args.annotations, args.results)
    print(scores.table())
    if args.classwise:
        print(scores.class_table())
    if args.out:
        per_class = {name: without_nan(row) for name, row in scores.per_class.items()}
        content = {"metrics": without_nan(scores.metrics), "per_class": per_class}
        try:
            Path(args.out).write_text(json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {args.out}: {error.strerror}; choose another --out") from None
