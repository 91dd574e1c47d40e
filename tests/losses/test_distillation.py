"""The distillation loss against torch's own divergence, and where it must not count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hardnet_suite.losses import distillation_loss


def case(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


@settings(max_examples=30, deadline=None)
@given(
    classes=st.integers(2, 7),
    size=st.lists(st.integers(1, 5), max_size=2),
    temperature=st.floats(0.2, 8),
    seed=st.integers(0, 99),
)
def test_it_is_the_mean_divergence_times_the_squared_temperature(classes, size, temperature, seed):
    ours, theirs = case((2, classes, *size), seed)
    expected = F.kl_div(
        (ours / temperature).log_softmax(1),
        (theirs / temperature).log_softmax(1),
        log_target=True,
        reduction="none",
    )
    loss = distillation_loss(ours, (theirs / temperature).softmax(1), temperature)
    torch.testing.assert_close(loss, temperature**2 * expected.sum(1).mean())


def test_one_logit_is_that_of_the_sigmoid():
    ours, theirs = case((2, 1, 4, 5))
    both = torch.cat([ours, torch.zeros_like(ours)], 1)
    likely = theirs.sigmoid()
    expected = distillation_loss(both, torch.cat([likely, 1 - likely], 1), 2.0)
    torch.testing.assert_close(distillation_loss(ours, likely, 2.0), expected)


def test_certain_teachers_make_it_the_cross_entropy():
    logits, _ = case((2, 5, 3, 4))
    target = torch.arange(24).view(2, 3, 4) % 5
    certain = F.one_hot(target, 5).movedim(-1, 1).double()
    torch.testing.assert_close(distillation_loss(logits, certain), F.cross_entropy(logits, target))


def test_the_gradient_keeps_its_size_with_the_temperature():
    ours, theirs = case((1, 6, 8, 8))
    sizes = []
    for temperature in (20.0, 80.0):
        leaf = (0.01 * ours).requires_grad_()
        distillation_loss(leaf, (0.01 * theirs / temperature).softmax(1), temperature).backward()
        sizes.append(leaf.grad.norm())
    torch.testing.assert_close(*sizes, rtol=1e-2, atol=0)


def test_pixels_outside_of_the_mask_count_for_nothing():
    ours, theirs = case((2, 3, 4, 5))
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0, :2], mask[1, 1, 2] = True, True
    likely = theirs.softmax(1)
    leaf = ours.clone().requires_grad_()
    loss = distillation_loss(leaf, likely, mask=mask)
    loss.backward()
    assert not leaf.grad.movedim(1, -1)[~mask].any()
    assert leaf.grad.movedim(1, -1)[mask].any(dim=1).all()
    of_pixels = [
        distillation_loss(ours[n, None, :, y, x], likely[n, None, :, y, x]) for n, y, x in mask.nonzero()
    ]
    torch.testing.assert_close(loss.detach(), torch.stack(of_pixels).mean())
    assert distillation_loss(ours, likely, mask=torch.zeros_like(mask)) == 0


def test_it_is_zero_with_no_gradient_where_both_agree():
    ours, _ = case((2, 3, 4))
    ours.requires_grad_()
    loss = distillation_loss(ours, ours.detach().softmax(1))
    loss.backward()
    assert abs(float(loss.detach())) < 1e-12
    assert ours.grad.abs().max() < 1e-12


def test_half_precision_is_computed_in_float32():
    ours, theirs = (each.bfloat16() for each in case((2, 3, 4)))
    loss = distillation_loss(ours, theirs.softmax(1))
    assert loss.dtype == torch.float32
    assert loss == distillation_loss(ours.float(), theirs.softmax(1).float())


@pytest.mark.parametrize(
    ("ours", "theirs", "options", "message"),
    [
        ((2, 3, 4), (2, 3, 5), {}, "of the same shape"),
        ((3,), (3,), {}, "of the same shape"),
        ((2, 3, 4), (2, 3, 4), {"temperature": 0.0}, "temperature must be a number from 0.01 to 100"),
        ((2, 3, 4), (2, 3, 4), {"temperature": float("nan")}, "temperature must .* got nan"),
        ((2, 3, 4), (2, 3, 4), {"temperature": "1"}, "temperature must .* got '1'"),
        ((2, 3, 4), (2, 3, 4), {"temperature": float("inf")}, "temperature must be a number from"),
        ((2, 3, 4), (2, 3, 4), {"temperature": 1e-40}, "temperature must be a number from"),
        ((2, 3, 4), (2, 3, 4), {"mask": torch.ones(2, 3) > 0}, r"a boolean mask of shape \(2, 4\)"),
        ((2, 3, 4), (2, 3, 4), {"mask": torch.ones(2, 4)}, r"a boolean mask of shape \(2, 4\)"),
    ],
)
def test_bad_arguments(ours, theirs, options, message):
    with pytest.raises(ValueError, match=message):
        distillation_loss(torch.zeros(ours), torch.zeros(theirs), **options)
