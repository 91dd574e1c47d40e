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
    state_dict: Mapping[str, Tensor], path: str | Path, *, metadata: Mapping[str, str] | None = None
) -> str:
    """Writes ``state_dict`` as .safetensors, floating point numbers in half precision; returns its SHA-256.

    The counters of batch norms are left out: inference does without, and loaders fill them in. ``metadata``
    goes into the file's head. ValueError where a value does not fit half precision (over 65504).
    """
    halves = {}
    for key, value in state_dict.items():
        if key.endswith(".num_batches_tracked"):
            continue
        half = value.half() if value.is_floating_point() else value
        if half.is_floating_point() and not torch.isfinite(half).all():
            raise ValueError(f"{key} holds values that half precision cannot: up to {value.abs().max():g}")
        halves[key] = half.contiguous()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    safetensors.torch.save_file(halves, partial, metadata=dict(metadata or {}))
    os.replace(partial, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
