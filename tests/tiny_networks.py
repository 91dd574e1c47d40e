"""Networks of each task, small enough to be converted in a second, with statistics as of trained ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from hardnet_suite.networks import ARCHS, HarDNetArch, SSDArch, build_network
from hardnet_suite.networks.arch import (
    Arch,
    Bridge,
    CenterNetArch,
    CenterNetStep,
    Extra,
    FCHarDNetArch,
    Field,
    Priors,
    Stage,
)

_TRUNK = HarDNetArch(
    stem=(4, 6),
    stages=(
        Stage(4, 2, 8, downsample=True),
        Stage(4, 4, 12, downsample=True),
        Stage(4, 2, 12, downsample=True),
        Stage(4, 2, 16),
    ),
    act="relu",
    first_pool_ceil=True,
)
# name of a model -> a row of its kind
TINY: dict[str, Arch] = {
    "hardnet68": replace(_TRUNK, act="relu6", num_classes=5),
    "hardnet39ds": replace(_TRUNK, act="relu6", num_classes=5, depthwise=True),
    "fchardnet70": FCHarDNetArch(
        trunk=replace(_TRUNK, pool="average", first_pool_ceil=False, stem_down=(8, 8)),
        last_channels=16,
        num_classes=4,
    ),
    "ssd512_hardnet68": SSDArch(
        trunk=replace(_TRUNK, stages=_TRUNK.stages[:-1]),
        size=64,
        bridge=Bridge(mid=8, out=8, dilation=2),
        extras=(Extra(4, 8),),
        priors=Priors(sizes=(6.0, 12.0, 24.0, 60.0), ratios=((2,), (2, 3), (2,)), strides=(8, 16, 32)),
        num_classes=3,
    ),
    "rfb512_hardnet68": SSDArch(
        trunk=replace(_TRUNK, stages=tuple(replace(stage, channels=16) for stage in _TRUNK.stages[:-1])),
        size=64,
        bridge=Bridge(mid=8, out=16, dilation=2),
        fields=(12, 16),
        l2norm_scale=None,
        extras=(Field(16, reach=1), Extra(4, 8, kernel=2, stride=1, padding=0, norm=True)),
        priors=Priors(
            sizes=(6.0, 12.0, 24.0, 40.0, 60.0), ratios=((2,), (2, 3), (2,), (2,)), strides=(8, 16, 32, 64)
        ),
        num_classes=3,
    ),
    "centernet_hardnet68": CenterNetArch(
        trunk=replace(_TRUNK, pool="average"),
        last=CenterNetStep(channels=12, growth=4, layers=4, skip=False),
        steps=(
            CenterNetStep(channels=12, growth=4, layers=2, shortcut=4),
            CenterNetStep(channels=8, growth=4, layers=2),
            CenterNetStep(channels=8, growth=4, layers=2),
        ),
        least_width=8,
        num_classes=3,
    ),
}
SIDES = {
    "hardnet68": 64,
    "hardnet39ds": 64,
    "fchardnet70": 96,
    "ssd512_hardnet68": 64,
    "rfb512_hardnet68": 64,
    "centernet_hardnet68": 64,
}


def tiny(name: str) -> nn.Module:
    """A network of that kind in eval mode, always the same."""
    torch.manual_seed(0)
    network = build_network(name, arch=TINY.get(name, ARCHS[name]))
    return as_trained(network, (8, 3, SIDES[name], SIDES[name]) if name in SIDES else None)


def as_trained(network: nn.Module, shape: tuple[int, ...] | None) -> nn.Module:
    """The network in eval mode, with batch norms as of a trained one.

    Args:
        network: Changed in place.
        shape: Of a batch of random images, whose statistics become the running ones; None: they stay.
    """
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            if layer.affine:
                nn.init.normal_(layer.weight, 1.0, 0.2)
                nn.init.normal_(layer.bias, 0.0, 0.2)
    if shape is not None:
        with torch.no_grad():
            network.train()(torch.rand(shape))
    return network.eval()
