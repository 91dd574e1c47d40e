"""``check-data CONFIG``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from hardnet_suite.cli._options import add_config_arguments, read_config, settle_config, show
from hardnet_suite.data.boxes import images_beside, told_left_out
from hardnet_suite.data.files import looking_once, real_path
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
    unlabelled = []
    for part in parts.parts(cfg):
        report = part.check(read=not args.quick)
        if report is None:
            unlabelled.append(part.key)
            continue
        checked += 1
        show(f"{part.loader}\n{report.table()}\n")
        errors += len(report.errors)
        for option, count, expected in parts.wrong_counts(cfg, part):
            show(f"error: the model has {option}={count}, the data set {counted(expected, 'class')}\n")
            errors += 1
    training = [*parts.parts(cfg, ["train_dataloader"])]
    for part in parts.parts(cfg, ["val_dataloader", "test_dataloader"]):  # also where it is the training data
        line = parts.trained_on(part, training, copies=not args.quick).warning
        if line and part.key not in unlabelled:
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
