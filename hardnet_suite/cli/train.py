"""``train CONFIG``."""

from __future__ import annotations

import argparse

from hardnet_suite.cli._options import add_run_arguments, load_run_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CHECKPOINT",
        help="resume from the work dir's newest checkpoint (or from the one given)",
    )
    parser.add_argument("--from-scratch", action="store_true", help="start from random weights")


def run(args: argparse.Namespace) -> None:
    cfg = load_run_config(args)
    from mmengine.dist import is_main_process

    from hardnet_suite.openmm.run.train import train

    train(cfg, from_scratch=args.from_scratch, resume=args.resume)
    if is_main_process():
        print(f"checkpoints and logs are in {cfg.work_dir}")
