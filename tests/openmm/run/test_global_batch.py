"""One global batch on any number of ranks: the share of each, and resuming on another number."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
from toy_runs import toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import runner
from hardnet_suite.openmm.run.runner import prepare

SCRIPT = Path(__file__).with_name("train_elastic.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]


@pytest.mark.parametrize(("ranks", "share"), [(1, 12), (2, 6), (3, 4), (12, 1)])
@pytest.mark.parametrize("is_in_config", [False, True])
def test_ranks_share_it(tmp_path, monkeypatch, ranks, share, is_in_config):
    monkeypatch.setattr(runner, "get_world_size", lambda: ranks)
    cfg = toy_config(**({"global_batch_size": 12} if is_in_config else {}))
    prepared = prepare(cfg, work_dir=tmp_path, global_batch_size=None if is_in_config else 12)
    assert prepared.train_dataloader.batch_size == share
    assert prepared.global_batch_size == 12
    assert cfg.train_dataloader.batch_size == 2  # the config given is left alone


@pytest.mark.parametrize("size", [0, -4, 7, 2.0, "4", True])
def test_what_cannot_be_shared(tmp_path, monkeypatch, size):
    monkeypatch.setattr(runner, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="global batch"):
        prepare(toy_config(global_batch_size=size), work_dir=tmp_path)


def test_a_config_to_test_needs_no_share(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "get_world_size", lambda: 2)
    cfg = prepare(toy_config(global_batch_size=7), work_dir=tmp_path, trains=False)
    assert cfg.train_dataloader.batch_size == 2


def seen(folder: Path) -> dict[str, list[int]]:
    """The images of each iteration, of all ranks."""
    images = defaultdict(list)
    for path in sorted(folder.glob("seen_*")):
        images[path.name.split("_")[1]] += json.loads(path.read_text())
    return {iteration: sorted(numbers) for iteration, numbers in images.items()}


def test_a_run_resumes_within_an_epoch_on_another_number_of_ranks(run, launch, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOBAL_BATCH_SIZE", "4")
    one, several = tmp_path / "one", tmp_path / "several"
    one.mkdir(), several.mkdir()
    run(SCRIPT, one)
    process = launch(*TORCHRUN, SCRIPT, several, 6)  # 4 iterations per epoch
    output, _ = process.communicate(timeout=300)
    assert process.returncode, output
    assert [path.name for path in several.glob("iter_*.pth")] == ["iter_7.pth"]

    monkeypatch.delenv("GLOBAL_BATCH_SIZE")  # batches of 2: as many images would be left out
    process = launch(SCRIPT, several)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "error: cannot resume" in output
    assert "--global-batch-size" in output

    monkeypatch.setenv("GLOBAL_BATCH_SIZE", "4")
    run(SCRIPT, several)
    assert (several / "epoch_3.pth").is_file()
    assert seen(several) == seen(one)
    assert len(seen(one)) == 12
    assert {len(images) for images in seen(one).values()} == {4}
