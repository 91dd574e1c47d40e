"""What a new user does first: shortened in this tree, whole in a fresh environment with the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOURNEYS = ("detector", "backbone", "classify")


def surroundings(**env: str) -> dict[str, str]:
    """The environment without this tree."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | env


def travel(name: str, folder: Path, programs: Path, **env: str) -> float:
    """Runs a journey in ``folder`` with the commands of ``programs``, and returns the seconds it took."""
    path = f"{programs}:{os.environ['PATH']}"
    script = Path(__file__).with_name(f"{name}.sh")
    start = time.monotonic()
    done = subprocess.run(
        ["bash", str(script)],
        cwd=folder,
        env=surroundings(CUDA_VISIBLE_DEVICES="", PATH=path, **env),
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return time.monotonic() - start


@pytest.fixture(scope="module")
def this_tree(tmp_path_factory) -> Path:
    """``python`` and ``hardnet-suite`` of this tree, whatever is installed."""
    folder = tmp_path_factory.mktemp("programs")
    for name, arguments in {"python": "", "hardnet-suite": "-m hardnet_suite"}.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    return folder


@pytest.mark.parametrize("name", JOURNEYS)
def test_in_this_tree(name, this_tree, tmp_path):
    travel(name, tmp_path, this_tree, QUICK="1", OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The programs of a fresh virtual environment in which the wheel and its dependencies are installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    programs = folder / "venv" / "bin"
    install = [programs / "python", "-m", "pip", "install", "-q", str(wheel)]
    subprocess.run(install, check=True, env=surroundings())
    print(f"\ninstallation: {time.monotonic() - start:.0f} s")
    yield programs
    shutil.rmtree(folder / "venv")  # gigabytes


@pytest.mark.slow
@pytest.mark.parametrize("name", JOURNEYS)
def test_from_the_wheel(name, installed, tmp_path):
    print(f"\n{name}: {travel(name, tmp_path, installed):.0f} s")
    suite = subprocess.run(
        [installed / "python", "-c", "import hardnet_suite; print(hardnet_suite.__file__)"],
        cwd=tmp_path,
        env=surroundings(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(installed.parent) in suite.stdout
