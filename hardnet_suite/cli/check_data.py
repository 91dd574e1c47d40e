"""``check-data CONFIG``."""

from __future__ import annotations

import argparse
import sys

from hardnet_suite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a path, or a name such as ssd512_hardnet68")
    parser.add_argument("--data-root", help="folder of the data; moves every path of the config")
    parser.add_argument("--quick", action="store_true", help="do not decode the images")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="entries to change")


def run(args: argparse.Namespace) -> int:
    from hardnet_suite.openmm.data import parts
    from hardnet_suite.openmm.run import configs

    cfg = configs.load_config(args.config, configs.parse_options(args.cfg_options))
    if args.data_root:
        configs.set_data_root(cfg, args.data_root)
    errors = checked = 0
    for part in parts.parts(cfg):
        report = part.check(read=not args.quick)
        if report is None:
            continue
        checked += 1
        print(f"{part.loader}\n{report.table()}\n")
        errors += len(report.errors)
        for count in parts.class_counts(cfg) - {len(part.classes)}:
            print(f"error: the model has num_classes={count}, the data set {len(part.classes)} classes\n")
            errors += 1
    if not checked:
        raise UserError(f"{args.config} names no data that can be checked")
    print(f"{errors} errors", file=sys.stderr if errors else sys.stdout)
    return 1 if errors else 0
