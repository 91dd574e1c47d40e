"""Shared test helpers: where the reference data lies, and its formula weights."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import shutil
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line; before torch, for tests side by side

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # which share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HARDNET_SHARED", ROOT.parent / "shared"))

torch.set_flush_denormal(True)  # random networks breed denormal numbers, ten times slower


def pytest_configure(config: pytest.Config) -> None:
    """Hides the GPUs from the tests that do not ask for one: their exact comparisons hold on the CPU.

    CUDA kernels add in varying order and may compute in TF32, so two equal runs differ in the last digits.
    """
    if "not gpu" in (config.option.markexpr or ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of ``extended.txt``."""
    lines = (ROOT / "tests/extended.txt").read_text(encoding="utf-8").splitlines()
    listed = {line for line in lines if not line.startswith("#")}
    for item in items:
        file = item.path.relative_to(ROOT / "tests").as_posix()
        if not listed.isdisjoint((file, f"{file}::{getattr(item, 'originalname', item.name)}")):
            item.add_marker("extended")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Takes what is imported by now out of the garbage collector's rounds, which mmengine asks for often."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _log_stays_enabled():
    """Fails a test after which nothing is logged any more in this process."""
    yield
    disabled = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    assert disabled == logging.NOTSET


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program; skips where there is none."""
    found = map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser"))
    path = next(filter(None, found), None)
    if path is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium-headless-shell)")
    return path


@pytest.fixture(scope="module")
def browser(chromium):
    """Chromium under Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data; skips where a user does not have it."""
    if not (SHARED / "golden" / "golden.json").exists():
        pytest.skip(f"no reference data at {SHARED} (set HARDNET_SHARED)")
    return SHARED


class Golden:
    """What the original programs compute: state dicts of formula weights, inputs and outputs."""

    def __init__(self, folder: Path):
        spec = importlib.util.spec_from_file_location("formula_weights", folder / "formula_weights.py")
        self._module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)
        self.entries = self._module.entries()
        self.folder = folder

    def state_dict(self, name: str, salt: int = 0) -> dict[str, torch.Tensor]:
        weights = self._module.state_dict(self.entries[name], salt)
        return {key: torch.as_tensor(np.asarray(value)) for key, value in weights.items()}

    def input(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self._module.model_input(self.entries[name]))

    def outputs(self, name: str) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value) for key, value in self._module.outputs(name).items()}

    def arrays(self, file: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / file) as archive:
            return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="session")
def golden(shared) -> Golden:
    return Golden(shared / "golden")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of downloaded weights, which is empty: no test sees or touches the user's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HARDNET_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    return folder
