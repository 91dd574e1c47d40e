from __future__ import annotations

import copy

import pytest
import torch
from reference import assert_parity
from torch import nn
from torch.nn import functional as F

from hardnet_suite.networks import (
    ARCHS,
    SSD,
    Priors,
    SSDArch,
    build_network,
    count_parameters,
    official_order,
    prior_boxes,
)
from hardnet_suite.networks.layers import L2Norm
from hardnet_suite.networks.ssd import base_boxes
from hardnet_suite.weights import convert_official

DETECTORS = [name for name, row in ARCHS.items() if isinstance(row, SSDArch)]
SMALL = "ssd320_hardnet39ds"


@pytest.fixture(scope="module")
def small() -> SSD:
    """The small detector with random weights and norm statistics, in eval mode; tests must not change it."""
    torch.manual_seed(0)
    network = build_network(SMALL)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def outputs(small, images) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return official_order(small(images))


@pytest.mark.parametrize("name", ["ssd512_hardnet68", "ssd512_hardnet85"])
def test_outputs_are_the_official_ones(golden, name):
    network = build_network(name).eval()
    network.load_state_dict(convert_official(name, golden.state_dict(name)), strict=True)
    rows = torch.from_numpy(golden.arrays("golden.npz")["ssd512/rows"])
    with torch.inference_mode():
        out = network(golden.input(name))
    assert out.keys() == {"cls", "box"}
    boxes, sides = (6, 6, 6, 6, 6, 4, 4), (64, 32, 16, 8, 4, 2, 1)
    assert [tuple(m.shape) for m in out["cls"]] == [
        (1, a * 81, s, s) for a, s in zip(boxes, sides, strict=True)
    ]
    assert [tuple(m.shape) for m in out["box"]] == [
        (1, a * 4, s, s) for a, s in zip(boxes, sides, strict=True)
    ]
    loc, conf = official_order(out)
    assert (loc.shape, conf.shape) == ((1, 32756, 4), (1, 32756, 81))
    reference = golden.outputs(name)
    assert_parity(loc[:, rows], reference["loc"])
    assert_parity(conf[:, rows], reference["conf"])


@pytest.mark.parametrize("name", ["ssd512_hardnet68", "ssd512_hardnet85"])
def test_priors_are_the_official_ones(golden, name):
    official = torch.from_numpy(golden.arrays("golden.npz")["ssd512/priors"])
    torch.testing.assert_close(prior_boxes(ARCHS[name]), official, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", DETECTORS)
def test_there_is_one_prior_a_prediction(name):
    arch = ARCHS[name]
    with torch.device("meta"):
        images = torch.zeros(1, 3, arch.size, arch.size)
        loc, conf = official_order(build_network(name, num_classes=3).eval()(images))
    priors = prior_boxes(arch)
    assert loc.shape == (1, len(priors), 4)
    assert conf.shape == (1, len(priors), 4)
    assert priors.min() > 0
    assert priors.max() <= 1


def test_priors_by_hand():
    priors = Priors(sizes=(20, 80), ratios=((4,),), strides=(50,))
    # a small square, one of the mean size, a wide and a tall one; the wide one is 40×10
    assert base_boxes(priors, 0, 100) == [(20, 20), (40, 40), (40, 10), (10, 40)]
    assert base_boxes(priors, 0, 30) == [(20, 20), (30, 30), (30, 10), (10, 30)]  # clamped to the image
    arch = SSDArch(trunk=ARCHS["hardnet39ds"], size=100, bridge=None, extras=(), priors=priors)
    boxes = prior_boxes(arch)
    assert boxes.shape == (16, 4)
    torch.testing.assert_close(boxes[0], torch.tensor([0.25, 0.25, 0.2, 0.2]))
    torch.testing.assert_close(boxes[4 + 2], torch.tensor([0.75, 0.25, 0.4, 0.1]))  # x runs first


def test_official_order_by_hand():
    """Two boxes at a location, two classes and the background, on maps of 1×2 and 1×1."""
    # channels: box 0 (class 0, class 1, background), box 1 (likewise); tens tell the location apart
    first = torch.tensor([0.0, 1, 2, 3, 4, 5])[:, None] + torch.tensor([0.0, 10])
    out = {
        "cls": [first.view(1, 6, 1, 2), torch.arange(20.0, 26).view(1, 6, 1, 1)],
        "box": [torch.arange(16.0).view(1, 8, 1, 2), torch.arange(100.0, 108).view(1, 8, 1, 1)],
    }
    loc, conf = official_order(out)
    assert conf[0].tolist() == [
        [2, 0, 1],
        [5, 3, 4],
        [12, 10, 11],
        [15, 13, 14],
        [22, 20, 21],
        [25, 23, 24],
    ]
    assert loc[0, :3].tolist() == [[0, 2, 4, 6], [8, 10, 12, 14], [1, 3, 5, 7]]
    assert loc[0, 4:].tolist() == [[100, 101, 102, 103], [104, 105, 106, 107]]


def test_batch_equals_single(small, images, outputs):
    with torch.inference_mode():
        singles = [official_order(small(image[None])) for image in images]
    for whole, parts in zip(outputs, zip(*singles, strict=True), strict=True):
        assert_parity(torch.cat(parts), whole)


def test_float64_agrees_with_float32(small, images, outputs):
    with torch.inference_mode():
        wide = official_order(copy.deepcopy(small).double()(images[:1].double()))
    for narrow, exact in zip(outputs, wide, strict=True):
        assert exact.dtype == torch.float64
        assert_parity(narrow[:1].double(), exact)


def test_norm_statistics_count_and_eval_is_deterministic(small, images, outputs):
    other = copy.deepcopy(small)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.mul_(1.5)
    with torch.inference_mode():
        again, changed = official_order(small(images)), official_order(other(images))
    for before, same, different in zip(outputs, again, changed, strict=True):
        torch.testing.assert_close(before, same, rtol=0, atol=0)
        assert (before - different).abs().max() > 0.01 * before.abs().max()


def assert_gradients_reach_everything(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, num_classes=3).train()
    loc, conf = official_order(network(torch.randn(1, 3, network.arch.size, network.arch.size)))
    target = torch.randint(0, 4, conf.shape[:2])
    loss = F.smooth_l1_loss(loc, torch.randn_like(loc)) + F.cross_entropy(conf.transpose(1, 2), target)
    loss.backward()
    assert not [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_gradients_reach_every_parameter():
    assert_gradients_reach_everything(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd512_hardnet68", "ssd512_hardnet85"])
def test_gradients_reach_every_parameter_of_the_published(name):
    assert_gradients_reach_everything(name)


def test_other_classes_and_channels():
    with torch.device("meta"):
        network = build_network(SMALL, num_classes=1, in_chans=1).eval()
        out = network(torch.zeros(1, 1, 320, 320))
    assert [m.shape[1] for m in out["cls"]] == [2 * a for a in network.arch.priors.per_location]
    assert count_parameters(network) < count_parameters(build_network(SMALL))


@pytest.mark.parametrize("shape", [(1, 3, 300, 320), (1, 3, 512, 512), (1, 1, 320, 320), (3, 320, 320)])
def test_the_input_must_be_of_the_networks_size(small, shape):
    with pytest.raises(ValueError, match=r"\(N, 3, 320, 320\), got") as caught:
        small(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_l2norm_gives_vectors_of_the_scales_length():
    x = torch.randn(2, 8, 3, 3)
    out = L2Norm(8, 20.0)(x)
    torch.testing.assert_close(out.norm(dim=1), torch.full((2, 3, 3), 20.0))
    torch.testing.assert_close(F.cosine_similarity(out, x), torch.ones(2, 3, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_l2norm_does_not_overflow_in_half_precision(dtype):
    out = L2Norm(320, 20.0).to(dtype)(torch.full((1, 320, 1, 1), 200.0, dtype=dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), torch.full_like(out.float(), 20 / 320**0.5), rtol=1e-2, atol=0)


def test_l2norm_of_nothing_is_nothing_and_its_gradient_finite():
    nothing = torch.zeros(1, 4, 2, 2, requires_grad=True)
    out = L2Norm(4, 20.0)(nothing)
    assert not out.any()
    out.sum().backward()
    assert nothing.grad.isfinite().all()
