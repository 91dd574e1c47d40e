"""The loss of FC-HarDNet: cross entropy of the hardest pixels (https://github.com/PingoLH/FCHarDNet)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bootstrapped_cross_entropy(
    logits: Tensor,
    target: Tensor,
    min_kept: int = 4096,
    threshold: float = 0.3,
    ignore_index: int = 255,
    weight: Tensor | None = None,
) -> Tensor:
    """The mean over the images of each image's mean cross entropy over its hardest pixels.

    In an image, the pixels whose loss is above ``threshold`` count; if these are not more than ``min_kept``,
    the ``min_kept`` hardest (all, if there are fewer). An ignored pixel has the loss 0. Half precision is
    computed in float32.

    Args:
        logits: (N, C, H, W). With C = 1 the loss is binary cross entropy with the sigmoid.
        target: (N, H, W) integers in [0, C) or ``ignore_index``; with C = 1, 1 where the class is and 0 where
            it is not, as for ``F.binary_cross_entropy_with_logits``.
        min_kept: how many pixels of an image count at least.
        threshold: of the loss of one pixel.
        ignore_index: target of pixels that do not count.
        weight: (C,), of the pixels of each class; with C = 1, of those where the class is.

    Returns:
        A scalar.

    Raises:
        ValueError: other shapes, ``min_kept`` < 1, or with C = 1 another target than 0, 1 and
            ``ignore_index``.
    """
    if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "logits must be (N, C, H, W) and target (N, H, W), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if min_kept < 1:
        raise ValueError(f"min_kept={min_kept} must be at least 1")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if logits.shape[1] == 1:
        losses = _binary_cross_entropy(logits[:, 0], target, ignore_index, weight)
    else:
        losses = F.cross_entropy(logits, target, weight=weight, ignore_index=ignore_index, reduction="none")
    return torch.stack([_hardest(loss, min_kept, threshold) for loss in losses.flatten(1)]).mean()


def _binary_cross_entropy(logits: Tensor, target: Tensor, ignore_index: int, weight: Tensor | None) -> Tensor:
    counted = target != ignore_index
    if not ((target == 0) | (target == 1) | ~counted).all():
        raise ValueError(f"the target of one logit must hold 0, 1 and {ignore_index} only")
    losses = F.binary_cross_entropy_with_logits(
        logits, (target == 1).to(logits.dtype), reduction="none", pos_weight=weight
    )
    return losses * counted


def _hardest(losses: Tensor, min_kept: int, threshold: float) -> Tensor:
    above = losses[losses > threshold]
    # the threshold decides only where more than min_kept pixels are above it
    return (above if len(above) > min_kept else losses.topk(min(min_kept, len(losses))).values).mean()
