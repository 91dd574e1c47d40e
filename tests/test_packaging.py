"""What the wheel and the source distribution hold."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--sdist",
        "--wheel",
        "--outdir",
        folder,
        ROOT,
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder


def test_the_wheel_has_the_package_its_configs_weights_and_samples(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
    for folder, inside in (("hardnet_suite", "hardnet_suite"), ("configs", "hardnet_suite/configs")):
        files = [
            path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
        expected = {f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" for path in files}
        assert len(expected) > 20
        assert expected <= names
    assert {"hardnet_suite_mmcv.pth", "_hardnet_suite_mmcv.py"} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "hardnet_suite",
        "hardnet_suite_mmcv.pth",
        "_hardnet_suite_mmcv.py",
    }


def test_the_source_distribution_has_what_tests_and_documents_need(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    files = (
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "hubconf.py",
    )
    folders = (
        "configs/ssd512_hardnet68.py",
        "docs/images/first_page.jpg",
        "tests/conftest.py",
        "tools/train.py",
    )
    assert {*files, *folders, "requirements.txt", "tests/journeys/classify.sh"} <= names
    assert not [name for name in names if re.search(r"__pycache__|\.venv|work_dirs|\.pyc$", name)]


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
