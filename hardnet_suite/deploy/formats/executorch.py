"""ExecuTorch, with XNNPACK's kernels for the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hardnet_suite.deploy.formats import PrecisionError, Run, inexpressible, single_input
from hardnet_suite.deploy.formats.appended import append_record
from hardnet_suite.deploy.formats.appended import appended_record as read_metadata
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError

__all__ = ["open", "read_metadata", "write"]


def write(network: nn.Module, example: Tensor, path: Path, *, record: ExportRecord, dynamic: str) -> None:
    """Writes one file with the weights inside; see ``hardnet_suite.deploy.formats``."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    try:
        program = torch.export.export(network, (example,))
        program = program.run_decompositions({torch.ops.aten.std_mean.dim: _std_mean})
        for node in program.graph.nodes:  # its operators refuse tensors of mixed memory formats
            if node.kwargs.get("memory_format") == torch.channels_last:
                node.kwargs = node.kwargs | {"memory_format": torch.contiguous_format}
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    except Exception as error:  # of several packages
        raise inexpressible("ExecuTorch", record, error) from error
    path.write_bytes(lowered.buffer)
    append_record(path, record)


def open(
    path: Path, *, record: ExportRecord, precision: str | None = None, threads: int | None = None
) -> Run:
    """Opens a file in ExecuTorch; the number of threads is that of the whole process."""
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    if precision not in (None, record.precision):
        raise PrecisionError(
            f"{path} holds {record.precision}: ExecuTorch computes in the precision of the file"
        )
    if threads is not None:
        portable_lib._unsafe_reset_threadpool(threads)
    try:
        # by its path it would be mapped, and change with the file, or kill the process
        program = Runtime.get().load_program(path.read_bytes())
        program.load_method("forward")
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{path}: ExecuTorch cannot open it ({str(error).splitlines()[0]})") from None

    def run(values: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
        values = single_input(values, record.input_name)
        method = program.load_method("forward")  # the one above; it needs the program as long as it lives
        found = method.execute((torch.from_numpy(np.ascontiguousarray(values)),))
        return [np.array(output) for output in found]

    return run


def _std_mean(
    x: Tensor, dim: Sequence[int], unbiased: bool = True, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """``torch.std_mean``, which ExecuTorch lacks, in its operators."""
    variance = torch.var(x, dim, correction=int(unbiased), keepdim=keepdim)
    return variance.sqrt(), x.mean(dim, keepdim)
