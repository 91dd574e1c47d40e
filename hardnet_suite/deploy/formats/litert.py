"""LiteRT, formerly TensorFlow Lite."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from hardnet_suite.deploy.formats import PrecisionError, Run, inexpressible, single_input
from hardnet_suite.deploy.formats.appended import append_record
from hardnet_suite.deploy.formats.appended import appended_record as read_metadata
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError

__all__ = ["open", "read_metadata", "write"]


def write(network: nn.Module, example: Tensor, path: Path, *, record: ExportRecord, dynamic: str) -> None:
    """Writes one file with the weights inside; see ``hardnet_suite.deploy.formats``."""
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    import litert_torch

    try:
        converted = litert_torch.convert(network, (example,))
    except ModuleNotFoundError:  # it is installed without its dependencies
        raise
    except Exception as error:  # of several packages
        raise inexpressible("LiteRT", record, error) from error
    path.write_bytes(converted.model_content())
    append_record(path, record)


def open(
    path: Path, *, record: ExportRecord, precision: str | None = None, threads: int | None = None
) -> Run:
    """Opens a file in LiteRT's interpreter with its own kernels for the CPU (XNNPACK)."""
    from ai_edge_litert.interpreter import Interpreter

    if precision not in (None, record.precision):
        raise PrecisionError(f"{path} holds {record.precision}: LiteRT computes in the precision of the file")
    try:
        # by its path it would be mapped, and change with the file, or kill the process
        content = path.read_bytes()
        interpreter = Interpreter(model_content=content, num_threads=threads or os.cpu_count())
        runner = interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path}: LiteRT cannot open it ({str(error).splitlines()[0]})") from None
    (name,) = runner.get_input_details()
    outputs = sorted(runner.get_output_details(), key=_number)

    def run(values: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
        values = single_input(values, record.input_name)
        found = runner(**{name: np.ascontiguousarray(values)})
        return [found[output] for output in outputs]

    return run


def _number(output: str) -> int:
    """Of "output_11", which LiteRT lists before "output_2"."""
    return int(output.rpartition("_")[2])
