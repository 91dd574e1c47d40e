"""``test CONFIG [CHECKPOINT]``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hardnet_suite.cli._options import add_run_arguments, load_run_config, show
from hardnet_suite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="a file, or a run's folder; default: published weights")
    parser.add_argument(
        "--pretrained", action="store_true", help="the published weights, as without a checkpoint"
    )
    parser.add_argument(
        "--flip", action="store_true", help="score the mean of each image and its mirror image"
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="S",
        help="segmentation: score the mean over these sizes of each image (e.g. 0.75 1 1.25)",
    )
    parser.add_argument(
        "--format-only",
        action="store_true",
        help="segmentation, detection: save predictions for a test server, without labels and scores",
    )
    parser.add_argument(
        "--show-dir",
        type=Path,
        help="draw predictions beside the ground truth into this folder, and heat maps if the model has them",
    )
    parser.add_argument(
        "--score",
        "--show-score",
        type=float,
        metavar="S",
        help="detection: do not draw boxes with a score below S (default 0.3)",
    )


def run(args: argparse.Namespace) -> None:
    if args.pretrained and args.checkpoint:
        raise UserError(f"--pretrained is for the published weights: leave out {args.checkpoint}, or it")
    if args.show_dir and not args.show_dir.is_dir() and os.path.lexists(args.show_dir):
        what = "a file" if args.show_dir.exists() else "a link to nowhere"
        raise UserError(f"--show-dir {args.show_dir} is {what}: choose a folder")
    cfg = load_run_config(args)
    from mmengine.dist import is_main_process

    from hardnet_suite.openmm.run.test import METRICS, TestOptions, draw, test

    options = TestOptions(
        draw=args.show_dir,
        score=args.score,
        flip=args.flip,
        scales=tuple(args.scales),
        format_only=args.format_only,
    )
    plan, outcome = test(cfg, args.checkpoint, options)
    if not is_main_process():
        return
    for title, name in (("figures", METRICS), *plan.part.outputs.items()):
        show(f"{title}: {plan.work_dir / name}")
    if args.show_dir:
        show(f"{draw(plan, outcome, args.show_dir)} images: {args.show_dir}")
