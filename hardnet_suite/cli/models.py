"""``models``: lists the models, their size and where their weights are."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hardnet_suite.cli._options import show
from hardnet_suite.names import did_you_mean, matching

if TYPE_CHECKING:
    from hardnet_suite.weights.row import WeightsRow

# name -> (height, width) of the usual input, parameters, multiply-adds at that size. Stored, so that the
# command needs no torch; tests/cli/test_models.py measures them on the networks
FIGURES: dict[str, tuple[tuple[int, int], int, int]] = {
    "centernet_hardnet39ds": ((512, 512), 2_949_358, 10_191_624_192),
    "centernet_hardnet68": ((512, 512), 20_732_028, 46_913_848_320),
    "centernet_hardnet85": ((512, 512), 37_274_988, 87_715_217_408),
    "fchardnet68": ((360, 480), 1_366_037, 7_728_132_780),
    "fchardnet70": ((1024, 2048), 4_119_257, 35_217_426_432),
    "fchardnet70_detail": ((360, 480), 4_134_209, 3_543_410_050),
    "fchardnet70_paddleseg": ((1024, 2048), 4_119_257, 140_869_705_728),
    "fchardnet70_stride2": ((360, 480), 4_119_257, 11_577_596_700),
    "fchardnet70a": ((1024, 2048), 5_903_395, 34_375_860_224),
    "fchardnet76": ((360, 480), 3_461_189, 27_241_532_580),
    "fchardnet84": ((360, 480), 8_346_493, 51_065_372_160),
    "hardnet39ds": ((224, 224), 3_488_228, 429_471_474),
    "hardnet39dsa": ((224, 224), 3_465_464, 426_075_872),
    "hardnet68": ((224, 224), 17_565_348, 4_246_114_304),
    "hardnet68a": ((224, 224), 18_307_720, 4_168_241_152),
    "hardnet68ds": ((224, 224), 4_180_602, 775_281_526),
    "hardnet85": ((224, 224), 36_670_212, 9_074_081_584),
    "hardnet8_descriptor": ((32, 32), 8_969_504, 65_372_160),
    "hardnet_descriptor": ((32, 32), 1_334_560, 39_092_224),
    "hardnet_descriptor_ps": ((32, 32), 1_336_032, 39_092_224),
    "hardnet_mseg": ((352, 352), 17_423_837, 11_348_429_312),
    "hardnet_petite": ((224, 224), 2_699_908, 407_805_200),
    "rfb512_hardnet68": ((512, 512), 33_112_214, 45_461_533_696),
    "rfb512_hardnet85": ((512, 512), 39_262_994, 64_574_118_912),
    "ssd224_hardnet29": ((224, 224), 7_794_140, 1_370_298_464),
    "ssd320_hardnet39ds": ((320, 320), 10_329_738, 4_371_449_248),
    "ssd512_hardnet68": ((512, 512), 25_700_414, 34_427_536_384),
    "ssd512_hardnet85": ((512, 512), 38_782_074, 60_634_137_600),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pattern", nargs="?", default="", help="only models whose name contains this; * and ? are wildcards"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare the weights that are on this machine with the registry's hashes",
    )


def run(args: argparse.Namespace) -> int | None:
    from hardnet_suite.errors import UserError
    from hardnet_suite.weights.places import where
    from hardnet_suite.weights.registry import ROWS

    names = matching(f"*{args.pattern}*", FIGURES)
    if not names:
        near = did_you_mean(args.pattern, FIGURES)
        raise UserError(
            f"no model whose name contains {args.pattern!r}; {near}there are {', '.join(FIGURES)}"
        )
    if args.verify:
        return _verify([row for row in ROWS if row.model in names])
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
        (height, width), parameters, multiply_adds = FIGURES[name]
        first = (name, f"{height}×{width}", f"{parameters / 1e6:.2f} M", f"{multiply_adds / 1e9:.2f} G")
        rows = [row for row in ROWS if row.model == name]
        for number, row in enumerate(rows or [None]):
            left = first if number == 0 else ("",) * len(first)
            right = (row.tag, where(row), row.licence, row.metric) if row else ("–", "", "", "")
            table.append((*left, *right))
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        show("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return None


def _verify(rows: list[WeightsRow]) -> int:
    """Verifies what is on this machine; 1 where a file is not what it should be."""
    from hardnet_suite.weights.download import verify

    wrong = False
    for row in rows:
        verdicts = verify(row)
        for verdict in verdicts:
            told = f"as the registry has it ({verdict.basis})"
            if verdict.basis == "model":
                told = f"weights of {row.model}; no hash is known: {row.no_hash or 'of this address'}"
            show(f"{row.model} {row.tag}: {verdict.path}: {verdict.problem or told}")
            wrong |= bool(verdict.problem)
        if not verdicts:
            note = "" if row.pinned else f"; no hash is known: {row.no_hash}"
            show(f"{row.model} {row.tag}: not on this machine{note}")
    return int(wrong)
