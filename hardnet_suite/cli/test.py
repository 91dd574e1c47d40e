"""``test CONFIG [CHECKPOINT]``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hardnet_suite.cli._options import add_run_arguments, load_run_config, show
from hardnet_suite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="a file, or a run's folder: its best checkpoint, or its newest (default: the run in --work-dir)",
    )
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="score the config's weights of the registry, by default the published ones",
    )
    parser.add_argument("--weights", metavar="TAG", help="score these of the registry, such as camvid")
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
    parser.add_argument(
        "--worst",
        type=int,
        metavar="N",
        help="draw only the N images with the most mistakes into --show-dir, the worst first by name",
    )
    parser.add_argument("--verbose", action="store_true", help="show the whole log")


def run(args: argparse.Namespace) -> None:
    is_of_registry = args.pretrained or args.weights is not None
    if is_of_registry and args.checkpoint:
        option = "--pretrained" if args.pretrained else "--weights"
        raise UserError(f"{option} scores weights of the registry: leave out {args.checkpoint}, or it")
    if args.pretrained and args.weights is not None:
        raise UserError("--pretrained and --weights each choose weights of the registry: leave out one")
    if args.show_dir and not args.show_dir.is_dir() and os.path.lexists(args.show_dir):
        what = "a file" if args.show_dir.exists() else "a link to nowhere"
        raise UserError(f"--show-dir {args.show_dir} is {what}: choose a folder")
    # apart from the run's, for whose figures others could be taken
    cfg = load_run_config(args, suffix=f"_{args.weights or 'pretrained'}" if is_of_registry else "")
    from mmengine.dist import is_main_process

    from hardnet_suite.openmm.run.test import TestOptions, draw, registry_weights, test

    options = TestOptions(
        draw=args.show_dir,
        score=args.score,
        worst=args.worst,
        flip=args.flip,
        scales=tuple(args.scales),
        format_only=args.format_only,
        verbose=args.verbose,
    )
    checkpoint = registry_weights(cfg, args.weights) if is_of_registry else args.checkpoint
    plan, outcome = test(cfg, checkpoint, options, announce=lambda line: show(f"weights: {line}"))
    if not is_main_process():
        return
    if outcome.summary:
        show(f"\n{outcome.summary}\n")
    for title, name in outcome.files.items():
        show(f"{title}: {plan.work_dir / name}")
    if args.show_dir:
        show(f"{draw(plan, outcome, args.show_dir)} images: {args.show_dir}")
