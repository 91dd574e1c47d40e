"""Matching mAP of descriptors on folders of HPatches strips, in one table.

    python benchmarks/hpatches_strips.py STRIPS --weights homography best.pth --hardtfeat HardTFeat.pth

STRIPS is a sequence (ref.png, e1.png, …) or a folder of sequences, such as HPatches or what
``hardnet-suite make-patches`` writes. The task is patch matching of HPatches; SIFT and RootSIFT are those of
OpenCV on the same patches.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hardtfeat
import numpy as np

from hardnet_suite.data.hpatches import LEVELS, read_sequence_strips, strip_folders
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.hpatches import hpatches
from hardnet_suite.evaluation.tables import class_table
from hardnet_suite.matching.sift import sift_descriptors
from hardnet_suite.outputs import write_file

BASELINE = "RootSIFT"


def describers(
    weights: list[str], hardtfeat_file: str | None
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Name -> function from (N, h, h) uint8 patches to (N, D) descriptors."""
    functions = {"SIFT": partial(sift_descriptors, root=False), BASELINE: sift_descriptors}
    if hardtfeat_file is not None:
        functions["HardTFeat"] = partial(hardtfeat.describe, hardtfeat.load_hardtfeat(hardtfeat_file))
    for source in weights:
        from hardnet_suite.matching import describe, load_descriptor

        functions[f"HardNet {source}"] = partial(describe, load_descriptor(weights=source))
    return functions


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("strips", help="a sequence of strips, or a folder of sequences")
    parser.add_argument(
        "--weights", nargs="+", default=[], help="of HardNet: tags such as homography, or files"
    )
    parser.add_argument("--hardtfeat", metavar="FILE", help="weights of HardTFeat")
    parser.add_argument("--sequences", nargs="+", help="names of the sequences to use (default: all)")
    parser.add_argument("--out", help="write the scores to this file as JSON")
    args = parser.parse_args(argv)
    folders = {folder.name: folder for folder in strip_folders(args.strips)}
    missing = [name for name in args.sequences or () if name not in folders]
    if missing or not folders:
        raise UserError(f"{args.strips} has no sequences of strips {', '.join(missing)}".rstrip())
    if args.out is not None and Path(args.out).exists():
        raise UserError(f"{args.out} exists: move it away, or choose another --out")
    strips = {name: read_sequence_strips(folders[name]) for name in args.sequences or folders}
    count = sum(len(patches) for sequence in strips.values() for patches in sequence.values())
    print(f"{len(strips)} sequences, {count:,} patches")
    scores: dict[str, dict[str, float]] = {}
    for name, describe in describers(args.weights, args.hardtfeat).items():
        start = time.perf_counter()
        descriptors = {
            sequence: {strip: describe(patches) for strip, patches in content.items()}
            for sequence, content in strips.items()
        }
        rate = count / (time.perf_counter() - start)
        levels = hpatches(descriptors, None, None, tasks=["matching"])["matching"]
        mean = float(np.mean([scores["ap"] for scores in levels.values()]))
        scores[name] = {LEVELS[level]: values["ap"] for level, values in levels.items()}
        scores[name] |= {"mean": mean, "patches/s": rate}
    base = scores[BASELINE]["mean"]
    columns = {key: [100 * entry[key] for entry in scores.values()] for key in (*LEVELS.values(), "mean")}
    columns[f"/ {BASELINE}"] = [entry["mean"] / base if base else float("nan") for entry in scores.values()]
    columns["patches/s"] = [round(entry["patches/s"]) for entry in scores.values()]
    print(class_table(list(scores), columns, digits=2, heading="matching mAP, %"))
    if args.out is not None:
        write_file(args.out, json.dumps({"sequences": list(strips), "matching": scores}, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
