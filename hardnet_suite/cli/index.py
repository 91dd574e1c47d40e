"""``index IMAGES --out INDEX``."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

from hardnet_suite.cli._options import set_threads, show
from hardnet_suite.cli.describe import add_descriptor_arguments, choose_descriptor_device
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable

_SUFFIX = ".safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="images, folders, patterns or addresses")
    parser.add_argument("--out", type=Path, required=True, metavar="INDEX", help="the file, .safetensors")
    parser.add_argument("--add", action="store_true", help="add the images to the index that is there")
    parser.add_argument(
        "--method", choices=("vlad", "bow"), help="vlad (default), or bow: bag of words with tf-idf"
    )
    parser.add_argument(
        "--words", type=int, metavar="N", help="size of the codebook (default: vlad 64, bow 4096)"
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="keypoints per image (default 1000)")
    parser.add_argument(
        "--upright", action="store_true", help="the images are not rotated against each other"
    )
    parser.add_argument("--seed", type=int, help="of the codebook (default 0)")
    add_descriptor_arguments(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    choose_descriptor_device(args)
    set_threads(args.threads)
    from hardnet_suite.matching import HardNetDetector
    from hardnet_suite.matching.aggregation import load_faiss
    from hardnet_suite.matching.index import TOP_K, build_index, is_index, load_index

    if not args.add:
        require_replaceable(args.out, is_index, writer="index", option="--out")
    load_faiss()
    start = time.perf_counter()
    failed: list[tuple[str, str]] = []
    images = args.images[0] if len(args.images) == 1 else args.images
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        warnings.simplefilter("always", UserWarning)
        if args.add:
            index = load_index(args.out, model=args.descriptor, weights=args.weights, bf16=args.bf16)
            show(f"weights: {index.detector.model.weights}")
            added = index.add(images, failed=failed)
            if not added:
                raise UserError("no image to add: none can be read and has keypoints")
        else:
            detector = HardNetDetector(
                args.descriptor,
                weights=args.weights,
                top_k=args.top_k or TOP_K,
                upright=args.upright,
                channels="rgb",
                bf16=args.bf16,
            )
            show(f"weights: {detector.model.weights}")
            index = build_index(
                images,
                detector=detector,
                method=args.method or "vlad",
                words=args.words,
                seed=args.seed,
                failed=failed,
            )
            added = len(index)
    index.save(args.out)
    skipped = f", {len(failed):,} skipped" if failed else ""
    show(
        f"{args.out}: {added:,} image{'s' * (added != 1)} added{skipped}, {len(index):,} in all, "
        f"{index.method} of {len(index.codebook):,} words, {time.perf_counter() - start:.1f} s"
    )
    return 1 if failed else 0


def _show_warning(message: Warning | str, *_: object) -> None:
    show(f"warning: {message}", sys.stderr)


def _check(args: argparse.Namespace) -> None:
    if args.out.suffix != _SUFFIX:
        raise UserError(f"--out {args.out}: expected a file *{_SUFFIX}")
    for option, fewest in (("words", 2), ("top_k", 1)):
        value = getattr(args, option)
        if value is not None and value < fewest:
            raise UserError(f"--{option.replace('_', '-')} {value}: expected at least {fewest}")
    for option in ("method", "words", "top_k", "upright", "seed") if args.add else ():
        value = getattr(args, option)
        if value is not None and value is not False:  # 0 is a seed
            raise UserError(f"--add keeps the index's own: leave out --{option.replace('_', '-')}")
