"""Trained weights as small files to pass on."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from hardnet_suite.errors import UserError
from hardnet_suite.outputs import write_file
from hardnet_suite.weights.tables import few, is_counter, overflows

SUFFIXES = (".safetensors", ".pth", ".pdparams")


def save_weights(
    state_dict: Mapping[str, Tensor],
    path: str | Path,
    *,
    metadata: Mapping[str, str] | None = None,
    half: bool = True,
) -> str:
    """Writes a state dict as .safetensors, .pth or Paddle's .pdparams.

    All of the file is written, or none of it.

    Args:
        state_dict: the tensors.
        path: the file, whose name says by its end, in either case, what is written; missing folders are
            created.
        metadata: goes into the file's header, in a .pth under "meta"; a .pdparams has no place for it, which
            is a warning.
        half: stores the tensors of ``halved``. Otherwise every tensor is kept as it is.

    Returns:
        The SHA-256 of the file, in hex.

    Raises:
        UserError: the name ends otherwise.
        ValueError: a value is not finite, or exceeds half precision (65504).
        WriteError: the file cannot be written.

    Warns:
        UserWarning: metadata of a .pdparams, which are not written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: the name of a file of weights must end in {' or '.join(SUFFIXES)}")
    kept: dict[str, Tensor] = {}
    storages = set()
    for key, value in (halved(state_dict) if half else state_dict).items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{key} holds values that are not finite")
        kept[key] = value.contiguous()
        if (storage := kept[key].untyped_storage().data_ptr()) in storages:
            kept[key] = kept[key].clone()  # .safetensors has no place for tensors that share memory
        storages.add(storage)
    if suffix == ".pth":
        stream = io.BytesIO()
        torch.save({"state_dict": kept, "meta": dict(metadata or {})}, stream)
        content = stream.getvalue()
    elif suffix == ".pdparams":
        content = pickle.dumps({key: _plain_array(value) for key, value in kept.items()}, protocol=4)
    else:
        content = in_order(safetensors.torch.save(kept, metadata=dict(metadata or {})))
    write_file(path, content)
    if metadata and suffix == ".pdparams":
        warnings.warn(
            f"{path}: a .pdparams holds tensors alone, not its metadata: {few(metadata)}", stacklevel=2
        )
    return hashlib.sha256(content).hexdigest()


def halved(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with floating-point numbers in half precision, without the counters of batch norms.

    Inference does not read the counters, and loaders fill them in.

    Raises:
        ValueError: a value exceeds half precision (65504).
    """
    kept = {key: value for key, value in state_dict.items() if not is_counter(key)}
    for key, value in kept.items():
        if overflows(value, torch.float16):
            most = value[torch.isfinite(value)].abs().max()
            raise ValueError(f"{key} holds values that half precision cannot: up to {most:g}")
    return {key: value.half() if value.is_floating_point() else value for key, value in kept.items()}


def in_order(content: bytes) -> bytes:
    """A .safetensors file with its metadata sorted: the library writes them in another order each time.

    So the same content has the same digest.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[start:]


def _plain_array(value: Tensor) -> np.ndarray:
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # NumPy has no bfloat16
