"""TorchScript, for libtorch."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardnet_suite.deploy.formats import PrecisionError, Run, single_input
from hardnet_suite.deploy.record import KEY, ExportRecord
from hardnet_suite.deploy.suppression import select
from hardnet_suite.errors import UserError
from hardnet_suite.inference.nms import load_operator
from hardnet_suite.networks import PatchDescriptor
from hardnet_suite.threads import own_threads

__all__ = ["open", "read_metadata", "select", "write"]

ENTRY = f"{KEY}.json"  # among the extra files of an archive
_MOST = 1 << 24  # bytes of a record


def write(network: nn.Module, example: Tensor, path: Path, *, record: ExportRecord, dynamic: str) -> None:
    """Writes the operations of one run; see ``hardnet_suite.deploy.formats``."""
    load_operator()
    if (
        isinstance(getattr(network, "network", None), PatchDescriptor)
        and not record.includes
        and record.precision == "fp32"
    ):
        module = torch.jit.script(network.network)  # which computes large batches in chunks
    else:
        with torch.no_grad():
            module = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))
    write_archive(path, lambda stream: torch.jit.save(module, stream, _extra_files={ENTRY: record.to_json()}))


def write_archive(path: Path, save: Callable[[io.BytesIO], None]) -> None:
    """Writes what ``save`` writes into a stream, with an ``OSError`` where the disk is full.

    PyTorch's own writer of files throws in its destructor then, which ends the process.
    """
    stream = io.BytesIO()
    save(stream)
    path.write_bytes(stream.getbuffer())


def open(
    path: Path, *, record: ExportRecord, precision: str | None = None, threads: int | None = None
) -> Run:
    """Opens a file in libtorch on the CPU."""
    return open_in_pytorch(path, lambda: torch.jit.load(path, map_location="cpu"), record, precision, threads)


def open_in_pytorch(
    path: Path,
    load: Callable[[], Callable[[Tensor], Any]],
    record: ExportRecord,
    precision: str | None,
    threads: int | None,
) -> Run:
    """A run of what ``load`` makes of a file of PyTorch's."""
    if precision not in (None, record.precision):
        raise PrecisionError(
            f"{path} holds {record.precision}: PyTorch computes in the precision of the file"
        )
    load_operator()
    _require_intact(path)
    try:
        module = load()
    except Exception as error:  # of many types
        raise UserError(f"{path}: PyTorch cannot open it ({str(error).strip().splitlines()[0]})") from None

    def run(values: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
        values = single_input(values, record.input_name)
        with own_threads(threads), torch.inference_mode():
            out = module(torch.from_numpy(np.ascontiguousarray(values)))
        return [tensor.numpy() for tensor in (out if isinstance(out, tuple) else (out,))]

    return run


def _require_intact(path: Path) -> None:
    """UserError where a checksum of an archive tells of damage, which PyTorch does not look at."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{path}: PyTorch cannot open it ({str(error).strip()})") from None
    if damaged is not None:
        raise UserError(f"{path} is damaged: copy it again, or export again")


def read_metadata(path: Path) -> str | None:
    """The record in a file; None where another program wrote it."""
    return record_in_archive(path, ENTRY)


def record_in_archive(path: Path, name: str) -> str | None:
    """The text of a record among the extra files of PyTorch's archives; None where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(f"/extra/{name}") and entry.file_size <= _MOST:
                    return archive.read(entry).decode()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return None
    return None
