from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reference import assert_parity
from torch import nn

from hardnet_suite.networks import ARCHS, build_network, count_parameters, multiply_adds
from hardnet_suite.networks.descriptor import normalize_patches
from hardnet_suite.weights import convert_official

NAME, PS = "hardnet_descriptor", "hardnet_descriptor_ps"


def random_norms(network: nn.Module) -> nn.Module:
    """Running statistics (and weights, where there are any) as of a trained network: those of a batch."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            if layer.affine:
                nn.init.normal_(layer.weight, 1.0, 0.2)
                nn.init.normal_(layer.bias, 0.0, 0.2)
    with torch.no_grad():
        network.train()(torch.rand(64, 1, 32, 32))
    return network.eval()


def test_parity_with_the_original(golden):
    network = build_network(NAME).eval()
    network.load_state_dict(convert_official(NAME, golden.state_dict(NAME)), strict=True)
    with torch.inference_mode():
        out = network(golden.input(NAME))
    assert_parity(out, golden.outputs(NAME)["out"])


def test_keys_parameters_and_multiply_adds_are_the_originals(golden):
    network = build_network(NAME)
    keys = [(key, list(value.shape)) for key, value in network.state_dict().items()]
    assert keys == [(key, shape) for key, shape in golden.entries[NAME]["state_dict"]]
    assert count_parameters(network) == golden.entries[NAME]["params"]
    assert multiply_adds(network, (1, 1, 32, 32)) / 1e6 == pytest.approx(39.09, abs=5e-3)


def test_the_ps_network_has_biases_weighted_norms_and_no_norm_at_its_end():
    """Against the layers that its authors print beside the file."""
    layers, channels = [], 1
    for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        layers += [nn.Conv2d(channels, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    original = random_norms(nn.Sequential(*layers, nn.Conv2d(128, 128, 8)))
    state = {f"features.{key}": value for key, value in original.state_dict().items()}
    network = build_network(PS).eval()
    network.load_state_dict(convert_official(PS, state), strict=True)
    patches = torch.rand(5, 1, 32, 32)
    flat = patches.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-7)
    with torch.inference_mode():
        wanted = original(flat.view_as(patches)).flatten(1)
        wanted = wanted / (wanted.square().sum(1, keepdim=True) + 1e-10).sqrt()
        torch.testing.assert_close(network(patches), wanted)


@pytest.mark.parametrize("name", [NAME, PS])
def test_rows_have_unit_length_and_do_not_depend_on_brightness_or_contrast(name):
    torch.manual_seed(0)
    network = random_norms(build_network(name))
    patches = torch.rand(6, 1, 32, 32)
    with torch.inference_mode():
        out = network(patches)
        assert out.shape == (6, 128)
        torch.testing.assert_close(out.norm(dim=1), torch.ones(6))
        torch.testing.assert_close(network(0.4 * patches + 7), out, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(network(patches[2:3]), out[2:3], rtol=1e-4, atol=1e-5)
        assert (out[0] - out[1]).norm() > 0.1
        assert network(patches[:0]).shape == (0, 128)


def test_pixels_of_0_to_255_in_bytes_are_as_good():
    torch.manual_seed(0)
    network = random_norms(build_network(NAME))
    pixels = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(network(pixels), network(pixels / 255), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_constant_patch_has_a_finite_descriptor(dtype):
    network = random_norms(build_network(NAME)).to(dtype)
    with torch.inference_mode():
        out = network(torch.full((2, 1, 32, 32), 0.5, dtype=dtype))
    assert out.dtype == dtype
    assert torch.isfinite(out).all()
    assert normalize_patches(torch.full((1, 1, 32, 32), 0.5)).abs().max() == 0


def test_patches_are_normalised_one_by_one():
    out = normalize_patches(torch.randn(4, 1, 32, 32) * 30 + 100)
    torch.testing.assert_close(out.mean(dim=(1, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.std(dim=(1, 2, 3)), torch.ones(4))


def test_gradients_reach_every_layer():
    network = build_network(NAME).train()
    network(torch.rand(8, 1, 32, 32))[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 64, 64), (1, 32, 32), (2, 1, 32, 31)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"patches of shape \(N, 1, 32, 32\), got") as caught:
        build_network(NAME)(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_another_patch_and_length():
    arch = replace(ARCHS[NAME], patch=48, length=64, dropout=0.0)
    network = build_network(NAME, arch=arch, in_chans=3).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 48, 48)).shape == (2, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 10}, "has no classes, got num_classes=10; omit it"),
        ({"features_only": True}, "has no HarDNet trunk"),
        ({"arch": ARCHS["hardnet68"]}, "must be a DescriptorArch"),
        ({"in_chans": 0}, "in_chans=0"),
    ],
)
def test_what_it_does_not_have(options, message):
    with pytest.raises(ValueError, match=message):
        build_network(NAME, **options)
