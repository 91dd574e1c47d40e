"""One global batch on any number of ranks: the share of each, and resuming on another number."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import mmengine.dataset.sampler
import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS
from toy_runs import toy_config

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.point_batches import DifferentPoints
from hardnet_suite.openmm.data.sampling import (
    ResumableBatchSampler,
    SeededDataset,
    WholeBatchSampler,
    dropping_sampler,
    fingerprint,
)
from hardnet_suite.openmm.run import loops, runner
from hardnet_suite.openmm.run.loops import ResumableEpochLoop
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


@pytest.mark.parametrize("is_resumable", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 3}, "batch_size=2, but its batch_sampler has batch_size=3"),
        ({"sampler": {"type": "DefaultSampler"}}, "takes the data loader's sampler"),
    ],
)
def test_a_batch_sampler_does_not_contradict_its_loader(options, message, is_resumable):
    sampler = {"type": "BatchSampler", "drop_last": False, **options}
    if is_resumable:
        sampler = {"type": "ResumableBatchSampler", "inner": sampler}
    loader = {"dataset": [1, 2], "sampler": None, "batch_size": 2, "batch_sampler": sampler}
    with pytest.raises(UserError, match=message):
        runner.SuiteRunner.build_dataloader(loader)


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


@pytest.mark.parametrize(("images", "whole"), [(2975, 16), (367, 8), (16, 16), (17, 16), (31, 8)])
@pytest.mark.parametrize("drop_last", [True, False])
def test_the_steps_of_an_epoch_are_the_same_on_any_number_of_ranks(monkeypatch, images, whole, drop_last):
    steps = {}
    for ranks in (1, 2, 4, 8):
        batches = []
        for rank in range(ranks):
            monkeypatch.setattr(mmengine.dataset.sampler, "get_dist_info", lambda pair=(rank, ranks): pair)
            config = {"type": "DefaultSampler", "shuffle": True}
            if drop_last:
                config = dropping_sampler(config, whole // ranks)
            sampler = DATA_SAMPLERS.build(config, default_args={"dataset": range(images), "seed": 3})
            batches.append(list(ResumableBatchSampler(sampler, whole // ranks, drop_last)))
        together = [sorted(key for batch in step for key in batch) for step in zip(*batches, strict=True)]
        steps[ranks] = together if drop_last else together[:-1]  # the last is filled up by repeated images
        assert len(together) == (images // whole if drop_last else -(-images // whole))
    assert steps[1] == steps[2] == steps[4] == steps[8]


def test_another_sampler_stays(monkeypatch):
    assert dropping_sampler(None, 4) is None
    config = {"type": "InfiniteSampler", "shuffle": True}
    assert dropping_sampler(config, 4) is config
    assert dropping_sampler({"type": DefaultSampler}, 4) == {"type": "WholeBatchSampler", "batch_size": 4}
    assert issubclass(DATA_SAMPLERS.get("WholeBatchSampler"), WholeBatchSampler)


def test_which_batches_depend_on_the_number_of_ranks():
    sampler = DefaultSampler(np.arange(64))
    assert ResumableBatchSampler(sampler, 4).is_same_on_any_ranks
    grouped = ResumableBatchSampler(sampler, 4, inner={"type": "mmdet.AspectRatioBatchSampler"})
    assert not grouped.is_same_on_any_ranks
    for shares, expected in (({}, True), ({"neighbours": 0.5}, False), ({"lookalikes": 0.5}, False)):
        assert DifferentPoints(sampler, 4, 32, **shares).is_same_on_any_ranks == expected


class NamedImages:
    def __init__(self, names, labels=None):
        self.names, self.labels = list(names), labels

    def __len__(self):
        return len(self.names)

    def get_data_info(self, index):
        return {"img_path": self.names[index], "label": self.labels and self.labels[index]}

    def full_init(self):
        self.metainfo = {}


class Joined:
    def __init__(self, *datasets):
        self.datasets = datasets

    def __len__(self):
        return sum(map(len, self.datasets))


@pytest.mark.parametrize(
    ("iteration", "is_same", "fails"), [(6, False, True), (6, True, False), (8, False, False)]
)
def test_batches_of_groups_are_not_gone_on_with_on_other_ranks(monkeypatch, iteration, is_same, fails):
    monkeypatch.setattr(loops, "get_world_size", lambda: 1)

    class Loader:
        batch_sampler = SimpleNamespace(batch_size=8, is_same_on_any_ranks=is_same)
        dataset = SeededDataset(range(32), 0)

        def __len__(self):
            return 4

    hub = SimpleNamespace(
        runtime_info={"batches_per_epoch": 4, "images_per_step": 8, "ranks": 2}, update_info=lambda *_: None
    )
    loop = SimpleNamespace(
        dataloader=Loader(), runner=SimpleNamespace(message_hub=hub), _iter=iteration, _epoch=iteration // 4
    )
    if fails:
        with pytest.raises(UserError, match=r"cannot resume within an epoch on 1 ranks: .* resume on 2"):
            ResumableEpochLoop._require_same_epochs(loop)
    else:
        ResumableEpochLoop._require_same_epochs(loop)


@pytest.mark.parametrize("iteration", [6, 8])
@pytest.mark.parametrize(
    ("images", "same"),
    [
        (NamedImages(f"elsewhere/{index}.png" for index in range(32)), True),
        (NamedImages(f"data/{index + 32}.png" for index in range(32)), False),
        (NamedImages(f"data/{index}.png" for index in reversed(range(32))), False),
        (NamedImages((f"data/{index}.png" for index in range(32)), labels=[1] + 31 * [0]), False),
        (Joined(*(NamedImages(f"data/{index}.png" for index in range(16)) for _ in range(2))), False),
        (list(range(32)), False),
    ],
)
def test_other_images_are_not_gone_on_with_within_an_epoch(iteration, images, same):
    first = NamedImages(f"data/{index}.png" for index in range(32))
    hub = SimpleNamespace(runtime_info={"images_of_epoch": fingerprint(first)}, update_info=lambda *_: None)

    class Loader:
        batch_sampler = SimpleNamespace(batch_size=8, is_same_on_any_ranks=True)
        dataset = SeededDataset(images, 0)

        def __len__(self):
            return 4

    loop = SimpleNamespace(
        dataloader=Loader(), runner=SimpleNamespace(message_hub=hub), _iter=iteration, _epoch=iteration // 4
    )
    if same or iteration == 8:
        ResumableEpochLoop._require_same_epochs(loop)
        return
    with pytest.raises(UserError, match="cannot resume within an epoch: the training images are others"):
        ResumableEpochLoop._require_same_epochs(loop)


def test_many_images_are_told_by_some():
    looked_at = []

    class Watched(NamedImages):
        def get_data_info(self, index):
            looked_at.append(index)
            return super().get_data_info(index)

    images = Watched(f"{index}.png" for index in range(123_456))
    others = Watched(f"{index + 1}.png" for index in range(123_456))
    assert fingerprint(images) == fingerprint(images) != fingerprint(others)
    assert len(looked_at) < 3 * 1001
    assert fingerprint(Joined(images, others)) != fingerprint(Joined(images, images))


def test_what_wrappers_select_counts():
    class Images(torch.utils.data.Dataset):
        """Of another program, which has attributes of its own."""

        def __init__(self, names="abcde", **attributes):
            self.names = names
            self.__dict__.update(attributes)

        def __len__(self):
            return len(self.names)

        def get_data_info(self, index):
            return {"name": self.names[index]}

    subsets = [
        torch.utils.data.Subset(images, indices)
        for images in (Images(), Images("vwxyz"))
        for indices in ([0, 1], [3, 4], np.array([1, 0]), torch.tensor([0, 2]), range(1, 3))
    ]
    joined = [torch.utils.data.ConcatDataset(pair) for pair in itertools.pairwise(subsets)]
    plain = [Images(), Images("abcdf")]
    assert len({fingerprint(each) for each in (*subsets, *joined, *plain)}) == 21
    assert fingerprint(subsets[0]) == fingerprint(torch.utils.data.Subset(Images(), np.array([0, 1])))
    for attributes in (
        {"dataset": "coco"},
        {"datasets": np.zeros((3, 2))},
        {"dataset": ["train"]},
        {"indices": "ab"},
    ):
        assert fingerprint(Images(**attributes)) == fingerprint(Images())
        assert fingerprint(Images("abcdf", **attributes)) == fingerprint(Images("abcdf"))
    images = Images()
    images.dataset = images
    assert fingerprint(images) == fingerprint(Images())


@pytest.mark.parametrize("loop", ["ResumableEpochLoop", "EpochBasedTrainLoop"])
def test_a_sampler_without_epochs_is_refused(toy_train, loop):
    cfg = toy_config(epochs=1)
    cfg.train_cfg.type, cfg.train_dataloader.sampler.type = loop, "InfiniteSampler"
    with pytest.raises(UserError, match=r"train_dataloader\.sampler is InfiniteSampler, .*DefaultSampler"):
        toy_train(cfg)
