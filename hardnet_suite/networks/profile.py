"""Parameters and multiply-adds of a network."""

from __future__ import annotations

import torch
from torch import nn


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, without buffers such as running means."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of the convolutions and linear layers for one input, in eval mode.

    They are counted by torch's flop counter, at two flops per multiply-add. The training mode of the network
    is restored.

    Args:
        network: The network.
        input_shape: Shape of the input, (N, C, H, W).
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

    parameter = next(network.parameters())
    training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(input_shape, device=parameter.device, dtype=parameter.dtype))
    network.train(training)
    return counter.get_total_flops() // 2
