"""The weights of a classifier in an ONNX graph, such as those of STMicroelectronics' model zoo.

Exporters fold batch norms into the convolutions before them and rename what is left, so that tensors are told
by the order of the convolutions, of which a HarDNet's links leave no choice. A folded batch norm is returned
as one that adds the bias: the network gives the same answers, but the statistics of its training are lost.
That they are the same is computed (``require_same_answers``), as a graph may do anything else besides.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

EPSILON = 1e-5  # of the suite's batch norms
# type of a graph's input -> its numbers, and by how much its answers may be off: rounding alone, in other
# kernels, and in as many layers as a HarDNet has
_FLOATS = {
    "tensor(float)": (np.float32, 1e-2),
    "tensor(float16)": (np.float16, 5e-2),
}
_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger")


class GraphError(Exception):
    """A graph whose weights cannot be read, with the reason."""


def graph_tensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the convolutions, batch norms and the linear layer of a graph, in their order.

    Args:
        data: bytes of the .onnx file.

    Returns:
        The tensors as ``convN.conv.weight``, ``convN.norm.…`` and ``fc.…``, and what the graph says beside
        them: "activation", a key of ``layers.ACTIVATIONS``, and "folded", how many batch norms are folded.

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
    for node in graph.node:
        if node.op_type == "Conv":
            weight, bias, prefix = array(node, 1), array(node, 2), f"conv{count}"
            following = readers[node.output[0]]
            norm = following[0] if [each.op_type for each in following] == ["BatchNormalization"] else None
            if weight is None or (_has(node, 2) and (bias is None or norm is not None)):
                raise GraphError("a convolution in it is of another kind than a HarDNet's")
            count += 1
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
    facts = {"activation": activations.pop(), "folded": str(folded)}
    return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()}, facts


def open_session(data: bytes, threads: int | None = None) -> Any:
    """ONNX Runtime's session of a graph, on the CPU.

    Args:
        data: bytes of the .onnx file.
        threads: number of threads of an operator. Default: ONNX Runtime's.

    Raises:
        GraphError: the package is missing, or ONNX Runtime cannot open the graph.
    """
    try:
        import onnxruntime
    except ImportError:
        raise GraphError("running it needs ONNX Runtime: pip install hardnet_suite[deploy]") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it cannot do is raised
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types
        raise GraphError(f"ONNX Runtime cannot open it ({str(error).splitlines()[0]})") from None


def require_same_answers(data: bytes, network: nn.Module, channels: int) -> str:
    """Compares the answers of a graph with those of a classifier, on two images of noise.

    Args:
        data: bytes of the .onnx file.
        network: maps (N, channels, H, W) to logits (N, classes), in evaluation mode and float32.
        channels: of the images.

    Returns:
        What the graph returns: "logits", or "probabilities" after a softmax.

    Raises:
        GraphError: the answers differ by more than rounding, or the graph does not map images to one row of
            numbers each, or cannot be computed.
    """
    session = open_session(data)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] != channels or len(outputs) != 1 or inputs[0].type not in _FLOATS:
        raise GraphError(f"its graph does not map images (N, {channels}, H, W) of floats to one output")
    kind, tolerance = _FLOATS[inputs[0].type]
    sides = [side if isinstance(side, int) else free for side, free in zip(shape[2:], (96, 64), strict=True)]
    batch = shape[0] if isinstance(shape[0], int) else 1
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(batch, channels, *sides, generator=generator) for _ in range(2)]
    try:
        theirs = [session.run(None, {inputs[0].name: image.numpy().astype(kind)})[0] for image in images]
    except Exception as error:  # onnxruntime's own types
        raise GraphError(f"ONNX Runtime cannot run its graph ({str(error).splitlines()[0]})") from None
    if not all(np.isfinite(each).all() for each in theirs):
        raise GraphError("its graph answers two images of noise with NaN or infinity")
    with torch.inference_mode():
        logits = [network(image) for image in images]
    apart = {}
    for name, ours in (("logits", logits), ("probabilities", [each.softmax(1) for each in logits])):
        if any(each.shape != tuple(other.shape) for each, other in zip(theirs, ours, strict=True)):
            raise GraphError(f"its graph returns {theirs[0].shape}, expected {tuple(ours[0].shape)}")
        spread = float((ours[0] - ours[1]).abs().max()) or 1.0
        pairs = zip(theirs, ours, strict=True)
        apart[name] = max(float(np.abs(each - other.numpy()).max()) for each, other in pairs) / spread
    nearest = min(apart, key=apart.__getitem__)
    if not apart[nearest] <= tolerance:
        raise GraphError(
            f"its graph computes something else: on two images of noise its answers are off by "
            f"{apart[nearest]:.1%} of what differs between the images; convert the weights that it was "
            "exported from"
        )
    return nearest


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
