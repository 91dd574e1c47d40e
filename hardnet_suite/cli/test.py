"""``test CONFIG [CHECKPOINT]``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hardnet_suite.cli._options import (
    add_run_arguments,
    choose_device,
    is_cpu,
    load_run_config,
    require_data_root,
    set_threads,
    settle_config,
    settle_tag,
    show,
)
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.precision import settled_precision
from hardnet_suite.run_folders import is_run

if TYPE_CHECKING:
    from hardnet_suite.deploy.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="a file, also an exported one, or a run's folder: its best checkpoint, or its newest (default: "
        "the run in --work-dir)",
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
        help="draw predictions beside the ground truth into this folder, the worst first by name, "
        "and heat maps if the model has them",
    )
    parser.add_argument(
        "--score",
        "--show-score",
        type=float,
        metavar="S",
        help="detection: boxes with a score below S are neither drawn nor counted as mistakes and "
        "in the confusion matrix (default 0.3)",
    )
    parser.add_argument(
        "--worst",
        type=int,
        metavar="N",
        help="draw only the N images with the most mistakes into --show-dir",
    )
    parser.add_argument("--verbose", action="store_true", help="show the whole log")


def run(args: argparse.Namespace) -> None:
    args.precision = settled_precision(args.precision, bf16=args.bf16)
    is_of_registry = args.pretrained or args.weights is not None
    if is_of_registry and args.checkpoint:
        option = "--pretrained" if args.pretrained else "--weights"
        raise UserError(f"{option} scores weights of the registry, not {args.checkpoint}: give one of them")
    if args.pretrained and args.weights is not None:
        raise UserError("--pretrained and --weights each choose weights of the registry: leave out one")
    if args.show_dir and not args.show_dir.is_dir() and os.path.lexists(args.show_dir):
        what = "a file" if args.show_dir.exists() else "a link to nowhere"
        raise UserError(f"--show-dir {args.show_dir} is {what}: choose a folder")
    if args.weights is not None:
        args.weights = settle_tag(args.weights)
    if args.checkpoint is not None and not os.path.exists(os.path.expanduser(args.checkpoint)):
        raise UserError(f"{args.checkpoint or repr('')}: no such file or folder")
    session = _open_exported(args)
    cfg = load_run_config(args, suffix=lambda usual: _suffix(args, usual, exported=session is not None))
    from mmengine.dist import is_main_process

    from hardnet_suite.openmm.run.test import DeployedNetwork, TestOptions, draw, registry_weights, test

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
    if session is not None:
        checkpoint = DeployedNetwork(
            checkpoint=session.checkpoint,
            arch=session.arch,
            forward=session,
            engine=session.engine,
            engine_version=session.engine_version,
            precision=session.precision,
            weights=session.weights,
            finished=session.has_postprocess,
        )
    plan, outcome = test(cfg, checkpoint, options, announce=lambda line: show(f"weights: {line}"))
    if not is_main_process():
        return
    if outcome.summary:
        show(f"\n{outcome.summary}\n")
    for title, name in outcome.files.items():
        show(f"{title}: {plan.work_dir / name}")
    if args.show_dir:
        show(f"{counted(draw(plan, outcome, args.show_dir), 'image')}: {args.show_dir}")


def _open_exported(args: argparse.Namespace) -> Session | None:
    """An exported file in place of a checkpoint, in its engine, which settles precision and device."""
    if not args.checkpoint or os.path.isdir(os.path.expanduser(args.checkpoint)):
        return None
    choose_device(args.device)
    set_threads(args.threads)
    from hardnet_suite.deploy.session import is_for_engine, open_in_precision

    if not is_for_engine(args.checkpoint):
        return None
    settle_config(args)
    require_data_root(args)
    session, choice = open_in_precision(args.checkpoint, args.precision)
    if not is_cpu(args.device):
        raise UserError(f"--device {args.device}: {args.checkpoint} runs in {session.engine}, on the CPU")
    if choice is not None:
        show(f"precision: {choice}")
    args.precision, args.bf16 = None, False
    return session


def _suffix(args: argparse.Namespace, usual: Path, *, exported: bool) -> str:
    """Sets the work dir of weights that are not the run's apart from the run's, for whose figures theirs
    could be taken; so it does with every exported file."""
    from hardnet_suite.weights.runs import is_of_run

    if args.pretrained or args.weights is not None:
        return f"_{args.weights or 'pretrained'}"
    if exported:
        return f"_{Path(args.checkpoint).name.replace('.', '_')}"
    is_own = not args.checkpoint or not is_run(usual) or is_of_run(args.checkpoint, usual)
    return "" if is_own else f"_{Path(args.checkpoint).stem}"
