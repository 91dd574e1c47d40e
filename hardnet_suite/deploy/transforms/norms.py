"""Batch norms folded into the convolutions before them."""

from __future__ import annotations

import copy
import itertools
from collections import Counter

import torch
from torch import nn

from hardnet_suite.errors import UserError


def fuse_batch_norms(network: nn.Module) -> nn.Module:
    """A copy for inference, whose batch norms are folded into the convolutions before them.

    Args:
        network: With each batch norm right after its convolution in an ``nn.Sequential``. Others are kept,
            and so are those without running statistics, and those of a convolution that is used twice.

    Returns:
        The copy in eval mode, with an ``nn.Identity`` in place of each folded batch norm.
    """
    fused = copy.deepcopy(network).eval()
    uses = Counter(
        id(module)
        for parent in fused.modules()
        for module in parent._modules.values()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    )
    for container in [module for module in fused.modules() if isinstance(module, nn.Sequential)]:
        names = list(container._modules)
        for name, following in itertools.pairwise(names):
            conv, norm = container._modules[name], container._modules[following]
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
                continue
            if norm.track_running_stats and uses[id(conv)] == uses[id(norm)] == 1:
                _fold(conv, norm)
                container._modules[following] = nn.Identity().eval()
    return fused


def require_plain_weights(network: nn.Module) -> None:
    """UserError for layers whose weight is no parameter of theirs, as of ``weight_norm``."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and "weight" not in layer._parameters:
            raise UserError(
                f"the weight of {name} is computed from other tensors: make it a plain one first, by "
                "torch.nn.utils.parametrize.remove_parametrizations or remove_weight_norm"
            )


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """y = (Wx + b − mean) · scale + shift, computed in float64."""
    dtype, trained = conv.weight.dtype, conv.weight.requires_grad
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        shift = -norm.running_mean.double()
        if conv.bias is not None:
            shift += conv.bias.double()
        if norm.affine:
            scale *= norm.weight.double()
        shift *= scale
        if norm.affine:
            shift += norm.bias.double()
        weight = (conv.weight.double() * scale.view(-1, 1, 1, 1)).to(dtype)
    layout = torch.channels_last if conv.weight.is_contiguous(memory_format=torch.channels_last) else None
    conv.weight = nn.Parameter(weight.contiguous(memory_format=layout or torch.contiguous_format), trained)
    conv.bias = nn.Parameter(shift.to(dtype), trained)
