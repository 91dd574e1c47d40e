"""Counts that need no arithmetic: multiply-adds and CIO."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hardnet_suite.networks import ARCHS, build_network, convolutional_io, multiply_adds


class Functional(nn.Module):
    """Two convolutions that are not modules: a plain one, and a transposed one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
        self.up = nn.Parameter(torch.zeros(8, 2, 2, 2))

    def forward(self, x):
        return F.conv_transpose2d(F.conv2d(x, self.weight), self.up, stride=2)


@pytest.mark.parametrize(
    ("network", "shape", "elements"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 5, 7), 3 * 35 + 8 * 35),
        (nn.Conv2d(3, 8, 3, stride=2), (1, 3, 9, 9), 3 * 81 + 8 * 16),
        (nn.Conv2d(4, 8, 3, groups=4, padding=1), (1, 4, 5, 7), 4 * 35 + 8 * 35),
        (nn.Conv2d(3, 8, 1), (5, 3, 2, 2), 5 * (3 + 8) * 4),
        (
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)),
            (1, 3, 4, 4),
            (3 + 8 + 8 + 2) * 16,
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (1, 3, 2, 2), 0),
        (Functional(), (1, 3, 5, 5), (3 * 25 + 8 * 9) + (8 * 9 + 2 * 36)),
    ],
)
def test_cio_of_hand_counted_layers(network, shape, elements):
    assert convolutional_io(network, shape) == elements


def cio_by_hooks(network: nn.Module, shape: tuple[int, ...]) -> int:
    sizes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, inputs, output: sizes.append(inputs[0].numel() + output.numel())
            )
    with torch.no_grad(), torch.device("meta"):
        network(torch.zeros(shape))
    return sum(sizes)


@pytest.mark.parametrize(
    "name",
    [
        "hardnet68",
        "hardnet39ds",
        "ssd224_hardnet29",
        "centernet_hardnet68",
        "fchardnet70",
        "hardnet_descriptor",
    ],
)
def test_cio_of_every_kind_of_model_is_what_its_layers_see(name):
    side = getattr(ARCHS[name], "size", 64) if "descriptor" not in name else 32
    shape = (2, 1 if "descriptor" in name else 3, side, side)
    with torch.device("meta"):
        network = build_network(name).eval()
    counted = convolutional_io(network, shape)
    assert counted == cio_by_hooks(network, shape) > 0


def test_hardnet68_moves_about_half_of_resnet50():
    """The claim of the paper's title, in its own measure."""
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        ours, theirs = build_network("hardnet68"), models.resnet50()
    shape = (1, 3, 224, 224)
    assert convolutional_io(ours, shape) / convolutional_io(theirs, shape) == pytest.approx(0.527, abs=1e-3)
    assert multiply_adds(theirs, shape) == 4_089_184_256


def test_counting_leaves_the_network_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train()
    network[2].eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    for count in (multiply_adds, convolutional_io):
        count(network, (1, 3, 4, 4))
    assert [module.training for module in network] == [True, True, False]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_counts_do_not_depend_on_the_precision():
    single, half = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3).bfloat16()
    for count in (multiply_adds, convolutional_io):
        assert count(single, (1, 3, 9, 9)) == count(half, (1, 3, 9, 9)) > 0
