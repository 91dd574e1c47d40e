"""The choice of the precision by timed steps."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import precision
from hardnet_suite.openmm.run.configs import load_config


@pytest.mark.parametrize(
    ("name", "size", "images"),
    [("demo_ssd224_shapes", 224, 3), ("hardnet39ds_tiny_imagenet10", 64, 8)],
)
def test_a_step_is_one_of_the_configs(name, size, images, monkeypatch):
    cfg, seen = load_config(name), []
    if name.startswith("demo"):
        cfg.train_dataloader.batch_size = images
    create = precision.build_network

    def spied(*args):
        network = create(*args)
        network.register_forward_pre_hook(
            lambda module, inputs: seen.append((tuple(inputs[0].shape), torch.is_autocast_enabled("cpu")))
        )
        return network

    monkeypatch.setattr(precision, "build_network", spied)
    seconds = precision.seconds_of_a_step(cfg, steps=1)
    assert all(0 < value < float("inf") for value in seconds)
    assert seen == [((images, 3, size, size), bf16) for bf16 in (False, True)] * 2


def test_networks_of_others_are_told():
    with pytest.raises(UserError, match="--precision auto times the networks of the suite"):
        precision.seconds_of_a_step(Config({"model": {"type": "RetinaNet"}}))
