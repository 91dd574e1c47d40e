"""Which weights a training starts from, what it trains on, and where its best weights are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from toy_runs import toy_config

from hardnet_suite.openmm.run import summary
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.summary import best_of, example_image, initial_weights
from hardnet_suite.weights import find
from hardnet_suite.weights.places import SHIPPED


def pretrained(**options):
    return {"type": "HarDNetPretrained", **options}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("ssd320_hardnet39ds_bccd", "random (seed 0)"),
        ("ssd512_hardnet68", "published trunk 'base' of ssd512_hardnet68, hardnet68_base_bridge.pth"),
    ],
)
def test_weights_that_a_config_names(name, weights):
    cfg = load_config(name)
    assert initial_weights(cfg, None, from_scratch=False) == weights
    assert initial_weights(cfg, None, from_scratch=True) == "random (seed 0)"


@pytest.mark.parametrize(
    ("init", "weights"),
    [
        (pretrained(tag="bccd"), "shipped weights 'bccd' of ssd320_hardnet39ds, "),
        (pretrained(file="mine.pth"), "mine.pth"),
        ({"type": "Pretrained", "checkpoint": "torchvision://resnet50"}, "torchvision://resnet50"),
        ({"type": "Kaiming"}, "random"),
    ],
)
def test_weights_that_an_init_cfg_loads(init, weights):
    model = {"type": "A", "backbone": {"type": "B", "arch": "ssd320_hardnet39ds", "init_cfg": init}}
    text = initial_weights(Config({"model": model}), None, from_scratch=False)
    assert text.startswith(weights)


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        ({"epoch": 3, "iter": 30}, "run.pth, resumed after epoch 3, iteration 30"),
        ({"epoch": "3", "iter": 30}, "run.pth, resumed"),
        ("odd", "run.pth, resumed"),
    ],
)
def test_weights_of_a_file(meta, text):
    opened = SimpleNamespace(path=Path("run.pth"), content={"meta": meta})
    cfg = Config({"model": {}, "resume": True})
    assert initial_weights(cfg, opened, from_scratch=False) == text
    cfg.resume = False
    assert initial_weights(cfg, opened, from_scratch=False) == "run.pth"


def test_weights_of_the_registry_in_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    cfg = Config({"model": {}, "resume": False})
    shipped = SimpleNamespace(path=SHIPPED / "fchardnet70_camvid.safetensors", content={})
    text = initial_weights(cfg, shipped, from_scratch=False)
    assert text.startswith("shipped weights 'camvid' of fchardnet70, ")
    assert text.endswith(f"({find('fchardnet70', 'camvid').metric})")
    name = find("hardnet68").file
    own = SimpleNamespace(path=tmp_path / name, content={})
    assert initial_weights(cfg, own, from_scratch=False).startswith(
        "published weights 'published' of hardnet68"
    )
    elsewhere = SimpleNamespace(path=tmp_path / "sub" / name, content={})
    assert initial_weights(cfg, elsewhere, from_scratch=False) == str(elsewhere.path)


@pytest.mark.parametrize(
    ("ranks", "options", "line"),
    [
        (1, {}, "CPU, 2 threads, float32"),
        (4, {"bf16": True}, "4 × CPU, 2 threads, bfloat16 where it is safe"),
        (
            1,
            {"optim_wrapper": {"type": "BFloat16OptimWrapper"}},
            "CPU, 2 threads, bfloat16 where it is safe",
        ),
        (1, {"optim_wrapper": {"type": "AmpOptimWrapper"}}, "CPU, 2 threads, float16 where it is safe"),
        (
            1,
            {"optim_wrapper": {"type": "ApexOptimWrapper"}},
            "CPU, 2 threads, the precision of ApexOptimWrapper",
        ),
        (
            1,
            {"optim_wrapper": {"type": "AmpOptimWrapper", "dtype": "bfloat16"}},
            "CPU, 2 threads, bfloat16 where it is safe",
        ),
    ],
)
def test_device_and_precision(monkeypatch, ranks, options, line):
    monkeypatch.setattr(summary, "get_world_size", lambda: ranks)
    monkeypatch.setattr(summary, "get_device", lambda: "cpu")
    monkeypatch.setattr(summary.torch, "get_num_threads", lambda: 2)
    assert summary._device(Config(options)) == line


def test_the_best_is_the_newest_without_validation(toy_train):
    runner, _ = toy_train(toy_config(epochs=2))
    best = best_of(runner)
    assert (best.path, best.key, best.score) == (toy_train.folder() / "epoch_2.pth", None, None)


def test_the_best_by_a_score(tmp_path):
    (tmp_path / "best.pth").touch()
    hook = SimpleNamespace(best_ckpt_path=None, key_indicators=["top1"])
    info = {"best_score": 0.5, "best_ckpt": str(tmp_path / "best.pth")}
    runner = SimpleNamespace(
        hooks=[object(), hook],
        message_hub=SimpleNamespace(runtime_info=info),
        last_saved=tmp_path / "epoch_3.pth",
    )
    best = best_of(runner)
    assert (best.path, best.key, best.score) == (tmp_path / "best.pth", "top1", 0.5)
    (tmp_path / "best.pth").unlink()  # somebody removed it
    assert best_of(runner).path == tmp_path / "epoch_3.pth"
    runner.last_saved = None
    assert best_of(runner) is None


@pytest.mark.parametrize(
    ("metainfo", "line"),
    [
        ({"classes": ("road", "car")}, "train: 4 images, 2 classes (road, car), Others"),
        ({"classes": tuple("abcdefgh")}, "train: 4 images, 8 classes (a, b, c, d, e, f …), Others"),
        ({}, "train: 4 images, Others"),
        (None, "train: 4 images, Others"),
    ],
)
def test_data_of_another_kind_are_told_once_they_are_built(monkeypatch, metainfo, line):
    """mmseg's CityscapesDataset, for one."""

    class Others(list):
        pass

    dataset = Others(range(4))
    dataset.metainfo = metainfo
    lines = []
    monkeypatch.setattr(summary, "announce", lambda logger, text: lines.append(text))
    cfg = Config({"train_dataloader": {"dataset": {"type": "RepeatDataset", "dataset": {"type": "Other"}}}})
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
    summary.announce_foreign_data(SimpleNamespace(cfg=cfg, logger=None, _train_loop=loop, _val_loop=None))
    assert lines == [line]
    assert summary._data(cfg, "train_dataloader") == ""
    assert summary._data(cfg, "val_dataloader") == ""
    assert example_image(cfg) is None


def test_paths_are_relative_where_they_lie_below(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert summary.shown_path(tmp_path / "work_dirs/run") == "work_dirs/run"
    assert summary.shown_path("work_dirs/run") == "work_dirs/run"
    assert summary.shown_path(tmp_path.parent / "other") == str(tmp_path.parent / "other")
