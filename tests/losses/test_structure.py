"""The structure loss against naive loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hardnet_suite.losses import structure_loss


def case(seed=0, size=(2, 7, 9)):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size[0], 1, *size[1:], generator=generator, dtype=torch.float64)
    target = torch.zeros(size, dtype=torch.long)
    target[:, 2:5, 1:6] = 1
    return logits, target


def naive(logits, target, window=31, edge_weight=5.0, weighted_bce=True, ignore=255):
    height, width = target.shape[1:]
    reach = window // 2
    entropies, parts, plain = [], [], []
    for image, truth in zip(logits[:, 0].tolist(), target.tolist(), strict=True):
        total = weights = common = both = 0.0
        for i in range(height):
            for j in range(width):
                if truth[i][j] == ignore:
                    continue
                around = sum(
                    truth[k][m] if truth[k][m] != ignore else 0
                    for k in range(max(i - reach, 0), min(i + reach + 1, height))
                    for m in range(max(j - reach, 0), min(j + reach + 1, width))
                )
                t = truth[i][j]
                w = 1 + edge_weight * abs(around / window**2 - t)
                p = 1 / (1 + math.exp(-image[i][j]))
                bce = -(t * math.log(p) + (1 - t) * math.log(1 - p))
                total, weights = total + w * bce, weights + w
                plain.append(bce)
                common, both = common + w * p * t, both + w * (p + t)
        entropies.append(total / weights if weights else 0.0)
        parts.append(1 - (common + 1) / (both - common + 1))
    entropy = sum(entropies) / len(entropies) if weighted_bce else sum(plain) / len(plain)
    return entropy + sum(parts) / len(parts)


@pytest.mark.parametrize(
    "options", [{}, {"window": 3}, {"edge_weight": 0.0}, {"weighted_bce": False}, {"window": 1}]
)
def test_the_loss_is_that_of_naive_loops(options):
    logits, target = case()
    assert float(structure_loss(logits, target, **options)) == pytest.approx(naive(logits, target, **options))
    target[0, :2], target[1, 3, 3] = 255, 255
    assert float(structure_loss(logits, target, **options)) == pytest.approx(naive(logits, target, **options))


def test_without_weights_it_is_the_published_training_programs():
    """``reduce='none'`` there is true, so that the cross entropy is the mean over the batch."""
    logits, target = case(1)
    mask = target[:, None].double()
    weight = 1 + 5 * (F.avg_pool2d(mask, 31, 1, 15) - mask).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, mask)
    weighted = (weight * entropy).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    p = logits.sigmoid()
    inter, union = ((p * mask) * weight).sum(dim=(2, 3)), ((p + mask) * weight).sum(dim=(2, 3))
    expected = (weighted + 1 - (inter + 1) / (union - inter + 1)).mean()
    torch.testing.assert_close(structure_loss(logits, target, weighted_bce=False), expected)
    assert float(structure_loss(logits, target)) != pytest.approx(float(expected), rel=1e-3)


def test_ignored_pixels_have_no_gradient_and_an_ignored_image_no_loss_of_its_own():
    logits, target = case()
    logits.requires_grad_()
    target[0], target[1, 0] = 255, 255
    structure_loss(logits, target).backward()
    assert not logits.grad[0].any()
    assert not logits.grad[1, 0, 0].any()
    assert logits.grad[1, 0, 1:].all()


def test_soft_edges_count_by_their_value():
    logits, target = case()
    soft = target.double()
    assert structure_loss(logits, soft) == structure_loss(logits, target)
    soft[:, 2, 1:6] = 0.5
    assert structure_loss(logits, soft) != structure_loss(logits, target)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted(dtype):
    logits, target = case()
    half = logits.to(dtype)
    loss = structure_loss(half, target)
    assert loss.dtype == torch.float32
    assert loss == structure_loss(half.float(), target)


def test_right_and_wrong_answers():
    _, target = case()
    sure = 40.0 * (2 * target[:, None].double() - 1)
    assert float(structure_loss(sure, target)) == pytest.approx(0, abs=1e-6)
    assert float(structure_loss(-sure, target)) > 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, t: structure_loss(x.expand(-1, 2, -1, -1), t), "expected logits of shape"),
        (lambda x, t: structure_loss(x, t[:, 1:]), "expected logits of shape"),
        (lambda x, t: structure_loss(x, 2 * t), "expected a target from 0 to 1"),
        (lambda x, t: structure_loss(x, t, window=4), "window must be an odd integer"),
        (lambda x, t: structure_loss(x, t, window=0), "window must be an odd integer"),
        (lambda x, t: structure_loss(x, t, edge_weight=-1.0), "edge_weight must be a finite number"),
        (lambda x, t: structure_loss(x, t, edge_weight=math.nan), "edge_weight must .* got nan"),
        (lambda x, t: structure_loss(x, t, edge_weight=math.inf), "edge_weight must .* got inf"),
        (lambda x, t: structure_loss(x, t, edge_weight="5"), "edge_weight must .* got '5'"),
        (lambda x, t: structure_loss(x, t, weighted_bce="no"), "weighted_bce must be True or False"),
    ],
)
def test_other_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change(*case())
