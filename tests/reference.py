"""What tests compare with."""

from __future__ import annotations

import torch


def assert_parity(actual: torch.Tensor, reference: torch.Tensor) -> None:
    """The parity rule of the references: rtol 1e-4, atol 1e-4 · max|reference|."""
    torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-4 * reference.abs().max().item())
