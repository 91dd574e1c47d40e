"""``convert-weights SOURCE TARGET``."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardnet_suite.errors import UserError

_ORIGIN = ("licence", "origin", "tag", "trained_on", "config")
_FORMS = {
    "network": "create_model(…)",
    "official": "the published programs",
    "mmdet": "a detector",
    "mmseg": "a segmentor",
    "mmengine": "a classifier's config",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a file of weights in any form: official, of this suite, of a run")
    parser.add_argument("target", help="the file to write: .safetensors, or .pth")
    parser.add_argument("--model", help="whose weights (default: told by the keys)")
    parser.add_argument(
        "--to",
        choices=_FORMS,
        default="network",
        help="names of the keys: " + ", ".join(f"{form} for {use}" for form, use in _FORMS.items()),
    )
    parser.add_argument(
        "--half", action="store_true", help="floating point numbers in half precision, half the size"
    )


def run(args: argparse.Namespace) -> None:
    from hardnet_suite.networks import list_models
    from hardnet_suite.weights import (
        identify,
        is_bare_trunk,
        metadata_of,
        read_checkpoint,
        save_weights,
        split_official,
        state_dict_of,
    )
    from hardnet_suite.weights.convert import in_target, to_official

    source, target = Path(args.source), Path(args.target)
    if target.suffix not in (".safetensors", ".pth"):
        raise UserError(f"{target}: the name must end in .safetensors or .pth")
    if target.exists() and target.samefile(source):
        raise UserError(f"{target} is the source itself: choose another name")
    if args.model is not None and args.model not in list_models():
        raise UserError(f"no model {args.model}; there are {', '.join(list_models())}")
    checkpoint = read_checkpoint(source)
    state = state_dict_of(checkpoint)
    try:
        found = identify(state, args.model)
        model, form, tensors, whole = found.model, found.form, found.tensors, True
    except UserError as error:
        tensors, left = split_official(args.model, state) if args.model else ({}, [])
        if not tensors or (left and not is_bare_trunk(state)) or not _fit(args.model, tensors):
            hint = "" if args.model else "; for a file of a bare trunk name its --model"
            raise UserError(f"{source}: {error}{hint}") from None
        model, form, whole = args.model, "official", False
        if left:
            print(f"left, as {model} has no place for them: {', '.join(left)}")
    try:
        renamed = to_official(model, tensors) if args.to == "official" else in_target(model, tensors, args.to)
    except ValueError as error:
        raise UserError(f"--to {args.to}: {error}") from None

    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    metadata = {"model": model, "form": args.to, "source": source.name, "sha256": digest}
    if whole and found.num_classes:
        metadata["num_classes"] = str(found.num_classes)
    known = metadata_of(source, checkpoint)
    metadata |= _origin(model, source.name, digest, known)
    metadata |= {key: json.dumps(known[key]) for key in ("classes", "input") if key in known}
    try:
        save_weights(renamed, target, metadata=metadata, half=args.half)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {target}: {error}") from None
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    part = "" if whole else " (a part of it)"
    print(f"{len(renamed)} tensors of {model}{part}, {form} to {args.to}: {target}")


def _fit(model: str, tensors: dict) -> bool:
    """Whether a part of a model's tensors has the shapes of that model."""
    import torch

    from hardnet_suite.networks import build_network

    with torch.device("meta"):
        own = build_network(model).state_dict()
    return all(value.shape == own[key].shape for key, value in tensors.items())


def _origin(model: str, file: str, digest: str, known: Mapping[str, Any]) -> dict[str, str]:
    """Licence and origin: as the source itself says, or as the registry knows it by its hash or its name."""
    from hardnet_suite.weights import ROWS

    told = {key: known[key] for key in _ORIGIN if isinstance(known.get(key), str)}
    hashes = {row: [row.sha256, *(address.sha256_prefix for address in row.urls)] for row in ROWS}
    rows = [row for row in ROWS if row.model == model]
    same = next((row for row in rows if any(one and digest.startswith(one) for one in hashes[row])), None)
    named = next((row for row in rows if row.file == file and not told), None)
    if same is None and named is not None and any(hashes[named]):
        return {"licence": f"{named.licence} by the file's name, though its SHA-256 is not the published one"}
    row = same or named
    if row is None:
        return {"licence": "unknown"} | told
    classes = {"classes": json.dumps(row.classes)} if row.classes else {}
    return {"licence": row.licence, "origin": row.source, "tag": row.tag} | classes | told
