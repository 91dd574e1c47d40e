"""A training lists every folder and reads every header once before its first iteration."""

from __future__ import annotations

import os
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data import files
from hardnet_suite.data.files import folder_entries, kept_while_looking, looking_once, stop_looking
from hardnet_suite.data.shapes import write_shapes
from hardnet_suite.openmm.run.configs import load_config, set_data_root
from hardnet_suite.openmm.run.runner import SuiteRunner, prepare
from hardnet_suite.openmm.run.train import train

EVENTS = ("open", "os.scandir", "os.listdir")
_watched: dict[str, Counter] = {}  # folder -> what was done in it


def _watch(event: str, arguments: tuple) -> None:
    if event in EVENTS and _watched and isinstance(arguments[0], str | os.PathLike):
        path = os.path.normpath(os.fspath(arguments[0]))
        for folder, seen in [*_watched.items()]:
            if path.startswith(folder):
                kind = "file" if event == "open" else "folder"
                seen[kind, os.path.relpath(path, folder)] += 1


@pytest.fixture(scope="module", autouse=True)
def _hook():
    sys.addaudithook(_watch)  # stays, for nothing once no folder is watched
    yield
    _watched.clear()


def image(path, shape=(48, 64, 3), most=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, most, shape, np.uint8)).save(path)


def detection(folder):
    write_shapes(folder, train=4, val=3, size=96)
    return load_config("demo_ssd224_shapes"), 9  # images and annotations


def segmentation(folder):
    for split, count in (("train", 4), ("val", 3)):
        for index in range(count):
            image(folder / split / f"{index}.png")
            image(folder / f"{split}annot" / f"{index}.png", (48, 64), 11)
    return load_config("fchardnet70_camvid"), 14


def classification(folder):
    for label in range(10):
        for index in range(3):
            image(folder / f"train/n{label:08}/{index}.png")
    cfg = load_config("hardnet39ds_tiny_imagenet10")
    for loader in ("train_dataloader", "val_dataloader"):
        cfg[loader].dataset.update(hold_out=1)
    return cfg, 0  # images are opened when they are trained on


class Begun(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("make", [detection, segmentation, classification])
def test_the_start_of_a_training_looks_once(tmp_path, monkeypatch, make):
    data = tmp_path / "data"
    cfg, count = make(data)
    set_data_root(cfg, str(data))
    cfg.model.init_cfg = None
    for loader in ("train_dataloader", "val_dataloader"):
        cfg[loader].update(num_workers=0, persistent_workers=False, batch_size=2)
    call_hook = SuiteRunner.call_hook

    def end(self, fn_name, **options):
        call_hook(self, fn_name, **options)
        if fn_name == "before_train":
            raise Begun

    monkeypatch.setattr(SuiteRunner, "call_hook", end)
    seen = _watched[str(data)] = Counter()
    try:
        with pytest.raises(Begun):
            train(prepare(cfg, work_dir=tmp_path / "work"), from_scratch=True)
    finally:
        _watched.clear()
    opened = {name: number for (kind, name), number in seen.items() if kind == "file"}
    listed = {name: number for (kind, name), number in seen.items() if kind == "folder"}
    assert len(opened) == count
    assert listed
    assert set(listed.values()) == {1}
    # of label images the header, and the pixels for the meaning of their values
    assert all(
        number == (2 if "annot" in name and name.endswith(".png") else 1) for name, number in opened.items()
    ), opened
    assert files._found is None


def test_what_is_kept_and_what_is_not(tmp_path):
    calls = []

    @kept_while_looking
    def look(path, *, deep=False):
        calls.append((path, deep))
        if path == "bad":
            raise OSError
        return len(calls)

    assert (look("a"), look("a")) == (1, 2)
    with looking_once():
        assert (look("a"), look("a"), look("a", deep=True), look("b")) == (3, 3, 4, 5)
        for _ in range(2):
            with pytest.raises(OSError):  # noqa: PT011
                look("bad")
        assert len(calls) == 7
        with looking_once():
            assert look("a") == 3
        assert look("a") == 3
        stop_looking()
        assert look("a") == 8
    assert look("a") == 9
    with pytest.raises(ZeroDivisionError), looking_once():
        raise ZeroDivisionError
    (tmp_path / "x").touch()
    assert [entry.name for entry in folder_entries(str(tmp_path))] == ["x"]
    (tmp_path / "a").touch()
    assert [entry.name for entry in folder_entries(str(tmp_path))] == ["a", "x"]
