"""From a network to a function that runs one forward pass of it, in each engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardnet_suite.deploy.formats import FORMATS, Format
from hardnet_suite.deploy.quantize import require_quantizer, write_quantized
from hardnet_suite.deploy.record import Content
from hardnet_suite.deploy.steps import PRECISIONS as DTYPES
from hardnet_suite.deploy.steps import casts, transformed
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name
from hardnet_suite.networks import Usage
from hardnet_suite.quiet import without_messages

# engines of PyTorch itself -> the steps to what they run: "pack" on the CPU alone, after cast and layout
PYTORCH: dict[str, tuple[str, ...]] = {
    "eager": (),
    "fused": ("fuse",),
    "packed": ("fuse", "merge", "separate", "pack"),
    "split": ("fuse", "merge", "separate", "split", "pack"),
    "compile": ("fuse",),
    "cudagraphs": ("fuse",),
}

# "int8+bf16": with bfloat16 for the layers that stay in float
PRECISIONS = {**DTYPES, "int8": torch.int8, "int8+bf16": torch.int8}
Pass = Callable[[], Any]


@dataclass(frozen=True)
class Setting:
    """How a network is run.

    Attributes:
        engine: of ``engine_names()``.
        precision: of ``PRECISIONS``.
        channels_last: memory layout of weights and input, for the engines of PyTorch.
        device: "cpu", "cuda" or "cuda:N", as ``device_name`` has it; exported files run on the CPU.
        threads: of the CPU; None: as many as PyTorch uses.
    """

    engine: str = "eager"
    precision: str = "fp32"
    channels_last: bool = False
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", device_name(self.device))


def device_name(device: str | torch.device) -> str:
    """A device in the one form in which devices are compared: of the CPU, which is one, without a number.

    Raises:
        RuntimeError: PyTorch knows no such device.
    """
    device = torch.device(device)
    return "cpu" if device.type == "cpu" else str(device)


def engine_names() -> list[str]:
    """The engines of PyTorch, then those of the formats of ``export``."""
    return list(dict.fromkeys([*PYTORCH, *(each.engine for each in FORMATS.values())]))


def find_engine(name: str) -> str:
    """The engine that is meant by a name: its own, or that of the format of its files.

    Raises:
        UserError: there is none, or its packages, or those that write its files, are missing.
    """
    names, formats = engine_names(), {each.name: each.engine for each in FORMATS.values()}
    engine = known_name(name, names) or formats.get(known_name(name, formats) or "")
    if engine is None:
        raise UserError(f"unknown engine {name!r}; {did_you_mean(name, names)}known: {', '.join(names)}")
    if engine not in PYTORCH:
        _format_of(engine).require_packages(to_write=True)
    return engine


def is_integer(precision: str) -> bool:
    """Whether a precision of a setting is 8-bit integers."""
    return PRECISIONS[precision] == torch.int8


def integer_engines() -> list[str]:
    """The engines that have int8."""
    return list(dict.fromkeys(each.engine for each in FORMATS.values() if "int8" in each.precisions))


def require_integers(engine: str) -> None:
    """UserError where an engine has no int8, or a package is missing that makes its files so."""
    if engine not in integer_engines():
        raise UserError(f"{engine} has no int8; the engines that have: {', '.join(integer_engines())}")
    require_quantizer(_format_of(engine))


def load_engine(engine: str) -> None:
    """Imports the packages of an engine."""
    own = ("torch._inductor.compile_fx",) if engine == "compile" else ()
    for package in own if engine in PYTORCH else _format_of(engine).packages:
        import_module(package)


@dataclass(frozen=True)
class EngineForm:
    """A network in the form in which an engine runs it.

    Attributes:
        setting: how it is run.
        network: for the engines of PyTorch.
        file: for the others, what was exported.
        record: what the file's writer was told.
    """

    setting: Setting
    network: nn.Module | None = None
    file: Path | None = None
    record: PlainRecord | None = None


def prepare(network: nn.Module, inputs: Tensor, setting: Setting, folder: Path) -> EngineForm:
    """The form of a network for an engine; exported, where that is another than PyTorch.

    Args:
        network: In eval mode; left as it is.
        inputs: (N, C, H, W) float32, on which int8 is calibrated, too.
        setting: How it is to be run.
        folder: For exported files.

    Raises:
        Exception: whatever the engine's writer raises for a network that it cannot express.
    """
    if is_integer(setting.precision):
        require_integers(setting.engine)
    if setting.engine in PYTORCH:
        steps = [step for step in PYTORCH[setting.engine] if step != "pack"]
        form = transformed(_in_float32(network), (*steps, *casts(setting.precision)), inputs)
        return EngineForm(setting, network=form)
    file, record = _exported(network, inputs, setting, folder)
    return EngineForm(setting, file=file, record=record)


def make_pass(prepared: EngineForm, inputs: Tensor) -> Pass:
    """A function without arguments that runs a prepared network once on the same input.

    Args:
        prepared: Of ``prepare``; its network is moved to the device.
        inputs: (N, C, H, W) float32.

    Raises:
        Exception: whatever an engine raises that cannot run it.
    """
    if prepared.network is not None:
        return _pytorch_pass(prepared.network, inputs, prepared.setting)
    return _engine_pass(prepared, inputs)


def _pytorch_pass(network: nn.Module, inputs: Tensor, setting: Setting) -> Pass:
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    network = network.to(setting.device).to(memory_format=layout)
    steps = [step for step in PYTORCH[setting.engine] if step == "pack" and setting.device == "cpu"]
    inputs = inputs.to(setting.device, DTYPES[setting.precision]).contiguous(memory_format=layout)
    if setting.engine == "cudagraphs":
        return _graph_pass(network, inputs)
    call: Callable[[Tensor], Any] = transformed(network, steps, inputs)
    if setting.engine == "compile":
        call = torch.compile(network, dynamic=False, options={"freezing": setting.device == "cpu"})

    @torch.inference_mode()
    def run() -> Any:
        return call(inputs)

    if setting.engine == "compile":
        # networks of one class share its code: beyond the usual limit the next would run uncompiled
        with torch._dynamo.config.patch(recompile_limit=1024, fail_on_recompile_limit_hit=True):
            run()
    return run


def _graph_pass(network: nn.Module, inputs: Tensor) -> Pass:
    if inputs.device.type != "cuda":
        raise UserError("the engine cudagraphs needs a CUDA device")
    with torch.inference_mode(), torch.cuda.device(inputs.device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # cuDNN chooses its algorithms before the capture
                network(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            network(inputs)
    return graph.replay


@dataclass(frozen=True)
class PlainRecord:
    """What a writer of ``deploy.formats`` asks of a record, for a network of any package.

    Attributes:
        outputs: names of the outputs, in order.
        input_shape: of the input.
        precision: of the numbers in the file.
        arch: of the network; None: of another package.
    """

    outputs: tuple[str, ...]
    input_shape: tuple[int, ...]
    precision: str = "fp32"
    arch: Any = None
    includes: tuple[str, ...] = ()
    input_name: str = "images"
    least_side: int = 1
    side_multiple: int = 1
    contents: tuple[Content, ...] = ()

    @property
    def free_dimensions(self) -> dict[int, str]:
        return {}

    def to_json(self) -> str:
        return "{}"


class _TupleOutput(nn.Module):
    """A network with its tensors in a tuple, in float32 outside as the files of ``export``."""

    def __init__(self, network: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.float() for tensor in _tensors(self.network(images.to(self.dtype))))


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output
    return [tensor for value in values for tensor in _tensors(value)]


def _exported(network: nn.Module, inputs: Tensor, setting: Setting, folder: Path) -> tuple[Path, PlainRecord]:
    form = _format_of(setting.engine)
    in_file = "int8" if is_integer(setting.precision) else setting.precision
    in_file = in_file if in_file in form.precisions else "fp32"
    path = folder / f"{sum(1 for _ in folder.iterdir())}_{setting.engine}{form.suffixes[0]}"
    fused = transformed(_in_float32(network), ("fuse",), inputs)
    flat = _TupleOutput(fused, DTYPES[form.network_precision(in_file)]).eval()
    with torch.no_grad():
        names = tuple(f"output_{index}" for index, _ in enumerate(flat(inputs)))
    arch = network.arch if isinstance(getattr(network, "usage", None), Usage) else None
    record = PlainRecord(names, tuple(inputs.shape), in_file, arch)
    example = inputs.contiguous()
    with without_messages():
        if in_file == "int8":
            write_quantized(
                form, flat, example, path, record=record, dynamic="none", inputs=[example.numpy()]
            )
        else:
            form.write(flat, example, path, record=record, dynamic="none")
    return path, record


def _engine_pass(prepared: EngineForm, inputs: Tensor) -> Pass:
    setting = prepared.setting
    run = _format_of(setting.engine).open(
        prepared.file,
        record=prepared.record,
        precision=setting.precision,
        threads=setting.threads or torch.get_num_threads(),
    )
    array = inputs.contiguous().numpy()
    return lambda: run(array)


def _in_float32(network: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU."""
    return copy.deepcopy(network).eval().to("cpu", torch.float32)


def _format_of(engine: str) -> Format:
    return next(each for each in FORMATS.values() if each.engine == engine)
