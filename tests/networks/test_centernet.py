from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reference import assert_parity
from torch import nn

from hardnet_suite.networks import ARCHS, CenterNetArch, build_network, count_parameters, multiply_adds
from hardnet_suite.networks.centernet import HM_BIAS, CenterNetDecoder, ContextConcat
from hardnet_suite.weights import convert_official

NAMES = [name for name, row in ARCHS.items() if isinstance(row, CenterNetArch)]


@pytest.mark.parametrize("name", ["centernet_hardnet68", "centernet_hardnet85"])
def test_outputs_are_the_official_ones(golden, name):
    network = build_network(name).eval()
    network.load_state_dict(convert_official(name, golden.state_dict(name)), strict=True)
    with torch.inference_mode():
        out = network(golden.input(name))
    assert count_parameters(network) == golden.entries[name]["params"]
    assert out.keys() == {"hm", "wh", "reg"}
    for part, reference in golden.outputs(name).items():
        assert_parity(out[part], reference)


@pytest.mark.parametrize(("name", "count"), [("centernet_hardnet68", 46.91), ("centernet_hardnet85", 87.72)])
def test_multiply_adds_are_the_official_ones(name, count):
    with torch.device("meta"):
        network = build_network(name)
    assert multiply_adds(network, (1, 3, 512, 512)) / 1e9 == pytest.approx(count, abs=0.006)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 32), (64, 160), (512, 544), (608, 608)])
@pytest.mark.parametrize("classes", [1, 3, 80])
def test_any_multiple_of_32_and_any_number_of_classes(name, size, classes):
    with torch.device("meta"):
        out = build_network(name, num_classes=classes).eval()(torch.empty(2, 3, *size))
    height, width = size[0] // 4, size[1] // 4
    assert out["hm"].shape == (2, classes, height, width)
    assert out["wh"].shape == out["reg"].shape == (2, 2, height, width)


@pytest.mark.parametrize("shape", [(1, 3, 64, 40), (1, 3, 31, 64), (1, 4, 64, 64), (3, 64, 64)])
def test_other_inputs_are_refused(shape):
    with torch.device("meta"), pytest.raises(ValueError, match="multiples of 32"):
        build_network("centernet_hardnet68")(torch.empty(shape))


def test_the_branches_follow_their_outputs():
    """Width max(128, 4·out); a fresh network says 0.1 nearly everywhere."""
    for classes, width in ((80, 320), (32, 128), (33, 132), (3, 128)):
        with torch.device("meta"):
            network = build_network("centernet_hardnet68", num_classes=classes)
        assert network.hm[0].out_channels == width
        assert network.wh[0].out_channels == 128
        assert network.wh[2].out_channels == 4
    torch.manual_seed(0)
    network = build_network("centernet_hardnet68", num_classes=2).eval()
    assert torch.equal(network.hm[2].bias, torch.full((2,), HM_BIAS))
    with torch.inference_mode():
        out = network(torch.randn(1, 3, 64, 64))
    assert out["hm"].sigmoid().sub(0.1).abs().max() < 0.05
    assert out["wh"].abs().max() < 1


def test_context_is_the_map_its_surroundings_and_its_share():
    x = torch.rand(2, 3, 12, 10) + 0.5
    out = ContextConcat()(x)
    assert torch.equal(out[:, :3], x)
    torch.testing.assert_close(out[:, 3:6, 5, 5], x[:, :, 1:10, 1:10].mean((2, 3)))
    # in the corner 25 pixels of the 81 are there; the zeros beyond the border count
    torch.testing.assert_close(out[:, 3:6, 0, 0], x[:, :, :5, :5].sum((2, 3)) / 81)
    torch.testing.assert_close(out[:, 6:], x / (x.sum((2, 3), keepdim=True) + 0.1))


def test_context_in_half_precision_sums_in_single():
    x = torch.full((1, 1, 64, 64), 100.0, dtype=torch.float16)  # the sum, 409600, is over float16's range
    share = ContextConcat()(x)[:, 2:]
    assert share.dtype == torch.float16
    expected = torch.full((1, 1, 64, 64), 100 / 409600.1)
    torch.testing.assert_close(share.float(), expected, rtol=0.01, atol=0)


def test_every_parameter_learns():
    torch.manual_seed(0)
    row = ARCHS["centernet_hardnet68"]
    network = build_network("centernet_hardnet68", num_classes=2, arch=_thin(row))
    out = network(torch.randn(2, 3, 64, 64))
    sum(value.square().mean() for value in out.values()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_batch_is_its_images():
    torch.manual_seed(0)
    network = build_network("centernet_hardnet68", num_classes=2, arch=_thin(ARCHS["centernet_hardnet68"]))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    network.eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        together = network(images)
        for i in range(2):
            alone = network(images[i : i + 1])
            for key in together:
                torch.testing.assert_close(together[key][i : i + 1], alone[key], rtol=1e-4, atol=1e-4)


def test_the_decoder_asks_for_its_maps():
    with pytest.raises(ValueError, match="2 entries"):
        CenterNetDecoder(ARCHS["centernet_hardnet68"], [10, 20, 30])


def _thin(row: CenterNetArch) -> CenterNetArch:
    """The same form with few channels."""
    stages = tuple(replace(stage, growth=4, layers=4, channels=16) for stage in row.trunk.stages)
    return replace(
        row,
        trunk=replace(row.trunk, stem=(4, 8), stages=stages),
        last=replace(row.last, channels=8, growth=4, layers=4),
        steps=tuple(
            replace(step, channels=12, growth=4, layers=4, shortcut=min(step.shortcut, 4))
            for step in row.steps
        ),
        least_width=8,
    )
