from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from hardnet_suite.losses import descriptor as module
from hardnet_suite.losses import global_orthogonal_regularization, hardest_in_batch_loss

TYPES = ("triplet_margin", "softmax", "contrastive")


def unit_rows(count: int, length: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, length, generator=generator, dtype=torch.float64)).to(dtype)


def pairs(count: int, seed: int = 0, noise: float = 0.3, **options) -> tuple[Tensor, Tensor]:
    anchor = unit_rows(count, seed=seed, **options)
    return anchor, F.normalize(anchor + noise * unit_rows(count, seed=seed + 1, **options))


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("loss_type", TYPES)
@pytest.mark.parametrize("batch_reduce", ["min", "average"])
def test_the_official_loss(golden, batch_reduce, loss_type, swap):
    arrays = golden.arrays("functions.npz")
    anchor = torch.from_numpy(arrays["hn_anchor"]).requires_grad_()
    positive = torch.from_numpy(arrays["hn_positive"]).requires_grad_()
    loss = hardest_in_batch_loss(
        anchor, positive, anchor_swap=swap, batch_reduce=batch_reduce, loss_type=loss_type
    )
    expected = torch.as_tensor(arrays[f"hn_loss_{batch_reduce}_{loss_type}_swap{int(swap)}"])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    for grad in (anchor.grad, positive.grad):
        assert torch.isfinite(grad).all()
        assert grad.abs().sum() > 0


def test_the_official_regularization(golden):
    arrays = golden.arrays("functions.npz")
    anchor, positive = (torch.from_numpy(arrays[key]) for key in ("hn_anchor", "hn_positive"))
    regularization = global_orthogonal_regularization(anchor, positive.flip(0))
    torch.testing.assert_close(regularization, torch.as_tensor(arrays["hn_gor"]), rtol=1e-5, atol=1e-8)


def by_loops(anchor: Tensor, positive: Tensor, swap: bool, margin: float, reduce: str, kind: str) -> float:
    count = len(anchor)
    raw, moved = {}, {}
    for i, j in itertools.product(range(count), repeat=2):
        squared = sum((float(x) - float(y)) ** 2 for x, y in zip(anchor[i], positive[j], strict=True))
        raw[i, j] = math.sqrt(squared + 1e-6) + 1e-8
        moved[i, j] = raw[i, j] + (10 if i == j or raw[i, j] < 0.008 else 0)
    terms = []  # (d(a, p), d(a, n))
    if reduce == "min":
        for i in range(count):
            negatives = [moved[i, j] for j in range(count)]
            if swap:
                negatives += [moved[j, i] for j in range(count)]
            terms.append((raw[i, i], min(negatives)))
    else:
        for i, j in moved:
            terms.append((raw[j, j], min(moved[i, j], moved[j, i]) if swap else moved[i, j]))
    losses = {
        "triplet_margin": lambda p, n: max(0, margin + p - n),
        "softmax": lambda p, n: -math.log(math.exp(2 - p) / (math.exp(2 - p) + math.exp(2 - n))),
        "contrastive": lambda p, n: max(0, margin - n) + p,
    }
    return sum(losses[kind](p, n) for p, n in terms) / len(terms)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 9),
    repeated=st.integers(0, 4),
    swap=st.booleans(),
    margin=st.floats(0, 2, allow_subnormal=False),
    reduce=st.sampled_from(["min", "average"]),
    kind=st.sampled_from(TYPES),
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 10),
)
def test_equals_plain_loops(count, repeated, swap, margin, reduce, kind, seed, rows):
    """For any blocks of rows, and with patches that occur twice in the batch."""
    anchor, positive = pairs(count, seed=seed, dtype=torch.float64, length=4)
    for row in range(min(repeated, count - 1)):
        anchor[row + 1], positive[row + 1] = positive[0], anchor[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", rows)
        loss = hardest_in_batch_loss(anchor, positive, swap, margin, reduce, kind)
    expected = by_loops(anchor, positive, swap, margin, reduce, kind)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("loss_type", TYPES)
def test_random_negatives_are_those_of_a_permutation(loss_type, swap):
    anchor, positive = pairs(8, dtype=torch.float64)
    torch.manual_seed(3)
    loss = hardest_in_batch_loss(anchor, positive, swap, batch_reduce="random", loss_type=loss_type)
    torch.manual_seed(3)
    drawn = torch.randperm(8)
    distances = torch.cdist(anchor, positive) + 10 * torch.eye(8)
    negative = distances[torch.arange(8), drawn]
    if swap:
        negative = torch.minimum(negative, distances[drawn, torch.arange(8)])
    positive_distance = (anchor - positive).norm(dim=1)
    expected = {
        "triplet_margin": (1 + positive_distance - negative).clamp(min=0),
        "softmax": torch.log1p(torch.exp(positive_distance - negative)),
        "contrastive": (1 - negative).clamp(min=0) + positive_distance,
    }[loss_type].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("loss_type", TYPES)
@pytest.mark.parametrize("batch_reduce", ["min", "average"])
def test_gradients_are_right(batch_reduce, loss_type, swap):
    anchor, positive = pairs(6, dtype=torch.float64, length=5)
    assert torch.autograd.gradcheck(
        lambda a, p: hardest_in_batch_loss(a, p, swap, 1.3, batch_reduce, loss_type),
        (anchor.requires_grad_(), positive.requires_grad_()),
    )


@pytest.mark.parametrize("batch_reduce", ["min", "average", "random"])
@pytest.mark.parametrize("loss_type", TYPES)
@pytest.mark.parametrize("swap", [False, True])
def test_equal_rows_have_finite_gradients_and_are_no_negatives(batch_reduce, loss_type, swap):
    anchor = unit_rows(1).repeat(5, 1).requires_grad_()
    positive = anchor.detach().clone().requires_grad_()
    loss = hardest_in_batch_loss(anchor, positive, swap, 1.0, batch_reduce, loss_type)
    assert loss.item() < 2e-3  # the distance of equal rows is 0.001; a negative so close would cost 1
    loss.backward()
    assert torch.isfinite(anchor.grad).all()
    assert torch.isfinite(positive.grad).all()


def test_a_near_duplicate_is_no_negative_but_a_slightly_further_row_is():
    anchor = unit_rows(3, 8, dtype=torch.float64)
    positive = anchor.clone()
    for gap, expected in ((0.007, 0.0), (0.02, 1.0)):
        step = torch.zeros(8, dtype=torch.float64)
        step[0] = gap
        anchor[1] = positive[1] = anchor[0] + step
        loss = hardest_in_batch_loss(anchor, positive)
        assert loss.item() == pytest.approx(expected * 2 / 3, abs=0.02)


def test_perfect_pairs_that_are_far_apart_cost_nothing():
    eye = torch.eye(8)
    assert hardest_in_batch_loss(eye, eye, anchor_swap=True).item() == 0
    assert hardest_in_batch_loss(eye, eye, margin=1.5).item() == pytest.approx(
        1.5 + 0.001 - math.sqrt(2), abs=1e-5
    )


def test_the_swap_takes_the_closer_negative():
    anchor, positive = pairs(32, noise=0.8)
    plain, swapped = (hardest_in_batch_loss(anchor, positive, anchor_swap=swap) for swap in (False, True))
    assert swapped > plain


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch_reduce", ["min", "average"])
def test_half_precision_is_computed_in_float32(dtype, batch_reduce):
    anchor, positive = (rows.to(dtype) for rows in pairs(64))
    loss = hardest_in_batch_loss(anchor, positive, True, batch_reduce=batch_reduce)
    assert loss.dtype == torch.float32
    expected = hardest_in_batch_loss(anchor.float(), positive.float(), True, batch_reduce=batch_reduce)
    assert torch.equal(loss, expected)
    assert torch.equal(
        global_orthogonal_regularization(anchor, positive),
        global_orthogonal_regularization(anchor.float(), positive.float()),
    )


@pytest.mark.parametrize("batch_reduce", ["min", "average"])
def test_autocast_changes_nothing(batch_reduce):
    anchor, positive = pairs(64)
    expected = hardest_in_batch_loss(anchor, positive, True, batch_reduce=batch_reduce)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hardest_in_batch_loss(anchor, positive, True, batch_reduce=batch_reduce), expected)


def test_no_whole_matrix_in_memory_for_the_hardest_negatives(monkeypatch):
    shapes = []
    original = module._distances
    monkeypatch.setattr(module, "_ROWS", 16)
    monkeypatch.setattr(module, "_distances", lambda a, b: shapes.append((len(a), len(b))) or original(a, b))
    anchor, positive = pairs(40)
    hardest_in_batch_loss(anchor.requires_grad_(), positive, anchor_swap=True).backward()
    assert shapes == [(16, 40), (16, 40), (8, 40)]


def test_regularization_by_hand():
    anchor = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    assert global_orthogonal_regularization(anchor, anchor.flip(0)).item() == 0  # orthogonal
    loss = global_orthogonal_regularization(anchor, anchor)
    assert loss.item() == pytest.approx(1 + 0.5)
    loss.backward()
    assert torch.isfinite(anchor.grad).all()


def test_random_rows_are_spread_and_equal_rows_are_not():
    rows = unit_rows(4096, 128)
    assert global_orthogonal_regularization(rows, rows.roll(1, 0)).item() < 1e-3
    assert global_orthogonal_regularization(rows, rows).item() > 1.9


@pytest.mark.parametrize(
    ("anchor", "positive", "message"),
    [
        (torch.zeros(4, 8), torch.zeros(4, 7), r"same shape \(N, D\), got \(4, 8\) and \(4, 7\)"),
        (torch.zeros(4, 8), torch.zeros(3, 8), r"got \(4, 8\) and \(3, 8\)"),
        (torch.zeros(4, 8, 1), torch.zeros(4, 8, 1), r"got \(4, 8, 1\)"),
        (torch.zeros(4, 0), torch.zeros(4, 0), r"got \(4, 0\)"),
        (torch.zeros(4, 8, dtype=torch.uint8), torch.zeros(4, 8), "floating point, got torch.uint8"),
        (torch.zeros(0, 8), torch.zeros(0, 8), "at least"),
        (np.zeros((4, 8)), torch.zeros(4, 8), "to be tensors, got ndarray and Tensor"),
        (torch.zeros(4, 8), None, "to be tensors, got Tensor and NoneType"),
    ],
)
def test_bad_rows_are_refused(anchor, positive, message):
    for function in (hardest_in_batch_loss, global_orthogonal_regularization):
        with pytest.raises(ValueError, match=message):
            function(anchor, positive)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1}, "margin must be a finite number of at least 0, got -0.1"),
        ({"margin": math.nan}, "got nan"),
        ({"margin": math.inf}, "got inf"),
        ({"margin": "1"}, "margin must be a finite number of at least 0, got '1'"),
        ({"anchor_swap": "no"}, "anchor_swap must be True or False, got 'no'"),
        ({"batch_reduce": "max"}, "unknown batch_reduce 'max'; known: min, average, random"),
        ({"loss_type": "l2"}, "unknown loss_type 'l2'; known: triplet_margin, softmax, contrastive"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hardest_in_batch_loss(*pairs(4), **options)


def test_a_single_pair_has_no_negative():
    with pytest.raises(ValueError, match="at least 2 pairs, as negatives come from the batch; got 1"):
        hardest_in_batch_loss(*pairs(1))
