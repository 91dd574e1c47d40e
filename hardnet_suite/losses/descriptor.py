"""Losses of the patch descriptor HardNet (https://github.com/DagnyT/hardnet)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from hardnet_suite.networks.layers import at_least_float32
from hardnet_suite.numeric import require_number

_NEAR_DUPLICATE = 0.008  # a negative closer than this shows the same patch
_OUT_OF_REACH = 10.0  # added to the distance of a pair that is no negative
_ROWS = 1024  # of the distance matrix in memory at a time


def hardest_in_batch_loss(
    anchor: Tensor,
    positive: Tensor,
    anchor_swap: bool = False,
    margin: float = 1.0,
    batch_reduce: str = "min",
    loss_type: str = "triplet_margin",
) -> Tensor:
    """HardNet's loss: each pair against negatives from its own batch (NIPS 2017, section 3.1).

    Row i of ``positive`` matches row i of ``anchor``; every other row is a candidate negative. With d the
    Euclidean distance, the loss of a positive pair (a, p) and a negative n is

    - "triplet_margin": max(0, margin + d(a, p) − d(a, n)),
    - "softmax": −log(e^(2 − d(a, p)) / (e^(2 − d(a, p)) + e^(2 − d(a, n)))),
    - "contrastive": max(0, margin − d(a, n)) + d(a, p).

    A candidate closer than 0.008 is taken for the same patch and moved out of reach, 10 further away. Half
    precision is converted to float32, under autocast too. Gradients are finite also where rows are equal.

    Args:
        anchor: (N, D) descriptors, N ≥ 2; unit-length rows for the usual meaning of ``margin``.
        positive: (N, D) descriptors.
        anchor_swap: Use the closer of d(a_i, p_j) and d(a_j, p_i) as the negative distance, for the hardest
            negative of a row and that of its column alike.
        margin: At least 0; unused by "softmax".
        batch_reduce: "min": the hardest negative of each pair; "average": the mean over all N² entries of the
            distance matrix, as in the original, its diagonal (10 further away) included; "random": one
            negative drawn per pair (from PyTorch's global generator). "min" keeps 1024 rows of the distance
            matrix in memory at a time, "random" none of it, "average" all of it with its gradients.
        loss_type: "triplet_margin", "softmax" or "contrastive".

    Returns:
        A scalar.

    Raises:
        ValueError: Unexpected shapes or types, fewer than two pairs, a negative or non-finite ``margin``, no
            bool as ``anchor_swap``, or an unknown ``batch_reduce`` or ``loss_type``.
    """
    _check_rows("anchor", anchor, "positive", positive)
    if len(anchor) < 2:
        raise ValueError(f"expected at least 2 pairs, as negatives come from the batch; got {len(anchor)}")
    require_number("margin", margin, 0)
    if not isinstance(anchor_swap, bool):
        raise ValueError(f"anchor_swap must be True or False, got {anchor_swap!r}")
    if batch_reduce not in ("min", "average", "random"):
        raise ValueError(f"unknown batch_reduce {batch_reduce!r}; known: min, average, random")
    if loss_type not in _LOSSES:
        raise ValueError(f"unknown loss_type {loss_type!r}; known: {', '.join(_LOSSES)}")
    with torch.autocast(anchor.device.type, enabled=False):
        anchor, positive = at_least_float32(anchor), at_least_float32(positive)
        to_positive = _pairwise(anchor, positive)
        if batch_reduce == "average":
            # entry (i, j) is compared with pair j, as in the original
            to_negative = _moved(_distances(anchor, positive))
            if anchor_swap:
                to_negative = torch.minimum(to_negative, to_negative.T)
        elif batch_reduce == "random":
            drawn = torch.randperm(len(anchor), device=anchor.device)
            to_negative = _to_chosen(anchor, positive, drawn)
            if anchor_swap:
                to_negative = torch.minimum(to_negative, _to_chosen(positive, anchor, drawn))
        else:
            in_row, in_column = _hardest(anchor.detach(), positive.detach())
            to_negative = _to_chosen(anchor, positive, in_row)
            if anchor_swap:
                to_negative = torch.minimum(to_negative, _to_chosen(positive, anchor, in_column))
        return _LOSSES[loss_type](to_positive, to_negative, margin).mean()


def global_orthogonal_regularization(anchor: Tensor, negative: Tensor) -> Tensor:
    """Spread of non-matching descriptors over the sphere (Zhang et al., ICCV 2017, arXiv 1708.06320).

    M1² + max(0, M2 − 1 / D), where M1 and M2 are the mean and the mean square of the inner products of rows:
    those of independent, uniformly distributed unit vectors have M1 = 0 and M2 = 1 / D. Half precision is
    converted to float32, under autocast too.

    Args:
        anchor: (N, D) descriptors of unit length, N ≥ 1.
        negative: (N, D) descriptors; row i does not match row i of ``anchor``.

    Returns:
        A scalar.

    Raises:
        ValueError: Unexpected shapes or types.
    """
    _check_rows("anchor", anchor, "negative", negative)
    if not len(anchor):
        raise ValueError("expected at least 1 pair, got none")
    with torch.autocast(anchor.device.type, enabled=False):
        products = (at_least_float32(anchor) * at_least_float32(negative)).sum(dim=1)
        return products.mean() ** 2 + F.relu(products.square().mean() - 1 / anchor.shape[1])


def _check_rows(first: str, a: Tensor, second: str, b: Tensor) -> None:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        raise ValueError(
            f"expected {first} and {second} to be tensors, got {type(a).__name__} and {type(b).__name__}"
        )
    if a.ndim != 2 or a.shape != b.shape or not a.shape[1]:
        raise ValueError(
            f"expected {first} and {second} of the same shape (N, D), "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not (a.is_floating_point() and b.is_floating_point()):
        raise ValueError(f"expected {first} and {second} of floating point, got {a.dtype} and {b.dtype}")


def _root(squared: Tensor) -> Tensor:
    return (squared + 1e-6).sqrt() + 1e-8  # the original's constants; they keep the gradient finite at 0


def _pairwise(a: Tensor, b: Tensor) -> Tensor:
    """Distance of row i of a from row i of b: (N,)."""
    return _root((a - b).square().sum(dim=1))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Distance of row i of a from row j of b: (N, M)."""
    squared = torch.addmm(b.square().sum(dim=1), a, b.T, alpha=-2) + a.square().sum(dim=1, keepdim=True)
    return _root(squared.clamp(min=0))  # rounding may leave less than 0


def _moved(distances: Tensor, first_row: int = 0) -> Tensor:
    """Distances of candidate negatives: pairs and near duplicates are out of reach."""
    rows = torch.arange(first_row, first_row + len(distances), device=distances.device)
    columns = torch.arange(distances.shape[1], device=distances.device)
    no_negative = (distances.detach() < _NEAR_DUPLICATE) | (rows[:, None] == columns)
    return torch.where(no_negative, distances + _OUT_OF_REACH, distances)


@torch.no_grad()
def _hardest(anchor: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the closest candidate negative in each row and in each column of the distance matrix."""
    in_row = []
    least, in_column = None, None
    for first in range(0, len(anchor), _ROWS):
        block = _moved(_distances(anchor[first : first + _ROWS], positive), first)
        in_row.append(block.argmin(dim=1))
        values, indices = block.min(dim=0)
        indices += first
        if least is not None:
            indices = torch.where(values < least, indices, in_column)
            values = torch.minimum(values, least)
        least, in_column = values, indices
    return torch.cat(in_row), in_column


def _to_chosen(a: Tensor, b: Tensor, chosen: Tensor) -> Tensor:
    """Distance of row i of a from row ``chosen[i]`` of b, out of reach where that is no negative: (N,)."""
    distances = _pairwise(a, b[chosen])
    itself = chosen == torch.arange(len(chosen), device=chosen.device)
    no_negative = (distances.detach() < _NEAR_DUPLICATE) | itself
    return torch.where(no_negative, distances + _OUT_OF_REACH, distances)


def _triplet_margin(to_positive: Tensor, to_negative: Tensor, margin: float) -> Tensor:
    return F.relu(margin + to_positive - to_negative)


def _softmax(to_positive: Tensor, to_negative: Tensor, margin: float) -> Tensor:
    return F.softplus(to_positive - to_negative)  # −log(e^−p / (e^−p + e^−n)), without overflow


def _contrastive(to_positive: Tensor, to_negative: Tensor, margin: float) -> Tensor:
    return F.relu(margin - to_negative) + to_positive


_LOSSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "triplet_margin": _triplet_margin,
    "softmax": _softmax,
    "contrastive": _contrastive,
}
