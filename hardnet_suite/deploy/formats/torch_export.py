"""PyTorch's own archive of an exported program, .pt2.

``torch.export.load`` unpickles parts of it: a file may run any code of its author.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hardnet_suite.deploy.formats import Run, inexpressible
from hardnet_suite.deploy.formats.onnx import dynamic_shapes
from hardnet_suite.deploy.formats.torchscript import ENTRY, open_in_pytorch, record_in_archive, write_archive
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.deploy.suppression import select

__all__ = ["open", "read_metadata", "select", "write"]


def write(network: nn.Module, example: Tensor, path: Path, *, record: ExportRecord, dynamic: str) -> None:
    """Writes the program; see ``hardnet_suite.deploy.formats``."""
    import torchvision  # noqa: F401  the shapes of its operators

    shapes = (dynamic_shapes(record),) if record.free_dimensions else None
    try:
        program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of several types
        raise inexpressible("torch.export", record, error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names source files of this machine
    extra = {ENTRY: record.to_json()}
    write_archive(path, lambda stream: torch.export.save(program, stream, extra_files=extra))


def open(
    path: Path, *, record: ExportRecord, precision: str | None = None, threads: int | None = None
) -> Run:
    """Opens a file in PyTorch on the CPU."""
    return open_in_pytorch(path, lambda: torch.export.load(path).module(), record, precision, threads)


def read_metadata(path: Path) -> str | None:
    """The record in a file; None where another program wrote it."""
    return record_in_archive(path, ENTRY)
