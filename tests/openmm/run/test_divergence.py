"""A training that diverges ends with one line; its checkpoints stay the last good ones."""

from __future__ import annotations

import json

import pytest
import torch
from toy_runs import toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.weights.tables import non_finite

EMA = {"type": "EMAHook", "momentum": 0.5}


def spoilt(spoil, at, value=float("nan"), **changes):
    cfg = toy_config(epochs=4, **changes)
    cfg.model.update(spoil=spoil, spoil_at=at, value=value)
    cfg.custom_hooks = [*cfg.custom_hooks, EMA]
    return cfg


def checkpoints(folder):
    return {path.name: torch.load(path, weights_only=False) for path in folder.glob("*.pth")}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    ("spoil", "at", "message"),
    [
        ("loss", 0, r"diverged at epoch 1, iteration 1: .*loss_bad is .*no checkpoint has been saved yet"),
        ("loss", 9, r"diverged at epoch 3, iteration 10: .*loss_bad is .*good checkpoint is .*epoch_2\.pth"),
        ("loss", 11, r"epoch 3, iteration 12: .*epoch_2\.pth"),
        ("gradient", 8, r"epoch 3, iteration 10: loss.* is nan.*epoch_2\.pth"),
        ("gradient", 11, r"the model after iteration 12: \d weights? holds? NaN or infinity, layer.weight"),
        ("buffer", 11, r"the model after iteration 12: 1 weight holds NaN or infinity, seen"),
    ],
)
def test_it_ends_at_once_and_keeps_the_last_good_checkpoint(toy_train, value, bf16, spoil, at, message):
    with pytest.raises(UserError, match=message) as error:
        toy_train(spoilt(spoil, at, value), bf16=bf16)
    assert "\n" not in str(error.value)
    saved = checkpoints(toy_train.folder())
    assert sorted(saved) == ([] if at == 0 else ["epoch_1.pth", "epoch_2.pth"])
    for content in saved.values():
        for part in ("state_dict", "ema_state_dict"):
            assert non_finite(content[part]) == []
    for log in toy_train.folder().glob("*/vis_data/scalars.json"):
        for line in log.read_text().splitlines():
            json.loads(line, parse_constant=lambda constant: pytest.fail(constant))


def test_only_the_terms_that_are_not_finite_are_named(toy_train):
    with pytest.raises(UserError) as error:
        toy_train(spoilt("loss", 2, float("inf")))
    assert "loss is inf, loss_bad is inf" in str(error.value)
    assert "loss_good" not in str(error.value)
    assert "accuracy" not in str(error.value)


def test_within_an_epoch_nothing_bad_is_saved(toy_train):
    cfg = spoilt("gradient", 2)
    cfg.default_hooks.checkpoint.every_iters = 1
    with pytest.raises(UserError, match="the model after iteration"):
        toy_train(cfg)
    ((name, content),) = checkpoints(toy_train.folder()).items()
    assert name == "iter_2.pth"
    assert non_finite(content["state_dict"]) == []


@pytest.mark.parametrize("way", ["resume", "load_from"])
def test_bad_weights_are_no_start(toy_train, tmp_path, way):
    toy_train(toy_config())
    path = toy_train.folder() / "epoch_2.pth"
    content = torch.load(path, weights_only=False)
    content["state_dict"]["layer.bias"][1] = float("inf")
    torch.save(content, path)
    options = {"resume": str(path)} if way == "resume" else {}
    cfg = toy_config(epochs=3, **({"load_from": str(path)} if way == "load_from" else {}))
    with pytest.raises(UserError, match=r"epoch_2\.pth: 1 weight holds NaN or infinity, layer.bias"):
        toy_train(cfg, **options)


def test_figures_that_are_not_numbers_are_null_in_the_log(tmp_path):
    from hardnet_suite.openmm.run.runner import StrictJsonVisBackend

    backend = StrictJsonVisBackend(str(tmp_path))
    backend.add_scalars({"mAP": float("nan"), "loss": float("inf"), "lr": 0.1, "iter": 3}, step=3)
    (line,) = (tmp_path / "scalars.json").read_text().splitlines()
    assert json.loads(line) == {"mAP": None, "loss": None, "lr": 0.1, "iter": 3, "step": 3}
