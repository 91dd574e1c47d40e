"""Parameters and multiply-adds of a network."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """Number of parameters (buffers such as running means not counted)."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of convolutions and linear layers for one input of shape (N, C, H, W), in eval mode.

    Counted by torch's flop counter (two flops a multiply-add); the network's mode is left as it was.
    """
    parameter = next(network.parameters())
    training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(input_shape, device=parameter.device, dtype=parameter.dtype))
    network.train(training)
    return counter.get_total_flops() // 2
