from __future__ import annotations

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
    ],
)
def test_bad_arguments(shape, target, kept, message):
    with pytest.raises(ValueError, match=message):
        bootstrapped_cross_entropy(torch.zeros(shape), torch.zeros(target).long(), kept)
