"""FC-HarDNet's loss: cross entropy over the hardest pixels (https://github.com/PingoLH/FCHarDNet)."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional as F

from hardnet_suite.networks.layers import at_least_float32
from hardnet_suite.numeric import require_count


def bootstrapped_cross_entropy(
    logits: Tensor,
    target: Tensor,
    min_kept: int = 4096,
    threshold: float = 0.3,
    ignore_index: int = 255,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean cross entropy over the hardest pixels of each image, averaged over the images.

    An image's hardest pixels are those with a loss above ``threshold`` or, unless there are more than
    ``min_kept`` of them, the ``min_kept`` pixels with the largest loss (all pixels of a smaller image).
    Ignored pixels have a loss of 0. Half-precision logits are converted to float32. One pixel whose loss is
    NaN makes the whole loss NaN.

    Args:
        logits: (N, C, H, W). C = 1 means binary cross entropy with the sigmoid.
        target: (N, H, W) integers in [0, C) or ``ignore_index``. With C = 1, the class is 1 and its absence
            0, as for ``F.binary_cross_entropy_with_logits``.
        min_kept: Minimum number of pixels per image.
        threshold: Threshold on the loss of a pixel; infinite: always the ``min_kept`` hardest pixels.
        ignore_index: Target value of ignored pixels.
        weight: (C,) weight per class, at least 0; with C = 1, the weight of the pixels of the class.

    Returns:
        A scalar.

    Raises:
        ValueError: Unexpected shapes, a ``min_kept`` that is not an integer of at least 1, a ``threshold``
            that is not a number, a negative or non-finite ``weight``, or with C = 1 a target other than 0, 1
            and ``ignore_index``.
    """
    if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "expected logits of shape (N, C, H, W) and target of shape (N, H, W), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    require_count("min_kept", min_kept)
    if not isinstance(threshold, Real) or isinstance(threshold, bool) or math.isnan(threshold):
        raise ValueError(f"threshold must be a number, got {threshold!r}")
    logits = at_least_float32(logits)
    weight = None if weight is None else _checked_weight(weight, logits)
    if logits.shape[1] == 1:
        losses = _binary_cross_entropy(logits[:, 0], target, ignore_index, weight)
    else:
        losses = F.cross_entropy(logits, target, weight=weight, ignore_index=ignore_index, reduction="none")
    return torch.stack([_hardest(loss, min_kept, threshold) for loss in losses.flatten(1)]).mean()


def _checked_weight(weight: Tensor, logits: Tensor) -> Tensor:
    classes = logits.shape[1]
    if not isinstance(weight, Tensor) or weight.shape != (classes,):
        shown = tuple(weight.shape) if isinstance(weight, Tensor) else repr(weight)
        raise ValueError(f"expected a tensor weight of shape ({classes},), one per class, got {shown}")
    valid = weight.isfinite() & (weight >= 0)
    if not valid.all():
        raise ValueError(f"weight must be finite and at least 0, got {weight[~valid][0].item()}")
    return weight.to(logits.dtype)


def _binary_cross_entropy(logits: Tensor, target: Tensor, ignore_index: int, weight: Tensor | None) -> Tensor:
    counted = target != ignore_index
    if not ((target == 0) | (target == 1) | ~counted).all():
        raise ValueError(f"expected a target of 0, 1 and {ignore_index} only, as there is one logit")
    losses = F.binary_cross_entropy_with_logits(
        logits, (target == 1).to(logits.dtype), reduction="none", pos_weight=weight
    )
    return losses * counted


def _hardest(losses: Tensor, min_kept: int, threshold: float) -> Tensor:
    above = losses[~(losses <= threshold)]  # NaN, too
    # the threshold applies only if more than min_kept pixels exceed it
    return (above if len(above) > min_kept else losses.topk(min(min_kept, len(losses))).values).mean()
