"""The optimizer: options that have no effect are refused, and those of the config count after resuming."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_runs import toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.optimizers import _misspelt, require_clipping, require_paramwise


def with_optimizer(kind: str, *, epochs: int = 1, **options):
    cfg = toy_config(epochs=epochs)
    cfg.optim_wrapper = {"type": "OptimWrapper", "optimizer": {"type": kind, "lr": 0.01, **options}}
    return cfg


def warnings_of(toy_train, runner) -> list[str]:
    (log,) = (path for path in toy_train.folder().glob("*/*.log") if path.stem == runner.timestamp)
    return [line for line in log.read_text().splitlines() if "WARNING" in line]


@pytest.mark.parametrize(
    ("before", "after", "replaced"),
    [
        (("AdamW", {}), ("AdamW", {"maximize": True}), "maximize"),
        (("NAdam", {}), ("NAdam", {"momentum_decay": 0.4}), "momentum_decay"),
        (("AdamW", {"amsgrad": True}), ("AdamW", {}), "amsgrad"),
        (("Adam", {"weight_decay": 0.1}), ("AdamW", {"weight_decay": 0.1}), "decoupled_weight_decay"),
        (("AdamW", {"weight_decay": 0.1}), ("Adam", {"weight_decay": 0.1}), "decoupled_weight_decay"),
        (("Adadelta", {}), ("Adadelta", {"rho": 0.5}), "rho"),
        (("ASGD", {}), ("ASGD", {"lambd": 0.5}), "lambd"),
        (("Adagrad", {}), ("Adagrad", {"lr_decay": 0.5}), "lr_decay"),
        (("Rprop", {}), ("Rprop", {"etas": (0.4, 1.3)}), "etas"),
        (("SGD", {}), ("SGD", {"momentum": 0.5, "nesterov": True}), "momentum, nesterov"),
        (("AdamW", {}), ("AdamW", {}), None),
    ],
)
def test_every_option_of_an_optimizer_is_the_configs_after_resuming(toy_train, before, after, replaced):
    toy_train(with_optimizer(before[0], **before[1]))
    fresh, _ = toy_train(with_optimizer(after[0], **after[1]), "fresh")
    runner, _ = toy_train(with_optimizer(after[0], epochs=2, **after[1]), resume=True)
    expected, group = (dict(one.optim_wrapper.param_groups[0], params=None) for one in (fresh, runner))
    assert group == expected
    told = [line for line in warnings_of(toy_train, runner) if "checkpoint's" in line]
    assert [line for line in told if line.endswith(f"the config's {replaced} replaces the checkpoint's")] == (
        told[-1:] if replaced else []
    )
    assert len(told) == bool(replaced) + (before[0] != after[0])
    assert before[0] == after[0] or f"the config's {after[0]} continues with the state of" in told[0]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (("NAdam", {}), ("RAdam", {}), r"epoch_1\.pth is NAdam, the config's RAdam"),
        (("Adam", {}), ("NAdam", {}), r"is Adam, the config's NAdam"),
        (("RAdam", {}), ("Adamax", {}), r"epoch_1\.pth is RAdam, the config's Adamax"),
        (("AdamW", {}), ("AdamW", {"amsgrad": True}), "amsgrad needs max_exp_avg_sq of the earlier steps"),
        (("RMSprop", {}), ("RMSprop", {"centered": True}), "centered needs grad_avg"),
        (("RMSprop", {}), ("RMSprop", {"momentum": 0.9}), "momentum needs momentum_buffer"),
        (("Adagrad", {}), ("Adagrad", {"initial_accumulator_value": 0.1}), "at the start of a run alone"),
    ],
)
def test_an_optimizer_that_a_checkpoint_has_no_state_for_is_refused(toy_train, before, after, message):
    toy_train(with_optimizer(before[0], **before[1]))
    with pytest.raises(UserError, match=f"^cannot resume: .*{message}") as raised:
        toy_train(with_optimizer(after[0], epochs=2, **after[1]), resume=True)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("SGD", "has amsgrad, betas, the config's SGD has momentum"),
        ("NAdam", "has amsgrad, betas, the config's NAdam has betas, momentum_decay"),
    ],
)
def test_a_checkpoint_that_does_not_name_its_optimizer(toy_train, kind, message):
    """As those of other programs: its options tell of what kind it is."""
    toy_train(with_optimizer("AdamW"))
    path = toy_train.folder() / "epoch_1.pth"
    content = torch.load(path, weights_only=False)
    assert content["meta"].pop("optimizer_type") == "AdamW"
    torch.save(content, path)
    toy_train(with_optimizer("AdamW", epochs=2), "other", resume=str(path))
    with pytest.raises(UserError, match=f"^cannot resume: .*{message};"):
        toy_train(with_optimizer(kind, epochs=2), "other2", resume=str(path))


def test_what_schedules_set_is_no_changed_option(toy_train):
    """Also the momentum of Adam, which is one of its betas, and the weight decay of some groups alone."""
    schedule = [{"type": "CosineAnnealingMomentum", "eta_min": 0.5, "T_max": 8, "by_epoch": False}]
    for epochs in (1, 2):
        cfg = with_optimizer("AdamW", epochs=epochs, weight_decay=0.1)
        cfg.param_scheduler = schedule
        cfg.optim_wrapper.paramwise_cfg = {"norm_decay_mult": 0.0}
        runner, _ = toy_train(cfg, resume=epochs == 2)
    assert not [line for line in warnings_of(toy_train, runner) if "replaces" in line]
    cfg.optim_wrapper.paramwise_cfg.norm_decay_mult = 0.5
    cfg.train_cfg.max_epochs = 3
    runner, _ = toy_train(cfg, resume=True)
    assert [line for line in warnings_of(toy_train, runner) if "config's weight_decay replaces" in line]
    decays = {group["weight_decay"] for group in runner.optim_wrapper.param_groups}
    assert decays == {0.1, 0.05}


@pytest.mark.parametrize(
    ("clipping", "message"),
    [
        ({"max_norms": 1.0}, "has no option 'max_norms'; did you mean max_norm"),
        ({}, "has no max_norm, expected a number above 0; clip_grad=None turns clipping off"),
        ({"norm_type": 2}, "has no max_norm, expected"),
        ({"type": "value", "max_norm": 1.0}, "has no option 'max_norm'"),
        ({"type": "value", "clip_value": -0.5}, "clip_value is -0.5, expected a number above 0"),
        ({"type": "value", "clip_value": 0}, "clip_value is 0, expected"),
    ],
)
def test_clipping_that_would_fail_or_turn_gradients_round(clipping, message):
    with pytest.raises(UserError, match=rf"^optim_wrapper\.clip_grad.*{message}"):
        require_clipping({"type": "OptimWrapper", "clip_grad": clipping})


@pytest.mark.parametrize(
    "clipping",
    [
        None,
        {"max_norm": 35, "norm_type": 2},
        {"max_norm": float("inf"), "error_if_nonfinite": True},
        {"type": "value", "clip_value": 0.1},
    ],
)
def test_clipping_of_mmengine(clipping):
    require_clipping({"clip_grad": clipping})
    require_clipping({"type": "AmpOptimWrapper", "clip_grad": clipping})
    require_clipping({"type": "foreign.Wrapper", "clip_grad": {"its": "own"}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"norm_decay_mul": 0.0},
            r" has no option 'norm_decay_mul'; did you mean norm_decay_mult",
        ),
        (
            {"custom_keys": {"layr": {"lr_mult": 0.1}}},
            "no parameter has 'layr' in its name; did you mean layer",
        ),
        ({"custom_keys": {"layr.bias": {}}}, r"no parameter has 'layr\.bias' .*did you mean layer\.bias"),
        (
            {"custom_keys": {"layer": {"lr_mul": 0.1}}},
            r"custom_keys\['layer'\] has no option 'lr_mul'; .*lr_mult",
        ),
        ({"custom_keys": {"layer": 0.1}}, "expected a dict of dicts"),
        (
            {"custom_keys": {"layer": {"lr_mult": -1.0}}},
            r"\.lr_mult is -1\.0, expected a number of at least 0",
        ),
        ({"bias_lr_mult": "2"}, r"bias_lr_mult is '2', expected a number"),
        ({"flat_decay_mult": 0.0}, r"flat_decay_mult needs optim_wrapper\.optimizer\.weight_decay"),
        ({"norm_decay_mult": 0.0}, r"norm_decay_mult needs optim_wrapper\.optimizer\.weight_decay"),
    ],
)
def test_options_of_some_parameters_that_have_no_effect_are_refused(toy_train, options, message):
    cfg = toy_config(epochs=1)
    if "needs" in message:
        del cfg.optim_wrapper.optimizer["weight_decay"]
    cfg.optim_wrapper.paramwise_cfg = options
    with pytest.raises(UserError, match=f"^optim_wrapper.paramwise_cfg.*{message}") as raised:
        toy_train(cfg)
    assert "\n" not in str(raised.value)


def test_options_of_some_parameters(toy_train):
    """Names of other models, and mmseg's ``wd_mult``, are told; a group may have the optimizer's options."""
    cfg = toy_config(epochs=1)
    keys = {
        "layer.bias": {"lr_mult": 0.5, "momentum": 0.5},
        ".norm.": {},
        "absolute_pos_embed": {"decay_mult": 0, "wd_mult": 0.0},
    }
    cfg.optim_wrapper.paramwise_cfg = {"custom_keys": keys, "norm_decay_mult": None, "bypass_duplicate": True}
    runner, _ = toy_train(cfg)
    assert runner.optim_wrapper.param_groups[1]["momentum"] == 0.5
    (log,) = toy_train.folder().glob("*/*.log")
    told = [line for line in log.read_text().splitlines() if "no effect" in line]
    assert len(told) == 2
    assert "['absolute_pos_embed'] has no option 'wd_mult': it has no effect" in told[0]
    assert "custom_keys: no parameter has 'absolute_pos_embed' in its name: it has no effect" in told[1]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("backbonne", "backbone"),
        ("bacbone.stages.0", "backbone.stages.0"),
        ("backbone.stages.9", None),
        ("backbone.stages.1.norm", None),
        ("pos_block", None),
        ("layer5", None),
        ("reference_points", None),
    ],
)
def test_names_of_parameters_that_are_misspelt_and_those_of_other_models(key, meant):
    names = [".backbone.stages.0.bn1.weight", ".backbone.stages.1.bn1.bias", ".head.layer4.weight"]
    assert _misspelt(key, names) == meant


def test_constructors_of_other_programs_have_options_of_their_own(toy_train):
    wrapper = {"optimizer": {"type": "AdamW"}, "constructor": "mmdet.LearningRateDecayOptimizerConstructor"}
    require_paramwise(
        wrapper | {"paramwise_cfg": {"decay_rate": 0.7, "num_layers": 6}}, nn.Linear(1, 1), None
    )
    force = {
        "constructor": "ForceDefaultOptimWrapperConstructor",
        "paramwise_cfg": {"force_default_settings": True},
    }
    require_paramwise(wrapper | force, nn.Linear(1, 1), None)
