"""Exported files in 8-bit integers: calibrated on images.

Weights become int8 per output channel, maps int8 or uint8, by the ranges that they have on the calibration
images. What 8 bits cannot hold stays in float: SSD's ``L2Norm``, CenterNet's features that are shares of a
sum and the convolutions that read them, its last layers (neighbours on the heat map with the same one of 256
values would both be peaks: one object, found twice), decoding (all that follows the last layers, with the
postprocessing inside), and the layers that are named.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from hardnet_suite.data.sources import is_live
from hardnet_suite.deploy.agreement import Tolerance
from hardnet_suite.deploy.formats import PRESETS, Format
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError
from hardnet_suite.names import known_name
from hardnet_suite.networks import CenterNetArch, SSDArch

if TYPE_CHECKING:
    from hardnet_suite.deploy.runners import PlainRecord

_PREFIX = "network."  # of the network's layers in a written graph
_USUAL_DROP = 10.0  # points; a file that loses more is broken
_SCORES = 0.05  # a box whose score moves by less is the same
# of the suite's networks, the operations that compute in integers; and those that do not: normalisation,
# decoding, shares of a sum
_INTEGER_ONNX = ("Conv", "Gemm", "MatMul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
_FLOAT_OPENVINO = (
    *("Add", "Subtract", "Multiply", "Divide", "Power", "Sqrt", "ReduceSum", "ReduceMean", "NormalizeL2"),
    *("Exp", "Softmax", "SoftMax", "Sigmoid", "TopK", "Clamp"),
)


def layers_in_float(arch: Any) -> tuple[str, ...]:
    """The layers of a network that 8 bits spoil, by the beginnings of their names."""
    if isinstance(arch, CenterNetArch):
        blocks = [("decoder.last_block", arch.last.layers)]
        blocks += [(f"decoder.blocks.{index}", step.layers) for index, step in enumerate(arch.steps)]
        # a layer reads the block's input if its number is a power of two
        reading = tuple(
            f"{name}.layers.{layer - 1}."
            for name, count in blocks
            for layer in (2**power for power in range(count.bit_length()))
            if layer <= count
        )
        return (*reading, "hm.2.", "wh.2.")
    return ("neck.norm.",) if isinstance(arch, SSDArch) and arch.fields is None else ()


@dataclass(frozen=True)
class Quantization:
    """How a network is quantised.

    Attributes:
        images: whatever ``images_of`` takes and can be read several times: no iterator, camera or video at an
            address. They should look like those that the file will see.
        count: how many of them are used at most, evenly spread.
        keep: layers that stay in float, by the beginnings of their names, such as "trunk.stem." or "fc".
        preset: "mixed": maps have a zero point; "performance": none, which some engines compute sooner.
        max_drop: how many of 100 answers (best classes, pixels, boxes; of patches the nearest other) may
            change, 0 to 100; None: 10.
    """

    images: Any
    count: int = 128
    keep: tuple[str, ...] = ()
    preset: str = "mixed"
    max_drop: float | None = None

    def __post_init__(self):
        if self.images is None:
            raise UserError("a quantization needs images to calibrate on, got None")
        if is_live(self.images):
            raise UserError(
                "images to calibrate on are read several times: expected a list, a folder or files, got an "
                "iterator, a camera or a video at an address"
            )
        if isinstance(self.keep, str) or not all(isinstance(name, str) and name for name in self.keep):
            raise UserError(f"keep must be a tuple of beginnings of names of layers, got {self.keep!r}")
        if known_name(self.preset, PRESETS) != self.preset:
            raise UserError(f"preset {self.preset!r}: expected {' or '.join(PRESETS)}")
        if type(self.count) is not int or self.count < 1:
            raise UserError(f"count must be a number of images of at least 1, got {self.count!r}")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise UserError(f"the largest drop must be from 0 to 100, got {self.max_drop}")

    @property
    def tolerance(self) -> Tolerance:
        """How far the file may be from the network: by its answers alone."""
        drop = _USUAL_DROP if self.max_drop is None else self.max_drop
        return Tolerance(math.inf, _SCORES, 1 - drop / 100)


def write_quantized(
    format: Format,
    network: nn.Module,
    example: Tensor,
    path: Path,
    *,
    record: ExportRecord | PlainRecord,
    dynamic: str,
    inputs: Iterable[np.ndarray],
    keep: Sequence[str] = (),
    preset: str = "mixed",
) -> None:
    """``format.write``, in 8-bit integers.

    Args:
        format: one of those in ``QUANTIZERS``.
        network: in float32.
        example: of its input.
        path: the file to write.
        record: of the file. One without an arch is of a network of another package: what stays in float is
            then up to the quantiser.
        dynamic: what of the input is free.
        inputs: what the network is calibrated on, as the file takes them.
        keep: layers that stay in float, see ``Quantization``.
        preset: see ``Quantization``.

    Raises:
        UserError: no images, or a layer to keep that the network has not.
    """
    _require_layers(_layers(name for name, _ in network.named_parameters()), keep)
    inputs = list(inputs)
    with TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
        exact = Path(folder, path.name)
        format.write(network, example, exact, record=replace(record, precision="fp32"), dynamic=dynamic)
        QUANTIZERS[format.name](exact, path, inputs, record, keep, preset)


def _quantize_onnx(
    source: Path,
    target: Path,
    inputs: Sequence[np.ndarray],
    record: ExportRecord | PlainRecord,
    keep: Sequence[str],
    preset: str,
) -> None:
    """ONNX Runtime's static quantisation, with QuantizeLinear and DequantizeLinear around each operator."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from hardnet_suite.deploy.formats import onnx as onnx_format

    class Reader(CalibrationDataReader):
        def __init__(self, name: str):
            self._rows = ({name: each} for each in inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._rows, None)

    model = onnx.load(source)
    name = model.graph.input[0].name
    layers = {node.name: _layers(node.input) for node in model.graph.node}
    writers = {output: node.name for node in model.graph.node for output in node.output}
    sources = {
        node.name: {writers[value] for value in node.input if value in writers} for node in model.graph.node
    }
    is_mixed = preset == "mixed"
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True, skip_optimization=True)
        quantize_static(
            str(prepared),
            str(target),
            Reader(name),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=None if record.arch is None else list(_INTEGER_ONNX),
            per_channel=True,
            activation_type=QuantType.QUInt8 if is_mixed else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_in_float(layers, sources, record, keep),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": not is_mixed},
        )
    model = onnx.load(target)
    model.ClearField("metadata_props")
    onnx_format.save(model, target, record)


def _quantize_openvino(
    source: Path,
    target: Path,
    inputs: Sequence[np.ndarray],
    record: ExportRecord | PlainRecord,
    keep: Sequence[str],
    preset: str,
) -> None:
    """NNCF's post-training quantisation."""
    import nncf

    from hardnet_suite.deploy.formats import openvino as openvino_format

    nncf.set_log_level(logging.ERROR)
    model = openvino_format.core().read_model(source)
    nodes = model.get_ordered_ops()
    layers = {
        node.friendly_name: _layers(_constant(value) for value in node.input_values()) for node in nodes
    }
    sources = {
        node.friendly_name: {value.get_node().friendly_name for value in node.input_values()}
        for node in nodes
    }
    types = {node.get_type_name() for node in nodes}
    in_float = nncf.IgnoredScope(
        names=_in_float(layers, sources, record, keep),
        types=[] if record.arch is None else sorted(types & {*_FLOAT_OPENVINO}),
        validate=False,
    )
    with redirect_stdout(io.StringIO()):  # bars of its progress
        quantized = nncf.quantize(
            model,
            nncf.Dataset(list(inputs)),
            preset=nncf.QuantizationPreset(preset),
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(inputs),
            ignored_scope=in_float,
        )
    openvino_format.save(quantized, target, record)


QUANTIZERS: dict[str, Callable[..., None]] = {"onnx": _quantize_onnx, "openvino": _quantize_openvino}
_PACKAGES = {"onnx": (), "openvino": ("nncf",)}  # beside those of the format


def require_quantizer(format: Format) -> None:
    """UserError where a package is missing that quantises the files of a format."""
    replace(format, packages=_PACKAGES[format.name]).require_packages()


def _constant(value: Any) -> str:
    """The name of what an input is, behind conversions of its type."""
    while value.get_node().get_type_name() == "Convert":
        value = value.get_node().input_value(0)
    return value.get_node().friendly_name


def _layers(inputs: Iterable[str]) -> list[str]:
    """The parameters of the network among the inputs of a node."""
    return [name.partition(_PREFIX)[2] for name in inputs if name.startswith(_PREFIX)]


def _in_float(
    layers: Mapping[str, Sequence[str]],
    sources: Mapping[str, Collection[str]],
    record: ExportRecord | PlainRecord,
    keep: Sequence[str],
) -> list[str]:
    """The nodes that stay in float; UserError for a layer to keep that no node has.

    These are the nodes of the layers that stay in float, and with the postprocessing inside all of decoding.

    Args:
        layers: node -> its parameters, in an order in which each node comes behind its sources.
        sources: node -> the nodes whose outputs it takes.
        record: of the file.
        keep: further layers.
    """
    _require_layers([name for names in layers.values() for name in names], keep)
    starts = (*layers_in_float(record.arch), *keep)
    in_float = [node for node, names in layers.items() if any(name.startswith(starts) for name in names)]
    if "postprocess" not in record.includes:
        return in_float
    return in_float + [node for node in _decoding(layers, sources) if node not in in_float]


def _decoding(layers: Mapping[str, Sequence[str]], sources: Mapping[str, Collection[str]]) -> list[str]:
    """The nodes behind the last layers: none of what is computed of their outputs has parameters."""
    before = set()
    for node in reversed(list(layers)):
        if layers[node] or node in before:
            before.update(sources[node], [node])
    return [node for node in layers if node not in before]


def _require_layers(known: Sequence[str], keep: Sequence[str]) -> None:
    """UserError for a layer to keep that is not among the known ones."""
    for start in keep:
        if not any(name.startswith(start) for name in known):
            raise UserError(
                f"no layer of the network begins with {start!r}; there are {', '.join(known[:4])}, …"
            )
