"""Peak memory, in processes of their own."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from hardnet_suite.deploy import memory
from hardnet_suite.deploy.memory import peak_memory
from hardnet_suite.deploy.runners import EngineForm, Setting

MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")


class Unreachable(nn.Module):
    """A class that another process cannot import."""

    def forward(self, images):
        return images


def test_weights_and_activations_count_and_each_network_apart():
    heavy = nn.Conv2d(1, 64 * MIB // 4, 1, bias=False)  # 64 MiB of weights, 64 MiB of output
    wide = nn.Sequential(nn.Upsample(scale_factor=512), nn.Upsample(scale_factor=8))  # 64 MiB at the end
    light = nn.Conv2d(1, 4, 1)
    networks = [heavy, wide, light, Unreachable()]
    prepared = [EngineForm(Setting(), network=network.eval()) for network in networks]
    peaks = peak_memory(prepared, [(1, 1, 1, 1)] * len(networks))
    assert 120 * MIB <= peaks[0] <= 220 * MIB
    assert 60 * MIB <= peaks[1] <= 110 * MIB
    assert peaks[2] <= 24 * MIB
    assert peaks[3] is None


def test_what_cannot_run_has_no_memory():
    prepared = EngineForm(Setting(), network=nn.Conv2d(3, 4, 1))
    assert peak_memory([prepared], [(1, 5, 8, 8)]) == [None]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_the_memory_of_a_gpu_is_its_own(monkeypatch, tmp_path, device):
    asked = []
    for name in ("set_device", "synchronize", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda index, name=name: asked.append((name, index)) or 7)
    monkeypatch.setattr(memory, "make_pass", lambda prepared, inputs: lambda: asked.append("pass"))
    content = {"prepared": EngineForm(Setting(device=device)), "shape": (1, 3, 8, 8), "threads": 1}
    torch.save(content, tmp_path / "0.pt")
    monkeypatch.setattr(torch, "set_flush_denormal", lambda mode: True)
    memory._measure(tmp_path / "0.pt")
    assert (tmp_path / "0.bytes").read_text() == "7"
    steps = [each if each == "pass" else each[0] for each in asked]
    assert steps == [
        *("set_device", "pass", "synchronize", "reset_peak_memory_stats"),
        *("pass", "pass", "synchronize", "max_memory_allocated"),
    ]
    assert {each[1] for each in asked if each != "pass"} == {torch.device(device)}


def test_a_pass_without_end_is_no_answer_and_leaves_no_process(monkeypatch, tmp_path):
    mark = tmp_path / "child"
    script = (
        "import os, pathlib, sys, time\n"
        "if (child := os.fork()) == 0:\n"
        "    time.sleep(600)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child))\n"
        "os.waitpid(child, 0)\n"
    )
    monkeypatch.setattr(memory, "_LONGEST", 2)
    memory._run([sys.executable, "-c", script, str(mark)])
    child = int(mark.read_text())
    deadline = time.monotonic() + 60  # a killed process may be at its end for a moment
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    """Whether a process runs, and is no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
