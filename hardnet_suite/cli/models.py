"""``models``."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="", help="only models whose name holds this")


def run(args: argparse.Namespace) -> None:
    from hardnet_suite.errors import UserError
    from hardnet_suite.networks import list_models
    from hardnet_suite.weights import ROWS, where

    names = [name for name in list_models() if args.pattern in name]
    if not names:
        raise UserError(f"no model whose name holds {args.pattern!r}; there are {', '.join(list_models())}")
    head = (
        "model",
        "input",
        "parameters",
        "multiply-adds",
        "weights",
        "where",
        "licence",
        "published metric",
    )
    table = [head]
    for name in names:
        first = (name, *_measured(name))
        rows = [row for row in ROWS if row.model == name]
        for number, row in enumerate(rows or [None]):
            left = first if number == 0 else ("",) * len(first)
            right = (row.tag, where(row), row.licence, row.metric) if row else ("–", "", "", "")
            table.append((*left, *right))
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _measured(name: str) -> tuple[str, str, str]:
    """(usual input, parameters, multiply-adds)."""
    import torch

    from hardnet_suite.networks import (
        ARCHS,
        PREPROCESS,
        FCHarDNetArch,
        build_network,
        count_parameters,
        multiply_adds,
    )

    side = PREPROCESS[name].size or 512
    size = (1024, 2048) if isinstance(ARCHS[name], FCHarDNetArch) else (side, side)
    with torch.device("meta"):
        network = build_network(name)
        macs = multiply_adds(network, (1, len(PREPROCESS[name].mean), *size))
    return "{}×{}".format(*size), f"{count_parameters(network) / 1e6:.2f} M", f"{macs / 1e9:.2f} G"
