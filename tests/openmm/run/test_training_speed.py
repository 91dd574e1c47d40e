"""Training speed: the batches that are drawn, the order of steps, the data loader. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.optim import AmpOptimWrapper
from torch import nn

from hardnet_suite.data.shapes import write_shapes
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import training_speed
from hardnet_suite.openmm.run.training_speed import (
    StepTiming,
    TrainingSetting,
    _input_size,
    find_training_config,
    time_training,
)

QUICK = {"rounds": 1, "passes": 1, "warmup": 0, "batch": 2}


def timing(config: str, *seconds: float, batch: int = 4, loader: float | None = None) -> StepTiming:
    setting = TrainingSetting(config, "eager", "fp32", True, batch, 64, 64)
    return StepTiming(setting, seconds, 10, loader)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ("ssd512_hardnet68", (512, 512)),
        ("ssd512_vgg16", (512, 512)),
        ("mmdet::ssd/ssd300_coco.py", (300, 300)),
        ("fchardnet70_camvid", (288, 384)),
        ("fchardnet70_camvid_continued", (288, 384)),  # two data sets
        ("fchardnet70_camvid_pretrained", (288, 384)),  # cropped inside of the data set that mixes images
        ("fchardnet70_camvid_pretrained_trainval", (352, 480)),
        ("fchardnet70_camvid_towns", (352, 480)),
        ("fchardnet70_camvid_cities", (352, 480)),
        ("fchardnet70_camvid_cities_finetune", (352, 480)),
        ("centernet_hardnet85_modern", (512, 512)),
        ("fchardnet70_cityscapes", (1024, 1024)),
        ("hardnet39ds_tiny_imagenet10", (64, 64)),
        ("hardnet68_imagenet", (224, 224)),
        ("hardnet_descriptor_liberty", (32, 32)),
    ],
)
def test_the_input_is_what_the_pipeline_makes(config, size):
    assert _input_size(find_training_config(config)) == size


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ("demo_ssd224_shapes", (224, 224)),
        ("centernet_hardnet68", (64, 64)),
        ("fchardnet70_camvid", (64, 96)),
        ("hardnet39ds_tiny_imagenet10", (64, 64)),
        ("hardnet_descriptor_liberty", (32, 32)),
    ],
)
def test_a_step_of_every_task_changes_the_weights(config, size, monkeypatch):
    models: list[nn.Module] = []
    initial: list[torch.Tensor] = []
    drawn = training_speed._drawn_batch

    def draw(model, setting):
        models.append(model)
        initial.append(next(model.parameters()).detach().clone())
        return drawn(model, setting)

    monkeypatch.setattr(training_speed, "_drawn_batch", draw)
    (made,) = time_training([config], **QUICK, size=size)
    weight = next(models[0].parameters())
    assert weight.isfinite().all()
    assert not torch.equal(weight, initial[0])
    assert (made.setting.config, made.setting.batch) == (config, 2)
    assert (made.setting.height, made.setting.width) == size
    assert made.parameters == sum(parameter.numel() for parameter in models[0].parameters())
    assert made.loader_images_per_second is None


def test_trainings_take_turns(monkeypatch):
    order: list[tuple[str, str]] = []

    def step(cfg, setting, device):
        return lambda: order.append((setting.config, setting.precision)), 7

    monkeypatch.setattr(training_speed, "_step", step)
    configs = ["demo_ssd224_shapes", "ssd512_vgg16"]
    timings = time_training(configs, **QUICK | {"rounds": 2}, precisions=["fp32", "bf16"])
    forward = [(config, precision) for config in configs for precision in ("fp32", "bf16")]
    assert order == [*forward, *reversed(forward)]
    assert [(each.setting.config, each.setting.precision) for each in timings] == forward
    assert all(len(each.seconds) == 2 for each in timings)


def record_autocast(monkeypatch) -> list[bool]:
    """Whether autocast is on in each call of the loss, as the calls are made."""
    seen = []
    loss = torch.nn.functional.cross_entropy
    monkeypatch.setattr(
        torch.nn.functional,
        "cross_entropy",
        lambda *args, **options: seen.append(torch.is_autocast_enabled("cpu")) or loss(*args, **options),
    )
    return seen


def test_bf16_computes_under_autocast(monkeypatch):
    seen = record_autocast(monkeypatch)
    time_training(["hardnet39ds_tiny_imagenet10"], **QUICK, precisions=["fp32", "bf16"])
    assert seen == [False, True]


@pytest.mark.parametrize(
    "wrapper",
    [
        {"type": "BFloat16OptimWrapper"},
        {"type": "AmpOptimWrapper", "dtype": "bfloat16", "loss_scale": "dynamic"},
        {"type": "mmengine.AmpOptimWrapper", "loss_scale": 512.0},
        {"type": AmpOptimWrapper, "use_fsdp": False},
    ],
)
def test_the_precision_replaces_that_of_the_config(wrapper, monkeypatch):
    seen = record_autocast(monkeypatch)
    cfg = find_training_config("hardnet39ds_tiny_imagenet10")
    cfg.optim_wrapper.update(wrapper)
    monkeypatch.setattr(training_speed, "find_training_config", lambda name: cfg)
    time_training(["own"], **QUICK, precisions=["fp32", "bf16"])
    assert seen == [False, True]
    assert cfg.optim_wrapper.type == wrapper["type"]


def test_a_wrapper_with_a_precision_of_its_own_is_refused(monkeypatch):
    cfg = find_training_config("hardnet39ds_tiny_imagenet10")
    cfg.optim_wrapper.type = "ApexOptimWrapper"
    monkeypatch.setattr(training_speed, "find_training_config", lambda name: cfg)
    with pytest.raises(UserError, match="cannot choose the precision of ApexOptimWrapper"):
        time_training(["own"], **QUICK)


@pytest.mark.parametrize("config", ["hardnet_descriptor_liberty", "hardnet_descriptor_homography"])
def test_a_descriptor_is_labelled_with_its_patches(config):
    (made,) = time_training([config], **QUICK)
    assert (made.setting.height, made.setting.width) == (32, 32)


def test_a_loader_without_batches_is_told():
    class Empty:
        passes = 0

        def __iter__(self):
            self.passes += 1
            assert self.passes < 3, "does not end"
            return iter(())

    with pytest.raises(UserError, match="gives no batch"):
        next(training_speed._endless(Empty()))


def test_the_loader_is_timed_alone(tmp_path):
    data = write_shapes(tmp_path / "shapes", train=6, val=2, size=96)
    said: list[str] = []
    options = QUICK | {"data_root": str(data), "loader_batches": 3, "say": said.append}
    (made,) = time_training(["demo_ssd224_shapes"], **options)
    assert made.loader_images_per_second > 0
    assert "data loader" in said[0]


def test_statistics_of_made_seconds():
    made, other = timing("a", 2.0, 1.0, 4.0, loader=6.0), timing("b", 1.0, 1.0, 1.0, batch=8)
    assert (made.median, made.images_per_second, made.p95) == (2.0, 2.0, 4.0)
    assert made.ratio_to(other) == 4  # twice the time for half the images
    row = json.loads(json.dumps(made.to_dict()))
    assert row["loader_images_per_second"] == 6.0
    assert (row["config"], row["engine"], row["images_per_second"], row["ms"]) == (
        "a",
        "eager",
        2.0,
        [2e3, 1e3, 4e3],
    )


def test_the_networks_of_the_engine_compile_are_compiled(monkeypatch):
    compiled: list[tuple[str, dict]] = []
    required: list[dict] = []
    monkeypatch.setattr(training_speed, "require_compiler", required.append)
    monkeypatch.setattr(
        training_speed,
        "compile_networks",
        lambda model, options: compiled.append((type(model).__name__, options)),
    )
    timings = time_training(["hardnet39ds_tiny_imagenet10"], **QUICK, engines=["eager", "compile"])
    assert compiled == [("ImageClassifier", {})]
    assert required == [{}]
    assert [each.setting.engine for each in timings] == ["eager", "compile"]


@pytest.mark.parametrize("kind", ["DistillationHook", "mmengine.DistillationHook"])
@pytest.mark.parametrize("key", ["custom_hooks = [{}]", "default_hooks = dict(distill={})"])
def test_teachers_are_not_timed_silently(tmp_path, kind, key):
    path = tmp_path / "taught.py"
    base = Path(__file__).resolve().parents[3] / "configs/fchardnet70_camvid.py"
    path.write_text(f'_base_ = "{base}"\n' + key.format(f'dict(type="{kind}", teachers=["run"])') + "\n")
    with pytest.raises(UserError, match="DistillationHook, whose teachers are not timed"):
        time_training([str(path)], **QUICK)


@pytest.mark.parametrize(
    ("configs", "options", "message"),
    [
        (["ssd512_vgg61"], {}, "no config ssd512_vgg61"),
        (["mmdet::ssd/none.py"], {}, "no config mmdet::ssd/none.py"),
        (["demo_ssd224_shapes"], {"engines": ["onnxruntime"]}, "unknown engine 'onnxruntime' of a training"),
        (["demo_ssd224_shapes"], {"precisions": ["fp16"]}, "unknown precision 'fp16' of a training"),
        (["demo_ssd224_shapes"], {"batch": 0}, "batch 0: expected an integer of at least 1"),
        (["demo_ssd224_shapes"], {"rounds": 0}, "rounds 0: expected"),
        (["demo_ssd224_shapes"], {"warmup": -1}, "warmup -1: expected an integer of at least 0"),
        (["demo_ssd224_shapes"], {"loader_batches": 0}, "loader_batches 0: expected"),
        (["demo_ssd224_shapes"], {"size": (0, 64)}, "height 0: expected"),
        (["demo_ssd224_shapes"], {"size": (64, 0)}, "width 0: expected"),
        (
            ["demo_ssd224_shapes", "hardnet_descriptor_liberty"],
            {"size": (64, 64)},
            "hardnet_descriptor_liberty computes patches of 32×32 pixels: leave out the size",
        ),
        (["demo_ssd224_shapes"], {"data_root": "no/such/folder"}, "no/such/folder"),
        (
            ["mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"],
            {"size": (64, 64)},
            "cannot draw a batch for",
        ),
    ],
)
def test_what_is_refused(configs, options, message, monkeypatch):
    monkeypatch.setattr(training_speed, "interleaved", lambda *args, **options: pytest.fail("timed"))
    with pytest.raises(UserError, match=message):
        time_training(configs, **QUICK | options)
