"""Parts of a config: every data set inside of wrappers, whatever the wrappers."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.registry import DATASETS, DefaultScope

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import (
    inner_datasets,
    kind_of,
    parts,
    require_data,
    require_each_image_once,
)
from hardnet_suite.openmm.run.configs import load_config

CLASSES = ("a", "b")


def leaf(name):
    files = {"ann_file": f"{name}.json", "data_prefix": {"img": name}, "data_root": "data"}
    return {"type": "CocoDataset", "metainfo": {"classes": CLASSES}, **files}


WRAPPED = {
    "nothing": leaf("x"),
    "repeat": {"type": "RepeatDataset", "times": 2, "dataset": leaf("x")},
    "balanced": {"type": "ClassBalancedDataset", "oversample_thr": 0.1, "dataset": leaf("x")},
    "mix": {"type": "MultiImageMixDataset", "dataset": leaf("x"), "pipeline": []},
    "concat": {"type": "ConcatDataset", "datasets": [leaf("x"), leaf("y")]},
    "nested": {
        "type": "RepeatDataset",
        "dataset": {
            "type": "ConcatDataset",
            "datasets": [{"type": "MultiImageMixDataset", "dataset": leaf("x")}, leaf("y"), leaf("z")],
        },
    },
}


@pytest.mark.parametrize("name", WRAPPED)
def test_every_inner_data_set_is_a_part(name):
    cfg = Config({"train_dataloader": {"dataset": WRAPPED[name]}, "model": {}, "default_scope": "mmdet"})
    expected = {"concat": "xy", "nested": "xyz"}.get(name, "x")
    assert [part.image_folder.name for part in parts(cfg)] == list(expected)
    assert {part.loader for part in parts(cfg)} == {"train_dataloader"}
    assert len(list(inner_datasets(cfg.train_dataloader.dataset))) == len(expected)
    with pytest.raises(UserError, match=r"data/x\.json"):
        require_data(cfg, ["train_dataloader"])


@pytest.mark.parametrize("scoped", ["mmengine.{}", "class"])
@pytest.mark.parametrize(
    "name",
    [
        *("ssd512_hardnet68", "fchardnet70_camvid", "hardnet68_imagenet"),
        *("hardnet_descriptor_liberty", "mask2former_hardnet68_panoptic"),
    ],
)
def test_a_data_set_of_a_scoped_name_or_a_class_is_read_and_checked_alike(name, scoped):
    import hardnet_suite.openmm.segmentation  # noqa: F401

    cfg, other = load_config(name), load_config(name)
    expected = list(parts(cfg))
    assert expected
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in inner_datasets((other.get(loader) or {}).get("dataset")):
            with DefaultScope.overwrite_default_scope(other.get("default_scope")):
                own = DATASETS.get(dataset["type"])
            dataset["type"] = own if scoped == "class" else scoped.format(dataset["type"])
            assert kind_of(dataset) == own.__name__
    found = list(parts(other))
    assert [(type(part), part.loader, part.key) for part in found] == [
        (type(part), part.loader, part.key) for part in expected
    ]


def test_no_data_set():
    assert list(parts(Config({"train_dataloader": None, "val_dataloader": {}}))) == []


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(0, "image", "0 images"), (1, "box", "1 box"), (2804, "box", "2,804 boxes"), (3, "class", "3 classes")],
)
def test_counted(count, noun, text):
    assert counted(count, noun) == text


@pytest.mark.parametrize(
    ("dataset", "missing"),
    [
        (
            {"type": "CityscapesDataset", "data_root": "nowhere/", "data_prefix": {"img_path": "a"}},
            "nowhere/",
        ),
        (
            {"type": "CityscapesDataset", "data_root": "{root}", "data_prefix": {"img_path": "no"}},
            "{root}/no",
        ),
        ({"type": "CityscapesDataset", "data_root": "{root}", "ann_file": "no.txt"}, "{root}/no.txt"),
        (
            {"type": "ADE20KDataset", "data_prefix": {"img_path": "{root}/a", "seg_map_path": "{root}/no"}},
            "{root}/no",
        ),
        ({"type": "RepeatDataset", "dataset": {"type": "LoveDADataset", "data_root": "nowhere"}}, "nowhere"),
        ({"type": "CityscapesDataset", "data_root": "{root}", "data_prefix": {"img_path": "a"}}, None),
        ({"type": "CityscapesDataset", "data_root": "s3://bucket", "data_prefix": {"img_path": "a"}}, None),
        ({"type": "CityscapesDataset", "data_root": "no", "backend_args": {"backend": "petrel"}}, None),
    ],
)
def test_files_of_data_sets_of_others(tmp_path, monkeypatch, dataset, missing):
    """mmseg's own data sets name them in the usual way; a missing one is told before anything is built."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()

    def placed(value):
        if isinstance(value, dict):
            return {key: placed(item) for key, item in value.items()}
        return value.replace("{root}", str(tmp_path)) if isinstance(value, str) else value

    cfg = Config({"default_scope": "mmseg", "model": {}, "train_dataloader": {"dataset": placed(dataset)}})
    if missing is None:
        require_data(cfg, ["train_dataloader"])
        return
    with pytest.raises(UserError, match="train_dataloader: no file or folder ") as error:
        require_data(cfg, ["train_dataloader"])
    assert f"no file or folder {placed(missing)} (" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop_last": True}, "drop_last=True would leave"),
        (
            {"batch_sampler": {"type": "mmdet.AspectRatioBatchSampler", "drop_last": True}},
            "batch_sampler.drop",
        ),
        ({"sampler": {"type": "InfiniteSampler", "shuffle": False}}, "sampler is InfiniteSampler, .*Default"),
        ({"num_batch_per_epoch": 1}, "num_batch_per_epoch=1 would leave the images after"),
        ({"sampler": {"type": "mmengine.InfiniteSampler"}}, "sampler is InfiniteSampler"),
        ({"sampler": {"type": InfiniteSampler}}, "sampler is InfiniteSampler"),
        ({"sampler": {"type": "mmdet.ClassAwareSampler"}}, "sampler is ClassAwareSampler"),
        ({"dataset": WRAPPED["repeat"]}, "dataset is a RepeatDataset"),
        ({"dataset": WRAPPED["balanced"]}, "dataset is a ClassBalancedDataset"),
        ({"dataset": WRAPPED["nested"]}, "dataset is a RepeatDataset"),
    ],
)
@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader"])
def test_a_score_is_of_every_image_once(options, message, loader):
    cfg = Config({"default_scope": "mmdet", "model": {}, loader: {"dataset": leaf("x")}})
    cfg[loader].update(options)
    with pytest.raises(UserError, match=rf"{loader}\.{message}"):
        require_data(cfg, [loader])
    cfg.train_dataloader = cfg[loader]  # which may do all of that
    with pytest.raises(UserError, match=r"[xyz]\.json"):
        require_data(cfg, ["train_dataloader"])


@pytest.mark.parametrize("name", ["nothing", "mix", "concat"])
def test_loaders_that_visit_every_image_once(name):
    sampler = {"type": "DefaultSampler", "shuffle": False, "round_up": False}
    options = {"drop_last": False, "sampler": sampler, "batch_sampler": None, "dataset": WRAPPED[name]}
    options["num_batch_per_epoch"] = None
    require_each_image_once(options, "val_dataloader")
    require_each_image_once({"sampler": {"type": "OwnSampler"}}, "val_dataloader")
