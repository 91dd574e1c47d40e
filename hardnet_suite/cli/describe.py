"""``describe ref.png out.npz``, ``describe FOLDER OUT``."""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hardnet_suite.cli._options import (
    add_bf16_argument,
    add_threads_argument,
    choose_device,
    is_cpu,
    set_threads,
    show,
)
from hardnet_suite.data.descriptors import KEY, is_descriptors, write_descriptors
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable, whole_file

if TYPE_CHECKING:
    from torch import nn

_SUFFIXES = (".npz", ".txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "strips", type=Path, help="an HPatches strip (ref.png), a sequence of strips, or a folder of these"
    )
    parser.add_argument(
        "out",
        type=Path,
        help=f"of a strip: a file .npz (array {KEY!r}, N×D float32) or .txt (a row per patch, as the "
        "original program); of folders: a folder, for SEQUENCE/STRIP.npz",
    )
    add_descriptor_arguments(parser)


def add_descriptor_arguments(parser: argparse.ArgumentParser) -> None:
    """Which network describes the patches, and where."""
    parser.add_argument(
        "--descriptor",
        default="hardnet_descriptor",
        metavar="MODEL",
        help="a name such as hardnet_descriptor (default), a file of weights, an exported file, or a run's "
        "folder",
    )
    parser.add_argument("--weights", help="a tag such as homography (default) or published, or a file")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add_threads_argument(parser)
    add_bf16_argument(parser)


def choose_descriptor_device(args: argparse.Namespace) -> None:
    """``choose_device`` for the network that describes; UserError for a GPU and an exported file."""
    choose_device(args.device)
    if is_cpu(args.device):
        return
    from hardnet_suite.deploy.session import is_for_engine

    for source in filter(None, (args.descriptor, args.weights)):
        if is_for_engine(source):
            raise UserError(f"--device {args.device}: {source} is an exported file, which runs on the CPU")


def run(args: argparse.Namespace) -> None:
    strips, out = args.strips, args.out
    if strips.is_dir():
        if out.suffix in _SUFFIXES or (os.path.lexists(out) and not out.is_dir()):
            raise UserError(f"{out}: expected a folder for the descriptors of the strips in {strips}")
    else:
        if out.suffix not in _SUFFIXES:
            raise UserError(f"{out}: expected a file {' or '.join(_SUFFIXES)} for the descriptors of a strip")
        require_replaceable(out, _is_own, writer="describe", option="file")
    choose_descriptor_device(args)
    set_threads(args.threads)
    from hardnet_suite.data.hpatches import read_sequence_strips, read_strip, strip_folders

    if not strips.is_dir():
        patches = read_strip(strips)  # first, as a wrong file is told at once
        _describe(_load(args), patches, out, args.bf16)
        return
    folders = strip_folders(strips)
    if not folders:
        raise UserError(f"no strips in {strips}: expected ref.png, e1.png, … in it or in its folders")
    for folder in folders:
        for path in sorted(folder.glob("*.png")):
            require_replaceable(_place(out, folder, path.stem), _is_own, writer="describe", option="folder")
    model = _load(args)
    for folder in folders:
        for name, patches in read_sequence_strips(folder).items():
            _describe(model, patches, _place(out, folder, name), args.bf16)


def _load(args: argparse.Namespace) -> nn.Module:
    from hardnet_suite.matching.patches import open_descriptor

    model = open_descriptor(args.descriptor, weights=args.weights, bf16=args.bf16)
    show(f"weights: {model.weights}")
    return model


def _place(out: Path, folder: Path, strip: str) -> Path:
    return out / Path(os.path.abspath(folder)).name / f"{strip}.npz"


def _describe(model: nn.Module, patches: np.ndarray, path: Path, bf16: bool) -> None:
    from hardnet_suite.matching.patches import describe, digest_of

    start = time.perf_counter()
    descriptors = describe(model, patches, bf16=bf16)
    rate = len(patches) / max(1e-9, time.perf_counter() - start)
    if path.suffix == ".txt":
        with whole_file(path) as temporary, temporary.open("xb") as stream:
            np.savetxt(stream, descriptors, fmt="%10.5f")
    else:
        write_descriptors(path, descriptors, weights=digest_of(model), patches=patches)
    count, length = descriptors.shape
    show(f"{path}: {counted(count, 'descriptor')} of {length} numbers ({rate:,.0f} patches/s)")


def _is_own(path: Path) -> bool:
    """Whether a file is what an earlier run wrote: by its mark, or a text by its fixed columns."""
    if path.suffix == ".txt":
        with path.open("rb") as stream:
            line = stream.readline(1 << 20)
        return re.fullmatch(rb"( *-?\d+\.\d{5})(?: +-?\d+\.\d{5})+\n", line) is not None
    return is_descriptors(path)
