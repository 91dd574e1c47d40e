"""``identify FILE``: what a weights file is, where it is from, and what to do with it."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardnet_suite.cli._options import show
from hardnet_suite.cli.convert_weights import LAYOUT_NAMES, origin_of, program_of, with_record, writer_of
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable, write_file

if TYPE_CHECKING:
    from hardnet_suite.networks import Preprocess
    from hardnet_suite.weights import Checkpoint

_MARK = "hardnet-suite identify"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a weights file of this suite or of another program")
    parser.add_argument("--model", help="whose weights (default: told by its keys)")
    parser.add_argument(
        "--from",
        dest="layout",
        choices=LAYOUT_NAMES,
        help="the program that wrote it, where the keys do not tell (default: told by its keys)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the answers to this file, too")


def run(args: argparse.Namespace) -> None:
    from hardnet_suite.cli.convert_weights import (
        hint,
        known_model,
        require_sound_in,
        weights_file,
    )
    from hardnet_suite.weights import open_weights
    from hardnet_suite.weights.file import expanded

    if args.json is not None:
        require_replaceable(args.json, _is_report, writer="identify", option="--json")
    file = weights_file(expanded(args.file))
    name = known_model(args.model)
    try:
        weights = open_weights(file, name, layout=args.layout).require_part()
    except UserError as error:
        raise UserError(f"{error}{hint(file.path, error)}") from None
    require_sound_in(weights)
    answers = passport(weights, named=args.model is not None)
    width = max(map(len, answers))
    for name, value in answers.items():
        for index, line in enumerate(value if isinstance(value, list) else [value]):
            show(f"{'' if index else name:<{width}}  {line}")
    if args.json is not None:
        write_file(args.json, json.dumps({"written_by": _MARK} | answers, indent=2).encode())


def passport(weights: Checkpoint, *, named: bool = False) -> dict[str, Any]:
    """What is known of a weights file: name -> answer, a text, a number or a list of texts.

    Args:
        weights: the file.
        named: whether the user has named the model.
    """
    from hardnet_suite.networks import PREPROCESS, find_arch
    from hardnet_suite.weights import ROWS
    from hardnet_suite.weights.checkpoint import INPUT_IS_UNKNOWN, UNKNOWN
    from hardnet_suite.weights.file import part_by_name
    from hardnet_suite.weights.identification import lacking_in_trunk
    from hardnet_suite.weights.layouts import LAYOUTS, OFFICIAL, keys_of
    from hardnet_suite.weights.tables import few, tables_of

    weights, remarks = with_record(weights)
    arch = weights.arch or find_arch(weights.model)
    trunk = getattr(arch, "trunk", arch)
    layout = LAYOUTS.get(weights.layout)
    alike = [
        other
        for other in LAYOUTS.values()
        if layout and other.has(weights.model) and other is not layout
        if keys_of(weights.model, other) == keys_of(weights.model, layout)
    ]
    answers: dict[str, Any] = {
        "file": str(weights.path),
        "sha256": weights.digest,
        "model": weights.model,
        "part": "the whole network",
        "layout": ", also ".join(
            f"{each.name} ({each.program})"
            for each in [layout, *(other for other in alike if other.told)]
            if layout is not None and (layout.told or each is layout)
        ),
    }
    if tables := tables_of(weights.content):
        answers["taken"] = f"the tensors under {tables[0]}, not those under {' or '.join(tables[1:])}"
    if weights.num_classes is None:
        answers["part"] = f"the trunk of {weights.container.name}" if weights.container else "the trunk"
        if lacking := lacking_in_trunk(weights.model, weights.tensors, weights.arch):
            answers["part"] += f", without {len(lacking)} of its tensors: {few(lacking)}"
        answers["part"] += part_by_name(weights.path)
        if weights.left:
            first = dict.fromkeys(key.split(".")[0] for key in weights.left)
            answers["beside it"] = f"{counted(len(weights.left), 'tensor')} of {', '.join(first)}"
    if weights.unused:
        answers["never used"] = f"{counted(len(weights.unused), 'tensor')}: {few(weights.unused)}"
    if weights.num_classes:
        answers["classes"] = weights.num_classes
    if weights.in_chans:
        answers["input channels"] = weights.in_chans
    if hasattr(trunk, "act"):
        block_act = trunk.block_act or trunk.act
        answers["activation"] = trunk.act if block_act == trunk.act else f"{trunk.act}; {block_act} in blocks"
        answers["stem stride"] = trunk.stem_stride * trunk.first_step
        if not trunk.depthwise:
            answers["pooling"] = trunk.pool
    if weights.input_is_unknown:
        answers["input"] = f"{UNKNOWN}: {INPUT_IS_UNKNOWN}"
    else:
        rule = weights.preprocess or PREPROCESS[weights.model]
        answers["input"] = input_rule(rule) + ("" if weights.preprocess else " (as published)")
        if weights.in_chans not in (None, len(rule.mean)):
            answers["input"] = (
                f"{UNKNOWN}: the network takes {weights.in_chans} channels, and the rule of the "
                f"{'file' if weights.preprocess else 'published model'} makes {len(rule.mean)}"
            )
    origin = origin_of(weights)
    source = writer_of(weights)
    answers["source"] = origin.get("origin") or (source.source if source else "") or "unknown"
    answers["licence"] = origin["licence"]
    rows = [row for row in ROWS if (row.model, row.tag) == (weights.model, origin.get("tag"))]
    for row in rows:
        answers["weights"] = f"tag {row.tag}" + (f": {row.metric}" if row.metric else "")
        if weights.row is None and "tag" not in weights.metadata:
            answers["weights"] += " (by the file's name: no hash of it is known)"
    of_program = source.licence if source else ""
    if weights.layout == OFFICIAL.name and weights.container is None:  # whose programs are several
        published = (row.licence for row in ROWS if (row.model, row.tag) == (weights.model, "published"))
        of_program = next(published, of_program)
    if answers["licence"] == "unknown" and of_program not in ("", "unknown"):
        answers["licence"] = f"unknown; that of the program is {of_program}"
    answers["use"] = _uses(weights)
    if remarks:
        answers["but"] = remarks
    if not named and (remark := weights.twins_remark("--model")):
        answers["but"] = [remark]
    others = [other for other in alike if not other.told]
    if others and "tag" not in origin:
        answers["but"] = answers.get("but", []) + [
            f"the keys are also those of {other.program}, whose network computes otherwise: if the file is "
            f"from there, give --from {other.name}"
            for other in others
        ]
    return answers


def input_rule(rule: Preprocess) -> str:
    """How pixels become inputs, in words."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (rule.mean, rule.std))
    pixels = "pixels" if rule.scale == 1 else f"pixels / {rule.scale:g}"
    return f"{rule.channels}, ({pixels} − ({mean})) / ({std})"


def _uses(weights: Checkpoint) -> list[str]:
    """Commands and calls that take the file."""
    from hardnet_suite.networks import find_arch
    from hardnet_suite.prediction.model import unfit_for_prediction
    from hardnet_suite.weights.identification import lacking_in_trunk
    from hardnet_suite.weights.layouts import LAYOUTS

    layout = LAYOUTS.get(weights.layout)
    path = _plain_path(weights.path)
    name = shlex.quote(path)  # of a shell
    text = json.dumps(path, ensure_ascii=False)  # of Python
    is_trunk = weights.num_classes is None
    target = _free_name("trunk" if is_trunk else "mine")
    convert = f"hardnet-suite convert-weights {name} {target}"
    if is_trunk and weights.container is None:  # else the keys tell
        convert += f" --model {weights.model}"
    if weights.form == "onnx":
        uses = [] if weights.input_is_unknown else [f"hardnet-suite predict IMAGES --model {name}"]
        try:
            program_of(weights)
        except UserError as error:
            return uses or [f"none: {error}"]
        return [*uses, convert]
    if layout is not None and not (layout.told or weights.row):  # its keys would be read as another program's
        return [f"{convert} --from {layout.name}"]
    if is_trunk:
        arch = weights.arch or find_arch(weights.model)
        last = f"trunk.stages.{len(getattr(arch, 'trunk', arch).stages) - 1}.transition."
        ends = lacking_in_trunk(weights.model, weights.tensors, weights.arch, features_only=True)
        if any(not key.startswith(last) for key in ends):
            return [convert]
        tap = '"block"' if ends else "True"  # the maps before the last convolution, where that is lacking
        return [f'create_model("{weights.model}", features_only={tap}, pretrained={text})', convert]
    uses = [f'create_model("{weights.model}", pretrained={text})']
    if not weights.input_is_unknown and not unfit_for_prediction(
        weights.usage, weights.in_chans, weights.num_classes
    ):
        uses.append(f"hardnet-suite predict IMAGES --model {name}")
    return [*uses, convert]


def _plain_path(path: Path) -> str:
    """The path as commands and calls take it from this folder: as no option, and as no model, tag or home."""
    text = str(path)
    may_be_a_name = os.path.basename(text) == text and not path.suffix
    return os.path.join(os.curdir, text) if may_be_a_name or text.startswith(("-", "~")) else text


def _free_name(stem: str) -> str:
    """A name for a .safetensors file that no file of this folder has."""
    names = (f"{stem}{number or ''}.safetensors" for number in itertools.count())
    return next(name for name in names if not os.path.lexists(name))


def _is_report(path: Path) -> bool:
    """Whether a file is what an earlier run wrote."""
    try:
        return json.loads(path.read_bytes()).get("written_by") == _MARK
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
