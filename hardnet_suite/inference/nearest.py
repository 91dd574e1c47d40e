"""Nearest neighbours among descriptors: exact, in bounded memory."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)

_AT_ONCE = 1 << 24  # numbers of a matrix of distances, or of differences, in memory
_LARGEST_INTEGER = 2**53 - 1  # 2^53 may be a neighbour, rounded


def nearest_neighbours(queries: Array, references: Array, k: int = 1) -> tuple[Array, Array]:
    """The k nearest references of each query by Euclidean distance, nearest first.

    The search is exhaustive and exact: matrix products preselect, and wherever their rounding could change
    the order, distances are computed from differences. Of references at equal distances, the one with the
    smaller index is the nearer.

    Args:
        queries: (N, D) of any real dtype, NumPy or torch. Those that float32 holds are compared in float32,
            others in float64, where differences below 1e-154 count as none.
        references: (M, D), of the same library.
        k: how many.

    Returns:
        (N, min(k, M)) int64 indices of references, and (N, min(k, M)) float32 distances. Tensors are on the
        device of ``queries``.

    Raises:
        ValueError: other shapes, k < 1, NaN or infinite values, integers beyond 2^53, or distances of
            neighbours beyond the range of float32.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"expected k of at least 1, got {k!r}")
    a, b = _pair(queries, references)
    indices, distances = _nearest(a, b, int(k))
    return _like(queries, indices), _like(queries, distances.float())


def mutual_matches(a: Array, b: Array, ratio: float | None = None) -> tuple[Array, Array]:
    """Mutual nearest neighbours of two sets of descriptors, by Euclidean distance.

    The result is symmetric: exchanging the sets exchanges the columns of the pairs.

    Args:
        a: (N, D), as for ``nearest_neighbours``.
        b: (M, D).
        ratio: in (0, 1]; keeps a match only if its distance is less than ``ratio`` times the distance to the
            second nearest, in both directions (Lowe 2004, section 7.1, applied to both images). A set of one
            descriptor has no second nearest, so that nothing passes. None: no such test.

    Returns:
        (K, 2) int64 pairs [index in a, index in b], sorted by the index in a, and (K,) float32 distances.

    Raises:
        ValueError: other shapes, a ratio out of range, or values as for ``nearest_neighbours``.
    """
    if ratio is not None and not 0 < ratio <= 1:
        raise ValueError(f"expected a ratio in (0, 1], got {ratio}")
    first, second = _pair(a, b)
    k = 1 if ratio is None else 2
    to_b, distances = _nearest(first, second, k)
    to_a, distances_back = _nearest(second, first, k)
    if not len(first) or not len(second) or to_b.shape[1] < k or to_a.shape[1] < k:
        nothing = torch.zeros(0, 2, dtype=torch.int64, device=first.device)
        return _like(a, nothing), _like(a, torch.zeros(0, device=first.device))
    here = torch.arange(len(first), device=first.device)
    partners = to_b[:, 0]
    keep = to_a[partners, 0] == here
    if ratio is not None:
        keep &= distances[:, 0] < ratio * distances[:, 1]
        keep &= (distances_back[:, 0] < ratio * distances_back[:, 1])[partners]
    pairs = torch.stack([here[keep], partners[keep]], dim=1)
    return _like(a, pairs), _like(a, distances[keep, 0].float())


def _pair(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Both sets as float32 or float64 tensors on one device, checked."""
    first, second = (_descriptors(values) for values in (a, b))
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"expected descriptors of one length, got {first.shape[1]} and {second.shape[1]} numbers"
        )
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(first.device, dtype)


def _descriptors(values: Any) -> Tensor:
    tensor = values.detach() if isinstance(values, Tensor) else _tensor(np.asarray(values))
    if tensor.ndim != 2 or not tensor.shape[1]:
        raise ValueError(f"expected descriptors of shape (N, D), got {tuple(tensor.shape)}")
    if tensor.is_complex():
        raise ValueError(f"expected real descriptors, got {tensor.dtype}")
    kind = tensor.dtype
    if kind == torch.float64 or (not kind.is_floating_point and kind.itemsize > 2):
        tensor = tensor.double()
    else:
        tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise ValueError("descriptors hold NaN or infinite values")
    if not kind.is_floating_point and (tensor.abs() > _LARGEST_INTEGER).any():
        raise ValueError("descriptors hold integers beyond 2^53, which float64 cannot tell apart")
    return tensor.contiguous()


def _tensor(array: np.ndarray) -> Tensor:
    """Without a copy where PyTorch can hold the array as it is."""
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"expected real descriptors of at most 64 bits, got {array.dtype}")
    # PyTorch has neither read-only arrays nor those of another byte order
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def _like(values: Any, result: Tensor) -> Any:
    return result if isinstance(values, Tensor) else result.cpu().numpy()


def _nearest(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(N, min(k, M)) indices and float64 distances."""
    k = min(k, len(b))
    indices = torch.zeros(len(a), k, dtype=torch.int64, device=a.device)
    distances = torch.zeros(len(a), k, dtype=torch.float64, device=a.device)
    if not k:
        return indices, distances
    step = max(1, _AT_ONCE // max(len(b), k * a.shape[1]))
    with torch.autocast(a.device.type, enabled=False):
        for start in range(0, len(a), step):
            part = slice(start, start + step)
            indices[part], distances[part] = _nearest_of_chunk(a[part], b, k)
    if (distances > torch.finfo(torch.float32).max).any():
        raise ValueError("distances of descriptors are beyond the range of float32: scale the descriptors")
    return indices, distances


def _nearest_of_chunk(a: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
    product = a @ b.T if _is_float32_exact() else (a.double() @ b.double().T).to(a.dtype)
    norms_a, norms_b = a.square().sum(1), b.square().sum(1)
    squares = product.mul_(-2).add_(norms_b).add_(norms_a[:, None])
    count = min(k + 1, len(b))
    values, indices = squares.topk(count, dim=1, largest=False)
    # each sum of D products is within D ε / 2 times the product of the norms (Higham 2002, section 3.1), and
    # each product within the smallest normal number, where it may be flushed to zero
    kind = torch.finfo(a.dtype)
    bound = (a.shape[1] + 4) * (kind.eps * (norms_a + norms_b.max()) + 4 * kind.tiny)
    # not where squares overflow
    is_clear = (values.diff(dim=1) > 2 * bound[:, None]) & values[:, 1:].isfinite()
    close = ~is_clear.all(1)
    indices = indices[:, :k].contiguous()
    distances = _distances(a[:, None], b[indices])
    rows = close.nonzero()[:, 0]
    step = max(1, _AT_ONCE // b.numel())
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        found, order = _distances(a[part][:, None], b[None]).sort(dim=1, stable=True)
        indices[part], distances[part] = order[:, :k], found[:, :k]
    return indices, distances


def _is_float32_exact() -> bool:
    """Whether float32 products are in float32: TF32 and bfloat16 are beyond the bound on their rounding."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # the precision was set by backend
        return False


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).square().sum(-1).sqrt()
