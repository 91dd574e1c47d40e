"""OpenVINO's intermediate representation: an .xml with the graph, a .bin with the weights."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from torch import Tensor, nn

from hardnet_suite.data.xml_files import read_xml
from hardnet_suite.deploy.formats import PrecisionError, Run, single_input
from hardnet_suite.deploy.formats import onnx as onnx_format
from hardnet_suite.deploy.formats.onnx import select
from hardnet_suite.deploy.record import KEY, ExportRecord, sealed
from hardnet_suite.errors import UserError

__all__ = ["open", "read_metadata", "select", "write"]

# what it computes in -> OpenVINO's hint (of int8: for the rest) and what the processor must have
_HINTS = {
    "fp32": ("f32", "FP32"),
    "fp16": ("f16", "FP16"),
    "bf16": ("bf16", "BF16"),
    "int8": ("f32", "INT8"),
    "int8+bf16": ("bf16", "BF16"),
}


def write(network: nn.Module, example: Tensor, path: Path, *, record: ExportRecord, dynamic: str) -> None:
    """Writes the pair of files by way of ONNX; see ``hardnet_suite.deploy.formats``.

    With "fp16", the weights are stored in half precision.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        onnx_format.program_of(network, example, record).save(file, external_data=False)
        model = core().read_model(file)
    save(model, path, record)


@cache
def core() -> Any:
    """The process's only ``openvino.Core``.

    Its plugin for the CPU sets the stack on which signals are handled where there is AMX, and unmaps it at
    its end. Of two that overlap, the second puts back what the first has unmapped: the next signal, such as
    that of a worker process that ends, would kill the process.
    """
    import openvino

    only = openvino.Core()
    only.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin, before NNCF does
    return only


def save(model: Any, path: Path, record: ExportRecord) -> None:
    """Writes a model of OpenVINO with a record, the last element of the graph's file."""
    import openvino

    try:
        openvino.save_model(model, path, compress_to_fp16=record.precision == "fp16")
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        # the system's own error is lost in OpenVINO
        raise OSError(errno.EIO, "OpenVINO cannot write all of it", str(path)) from error
    root = ElementTree.parse(path).getroot()
    info = root.find("rt_info")
    if info is None:
        info = ElementTree.Element("rt_info")
    else:
        root.remove(info)
    root.append(info)
    for other in info.findall(KEY):  # of the file that was quantised
        info.remove(other)
    entry = ElementTree.SubElement(info, KEY)
    content = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    path.write_bytes(content[: content.rindex(f"<{KEY}".encode())])
    entry.set("value", sealed(record, path, beside=(".bin",)).to_json())
    path.write_bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def open(
    path: Path, *, record: ExportRecord, precision: str | None = None, threads: int | None = None
) -> Run:
    """Opens a file in OpenVINO on the CPU, for latency.

    ``precision`` is what it computes in; None: float32, also where the processor has a faster one. Of a file
    in 8-bit integers it is that of the layers in float, with "int8+bf16" bfloat16.
    """
    in_integers = record.precision == "int8"
    computing = ("int8" if in_integers else "fp32") if precision is None else precision
    known = [name for name in _HINTS if name.startswith("int8") == in_integers]
    if computing not in known:
        raise PrecisionError(
            f"{path}: OpenVINO computes this file in {' or '.join(known)}, not in {precision}"
        )
    hint, capability = _HINTS[computing]
    if capability not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError(f"{path}: OpenVINO has no {computing} on this processor")
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    options["ENABLE_MMAP"] = False  # a mapped file that is written over would change or kill the process
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        model = core().compile_model(str(path), "CPU", options)
        outputs = [model.output(name) for name in record.outputs]
    except RuntimeError as error:
        raise UserError(f"{path}: OpenVINO cannot open it ({str(error).strip().splitlines()[-1]})") from None

    def run(values: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
        values = np.ascontiguousarray(single_input(values, record.input_name))
        results = model(values, share_inputs=True)
        return [results[output] for output in outputs]

    return run


def read_metadata(path: Path) -> str | None:
    """The record in a file; None where another program wrote it."""
    try:
        entry = read_xml(Path(path)).find(f"./rt_info/{KEY}")
    except UserError:
        return None
    return None if entry is None else entry.get("value")
