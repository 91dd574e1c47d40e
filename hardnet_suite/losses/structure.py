"""The structure loss of HarDNet-MSEG, from F3Net (Wei et al., AAAI 2020, arXiv 1911.11445, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hardnet_suite.networks.layers import at_least_float32
from hardnet_suite.numeric import require_number


def structure_loss(
    logits: Tensor,
    target: Tensor,
    *,
    window: int = 31,
    edge_weight: float = 5.0,
    weighted_bce: bool = True,
    ignore_index: int = 255,
) -> Tensor:
    """Weighted binary cross entropy plus weighted IoU loss, averaged over the images.

    The weight of a pixel is 1 + ``edge_weight`` · d, where d is the absolute difference between its target
    and the mean of the target over the window around it, large near edges; outside the image the target
    counts as 0. Of each image, with weights w, probabilities p and target t,

    - cross entropy: Σ w · bce / Σ w,
    - IoU loss: 1 − (Σ w · p · t + 1) / (Σ w · (p + t − p · t) + 1).

    Ignored pixels have no weight, and count as 0 in the windows of others. Half-precision logits are
    converted to float32.

    Args:
        logits: (N, 1, H, W).
        target: (N, H, W), 1 for the class, 0 for its absence, or ``ignore_index``; integers, or floats with
            values between 0 and 1 at soft edges.
        window: Side of the window in pixels, odd.
        edge_weight: Additional weight of a pixel whose surroundings are all different, at least 0.
        weighted_bce: Whether the weights count in the cross entropy. The training programs of F3Net, PraNet
            and HarDNet-MSEG pass ``reduce='none'`` to PyTorch, which takes it for True and returns the plain
            mean over the batch: False computes that.
        ignore_index: Target value of ignored pixels.

    Returns:
        A scalar.

    Raises:
        ValueError: Unexpected shapes, an invalid window or edge weight, no bool as ``weighted_bce``, or a
            target out of range.
    """
    if logits.ndim != 4 or logits.shape[1] != 1 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            "expected logits of shape (N, 1, H, W) and target of shape (N, H, W), "
            f"got {tuple(logits.shape)} and {tuple(target.shape)}"
        )
    if type(window) is not int or window < 1 or window % 2 == 0:
        raise ValueError(f"window must be an odd integer of at least 1, got {window!r}")
    require_number("edge_weight", edge_weight, 0)
    if not isinstance(weighted_bce, bool):
        raise ValueError(f"weighted_bce must be True or False, got {weighted_bce!r}")
    logits = at_least_float32(logits)
    counted = (target != ignore_index)[:, None]
    truth = torch.where(counted, target[:, None].to(logits.dtype), 0)
    if not ((truth >= 0) & (truth <= 1)).all():
        raise ValueError(f"expected a target from 0 to 1, or {ignore_index}, as there is one logit")
    mean = F.avg_pool2d(truth, window, stride=1, padding=window // 2)
    weight = (1 + edge_weight * (mean - truth).abs()) * counted
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    if weighted_bce:
        entropy = _sum(weight * losses) / _sum(weight).clamp(min=1)
    else:
        entropy = (losses * counted).sum() / counted.sum().clamp(min=1)
    probability = logits.sigmoid()
    common = _sum(weight * probability * truth)
    union = _sum(weight * (probability + truth)) - common
    return (entropy + 1 - (common + 1) / (union + 1)).mean()


def _sum(values: Tensor) -> Tensor:
    """Per image."""
    return values.sum(dim=(1, 2, 3))
