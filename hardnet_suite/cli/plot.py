"""``plot WORK_DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

from hardnet_suite.cli._options import show
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable
from hardnet_suite.visualization.canvas import is_figure
from hardnet_suite.visualization.curves import plot_training, read_scalars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("work_dir", help="folder of the run")
    parser.add_argument("--out", help="image to write (default: WORK_DIR/training.png)")


def run(args: argparse.Namespace) -> None:
    logs = sorted(Path(args.work_dir).glob("*/vis_data/scalars.json"))
    rows = [row for log in logs for row in read_scalars(log)]
    if not rows:
        raise UserError(f"no training log under {args.work_dir} (*/vis_data/scalars.json)")
    out = Path(args.work_dir, "training.png") if args.out is None else Path(args.out)
    require_replaceable(out, is_figure, writer="plot", option="--out")
    try:
        plot_training(rows, out, title=Path(args.work_dir).name)
    except ValueError as error:  # unknown suffix, or nothing to plot
        raise UserError(f"cannot write {out}: {error}") from None
    show(f"plot: {out}")
