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
    """The mean over the images of each one's mean cross entropy over its hardest pixels, a scalar.

    ``logits``: (N, C, H, W); ``target``: (N, H, W) integers in [0, C) or ``ignore_index``. Of an image the
    pixels whose loss is above ``threshold`` count, and where these are not more than ``min_kept``, the
    ``min_kept`` hardest (all, where there are fewer). An ignored pixel has the loss 0. ``weight``: (C,), of
    each class. Half precision is computed in float32.

    Raises ValueError for other shapes and for ``min_kept`` < 1.
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
    losses = F.cross_entropy(logits, target, weight=weight, ignore_index=ignore_index, reduction="none")
    return torch.stack([_hardest(loss, min_kept, threshold) for loss in losses.flatten(1)]).mean()


def _hardest(losses: Tensor, min_kept: int, threshold: float) -> Tensor:
    above = losses[losses > threshold]
    # the threshold decides only where more than min_kept pixels are above it
    return (above if len(above) > min_kept else losses.topk(min(min_kept, len(losses))).values).mean()
