"""The documentation site, built once for all tests of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """What ``make docs`` writes, without a warning; with several workers, by the first that asks."""
    pytest.importorskip("sphinx")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "site"
    with FileLock(shared / "site.lock"):
        if not folder.exists():
            partial = shared / "partial_site"
            command = ["-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "docs", str(partial)]
            result = subprocess.run(
                [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900
            )
            assert result.returncode == 0, result.stderr
            assert not result.stderr
            partial.rename(folder)
    return folder
