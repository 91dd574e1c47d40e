"""``benchmarks/gpu.py``: every step runs on the CPU at tiny sizes, and the report holds what they give."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hardnet_suite.errors import UserError

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("gpu")


@pytest.mark.parametrize("step", ["segmentation", "descriptor"])
def test_latency_of_every_mode(gpu, step):
    content = gpu.STEPS[step](True)
    assert not content["failures"]
    assert {row["engine"] for row in content["timings"]} == {"eager", "fused", "split"}
    (table,) = content["tables"]
    lines = table.splitlines()
    assert lines[2].startswith("| model | mode | ms | p95 | images/s | ratio | % of rate |")
    assert len(lines) == 4 + len(content["timings"])
    assert len({line.count("|") for line in lines[2:]}) == 1
    assert content["roofline"]["bandwidth"] > 0


def test_training_steps(gpu):
    content = gpu.run_training(True)
    (row,) = content["training"]
    assert (row["config"], row["batch"], row["height"]) == ("hardnet39ds_tiny_imagenet10", 2, 64)
    assert row["images_per_second"] > 0
    assert (
        content["tables"][0]
        .splitlines()[-1]
        .startswith("| hardnet39ds_tiny_imagenet10 eager fp32 nhwc | 2 | 64×64 |")
    )


def test_the_report_has_each_step_with_what_happened(gpu, monkeypatch, tmp_path, capsys):
    given = {
        "tests": {"status": 0, "summary": "6 passed in 3s"},
        "descriptor": {
            "tables": ["| a |"],
            "failures": [{"model": "m", "engine": "fused", "precision": "fp16", "reason": "no kernel"}],
        },
        "training": {"failed": "not finished after 60 s"},
        "tensorrt": {"skipped": "tensorrt is not installed"},
    }
    monkeypatch.setattr(gpu, "_run_step", lambda name, end, dry: given[name])
    for _ in range(2):  # a later run replaces an earlier one's files
        assert gpu.main([str(tmp_path), "--dry-run", "--only", *given]) == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["steps"] == given
    text = (tmp_path / "gpu.md").read_text()
    for line in (
        *("## Tests", "6 passed in 3s", "| a |", "not measured: m in fused fp16: no kernel"),
        *("failed: not finished after 60 s", "skipped: tensorrt is not installed"),
    ):
        assert line in text.splitlines()
    (tmp_path / "gpu.md").write_text("mine")
    with pytest.raises(UserError, match=r"gpu\.md exists, and no earlier run wrote it"):
        gpu.main([str(tmp_path), "--dry-run", "--only", "tests"])


def test_steps_end_with_the_time(gpu, monkeypatch):
    assert gpu._run_step("tests", 0.0, True) == {"skipped": "no time was left"}

    def too_long(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu.subprocess, "run", too_long)
    assert gpu._run_step("tests", gpu.time.monotonic() + 30, True)["failed"].startswith("not finished after")


def test_bad_arguments(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="there is no CUDA GPU here; --dry-run"):
        gpu.main([str(tmp_path)])
    with pytest.raises(UserError, match="unknown step 'nothing'; known: tests, classifiers"):
        gpu.main([str(tmp_path), "--dry-run", "--only", "nothing"])
    assert not list(tmp_path.iterdir())


def test_the_shell_script_runs_a_step_in_its_own_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    command = ["sh", str(FOLDER / "gpu.sh"), str(tmp_path / "out"), "--dry-run", "--only", "tensorrt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert "skipped" in report["steps"]["tensorrt"]
