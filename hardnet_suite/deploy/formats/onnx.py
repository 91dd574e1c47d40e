"""ONNX, for ONNX Runtime and everything else that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardnet_suite.deploy.formats import PrecisionError, Run, single_input
from hardnet_suite.deploy.record import KEY, ExportRecord, sealed
from hardnet_suite.errors import UserError
from hardnet_suite.weights.graphs import GraphError, open_session

OPSET = 20  # the latest that TensorRT 10 reads


def write(network: nn.Module, example: Tensor, path: Path, *, record: ExportRecord, dynamic: str) -> None:
    """Writes one file with the weights inside; see ``hardnet_suite.deploy.formats``."""
    save(program_of(network, example, record).model_proto, path, record)


def save(model: Any, path: Path, record: ExportRecord) -> None:
    """Writes an ``onnx.ModelProto`` without metadata, and a record behind it.

    Messages of protobuf may be written one after the other: readers find one with the fields of both.
    """
    import onnx

    path.write_bytes(model.SerializeToString())
    metadata = onnx.ModelProto()
    onnx.helper.set_model_props(metadata, {KEY: sealed(record, path).to_json()})
    with path.open("ab") as file:
        file.write(metadata.SerializeToString())


def program_of(network: nn.Module, example: Tensor, record: ExportRecord) -> torch.onnx.ONNXProgram:
    """The network as ONNX, in memory, without metadata: the exporter's names source files of this machine."""
    from onnx_ir.traversal import RecursiveGraphIterator

    program = torch.onnx.export(
        network,
        (example,),
        input_names=[record.input_name],
        output_names=list(record.outputs),
        dynamic_shapes=(dynamic_shapes(record),) if record.free_dimensions else None,
        opset_version=OPSET,
        custom_translation_table={_select_operator().default: _suppression},
        dynamo=True,
        verbose=False,
    )
    graph = program.model.graph
    program.model.metadata_props.clear()
    graph.metadata_props.clear()
    for node in RecursiveGraphIterator(graph):
        node.metadata_props.clear()
    return program


def open(
    path: Path, *, record: ExportRecord, precision: str | None = None, threads: int | None = None
) -> Run:
    """Opens a file in ONNX Runtime on the CPU."""
    if precision not in (None, record.precision):
        raise PrecisionError(
            f"{path} holds {record.precision}: ONNX Runtime computes in the precision of the file"
        )
    try:
        session = open_session(Path(path).read_bytes(), threads)
    except GraphError as error:
        raise UserError(f"{path}: {error}") from None
    names = list(record.outputs)

    def run(values: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
        values = single_input(values, record.input_name)
        return session.run(names, {record.input_name: np.ascontiguousarray(values)})

    return run


def read_metadata(path: Path) -> str | None:
    """The record in a file; None where another program wrote it."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's own types, of a file that is no ONNX
        return None
    return next((entry.value for entry in model.metadata_props if entry.key == KEY), None)


def dynamic_shapes(record: ExportRecord) -> dict[int, Any]:
    """The free dimensions of a record's input as ``torch.export`` takes them."""
    step, least = record.side_multiple, record.least_side
    dims: dict[int, Any] = {}
    for index, name in record.free_dimensions.items():
        if index == 0:
            dims[index] = torch.export.Dim(name, min=1)
        elif step == 1:
            dims[index] = torch.export.Dim(name, min=least)
        else:
            dims[index] = step * torch.export.Dim(f"{name}_{step}", min=max(1, -(-least // step)))
    return dims


def select(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, limit: int) -> Tensor:
    """``suppression.select`` as an operator that becomes ONNX's."""
    return _select_operator()(boxes, scores, iou_threshold, score_threshold, limit)


@cache
def _select_operator() -> Any:
    from hardnet_suite.deploy import suppression

    @torch.library.custom_op("hardnet_suite::select_boxes", mutates_args=())
    def select_boxes(
        boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, limit: int
    ) -> Tensor:
        return suppression.select(boxes, scores, iou_threshold, score_threshold, limit)

    @select_boxes.register_fake
    def _(boxes, scores, iou_threshold, score_threshold, limit):
        return scores.new_empty(torch.library.get_ctx().new_dynamic_size(), 3, dtype=torch.long)

    return torch.ops.hardnet_suite.select_boxes


def _suppression(boxes, scores, iou_threshold: float, score_threshold: float, limit: int):
    from onnxscript import opset20 as op

    return op.NonMaxSuppression(
        boxes,
        scores,
        op.Constant(value_ints=[limit]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
