"""The doctor: finds what is broken, says how to mend it, and survives all of it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hardnet_suite.cli import doctor
from hardnet_suite.cli.doctor import CHECKS, PACKAGES, Check, Diagnosis, Package, examine, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def import_fails(monkeypatch):
    """Makes the import of a module, also one that was imported before, raise an error."""

    def install(name: str, error: Exception) -> None:
        real = importlib.import_module

        def fake(wanted, *rest):
            if wanted.split(".")[0] == name:
                raise error
            return real(wanted, *rest)

        monkeypatch.setattr(importlib, "import_module", fake)

    return install


@pytest.fixture
def versions(monkeypatch):
    """Pretends that other distributions are installed: name -> version, None for absent."""

    def install(**changes: str | None) -> None:
        real = metadata.version

        def fake(name):
            key = name.replace("-", "_")
            if key not in changes:
                return real(name)
            if changes[key] is None:
                raise metadata.PackageNotFoundError(name)
            return changes[key]

        monkeypatch.setattr(metadata, "version", fake)

    return install


def test_packages_are_those_of_pyproject():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(wanted) <= {package.requirement for package in PACKAGES}
    least, below = doctor.PYTHONS
    text = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert text == f">={least[0]}.{least[1]},<{below[0]}.{below[1]}"


def test_extras_are_those_of_pyproject_and_of_messages(monkeypatch):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: tuple(each.partition(">=")[0] for each in needs) for extra, needs in extras.items()}
    assert names == doctor.EXTRAS | {name: names[name] for name in ("docs", "dev")}
    files = [*(ROOT / "hardnet_suite").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    told = {extra for file in files for extra in re.findall(r"hardnet-suite\[(\w+)\]", file.read_text())}
    assert told == set(doctor.EXTRAS)
    monkeypatch.setattr(doctor, "installed_versions", lambda *names: dict.fromkeys(names[:1], "1"))
    check = examine("extras", doctor.check_extras)
    assert (check.status, check.fix) == ("ok", "")
    others = "pip install 'hardnet-suite[ray,descriptor,eval,deploy,engines,serve]'"
    assert check.found == f"timm, supervision; optional: {others}"


def test_this_installation_is_sound(cli):
    status, out, err = cli("doctor")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[-1].startswith("0 problems, ")
    start = lines[0].index("what")
    for what in CHECKS:
        (line,) = [line for line in lines[1:-2] if line[start:].startswith(f"{what}  ")]
        assert line.split()[0] in ("ok", "warning")
    assert f"python{' ' * (lines[0].index('found') - start - len('python'))}{sys.version.split()[0]}" in out


def test_table_is_aligned():
    text = table(
        [Check("ok", "torch", "2.15.0"), Check("problem", "a long name", "not here", "pip install it")]
    )
    lines = text.splitlines()
    assert lines[0].index("found") == lines[1].index("2.15.0") == lines[2].index("not here")
    assert lines[0].index("fix") == lines[2].index("pip install it")
    assert not any(line.endswith(" ") for line in lines)


def test_a_problem_sets_the_exit_status(cli, monkeypatch):
    def bad():
        raise Diagnosis("broken", "mend it")

    monkeypatch.setattr(doctor, "CHECKS", {"a": lambda: "fine", "b": bad})
    status, out, _ = cli("doctor")
    assert status == 1
    assert out.splitlines()[2].split() == ["problem", "b", "broken", "mend", "it"]
    assert out.endswith("1 problem, 0 warnings\n")


@pytest.mark.parametrize(
    ("problems", "warned", "line"),
    [(0, 0, "0 problems, 0 warnings"), (2, 1, "2 problems, 1 warning"), (1, 2, "1 problem, 2 warnings")],
)
def test_the_counts(cli, monkeypatch, problems, warned, line):
    def bad(status):
        raise Diagnosis("broken", "mend it", status)

    statuses = ["problem"] * problems + ["warning"] * warned
    checks = {str(number): partial(bad, status) for number, status in enumerate(statuses)}
    monkeypatch.setattr(doctor, "CHECKS", {"a": lambda: "fine", **checks})
    assert cli("doctor")[1].splitlines()[-1] == line


def missing(name):
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("module", "fix"),
    [
        ("ruamel.yaml", ""),
        ("sklearn", ""),
        ("google.protobuf", ""),
        ("cv2", "pip install 'opencv-python-headless>=4.9'"),
        ("PIL.Image", "pip install 'pillow>=10.1'"),
        ("pycocotools", "pip install 'pycocotools>=2.0.8'"),
        ("tensorboard", "pip install 'tensorboard>=2.16'"),
        ("torch.nn", "pip install 'torch>=2.6'"),
    ],
)
def test_missing_modules(module, fix):
    assert doctor.known_fix(missing(module)) == fix


@pytest.mark.parametrize("module", ["mmdet", "mmseg"])
def test_a_missing_dependency_of_the_models(import_fails, module):
    import_fails(module, missing("ruamel.yaml"))
    check = examine("models", CHECKS[f"{module}'s models"])
    (package,) = (package for package in PACKAGES if package.module == module)
    assert (check.status, check.fix) == ("problem", package.install)


def test_a_missing_dependency_of_an_engine(import_fails, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: ModuleType(name))
    import_fails("hardnet_suite", missing("ruamel.yaml"))
    check = examine("export", CHECKS["export to openvino"])
    assert (check.status, check.fix) == ("warning", "pip install --force-reinstall openvino")


def test_other_checks_run_after_a_failing_one(cli, monkeypatch):
    def crash():
        print("noise")
        raise AssertionError("MMCV==2.2.0 is used but incompatible.\nmore")

    monkeypatch.setattr(doctor, "CHECKS", {"a": crash, "b": lambda: "fine"})
    status, out, _ = cli("doctor")
    assert status == 1
    assert "AssertionError: MMCV==2.2.0 is used but incompatible.\n" in out
    assert "ok       b     fine" in out
    assert "noise" not in out


@pytest.mark.parametrize(
    ("version", "error", "found", "fix"),
    [
        (None, None, "not installed", "pip install 'mmdet>=3.3.0,<3.4'"),
        ("3.2.0", None, "3.2.0, needed mmdet>=3.3.0,<3.4", "pip install 'mmdet>=3.3.0,<3.4'"),
        ("3.4.0", None, "3.4.0, needed mmdet>=3.3.0,<3.4", "pip install 'mmdet>=3.3.0,<3.4'"),
        ("3.3.1", ImportError("no luck"), "3.3.1; ImportError: no luck", "pip install --force-reinstall"),
    ],
)
def test_package(versions, import_fails, version, error, found, fix):
    versions(mmdet=version)
    if error:
        import_fails("mmdet", error)
    (package,) = (package for package in PACKAGES if package.name == "mmdet")
    check = examine("mmdet", lambda: doctor.check_package(package))
    assert (check.status, check.found) == ("problem", found)
    assert check.fix.startswith(fix)


@pytest.mark.parametrize(
    ("version", "good"),
    [("2.6", True), ("2.6.0+cu124", True), ("2.5.1", False), ("2.15.0a0+git1", True), ("3.0rc1", False)],
)
def test_version_ranges(versions, version, good):
    versions(torch=version)
    check = examine("torch", lambda: doctor.check_package(Package("torch", "torch", "2.6", "3")))
    assert check.status == ("ok" if good else "problem")


def test_torchvision_of_another_torch(import_fails):
    import_fails("torchvision", RuntimeError("operator torchvision::nms does not exist"))
    check = examine("fit", CHECKS["torchvision fits torch"])
    assert (check.status, check.found) == (
        "problem",
        "RuntimeError: operator torchvision::nms does not exist",
    )
    assert "both from one index" in check.fix
    package = examine("torchvision", CHECKS["torchvision"])
    assert "both from one index" in package.fix


def test_operators_that_answer_wrongly(monkeypatch):
    import torchvision.ops

    monkeypatch.setattr(torchvision.ops, "nms", lambda *args: torch.tensor([0]))
    check = examine("fit", CHECKS["torchvision fits torch"])
    assert (check.status, check.found) == ("problem", "RuntimeError: nms keeps [0] of two boxes, not [1]")


def test_opencv_without_libgl(import_fails):
    import_fails("cv2", ImportError("libGL.so.1: cannot open shared object file: No such file or directory"))
    check = examine("opencv", CHECKS["opencv-python-headless"])
    assert check.status == "problem"
    assert "opencv-python-headless" in check.fix


def test_two_mmcvs(versions):
    versions(mmcv="2.1.0", mmcv_lite="2.1.0")
    check = examine("one mmcv", CHECKS["one mmcv"])
    assert (check.status, check.found) == (
        "problem",
        "mmcv 2.1.0 and mmcv-lite 2.1.0 overwrite each other's files",
    )
    assert check.fix.startswith("pip uninstall -y mmcv mmcv-lite")


def test_compiled_mmcv_is_distinguished_from_ours(monkeypatch):
    answer = CHECKS["mmcv's operators"]()
    assert answer.startswith("the suite's own, on torchvision, without those of MMRotate, MMDetection3D, ")
    compiled = ModuleType("mmcv._ext")
    compiled.__file__ = "/x/mmcv/_ext.cpython-311-x86_64-linux-gnu.so"
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    assert CHECKS["mmcv's operators"]() == "compiled"


@pytest.mark.parametrize("active", [True, False])
def test_start_up_hook(monkeypatch, tmp_path, active):
    """Python imports sitecustomize at its start as it does the .pth file of an installation."""
    if active:
        (tmp_path / "sitecustomize.py").write_text("import _hardnet_suite_mmcv")
    else:
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules.pop('_hardnet_suite_mmcv', None)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    check = examine("tools", CHECKS["OpenMMLab's own tools"])
    assert check.status == ("ok" if active else "warning")


def test_checkpoints_refused(monkeypatch):
    """What happens where mmengine's own loader reads them."""
    import torch
    from mmengine.runner import CheckpointLoader

    import hardnet_suite.openmm  # noqa: F401

    assert examine("resuming", CHECKS["resuming"]).status == "ok"
    ours = dict(CheckpointLoader._schemes)
    CheckpointLoader.register_scheme("", lambda path, device: torch.load(path, device), force=True)
    try:
        check = examine("resuming", CHECKS["resuming"])
    finally:
        CheckpointLoader.register_scheme("", ours[""], force=True)
    assert check.status == "problem"
    assert "Weights only load failed" in check.found


def test_pkg_resources(import_fails):
    import_fails(
        "pkg_resources", ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")
    )
    check = examine("pkg_resources", CHECKS["pkg_resources"])
    assert check.status == "warning"
    assert "setuptools<82" in check.fix


def test_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    check = examine("python", CHECKS["python"])
    assert check == Check("problem", "python", "3.14.0", "use Python 3.11 to 3.13")


@pytest.mark.parametrize(
    ("cpu", "status", "found"),
    [
        ("flags : avx2 avx512_bf16 amx_bf16\n", "ok", "supported by the CPU (amx_bf16, avx512_bf16)"),
        ("flags : avx2\n", "warning", "only emulated by the CPU"),
        (None, "ok", "unknown for this CPU"),
    ],
)
def test_bfloat16_on_the_cpu(monkeypatch, tmp_path, cpu, status, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "cpuinfo"
    if cpu is not None:
        path.write_text(cpu)
    monkeypatch.setattr(doctor, "CPU_INFO", path)
    check = examine("bf16", CHECKS["bfloat16 (--bf16)"])
    assert (check.status, check.found) == (status, found)


@pytest.mark.parametrize(
    ("driver", "build", "status", "found"),
    [
        (None, None, "ok", "none: everything runs on the CPU"),
        ("/usr/bin/nvidia-smi", None, "warning", "there, but not for this torch, built for the CPU"),
        ("/usr/bin/nvidia-smi", "13.2", "warning", "there, but not for this torch, built for CUDA 13.2"),
    ],
)
def test_gpu_that_torch_cannot_use(monkeypatch, driver, build, status, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: driver)
    check = examine("GPU", CHECKS["GPU"])
    assert (check.status, check.found) == (status, found)


@pytest.mark.gpu
def test_gpu():
    assert torch.cuda.get_device_name(0) in CHECKS["GPU"]()
    assert CHECKS["bfloat16 (--bf16)"]() == "supported by the GPU"


def test_weights_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "new"))
    assert CHECKS["weights folder"]() == str(tmp_path / "new/hub/checkpoints")
    assert not (tmp_path / "new").exists()
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("TORCH_HOME", str(file / "below"))
    check = examine("folder", CHECKS["weights folder"])
    assert (check.status, check.found) == ("problem", f"{file} is not writable")
    assert "TORCH_HOME" in check.fix


def test_without_openmmlab_and_torchvision_the_other_checks_still_run(tmp_path):
    """In a Python where importing any of them fails: a table, not a traceback."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'torchvision', 'cv2'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent)\n"
    )
    code = "import sys; from hardnet_suite.cli import main; sys.exit(main(['doctor']))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    status = {line[9:].split("  ")[0]: line.split()[0] for line in result.stdout.splitlines()[1:-2]}
    assert status.keys() == CHECKS.keys()
    for what in ("torch", "numpy", "ftfy", "GPU", "weights folder"):
        assert status[what] == "ok"
    for what in ("mmdet", "torchvision", "mmcv's operators", "mmdet's models", "resuming"):
        assert status[what] == "problem"


def test_doctor_runs_where_torch_does_not():
    """Nothing of torch, safetensors or mm* is needed to be told that it is missing."""
    code = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "safetensors", "mmengine", "mmcv", "mmdet"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from hardnet_suite.cli import main
sys.exit(main(["doctor"]))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert [line for line in run.stdout.splitlines() if line.startswith("problem") and " torch " in line]


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_engines_run_one_layer(monkeypatch, name):
    what = f"export to {name}"
    form = doctor.FORMATS[name]
    if any(importlib.util.find_spec(package) is None for package in form.packages + form.writers):
        pytest.skip(f"{form.packages} are not installed")
    check = examine(what, CHECKS[what])
    assert (check.status, check.fix) == ("ok", "")
    assert re.fullmatch(rf"{form.engine} [\d.]+, runs", check.found)
    module = importlib.import_module(f"hardnet_suite.deploy.formats.{form.module}")
    monkeypatch.setattr(module, "open", lambda *args, **options: lambda values: [values.mean((2, 3))[:, :2]])
    check = examine(what, CHECKS[what])
    assert check.status == "warning"
    assert "computes something else than PyTorch" in check.found
    assert check.fix.startswith("pip install --force-reinstall ")


def test_a_missing_engine_is_no_problem(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    check = examine("export to onnx", CHECKS["export to onnx"])
    assert (check.status, check.fix) == ("ok", "")
    assert check.found == "onnxruntime is not installed; optional: pip install onnx onnxscript onnxruntime"


def test_every_format_has_a_row():
    assert {f"export to {name}" for name in doctor.FORMATS} <= set(CHECKS)
