"""The choice of the precision by timed steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import precision
from hardnet_suite.openmm.run.amp import training_precision
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.precision import precision_in, recorded_precision
from hardnet_suite.openmm.run.records import decodes_itself
from hardnet_suite.openmm.run.runner import prepare
from hardnet_suite.openmm.run.train import _compare_precision


@pytest.mark.parametrize("timed", ["step", "pass"])
@pytest.mark.parametrize(
    ("name", "channels", "size", "images"),
    [
        ("demo_ssd224_shapes", 3, 224, 3),
        ("hardnet39ds_tiny_imagenet10", 3, 64, 8),
        ("hardnet_descriptor_liberty", 1, 32, 8),
    ],
)
def test_what_is_timed_is_of_the_config(name, channels, size, images, timed, monkeypatch):
    cfg, seen = load_config(name), []
    if name.startswith("demo"):
        cfg.train_dataloader.batch_size = cfg.test_dataloader.batch_size = images
    create = precision.build_network

    def spied(*args):
        network = create(*args)
        network.register_forward_pre_hook(
            lambda module, inputs: seen.append(
                (tuple(inputs[0].shape), torch.is_autocast_enabled("cpu"), module.training)
            )
        )
        return network

    monkeypatch.setattr(precision, "build_network", spied)
    choice = (precision.faster_step if timed == "step" else precision.faster_pass)(cfg, 1)
    assert set(choice.seconds) == {"float32", "bf16"}
    assert all(0 < value < float("inf") for value in choice.seconds.values())
    assert choice.seconds[choice.precision] == min(choice.seconds.values())
    assert choice.timed == f"a {timed} of {images}×{channels}×{size}×{size}"
    assert seen == [((images, channels, size, size), bf16, timed == "step") for bf16 in (False, True)] * 2


@pytest.mark.parametrize("faster", [precision.faster_step, precision.faster_pass])
def test_networks_of_others_are_told(faster):
    with pytest.raises(UserError, match="--precision auto times the networks of the suite"):
        faster(Config({"model": {"type": "RetinaNet"}}))


@pytest.mark.parametrize("bf16", [True, False, None])
def test_a_given_precision_replaces_that_of_a_runs_config(bf16, tmp_path):
    first = prepare(load_config("demo_ssd224_shapes"), work_dir=tmp_path, bf16=True)
    assert first.bf16
    again = prepare(first, work_dir=tmp_path, bf16=bf16)
    computes = bf16 is not False
    assert again.bf16 == computes
    assert again.optim_wrapper.type == ("BFloat16OptimWrapper" if computes else "OptimWrapper")
    assert again.val_cfg.fp16 == again.test_cfg.fp16 == computes


@pytest.mark.parametrize("bf16", [True, False, None])
@pytest.mark.parametrize(
    "wrapper",
    [
        {"type": "BFloat16OptimWrapper"},
        {"type": "AmpOptimWrapper", "dtype": "bfloat16"},
        {"type": "AmpOptimWrapper", "loss_scale": 512.0},
    ],
)
def test_a_given_precision_replaces_that_of_the_configs_wrapper(wrapper, bf16, tmp_path):
    cfg = load_config("demo_ssd224_shapes")
    cfg.optim_wrapper.update(wrapper)
    made = prepare(cfg, work_dir=tmp_path, bf16=bf16).optim_wrapper
    if bf16 is None:
        assert made == cfg.optim_wrapper
    else:
        assert made.type == ("BFloat16OptimWrapper" if bf16 else "OptimWrapper")
        assert made.optimizer == cfg.optim_wrapper.optimizer
        assert not {"dtype", "loss_scale"} & set(made)


@pytest.mark.parametrize("bf16", [True, False])
def test_scoring_leaves_wrappers_of_others_alone(bf16, tmp_path):
    cfg = load_config("demo_ssd224_shapes")
    cfg.optim_wrapper.type = "ApexOptimWrapper"
    with pytest.raises(UserError, match="cannot choose the precision of ApexOptimWrapper"):
        prepare(cfg, work_dir=tmp_path, bf16=bf16)
    made = prepare(cfg, work_dir=tmp_path, bf16=bf16, trains=False)
    assert made.optim_wrapper == cfg.optim_wrapper
    assert made.bf16 == made.val_cfg.fp16 == made.test_cfg.fp16 == bf16


@pytest.mark.parametrize(
    ("name", "head", "decodes"),
    [
        ("mask_rcnn_hardnet68", None, False),
        ("demo_ssd224_shapes", {"type": "SSDHead"}, False),
        ("demo_ssd224_shapes", {"type": "HarDNetSSDHead"}, True),
        ("demo_ssd224_shapes", {}, True),
        ("centernet_hardnet39ds_bccd", None, True),
        ("fchardnet70_camvid", None, True),
        ("hardnet39ds_tiny_imagenet10", None, True),
    ],
)
def test_only_what_the_suite_decodes_is_scored_under_autocast(name, head, decodes, tmp_path):
    cfg = load_config(name)
    if head is not None:
        cfg.model.bbox_head = head
    made = prepare(cfg, work_dir=tmp_path, bf16=True)
    assert made.optim_wrapper.type == "BFloat16OptimWrapper"
    assert made.val_cfg.fp16 == made.test_cfg.fp16 == decodes == decodes_itself(made)
    again = prepare(made, work_dir=tmp_path)  # the config of the run
    assert again.val_cfg.fp16 == again.test_cfg.fp16 == decodes
    made.model = {"type": "DetTTAModel", "module": made.model}  # for test-time augmentation
    assert decodes_itself(made) == decodes


CONFIGS = [
    ({}, "float32"),
    ({"optim_wrapper": {"type": "OptimWrapper"}}, "float32"),
    ({"optim_wrapper": {"type": "OptimWrapper"}, "bf16": True}, "bfloat16"),
    ({"optim_wrapper": {"type": "BFloat16OptimWrapper"}}, "bfloat16"),
    ({"optim_wrapper": {"type": "AmpOptimWrapper", "dtype": "bfloat16"}}, "bfloat16"),
    ({"optim_wrapper": {"type": "AmpOptimWrapper", "dtype": torch.bfloat16}}, "bfloat16"),
    ({"optim_wrapper": {"type": "mmengine.AmpOptimWrapper"}}, "float16"),
    ({"optim_wrapper": {"type": AmpOptimWrapper}}, "float16"),
    ({"optim_wrapper": {"type": "ApexOptimWrapper"}}, "ApexOptimWrapper"),
]


@pytest.mark.parametrize(("cfg", "name"), CONFIGS)
def test_what_a_config_trains_in(cfg, name):
    assert training_precision(cfg) == name
    assert precision_in(recorded_precision(name)) == name


def test_checkpoints_say_float32_and_bfloat16_as_flags():
    assert recorded_precision("bfloat16") == {"bf16": True}
    assert recorded_precision("float32") == {"bf16": False}
    assert precision_in({}) is None


@pytest.mark.parametrize(("before", "old"), CONFIGS)
@pytest.mark.parametrize(("after", "new"), CONFIGS)
def test_another_precision_of_the_resumed_run_is_told(before, old, after, new):
    weights = SimpleNamespace(content={"meta": recorded_precision(training_precision(before))})
    lines = _compare_precision(Config(after), weights)
    assert len(lines) == (old != new)
    assert all(f"computed in {old} so far, and resumes in {new}; to keep it: " in line for line in lines)
