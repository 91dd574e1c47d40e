"""From patches of any size to the input of a patch descriptor: the only place that resizes patches."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_patches(patches: Tensor, side: int = 32) -> Tensor:
    """Square grey patches as a patch descriptor takes them: averaged over areas, in [0, 1].

    Larger patches are reduced as by OpenCV's ``INTER_AREA``, where each output pixel is the mean of the area
    that it covers, so that no detail aliases. Smaller ones are enlarged bilinearly.

    Args:
        patches: (N, h, h) or (N, 1, h, h); integers are 0…255, floating-point values 0…1.
        side: height and width of the result in pixels.

    Returns:
        (N, 1, side, side) float32 in [0, 1], not rounded.

    Raises:
        ValueError: patches of another shape, or that are not square.
    """
    if patches.ndim == 3:
        patches = patches[:, None]
    if patches.ndim != 4 or patches.shape[1] != 1 or patches.shape[2] != patches.shape[3]:
        raise ValueError(f"expected square patches (N, 1, h, h) or (N, h, h), got {tuple(patches.shape)}")
    values = patches.float() if patches.is_floating_point() else patches.float() / 255
    size = values.shape[-1]
    if size < side:
        return F.interpolate(values, size=side, mode="bilinear", align_corners=False)
    if size == side:
        return values
    weights = _area_weights(size, side).to(values.device)
    return weights @ values @ weights.T  # (side, h) @ (N, 1, h, h) @ (h, side)


@cache
@torch.inference_mode(False)  # a later call may compute gradients with them
def _area_weights(size: int, side: int) -> Tensor:
    """(side, size): the share of each of ``size`` pixels in each of ``side`` areas; rows sum to 1."""
    edges = torch.arange(side + 1, dtype=torch.float64) * size / side
    pixels = torch.arange(size, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (covered.clamp(min=0) * side / size).float()
