from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from reference import assert_parity
from torch import nn

from hardnet_suite.networks import (
    ARCHS,
    HarDNetArch,
    HarDNetClassifier,
    HarDNetTrunk,
    build_network,
    count_parameters,
    trunk_arch,
)
from hardnet_suite.networks.hardnet import levels_of
from hardnet_suite.networks.layers import DilatedPool
from hardnet_suite.weights import convert_official

CLASSIFIERS = ["hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85"]
# the sides of the maps of an image of 97×131 pixels: strided convolutions round up, pools of 2 down
ODD_SIZES = {
    "hardnet39ds": [(49, 66), (25, 33), (13, 17), (7, 9), (4, 5)],
    "hardnet68ds": [(49, 66), (25, 33), (13, 17), (7, 9), (4, 5)],
    "hardnet68": [(49, 66), (25, 33), (12, 16), (6, 8), (3, 4)],
    "hardnet85": [(49, 66), (25, 33), (12, 16), (6, 8), (3, 4)],
    "ssd512_hardnet68": [(49, 66), (25, 33), (13, 17), (6, 8)],
}


@pytest.fixture(scope="module", params=CLASSIFIERS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def network(name, golden):
    """The classifier with the weights of the references, in eval mode; tests must leave it as it is."""
    network = build_network(name)
    network.load_state_dict(convert_official(name, golden.state_dict(name)), strict=True)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def logits(network, images):
    with torch.inference_mode():
        return network(images)


def randomize_norms(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))


def without_gradient(network: nn.Module) -> list[str]:
    """The parameters that a backward pass has not reached; all others must have finite gradients."""
    parameters = dict(network.named_parameters())
    without = [key for key, p in parameters.items() if p.grad is None or not p.grad.any()]
    assert all(parameters[key].grad.isfinite().all() for key in parameters.keys() - without)
    return without


def test_outputs_are_the_official_ones(network, golden, name):
    with torch.inference_mode():
        assert_parity(network(golden.input(name)), golden.outputs(name)["out"])


def test_batch_equals_single(network, images, logits):
    with torch.inference_mode():
        assert_parity(torch.cat([network(image[None]) for image in images]), logits)


def test_float64_agrees_with_float32(network, images, logits):
    with torch.inference_mode():
        wide = copy.deepcopy(network).double()(images.double())
    assert wide.dtype == torch.float64
    assert_parity(logits.double(), wide)


def test_channels_last_agrees(network, images, logits):
    with torch.inference_mode():
        assert_parity(network(images.contiguous(memory_format=torch.channels_last)), logits)


def test_random_norm_statistics_count_and_eval_is_deterministic(network, images, logits):
    other = copy.deepcopy(network)
    randomize_norms(other)
    with torch.inference_mode():
        first, again = other(images), other(images)
        singles = torch.cat([other(image[None]) for image in images])
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert_parity(singles, first)
    assert (first - logits).abs().max() > 0.01 * logits.abs().max()


def test_odd_sizes(network, name):
    x = torch.randn(1, 3, 97, 131, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert network.forward_features(x).shape == (1, network.num_features, *ODD_SIZES[name][-1])
        out = network(x)
    assert out.shape == (1, 1000)
    assert out.isfinite().all()


def test_the_smallest_input(network):
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_features_are_the_classifiers_own(network, name, images):
    """The five maps: the last is what the classifier pools, and block maps give them by the 1×1."""
    trunks = {}
    for tap in ("transition", "block"):
        trunks[tap] = build_network(name, features_only=tap).eval()
        whole = network.trunk.state_dict()  # the block's trunk has no last 1×1
        trunks[tap].load_state_dict({key: whole[key] for key in trunks[tap].state_dict()})
    with torch.inference_mode():
        after, before = trunks["transition"](images), trunks["block"](images)
        torch.testing.assert_close(after[-1], network.forward_features(images), rtol=0, atol=0)
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)  # the stem has no 1×1 after it
        for feature, out, block in zip(network.trunk.features[1:], after[1:], before[1:], strict=True):
            stage = network.trunk.stages[feature.stage]
            torch.testing.assert_close(stage.transition(block), out, rtol=0, atol=0)


def test_timm_interface(network, images, logits, name):
    with torch.inference_mode():
        features = network.forward_features(images)
        pooled = network.forward_head(features, pre_logits=True)
        torch.testing.assert_close(network.forward_head(features), logits, rtol=0, atol=0)
        torch.testing.assert_close(network.get_classifier()(pooled), logits, rtol=0, atol=0)
    torch.testing.assert_close(pooled, features.mean((2, 3)), rtol=1e-5, atol=1e-5)
    assert pooled.shape == (2, network.num_features)
    assert [info["reduction"] for info in network.feature_info] == [2, 4, 8, 16, 32]


def test_timms_own_helpers_work_with_it(network, images):
    features = pytest.importorskip("timm.models._features", reason="timm is not installed")
    info = features.FeatureInfo(network.feature_info, (0, 1, 2, 3, 4))
    assert info.channels() == network.feature_info.channels()
    assert info.reduction() == network.feature_info.reduction()
    assert info.module_name() == network.feature_info.module_name()
    hooked = features.FeatureHookNet(network, out_indices=(1, 2, 3, 4))
    with torch.inference_mode():
        maps = hooked(images)
        assert [m.shape[1] for m in maps] == info.channels()[1:]
        torch.testing.assert_close(maps[-1], network.forward_features(images))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_timm_expects_of_every_model(name):
    """The calls of timm's own tests: pooled and unpooled features, feature maps by their info."""
    network = build_network(name, num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert network(x).shape == (1, 5)
        network.reset_classifier(0)
        assert network(x).shape == (1, network.num_features)
        network.reset_classifier(0, "")
        assert network(x).shape == (1, network.num_features, 2, 2)
        torch.testing.assert_close(network(x), network.forward_features(x), rtol=0, atol=0)
        network.reset_classifier(7)
        assert network(x).shape == (1, 7)
        assert network.get_classifier().weight.shape == (7, network.head_hidden_size)
        trunk = build_network(name, features_only=True, out_indices=(1, 3)).eval()
        maps = trunk(x)
    assert trunk.feature_info.channels() == [m.shape[1] for m in maps]
    assert trunk.feature_info.reduction() == [64 // m.shape[2] for m in maps] == [4, 16]
    assert all(trunk.get_submodule(place) is not None for place in trunk.feature_info.module_name())


@pytest.mark.parametrize(("classes", "pool"), [(3, ""), (0, "max")])
def test_unknown_global_pool(classes, pool):
    with pytest.raises(ValueError, match="global_pool 'avg'"):
        build_network("hardnet39ds").reset_classifier(classes, pool)


def test_feature_info_says_where_the_maps_are(network, images):
    seen = {}
    hooks = [
        network.get_submodule(info["module"]).register_forward_hook(
            lambda _, __, out, info=info: seen.update({info["reduction"]: out})
        )
        for info in network.feature_info
    ]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()
    for info in network.feature_info:
        reduction = info["reduction"]
        assert seen[reduction].shape == (2, info["num_chs"], 64 // reduction, 96 // reduction)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gradients_reach_every_parameter_of_classifiers(name):
    torch.manual_seed(0)
    network = build_network(name, num_classes=10).train()
    nn.functional.cross_entropy(network(torch.randn(2, 3, 64, 64)), torch.tensor([3, 7])).backward()
    assert without_gradient(network) == []


@pytest.mark.parametrize("tap", ["transition", "block"])
def test_gradients_reach_every_parameter_of_trunks(tap):
    torch.manual_seed(0)
    trunk = build_network("hardnet68", features_only=tap, out_indices=(1, 4)).train()
    maps = trunk(torch.randn(2, 3, 64, 64))
    sum((m * torch.randn_like(m)).mean() for m in maps).backward()
    assert without_gradient(trunk) == []


def test_checkpointed_blocks_give_the_same_gradients():
    torch.manual_seed(0)
    plain = HarDNetTrunk(ARCHS["hardnet39ds"]).train()
    saving = HarDNetTrunk(ARCHS["hardnet39ds"], with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for trunk in (plain, saving):
        trunk(x.clone().requires_grad_())[0].square().mean().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("tap", ["transition", "block"])
@pytest.mark.parametrize("name", [*CLASSIFIERS, "ssd512_hardnet68", "ssd512_hardnet85"])
def test_recorded_channels_and_strides_are_the_maps_own(name, tap):
    with torch.device("meta"):
        trunk = build_network(name, features_only=tap).eval()
        maps = trunk(torch.zeros(1, 3, 128, 192))
    assert trunk.strides == [2, 4, 8, 16, 32][: len(maps)]
    assert len(maps) == (4 if name.startswith("ssd") else 5)
    assert [m.shape[1] for m in maps] == trunk.channels
    assert [(128 / m.shape[2], 192 / m.shape[3]) for m in maps] == [(s, s) for s in trunk.strides]


@pytest.mark.parametrize("name", ODD_SIZES)
def test_odd_sizes_of_the_maps(name):
    with torch.device("meta"):
        maps = build_network(name, features_only=True).eval()(torch.zeros(1, 3, 97, 131))
    assert [tuple(m.shape[2:]) for m in maps] == ODD_SIZES[name]


def test_block_widths_are_what_the_official_transitions_take_in(golden):
    shapes = dict(golden.entries["hardnet85"]["state_dict"])
    # the last block at each stride, by its transition's place in the published list
    official = [shapes[f"base.{i}.conv.weight"][1] for i in (4, 9, 14, 18)]
    trunk = build_network("hardnet85", features_only="block")
    assert trunk.channels == [96, *official]
    assert official[:3] == [214, 458, 784]


@pytest.mark.parametrize(("index", "stages"), [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5)])
def test_unneeded_stages_are_not_built(index, stages):
    trunk = build_network("hardnet68", features_only=True, out_indices=(index,))
    assert len(trunk.stages) == stages
    assert trunk.strides == [2 ** (index + 1)]


def test_out_indices_pick_in_the_order_given(images):
    whole = build_network("hardnet39ds", features_only=True).eval()
    some = build_network("hardnet39ds", features_only=True, out_indices=(3, 1)).eval()
    some.load_state_dict({key: whole.state_dict()[key] for key in some.state_dict()})
    with torch.inference_mode():
        every, (third, first) = whole(images), some(images)
    torch.testing.assert_close(third, every[3], rtol=0, atol=0)
    torch.testing.assert_close(first, every[1], rtol=0, atol=0)
    assert some.channels == [whole.channels[3], whole.channels[1]]
    assert some.strides == [16, 4]


def test_out_indices_count_from_the_end_too():
    trunk = build_network("hardnet39ds", features_only=True, out_indices=(-1, -4))
    assert (trunk.out_indices, trunk.strides) == ((4, 1), [32, 4])


@pytest.mark.parametrize("out_indices", [(5,), (-6,), (), (1, 1), (1, -4)])
def test_bad_out_indices(out_indices):
    with pytest.raises(ValueError, match=r"distinct and from 0 \(stride 2\).*4 \(stride 32\)") as caught:
        build_network("hardnet39ds", features_only=True, out_indices=out_indices)
    assert str(out_indices) in str(caught.value)


@pytest.mark.parametrize("out_indices", [2, 1.0, (0.5,), (1.0, 2), ("1",), "12", (True,)])
def test_out_indices_are_a_sequence_of_integers(out_indices):
    """An integer alone would be an index, or, as in timm, so many of the last maps."""
    with pytest.raises(ValueError, match="must be a sequence of integers, such as") as caught:
        build_network("hardnet39ds", features_only=True, out_indices=out_indices)
    assert f"out_indices={out_indices!r}" in str(caught.value)


@pytest.mark.parametrize("out_indices", [range(1, 3), np.array([1, 2]), iter([1, 2])])
def test_sequences_of_any_kind_are_out_indices(out_indices):
    trunk = build_network("hardnet39ds", features_only=True, out_indices=out_indices)
    assert (trunk.out_indices, trunk.strides) == ((1, 2), [4, 8])


@pytest.mark.parametrize("in_chans", [0, 3.0, True, "3"])
def test_channels_of_a_trunk_are_a_count(in_chans):
    with pytest.raises(ValueError, match=f"in_chans must be an integer of at least 1, got {in_chans!r}"):
        HarDNetTrunk(trunk_arch("hardnet39ds"), in_chans=in_chans)


def test_out_indices_beyond_a_detectors_trunk():
    with pytest.raises(ValueError, match=r"3 \(stride 16\)$"):
        build_network("ssd512_hardnet68", features_only=True, out_indices=(4,))


def test_bad_tap():
    with pytest.raises(ValueError, match=r"tap='middle'.*transition, block"):
        build_network("hardnet39ds", features_only="middle")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 64, 64), r"\(N, 3, H, W\), got \(1, 1, 64, 64\)"),
        ((3, 64, 64), r"\(N, 3, H, W\), got \(3, 64, 64\)"),
        ((1, 3, 31, 64), "at least 32×32 .* got 31×64"),
        ((1, 3, 64, 16), "at least 32×32 .* got 64×16"),
    ],
)
def test_bad_inputs(shape, message):
    network = build_network("hardnet39ds").eval()
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(shape))


def test_a_short_trunk_takes_smaller_images():
    trunk = build_network("hardnet68", features_only=True, out_indices=(1,)).eval()
    assert trunk(torch.zeros(1, 3, 4, 4))[0].shape == (1, 128, 1, 1)
    with pytest.raises(ValueError, match="at least 4×4"):
        trunk(torch.zeros(1, 3, 3, 4))


def test_other_input_channels():
    network = build_network("hardnet39ds", in_chans=1).eval()
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 1000)
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\), got \(1, 3, 32, 32\)"):
        network(torch.zeros(1, 3, 32, 32))


def test_reset_classifier():
    network = build_network("hardnet39ds").double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    network.reset_classifier(7)
    assert network.num_classes == network.get_classifier().out_features == 7
    assert network(x).shape == (2, 7)  # the new layer is float64 as well
    network.reset_classifier(0)
    with torch.inference_mode():
        pooled = network.forward_head(network.forward_features(x), pre_logits=True)
        torch.testing.assert_close(network(x), pooled, rtol=0, atol=0)
    assert pooled.shape == (2, network.num_features)


def test_numbers_may_be_numpys():
    network = build_network(
        "hardnet39ds",
        num_classes=np.int64(5),
        in_chans=np.int32(4),
        drop_rate=np.float32(0.25),
        output_stride=np.int64(16),
    )
    numbers = network.num_classes, network.in_chans, network.trunk.in_chans, network.drop_rate
    assert numbers == (5, 4, 4, 0.25)
    assert [type(number) for number in numbers] == [int, int, int, float]
    assert network.trunk.strides == [16]
    network.reset_classifier(np.int64(3))
    assert type(network.num_classes) is int
    assert torch.jit.script(network.eval())(torch.zeros(1, 4, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("num_classes", "global_pool"), [(7, None), (7, "avg"), (0, None), (0, ""), (0, "avg")]
)
def test_reset_classifier_keeps_the_mode(num_classes, global_pool, training):
    network = build_network("hardnet39ds").train(training)
    network.reset_classifier(num_classes, global_pool)
    assert {module.training for module in network.modules()} == {training}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_pruning_keeps_the_mode(index, training):
    network = build_network("hardnet39ds").train(training)
    network.trunk.stem.train(not training)  # as a user freezes batch norms
    before = {name: module.training for name, module in network.named_modules()}
    network.prune_intermediate_layers([index])
    after = {name: module.training for name, module in network.named_modules()}
    assert after == {name: before[name] for name in after}


@pytest.mark.parametrize("num_classes", [-1, 2.5, "7", True, None])
def test_reset_classifier_with_invalid_num_classes(num_classes):
    with pytest.raises(ValueError, match=f"num_classes={num_classes!r} must be an integer of at least 0"):
        build_network("hardnet39ds").reset_classifier(num_classes)


def test_the_last_dropout_is_where_the_published_85_has_it():
    dropouts = [stage.dropout for stage in build_network("hardnet85").trunk.stages]
    assert [getattr(layer, "p", 0) for layer in dropouts] == [0, 0, 0, 0, 0, 0.1]
    assert not any(
        isinstance(layer, nn.Dropout)
        for layer in HarDNetTrunk(trunk_arch("hardnet85"), out_indices=(3,)).modules()
    )


ALL_CLASSIFIERS = [name for name, row in ARCHS.items() if isinstance(row, HarDNetArch)]
# trunks with average pools, a first pool that rounds up, strided convolutions at stride 4, and a stride of 64
OTHER_TRUNKS = ["ssd512_hardnet68", "centernet_hardnet85", "fchardnet70"]


def with_random_norms(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        randomize_norms(network)
    return network.eval()


@pytest.mark.parametrize("tap", ["transition", "block"])
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [*itertools.product([*ALL_CLASSIFIERS, *OTHER_TRUNKS], (8, 16)), ("fchardnet70", 32)],
)
def test_maps_of_a_dilated_trunk_are_those_of_the_usual_one_with_more_pixels(name, tap, output_stride):
    """Every pixel of the usual maps is there, at the same place of the image."""
    torch.manual_seed(0)
    usual = with_random_norms(build_network(name, features_only=tap))
    dilated = build_network(name, features_only=tap, output_stride=output_stride).eval()
    dilated.load_state_dict(usual.state_dict(), strict=True)
    assert dilated.channels == usual.channels
    assert dilated.strides == [min(stride, output_stride) for stride in usual.strides]
    assert [i["reduction"] for i in dilated.feature_info] == dilated.strides
    assert dilated.feature_info.module_name() == usual.feature_info.module_name()
    x = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for ours, theirs, feature, other in zip(
            dilated(x), usual(x), dilated.features, usual.features, strict=True
        ):
            step = other.stride // feature.stride
            assert ours.shape[2:] == (64 // feature.stride, 128 // feature.stride)
            assert_parity(ours[:, :, ::step, ::step], theirs)


@pytest.mark.parametrize(
    ("name", "side", "rows"),
    [("hardnet39ds", 67, 5), ("hardnet39ds", 81, 6), ("hardnet68", 67, 4), ("hardnet68", 80, 5)],
)
def test_maps_of_a_dilated_trunk_where_the_sides_are_no_multiples(name, side, rows):
    """Strided convolutions keep the last row of an odd map, pools drop it, unlike dilated ones."""
    torch.manual_seed(0)
    usual = with_random_norms(build_network(name, features_only=True))
    dilated = build_network(name, features_only=True, output_stride=16).eval()
    dilated.load_state_dict(usual.state_dict(), strict=True)
    with torch.inference_mode():
        *_, before, coarsest = usual(x := torch.randn(1, 3, side, 64))
        ours = dilated(x)[-1]
    assert ours.shape[2:] == before.shape[2:] == (rows, 4)
    if ARCHS[name].depthwise or rows % 2 == 0:
        assert_parity(ours[:, :, ::2, ::2], coarsest)
    else:
        assert (len(ours[0, 0, ::2]), coarsest.shape[2]) == (rows // 2 + 1, rows // 2)


@pytest.mark.parametrize("name", ALL_CLASSIFIERS)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_classifiers(name, output_stride):
    torch.manual_seed(0)
    usual = with_random_norms(build_network(name, num_classes=5))
    dilated = build_network(name, num_classes=5, output_stride=output_stride).eval()
    dilated.load_state_dict(usual.state_dict(), strict=True)
    assert dilated.official_prefixes == usual.official_prefixes
    strides = [i["reduction"] for i in usual.feature_info]
    assert [i["reduction"] for i in dilated.feature_info] == [min(s, output_stride) for s in strides]
    height, width = 2 * strides[-1], 3 * strides[-1]
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    step = strides[-1] // output_stride
    with torch.inference_mode():
        maps = dilated.forward_features(x)
        assert maps.shape[2:] == (height // output_stride, width // output_stride)
        assert_parity(maps[:, :, ::step, ::step], usual.forward_features(x))
        assert dilated(x).shape == (2, 5)
        assert dilated(torch.zeros(1, 3, output_stride, output_stride)).shape == (1, 5)
    dilated.train()(x).square().mean().backward()
    assert without_gradient(dilated) == []


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68", "centernet_hardnet68"])
def test_dilated_maps_of_odd_sizes_round_up(name):
    x = torch.zeros(1, 3, 97, 131)
    for output_stride in (8, 16):
        with torch.device("meta"):
            trunk = build_network(name, features_only=True, output_stride=output_stride).eval()
            maps = trunk(x.to("meta"))
        at = trunk.strides.index(output_stride)
        assert {tuple(m.shape[2:]) for m in maps[at:]} == {tuple(maps[at].shape[2:])}


@pytest.mark.parametrize("name", [*ALL_CLASSIFIERS, *OTHER_TRUNKS])
def test_an_output_stride_that_changes_nothing_builds_the_usual_network(name):
    arch = trunk_arch(name)
    with torch.device("meta"):
        usual = HarDNetTrunk(arch)
        same = HarDNetTrunk(arch, levels=levels_of(arch))
        assert str(same) == str(usual)
        if usual.strides[-1] <= 32:
            assert str(HarDNetTrunk(arch, output_stride=32)) == str(usual)
        else:
            assert HarDNetTrunk(arch, output_stride=32).strides == [32]


def test_levels_are_strides_and_dilations():
    arch = ARCHS["hardnet68"]
    assert levels_of(arch) == levels_of(arch, 32) == [(1, 1), (2, 1), (2, 1), (2, 1)]
    assert levels_of(arch, 16) == [(1, 1), (2, 1), (2, 1), (1, 2)]
    assert levels_of(arch, 8) == [(1, 1), (2, 1), (1, 2), (1, 4)]
    assert levels_of(trunk_arch("fchardnet70"), 16)[-2:] == [(1, 2), (1, 4)]


@pytest.mark.parametrize(
    ("levels", "strides"),
    [
        ([(1, 1), (1, 2), (1, 4), (1, 8)], [2, 4, 4, 4, 4]),
        ([(1, 1), (2, 1), (1, 1), (1, 1)], [2, 4, 8, 8, 8]),
        ([(1, 2), (2, 2), (2, 2), (1, 4)], [2, 4, 8, 16, 16]),
        (((1, 1), [1, 2], (2, 2), (2, 2)), [2, 4, 4, 8, 16]),
    ],
)
@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68", "centernet_hardnet85"])
def test_levels_in_detail(name, levels, strides):
    arch = trunk_arch(name)
    levels, count = levels[: len(levels_of(arch))], len(levels_of(arch)) + 1
    trunk = HarDNetTrunk(arch, out_indices=range(count), levels=levels).eval()
    assert trunk.strides == strides[:count]
    convs = [m for m in trunk.stages[-1].block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    assert {conv.dilation for conv in convs} == {(levels[-1][1],) * 2}
    with torch.inference_mode():
        maps = trunk(torch.randn(1, 3, 64, 96))
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in strides[:count]]


def test_all_levels_at_stride_4_are_sampled_by_the_usual_ones():
    torch.manual_seed(0)
    arch = ARCHS["hardnet68"]
    usual = with_random_norms(HarDNetTrunk(arch))
    dense = HarDNetTrunk(arch, levels=[(1, 1), (1, 2), (1, 4), (1, 8)]).eval()
    strided = HarDNetTrunk(arch, levels=[(1, 1), (1, 2), (2, 2), (2, 2)]).eval()  # pools of dilated maps
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        (expected,) = usual(x)
        for trunk in (dense, strided):
            trunk.load_state_dict(usual.state_dict())
            step = 32 // trunk.strides[-1]
            assert_parity(trunk(x)[0][:, :, ::step, ::step], expected)


@pytest.mark.parametrize(
    "levels",
    [
        [],
        [(1, 1)] * 3,
        [(1, 1)] * 5,
        [(2, 1), (2, 1), (2, 1), (2, 1)],
        [(1, 1), (3, 1), (2, 1), (2, 1)],
        [(1, 1), (2, 0), (2, 1), (2, 1)],
        [(1, 1), (2, 1.0), (2, 1), (2, 1)],
        [(1, 1), (2,), (2, 1), (2, 1)],
        [(1, 1), (True, 1), (2, 1), (2, 1)],
    ],
)
def test_invalid_levels(levels):
    with pytest.raises(ValueError, match=r"levels=.* must have 4 entries \(stride, dilation\)"):
        HarDNetTrunk(ARCHS["hardnet68"], levels=levels)


def test_output_stride_and_levels_exclude_each_other():
    arch = ARCHS["hardnet68"]
    with pytest.raises(ValueError, match="alternatives"):
        HarDNetTrunk(arch, output_stride=16, levels=levels_of(arch))


@pytest.mark.parametrize("output_stride", [0, 1, 2, 4, 12, 64, -8, 16.0, "16", True, (16,)])
@pytest.mark.parametrize("features_only", [False, True, "block"])
def test_invalid_output_strides(output_stride, features_only):
    with pytest.raises(ValueError, match=r"^output_stride=.* is invalid; allowed: 8, 16, 32$"):
        build_network("hardnet39ds", output_stride=output_stride, features_only=features_only)


@pytest.mark.parametrize("name", ["ssd320_hardnet39ds", "fchardnet70", "centernet_hardnet68"])
def test_whole_networks_other_than_classifiers_have_no_output_stride(name):
    with pytest.raises(ValueError, match=f"'{name}' is no classifier: output_stride cannot be given"):
        build_network(name, output_stride=16)


def test_dilation_costs_no_parameters():
    with torch.device("meta"):
        counts = {count_parameters(build_network("hardnet68", output_stride=s)) for s in (None, 8, 16, 32)}
    assert len(counts) == 1


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 5), (3, 1)])
def test_an_undilated_pool_of_stride_2_is_torchs(kind, size):
    x = torch.randn(2, 3, *size)
    pool = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}[kind](2, 2, ceil_mode=True)
    torch.testing.assert_close(DilatedPool(kind, stride=2)(x), pool(x))


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 12), (3, 5)])
def test_a_dilated_pool_pools_each_grid_by_itself(kind, dilation, size):
    x = torch.randn(1, 2, *size)
    dense = DilatedPool(kind, dilation=dilation)(x)
    assert dense.shape == x.shape
    for i in range(min(dilation, size[0])):
        for j in range(min(dilation, size[1])):
            grid = (..., slice(i, None, dilation), slice(j, None, dilation))
            torch.testing.assert_close(dense[grid], DilatedPool(kind)(x[grid]))
    undilated = DilatedPool(kind)(x)
    pool = nn.MaxPool2d(2, 1) if kind == "max" else nn.AvgPool2d(2, 1)
    torch.testing.assert_close(undilated[..., :-1, :-1], pool(x))
    torch.testing.assert_close(undilated[..., -1, -1], x[..., -1, -1])


@pytest.mark.parametrize("kind", ["max", "average"])
def test_dilated_pools_can_be_scripted_traced_and_exported(kind):
    pool = DilatedPool(kind, dilation=2, stride=2)
    x, other = torch.randn(2, 3, 12, 16), torch.randn(3, 3, 14, 10)
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    forms = [
        torch.jit.script(pool),
        torch.jit.trace(pool, x),
        torch.fx.symbolic_trace(pool),
        torch.export.export(pool, (x,), dynamic_shapes=(sizes,)).module(),
    ]
    for form in forms:
        for y in (x, other):
            torch.testing.assert_close(form(y), pool(y), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [HarDNetTrunk, HarDNetClassifier])
def test_annotations_of_forward_are_types(kind):
    """TorchScript reads them in the code that torch.fx writes."""
    assert kind.forward.__annotations__["x"] is torch.Tensor
