"""A run that is killed and resumed ends where an uninterrupted one ends, bit for bit."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer
from toy_runs import assert_identical

import hardnet_suite.openmm  # noqa: F401  (lets torch.load read mmengine's log buffers)
from hardnet_suite.cli import main
from hardnet_suite.openmm.data.sampling import ResumableBatchSampler, SeededDataset


@pytest.fixture
def here(capfd):
    """Trains in this process; returns (exit status, stdout, stderr)."""

    def train(*arguments: object) -> tuple[int, str, str]:
        for shared in (MMLogger, MessageHub, Visualizer):  # by runs of one second
            shared._instance_dict.clear()
        capfd.readouterr()
        status = main(["train", *map(str, arguments)])
        return status, *capfd.readouterr()

    return train


def wait_for(path, process, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read()[-4000:]
        assert time.monotonic() < end, f"no {path.name} after {seconds} s"
        time.sleep(0.005)


def test_killed_in_mid_epoch_and_resumed_is_bit_for_bit_the_same(tiny, launch, run, here, tmp_path):
    config, data = tiny
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    common = ["tools/train.py", config, "--data-root", data, "--seed", 7, "--device", "cpu"]
    run(*common, "--work-dir", whole)

    process = launch(*common, "--work-dir", broken, start_new_session=True)
    wait_for(broken / "iter_8.pth", process, 300)  # 6 iterations an epoch: this one lies in the second
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "epoch_2.pth").exists()
    meta = torch.load(broken / "iter_8.pth", weights_only=False)["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 8)

    run(*common, "--work-dir", broken, "--resume")
    ends = [torch.load(folder / "epoch_2.pth", weights_only=False) for folder in (whole, broken)]
    assert ends[0]["meta"]["iter"] == 12
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert_identical(ends[0][part], ends[1][part], part)
    assert not list(broken.glob("iter_*.pth"))
    assert not list(broken.glob(".*.tmp"))

    for folder in (whole, broken):
        assert list(folder.glob("*/vis_data/scalars.json"))
    other = ["--work-dir", broken, "--resume", "--cfg-options", "train_dataloader.batch_size=3"]
    status, _, err = here(*common[1:], *other)
    assert status == 2
    assert "an epoch has 6 batches in the checkpoint, but 4 in this run" in err.splitlines()[-1]

    changed = torch.load(whole / "epoch_1.pth", weights_only=False)["state_dict"]
    assert any(not torch.equal(changed[key], value) for key, value in ends[0]["state_dict"].items())


class Numbers:
    """A data set of one random number a sample."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> float:
        return torch.rand(()).item()


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    data = SeededDataset(Numbers(), seed=3)
    value = data[(2, 4)]
    torch.rand(10)
    assert data[(2, 4)] == value
    assert len({value, data[(1, 4)], data[(2, 3)], SeededDataset(Numbers(), seed=4)[(2, 4)]}) == 4


@pytest.mark.parametrize("start", [0, 1, 3])
def test_batches_begin_where_they_are_told_to(start):
    sampler = torch.utils.data.SequentialSampler(range(7))
    sampler.epoch = 5
    batches = ResumableBatchSampler(sampler, batch_size=2)
    everything = list(batches)
    assert everything[0] == [(5, 0), (5, 1)]
    assert len(everything) == len(batches) == 4
    batches.start = start
    assert list(batches) == everything[start:]


def test_an_epoch_killed_before_its_validation_is_validated_on_resuming(tiny, here, tmp_path):
    config, data = tiny
    common = [config, "--data-root", data, "--device", "cpu", "--work-dir", tmp_path, "--verbose"]
    options = ["--cfg-options", "train_cfg.max_epochs=1", "train_dataloader.batch_size=6"]
    (_, first, _), (_, again, _) = here(*common, *options), here(*common, *options, "--resume")
    for output in (first, again):
        assert output.count("coco/bbox_mAP:") == 1
    assert "Epoch(train)" not in again


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_terminated_run_saves_and_resumes_bit_for_bit(tiny, launch, run, tmp_path, workers):
    """SIGTERM to all processes of the group, as schedulers and torchrun send it."""
    config, data = tiny
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = ["--cfg-options", f"train_dataloader.num_workers={workers}"]
    common = ["tools/train.py", config, "--data-root", data, "--seed", 7, "--device", "cpu"]
    run(*common, "--work-dir", whole, *options)

    process = launch(*common, "--work-dir", broken, *options, start_new_session=True)
    wait_for(broken / "iter_4.pth", process, 300)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    saved = max(broken.glob("*_*.pth"), key=lambda path: path.stat().st_mtime_ns)
    assert f"interrupted: the run is saved in {saved}; --resume resumes it" in output
    run(*common, "--work-dir", broken, "--resume", *options)
    ends = [torch.load(folder / "epoch_2.pth", weights_only=False) for folder in (whole, broken)]
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert_identical(ends[0][part], ends[1][part], part)
