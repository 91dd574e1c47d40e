"""``check-data CONFIG``."""

from __future__ import annotations

import argparse
import sys

from hardnet_suite.cli._options import add_config_arguments, read_config, settle_config, show
from hardnet_suite.data.files import looking_once
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
    for part in parts.parts(cfg):
        report = part.check(read=not args.quick)
        if report is None:
            continue
        checked += 1
        show(f"{part.loader}\n{report.table()}\n")
        errors += len(report.errors)
        for option, count, expected in parts.wrong_counts(cfg, part):
            show(f"error: the model has {option}={count}, the data set {expected} classes\n")
            errors += 1
    if not checked:
        raise UserError(f"{args.config} names no data that can be checked")
    for require in (parts.require_same_data_classes, lambda cfg: parts.require_evaluator(cfg, parts.LOADERS)):
        try:
            require(cfg)
        except UserError as error:
            show(f"error: {error}\n")
            errors += 1
    show(f"{errors} errors", sys.stderr if errors else sys.stdout)
    return 1 if errors else 0
