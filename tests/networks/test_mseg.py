"""HarDNet-MSEG against an independent reading of its program (lib/HarDMSEG.py, lib/hardnet_68.py)."""

from __future__ import annotations

import pytest
import torch
from reference import assert_parity, formula_tensor
from torch import nn
from torch.nn import functional as F

from hardnet_suite import create_model
from hardnet_suite.networks import ARCHS, build_network
from hardnet_suite.networks.mseg import PartialDecoder
from hardnet_suite.weights import convert_official, identify, open_weights, to_official
from hardnet_suite.weights.convert import split_official

NAME = "hardnet_mseg"
# HarDNet-68 in the program: (growth, layers, transition, pooling after it)
STAGES = (
    (14, 8, 128, True),
    (16, 16, 256, False),
    (20, 16, 320, True),
    (40, 16, 640, True),
    (160, 4, 1024, False),
)
BRANCHES = ((), (3,), (5,), (7,))


class Reading:
    """The program's keys and shapes, unused ones too, and what it computes."""

    def __init__(self):
        self.state: dict[str, torch.Tensor] = {}
        self._layer("hardnet.base.0", 3, 32, (3, 3), norm="norm")
        self._layer("hardnet.base.1", 32, 64, (3, 3), norm="norm")
        self.plan, position, channels = [], 3, 64
        for growth, layers, width, pooled in STAGES:
            channels = self._block(position, channels, growth, layers)
            self._layer(f"hardnet.base.{position + 1}", channels, width, (1, 1), norm="norm")
            self.plan.append((position, layers, pooled))
            channels, position = width, position + 2 + pooled
        self._plain(f"hardnet.base.{position}.3", (1000, 1024))
        for level, channels in ((2, 320), (3, 640), (4, 1024)):
            self._field(f"rfb{level}_1", channels)
        for name, width in (
            *((f"conv_upsample{i}", 32) for i in range(1, 5)),
            ("conv_upsample5", 64),
            ("conv_concat2", 64),
            ("conv_concat3", 96),
            ("conv4", 96),
        ):
            self._layer(f"agg1.{name}", width, width, (3, 3))
        self._plain("agg1.conv5", (1, 96, 1, 1))
        self.used = set(self.state) - {f"hardnet.base.{position}.3.{leaf}" for leaf in ("weight", "bias")}
        for name, before, after, side in (
            *(("ra4_conv1", 1024, 256, 1), *((f"ra4_conv{i}", 256, 256, 5) for i in (2, 3, 4))),
            *(("ra4_conv5", 256, 1, 1), ("ra3_conv1", 640, 64, 1), ("ra3_conv2", 64, 64, 3)),
            *(("ra3_conv3", 64, 64, 3), ("ra3_conv4", 64, 1, 3), ("ra2_conv1", 320, 64, 1)),
            *(("ra2_conv2", 64, 64, 3), ("ra2_conv3", 64, 64, 3), ("ra2_conv4", 64, 1, 3)),
            *(("conv2", 320, 32, 1), ("conv3", 640, 32, 1), ("conv4", 1024, 32, 1), ("conv5", 1024, 1024, 3)),
        ):
            self._layer(name, before, after, (side, side))
        self._plain("conv6", (1, 1024, 1, 1))

    def _plain(self, name, shape):
        for leaf, size in (("weight", shape), ("bias", shape[:1])):
            self.state[f"{name}.{leaf}"] = formula_tensor(f"{name}.{leaf}", list(size))

    def _layer(self, name, before, after, kernel, norm="bn"):
        key = f"{name}.conv.weight"
        self.state[key] = formula_tensor(key, [after, before, *kernel])
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            key = f"{name}.{norm}.{leaf}"
            self.state[key] = formula_tensor(key, [] if leaf == "num_batches_tracked" else [after])

    @staticmethod
    def links(layer):
        return [layer - 2**n for n in range(10) if layer % 2**n == 0]

    def _block(self, position, channels, growth, layers):
        widths = [channels]
        for layer in range(1, layers + 1):
            width = float(growth)
            for _ in self.links(layer)[1:]:
                width *= 1.7
            widths.append(int(int(width + 1) / 2) * 2)
            before = sum(widths[i] for i in self.links(layer))
            self._layer(
                f"hardnet.base.{position}.layers.{layer - 1}", before, widths[-1], (3, 3), norm="norm"
            )
        return sum(widths[k] for k in range(1, layers + 1) if k % 2 or k == layers)

    def _field(self, name, channels):
        self._layer(f"{name}.branch0.0", channels, 32, (1, 1))
        for branch, side in enumerate((3, 5, 7), start=1):
            for place, (before, kernel) in enumerate(
                ((channels, (1, 1)), (32, (1, side)), (32, (side, 1)), (32, (3, 3)))
            ):
                self._layer(f"{name}.branch{branch}.{place}", before, 32, kernel)
        self._layer(f"{name}.conv_cat", 128, 32, (3, 3))
        self._layer(f"{name}.conv_res", channels, 32, (1, 1))

    def conv(self, name, x, stride=1, dilation=1, norm="bn"):
        weight = self.state[f"{name}.conv.weight"]
        padding = [dilation * (side // 2) for side in weight.shape[2:]]
        x = F.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation)
        statistics = (self.state[f"{name}.{norm}.{key}"] for key in ("running_mean", "running_var"))
        return F.batch_norm(
            x, *statistics, self.state[f"{name}.{norm}.weight"], self.state[f"{name}.{norm}.bias"]
        )

    def field(self, name, x):
        branches = [self.conv(f"{name}.branch0.0", x)]
        for branch, side in enumerate((3, 5, 7), start=1):
            y = x
            for place in range(4):
                y = self.conv(f"{name}.branch{branch}.{place}", y, dilation=side if place == 3 else 1)
            branches.append(y)
        return (
            self.conv(f"{name}.conv_cat", torch.cat(branches, 1)) + self.conv(f"{name}.conv_res", x)
        ).relu()

    def trunk(self, x):
        def relu6(name, x, stride=1):
            return self.conv(name, x, stride, norm="norm").clamp(0, 6)

        x = F.max_pool2d(relu6("hardnet.base.1", relu6("hardnet.base.0", x, 2)), 3, 2, 1)
        maps = []
        for position, layers, pooled in self.plan:
            outputs = [x]
            for layer in range(1, layers + 1):
                inputs = torch.cat([outputs[i] for i in self.links(layer)], 1)
                outputs.append(relu6(f"hardnet.base.{position}.layers.{layer - 1}", inputs))
            x = torch.cat([outputs[k] for k in range(1, layers + 1) if k % 2 or k == layers], 1)
            x = relu6(f"hardnet.base.{position + 1}", x)
            maps.append(x)
            x = F.max_pool2d(x, 2) if pooled else x
        return maps[2:]

    def __call__(self, images):
        def up(x):
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

        def agg(name, x):
            return self.conv(f"agg1.{name}", x)

        x2, x3, x4 = (self.field(f"rfb{i}_1", x) for i, x in zip((2, 3, 4), self.trunk(images), strict=True))
        x2_1 = agg("conv_upsample1", up(x4)) * x3
        x3_1 = agg("conv_upsample2", up(up(x4))) * agg("conv_upsample3", up(x3)) * x2
        x2_2 = agg("conv_concat2", torch.cat([x2_1, agg("conv_upsample4", up(x4))], 1))
        x3_2 = agg("conv_concat3", torch.cat([x3_1, agg("conv_upsample5", up(x2_2))], 1))
        x = F.conv2d(agg("conv4", x3_2), self.state["agg1.conv5.weight"], self.state["agg1.conv5.bias"])
        return F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def reading():
    return Reading()


@pytest.fixture(scope="module")
def network(reading):
    network = build_network(NAME).eval()
    network.load_state_dict(convert_official(NAME, reading.state), strict=True)
    return network


@pytest.mark.parametrize("size", [(96, 64), (64, 160)])
def test_the_outputs_are_those_of_the_published_program(reading, network, size):
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        out, expected = network(images), reading(images)
    assert out.shape == (2, 1, *size)
    assert_parity(out, expected)


def test_the_unused_parts_of_the_published_file_are_named(reading, network):
    converted, left = split_official(NAME, reading.state)
    assert left == []
    assert converted.keys() == network.state_dict().keys()
    back = to_official(NAME, converted)
    assert back.keys() == reading.used
    assert all(torch.equal(value, reading.state[key]) for key, value in back.items())


@pytest.mark.parametrize(
    "key", ["ra4_conv6.conv.weight", "conv7.conv.weight", "ra2_conv1x.conv.weight", "agg2.conv4"]
)
def test_other_keys_are_refused(reading, key):
    with pytest.raises(ValueError, match="not keys of the official hardnet_mseg"):
        convert_official(NAME, reading.state | {key: torch.zeros(1)})


@pytest.mark.parametrize("unused", [True, False])
def test_published_files_load(reading, network, tmp_path, unused):
    state = {key: value for key, value in reading.state.items() if unused or key in reading.used}
    found = identify(state)
    assert (found.model, found.form, found.num_classes) == (NAME, "official", 1)
    torch.save(state, tmp_path / "HarD-MSEG-best.pth")
    assert open_weights(tmp_path / "HarD-MSEG-best.pth").model == NAME
    loaded = create_model(NAME, pretrained=str(tmp_path / "HarD-MSEG-best.pth")).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("size", [(32, 32), (33, 95), (352, 352), (250, 323)])
@pytest.mark.parametrize("classes", [1, 3])
def test_any_size_and_number_of_classes(size, classes):
    with torch.device("meta"):
        network = build_network(NAME, num_classes=classes).eval()
        images = torch.empty(2, 3, *size)
        assert network(images).shape == (2, classes, *size)
        assert network.forward_head(images).shape[:2] == (2, classes)


@pytest.mark.parametrize("shape", [(1, 3, 31, 32), (1, 1, 64, 64), (3, 64, 64)])
def test_other_inputs_are_refused(shape):
    with torch.device("meta"), pytest.raises(ValueError, match="input"):
        build_network(NAME)(torch.empty(shape))


def test_the_decoder_takes_three_maps():
    with pytest.raises(ValueError, match="3 entries"):
        PartialDecoder(ARCHS[NAME], [320, 640])
    with torch.device("meta"), pytest.raises(ValueError, match="expected 3 maps, got 2"):
        PartialDecoder(ARCHS[NAME], [320, 640, 1024])([torch.zeros(1, 320, 8, 8)] * 2)


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = build_network(NAME)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_trunk_is_hardnet68s(network):
    assert network.trunk.strides == [8, 16, 32]
    assert network.trunk.channels == [320, 640, 1024]
    assert sum(isinstance(m, nn.ReLU6) for m in network.trunk.modules()) == 68 - 1
