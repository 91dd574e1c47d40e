"""``plot WORK_DIR``."""

from __future__ import annotations

import argparse

from hardnet_suite.cli._options import show
from hardnet_suite.visualization.curves import plot_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("work_dir", help="folder of the run")
    parser.add_argument("--out", help="image to write (default: WORK_DIR/training.png)")


def run(args: argparse.Namespace) -> None:
    show(f"plot: {plot_run(args.work_dir, args.out)}")
