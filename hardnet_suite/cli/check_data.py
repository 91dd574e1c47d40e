"""``check-data CONFIG``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardnet_suite.cli._options import add_config_arguments, read_config, settle_config, show
from hardnet_suite.data.boxes import images_beside, told_left_out
from hardnet_suite.data.files import copies_across, looking_once, real_path
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="do not decode the images")


def run(args: argparse.Namespace) -> int:
    settle_config(args)
    with looking_once():
        return _check(args)


def _check(args: argparse.Namespace) -> int:
    from hardnet_suite.openmm.data import parts

    cfg = read_config(args)
    errors = checked = 0
    training: list[Path] = []
    for part in parts.parts(cfg):
        report = part.check(read=not args.quick)
        if report is None:
            continue
        checked += 1
        show(f"{part.loader}\n{report.table()}\n")
        errors += len(report.errors)
        for option, count, expected in parts.wrong_counts(cfg, part):
            show(f"error: the model has {option}={count}, the data set {counted(expected, 'class')}\n")
            errors += 1
        if part.loader == "train_dataloader":
            training += _files(part)
        elif line := _trained_on(part, training, read=not args.quick):
            show(f"warning: {line}\n")
    for line in _left_out([*parts.parts(cfg)]):
        show(f"warning: {line}\n")
    if not checked:
        raise UserError(f"{args.config} names no data that can be checked")
    for require in (parts.require_same_data_classes, lambda cfg: parts.require_evaluator(cfg, parts.LOADERS)):
        try:
            require(cfg)
        except UserError as error:
            show(f"error: {error}\n")
            errors += 1
    show(counted(errors, "error"), sys.stderr if errors else sys.stdout)
    return 1 if errors else 0


def _files(part: Any) -> Sequence[Path]:
    try:
        return part.files()
    except UserError:  # told by the report
        return ()


def _left_out(parts: Sequence[Any]) -> list[str]:
    """What to say of images that lie beside those of the data sets, and that none of these names."""
    try:
        named = [path for part in parts for path in part.named_files()]
        beside = images_beside(named, filter(os.path.isdir, {path.parent for path in named}))
        # of data sets that name none, too, such as folders of classes beside a list
        used = {real_path(path) for part in parts for path in part.files()} if beside else set()
        beside = [path for path in beside if real_path(path) not in used]
    except UserError:  # told by the reports
        return []
    told = told_left_out(beside, "that no data set of the config names")
    return [f"{finding.kind}: {finding.where}: {finding.what}" for finding in told]


def _trained_on(part: Any, training: Sequence[Path], *, read: bool) -> str | None:
    """What to say of files of a data set that are training data as well: its scores flatter.

    Args:
        part: the data set, for validation or test.
        training: files of the training data.
        read: compares contents, and not only paths.
    """
    files, places = _files(part), {real_path(path): path for path in training}
    twins = {path: places[real] for path in files if (real := real_path(path)) in places}
    if read:
        own = [path for path in files if path not in twins]
        twins |= {path: first for first, path in copies_across({"training": training, part.loader: own})}
    if not twins:
        return None
    path, first = next(iter(twins.items()))
    of = "" if real_path(path) == real_path(first) else f", a copy of {first}"
    return (
        f"{len(twins)} of {len(files)} files of {part.loader} are training data as well, such as {path}{of}: "
        "its scores say nothing of other images"
    )
