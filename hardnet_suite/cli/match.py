"""``match a.png b.png --out matches.png``."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from hardnet_suite.cli._options import set_threads, show
from hardnet_suite.cli.describe import add_descriptor_arguments, choose_descriptor_device
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_different, require_replaceable, write_file

_PROGRAM = "hardnet-suite match"
_SUFFIXES = (".png", ".jpg", ".jpeg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="an image: a file or an address")
    parser.add_argument("b", metavar="B", help="the other image")
    parser.add_argument("--out", type=Path, help="draw the inliers into this file, .png or .jpg")
    parser.add_argument("--json", type=Path, help="write keypoints, matches and geometry to this file")
    parser.add_argument(
        "--hloc",
        type=Path,
        metavar="FOLDER",
        help="write features.h5 and matches.h5 of hloc (this pair)",
    )
    parser.add_argument(
        "--colmap",
        type=Path,
        metavar="FOLDER",
        help="write the text files that COLMAP imports (this pair)",
    )
    parser.add_argument(
        "--model",
        choices=("homography", "fundamental", "none"),
        default="homography",
        help="what verifies the matches (default: homography, for planar scenes and turned cameras)",
    )
    parser.add_argument(
        "--ratio",
        type=float,
        default=0.9,
        help="largest ratio of the nearest to the second nearest distance; 1: no ratio test (default 0.9)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="pixels by which an inlier may be off (default 3); of a fundamental matrix the Sampson distance",
    )
    parser.add_argument("--top-k", type=int, default=2048, help="keypoints per image (default 2048)")
    parser.add_argument(
        "--upright",
        action="store_true",
        help="the images are not rotated against each other; with --keynet, leave out --orinet instead",
    )
    parser.add_argument("--keynet", metavar="FILE", help="keypoints of Key.Net, its weights (needs Kornia)")
    parser.add_argument("--affnet", metavar="FILE", help="with --keynet: affine shapes, weights of AffNet")
    parser.add_argument("--orinet", metavar="FILE", help="with --keynet: orientations, weights of OriNet")
    parser.add_argument("--outliers", action="store_true", help="draw the other matches, too, in white")
    add_descriptor_arguments(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    choose_descriptor_device(args)
    set_threads(args.threads)
    from hardnet_suite.matching import HardNetDetector, KeyNetDetector, match_features
    from hardnet_suite.matching.export import (
        colmap_files,
        hloc_files,
        relative_names,
        require_colmap_length,
        require_colmap_replaceable,
        require_hloc_replaceable,
        require_names,
        require_stored_upright,
        write_colmap,
        write_hloc,
    )
    from hardnet_suite.matching.images import read_image
    from hardnet_suite.visualization.canvas import save_drawing

    images = [read_image(source) for source in (args.a, args.b)]  # first, as a wrong name is told at once
    names = relative_names([name for name, _ in images])
    if images[0][0] == images[1][0] and (args.hloc or args.colmap):
        raise UserError("--hloc and --colmap take matches of two images, got one twice")
    for program, folder in (("hloc", args.hloc), ("COLMAP", args.colmap)):
        if folder is not None:
            require_names(program, names)
            require_stored_upright(program, [name for name, _ in images])
    own = {"--out": args.out, "--json": args.json}  # hloc's and COLMAP's files may share a folder
    if args.hloc is not None:
        require_different({**own, "--hloc": hloc_files(args.hloc)})
        require_hloc_replaceable(args.hloc, (names[0], names[1]))
    if args.colmap is not None:
        require_different({**own, "--colmap": colmap_files(args.colmap, names)})
        require_colmap_replaceable(args.colmap, names, (names[0], names[1]))
    keynet = None
    if args.keynet is not None:
        keynet = KeyNetDetector(args.keynet, affnet=args.affnet, orinet=args.orinet, device=args.device)
    detector = HardNetDetector(
        args.descriptor,
        weights=args.weights,
        top_k=args.top_k,
        upright=args.upright,
        detector=keynet,
        channels="rgb",
        bf16=args.bf16,
    )
    if args.colmap is not None:
        require_colmap_length(detector.descriptorSize())
    show(f"weights: {detector.model.weights}")
    start = time.perf_counter()
    features = [detector.features(image, name=name) for name, image in images]
    for each in features:
        show(f"{each.name}: {each.size[0]}×{each.size[1]} pixels, {counted(len(each.keypoints), 'keypoint')}")
    ratio = None if args.ratio == 1 else args.ratio  # of 1, ties and single descriptors would fail the test
    matches = match_features(*features, geometry=args.model, ratio=ratio, threshold=args.threshold)
    show(f"{matches.summary()}, {time.perf_counter() - start:.1f} s")
    if matches.matrix is not None:
        show("\n".join("  ".join(f"{value:12.6g}" for value in row) for row in matches.matrix))
    if args.out is not None:
        import numpy as np

        save_drawing(args.out, np.array(matches.draw(outliers=args.outliers)))
        show(f"drawing: {args.out}")
    if args.json is not None:
        write_file(args.json, json.dumps({"program": _PROGRAM, **matches.to_dict()}) + "\n")
        show(f"matches: {args.json}")
    if args.hloc is not None:
        show(f"hloc: {write_hloc(args.hloc, [matches])}")
    if args.colmap is not None:
        show(f"COLMAP: {write_colmap(args.colmap, [matches])}")
    return 0 if len(matches) and (args.model == "none" or matches.geometry is not None) else 1


def _check(args: argparse.Namespace) -> None:
    if not 0 < args.ratio <= 1:
        raise UserError(f"--ratio {args.ratio}: expected above 0 and at most 1")
    if args.threshold is not None:
        if not 0 < args.threshold < float("inf"):
            raise UserError(f"--threshold {args.threshold}: expected a positive number of pixels")
        if args.model == "none":
            raise UserError("--threshold is for the inliers of a geometry: leave it out with --model none")
    if args.top_k < 1:
        raise UserError(f"--top-k {args.top_k}: expected at least 1")
    if args.keynet is None and (args.affnet or args.orinet):
        raise UserError("--affnet and --orinet are for the keypoints of --keynet")
    if args.upright and args.keynet is not None:
        raise UserError(
            "--upright and --keynet exclude each other: without --orinet, keypoints of Key.Net are upright"
        )
    if args.outliers and (args.out is None or args.model == "none"):
        raise UserError(
            "--outliers draws what a geometry rejects: it needs --out, and another --model than none"
        )
    if args.out is not None:
        if args.out.suffix.lower() not in _SUFFIXES:
            raise UserError(f"--out {args.out}: expected a file {', '.join(_SUFFIXES)}")
        from hardnet_suite.visualization.canvas import is_drawing

        require_replaceable(args.out, is_drawing, writer="match", option="--out")
        for image in (args.a, args.b):
            if args.out.exists() and os.path.exists(image) and args.out.samefile(image):
                raise UserError(f"--out {args.out} is one of the images: choose another file")
    if args.json is not None:
        require_replaceable(args.json, _is_report, writer="match", option="--json")
        require_different({"--out": args.out, "--json": args.json})
    if args.hloc is not None:
        from hardnet_suite.matching.export import require_hloc_replaceable

        require_hloc_replaceable(args.hloc)
    for folder in (args.hloc, args.colmap):
        if folder is not None and os.path.lexists(folder) and not folder.is_dir():
            raise UserError(f"{folder}: expected a folder")


def _is_report(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(200).startswith(json.dumps({"program": _PROGRAM})[:-1].encode())
