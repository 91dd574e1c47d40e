"""HarDNet as a backbone of mmdet and mmseg: what comes out, what is frozen, how it trains."""

from __future__ import annotations

import copy

import mmdet.registry
import mmengine.registry
import mmseg.registry
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import hardnet_suite
import hardnet_suite.openmm
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
        ({"tap": "stem"}, "tap='stem' is unknown; allowed: transition, block"),
        ({"frozen_stages": 5}, "frozen_stages=5 must be from −1 to 4"),
        ({"frozen_stages": -2}, "frozen_stages=-2 must be from −1 to 4"),
        ({"frozen_stages": 3, "out_indices": (1, 2)}, "frozen_stages=3 must be from −1 to 2"),
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
