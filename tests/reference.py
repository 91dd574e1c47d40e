"""What tests compare with."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def assert_parity(actual: torch.Tensor, reference: torch.Tensor) -> None:
    """The parity rule of the references: rtol 1e-4, atol 1e-4 · max|reference|."""
    torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item())


def formula_tensor(key: str, shape: list[int]) -> torch.Tensor:
    """A stand-in for a published tensor: a pure function of its key and shape, of a trained one's scale."""
    random = np.random.RandomState(zlib.crc32(key.encode()) % 2**32)
    values = random.standard_normal(shape or [1]).astype(np.float32)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.tensor(0)
    if leaf == "running_var":
        values = 1.0 + 0.2 * np.abs(values)
    elif len(shape) >= 2:  # He-scaled by the fan-in
        values = values * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
    else:
        values = 0.1 * values + (1.0 if leaf == "weight" else 0.0)
    return torch.from_numpy(values.astype(np.float32))
