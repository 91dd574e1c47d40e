"""A network that has diverged finds nothing, or one class everywhere: such outputs are errors."""

from __future__ import annotations

import torch
from torch import Tensor

from hardnet_suite.errors import UserError


def require_finite(*maps: Tensor) -> None:
    """Checks a network's raw outputs before anything is read from them.

    A no-op while a graph is captured, which must not depend on values.

    Raises:
        UserError: one holds NaN or infinity.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return
    if not all(bool(values.isfinite().all()) for values in maps):
        raise UserError(
            "the network's output holds NaN or infinity: its weights are damaged, its training has diverged, "
            "or its values exceed its precision (65504 in fp16); use other weights, or compute in fp32"
        )
