from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hardnet_suite.losses import bootstrapped_cross_entropy


@pytest.mark.parametrize(("threshold", "kept"), [(0.3, 64), (9.0, 200)])
def test_the_official_loss(golden, threshold, kept):
    arrays = golden.arrays("functions.npz")
    logits = torch.from_numpy(arrays["boot_logits"]).requires_grad_()
    target = torch.from_numpy(arrays["boot_target"])
    loss = bootstrapped_cross_entropy(logits, target, kept, threshold, ignore_index=250)
    expected = torch.as_tensor(arrays[f"boot_loss_th{threshold}_k{kept}"])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    loss.backward()
    ignored = (target == 250)[:, None].expand_as(logits)
    assert not logits.grad[ignored].any()
    assert torch.isfinite(logits.grad).all()


def by_hand(*losses: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (1, 2, 1, K) and target for pixels of exactly these losses."""
    losses = torch.tensor(losses, dtype=torch.float64)
    wrong = torch.log(torch.expm1(losses))
    return torch.stack([torch.zeros_like(losses), wrong])[None, :, None], torch.zeros(
        1, 1, len(losses)
    ).long()


@pytest.mark.parametrize(
    ("kept", "threshold", "expected"),
    [
        (2, 0.3, 2.0),  # 1, 2 and 3 are above, more than 2 of them: all of them
        (3, 0.3, 2.0),  # just as many: the 3 hardest, the same
        (4, 0.3, 1.55),  # too few above: 0.2 comes along
        (1, 9.0, 3.0),
        (100, 9.0, 1.25),  # more than there are: all
    ],
)
def test_which_pixels_count(kept, threshold, expected):
    logits, target = by_hand(1.0, 3.0, 0.05, 2.0, 0.2)
    loss = bootstrapped_cross_entropy(logits, target, kept, threshold)
    assert loss.item() == pytest.approx(expected)


def test_image_by_image_then_the_mean():
    easy, hard = by_hand(0.1, 0.2, 0.3, 0.4), by_hand(4.0, 3.0, 2.0, 1.0)
    logits, target = torch.cat([easy[0], hard[0]]), torch.cat([easy[1], hard[1]])
    each = [bootstrapped_cross_entropy(*pair, 2, 9.0) for pair in (easy, hard)]
    assert bootstrapped_cross_entropy(logits, target, 2, 9.0).item() == pytest.approx(sum(each).item() / 2)


def test_with_all_pixels_it_is_cross_entropy():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 4, 6, 7), torch.randint(0, 4, (1, 6, 7))
    torch.testing.assert_close(
        bootstrapped_cross_entropy(logits, target, 6 * 7, 99.0), F.cross_entropy(logits, target)
    )
    weight = torch.tensor([1.0, 2.0, 0.5, 0.0])
    expected = F.cross_entropy(logits, target, weight=weight, reduction="none").mean()
    torch.testing.assert_close(
        bootstrapped_cross_entropy(logits, target, 6 * 7, 99.0, weight=weight), expected
    )


def test_nothing_but_ignored_pixels():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = bootstrapped_cross_entropy(logits, torch.full((1, 4, 4), 255))
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


def test_half_precision_is_computed_in_single():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 5, 8, 8).bfloat16(), torch.randint(0, 5, (2, 8, 8))
    loss = bootstrapped_cross_entropy(logits, target, 16)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, bootstrapped_cross_entropy(logits.float(), target, 16))


def test_gradients():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 3, 3))
    assert torch.autograd.gradcheck(lambda x: bootstrapped_cross_entropy(x, target, 4, 0.8), logits)


@pytest.mark.parametrize(
    ("shape", "target", "kept", "message"),
    [
        ((1, 3, 4, 4), (1, 4, 5), 4, "target"),
        ((3, 4, 4), (4, 4), 4, "logits"),
        ((1, 3, 4, 4), (1, 4, 4), 0, "min_kept must .* got 0"),
        ((1, 3, 4, 4), (1, 4, 4), 10.5, "min_kept must .* got 10.5"),
        ((1, 3, 4, 4), (1, 4, 4), True, "min_kept must .* got True"),
    ],
)
def test_bad_arguments(shape, target, kept, message):
    with pytest.raises(ValueError, match=message):
        bootstrapped_cross_entropy(torch.zeros(shape), torch.zeros(target).long(), kept)


@pytest.mark.parametrize("threshold", [math.nan, "0.3", None, True])
def test_thresholds_that_are_no_numbers(threshold):
    with pytest.raises(ValueError, match=f"threshold must be a number, got {threshold!r}"):
        bootstrapped_cross_entropy(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4).long(), 4, threshold)


def test_an_infinite_threshold_leaves_the_hardest_pixels():
    logits, target = by_hand(1.0, 3.0, 0.05, 2.0, 0.2)
    assert bootstrapped_cross_entropy(logits, target, 2, math.inf).item() == pytest.approx(2.5)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("shape", [(), (2,), (4,), (1, 3), (3, 1)])
def test_there_is_one_weight_per_class(classes, shape):
    """With one logit a weight per column would be broadcast."""
    logits, target = torch.zeros(1, classes, 4, 4), torch.zeros(1, 4, 4).long()
    with pytest.raises(ValueError, match=f"expected a tensor weight of shape .{classes},., one per class"):
        bootstrapped_cross_entropy(logits, target, 4, weight=torch.ones(shape))
    with pytest.raises(ValueError, match=r"got 2\.0"):
        bootstrapped_cross_entropy(logits, target, 4, weight=2.0)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("classes", [1, 3])
def test_weights_out_of_range(classes, value):
    logits, target = torch.zeros(1, classes, 4, 4), torch.zeros(1, 4, 4).long()
    weight = torch.ones(classes)
    weight[-1] = value
    with pytest.raises(ValueError, match=f"weight must be finite and at least 0, got {value}"):
        bootstrapped_cross_entropy(logits, target, 4, weight=weight)


def test_weights_of_another_type():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 4, 4).half(), torch.randint(0, 3, (1, 4, 4))
    weight = torch.tensor([1.0, 2.0, 0.5])
    losses = [bootstrapped_cross_entropy(logits, target, 4, weight=w) for w in (weight, weight.double())]
    assert losses[0].dtype == losses[1].dtype == torch.float32
    assert losses[0] == losses[1]


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("kept", [2, 16])  # fewer and more than the pixels above the threshold
def test_a_pixel_that_is_not_a_number_is_not_hidden(classes, kept):
    logits, target = torch.zeros(1, classes, 4, 4), torch.zeros(1, 4, 4).long()
    assert bootstrapped_cross_entropy(logits, target, kept).isfinite()
    logits[0, 0, 1, 2] = math.nan
    assert bootstrapped_cross_entropy(logits, target, kept).isnan()
