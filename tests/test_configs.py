"""The shipped configs: the published recipes, and that each fits the row of the table it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardnet_suite.networks import ARCHS, PREPROCESS, HarDNetTrunk
from hardnet_suite.networks.ssd import SSDNeck, source_indices
from hardnet_suite.openmm.configs import OWN_CONFIGS, class_counts, load_config

NAMES = sorted(path.stem for path in OWN_CONFIGS.glob("*.py"))


def transforms(cfg, loader: str) -> list[str]:
    return [step["type"] for step in cfg[loader].dataset.pipeline]


@pytest.mark.parametrize("name", ["ssd512_hardnet68", "ssd512_hardnet85"])
def test_published_ssd_recipe(name):
    cfg = load_config(name)
    assert cfg.train_cfg.max_epochs == 150
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 32
    assert cfg.auto_scale_lr.enable
    sgd = {"type": "SGD", "lr": 0.004, "momentum": 0.9, "weight_decay": 1e-4}
    assert cfg.optim_wrapper.optimizer == sgd
    (schedule,) = cfg.param_scheduler
    assert (schedule["milestones"], schedule["gamma"]) == ([90, 120, 140], 0.1)
    augmentation = ["PhotoMetricDistortion", "Expand", "MinIoURandomCrop", "Resize", "RandomFlip"]
    assert transforms(cfg, "train_dataloader")[2:-1] == augmentation
    assert cfg.model.init_cfg == {"type": "HarDNetPretrained", "model": name, "tag": "base"}
    assert (cfg.model.test_cfg.score_thr, cfg.model.test_cfg.max_per_img) == (0.01, 200)
    assert cfg.model.test_cfg.nms == {"type": "nms", "iou_threshold": 0.45, "offset": 1}


@pytest.mark.parametrize("name", NAMES)
def test_config_fits_its_architecture(name):
    cfg = load_config(name)
    row = ARCHS[cfg.arch]
    model = cfg.model
    assert {model.backbone.arch, model.neck.arch, model.bbox_head.arch} == {cfg.arch}
    assert tuple(model.backbone.out_indices) == source_indices(row)
    trunk = HarDNetTrunk(row.trunk, out_indices=source_indices(row))
    assert list(model.neck.in_channels) == trunk.channels
    assert list(model.bbox_head.in_channels) == SSDNeck(row, trunk.channels).channels
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        (resize,) = [step for step in cfg[loader].dataset.pipeline if step["type"] == "Resize"]
        assert tuple(resize["scale"]) == (row.size, row.size)
    rule = PREPROCESS[cfg.arch]
    assert rule.channels == "bgr"
    assert not model.data_preprocessor.bgr_to_rgb
    assert tuple(model.data_preprocessor.mean) == rule.pixel_mean
    assert tuple(model.data_preprocessor.std) == rule.pixel_std
    classes = (cfg.train_dataloader.dataset.get("metainfo") or {}).get("classes")
    assert class_counts(cfg) == {len(classes) if classes else 80}


def test_configs_are_flat_with_one_level_of_bases():
    assert {path.parent.name for path in OWN_CONFIGS.rglob("*.py")} == {"configs", "_base_"}
    assert Path(load_config("ssd512_hardnet68").filename).parent == OWN_CONFIGS
