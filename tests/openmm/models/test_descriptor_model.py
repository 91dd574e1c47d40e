"""The patch descriptor as an mmengine model: the network's descriptors, the original's losses."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS
from toy_runs import assert_identical

import hardnet_suite.openmm  # noqa: F401  (registers the model)
from hardnet_suite.errors import UserError
from hardnet_suite.losses import global_orthogonal_regularization, hardest_in_batch_loss
from hardnet_suite.networks import ARCHS, DescriptorArch, build_network
from hardnet_suite.weights import identify, to_official

NAMES = [name for name, arch in ARCHS.items() if isinstance(arch, DescriptorArch)]


def build(arch: str = "hardnet_descriptor", **options):
    torch.manual_seed(0)
    return MODELS.build({"type": "PatchDescriptorModel", "arch": arch, **options})


@pytest.fixture(scope="module")
def pairs():
    return torch.rand(4, 2, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_known_by_their_keys_and_load_in_every_form(name):
    model, network = build(name), build_network(name)
    found = identify(model.state_dict())
    assert (found.model, found.form) == (name, "mmengine")
    for state in (network.state_dict(), to_official(name, network.state_dict())):
        model.load_state_dict(state)
        assert_identical(dict(model.network.state_dict()), dict(network.state_dict()))


@pytest.mark.parametrize("options", [{}, {"orthogonality": 0.5, "margin": 0.7, "anchor_swap": False}])
def test_losses_are_those_of_the_two_halves(pairs, options):
    model = build(**options).train()
    model.network.features[-3].p = 0.0  # no dropout
    losses = model(pairs, mode="loss")
    anchors, positives = (model.network(pairs[:, k : k + 1]) for k in (0, 1))
    triplet = hardest_in_batch_loss(
        anchors, positives, options.get("anchor_swap", True), options.get("margin", 1.0)
    )
    torch.testing.assert_close(losses["loss_triplet"], triplet)
    if not options:
        assert losses.keys() == {"loss_triplet"}
        return
    others = positives[[3, 0, 1, 2]]
    expected = 0.5 * global_orthogonal_regularization(anchors, others)
    torch.testing.assert_close(losses["loss_orthogonality"], expected)


def test_predictions_are_distances(pairs):
    model = build().eval()
    with torch.inference_mode():
        rows = model(pairs, torch.tensor([1, 0, 1, 0]), [(0, k, k + 1) for k in range(4)], mode="predict")
        first, second = (model(pairs[:, k : k + 1]) for k in (0, 1))
    distances = (first - second).norm(dim=1)
    assert [row["distance"] for row in rows] == pytest.approx(distances.tolist())
    assert [row["label"] for row in rows] == [1, 0, 1, 0]
    assert rows[2]["name"] == (0, 2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -1}, "margin must be"),
        ({"margin": "wide"}, "real number|margin"),
        ({"loss_type": "softmax", "margin": 0.5}, "margin=0.5 has no effect with loss_type='softmax'"),
        ({"loss_type": "foo"}, "unknown loss_type 'foo'"),
        ({"batch_reduce": "max"}, "unknown batch_reduce"),
        ({"anchor_swap": 1}, "anchor_swap must be"),
        *(({"orthogonality": value}, r"model\.orthogonality") for value in (-1, float("nan"), "abc", True)),
    ],
)
def test_options_are_checked_when_the_model_is_built(options, message):
    with pytest.raises(UserError, match=message):
        MODELS.build({"type": "PatchDescriptorModel", "arch": "hardnet_descriptor", **options})
