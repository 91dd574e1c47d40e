from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_parity
from tiny_networks import as_trained
from torch import nn

from hardnet_suite.networks import ARCHS, build_network, count_parameters, multiply_adds
from hardnet_suite.networks.descriptor import normalize_locally, normalize_patches
from hardnet_suite.weights import convert_official

NAME, PS, EIGHT = "hardnet_descriptor", "hardnet_descriptor_ps", "hardnet8_descriptor"
NAMES = [NAME, PS, EIGHT]


def random_norms(network: nn.Module) -> nn.Module:
    return as_trained(network, (64, 1, 32, 32))


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


@pytest.mark.parametrize("name", NAMES)
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


def test_no_patches_have_no_descriptors(recwarn):
    for network in (build_network(NAME).eval(), torch.jit.script(build_network(NAME).eval())):
        recwarn.clear()
        assert network(torch.rand(0, 1, 32, 32)).shape == (0, 128)
        assert not recwarn.list


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


@pytest.mark.parametrize("stride", [2, 1])
def test_the_dense_form_is_the_originals(golden, stride):
    network = build_network(NAME).eval()
    network.load_state_dict(golden.state_dict(NAME))
    arrays = {
        key: torch.from_numpy(value)
        for key, value in golden.arrays("functions.npz").items()
        if "dense" in key
    }
    with torch.inference_mode():
        out = network.dense(arrays["dense_in"], stride=stride)
    assert out.shape == ((1, 128, 11, 17) if stride == 2 else (1, 128, 65, 89))
    step = 1 if stride == 2 else 4  # the reference holds every 4th row and column
    assert_parity(out[..., ::step, ::step], arrays[f"dense_out_stride{stride}"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stride", [2, 1])
def test_a_dense_descriptor_is_that_of_a_locally_normalised_window(name, stride):
    """Away from the border; for stride 1 with a network whose convolutions are not strided."""
    torch.manual_seed(0)
    network = random_norms(build_network(name)).double()
    image = torch.rand(2, 1, 41, 44, dtype=torch.float64) * 255
    step = 4 if stride == 2 else 1
    row, column = 2, 3
    with torch.inference_mode():
        dense = network.dense(image, stride=stride)
        local = normalize_locally(image)
        # a wide window for the convolutions before the last, then what the last one sees
        x = local
        for layer in network.features[:-1] if name == PS else network.features[:-2]:
            if isinstance(layer, nn.Conv2d):
                layer.stride = tuple(min(each, stride) for each in layer.stride)
            x = layer(x)
        x = x[..., row : row + 8, column : column + 8]
        for layer in network.features[-1:] if name == PS else network.features[-2:]:
            x = layer(x)
        expected = network._to_unit_length(x)[..., 0, 0]
    assert dense.shape[2:] == (-(-41 // step) - 7, -(-44 // step) - 7)
    torch.testing.assert_close(dense[..., row, column], expected)
    torch.testing.assert_close(dense.norm(dim=1), torch.ones(2, *dense.shape[2:], dtype=torch.float64))


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(29, 60),
    width=st.integers(29, 60),
    stride=st.sampled_from([1, 2]),
    channels=st.integers(1, 2),
)
def test_the_dense_form_takes_any_size_and_images_one_by_one(height, width, stride, channels):
    torch.manual_seed(0)
    layers = ((8, 1), (8, 2), (8, 2))
    network = build_network(NAME, arch=replace(ARCHS[NAME], layers=layers), in_chans=channels).eval()
    images = torch.randint(0, 256, (3, channels, height, width), dtype=torch.uint8)
    with torch.inference_mode():
        out = network.dense(images, stride=stride)
        single = torch.cat([network.dense(image[None], stride=stride) for image in images])
    down = 4 if stride == 2 else 1
    assert out.shape == (3, 128, -(-height // down) - 7, -(-width // down) - 7)
    torch.testing.assert_close(out, single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "least"), [(2, 29), (1, 9)])
def test_the_smallest_image_of_the_dense_form(stride, least):
    network = build_network(NAME).eval()
    with torch.inference_mode():
        out = network.dense(torch.rand(1, 1, least, least + 4), stride=stride)
    assert out.shape[2] == (1 if stride == 2 else 2)
    for height, width in ((least - 1, 64), (64, least - 1), (0, 64)):
        with pytest.raises(ValueError, match=f"H and W at least {least} with stride={stride}, got") as caught:
            network.dense(torch.rand(1, 1, height, width), stride=stride)
        assert f"(1, 1, {height}, {width})" in str(caught.value)


@pytest.mark.parametrize(
    ("image", "stride", "message"),
    [
        (torch.zeros(1, 3, 64, 64), 2, r"shape \(N, 1, H, W\), H and W at least 29"),
        (torch.zeros(64, 64), 2, r"got \(64, 64\)"),
        (torch.zeros(1, 1, 64, 64), 4, "stride must be 1 or 2, got 4"),
        (torch.zeros(1, 1, 64, 64), True, "stride must be 1 or 2, got True"),
    ],
)
def test_what_the_dense_form_refuses(image, stride, message):
    with pytest.raises(ValueError, match=message):
        build_network(NAME).dense(image, stride=stride)


def test_no_dense_form_of_other_strides():
    network = build_network(NAME, arch=replace(ARCHS[NAME], layers=((8, 1), (8, 4))))
    with pytest.raises(ValueError, match=r"strides \[1, 4\]; expected 1 and 2"):
        network.dense(torch.zeros(1, 1, 64, 64))


def test_the_local_normalisation_by_hand():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 31)).astype(float)
    image[:3, :3] = 2000  # a corner that reaches the limit
    padded = np.pad(image, 8, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (17, 17))
    expected = np.clip((image - windows.mean((2, 3))) / windows.std((2, 3)), -6, 6)
    out = normalize_locally(torch.from_numpy(image)[None, None])[0, 0]
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-9, atol=1e-9)
    out = normalize_locally(torch.from_numpy(image)[None, None].float())
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out[0, 0].numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 37.3, 255.0])
def test_flat_areas_of_an_image_are_zeros_and_have_finite_descriptors(value):
    """In float32 the difference of mean squares would be noise, and its root far above 0."""
    image = torch.full((1, 1, 40, 70), value)
    assert normalize_locally(image).abs().max() < 1e-2
    image[..., 40:] = torch.rand(30) * 255
    assert normalize_locally(image)[..., :30].abs().max() < 1e-2
    network = random_norms(build_network(NAME))
    image.requires_grad_()
    out = network.dense(image)
    assert torch.isfinite(out).all()
    out.square().mean().backward()
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dense_form_in_other_precisions(dtype):
    torch.manual_seed(0)
    network = random_norms(build_network(NAME))
    image = torch.rand(1, 1, 40, 48) * 255
    with torch.inference_mode():
        expected = network.dense(image)
        out = network.to(dtype).dense(image)
    assert out.dtype == dtype
    assert (out.float() * expected).sum(dim=1).min() > 0.99


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_torchscript(name, tmp_path):
    torch.manual_seed(0)
    network = random_norms(build_network(name))
    network.chunk = 2
    patches = torch.rand(5, 1, 32, 32)
    scripted = torch.jit.script(network)
    traced = torch.jit.trace(network, patches[:2])
    torch.jit.save(scripted, tmp_path / "descriptor.pt")
    loaded = torch.jit.load(tmp_path / "descriptor.pt")
    with torch.inference_mode():
        expected = network(patches)
        for module in (scripted, traced, loaded):
            torch.testing.assert_close(module(patches), expected, rtol=1e-4, atol=1e-5)
        assert loaded(patches[:0]).shape == (0, 128)
    with pytest.raises(torch.jit.Error, match=r"patches of shape \(N, 1, 32, 32\), got \(2, 3, 32, 32\)"):
        loaded(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("name", NAMES)
def test_many_patches_are_computed_in_chunks_without_gradients(name, monkeypatch):
    torch.manual_seed(0)
    network = random_norms(build_network(name))
    sizes = []
    hook = network.features.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    network.chunk = 4
    patches = torch.rand(10, 1, 32, 32)
    with torch.inference_mode():
        chunked = network(patches)
        assert network(patches[:4]).shape == (4, 128)
    assert sizes == [4, 4, 2, 4]
    with_gradients = network(patches)
    network.train()(patches)
    assert sizes[4:] == [10, 10]
    hook.remove()
    torch.testing.assert_close(chunked, with_gradients.detach(), rtol=1e-4, atol=1e-5)


def test_features_of_zero_have_a_zero_descriptor_in_every_precision():
    network = build_network(NAME).eval()  # initial statistics: a constant patch stays zero
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        with torch.inference_mode():
            assert network.to(dtype)(torch.full((2, 1, 32, 32), 0.3)).abs().max() == 0


def test_autocast_leaves_unit_rows_in_float32():
    network = random_norms(build_network(NAME))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        out = network(torch.rand(3, 1, 32, 32))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(("name", "theirs"), [(NAME, "HardNet"), (EIGHT, "HardNet8")])
def test_kornia_has_the_same_network_and_keys(name, theirs):
    features = pytest.importorskip("kornia.feature")
    torch.manual_seed(0)
    other = random_norms(getattr(features, theirs)(pretrained=False))
    if name == EIGHT:
        other.components.copy_(torch.randn(512, 128) / 20)
        other.mean.copy_(torch.randn(512) / 20)
    network = build_network(name).eval()
    assert list(network.state_dict()) == list(other.state_dict())
    network.load_state_dict(convert_official(name, other.state_dict()), strict=True)
    patches = torch.rand(5, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network(patches), other(patches), rtol=1e-4, atol=1e-5)


def test_the_pca_centres_and_projects_unit_features():
    torch.manual_seed(0)
    network = random_norms(build_network(EIGHT))
    patches = torch.rand(4, 1, 32, 32)
    with torch.inference_mode():
        features = network.features(normalize_patches(patches)).flatten(1)
        unit = features / features.norm(dim=1, keepdim=True)
        untrained = unit[:, :128] / unit[:, :128].norm(dim=1, keepdim=True)
        torch.testing.assert_close(network(patches), untrained)
        network.mean.copy_(unit.mean(0))
        network.components.copy_(torch.linalg.qr(torch.randn(512, 128)).Q)
        projected = (unit - network.mean) @ network.components
        expected = projected / projected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(network(patches), expected, rtol=1e-4, atol=1e-5)


def test_the_layers_of_hardnet8():
    with torch.device("meta"):
        network = build_network(EIGHT)
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.stride[0], c.kernel_size[0]) for c in convolutions] == [
        (32, 1, 3), (32, 1, 3), (64, 2, 3), (64, 1, 3), (128, 2, 3), (128, 1, 3), (256, 1, 3), (512, 1, 8),
    ]  # fmt: skip
    buffers = {key: tuple(value.shape) for key, value in network.named_buffers() if "." not in key}
    assert buffers == {"components": (512, 128), "mean": (512,)}
    assert not {"components", "mean"} & build_network(NAME).state_dict().keys()
