"""What lies in a work dir and is not the run's stays as it is."""

from __future__ import annotations

import os
import shutil
import threading
from copy import deepcopy

import pytest
from mmengine.config import Config
from toy_runs import toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.lock import LOCK


def config(tmp_path, **changes):
    """A toy config that was read from a file."""
    cfg = toy_config(**changes)
    path = tmp_path / "mine.py"
    path.write_text("own = 1\n")
    object.__setattr__(cfg, "_filename", str(path))
    return cfg


@pytest.mark.parametrize("name", [LOCK, "last_checkpoint"])
@pytest.mark.parametrize("kind", ["text", "link", "dangling", "folder", "pipe"])
def test_what_is_in_the_way_is_named_before_training(toy_train, tmp_path, name, kind):
    folder = toy_train.folder()
    folder.mkdir()
    victim = tmp_path / "victim"
    place = folder / name
    if kind == "text":
        place.write_text("precious")
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(victim)
    if kind == "link":
        victim.write_text("precious")
    with pytest.raises(UserError, match=rf"{name} exists, and no earlier training wrote it"):
        toy_train(toy_config())
    assert not list(folder.glob("*.pth"))
    assert os.path.lexists(place)
    assert place.is_symlink() == (kind in ("link", "dangling"))
    if kind == "text":
        assert place.read_text() == "precious"
    if kind == "link":
        assert victim.read_text() == "precious"
    assert victim.exists() == (kind == "link")


@pytest.mark.parametrize("kind", ["text", "link", "folder", "pipe", None])
def test_the_config_is_written_beside_the_users(toy_train, tmp_path, kind):
    folder = toy_train.folder()
    folder.mkdir()
    place, victim = folder / "mine.py", tmp_path / "victim"
    victim.write_text("precious")
    if kind == "text":
        place.write_text("precious")
    elif kind == "link":
        place.symlink_to(victim)
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    runner, _ = toy_train(config(tmp_path, epochs=1))
    assert runner.iter == 4
    assert victim.read_text() == "precious"
    assert list(folder.glob("*/vis_data/config.py"))
    if kind is None:
        first = place.read_text()
        assert first.startswith("# The config of a run")
        toy_train(config(tmp_path, epochs=2))
        assert "max_epochs=2" in place.read_text() != first
    if kind == "text":
        assert place.read_text() == "precious"


def test_checkpoints_lie_in_the_work_dir(toy_train, tmp_path):
    cfg = toy_config()
    cfg.default_hooks.checkpoint.out_dir = str(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"checkpoint\.out_dir is .*elsewhere, but --resume"):
        toy_train(cfg)
    assert not (tmp_path / "elsewhere").exists()
    cfg.default_hooks.checkpoint.out_dir = str(toy_train.folder())
    assert toy_train(cfg)[0].iter == 8


def test_a_resumed_run_leaves_the_checkpoints_of_others(toy_train):
    """Also those of earlier epochs, which a run with a longer interval has not written."""
    other, folder = toy_train.folder("other"), toy_train.folder()
    toy_train(toy_config(epochs=1), "other")
    folder.mkdir()
    shutil.copy(other / "epoch_1.pth", folder / "epoch_1.pth")
    shutil.copy(other / "epoch_1.pth", folder / "iter_5.pth")
    cfg = toy_config(epochs=2)
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=1, every_iters=3)
    toy_train(cfg)
    kept = ["epoch_1.pth", "epoch_2.pth", "iter_5.pth"]
    assert sorted(path.name for path in folder.glob("*.pth")) == kept
    cfg.train_cfg.max_epochs = 4
    toy_train(cfg, resume=True)
    assert sorted(path.name for path in folder.glob("*.pth")) == ["epoch_1.pth", "epoch_4.pth", "iter_5.pth"]


def test_the_config_of_a_resumed_run_begins_as_the_run_did(toy_train, tmp_path):
    """Given to ``train`` without ``--resume``, it trains again, and does not go back to an old checkpoint."""
    toy_train(toy_config(epochs=1), "other")
    cfg = config(tmp_path, epochs=1)
    cfg.load_from = str(toy_train.folder("other") / "epoch_1.pth")
    toy_train(cfg)
    record = toy_train.folder() / "mine.py"
    first = Config.fromfile(record)
    cfg.train_cfg.max_epochs = 2
    for settings in ({}, {"resume": True, "load_from": None}):  # mmengine's own way, too
        again = deepcopy(cfg)
        again.update(settings)
        toy_train(again, resume=not settings)
        second = Config.fromfile(record)
        assert (second.resume, second.train_cfg.max_epochs) == (False, 2)
        assert second.load_from == (None if settings else first.load_from)


@pytest.mark.parametrize("resume", [True, False])
def test_a_training_that_is_refused_leaves_the_config_of_the_run(toy_train, tmp_path, resume):
    """Which resumes it, and which test and predict read."""
    cfg = config(tmp_path)
    toy_train(cfg)
    record = toy_train.folder() / "mine.py"
    before = record.read_bytes()
    other = deepcopy(cfg)
    other.optim_wrapper.optimizer = {"type": "AdamW", "lr": 0.1}
    if not resume:
        other.default_hooks.checkpoint.out_dir = str(tmp_path)
    begun = threading.Event()
    with pytest.raises(UserError, match="is SGD, the config's AdamW" if resume else "out_dir is"):
        toy_train(other, resume=resume, begun=begun)
    assert record.read_bytes() == before
    assert not begun.is_set()
    cfg.train_cfg.max_epochs = 3
    toy_train(cfg, resume=True, begun=begun)
    assert record.read_bytes() != before
    assert begun.is_set()
