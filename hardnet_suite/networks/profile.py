"""Parameters, multiply-adds and memory traffic of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hardnet_suite.networks.modes import eval_mode


def count_parameters(network: nn.Module) -> int:
    """Number of parameters, without buffers such as running means."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of the convolutions and linear layers for one input, in eval mode.

    They are counted by torch's flop counter, at two flops per multiply-add. Only shapes are computed; the
    network stays as it is.

    Args:
        network: The network.
        input_shape: Shape of the input, (N, C, H, W).
    """
    return sum(_count(network, input_shape, {}).values()) // 2


def convolutional_io(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    """CIO, the elements that the convolutions read and write: a model of the memory traffic, in eval mode.

    It sums the sizes of the input and the output of every convolution, as if each were read and written
    once; weights and all other layers are left out (HarDNet, arXiv 1909.00948, section 3). Only shapes are
    computed.

    Args:
        network: The network.
        input_shape: Shape of the input, (N, C, H, W).
    """
    aten = torch.ops.aten
    counted = {aten.convolution: _input_and_output, aten._convolution: _input_and_output}
    counts = _count(network, input_shape, counted)
    return sum(counts.get(operator, 0) for operator in counted)


def _input_and_output(input_shape: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    return math.prod(input_shape) + math.prod(out_shape)


def _count(network: nn.Module, input_shape: tuple[int, ...], formulas: Mapping[Any, Any]) -> dict[Any, int]:
    """Operator -> sum over its calls in one forward pass of its formula, by default its flops."""
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton

    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((tensor.dtype for tensor in network.parameters()), torch.float32)
    counter = FlopCounterMode(display=False, custom_mapping=dict(formulas))
    with eval_mode(network), torch.no_grad(), counter:
        inputs = torch.zeros(input_shape, device="meta", dtype=dtype)
        torch.func.functional_call(network, on_meta, (inputs,))
    return dict(counter.get_flop_counts()["Global"])
