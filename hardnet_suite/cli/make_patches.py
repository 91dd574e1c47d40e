"""``make-patches SEQUENCE_DIR… --out FOLDER``, ``make-patches --warp IMAGE_DIR… --out FOLDER``."""

from __future__ import annotations

import argparse
import re
import sys
import time

from hardnet_suite.cli._options import show
from hardnet_suite.data.homography import read_sequences
from hardnet_suite.data.images import IMAGE_SUFFIXES, walk_files
from hardnet_suite.data.patch_extraction import (
    DETECTORS,
    Counts,
    Extraction,
    Source,
    sources_of_photographs,
    sources_of_sequences,
    write_patches,
)
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError

_EVERY = 10.0  # seconds between two lines of progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Extraction()
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="FOLDER",
        help="sequences (1.png, 2.png, …, H_1_2, …) or folders of sequences; with --warp, folders of images",
    )
    parser.add_argument("--out", required=True, help="folder to write to; must not exist, or be empty")
    parser.add_argument(
        "--warp", action="store_true", help="make random views of single photographs, in place of sequences"
    )
    parser.add_argument("--views", type=int, metavar="K", help="views per photograph with --warp (default 5)")
    parser.add_argument(
        "--patches-per-image",
        type=int,
        default=defaults.patches_per_image,
        metavar="N",
        help=f"most keypoints per first image (default {defaults.patches_per_image})",
    )
    parser.add_argument(
        "--detectors",
        nargs="+",
        choices=DETECTORS,
        default=list(defaults.detectors),
        help="what finds the keypoints (default: sift)",
    )
    parser.add_argument(
        "--region",
        type=float,
        default=defaults.region,
        help=f"side of a patch in sizes of its keypoint (default {defaults.region:g}: 12 σ of SIFT)",
    )
    parser.add_argument(
        "--min-size",
        type=float,
        default=defaults.min_size,
        metavar="PIXELS",
        help=f"least size of a keypoint (default {defaults.min_size:g})",
    )
    parser.add_argument(
        "--only",
        choices=["brown", "hpatches"],
        help="write the training set alone, or the strips alone (default: both)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="random seed (default 0)")


def run(args: argparse.Namespace) -> None:
    if args.views is not None and not args.warp:
        raise UserError("--views is for --warp: sequences have the views that they have")
    views = 5 if args.views is None else args.views
    if not 1 <= views <= 1000:
        raise UserError(f"--views {views}: expected 1 to 1000")
    try:
        options = Extraction(
            detectors=tuple(args.detectors),
            patches_per_image=args.patches_per_image,
            region=args.region,
            min_size=args.min_size,
            seed=args.seed,
            training=args.only != "hpatches",
            strips=args.only != "brown",
        )
    except ValueError as error:
        raise UserError(re.sub(r"^(\w+)=(\S+):", _as_option, str(error))) from None
    if args.warp:
        images = [path for folder in args.folders for path in walk_files(folder, IMAGE_SUFFIXES)]
        if not images:
            raise UserError(f"no images in {', '.join(args.folders)}")
        sources = sources_of_photographs(images, views)
    else:
        sources = sources_of_sequences(each for folder in args.folders for each in read_sequences(folder))
    start = time.monotonic()
    made_from = {"folders": args.folders, "warp": args.warp, "views": views if args.warp else None}
    total = write_patches(args.out, sources, options, _Progress(len(sources), args.warp), made_from)
    seconds = time.monotonic() - start
    show(f"{counted(total.images, 'image')}: {_described(total)}")
    if total.patches:
        show(f"training set: {args.out}/brown ({counted(total.patches, 'patch')})")
    if total.strips:
        show(f"strips: {args.out}/hpatches ({counted(total.strips, 'point')})")
    show(f"{seconds:.0f} s")


def _as_option(name: re.Match) -> str:
    return f"--{name[1].replace('_', '-')} {name[2]}:"


class _Progress:
    """Tells of each sequence, or now and then how many of the photographs are done."""

    def __init__(self, count: int, warped: bool):
        self.count, self.warped = count, warped
        self.done, self.total = 0, Counts()
        self.last = time.monotonic()

    def __call__(self, source: Source, counts: Counts) -> None:
        self.done += 1
        self.total += counts
        if not self.warped:
            show(f"{source.name}: {_described(counts)}")
        elif not counts.points:
            show(f"{source.name}: {_described(counts)}", sys.stderr)
        elif time.monotonic() - self.last > _EVERY:
            self.last = time.monotonic()
            show(f"{self.done}/{self.count}  {counted(self.total.points, 'point')}")


def _described(counts: Counts) -> str:
    dropped = {
        "too small": counts.small,
        "overlap others": counts.duplicates,
        "leave an image": counts.outside,
        "without contrast": counts.flat,
        "beyond --patches-per-image": counts.unused,
    }
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in dropped.items() if number)
    kept = f"{counts.points:,} kept" + (f", {counts.strips:,} of them in all images" if counts.strips else "")
    return f"{counted(counts.keypoints, 'keypoint')}, {reasons + ', ' if reasons else ''}{kept}"
