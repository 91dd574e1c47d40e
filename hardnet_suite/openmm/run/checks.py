"""Checks of weights: they must be finite, on all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor

from hardnet_suite.errors import UserError
from hardnet_suite.weights.tables import non_finite


def require_finite_weights(tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Checks weights before they are saved or scored, on all ranks together.

    Args:
        tensors: a state dict.
        where: what holds them, as the subject of the message.

    Raises:
        UserError: a tensor holds NaN or infinity, on this rank or another.
    """
    names = non_finite(tensors)
    if any_rank(bool(names)):
        first = f", {names[0]} for one" if names else " on another rank"
        raise UserError(
            f"{where}: {len(names)} weights hold NaN or infinity{first}: the training has diverged; "
            "use an earlier checkpoint, and train with a lower learning rate or clipped gradients"
        )


def any_rank(condition: bool) -> bool:
    """Whether the condition holds on any rank; all of them must ask."""
    if get_world_size() == 1:
        return condition
    flag = torch.tensor([int(condition)], device=get_device())
    all_reduce(flag, "max")
    return bool(flag)
