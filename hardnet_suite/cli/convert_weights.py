"""``convert-weights SOURCE TARGET``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hardnet_suite.cli._options import show
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name
from hardnet_suite.outputs import require_replaceable

if TYPE_CHECKING:
    from hardnet_suite.weights import Checkpoint
    from hardnet_suite.weights.containers import Container
    from hardnet_suite.weights.file import WeightsFile
    from hardnet_suite.weights.layouts import KeyLayout

_ORIGIN = ("licence", "origin", "tag", "trained_on", "config")
_FORMS = {
    "network": "create_model(…)",
    "official": "the published programs",
    "mmdet": "a detector",
    "mmseg": "a segmentor",
    "mmengine": "a classifier's config",
    "pytorchcv": "pytorchcv",
    "paddleclas": "PaddleClas",
    "paddledetection": "the trunk of PaddleDetection's CenterNet and FairMOT",
    "semantic-segmentation": "sithu31296/semantic-segmentation",
    "paddleseg": "PaddleSeg (.pdparams)",
}
LAYOUT_NAMES = tuple(_FORMS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="a weights file in any form: official, of this suite, of a run; or a run's folder"
    )
    parser.add_argument(
        "target", help="the file to write: .safetensors, or .pth; for Paddle's programs, .pdparams"
    )
    parser.add_argument("--model", help="whose weights (default: told by its keys)")
    parser.add_argument(
        "--from",
        dest="layout",
        choices=LAYOUT_NAMES,
        help="the program that wrote the source, where the keys do not tell (default: told by its keys)",
    )
    parser.add_argument(
        "--to",
        choices=_FORMS,
        default="network",
        help="names of the keys: " + ", ".join(f"{form} for {use}" for form, use in _FORMS.items()),
    )
    parser.add_argument(
        "--half", action="store_true", help="floating-point numbers in half precision, half the size"
    )


def run(args: argparse.Namespace) -> None:
    from hardnet_suite.weights import open_weights, save_weights
    from hardnet_suite.weights.checkpoint import INPUT_IS_UNKNOWN, UNKNOWN
    from hardnet_suite.weights.convert import in_target, require_same_network, unused_prefixes
    from hardnet_suite.weights.file import expanded
    from hardnet_suite.weights.identification import lacking_in_trunk
    from hardnet_suite.weights.layouts import LAYOUTS
    from hardnet_suite.weights.runs import run_checkpoint
    from hardnet_suite.weights.save import halved
    from hardnet_suite.weights.tables import few

    source, target = expanded(args.source), expanded(args.target)
    suffixes = (".safetensors", ".pth") if LAYOUTS[args.to].records else (".pdparams",)
    if target.suffix.lower() not in suffixes:
        raise UserError(f"{target}: with --to {args.to}, the name must end in {' or '.join(suffixes)}")
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"{target} is the source itself: choose another name")
    if target.exists() and suffixes == (".pdparams",):
        raise UserError(
            f"{target} exists, and nothing in a .pdparams says who wrote it: move it away, or choose "
            "another name"
        )
    require_replaceable(target, _is_conversion, writer="convert-weights", option="name")
    name = known_model(args.model)
    if not source.is_dir():
        file = weights_file(source)
    else:
        file, which = run_checkpoint(source)
        source = file.path
        show(f"weights: {source}, {which}")
    try:
        weights = open_weights(file, name, layout=args.layout)
    except UserError as error:
        raise UserError(f"{error}{hint(source, error)}") from None
    weights, remarks = with_record(weights)
    for remark in remarks:
        show(remark)
    if weights.input_is_unknown:
        show(INPUT_IS_UNKNOWN)
    weights.require_part()
    require_sound_in(weights)
    lacking = lacking_in_trunk(weights.model, weights.tensors, weights.arch)
    if weights.form == "trunk" and lacking:
        show(f"the file lacks {counted(len(lacking), 'tensor')} of the trunk: {few(lacking)}")
    if dropped := [*weights.left, *weights.unused]:
        reason = "not of the trunk" if weights.form == "trunk" else "never used by its program"
        show(f"dropped: {counted(len(dropped), 'tensor')} {reason}: {few(dropped)}")
    absent = () if weights.form == "trunk" else unused_prefixes(weights.model, args.to)
    if absent:
        show(
            f"{LAYOUTS[args.to].program} also have tensors that they never use, which the file will lack "
            f"({few(f'{prefix}*' for prefix in absent)}): load it with strict=False"
        )
    model, tensors = weights.model, weights.tensors
    try:
        require_same_network(model, weights.arch, args.to)
        renamed = in_target(model, tensors, args.to)
    except ValueError as error:
        raise UserError(f"--to {args.to}: {error}") from None

    metadata = {"model": model, "form": args.to, "source": source.name, "sha256": weights.digest}
    if weights.num_classes:
        metadata["num_classes"] = str(weights.num_classes)
    if program := program_of(weights):
        metadata["computes_as"] = program
    metadata |= origin_of(weights)
    writer = writer_of(weights)
    if writer is not None and writer.source:
        metadata.setdefault("origin", writer.source)
    metadata |= weights.records()
    if weights.input_is_unknown:
        metadata["input_rule"] = UNKNOWN
    try:
        kept = halved(renamed) if args.half else renamed
        written = metadata if LAYOUTS[args.to].records else None  # what is lost is told below
        save_weights(kept, target, metadata=written, half=False)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    if lost := [] if LAYOUTS[args.to].records else _lost_records(weights, args.to, metadata["licence"]):
        needed = ""
        if lost != ["licence"]:
            needed = "; `predict` needs them again, of a config (--model CONFIG --weights FILE)"
        text = f"a .pdparams holds tensors alone, not the source's {', '.join(lost)}{needed}"
        show(f"warning: {target}: {text}", sys.stderr)
    part = " (a part of it)" if weights.form == "trunk" else ""
    show(f"{counted(len(kept), 'tensor')} of {model}{part}, {weights.layout} to {args.to}: {target}")


def weights_file(path: Path) -> WeightsFile:
    """Reads a weights file, or a graph with weights; UserError where it cannot be read."""
    from hardnet_suite.weights.file import BadFileError, WeightsFile

    try:
        return WeightsFile.read(path, graphs=True)
    except BadFileError as error:
        raise UserError(f"{path}: {error}") from error


def with_record(weights: Checkpoint) -> tuple[Checkpoint, list[str]]:
    """The weights of a graph with what ``export`` wrote into it: classes, palette and rules.

    Returns:
        The weights, and what to know of them: what a graph lacks, where the network's answers are not those
        of the graph, and why what is written in it is not used.
    """
    from hardnet_suite.deploy.session import read_record
    from hardnet_suite.networks import find_arch

    if weights.form != "onnx":
        return weights, []
    remarks = []
    if (folded := int(weights.metadata["folded"])) > 0:
        remarks.append(
            f"{folded} batch norms are folded into convolutions: the answers are the same, but their "
            "statistics are lost"
        )
    if weights.metadata["returns"] == "probabilities":
        remarks.append("the graph ends in a softmax: it returns probabilities, the network logits")
    try:
        record = read_record(weights.path)
    except UserError as error:
        return weights, [*remarks, f"what is written in it is not used: {error}"]
    if record is None:
        return weights, remarks
    said = record.usage.name, record.arch, record.num_classes, record.in_chans
    arch = weights.arch or find_arch(weights.model)
    if said != (weights.model, arch, weights.num_classes, weights.in_chans):
        remark = f"what is written in it is not used: it is of another network, a {record.usage.name}"
        return weights, [*remarks, remark]
    names = ("classes", "palette", "preprocess", "postprocess")
    return replace(weights, **{name: getattr(record.usage, name) for name in names}), remarks


def hint(path: Path, error: UserError) -> str:
    """What to do with a file whose weights cannot be read; "" where there is nothing to say.

    Such a file is a graph that ``export`` wrote, or it may be one of a trunk alone.
    """
    from hardnet_suite.deploy.session import read_record

    try:
        record = read_record(path) if path.suffix.lower() == ".onnx" else None
    except UserError:
        record = None
    if record is not None:
        return f"; it is an exported {record.usage.name}, which predict takes as it is"
    is_unknown = "not the weights of any model" in str(error)
    return "; for a file of a trunk alone give its --model" if is_unknown else ""


def known_model(name: str | None) -> str | None:
    """The model of that name in any spelling; UserError where there is none."""
    from hardnet_suite.networks import list_models

    known = None if name is None else known_name(name, list_models())
    if name is not None and known is None:
        near = did_you_mean(name, list_models())
        raise UserError(f"no model {name}; {near}there are {', '.join(list_models())}")
    return known


def program_of(weights: Checkpoint) -> str | None:
    """The program whose network computes as the weights need it; None for that of the table's row.

    Raises:
        UserError: there is none.
    """
    from hardnet_suite.networks import find_arch
    from hardnet_suite.weights.convert import differences
    from hardnet_suite.weights.layouts import LAYOUTS

    if weights.arch is None:
        return None
    layouts = [layout for layout in LAYOUTS.values() if layout.has(weights.model)]
    names = [layout.name for layout in layouts if layout.arch_of(weights.model) == weights.arch]
    if not names:
        difference = differences(weights.arch, find_arch(weights.model))[0]
        raise UserError(
            f"{weights.path}: its network computes as that of no program known ({difference}), which a "
            "converted file could not say"
        )
    return names[0]


def _is_conversion(path: Path) -> bool:
    """Whether a file is what an earlier conversion wrote."""
    from hardnet_suite.weights import open_weights

    try:
        return open_weights(path, known=False).metadata.get("form") in _FORMS
    except UserError:
        return False


def require_sound_in(weights: Checkpoint) -> None:
    """UserError unless the model's tensors are floating-point numbers, finite in float32, too."""
    from hardnet_suite.weights.tables import require_sound

    try:
        require_sound(weights.tensors)
    except UserError as error:
        raise UserError(f"{weights.path}: {error}") from None


def _lost_records(weights: Checkpoint, target: str, licence: str) -> list[str]:
    """What the source says and a reader of the tensors alone, in the layout ``target``, would not know."""
    from hardnet_suite.networks import default_usage
    from hardnet_suite.weights.checkpoint import may_be_published
    from hardnet_suite.weights.layouts import LAYOUTS

    usual = default_usage(weights.model)
    implied = LAYOUTS[target].preprocess_of(weights.model) or usual.preprocess
    is_usual = may_be_published(LAYOUTS[target].records, weights.model, weights.num_classes)
    lost = {
        "classes": weights.classes is not None,
        "palette": weights.palette is not None,
        "input rule": weights.preprocess is not None and not (is_usual and weights.preprocess == implied),
        "mark that its input rule is unknown": weights.input_is_unknown and is_usual,
        "output rule": weights.postprocess not in (None, usual.postprocess),
        "licence": licence != "unknown",
    }
    return [name for name, is_lost in lost.items() if is_lost]


def writer_of(weights: Checkpoint) -> Container | KeyLayout | None:
    """The program that wrote a file, as far as its keys alone say so.

    They do not of a file that this command wrote, and of one that it may have written: nothing in a .pdparams
    says who did.
    """
    from hardnet_suite.weights.layouts import LAYOUTS

    if weights.container is not None:
        return weights.container
    layout = LAYOUTS.get(weights.layout)
    if layout is None or not weights.has_records or weights.metadata.get("form") in _FORMS:
        return None
    return layout


def origin_of(weights: Checkpoint) -> dict[str, str]:
    """Licence and origin, as the source itself says, or as the registry has them by its hash or name."""
    from hardnet_suite.weights import ROWS
    from hardnet_suite.weights.layouts import LAYOUTS

    told = {key: weights.metadata[key] for key in _ORIGIN if isinstance(weights.metadata.get(key), str)}
    key = (weights.model, weights.path.name)
    named = next((row for row in ROWS if (row.model, row.file) == key and not told), None)
    if named is not None and named.layout not in ("", weights.layout) and not LAYOUTS[named.layout].told:
        named = None  # the name alone does not say how the network computes
    if named is not None and weights.num_classes not in (None, named.num_classes):
        named = None
    if weights.row is None and named is not None and named.pinned:
        kind = "SHA-256" if any(address.sha256_prefix for address in named.urls) else "hash"
        return {"licence": f"{named.licence} by the file's name, though its {kind} is not the published one"}
    row = weights.row or named
    if row is None:
        return {"licence": "unknown"} | told
    return {"licence": row.licence, "origin": row.source, "tag": row.tag} | told
