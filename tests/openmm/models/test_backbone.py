"""HarDNet as a backbone of mmdet and mmseg: what comes out, what is frozen, how it trains."""

from __future__ import annotations

import copy

import mmdet.registry
import mmengine.registry
import mmseg.registry
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import hardnet_suite
import hardnet_suite.openmm
from hardnet_suite.errors import UserError
from hardnet_suite.networks import feature_channels
from hardnet_suite.openmm.models.backbone import HarDNet

# channels of the maps of stride 2, 4, 8, 16, 32: after the transition; before it, by the paper's widths
CHANNELS = {
    "hardnet39ds": ([48, 96, 320, 640, 1024], [48, 72, 292, 518, 730]),
    "hardnet68ds": ([64, 128, 320, 640, 1024], [64, 124, 328, 654, 782]),
    "hardnet68": ([64, 128, 320, 640, 1024], [64, 124, 328, 654, 782]),
    "hardnet85": ([96, 192, 320, 720, 1280], [96, 214, 458, 784, 1252]),
}
SMALL = "hardnet39ds"


def images(size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def build(**options) -> HarDNet:
    torch.manual_seed(0)
    return HarDNet(options.pop("arch", SMALL), **options)


def norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


# --- registration


def test_registered_once_in_the_root_and_seen_from_every_scope():
    assert mmengine.registry.MODELS.module_dict["HarDNet"] is HarDNet
    for registry in (mmdet.registry.MODELS, mmseg.registry.MODELS):
        assert "HarDNet" not in registry.module_dict
        with DefaultScope.overwrite_default_scope(registry.scope):
            assert type(registry.build({"type": "HarDNet", "arch": SMALL})) is HarDNet
            assert type(mmengine.registry.MODELS.build({"type": "HarDNet", "arch": SMALL})) is HarDNet


# --- what comes out


@pytest.mark.parametrize("tap", ["transition", "block"])
@pytest.mark.parametrize("arch", CHANNELS)
def test_maps_by_stride(arch, tap):
    backbone = build(arch=arch, out_indices=range(5), tap=tap).eval()
    assert backbone.out_strides == [2, 4, 8, 16, 32]
    assert backbone.out_channels == CHANNELS[arch][tap == "block"]
    with torch.no_grad():
        maps = backbone(images())
    assert isinstance(maps, tuple)
    expected = [
        (2, c, 64 // s, 64 // s) for c, s in zip(backbone.out_channels, [2, 4, 8, 16, 32], strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize("arch", CHANNELS)
def test_maps_are_those_of_the_network(arch):
    network = hardnet_suite.create_model(arch, features_only=True).eval()
    backbone = build(arch=arch, out_indices=(3, 1)).eval()  # in the order asked for
    # the stages beyond stride 16 are not built
    own = backbone.trunk.state_dict()
    backbone.trunk.load_state_dict({key: network.state_dict()[key] for key in own})
    assert len(own) < len(network.state_dict())
    with torch.no_grad():
        reference, maps = network(images()), backbone(images())
    for index, actual in zip((3, 1), maps, strict=True):
        torch.testing.assert_close(actual, reference[index], rtol=0, atol=0)


def test_a_tap_before_the_transition_is_what_the_transition_reads():
    before, after = (build(out_indices=(2, 4), tap=tap).eval() for tap in ("block", "transition"))
    before.load_state_dict(after.state_dict(), strict=False)
    with torch.no_grad():
        blocks, transitions = before(images()), after(images())
        for stage, block, transition in zip((1, 3), blocks, transitions, strict=True):
            expected = after.trunk.stages[stage].transition(block)
            torch.testing.assert_close(transition, expected, rtol=0, atol=0)


@pytest.mark.parametrize("tap", ["transition", "block"])
@pytest.mark.parametrize("out_indices", [(0,), (1,), (3, 2), (0, 4)])
@pytest.mark.parametrize("arch", ["hardnet39ds", "hardnet68"])
def test_nothing_is_built_that_no_map_needs(arch, out_indices, tap):
    backbone = build(arch=arch, out_indices=out_indices, tap=tap)
    sum(m.sum() for m in backbone(images())).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_other_numbers_of_input_channels():
    assert build(in_channels=1, out_indices=(0,)).eval()(images()[:, :1])[0].shape == (2, 48, 32, 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arch": "hardnet70"}, "unknown model 'hardnet70'"),
        ({"out_indices": (1, 5)}, "out_indices=.1, 5. must be distinct and from 0 .stride 2."),
        ({"out_indices": (1, 1)}, "must be distinct"),
        ({"out_indices": 3}, r"out_indices=3 must be a sequence of integers, such as \(3,\)"),
        ({"out_indices": (1.0,)}, r"out_indices=\(1\.0,\) must be a sequence of integers"),
        ({"out_indices": (True,)}, r"out_indices=\(True,\) must be a sequence of integers"),
        ({"out_indices": ()}, "must be distinct"),
        ({"arch": {"type": "hardnet68"}}, "unknown model {'type': 'hardnet68'}"),
        ({"in_channels": 0}, "in_channels must be an integer of at least 1, got 0"),
        ({"in_channels": 3.0}, r"in_channels must be an integer of at least 1, got 3\.0"),
        ({"strides": 2, "dilations": 1}, "strides=2 and dilations=1 go together"),
        ({"tap": "stem"}, "tap='stem' is unknown; allowed: transition, block"),
        ({"frozen_stages": 5}, "frozen_stages=5 must be an integer from −1 to 4"),
        ({"frozen_stages": -2}, "frozen_stages=-2 must be an integer from −1 to 4"),
        ({"frozen_stages": 3, "out_indices": (1, 2)}, "frozen_stages=3 must be an integer from −1 to 2"),
        ({"frozen_stages": 1.0}, r"frozen_stages=1\.0 must be an integer"),
        ({"frozen_stages": True}, r"frozen_stages=True must be an integer"),
        ({"norm_cfg": {}}, "norm_cfg={} has no type; allowed: BN, SyncBN"),
        ({"norm_cfg": {"requires_grad": False}}, "norm_cfg={.*} has no type"),
        ({"norm_cfg": "BN"}, "norm_cfg='BN' has no type"),
        ({"norm_cfg": {"type": "BN", "eps": -1.0}}, r"norm_cfg eps must be .* got -1\.0"),
        ({"norm_cfg": {"type": "BN", "momentum": 2}}, "norm_cfg momentum must be a number from 0 to 1"),
        ({"norm_cfg": {"type": "BN", "requires_grad": "no"}}, "norm_cfg requires_grad must be True or False"),
        ({"norm_cfg": {"type": "GN", "num_groups": 8}}, "'GN' is unknown; allowed: BN, SyncBN"),
        ({"norm_cfg": {"type": "BN", "affine": False}}, r"unknown entries \['affine'\]"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)


# --- freezing


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 3, 4])
@pytest.mark.parametrize("arch", CHANNELS)
def test_frozen_is_what_the_map_of_that_stride_depends_on(arch, frozen_stages):
    free = build(arch=arch, out_indices=range(5))
    expected = set()
    if frozen_stages >= 0:
        free(images())[frozen_stages].sum().backward()
        expected = {name for name, parameter in free.named_parameters() if parameter.grad is not None}
        assert expected

    backbone = build(arch=arch, frozen_stages=frozen_stages)
    backbone.eval().train()
    frozen = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == expected
    for name, module in backbone.named_modules():
        if isinstance(module, _BatchNorm):
            assert module.training != (f"{name}.weight" in frozen), name


@pytest.mark.parametrize("with_cp", [False, True])
def test_a_training_step_leaves_the_frozen_part_alone(with_cp):
    backbone = build(arch="hardnet68", frozen_stages=2, with_cp=with_cp).train()
    frozen = {name.rsplit(".", 1)[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    before = copy.deepcopy(backbone.state_dict())
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(m.square().mean() for m in backbone(images())).backward()
    optimizer.step()
    same = {key for key, value in backbone.state_dict().items() if torch.equal(value, before[key])}
    assert {key for key in before if key.rsplit(".", 1)[0] in frozen} == same


def test_a_frozen_part_drops_nothing_out():
    backbone = build(arch="hardnet85", frozen_stages=4).train()
    with torch.no_grad():
        torch.testing.assert_close(backbone(images())[-1], backbone.eval()(images())[-1], rtol=0, atol=0)


def test_norm_eval_keeps_the_running_statistics():
    backbone = build(norm_eval=True).eval().train()
    assert not any(m.training for m in norms(backbone))
    assert backbone.training
    assert backbone.trunk.stages.training
    assert all(p.requires_grad for p in backbone.parameters())
    assert all(m.training for m in norms(build(norm_eval=False).train()))


# --- memory, norms


@pytest.mark.parametrize(
    ("arch", "frozen_stages", "tap"),
    [("hardnet39ds", -1, "transition"), ("hardnet68", 1, "block"), ("hardnet85", 0, "transition")],
)
def test_checkpointing_changes_nothing(arch, frozen_stages, tap):
    options = {"arch": arch, "frozen_stages": frozen_stages, "tap": tap}
    plain, saving = build(**options), build(**options, with_cp=True)
    results = []
    for backbone in (plain, saving):
        calls = []
        for stage in backbone.trunk.stages:
            stage.block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(None))
        torch.manual_seed(1)  # 85 has a dropout
        maps = backbone.train()(images())
        sum(m.square().mean() for m in maps).backward()
        results.append((maps, {n: p.grad for n, p in backbone.named_parameters()}, len(calls)))
    (maps, grads, calls), (maps_cp, grads_cp, calls_cp) = results
    assert calls_cp > calls  # blocks did run again in the backward pass
    torch.testing.assert_close(maps_cp, maps, rtol=0, atol=0)
    assert any(grad is not None for grad in grads.values())
    for (name, buffer), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(other, buffer, rtol=0, atol=0, msg=name)
    for name, grad in grads.items():
        assert (grad is None) == (grads_cp[name] is None), name
        if grad is not None:
            torch.testing.assert_close(grads_cp[name], grad, rtol=1e-5, atol=1e-7)


def test_batch_norm_options():
    norm = {"type": "BN", "eps": 1e-3, "momentum": 0.03, "requires_grad": False}
    backbone = build(norm_cfg=norm)
    assert all((m.eps, m.momentum) == (1e-3, 0.03) for m in norms(backbone))
    assert not any(p.requires_grad for m in norms(backbone) for p in m.parameters())
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.requires_grad for m in convolutions)


def test_sync_bn_and_the_way_back_to_the_cpu():
    plain = build(frozen_stages=1)
    synced = build(frozen_stages=1, norm_cfg={"type": "SyncBN", "requires_grad": True, "eps": 1e-4})
    assert len(norms(synced)) == len(norms(plain)) > 0
    assert all(type(m) is nn.SyncBatchNorm for m in norms(synced))
    assert all(m.eps == 1e-4 for m in norms(synced))
    plain.load_state_dict(synced.state_dict())
    for module in norms(plain):
        module.eps = 1e-4

    reverted = revert_sync_batchnorm(synced)
    assert len(norms(reverted)) == len(norms(plain))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in reverted.modules())
    for training in (True, False):
        maps, reference = reverted.train(training)(images()), plain.train(training)(images())
        torch.testing.assert_close(maps, reference, rtol=0, atol=0)
    assert [m.training for m in norms(reverted.train())] == [m.training for m in norms(plain.train())]


# --- dilation, as DeepLab, PSPNet and PAN have it


DILATED = [
    ({"output_stride": 8}, [2, 4, 8, 8, 8]),
    ({"output_stride": 16}, [2, 4, 8, 16, 16]),
    ({"output_stride": 32}, [2, 4, 8, 16, 32]),
    ({"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}, [2, 4, 8, 8, 8]),
    ({"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)}, [2, 4, 8, 16, 16]),
    ({"strides": [1, 2, 2, 2], "dilations": [1, 1, 1, 1]}, [2, 4, 8, 16, 32]),
]


@pytest.mark.parametrize(("options", "strides"), DILATED)
@pytest.mark.parametrize("arch", ["hardnet39ds", "hardnet68"])
def test_dilation_keeps_the_parameters(arch, options, strides):
    plain = build(arch=arch, out_indices=range(5))
    dilated = build(arch=arch, out_indices=range(5), **options).eval()
    dilated.load_state_dict(plain.state_dict())
    assert dilated.out_strides == strides
    assert dilated.out_channels == plain.out_channels
    with torch.no_grad():
        assert [m.shape[2] for m in dilated(images())] == [64 // stride for stride in strides]


def test_strides_and_dilations_are_those_of_output_stride():
    options = {"output_stride": 8}, {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}
    first, second = (build(**each).eval() for each in options)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for one, other in zip(first(images()), second(images()), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, "output_stride=4 is invalid; allowed: 8, 16, 32"),
        ({"strides": (1, 2, 1, 1)}, "strides=.* and dilations=None go together"),
        ({"dilations": (1, 1, 2, 4)}, "strides=None and dilations=.* go together"),
        ({"strides": (1, 2, 1), "dilations": (1, 1, 2, 4)}, "go together, one of each per level"),
        ({"strides": (2, 2, 1, 1), "dilations": (1, 1, 2, 4)}, "must have 4 entries"),
        ({"strides": (1, 2, 3, 1), "dilations": (1, 1, 2, 4)}, "must have 4 entries"),
        ({"strides": (1, 2, 1, 1), "dilations": (1, 1, 0, 4)}, "must have 4 entries"),
        (
            {"output_stride": 8, "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
            "output_stride and levels are alternatives",
        ),
    ],
)
def test_dilation_that_makes_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


# --- weights to begin with


@pytest.fixture
def weights_file(tmp_path):
    """A whole classifier's, as users have it."""
    torch.manual_seed(1)
    network = hardnet_suite.create_model(SMALL, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    return network, str(tmp_path / "mine.pth")


@pytest.mark.parametrize("how", ["pretrained", "init_cfg", "both packages'", "first of a list", "last"])
def test_a_file_to_begin_with(weights_file, how):
    network, path = weights_file
    random, file = {"type": "Kaiming", "layer": "Conv2d"}, {"type": "Pretrained", "checkpoint": path}
    options = {
        "pretrained": {"pretrained": path},
        "init_cfg": {"init_cfg": {"type": "HarDNetPretrained", "file": path}},
        "both packages'": {"init_cfg": file},
        "first of a list": {"init_cfg": [file, random]},
        "last": {"init_cfg": [random, file]},
    }[how]
    backbone = build(**options)
    backbone.init_weights()
    for key, value in network.trunk.state_dict().items():
        assert torch.equal(backbone.trunk.state_dict()[key], value), key


def test_a_file_of_a_model_without_published_weights(tmp_path):
    network = hardnet_suite.create_model("hardnet39dsa", num_classes=3)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    backbone = build(arch="hardnet39dsa", pretrained=str(tmp_path / "mine.pth"))
    backbone.init_weights()
    weight = network.trunk.stem[0].conv.weight
    assert torch.equal(backbone.trunk.stem[0].conv.weight, weight)


def test_a_tag_to_begin_with():
    backbone = build(pretrained="tiny_imagenet10")
    backbone.init_weights()
    expected = hardnet_suite.create_model(SMALL, pretrained="tiny_imagenet10")
    assert torch.equal(backbone.trunk.stem[0].conv.weight, expected.trunk.stem[0].conv.weight)


def test_a_list_loads_a_detectors_file(tmp_path):
    """mmengine's own "Pretrained" would load nothing of it, with a warning."""
    detector = build()
    state = {f"detector.backbone.{key}": value for key, value in detector.state_dict().items()}
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "detector.pth")
    backbone = build(init_cfg=[{"type": "Pretrained", "checkpoint": str(tmp_path / "detector.pth")}])
    backbone.init_weights()
    for key, value in detector.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key


@pytest.mark.parametrize("pretrained", [None, False])
def test_no_weights_to_begin_with(pretrained):
    assert build(pretrained=pretrained).init_cfg is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pretrained": "open-mmlab://resnet50_v1c"}, UserError, "is an address"),
        ({"pretrained": "torchvision://resnet50"}, UserError, "is an address"),
        ({"init_cfg": {"type": "Pretrained", "checkpoint": "https://a/b.pth"}}, UserError, "is an address"),
        ({"pretrained": "imagenet"}, UserError, "neither a file nor a tag"),
        ({"arch": "hardnet68a", "pretrained": True}, ValueError, "hardnet68a"),
        ({"pretrained": 3}, ValueError, "must be True, False, a tag or a path"),
        ({"pretrained": ""}, ValueError, "must be True, False, a tag or a path"),
        ({"pretrained": True, "init_cfg": {"type": "HarDNetPretrained"}}, ValueError, "are alternatives"),
        (
            {"pretrained": True, "init_cfg": {"type": "Pretrained", "checkpoint": "a.pth"}},
            ValueError,
            "are alternatives",
        ),
        ({"init_cfg": {"type": "Pretrained"}}, ValueError, "has no checkpoint"),
        ({"init_cfg": {"type": "Pretrained", "checkpoint": None}}, ValueError, "has no checkpoint"),
        ({"init_cfg": [{"type": "Pretrained"}]}, ValueError, "has no checkpoint"),
        ({"init_cfg": [{"type": "Pretrained", "checkpoint": "imagenet"}]}, UserError, "neither a file nor"),
        (
            {"init_cfg": {"type": "Pretrained", "checkpoint": "a.pth", "prefix": "backbone."}},
            ValueError,
            "finds its trunk in a file by itself",
        ),
    ],
)
def test_weights_that_cannot_be_had(options, error, message):
    with pytest.raises(error, match=message):
        build(**options)


# --- necks


NECKS = {
    "FPN": {"type": "FPN", "num_outs": 5},
    "PAFPN": {"type": "PAFPN", "num_outs": 5},
    "ChannelMapper": {"type": "ChannelMapper", "num_outs": 5},
    "NASFPN": {"type": "NASFPN", "num_outs": 5, "stack_times": 2},
}


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("tap", ["transition", "block"])
def test_necks_get_channels_from_the_model(neck, tap, tmp_path):
    """A config in which no number of channels is typed."""
    (tmp_path / "base.py").write_text("default_scope = 'mmdet'\n")
    (tmp_path / "config.py").write_text(
        "_base_ = 'base.py'\n"
        "from hardnet_suite.networks import feature_channels\n"
        f"arch, tap, indices = 'hardnet68ds', {tap!r}, (1, 2, 3, 4)\n"
        "backbone = dict(type='HarDNet', arch=arch, tap=tap, out_indices=indices)\n"
        f"neck = dict(in_channels=feature_channels(arch, indices, tap), out_channels=16, **{NECKS[neck]!r})\n"
    )
    cfg = Config.fromfile(tmp_path / "config.py")
    with DefaultScope.overwrite_default_scope("mmdet"):
        backbone, made = (mmdet.registry.MODELS.build(part).eval() for part in (cfg.backbone, cfg.neck))
    with torch.no_grad():
        maps = made(backbone(images(128)))
    assert [m.shape[1] for m in maps] == [16] * 5


@pytest.mark.parametrize("arch", CHANNELS)
@pytest.mark.parametrize("tap", ["transition", "block"])
def test_feature_channels(arch, tap):
    assert feature_channels(arch, range(5), tap) == CHANNELS[arch][tap == "block"]
    assert feature_channels(arch, (3, 1), tap) == build(arch=arch, out_indices=(3, 1), tap=tap).out_channels
