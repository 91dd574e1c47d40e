"""ncnn: the graph as text, FILE.param, and the weights beside it, FILE.bin.

ncnn has no batches: the images of one are computed one after the other.
"""

from __future__ import annotations

import copy
import math
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardnet_suite.deploy.formats import PrecisionError, Run, inexpressible, single_input
from hardnet_suite.deploy.formats.torchscript import write_archive
from hardnet_suite.deploy.record import KEY, ExportRecord, sealed
from hardnet_suite.errors import UserError
from hardnet_suite.networks.layers import L2Norm

_MARK = f"# {KEY} "  # of the record's line, behind the graph, where ncnn reads no more
_HEAD = "7767517"  # how every graph begins
_PRECISIONS = ("fp32", "bf16")
_TAIL = 1 << 20  # bytes, at most a record's


def write(network: nn.Module, example: Tensor, path: Path, *, record: ExportRecord, dynamic: str) -> None:
    """Writes graph and weights; see ``hardnet_suite.deploy.formats``."""
    import pnnx

    network = _expressible(network)
    image = example[:1].float()
    shapes = [f"inputshape={_pnnx_shape(image)}"]
    if dynamic == "size":  # told by a second one, which differs at every stride, and which pnnx computes
        step = math.lcm(64, record.side_multiple)
        larger = F.pad(image, (0, step, 0, 2 * step))
        shapes.append(f"inputshape2={_pnnx_shape(larger)}")
    with TemporaryDirectory() as folder:
        files = {name: f"{folder}/network.{end}" for name, end in _FILES.items()}
        traced = torch.jit.trace(network, image, check_trace=False)
        write_archive(Path(folder, "network.pt"), lambda stream: torch.jit.save(traced, stream))
        done = subprocess.run(
            [
                pnnx.EXEC_PATH,
                f"{folder}/network.pt",
                *shapes,
                "fp16=0",
                *(f"{name}={file}" for name, file in files.items()),
            ],
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode == -signal.SIGKILL:
            raise UserError(
                f"pnnx was killed as it wrote {record.usage.name}, as by a system without free memory"
            )
        graph, weights = Path(files["ncnnparam"]), Path(files["ncnnbin"])
        if done.returncode or not graph.is_file() or not weights.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip("-# ")]  # not its rules
            status = f"pnnx ends with status {done.returncode}"
            raise inexpressible("ncnn", record, RuntimeError(lines[-1] if lines else status))
        text = graph.read_text()
        unknown = sorted({line.split()[0] for line in text.splitlines()[2:] if "." in line.split()[0]})
        if unknown:
            raise inexpressible("ncnn", record, RuntimeError(f"it has no {', '.join(unknown)}"))
        path.with_suffix(".bin").write_bytes(weights.read_bytes())
        path.write_text(f"{text.rstrip()}\n")
        with path.open("a") as file:
            file.write(f"{_MARK}{sealed(record, path, beside=('.bin',)).to_json()}\n")


def open(
    path: Path, *, record: ExportRecord, precision: str | None = None, threads: int | None = None
) -> Run:
    """Opens graph and weights in ncnn on the CPU; with "bf16" it stores maps and weights in bfloat16."""
    import ncnn

    precision = record.precision if precision is None else precision
    if precision not in _PRECISIONS:
        raise PrecisionError(f"{path}: ncnn computes in {' or '.join(_PRECISIONS)} here, not in {precision}")
    weights = Path(path).with_suffix(".bin")
    if not weights.is_file():
        raise UserError(f"{path} lacks its weights, {weights.name} beside it")
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = precision == "bf16"
    net.opt.num_threads = threads or os.cpu_count()
    if net.load_param(str(path)) or net.load_model(str(weights)):
        raise UserError(f"{path}: ncnn cannot open it")
    count = len(record.outputs)

    def run(values: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
        values = np.ascontiguousarray(single_input(values, record.input_name), np.float32)
        images = [_computed(ncnn, net, image, count) for image in values]
        return [np.stack(outputs) for outputs in zip(*images, strict=True)]

    return run


def read_metadata(path: Path) -> str | None:
    """The record behind a graph; None where another program wrote it."""
    try:
        with Path(path).open("rb") as file:
            if file.read(len(_HEAD)) != _HEAD.encode():
                return None
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
        text = last.decode()
    except (OSError, UnicodeDecodeError):
        return None
    return text.removeprefix(_MARK) if text.startswith(_MARK) else None


# everything that pnnx writes, by the name of its option
_FILES = {
    "ncnnparam": "param",
    "ncnnbin": "bin",
    "ncnnpy": "py",
    "pnnxparam": "pnnx.param",
    "pnnxbin": "pnnx.bin",
    "pnnxpy": "pnnx.py",
    "pnnxonnx": "onnx",
}


class _Normalize(nn.Module):
    """``L2Norm`` in terms of ncnn's layer."""

    def __init__(self, norm: L2Norm):
        super().__init__()
        self.weight = norm.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.weight[:, None, None] * F.normalize(x, dim=1, eps=1e-10)


def _expressible(network: nn.Module) -> nn.Module:
    """A copy with the layers that pnnx reads."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, L2Norm):
                setattr(parent, name, _Normalize(child))
    return network


def _pnnx_shape(image: Tensor) -> str:
    """As pnnx reads it."""
    return f"[{','.join(map(str, image.shape))}]f32"


def _computed(ncnn, net, image: np.ndarray, count: int) -> list[np.ndarray]:
    """The outputs for one image (C, H, W)."""
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image))
    outputs = []
    for index in range(count):
        status, output = extractor.extract(f"out{index}")
        if status:
            raise RuntimeError(f"ncnn ends with status {status}")
        outputs.append(np.array(output))
    return outputs
