"""The weights of a classifier in an ONNX graph, such as those of STMicroelectronics' model zoo.

Exporters fold batch norms into the convolutions before them and rename what is left, so that tensors are told
by the order of the convolutions, of which a HarDNet's links leave no choice. A folded batch norm is returned
as one that adds the bias: the network gives the same answers, but the statistics of its training are lost.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

EPSILON = 1e-5  # of the suite's batch norms
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger")


class GraphError(Exception):
    """Why a graph holds no weights that the suite reads."""


def graph_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the convolutions, batch norms and the linear layer of a graph, in their order.

    Args:
        data: bytes of the .onnx file.

    Returns:
        The tensors as ``convN.conv.weight``, ``convN.norm.…`` and ``fc.…``, and what the graph says beside
        them: "activation", a key of ``layers.ACTIVATIONS``; "folded", how many batch norms are folded;
        "pooling", the kinds of pools; "strides" of the convolutions.

    Raises:
        GraphError: the onnx package is missing, the file is damaged or quantised, keeps its weights
            elsewhere, or is not a chain of such layers.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise GraphError("reading it needs the package onnx: pip install hardnet_suite[deploy]") from None
    try:
        graph = onnx.load_model_from_string(data).graph
    except Exception as error:  # whatever protobuf raises
        raise GraphError("corrupt or cut short") from error
    if quantised := next((node.op_type for node in graph.node if node.op_type in _QUANTISED), None):
        raise GraphError(f"its weights are quantised ({quantised}): take the file of floats")
    if any(value.data_location == onnx.TensorProto.EXTERNAL for value in graph.initializer):
        raise GraphError("its weights are in another file")
    constants = {value.name: value for value in graph.initializer}
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
        for name in node.input:
            readers[name].append(node)

    def array(node: Any, index: int) -> np.ndarray | None:
        name = node.input[index] if index < len(node.input) else ""
        return numpy_helper.to_array(constants[name]).copy() if name in constants else None

    tensors: dict[str, np.ndarray] = {}
    activations, count, folded = set(), 0, 0
    strides: list[list[int]] = []
    for node in graph.node:
        if node.op_type == "Conv":
            weight, bias, prefix = array(node, 1), array(node, 2), f"conv{count}"
            following = readers[node.output[0]]
            norm = following[0] if [each.op_type for each in following] == ["BatchNormalization"] else None
            if weight is None or (_has(node, 2) and (bias is None or norm is not None)):
                raise GraphError("a convolution in it is of another kind than a HarDNet's")
            count += 1
            strides.append(
                next((list(each.ints) for each in node.attribute if each.name == "strides"), [1, 1])
            )
            tensors[f"{prefix}.conv.weight"] = weight
            if norm is None:
                folded += 1
                if bias is None:  # exporters drop one of zeros
                    bias = np.zeros(weight.shape[0], weight.dtype)
                values = [np.ones_like(bias), bias, np.zeros_like(bias), np.full_like(bias, 1 - EPSILON)]
            else:
                following = readers[norm.output[0]]
                values = [array(norm, index) for index in (1, 2, 3, 4)]
                epsilon = next((each.f for each in norm.attribute if each.name == "epsilon"), 1e-5)
                if any(value is None for value in values) or not np.isclose(epsilon, EPSILON):
                    raise GraphError("a batch norm in it is of another kind")
            names = ("weight", "bias", "running_mean", "running_var")
            tensors |= {f"{prefix}.norm.{name}": value for name, value in zip(names, values, strict=True)}
            activations |= {_activation(each, array) for each in following} - {None}
        elif node.op_type in ("Gemm", "MatMul") and "fc.weight" not in tensors:
            weight, bias = array(node, 1), array(node, 2)
            added = readers[node.output[0]] if node.op_type == "MatMul" else []
            if [each.op_type for each in added] == ["Add"]:
                bias = array(added[0], 0) if array(added[0], 1) is None else array(added[0], 1)
            if weight is None or weight.ndim != 2 or ((_has(node, 2) or added) and bias is None):
                raise GraphError("its linear layer is of another kind than a HarDNet's")
            transposed = any(each.name == "transB" and each.i for each in node.attribute)
            if bias is None:  # exporters drop one of zeros
                bias = np.zeros(weight.shape[0 if transposed else 1], weight.dtype)
            tensors |= {"fc.weight": weight if transposed else weight.T, "fc.bias": bias}
    if activations not in ({"relu"}, {"relu6"}):
        found = ", ".join(sorted(activations)) or "none"
        raise GraphError(f"its activations are {found}, expected one of relu and relu6")
    pools = {node.op_type for node in graph.node if node.op_type in ("MaxPool", "AveragePool")}
    facts = {
        "activation": activations.pop(),
        "folded": str(folded),
        "pooling": " and ".join(sorted(pools)),
        "strides": " ".join(str(max(each)) for each in strides),
    }
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()}, facts


def _has(node: Any, index: int) -> bool:
    return index < len(node.input) and node.input[index] != ""


def _activation(node: Any, array: Any) -> str | None:
    """The activation that a node computes; None for nodes of other kinds."""
    if node.op_type == "Relu":
        return "relu"
    if node.op_type == "Clip":
        attributes = {each.name: each.f for each in node.attribute}
        least = attributes.get("min", array(node, 1))
        most = attributes.get("max", array(node, 2))
        return "relu6" if least is not None and most is not None and (least, most) == (0, 6) else "another"
    return None
