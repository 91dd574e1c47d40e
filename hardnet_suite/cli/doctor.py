"""``doctor``: checks this installation, and prints a fix for every problem."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from hardnet_suite.cli._options import show
from hardnet_suite.data.report import shortened
from hardnet_suite.deploy.formats import FORMATS


@dataclass(frozen=True)
class Check:
    """One row of the table; ``fix`` is empty if there is nothing to do."""

    status: Literal["ok", "warning", "problem"]
    what: str
    found: str
    fix: str = ""


class Diagnosis(Exception):  # noqa: N818 (not always an error)
    """Raised by a check that finds a problem or has a warning."""

    def __init__(self, found: str, fix: str, status: Literal["warning", "problem"] = "problem"):
        super().__init__(found)
        self.found, self.fix, self.status = found, fix, status


@dataclass(frozen=True)
class Package:
    """A required package with ``least`` <= version < ``below``; ``others`` provide the same module."""

    name: str
    module: str
    least: str
    below: str = ""
    others: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        return f"{self.name}>={self.least}" + (f",<{self.below}" if self.below else "")

    @property
    def install(self) -> str:
        return f"pip install '{self.requirement}'"


# the dependencies of pyproject.toml, and theirs
PACKAGES = (
    Package("torch", "torch", "2.6"),
    Package("torchvision", "torchvision", "0.21"),
    Package("mmengine", "mmengine", "0.10.7", "0.11"),
    Package("mmcv-lite", "mmcv", "2.1.0", "2.2", others=("mmcv",)),
    Package("mmdet", "mmdet", "3.3.0", "3.4"),
    Package("mmsegmentation", "mmseg", "1.2.2", "1.3"),
    Package("numpy", "numpy", "1.26"),
    Package(
        "opencv-python-headless",
        "cv2",
        "4.9",
        others=("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ),
    Package("pillow", "PIL", "10.1"),
    Package("pycocotools", "pycocotools.mask", "2.0.8"),
    Package("matplotlib", "matplotlib", "3.8"),
    Package("fonttools", "fontTools", "4.40"),
    Package("setuptools", "pkg_resources", "70", "82"),
    Package("safetensors", "safetensors", "0.5"),
    Package("shapely", "shapely", "2.0"),
    Package("argcomplete", "argcomplete", "3.1"),
    Package("pyyaml", "yaml", "6.0"),
    Package("tensorboard", "torch.utils.tensorboard", "2.16"),
    Package("tqdm", "tqdm", "4.64"),
    Package("yapf", "yapf", "0.40"),
    Package("ftfy", "ftfy", "6.1"),
    Package("regex", "regex", "2024.1"),
)
# extra of pyproject.toml -> its packages
EXTRAS = {
    "timm": ("timm",),
    "ray": ("ray", "pyarrow", "pandas"),
    "supervision": ("supervision",),
    "descriptor": ("h5py", "faiss-cpu", "kornia"),
    "eval": ("faster-coco-eval", "hotcoco"),
    "deploy": ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf"),
    "engines": ("ai-edge-litert", "executorch", "ncnn", "pnnx"),
    "serve": ("starlette", "uvicorn", "python-multipart", "prometheus-client"),
}
PYTHONS = ((3, 11), (3, 14))  # from, below
CPU_INFO = Path("/proc/cpuinfo")
_ONE_INDEX = (
    "pip install --force-reinstall torch torchvision, both from one index (for the CPU: "
    "--index-url https://download.pytorch.org/whl/cpu)"
)
_ONE_MMCV = "pip uninstall -y mmcv mmcv-lite, then pip install 'mmcv-lite>=2.1.0,<2.2'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command takes no options."""


def run(args: argparse.Namespace) -> int:
    checks = [examine(what, check) for what, check in CHECKS.items()]
    show(table(checks))
    counts = {status: sum(check.status == status for check in checks) for status in ("problem", "warning")}
    show("\n" + ", ".join(f"{count} {status}{'s' * (count != 1)}" for status, count in counts.items()))
    return 1 if counts["problem"] else 0


def examine(what: str, check: Callable[[], str]) -> Check:
    """Runs one check; an unexpected exception becomes a problem, so that the other checks still run."""
    try:
        # imports of these packages print and warn a lot
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return Check("ok", what, check())
    except Diagnosis as finding:
        return Check(finding.status, what, finding.found, finding.fix)
    except Exception as error:
        return Check("problem", what, brief(error), known_fix(error))


def table(checks: list[Check]) -> str:
    """The checks as aligned plain text, with the columns status, what, found and fix."""
    rows = [("", "what", "found", "fix"), *((c.status, c.what, c.found, c.fix) for c in checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    )


def brief(error: Exception) -> str:
    """The error's type and first line, shortened to fit into the table."""
    first = (str(error).strip().splitlines() or [""])[0]
    return shortened(f"{type(error).__name__}: {first}", 90)


def known_fix(error: Exception) -> str:
    """The fix for a known error of these packages, recognised by its message; "" for other errors.

    The name of a module is not that of its package, so one that is missing is known only of ``PACKAGES``.
    """
    text = str(error)
    if "torchvision::" in text:
        return _ONE_INDEX
    if re.search(r"lib(GL|gthread|X|SM|xcb)\S*\.so", text):
        return "pip uninstall -y opencv-python, then pip install --force-reinstall opencv-python-headless"
    if "mmcv._ext" in text:
        return _ONE_MMCV
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        for package in PACKAGES:
            if top in (package.name, package.module.partition(".")[0]):
                return package.install
    return ""


def check_python() -> str:
    least, below = PYTHONS
    found = ".".join(map(str, sys.version_info[:3]))
    if not least <= sys.version_info[:2] < below:
        raise Diagnosis(found, f"use Python {least[0]}.{least[1]} to {below[0]}.{below[1] - 1}")
    return found


def check_package(package: Package) -> str:
    """Checks that the package is installed, in a supported version, and can be imported."""
    installed = installed_versions(package.name, *package.others)
    if not installed:
        raise Diagnosis("not installed", package.install)
    name, version = next(iter(installed.items()))
    found = version if name == package.name else f"{version} ({name})"
    if not numbers(package.least) <= numbers(version) < numbers(package.below or "9999"):
        raise Diagnosis(f"{found}, needed {package.requirement}", package.install)
    try:
        importlib.import_module(package.module)
    except Exception as error:
        fix = known_fix(error) or f"pip install --force-reinstall '{package.requirement}'"
        raise Diagnosis(f"{found}; {brief(error)}", fix) from error
    return found


def check_extras() -> str:
    """Lists the installed extras; none of them is required."""
    missing = [
        extra for extra, packages in EXTRAS.items() if len(installed_versions(*packages)) < len(packages)
    ]
    found = ", ".join(extra for extra in EXTRAS if extra not in missing) or "none"
    if missing:
        return f"{found}; optional: pip install 'hardnet-suite[{','.join(missing)}]'"
    return found


def installed_versions(*names: str) -> dict[str, str]:
    """The installed distributions among ``names``, with their versions."""
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def numbers(version: str) -> tuple[int, ...]:
    """ "2.15.0+cpu" -> (2, 15, 0)."""
    return tuple(int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part)


def check_torchvision_fits() -> str:
    try:
        require_nms(importlib.import_module("torchvision.ops").nms)
    except Exception as error:
        raise Diagnosis(brief(error), _ONE_INDEX) from error
    return "its compiled operators run"


def check_one_mmcv() -> str:
    installed = installed_versions("mmcv", "mmcv-lite")
    if len(installed) > 1:
        both = " and ".join(f"{name} {version}" for name, version in installed.items())
        raise Diagnosis(f"{both} overwrite each other's files", _ONE_MMCV)
    return ", ".join(installed) or "none"


def check_mmcv_operators() -> str:
    importlib.import_module("_hardnet_suite_mmcv").install()
    extension, ops = importlib.import_module("mmcv._ext"), importlib.import_module("mmcv.ops")
    require_nms(lambda *args: ops.nms(*args)[1])
    if not extension.__file__.endswith("mmcv_ext.py"):
        return "compiled"
    missing = ", ".join(users.partition(" (")[0] for users in extension.NOT_PROVIDED)
    return f"the suite's own, on torchvision, without those of {missing}"


def require_nms(nms: Callable) -> None:
    """Checks that ``nms(boxes, scores, threshold)`` keeps the better one of two overlapping boxes.

    Raises:
        RuntimeError: It does not.
    """
    import torch

    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0]])
    kept = nms(boxes, torch.tensor([0.5, 0.9]), 0.5).tolist()
    if kept != [1]:
        raise RuntimeError(f"nms keeps {kept} of two boxes, not [1]")


def check_start_up_hook() -> str:
    """Checks in a new interpreter, since this one may have loaded the hook in another way."""
    code = "import sys; sys.exit('_hardnet_suite_mmcv' not in sys.modules)"
    if subprocess.run([sys.executable, "-c", code], check=False).returncode:
        raise Diagnosis(
            "find no operators: hardnet_suite_mmcv.pth is not active in this Python",
            "pip install hardnet_suite into it (hardnet-suite itself works without it)",
            "warning",
        )
    return "find the operators (hardnet_suite_mmcv.pth is active)"


def check_models(module: str) -> str:
    """Imports the models of mmdet or mmseg; pip installs what of its dependencies is missing."""
    try:
        importlib.import_module("hardnet_suite.openmm")  # applies the compatibility fixes
        importlib.import_module(f"{module}.models")
    except ModuleNotFoundError as error:
        (package,) = (package for package in PACKAGES if package.module == module)
        raise Diagnosis(brief(error), known_fix(error) or package.install) from error
    return "import"


def check_resume() -> str:
    """Checks that mmengine's loader reads a checkpoint of a run, with its log, without running code."""
    import torch

    importlib.import_module("hardnet_suite.openmm")
    buffer = importlib.import_module("mmengine.logging").HistoryBuffer([0.5, 0.25], [1, 1])
    content = {"state_dict": {"weight": torch.zeros(1)}, "message_hub": {"log_scalars": {"loss": buffer}}}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "epoch_1.pth")
        torch.save(content, path)
        loaded = importlib.import_module("mmengine.runner").CheckpointLoader.load_checkpoint(path, "cpu")
    last = loaded["message_hub"]["log_scalars"]["loss"].current()
    if last != 0.25:
        raise RuntimeError(f"a log buffer's last value comes back as {last}, not 0.25")
    return "mmengine's checkpoints are read with weights_only"


def check_pkg_resources() -> str:
    try:
        importlib.import_module("pkg_resources")
    except ImportError:
        raise Diagnosis(
            "missing (removed in setuptools 82); needed only by configs with bases such as mmdet::…",
            "if you use such bases: pip install 'setuptools<82'",
            "warning",
        ) from None
    return "present"


def check_gpu() -> str:
    import torch

    if torch.cuda.is_available():
        torch.ones(1, device="cuda").add_(1).item()  # fails where torch has no code for this GPU
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}, {memory:.0f} GiB"
    if shutil.which("nvidia-smi"):
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
        found = f"there, but not for this torch, built for {build}"
        raise Diagnosis(found, "torch and torchvision for your driver, see https://pytorch.org", "warning")
    return "none: everything runs on the CPU"


def check_bfloat16() -> str:
    import torch

    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "supported by the GPU"
        raise Diagnosis("only emulated by the GPU", "train without --bf16", "warning")
    try:
        flags = set(re.findall(r"\w*bf16\w*", CPU_INFO.read_text()))
    except OSError:
        return "unknown for this CPU"
    if not flags:
        raise Diagnosis("only emulated by the CPU", "train without --bf16", "warning")
    return f"supported by the CPU ({', '.join(sorted(flags))})"


def check_engine(name: str) -> str:
    """Writes a file of one layer and runs it, if the format's packages are installed; none is required."""
    form = FORMATS[name]
    missing = [package for package in form.packages + form.writers if find_spec(package) is None]
    if missing:
        absent = f"{form.engine} is not installed"
        if set(missing) <= set(form.writers):
            absent = f"{form.engine} {metadata.version(form.engine)}, to run; nothing to write with"
        return f"{absent}; optional: pip install {' '.join(name.replace('_', '-') for name in missing)}"
    try:
        return f"{importlib.import_module('hardnet_suite.deploy.session').try_format(name)}, runs"
    except Exception as error:
        cure = f"pip install --force-reinstall {' '.join(form.packages) or 'torch'}"
        raise Diagnosis(brief(error), known_fix(error) or cure, "warning") from error


def check_weights_folder() -> str:
    from hardnet_suite.weights import cache_dir

    folder = cache_dir()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise Diagnosis(f"{nearest} is not writable", "set TORCH_HOME to a writable folder")
    return str(folder)


# what is checked -> function that returns what it found, or raises
CHECKS: dict[str, Callable[[], str]] = {
    "python": check_python,
    **{package.name: partial(check_package, package) for package in PACKAGES},
    "extras": check_extras,
    "torchvision fits torch": check_torchvision_fits,
    "one mmcv": check_one_mmcv,
    "mmcv's operators": check_mmcv_operators,
    "OpenMMLab's own tools": check_start_up_hook,
    "mmdet's models": partial(check_models, "mmdet"),
    "mmseg's models": partial(check_models, "mmseg"),
    "resuming": check_resume,
    "pkg_resources": check_pkg_resources,
    "GPU": check_gpu,
    "bfloat16 (--bf16)": check_bfloat16,
    "weights folder": check_weights_folder,
    **{f"export to {name}": partial(check_engine, name) for name in FORMATS},
}
