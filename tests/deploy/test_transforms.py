"""Every transform gives a new network that computes the same."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest
import torch
from torch import nn

from hardnet_suite.deploy.transforms import (
    cast,
    channels_last,
    fold_normalization,
    fuse_batch_norms,
    merge_decoders,
    pack,
    pad_channels,
    separate_averages,
    split_concats,
)
from hardnet_suite.deploy.transforms.packing import PackedConv2d, can_pack
from hardnet_suite.inference import to_input
from hardnet_suite.networks import (
    ARCHS,
    PREPROCESS,
    CenterNetArch,
    CenterNetStep,
    DescriptorArch,
    FCHarDNetArch,
    HarDNetArch,
    SSDArch,
    Stage,
    build_network,
    list_models,
)
from hardnet_suite.networks.arch import Bridge, Extra, Field
from hardnet_suite.networks.hardnet import least_side


def smaller(arch):
    """The row with an SSD's fixed size cut down, to test in little time."""
    if not isinstance(arch, SSDArch):
        return arch
    priors = arch.priors
    priors = dataclasses.replace(
        priors, sizes=priors.sizes[:5], ratios=priors.ratios[:4], strides=priors.strides[:4]
    )
    return dataclasses.replace(arch, size=72, extras=arch.extras[:2], priors=priors)


TINY = HarDNetArch(
    stem=(6, 10), stages=(Stage(7, 4, 22, downsample=True), Stage(9, 2, 30)), num_classes=5, dropout=0.0
)
TINY_TRUNK = dataclasses.replace(TINY, act="relu", pool="average")
TINY_CENTERNET = CenterNetArch(
    trunk=dataclasses.replace(
        TINY_TRUNK,
        stages=tuple(Stage(7, 4, width, downsample=True) for width in (20, 22, 24)),
        first_pool_ceil=True,
    ),
    last=CenterNetStep(channels=18, growth=6, layers=4, skip=False),
    steps=(
        CenterNetStep(channels=20, growth=5, layers=4, shortcut=3),
        CenterNetStep(channels=14, growth=5, layers=2),
        CenterNetStep(channels=12, growth=4, layers=2, skip=False, shortcut=5),
    ),
    least_width=9,
)
TINY_FCHARDNET = FCHarDNetArch(
    trunk=dataclasses.replace(
        TINY_TRUNK,
        stem_down=(11, 13),
        stages=(Stage(5, 4, 14, downsample=True), Stage(6, 4, 18, downsample=True), Stage(7, 4, 20)),
    ),
    last_channels=21,
)
TINY_SSD = dataclasses.replace(
    smaller(ARCHS["ssd224_hardnet29"]),
    trunk=dataclasses.replace(
        TINY_TRUNK, stages=tuple(Stage(7, 4, width, downsample=True) for width in (20, 22, 24))
    ),
)
TINY_RFB = dataclasses.replace(
    smaller(ARCHS["rfb512_hardnet68"]),
    trunk=TINY_SSD.trunk,
    bridge=Bridge(mid=9, out=22, dilation=2),
    fields=(13, 21),
    extras=(Field(19), Extra(5, 7, norm=True)),
)
EXACT = {
    "fuse": fuse_batch_norms,
    "split": split_concats,
    "merge": merge_decoders,
    "separate": separate_averages,
    "pad8": lambda network: pad_channels(network, 8),
    "pad16": pad_channels,
    "pad32": lambda network: pad_channels(network, 32),
    "cast": lambda network: cast(network, torch.float64),
    "channels_last": channels_last,
}


def random_network(name, *, dtype=torch.float64, seed=0, **options):
    """A network whose batch norms have random statistics and parameters."""
    torch.manual_seed(seed)
    if not options.get("features_only"):
        options.setdefault("arch", smaller(ARCHS[name]))
    network = build_network(name, **options).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0.0, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            if layer.affine:
                nn.init.normal_(layer.weight, 1.0, 0.3)
                nn.init.normal_(layer.bias, 0.0, 0.2)
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, 0.0, 0.2)
    return network.to(dtype)


def random_input(name, batch, *, channels=3, features_only=False, dtype=torch.float64):
    arch = ARCHS[name]
    if isinstance(arch, DescriptorArch) and not features_only:
        return torch.rand(batch, 1, 32, 32, dtype=dtype)
    if features_only:
        size = (67, 45)
    elif isinstance(arch, SSDArch):
        size = (72, 72)
    elif isinstance(arch, CenterNetArch):
        size = (64, 96)
    else:
        size = (61, 45) if least_side(getattr(arch, "trunk", arch)) <= 32 else (75, 97)
    return torch.randn(batch, channels, *size, dtype=dtype)


def flat(output):
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [tensor for value in values for tensor in flat(value)]


def assert_same(actual, expected, tolerance=1e-9):
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
    for ours, theirs in zip(flat(actual), flat(expected), strict=True):
        atol = tolerance * max(theirs.abs().max().item(), 1e-3)
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=atol)


def state_of(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def changes(network, transform, inputs, tolerance=1e-9):
    """Asserts that a transform gives a new network with the same answers, and leaves the network alone."""
    before, modules = state_of(network), [type(module) for module in network.modules()]
    training = network.training
    reference = copy.deepcopy(network).eval()
    changed = transform(network)
    assert changed is not network
    assert network.training == training
    assert not any(module.training for module in changed.modules())
    with torch.inference_mode():
        for x in inputs:
            assert_same(changed(x), reference(x), tolerance)
    assert [type(module) for module in network.modules()] == modules
    after = network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    return changed


@pytest.mark.parametrize("name", list_models())
def test_all_at_once(name):
    network = random_network(name).train()

    def everything(network):
        for transform in (fuse_batch_norms, merge_decoders, separate_averages, pad_channels, split_concats):
            network = transform(network)
        return channels_last(cast(network, torch.float64))

    changed = changes(network, everything, [random_input(name, batch) for batch in (1, 2)])
    for attribute in ("arch", "num_classes", "usage"):
        assert getattr(changed, attribute) == getattr(network, attribute)
    norms = [layer for layer in changed.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms == []


SMALL = ["hardnet39ds", "ssd224_hardnet29", "ssd320_hardnet39ds", "centernet_hardnet68", "fchardnet70"]
SMALL += ["hardnet_descriptor", "hardnet_descriptor_ps"]


@pytest.mark.parametrize("step", EXACT)
@pytest.mark.parametrize("name", sorted({*SMALL} - {"centernet_hardnet68"}))  # whose pairs are tested below
def test_each_alone(name, step):
    changes(random_network(name), EXACT[step], [random_input(name, batch) for batch in (1, 2)])


@pytest.mark.parametrize("step", EXACT)
@pytest.mark.parametrize("options", [{}, {"features_only": "block"}])
@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68a"])
def test_dilated_networks(name, options, step):
    network = random_network(name, output_stride=8, **options)
    changes(network, EXACT[step], [random_input(name, 1)])


@pytest.mark.parametrize("outputs", [(0, 1, 2, 3, 4, 5), (0,), (1, 3), (5,)])
@pytest.mark.parametrize("tap", ["block", "transition"])
@pytest.mark.parametrize("steps", [("pad16",), ("split", "pad32")])
def test_maps_of_blocks_that_keep_their_input(steps, tap, outputs):
    """A map that leaves the network is not padded, nor is the input that is part of it."""
    network = random_network("fchardnet68", features_only=tap, out_indices=outputs)

    def transform(network):
        for step in steps:
            network = EXACT[step](network)
        return network

    changes(network, transform, [torch.randn(1, 3, 64, 33, dtype=torch.float64)])


@pytest.mark.parametrize("steps", list(itertools.permutations(sorted({*EXACT} - {"pad8", "pad32"}), 2)))
@pytest.mark.parametrize(
    "network", ["classifier", "depthwise", "centernet", "fchardnet", "ssd", "rfb", "transition", "block"]
)
def test_pairs_of_a_custom_row(network, steps):
    name, options = {
        "classifier": ("hardnet68", {"arch": TINY}),
        "depthwise": ("hardnet39ds", {"arch": dataclasses.replace(TINY, depthwise=True)}),
        "centernet": ("centernet_hardnet68", {"arch": TINY_CENTERNET, "num_classes": 3}),
        "fchardnet": ("fchardnet70", {"arch": TINY_FCHARDNET, "num_classes": 2}),
        "ssd": ("ssd224_hardnet29", {"arch": TINY_SSD, "num_classes": 3}),
        "rfb": ("rfb512_hardnet68", {"arch": TINY_RFB, "num_classes": 3}),
        "transition": ("hardnet68", {"arch": TINY, "features_only": True}),
        "block": ("hardnet68", {"arch": TINY, "features_only": "block", "out_indices": (0, 1, 2)}),
    }[network]
    first, second = (EXACT[step] for step in steps)
    inputs = [random_input(name, 2, features_only=options.get("features_only", False))]
    changes(random_network(name, **options), lambda network: second(first(network)), inputs)


@pytest.mark.parametrize("name", [*SMALL, "hardnet68", "centernet_hardnet85"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_raw_pixels(name, dtype):
    network = random_network(name)
    rule = network.usage.preprocess
    shape = random_input(name, 2).shape
    pixels = torch.randint(0, 256, (2, 3, *shape[2:]), dtype=torch.uint8)
    pixels = pixels if dtype == torch.uint8 else pixels + torch.rand(pixels.shape, dtype=dtype)
    raw = fold_normalization(network)
    with torch.inference_mode():
        assert_same(raw(pixels), network(normalized(pixels, rule)))
    assert network.usage.preprocess == rule
    # the new rule has the same pixels as input, and its padding is what the old padding was
    images = pixels.to(torch.uint8)
    padded = dataclasses.replace(rule, input_divisor=32, input_size=(70, 99), input_value=0.25)
    usage = dataclasses.replace(network.usage, preprocess=padded)
    network.usage = usage
    raw_rule = fold_normalization(network).usage.preprocess
    assert (raw_rule.channels, raw_rule.resize, raw_rule.size) == ("rgb", rule.resize, rule.size)
    assert type(rule).from_dict(raw_rule.to_dict()) == raw_rule
    ours, theirs = to_input(images, raw_rule).double(), to_input(images, padded)
    assert ours.shape[2:] == theirs.shape[2:]
    torch.testing.assert_close(normalized(ours, rule).float(), theirs, rtol=1e-4, atol=1e-4)


def normalized(pixels, rule):
    """``rule.normalize`` in float64."""
    matrix, offset = rule.affine()
    out = torch.einsum("cr,nryx->ncyx", matrix, pixels.double()) + offset.view(1, -1, 1, 1)
    torch.testing.assert_close(out.float(), rule.normalize(pixels), rtol=1e-4, atol=1e-4)
    return out


@pytest.mark.parametrize("step", EXACT)
@pytest.mark.parametrize("name", ["ssd224_hardnet29", "hardnet_descriptor"])
def test_raw_pixels_before_and_after_others(name, step):
    network = random_network(name)
    side = random_input(name, 1).shape[-1]
    pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    with torch.inference_mode():
        expected = network(normalized(pixels, network.usage.preprocess))
        assert_same(EXACT[step](fold_normalization(network))(pixels), expected)
        assert_same(fold_normalization(EXACT[step](network))(pixels), expected)


def test_raw_pixels_that_cannot_be():
    network = random_network("hardnet68", arch=TINY)
    with pytest.raises(ValueError, match="takes raw pixels already"):
        fold_normalization(fold_normalization(network))
    with pytest.raises(ValueError, match="takes raw pixels already"):
        fold_normalization(fold_normalization(random_network("hardnet_descriptor")))
    with pytest.raises(ValueError, match="takes 4 channels, the input rule makes 3"):
        fold_normalization(random_network("hardnet68", arch=TINY, in_chans=4))
    trunk = random_network("hardnet68", arch=TINY, features_only=True)
    with pytest.raises(ValueError, match="preprocess must be given"):
        fold_normalization(trunk)
    pixels = torch.randint(0, 256, (1, 3, 45, 33), dtype=torch.uint8)
    rule = PREPROCESS["fchardnet70"]
    with torch.inference_mode():
        assert_same(fold_normalization(trunk, rule)(pixels), trunk(normalized(pixels, rule)))


HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", SMALL)
def test_half_precision_takes_and_returns_float32(name, dtype):
    network = random_network(name, dtype=torch.float32)
    x = random_input(name, 1, dtype=torch.float32)
    half = channels_last(cast(fuse_batch_norms(network), dtype))
    with torch.inference_mode():
        ours, theirs = flat(half(x)), flat(network(x))
    for value, expected in zip(ours, theirs, strict=True):
        assert value.dtype == torch.float32
        correlation = torch.corrcoef(torch.stack([value.flatten(), expected.flatten()]))[0, 1]
        assert correlation > (0.98 if expected.numel() > 100 else 0.9)
    kept = {type(m).__name__ for m in half.modules() for p in m.parameters(False) if p.dtype == torch.float32}
    assert kept <= {"L2Norm", "CastLinear", "CastConv2d"}
    assert any(p.dtype == dtype for p in half.parameters())
    raw = cast(fold_normalization(network), dtype)
    also = fold_normalization(cast(network, dtype))
    pixels = torch.randint(0, 256, (1, 3, *x.shape[2:]), dtype=torch.uint8)
    with torch.inference_mode():
        values = [flat(each(pixels)) for each in (raw, also)]
    assert {value.dtype for each in values for value in each} == {torch.float32}


def test_what_cannot_be_cast_or_padded():
    with pytest.raises(ValueError, match="cannot cast a Conv2d"):
        cast(nn.Conv2d(3, 3, 1), torch.bfloat16)
    with pytest.raises(ValueError, match=r"dtype=torch\.int8 must be one of"):
        cast(build_network("hardnet_descriptor"), torch.int8)
    with pytest.raises(ValueError, match="cannot pad the channels of a Conv2d"):
        pad_channels(nn.Conv2d(3, 3, 1))
    for multiple in (0, True, 8.0):
        with pytest.raises(ValueError, match="must be an integer of at least 1"):
            pad_channels(build_network("hardnet_descriptor"), multiple)


@pytest.mark.parametrize("multiple", [8, 32])
def test_padded_channels_are_multiples(multiple):
    network = pad_channels(random_network("hardnet68", arch=TINY), multiple)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    # the first takes the image; the last makes the features that leave the network
    assert all(conv.in_channels % multiple == 0 for conv in convs[1:])
    assert all(conv.out_channels % multiple == 0 for conv in convs[:-1])
    assert convs[-1].out_channels == 30


def test_batch_norms_that_cannot_be_folded_are_kept():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    assert [type(layer) for layer in fuse_batch_norms(network)] == [type(layer) for layer in network]
    without = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert isinstance(fuse_batch_norms(without)[1], nn.BatchNorm2d)
    conv = nn.Conv2d(3, 3, 1)
    shared = nn.Sequential(conv, nn.BatchNorm2d(3), nn.Sequential(conv, nn.BatchNorm2d(3))).double().eval()
    nn.init.uniform_(shared[1].running_var, 0.5, 2.0)
    changes(shared, fuse_batch_norms, [torch.randn(1, 3, 4, 4, dtype=torch.float64)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", SMALL)
def test_packed(name, dtype):
    network = random_network(name, dtype=torch.float32)
    raw = channels_last(cast(fold_normalization(fuse_batch_norms(network)), dtype))
    pixels = torch.randint(0, 256, (1, 3, *random_input(name, 1).shape[2:]), dtype=torch.uint8)
    packed = pack(raw, pixels)
    convs = [type(m) for m in packed.modules() if isinstance(m, nn.Conv2d | PackedConv2d)]
    assert {*convs} == ({PackedConv2d} if can_pack(dtype) else {*convs} - {PackedConv2d})
    others = torch.randint(0, 256, (2, *pixels.shape[1:]), dtype=torch.uint8)
    with torch.inference_mode():
        for x in (pixels, others):
            tolerance = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float64: 1e-12}[dtype]
            for ours, theirs in zip(flat(packed(x)), flat(raw(x)), strict=True):
                assert ours.dtype == theirs.dtype
                scale = theirs.abs().max().item()
                torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * scale)


def test_borders_that_are_not_zeros_are_not_packed():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 2, 1)).eval()
    x = torch.randn(1, 3, 20, 30)
    with torch.inference_mode():
        torch.testing.assert_close(pack(network, x)(x), network(x))


def test_a_packed_network_stays_where_it_is():
    network = channels_last(fuse_batch_norms(random_network("hardnet68", arch=TINY, dtype=torch.float32)))
    if not can_pack(torch.float32):
        pytest.skip("no oneDNN")
    packed = pack(network, torch.rand(1, 3, 40, 40))
    for what in (copy.deepcopy, lambda network: network.half(), lambda network: network.state_dict()):
        with pytest.raises(TypeError, match="pack comes last"):
            what(packed)
    packed.float().to("cpu")
    acts = [m for m in packed.modules() if isinstance(m, nn.ReLU6)]
    assert acts == []
