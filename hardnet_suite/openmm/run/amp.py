"""Mixed precision in bfloat16, on the CPU and on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Runs forward passes under autocast to bfloat16.

    bfloat16 has the range of float32, so no loss scaling is needed. mmengine's AmpOptimWrapper does not
    support bfloat16 on the CPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


@contextmanager
def bfloat16_loops(on: bool) -> Iterator[None]:
    """Context manager in which mmengine's loops with ``fp16=True`` compute in bfloat16 on CUDA, too.

    Args:
        on: False makes it a no-op.
    """
    before = torch.get_autocast_dtype("cuda")
    if on:
        torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_dtype("cuda", before)
