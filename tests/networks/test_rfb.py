"""RFB Net against an independent reading of its programs (models/RFB_HarDNet68.py and RFB_HarDNet85.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reference import formula_tensor
from tiny_networks import TINY
from torch import nn
from torch.nn import functional as F

from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.networks import (
    ARCHS,
    build_network,
    count_parameters,
    multiply_adds,
    official_order,
    prior_boxes,
)
from hardnet_suite.networks.arch import Extra, Field, arch_from_dict, arch_to_dict
from hardnet_suite.networks.layers import L2Norm, ReceptiveFieldBlock
from hardnet_suite.networks.ssd import first_receptive_field, receptive_field
from hardnet_suite.weights import convert_official, identify, open_weights, to_official
from hardnet_suite.weights.convert import from_target, in_target
from hardnet_suite.weights.identification import split_trunk

NAMES = ("rfb512_hardnet68", "rfb512_hardnet85")
# of the programs: the stem; growth, layers, transition and pooling of each stage; whether a bridge follows
TRUNKS = {
    "rfb512_hardnet68": (
        (32, 64),
        ((14, 8, 128, 2), (16, 16, 256, 0), (20, 16, 320, 2), (40, 16, 640, 0)),
        True,
    ),
    "rfb512_hardnet85": (
        (48, 96),
        ((24, 8, 192, 2), (24, 16, 256, 0), (28, 16, 320, 2), (36, 16, 480, 0), (48, 16, 720, 0)),
        False,
    ),
}
# of each extra block: channels, stride and "visual"
EXTRAS = ((1024, 1, 2), (512, 2, 2), (256, 2, 2), (256, 2, 1), (256, 2, 1))
BOXES = (6, 6, 6, 6, 6, 4, 4)


class Reading:
    """The program's keys and shapes, what it computes, and its multiply-adds for one image."""

    def __init__(self, name: str):
        self.state: dict[str, torch.Tensor] = {}
        self.running = False
        self.multiply_adds = 0
        self.stem, self.stages, self.bridge = TRUNKS[name]
        with torch.device("meta"):
            self(torch.zeros(1, 3, 512, 512))
        self.running = True

    def value(self, key: str, *shape: int) -> torch.Tensor:
        if not self.running:
            with torch.device("cpu"):
                self.state[key] = formula_tensor(key, list(shape))
            return torch.empty(shape, device="meta")
        assert self.state[key].shape == shape
        return self.state[key]

    def conv(self, x, key, out, kernel, stride=1, padding=0, dilation=1, bias=False):
        weight = self.value(f"{key}.weight", out, x.shape[1], *kernel)
        x = F.conv2d(
            x,
            weight.to(x),
            self.value(f"{key}.bias", out).to(x) if bias else None,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        if not self.running:
            self.multiply_adds += weight.numel() * x.shape[2] * x.shape[3]
        return x

    def norm(self, x, key):
        channels = x.shape[1]
        if not self.running:
            self.state[f"{key}.num_batches_tracked"] = torch.tensor(0, device="cpu")
        mean, var, weight, bias = (
            self.value(f"{key}.{leaf}", channels).to(x).view(1, -1, 1, 1)
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def layer(self, x, key, out, side, stride=1):
        """ConvLayer."""
        x = self.conv(x, f"{key}.conv", out, (side, side), stride, side // 2)
        return self.norm(x, f"{key}.norm").clamp(min=0)

    def basic(self, x, key, out, kernel, relu=True, stride=1, padding=0, dilation=1):
        """BasicConv."""
        x = self.norm(self.conv(x, f"{key}.conv", out, kernel, stride, padding, dilation), f"{key}.bn")
        return x.clamp(min=0) if relu else x

    def block(self, x, key, growth, layers):
        maps = [x]
        for number in range(1, layers + 1):
            links = [number - 2**power for power in range(10) if number % 2**power == 0]
            width = growth * 1.7 ** (len(links) - 1)
            inputs = torch.cat([maps[link] for link in links], 1)
            maps.append(self.layer(inputs, f"{key}.layers.{number - 1}", int(int(width + 1) / 2) * 2, 3))
        return torch.cat([maps[k] for k in range(1, layers + 1) if k % 2 or k == layers], 1)

    def field_a(self, x, key, out):
        """BasicRFB_a."""
        c = x.shape[1] // 4
        y0 = self.basic(x, f"{key}.branch0.0", c, (1, 1))
        y0 = self.basic(y0, f"{key}.branch0.1", c, (3, 3), relu=False, padding=1)
        y1 = self.basic(x, f"{key}.branch1.0", c, (1, 1))
        y1 = self.basic(y1, f"{key}.branch1.1", c, (3, 1), padding=(1, 0))
        y1 = self.basic(y1, f"{key}.branch1.2", c, (3, 3), relu=False, padding=3, dilation=3)
        y2 = self.basic(x, f"{key}.branch2.0", c, (1, 1))
        y2 = self.basic(y2, f"{key}.branch2.1", c, (1, 3), padding=(0, 1))
        y2 = self.basic(y2, f"{key}.branch2.2", c, (3, 3), relu=False, padding=3, dilation=3)
        y3 = self.basic(x, f"{key}.branch3.0", c // 2, (1, 1))
        y3 = self.basic(y3, f"{key}.branch3.1", c // 4 * 3, (1, 3), padding=(0, 1))
        y3 = self.basic(y3, f"{key}.branch3.2", c, (3, 1), padding=(1, 0))
        y3 = self.basic(y3, f"{key}.branch3.3", c, (3, 3), relu=False, padding=5, dilation=5)
        joined = self.basic(torch.cat([y0, y1, y2, y3], 1), f"{key}.ConvLinear", out, (1, 1), relu=False)
        return (joined + self.basic(x, f"{key}.shortcut", out, (1, 1), relu=False)).clamp(min=0)

    def field(self, x, key, out, stride, visual):
        """BasicRFB."""
        c, near, far = x.shape[1] // 8, visual + 1, 2 * visual + 1
        y0 = self.basic(x, f"{key}.branch0.0", c, (1, 1))
        y0 = self.basic(y0, f"{key}.branch0.1", 2 * c, (3, 3), stride=stride, padding=1)
        y0 = self.basic(y0, f"{key}.branch0.2", 2 * c, (3, 3), relu=False, padding=near, dilation=near)
        y1 = self.basic(x, f"{key}.branch1.0", c, (1, 1))
        y1 = self.basic(y1, f"{key}.branch1.1", c // 2 * 3, (3, 3), padding=1)
        y1 = self.basic(y1, f"{key}.branch1.2", 2 * c, (3, 3), stride=stride, padding=1)
        y1 = self.basic(y1, f"{key}.branch1.3", 2 * c, (3, 3), relu=False, padding=far, dilation=far)
        joined = self.basic(torch.cat([y0, y1], 1), f"{key}.ConvLinear", out, (1, 1), relu=False)
        shortcut = self.basic(x, f"{key}.shortcut", out, (1, 1), relu=False, stride=stride)
        return (joined + shortcut).clamp(min=0)

    def __call__(self, x):
        """loc (N, P, 4) and conf (N, P, 81), background first."""
        x = self.layer(x, "base.0", self.stem[0], 3, stride=2)
        x = self.layer(x, "base.1", self.stem[1], 3)
        x = F.max_pool2d(x, 3, 2, 1)
        position, sources = 3, []
        for number, (growth, layers, width, pool) in enumerate(self.stages):
            x = self.block(x, f"base.{position}", growth, layers)
            x = self.layer(x, f"base.{position + 1}", width, 1)
            position += 2
            if number == 2:
                sources.append(self.field_a(x, "Norm", 512))
            if pool:
                x = F.max_pool2d(x, 2, 2, ceil_mode=number == 0)
                position += 1
        if self.bridge:
            x = F.max_pool2d(x, 3, 1, 1)
            x = self.norm(self.conv(x, "base.13.1", 640, (3, 3), padding=4, dilation=4), "base.13.2")
            x = self.layer(x.clamp(min=0), "base.13.4", 640, 1)
        for number, (out, stride, visual) in enumerate(EXTRAS):
            x = self.field(x, f"extras.{number}", out, stride, visual)
            sources.append(x)
        x = self.basic(x, "extras.5", 128, (1, 1))
        sources.append(self.basic(x, "extras.6", 256, (4, 4), padding=1))
        loc, conf = [], []
        for number, (source, boxes) in enumerate(zip(sources, BOXES, strict=True)):
            for outputs, key, values in ((loc, "loc", 4), (conf, "conf", 81)):
                y = self.conv(source, f"{key}.{number}", boxes * values, (3, 3), padding=1, bias=True)
                outputs.append(y.permute(0, 2, 3, 1).reshape(len(y), -1, values))
        return torch.cat(loc, 1), torch.cat(conf, 1)


@pytest.fixture(scope="module", params=NAMES)
def reading(request):
    reading = Reading(request.param)
    reading.name = request.param
    return reading


@pytest.fixture(scope="module")
def network(reading):
    network = build_network(reading.name).eval()
    network.load_state_dict(convert_official(reading.name, reading.state), strict=True)
    return network


@pytest.mark.parametrize("size", [320, pytest.param(512, marks=pytest.mark.slow)])
def test_the_outputs_are_those_of_the_published_program(reading, network, size):
    """Also at a smaller size, whose maps have odd sides."""
    arch = replace(network.arch, size=size)
    wide = build_network(reading.name, arch=arch).double().eval()
    wide.load_state_dict(network.state_dict())
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        out, expected = official_order(wide(images)), reading(images)
    if size == 512:
        assert expected[0].shape == (1, len(prior_boxes(arch)), 4) == (1, 32756, 4)
    for actual, wanted in zip(out, expected, strict=True):
        assert wanted.std() > 0.5
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)


def test_parameters_and_multiply_adds_are_those_of_the_published_program(reading, network):
    learned = [
        value for key, value in reading.state.items() if not key.endswith(("_tracked", "_mean", "_var"))
    ]
    assert count_parameters(network) == sum(value.numel() for value in learned)
    with torch.device("meta"):
        assert multiply_adds(build_network(reading.name), (1, 3, 512, 512)) == reading.multiply_adds


def test_the_key_map_is_complete_and_bijective(reading, network):
    converted = convert_official(reading.name, reading.state)
    assert converted.keys() == network.state_dict().keys()
    back = to_official(reading.name, converted)
    assert back.keys() == reading.state.keys()
    assert all(torch.equal(value, reading.state[key]) for key, value in back.items())
    mmdet = in_target(reading.name, converted, "mmdet")
    again = from_target(reading.name, mmdet, "mmdet")
    assert all(torch.equal(again[key], value) for key, value in converted.items())


def test_published_files_load(reading, network, tmp_path):
    """As DataParallel names them, too; the keys alone tell the model."""
    for prefix in ("", "module."):
        state = {prefix + key: value for key, value in reading.state.items()}
        found = identify(state)
        assert (found.model, found.form, found.num_classes) == (reading.name, "official", 80)
    torch.save(state, tmp_path / "RFB512.pth")
    weights = open_weights(tmp_path / "RFB512.pth")
    assert (weights.model, weights.num_classes) == (reading.name, 80)
    loaded = create_model(reading.name, pretrained=str(tmp_path / "RFB512.pth")).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    "key", ["L2Norm.weight", "extras.7.conv.weight", "bridge.1.conv.weight", "base.15.1"]
)
def test_other_keys_are_refused(reading, key):
    with pytest.raises(ValueError, match=f"not keys of the official {reading.name}"):
        convert_official(reading.name, reading.state | {key: torch.zeros(1)})


@pytest.mark.parametrize("key", ["Norm.branch3.2.bn.weight", "extras.4.shortcut.conv.weight"])
@pytest.mark.parametrize("change", ["dropped", "cut"])
def test_files_that_differ_in_one_tensor_are_refused(reading, key, change):
    state = {name: value for name, value in reading.state.items() if name != key or change == "cut"}
    if change == "cut":
        state[key] = state[key][:-1]
    with pytest.raises(UserError, match=f"not the weights of {reading.name}"):
        identify(state, reading.name)


def test_files_of_ssd_are_not_those_of_rfb_net(reading):
    with torch.device("meta"):
        state = build_network(reading.name.replace("rfb", "ssd")).state_dict()
    assert identify(state).model == reading.name.replace("rfb", "ssd")
    with pytest.raises(UserError, match=f"not the weights of {reading.name}"):
        identify(state, reading.name)


def test_the_published_trunk_fills_trunk_and_bridge(reading, network):
    """Numbered keys, as in hardnet68_base_bridge.pth and hardnet85_base.pth."""
    state = {key.removeprefix("base."): value for key, value in reading.state.items() if key[:5] == "base."}
    tensors, left, _ = split_trunk(reading.name, state)
    assert left == []
    parts = ("trunk.", "neck.bridge.conv") if reading.bridge else ("trunk.",)
    assert tensors.keys() == {key for key in network.state_dict() if key.startswith(parts)}


@pytest.mark.parametrize("shape", [(1, 3, 300, 300), (1, 3, 512, 511), (1, 3, 513, 513), (1, 1, 512, 512)])
def test_the_input_must_be_of_the_networks_size(network, shape):
    with pytest.raises(ValueError, match=r"\(N, 3, 512, 512\), got"):
        network(torch.zeros(shape))


def test_boxes_and_trunk_are_those_of_ssd(network, reading):
    ssd = ARCHS[reading.name.replace("rfb", "ssd")]
    assert (network.arch.priors, network.arch.trunk) == (ssd.priors, ssd.trunk)
    torch.testing.assert_close(prior_boxes(network.arch), prior_boxes(ssd), rtol=0, atol=0)
    assert network.neck.channels == [512, 1024, 512, 256, 256, 256, 256]


def test_batch_norms_of_the_new_layers_have_the_momentum_of_the_program(network):
    momenta = {
        name: layer.momentum for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)
    }
    new = {name for name, momentum in momenta.items() if momentum == 0.01}
    assert set(momenta.values()) == {0.1, 0.01}
    assert new == {
        name for name in momenta if name.startswith(("neck.norm.", "neck.bridge.field.", "neck.extras."))
    }


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = build_network("rfb512_hardnet68", arch=TINY["rfb512_hardnet68"])
    loc, conf = official_order(network(torch.randn(8, 3, 64, 64)))
    (loc.square().mean() + conf.square().mean()).backward()
    without = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize(
    "build", [lambda n: first_receptive_field(n, 8), lambda n: receptive_field(n, Field(8))]
)
def test_blocks_take_at_least_16_channels(build):
    with pytest.raises(ValueError, match="at least 16 channels, got 15"):
        build(15)
    assert isinstance(build(16), ReceptiveFieldBlock)


@pytest.mark.parametrize(("stride", "size"), [(1, (5, 7)), (2, (3, 4))])
def test_blocks_round_odd_sizes_up(stride, size):
    assert receptive_field(16, Field(8, stride=stride))(torch.zeros(2, 16, 5, 7)).shape == (2, 8, *size)


@pytest.mark.parametrize(("scale", "fields"), [(20.0, (512, 1024)), (None, None)])
def test_the_first_map_passes_either_l2norm_or_a_block(scale, fields):
    arch = replace(ARCHS["rfb512_hardnet68"], l2norm_scale=scale, fields=fields)
    with torch.device("meta"), pytest.raises(ValueError, match="either l2norm_scale or fields, got"):
        build_network("rfb512_hardnet68", arch=arch)


@pytest.mark.parametrize("bridge", [True, False])
@pytest.mark.parametrize("fields", [(32, 48), None])
def test_other_records(bridge, fields):
    """With and without bridge and blocks, and extra levels of both kinds in any order."""
    row = ARCHS["rfb512_hardnet68"]
    arch = replace(
        row,
        bridge=row.bridge if bridge else None,
        fields=fields,
        l2norm_scale=None if fields else 10.0,
        extras=(Extra(8, 24), Field(32), Extra(8, 16, norm=True), Field(64, reach=1), Extra(4, 8)),
    )
    assert arch_from_dict(arch_to_dict(arch)) == arch
    with torch.device("meta"):
        network = build_network("rfb512_hardnet68", arch=arch).eval()
        out = network(torch.zeros(1, 3, 512, 512))
    first, second = fields or (320, 640)
    assert network.neck.channels == [first, second, 24, 32, 16, 64, 8]
    assert [m.shape[-1] for m in out["box"]] == [64, 32, 16, 8, 4, 2, 1]
    assert isinstance(network.neck.norm, L2Norm) == (fields is None)


@pytest.mark.parametrize("extra", [{"out": 8, "reach": 1, "mid": 4}, {"out": 8}, {}, {"reach": 1}, 3, None])
def test_records_of_extra_levels_that_are_neither_kind(extra):
    record = arch_to_dict(ARCHS["rfb512_hardnet68"]) | {"extras": [extra]}
    if extra == {"out": 8}:  # what it lacks has its default
        assert arch_from_dict(record).extras == (Field(8),)
    else:
        with pytest.raises(ValueError, match=r"SSDArch\.extras"):
            arch_from_dict(record)
