"""``configs [NAME]``: lists the suite's configs, or copies one to start from."""

from __future__ import annotations

import argparse
import os
import shlex

from hardnet_suite.cli._options import show
from hardnet_suite.config_names import find_config, own_configs
from hardnet_suite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a config of the list: print it, flat and with its comments")
    parser.add_argument("--copy", metavar="FILE.py", help="write it into this file instead, to be edited")


def run(args: argparse.Namespace) -> None:
    from hardnet_suite.outputs import write_file

    if args.copy is not None:
        if args.name is None:
            raise UserError("--copy writes one config: hardnet-suite configs NAME --copy FILE.py")
        if not args.copy.endswith(".py"):
            raise UserError(f"--copy {args.copy}: expected the name of a Python file (.py)")
        if os.path.lexists(args.copy):
            raise UserError(f"{args.copy} exists, and may be edited: move it away, or choose another file")
    name = None if args.name is None else find_config(args.name, or_path=False).stem
    from hardnet_suite.openmm.run.config_copies import flat_copy, summary

    configs = own_configs()
    if name is None:
        width = max(map(len, configs))
        for each, path in configs.items():
            show(f"{each.ljust(width)}  {summary(path)}")
        return
    if args.copy is None:
        show(flat_copy(name).rstrip("\n"))
        return
    write_file(args.copy, flat_copy(name))
    show(f"config: {args.copy}")
    show(f"next: edit it, then hardnet-suite check-data {shlex.quote(str(args.copy))}")
