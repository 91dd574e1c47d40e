"""Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): a network learns another's probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from hardnet_suite.networks.layers import at_least_float32
from hardnet_suite.numeric import require_number

TEMPERATURES = (0.01, 100.0)  # least and most: beyond, float32 loses the differences


def distillation_loss(
    logits: Tensor, probabilities: Tensor, temperature: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Mean Kullback-Leibler divergence from a teacher's probabilities to those of a network, in nats.

    It is multiplied by the square of the temperature, so that gradients keep their size. Half-precision
    logits are converted to float32.

    Args:
        logits: (N, C, …) of the network that learns. C = 1 means the sigmoid.
        probabilities: (N, C, …) of the teacher, at the same temperature; with C = 1 those of the class.
        temperature: Divides the logits, 0.01 to 100.
        mask: (N, …) of booleans, True where the divergence counts. Default: everywhere.

    Returns:
        A scalar, 0 where both agree; also 0 where nothing counts.

    Raises:
        ValueError: Shapes that differ, a mask of other values, or a temperature out of range.
    """
    if logits.ndim < 2 or logits.shape != probabilities.shape:
        raise ValueError(
            "expected logits and probabilities of the same shape (N, C, …), "
            f"got {tuple(logits.shape)} and {tuple(probabilities.shape)}"
        )
    positions = (logits.shape[0], *logits.shape[2:])
    if mask is not None and (mask.shape != positions or mask.dtype != torch.bool):
        raise ValueError(
            f"expected a boolean mask of shape {positions}, got {tuple(mask.shape)} of {mask.dtype}"
        )
    require_number("temperature", temperature, *TEMPERATURES)
    logits, probabilities = at_least_float32(logits) / temperature, at_least_float32(probabilities)
    if logits.shape[1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], 1)
        probabilities = torch.cat([probabilities, 1 - probabilities], 1)
    divergence = (torch.xlogy(probabilities, probabilities) - probabilities * logits.log_softmax(1)).sum(1)
    if mask is None:
        return temperature**2 * divergence.mean()
    return temperature**2 * (divergence * mask).sum() / mask.sum().clamp(min=1)
