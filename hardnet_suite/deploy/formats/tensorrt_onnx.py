"""ONNX that NVIDIA's TensorRT reads: the operators of a file are checked against those that it supports."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hardnet_suite.deploy.formats import onnx as onnx_format
from hardnet_suite.deploy.formats.onnx import open, read_metadata, select
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError

__all__ = ["open", "read_metadata", "select", "trtexec", "write"]

# docs/operators.md of github.com/onnx/onnx-tensorrt, release 10.1 (commit 96e7811): opsets 9 to 20
OPSETS = range(9, 21)
_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike
Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace
DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
GroupNormalization GRU HardSigmoid HardSwish Hardmax Identity If ImageScaler InstanceNormalization IsInf
IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool
MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not
OneHot Or Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform
RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round
ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
Transpose Trilu Unsqueeze Upsample Where Xor
"""
OPERATORS = frozenset(_NAMES.split())
_MOST_BEST = 3839  # of TopK
_USUAL = {"N": (1, 1, 16), "H": (None, 512, 2048), "W": (None, 1024, 2048)}  # least, usual and most of a size


def write(network: nn.Module, example: Tensor, path: Path, *, record: ExportRecord, dynamic: str) -> None:
    """Writes an ONNX file; see ``hardnet_suite.deploy.formats``.

    Raises:
        UserError: TensorRT does not support what is in it.
    """
    model = onnx_format.program_of(network, example, record).model_proto
    if faults := list(unsupported(model)):
        raise UserError(f"TensorRT does not support what this export needs: {'; '.join(faults)}")
    onnx_format.save(model, path, record)


def unsupported(model: Any) -> Iterator[str]:
    """What TensorRT does not read of a model.

    Args:
        model: an ``onnx.ModelProto``.

    Yields:
        A few words each.
    """
    import onnx

    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if opset not in OPSETS:
        yield f"opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}"
    domains = {"", "ai.onnx"}
    yield from sorted(
        {f"the operator {node.op_type}" for node in model.graph.node if node.op_type not in OPERATORS}
        | {f"the domain {node.domain}" for node in model.graph.node if node.domain not in domains}
    )
    uint8 = onnx.TensorProto.UINT8
    bytes_in = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == uint8}
    bytes_out = {value.name for value in model.graph.output if value.type.tensor_type.elem_type == uint8}
    constants = {value.name: value for value in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Cast", "Shape") and (bytes_in & {*node.input} or bytes_out & {*node.output}):
            yield f"8-bit numbers in {node.op_type}: they may only be cast"
        if node.op_type == "TopK" and node.input[1] in constants:
            count = int(onnx.numpy_helper.to_array(constants[node.input[1]]).max())
            if count > _MOST_BEST:
                yield f"the best {count} of a tensor, at most {_MOST_BEST}"


def trtexec(path: str | Path, record: ExportRecord) -> str:
    """The command that builds an engine of a file, beside it."""
    engine = Path(path).with_suffix(".engine")
    words = ["trtexec", f"--onnx={path}", f"--saveEngine={engine}"]
    if record.precision != "fp32":
        words.append("--stronglyTyped")
    if record.free_dimensions:
        for place, option in enumerate(("minShapes", "optShapes", "maxShapes")):
            shape = "x".join(str(_side(record, size, place)) for size in record.input_shape)
            words.append(f"--{option}={record.input_name}:{shape}")
    return shlex.join(words)


def _side(record: ExportRecord, size: int | str, place: int) -> int:
    if isinstance(size, int):
        return size
    usual = _USUAL[size][place]
    step = record.side_multiple
    return -(-record.least_side // step) * step if usual is None else usual
