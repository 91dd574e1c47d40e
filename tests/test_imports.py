"""Which room may import which, what runs with torch alone, and names that are unique."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from hardnet_suite.networks import ARCHS, PREPROCESS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hardnet_suite"
OPENMMLAB = {"mmcv", "mmdet", "mmengine", "mmseg"}
HEAVY = OPENMMLAB | {"cv2", "matplotlib", "timm", "torchvision"}
WITH_TORCHVISION = ("networks", "losses", "inference")  # rooms that need torch and torchvision alone
# the rooms of the house in order: each may import itself and those before it
ROOMS = (
    ("networks",),
    ("losses",),
    ("inference",),
    ("data",),
    ("weights",),
    ("evaluation",),
    ("visualization",),
    ("deploy",),
    ("openmm",),
    ("prediction", "matching"),
    ("serving",),
    ("cli",),
)
STEPS = {room: step for step, rooms in enumerate(ROOMS) for room in rooms}
BELOW_ALL = (
    "config_names",
    "errors",
    "failures",
    "names",
    "numeric",
    "outputs",
    "precision",
    "run_folders",
    "threads",
    "quiet",
    "timing",
)  # modules of the standard library alone
ABOVE_ALL = len(ROOMS)  # hardnet_suite/__init__.py, models.py, ray.py and timm.py

BLOCKER = """
import sys

class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker)
"""
RUN_ALONE = f"""
import sys
BLOCKED = {sorted(HEAVY)!r}

import hardnet_suite
import hardnet_suite.networks

loaded = sorted(set(BLOCKED) & {{name.partition(".")[0] for name in sys.modules}})
assert not loaded, f"import hardnet_suite pulls in {{loaded}}"
{BLOCKER}
import torch
images = torch.zeros(1, 3, 224, 224)
for name in ("hardnet39ds", "ssd224_hardnet29"):
    network = hardnet_suite.create_model(name).eval()
    official = hardnet_suite.weights.to_official(name, network.state_dict())
    network.load_state_dict(hardnet_suite.convert_official(name, official))
    with torch.inference_mode():
        network(hardnet_suite.networks.PREPROCESS[name].normalize(images))
print("ran")
"""
# every module of these rooms, then one call of each kind that draws a network's answer from its output
RUN_WITH_TORCHVISION = f"""
BLOCKED = {sorted((HEAVY | {"pycocotools", "safetensors", "scipy", "shapely"}) - {"torchvision"})!r}
{BLOCKER}
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)

import torch
from hardnet_suite.inference.nms import batched_nms, soft_nms
from hardnet_suite.losses import bootstrapped_cross_entropy
from hardnet_suite.networks import build_network, ssd

network = build_network("ssd224_hardnet29", num_classes=2).eval()
with torch.inference_mode():
    boxes, probabilities = ssd.decode(network(torch.zeros(1, 3, 224, 224)), network.arch)
scores, labels = probabilities[0].max(-1)
keep = batched_nms(224 * boxes[0], scores, labels, 0.45, offset=1, limit=10)
assert 0 < len(keep) <= 10
soft_nms(boxes[0][keep], scores[keep])
logits = torch.zeros(1, 2, 4, 4)
assert bootstrapped_cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.long), 4).isfinite()
print("ran")
"""

# what takes a second or more to import, or runs code of another framework, and a prediction does not need
SLOW = OPENMMLAB | {"matplotlib", "sympy", "torch._dynamo", "torchvision", "triton"}
PREDICT = f"""
import sys
import numpy as np
from hardnet_suite import predict

(prediction,) = predict(sys.argv[1], np.zeros((60, 80, 3), np.uint8), weights=sys.argv[2])
prediction.draw()
print(*sorted(set({sorted(SLOW)!r}) & set(sys.modules)))
"""


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: "networks", …, or the module's own name at the top."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """The dotted names that a file imports; ``at_import_only`` leaves out those inside functions."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from hardnet_suite import weights` imports a part, too
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_part(name: str) -> str | None:
    """The part of hardnet_suite that a dotted name lies in; None for other packages, and for the bare one.

    The bare package is imported with any part of it: taking its path or version is no arrow.
    """
    if name in {"hardnet_suite", "hardnet_suite.__version__"} or not name.startswith("hardnet_suite."):
        return None
    return name.split(".")[1]


def step_of(part: str) -> int:
    return STEPS.get(part, -1 if part in BELOW_ALL else ABOVE_ALL)


def differing_in_case(names: Iterable[str]) -> list[set[str]]:
    spellings: dict[str, set[str]] = {}
    for name in names:
        spellings.setdefault(name.casefold(), set()).add(name)
    return [group for group in spellings.values() if len(group) > 1]


def run_python(code: str, *arguments: str) -> list[str]:
    """The words that a fresh Python prints."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_package_runs_with_torch_alone():
    assert run_python(RUN_ALONE) == ["ran"]


@pytest.mark.parametrize(
    ("model", "weights"),
    [("ssd320_hardnet39ds", "bccd"), ("fchardnet70", "camvid"), ("hardnet39ds", "tiny_imagenet10")],
)
def test_a_prediction_imports_nothing_slow(model, weights):
    assert run_python(PREDICT, model, weights) == []


def test_networks_losses_and_inference_run_with_torch_and_torchvision_alone():
    modules = [module_name(path) for path in files() if part_of(path) in WITH_TORCHVISION]
    assert {f"hardnet_suite.{part}" for part in WITH_TORCHVISION} <= set(modules)
    assert run_python(RUN_WITH_TORCHVISION, *modules) == ["ran"]


@pytest.mark.parametrize("part", WITH_TORCHVISION)
def test_the_lowest_rooms_import_torch_and_each_other(part):
    allowed = {"torch", *sys.stdlib_module_names}
    if part == "inference":
        allowed |= {"torchvision", "numpy", "PIL"}  # torchvision requires the other two
    for path in files():
        if part_of(path) != part:
            continue
        for name in imports(path):
            if own_part(name) is None:
                assert name.split(".")[0] in allowed, f"{path} imports {name}"
            else:
                assert step_of(own_part(name)) <= step_of(part), f"{path} imports {name}"


def test_only_openmm_imports_openmmlab():
    for path in files():
        part = part_of(path)
        if part == "openmm":
            continue
        # the command line may, inside its functions, so that --help needs none of it; so may prediction, for
        # configs and the checkpoints of runs
        for name in imports(path, at_import_only=part in ("cli", "prediction")):
            assert name.split(".")[0] not in OPENMMLAB, f"{path} imports {name}"
            assert own_part(name) != "openmm", f"{path} imports {name}"


def test_only_one_module_imports_timm_or_ray_and_none_imports_it():
    """timm is optional: what its interface asks of the networks they have without it."""
    for path in files():
        names = list(imports(path))
        assert path == PACKAGE / "timm.py" or "timm" not in {name.split(".")[0] for name in names}, path
        assert "timm" not in map(own_part, names), path
        assert path == PACKAGE / "ray.py" or "ray" not in {name.split(".")[0] for name in names}, path
        assert "ray" not in map(own_part, names), path
    assert "ray.data" in set(imports(PACKAGE / "ray.py"))
    assert "timm.models" in {name.rpartition(".")[0] for name in imports(PACKAGE / "timm.py")}


def test_arrows_point_down():
    for path in files():
        step = step_of(part_of(path))
        for name in imports(path):
            own = own_part(name)
            if own is not None:
                assert step_of(own) <= step, f"{path} imports {name}"


def test_importing_the_package_pulls_in_nothing_heavy_anywhere():
    for path in files():
        if part_of(path) != "openmm":
            for name in imports(path, at_import_only=True):
                assert name.split(".")[0] not in {"cv2", "matplotlib"}, f"{path} imports {name}"


def test_tools_are_thin():
    for path in (ROOT / "tools").glob("*.py"):
        assert {own_part(name) for name in imports(path)} <= {None, "cli"}, path


def test_no_two_files_differ_only_in_case():
    folders = ("hardnet_suite", "configs", "tests", "tools", "docs")
    paths = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts
    ]
    assert len(paths) > 50
    assert differing_in_case(str(path.relative_to(ROOT)) for path in paths) == []
    # one config beside another, whatever the folder
    assert differing_in_case(path.stem for path in (ROOT / "configs").rglob("*.py")) == []


def test_no_two_names_differ_only_in_case():
    """Models, and what the package defines at the top of its files, registered or not."""
    defined = {
        node.name
        for path in files()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    assert {"HarDNet", "create_model"} <= defined
    assert differing_in_case([*ARCHS, *PREPROCESS, *defined]) == []


def classes_of(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Class name -> modules that define it."""
    homes: dict[str, set[str]] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, set()).add(str(path))
    return homes


def test_no_two_classes_have_one_name():
    homes = classes_of(files())
    assert "HarDNet" in homes
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_the_checks_can_fail(tmp_path):
    file = tmp_path / "sample.py"
    file.write_text("import mmcv.ops\ndef f():\n    from mmdet import models\nclass A:\n    import cv2\n")
    assert set(imports(file)) == {"mmcv.ops", "mmdet.models", "cv2"}
    assert set(imports(file, at_import_only=True)) == {"mmcv.ops", "cv2"}
    assert own_part("hardnet_suite.openmm.models.ssd") == "openmm"
    assert own_part("hardnet_suites.openmm") is None
    other = tmp_path / "other.py"
    other.write_text("def g():\n    class A: pass\n")
    assert classes_of([file, other]) == {"A": {str(file), str(other)}}
    assert differing_in_case(["HarDNet", "HardNet", "SSD"]) == [{"HarDNet", "HardNet"}]


def test_one_function_widens_half_precision():
    """Copies would drift apart: float64 stays as it is, all else becomes float32."""
    tree = [ast.parse(path.read_text(encoding="utf-8")) for path in files()]
    names = [node.name for each in tree for node in ast.walk(each) if isinstance(node, ast.FunctionDef)]
    assert [name for name in names if name.endswith("at_least_float32")] == ["at_least_float32"]
