"""``samples [FOLDER]``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import hardnet_suite
from hardnet_suite.cli._options import show
from hardnet_suite.outputs import require_replaceable, write_file

SAMPLES = Path(hardnet_suite.__file__).parent / "data" / "samples"
# image -> the model and the weights in the package that it is for
MODELS = {
    "cells.jpg": ("ssd320_hardnet39ds", "bccd"),
    "street.jpg": ("fchardnet70", "camvid_trainval"),
    "bus.jpg": ("hardnet39ds", "tiny_imagenet10"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default=".", help="where to write them (default: this folder)")


def run(args: argparse.Namespace) -> None:
    contents = {Path(args.folder) / name: (SAMPLES / name).read_bytes() for name in MODELS}
    for path, content in contents.items():
        require_replaceable(
            path, lambda old, new=content: old.read_bytes() == new, writer="samples", option="folder"
        )
    for path, content in contents.items():
        write_file(path, content)
        model, weights = MODELS[path.name]
        show(
            f"hardnet-suite predict {shlex.quote(str(path))} --model {model} --weights {weights} --out found"
        )
