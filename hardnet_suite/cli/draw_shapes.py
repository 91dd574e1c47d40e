"""``draw-shapes FOLDER``."""

from __future__ import annotations

import argparse

from hardnet_suite.cli._options import show
from hardnet_suite.data.shapes import SETS, write_shapes
from hardnet_suite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder to write the data set to")
    parser.add_argument("--train", type=int, default=600, help="number of training images (default 600)")
    parser.add_argument("--val", type=int, default=100, help="number of held-out images (default 100)")
    parser.add_argument("--size", type=int, default=320, help="height and width in pixels (default 320)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument(
        "--objects",
        choices=SETS,
        default="shapes",
        help="what is drawn: shapes (default), or symbols, other objects",
    )


def run(args: argparse.Namespace) -> None:
    try:
        folder = write_shapes(
            args.folder,
            train=args.train,
            val=args.val,
            size=args.size,
            seed=args.seed,
            objects=args.objects,
        )
    except ValueError as error:  # a number out of range
        raise UserError(f"cannot draw shapes: {error}") from None
    show(f"drawn {args.objects}: {folder} ({args.train} training and {args.val} held-out images)")
    show(f"crops of single {args.objects}, one folder per class: {folder / 'classes'}")
