"""The file formats of exported networks; each is a module here, imported when it is first used.

A module of a format has three functions::

    write(network, example, path, *, record, dynamic) -> None
    open(path, *, record, precision, threads) -> run
    read_metadata(path) -> str | None

``write`` takes a network in eval mode on the CPU, from one tensor to those that ``record.outputs`` names (a
tensor, or a tuple of several); an example of its input; and what of it is free: "none", "batch" or "size".
``open`` returns a function from the input, an array or {``record.input_name``: array}, to a list of outputs,
arrays that the next call leaves alone; ``precision`` None is that of the file, ``threads`` None all cores.
``read_metadata`` returns the text of the record, None for every file that no export of the suite wrote.
A module whose format has non-maximum suppression has ``select``, too, see ``hardnet_suite.deploy.graph``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name

if TYPE_CHECKING:
    import numpy as np

    from hardnet_suite.deploy.record import ExportRecord

Run: TypeAlias = "Callable[[np.ndarray | Mapping[str, np.ndarray]], list[np.ndarray]]"

DYNAMIC = ("none", "batch", "size")
PRESETS = ("mixed", "performance")  # of 8-bit integers, see ``deploy.quantize.Quantization``


class PrecisionError(UserError):
    """An engine computes a file in another precision than the one asked for, on every machine."""


@dataclass(frozen=True)
class Format:
    """A file format and the engine that runs it.

    Attributes:
        name: as ``--format`` takes it.
        suffixes: of its files, in lower case; the first is the usual one.
        engine: what runs its files.
        module: of this package.
        packages: importable modules that running needs, beside torch.
        writers: those that writing needs, beside these.
        extra: of this package, which installs them.
        beside: suffixes of the files that lie beside the one that is named.
        dynamic: which dimensions may be free, of ``DYNAMIC``.
        free_in_integers: whether they may be in 8-bit integers, too.
        precisions: of the numbers in the file.
        halves: whether ``write`` takes a network in that precision; otherwise it reduces it itself.
        suppression: whether non-maximum suppression can be inside.
        is_program: whether opening a file may run any code that its author put there.
    """

    name: str
    suffixes: tuple[str, ...]
    engine: str
    module: str
    packages: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    extra: str = "deploy"
    beside: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = DYNAMIC
    free_in_integers: bool = True
    precisions: tuple[str, ...] = ("fp32",)
    halves: bool = True
    suppression: bool = True
    is_program: bool = False

    @property
    def write(self) -> Callable[..., None]:
        """See the module's text."""
        return self._imported().write

    @property
    def open(self) -> Callable[..., Run]:
        return self._imported().open

    @property
    def select(self) -> Callable[..., Any]:
        return self._imported().select

    @property
    def read_metadata(self) -> Callable[[Path], str | None]:
        return self._imported().read_metadata

    def require_precision(self, precision: str) -> None:
        """UserError unless files may hold numbers of a precision."""
        if precision not in self.precisions:
            raise UserError(
                f"the format {self.name} has no precision {precision!r}: choose from "
                f"{', '.join(self.precisions)}"
            )

    def dynamic_in(self, precision: str) -> tuple[str, ...]:
        """Which dimensions may be free in a precision, of ``DYNAMIC``."""
        return self.dynamic if precision != "int8" or self.free_in_integers else ("none",)

    def network_precision(self, precision: str) -> str:
        """The precision of a network that ``write`` takes for a file in a precision; integers come later."""
        return precision if self.halves and precision != "int8" else "fp32"

    def parts(self, path: str | Path) -> tuple[Path, ...]:
        """All files of an exported network: the named one first."""
        return (Path(path), *(Path(path).with_suffix(suffix) for suffix in self.beside))

    def require_packages(self, *, to_write: bool = False) -> None:
        """UserError where a package is missing, with what installs it."""
        needed = self.packages + self.writers if to_write else self.packages
        missing = [package for package in needed if find_spec(package) is None]
        if missing:
            raise UserError(
                f"the format {self.name} needs {', '.join(missing)}: "
                f"pip install 'hardnet-suite[{self.extra}]', "
                f"or pip install {' '.join(name.replace('_', '-') for name in missing)}"
            )

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Within, a module that its packages import and that is missing is a UserError that names it.

        ``require_packages`` does not see those: of packages that were installed without their dependencies.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            raise UserError(
                f"the format {self.name} needs {error.name}, which one of its packages imports and which is "
                "not installed"
            ) from error

    def _imported(self) -> Any:
        return import_module(f"{__name__}.{self.module}")


_ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("onnx", (".onnx",), "onnxruntime", "onnx", _ONNX, precisions=("fp32", "fp16", "int8")),
        Format(
            "torchscript",
            (".pt", ".torchscript"),
            "torchscript",
            "torchscript",
            precisions=("fp32", "fp16", "bf16"),
        ),
        Format(
            "litert",
            (".tflite",),
            "ai-edge-litert",
            "litert",
            ("ai_edge_litert",),
            writers=("litert_torch",),
            extra="engines",
            dynamic=("none",),
            suppression=False,
        ),
        Format(
            "executorch",
            (".pte",),
            "executorch",
            "executorch",
            ("executorch",),
            extra="engines",
            dynamic=("none",),
            suppression=False,
        ),
        Format(
            "ncnn",
            (".param",),
            "ncnn",
            "ncnn",
            ("ncnn",),
            writers=("pnnx",),
            extra="engines",
            beside=(".bin",),
            suppression=False,
        ),
        Format(
            "openvino",
            (".xml",),
            "openvino",
            "openvino",
            ("openvino",),
            writers=("onnx", "onnxscript"),
            beside=(".bin",),
            free_in_integers=False,  # its engine computes them less accurately then: 3 points of top-1
            precisions=("fp32", "fp16", "int8"),
            halves=False,
        ),
        Format(
            "tensorrt-onnx",
            (".onnx",),
            "onnxruntime",
            "tensorrt_onnx",
            _ONNX,
            precisions=("fp32", "fp16"),
        ),
        Format(
            "torch-export",
            (".pt2",),
            "torch",
            "torch_export",
            precisions=("fp32", "fp16", "bf16"),
            is_program=True,
        ),
    )
}


def find_format(name: str | None, path: str | Path) -> Format:
    """The format of that name, or told by the suffix of a path.

    Raises:
        UserError: unknown, or a suffix that is not the format's.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".xml" != Path(path).suffix:
        raise UserError(f"{path}: OpenVINO knows its files by their names in lower case, such as model.xml")
    if name is None:
        by_suffix: dict[str, Format] = {}
        for each in FORMATS.values():
            for known in each.suffixes:
                by_suffix.setdefault(known, each)
        if suffix in by_suffix:
            return by_suffix[suffix]
        told = ", ".join(f"{known} ({each.name})" for known, each in by_suffix.items())
        raise UserError(f"{path}: the name must end in one of {told}")
    chosen = FORMATS.get(known_name(name, FORMATS) or "")
    if chosen is None:
        raise UserError(f"unknown format {name!r}; {did_you_mean(name, FORMATS)}known: {', '.join(FORMATS)}")
    if suffix not in chosen.suffixes:
        raise UserError(
            f"{path}: the name of a file in format {chosen.name} must end in {' or '.join(chosen.suffixes)}"
        )
    return chosen


def single_input(values: np.ndarray | Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The array of the only input; UserError where a mapping has another name."""
    if not isinstance(values, Mapping):
        return values
    if set(values) != {name}:
        raise UserError(f"expected the input {name!r}, got {', '.join(map(repr, values)) or 'none'}")
    return values[name]


def inexpressible(engine: str, record: ExportRecord, error: Exception) -> UserError:
    """What to raise where an engine's converter fails on a network."""
    inside = f" with {' and '.join(record.includes)}" if record.includes else ""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(f"{engine} cannot express {record.usage.name}{inside}: {lines[0][:200]}")
