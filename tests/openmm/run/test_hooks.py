"""The progress line, and which checkpoints a run can go on from."""

from __future__ import annotations

import io
import os
import sys
from types import SimpleNamespace

import pytest

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.openmm.run.hooks import ProgressLineHook
from hardnet_suite.weights.runs import saved_checkpoints


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_progress_line_on_terminals_only(monkeypatch, stream):
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    runner = SimpleNamespace(iter=0, epoch=0, max_epochs=3, max_iters=12, train_dataloader=range(4))
    hook = ProgressLineHook()
    hook.before_train(runner)
    for runner.iter in range(2):
        hook.after_train_iter(runner, runner.iter, {"inputs": [0, 0]}, {"loss": 1.25})
    hook.after_train_epoch(runner)
    if stream is io.StringIO:
        assert shown.getvalue() == ""
        return
    first, second, end = shown.getvalue().split("\r")
    assert "epoch 1/3  1/4  loss 1.250" in first
    assert "epoch 1/3  2/4  loss 1.250" in second
    assert "img/s" in second
    assert second.endswith(" left")
    assert end == "\033[K"


def test_saved_checkpoints_are_numbered_ones_oldest_first(tmp_path):
    for age, name in enumerate(
        ["iter_9.pth", "epoch_1.pth", "best_x_epoch_1.pth", ".epoch_2.pth.a.tmp", "a.pth"]
    ):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert [path.name for path in saved_checkpoints(tmp_path)] == ["epoch_1.pth", "iter_9.pth"]
    assert saved_checkpoints(tmp_path / "nothing") == []
