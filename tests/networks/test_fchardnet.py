from __future__ import annotations

import pytest
import torch
from reference import assert_parity
from torch import nn
from torch.nn import functional as F

from hardnet_suite.networks import ARCHS, build_network, count_parameters, multiply_adds
from hardnet_suite.networks.fchardnet import FCHarDNetDecoder
from hardnet_suite.weights import convert_official

NAME = "fchardnet70"


@pytest.fixture(scope="module")
def network():
    """Random weights and norm statistics, in eval mode; tests must not change it."""
    torch.manual_seed(0)
    network = build_network(NAME, num_classes=5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def test_outputs_are_the_official_ones(golden):
    network = build_network(NAME).eval()
    network.load_state_dict(convert_official(NAME, golden.state_dict(NAME)), strict=True)
    with torch.inference_mode():
        out = network(golden.input(NAME))
    assert count_parameters(network) == golden.entries[NAME]["params"]
    assert_parity(out, golden.outputs(NAME)["out"])


def test_multiply_adds_are_the_official_ones():
    with torch.device("meta"):
        network = build_network(NAME)
    assert multiply_adds(network, (1, 3, 1024, 2048)) / 1e9 == pytest.approx(35.22, abs=0.006)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (360, 480), (127, 64), (1024, 2048)])
@pytest.mark.parametrize("classes", [1, 11, 19])
def test_odd_sizes_and_any_number_of_classes(size, classes):
    with torch.device("meta"):
        network = build_network(NAME, num_classes=classes).eval()
        images = torch.empty(2, 3, *size)
        assert network(images).shape == (2, classes, *size)
        quarter = (-(-size[0] // 4), -(-size[1] // 4))
        assert network.forward_head(images).shape == (2, classes, *quarter)


def test_the_output_is_the_head_enlarged(network):
    images = torch.randn(1, 3, 72, 101)
    with torch.inference_mode():
        head = network.forward_head(images)
        expected = F.interpolate(head, size=(72, 101), mode="bilinear", align_corners=True)
        assert torch.equal(network(images), expected)


def test_a_batch_is_its_images(network):
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        together = network(images)
        for i in range(2):
            torch.testing.assert_close(together[i : i + 1], network(images[i : i + 1]), rtol=1e-4, atol=1e-4)


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = build_network(NAME, num_classes=3)
    network(torch.randn(2, 3, 64, 128)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3, 63, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_other_inputs_are_refused(shape):
    with torch.device("meta"), pytest.raises(ValueError, match="input"):
        build_network(NAME)(torch.empty(shape))


def test_the_decoder_asks_for_its_maps():
    with pytest.raises(ValueError, match="5 entries"):
        FCHarDNetDecoder(ARCHS[NAME], [48, 78, 160])


@pytest.mark.parametrize("count", [3, 6])
def test_the_decoder_takes_one_map_per_stage(network, count):
    maps = [torch.zeros(1, 1, 4, 4)] * count
    with pytest.raises(ValueError, match=rf"expected \d maps, got {count}"):
        network.decoder(maps)
