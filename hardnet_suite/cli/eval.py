"""``eval coco --annotations A.json --results R.json``, ``eval segmentation --annotations DIR …``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hardnet_suite.cli._options import show
from hardnet_suite.data.coco import annotation_lines, read_coco
from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.segmentation import LABEL_SETS
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import evaluate_coco, find_mistakes
from hardnet_suite.evaluation.segmentation import evaluate_folders
from hardnet_suite.outputs import require_replaceable, write_file
from hardnet_suite.visualization.canvas import is_figure
from hardnet_suite.visualization.classification import CONFUSION, draw_confusion
from hardnet_suite.visualization.detection_charts import CHARTS, draw_detection_charts

_PROGRAM = "hardnet-suite eval"  # the mark of its reports


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    coco = kinds.add_parser("coco", help="score boxes in COCO result format")
    coco.add_argument("--annotations", required=True, help="COCO annotation file")
    coco.add_argument("--results", required=True, help="COCO result file")
    coco.add_argument("--classwise", action="store_true", help="also print AP, AP50, AP75 and AR per class")
    coco.set_defaults(score=_score_coco, charts=tuple(CHARTS.values()))

    segmentation = kinds.add_parser("segmentation", help="score label images")
    segmentation.add_argument("--annotations", required=True, type=Path, help="folder of true label images")
    segmentation.add_argument(
        "--predictions", required=True, type=Path, help="folder of predicted label images"
    )
    segmentation.add_argument(
        "--dataset", required=True, choices=("cityscapes", "camvid"), help="classes and stored values"
    )
    segmentation.add_argument(
        "--prediction-ids",
        choices=("trainIds", "labelIds"),
        default="trainIds",
        help="pixel values of the predictions: class indices (default) or Cityscapes' label ids",
    )
    segmentation.set_defaults(score=_score_segmentation, charts=(CONFUSION,))

    for kind in (coco, segmentation):
        kind.add_argument("--out", help="write the scores to this file as JSON")
    coco.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw precision-recall curves and the confusion matrix"
    )
    segmentation.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the confusion matrix")


def run(args: argparse.Namespace) -> None:
    if args.out is not None:
        require_replaceable(args.out, _is_report, writer="eval", option="--out")
    for name in args.charts if args.plots is not None else ():
        require_replaceable(args.plots / name, is_figure, writer="eval", option="--plots")
    figures = args.score(args)
    for name in args.charts if args.plots is not None else ():
        show(f"plot: {args.plots / name}")
    if args.out is not None:
        write_file(args.out, json.dumps({"program": _PROGRAM, **figures}, indent=2) + "\n")


def _is_report(path: Path) -> bool:
    """Whether a file is what an earlier run wrote."""
    try:
        return read_json(path)["program"] == _PROGRAM
    except (UserError, TypeError, KeyError):
        return False


def _score_coco(args: argparse.Namespace) -> dict[str, Any]:
    annotations = read_coco(args.annotations)
    scores = evaluate_coco(annotations, args.results)
    for line in (*annotation_lines(annotations), *scores.warnings):
        show(line, sys.stderr)
    show(scores.table())
    if args.classwise:
        show(scores.class_table())
    if args.plots is not None:
        draw_detection_charts(scores, find_mistakes(annotations, args.results), args.plots)
    return scores.report()


def _score_segmentation(args: argparse.Namespace) -> dict[str, Any]:
    labels, prediction_labels = LABEL_SETS[args.dataset], None
    if args.prediction_ids == "labelIds":
        if args.dataset != "cityscapes":
            raise UserError(
                f"--prediction-ids labelIds exist for cityscapes only, {args.dataset} has trainIds"
            )
        prediction_labels = LABEL_SETS["cityscapes_ids"]
    scores = evaluate_folders(args.predictions, args.annotations, labels, prediction_labels=prediction_labels)
    show(scores.table(labels.classes))
    if labels.categories:
        show(scores.category_table())
    if args.plots is not None:
        draw_confusion(*scores.chart(labels.classes), args.plots / CONFUSION, unit="pixels")
    return scores.report(labels.classes)
