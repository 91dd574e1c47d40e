"""Trained weights as small files to pass on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor


def save_weights(
    state_dict: Mapping[str, Tensor],
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    half: bool = True,
) -> str:
    """Writes ``state_dict`` as .safetensors, or, by the name's suffix, as .pth; returns its SHA-256.

    ``half``: floating point numbers in half precision, and without the counters of batch norms: inference
    does without, and loaders fill them in. Otherwise every tensor is kept as it is. ``metadata`` goes into
    the file's head, in a .pth under "meta". The file comes whole or not at all. ValueError for values that
    are not finite, or do not fit half precision (over 65504).
    """
    kept = {}
    for key, value in state_dict.items():
        if half and key.endswith(".num_batches_tracked"):
            continue
        small = value.half() if half and value.is_floating_point() else value
        if small.is_floating_point() and not torch.isfinite(small).all():
            if not torch.isfinite(value).all():
                raise ValueError(f"{key} holds values that are not finite")
            raise ValueError(f"{key} holds values that half precision cannot: up to {value.abs().max():g}")
        kept[key] = small.contiguous()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".pth":
            torch.save({"state_dict": kept, "meta": dict(metadata or {})}, partial)
        else:
            safetensors.torch.save_file(kept, partial, metadata=dict(metadata or {}))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()
