"""Convolutions of eager mode on the CPU: weights in oneDNN's own layout, activations inside."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from hardnet_suite.deploy.transforms.dtypes import CastConv2d
from hardnet_suite.deploy.transforms.inputs import RawConv2d, with_ones

_ATTRIBUTES = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0])}
_CONVS = (nn.Conv2d, CastConv2d, RawConv2d)


class PackedConv2d(nn.Module):
    """A convolution and its activation as one call of oneDNN, with the weight in the layout it wants.

    Args:
        conv: The convolution, float32, bfloat16 or float16.
        shape: (N, C, H, W) of its typical input; other sizes give the same answer, perhaps more slowly.
    """

    def __init__(self, conv: nn.Conv2d, shape: tuple[int, ...]):
        super().__init__()
        self.options = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.in_channels, self.out_channels = conv.in_channels, conv.out_channels
        self.activation, self.scalars = "none", []
        self.raw, self.out_dtype = isinstance(conv, RawConv2d), getattr(conv, "out_dtype", None)
        self.dtype = conv.weight.dtype
        self.bias = None if conv.bias is None else conv.bias.detach().clone()
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.options, list(shape))

    def forward(self, x: Tensor) -> Tensor:
        x = with_ones(x, self.dtype) if self.raw else x.to(self.dtype)
        x = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.options, self.activation, self.scalars, None
        )
        return x if self.out_dtype is None else x.to(self.out_dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        like = torch.empty(0, dtype=self.dtype)
        moved = fn(like)
        if (moved.dtype, moved.device) != (like.dtype, like.device):
            self._refuse()
        return self

    def _save_to_state_dict(self, *_: Any) -> None:
        self._refuse()

    def __reduce_ex__(self, _: Any) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(
            "a packed network belongs to this process and this CPU: it cannot be copied, saved, exported, "
            "converted or moved; pack comes last"
        )


def pack(network: nn.Module, example: Tensor) -> nn.Module:
    """A copy for inference in eager mode on the CPU, whose convolutions call oneDNN directly.

    PyTorch's own convolution reorders the weight in every call, leaves small maps to a slow fallback, and
    runs the activation afterwards. The packed one finds its weight in the right layout and applies the
    activation while it writes.

    Args:
        network: In float32, bfloat16 or float16, channels last, batch norms folded: others keep their
            activation outside. Convolutions in other types, or that this CPU or build of PyTorch cannot pack,
            stay as they are.
        example: A typical input, for the layouts; other sizes give the same answers.

    Returns:
        The copy in eval mode. It can be neither copied nor saved nor exported nor trained: this transform
        comes last.
    """
    packed = copy.deepcopy(network).eval()
    shapes = _input_shapes(packed, example)
    for parent in list(packed.modules()):
        for name, module in list(parent._modules.items()):
            if module in shapes:
                parent._modules[name] = PackedConv2d(module, shapes[module]).eval()
        if isinstance(parent, nn.Sequential):
            _absorb_activations(parent)
    return packed


def _input_shapes(network: nn.Module, example: Tensor) -> dict[nn.Module, tuple[int, ...]]:
    """The input's shape of each convolution that can be packed."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def keep_shape(conv: nn.Module, inputs: tuple[Tensor]) -> None:
        batch, channels, *size = inputs[0].shape
        shapes[conv] = (batch, channels + isinstance(conv, RawConv2d), *size)

    hooks = [
        module.register_forward_pre_hook(keep_shape)
        for module in network.modules()
        if type(module) in _CONVS
        and can_pack(module.weight.dtype)
        and not isinstance(module.padding, str)
        and module.padding_mode == "zeros"
    ]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    return shapes


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch and this CPU have oneDNN's convolution for a dtype."""
    names = ("_convolution_pointwise", "_reorder_convolution_weight")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, n) for n in names):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype == torch.float32


def _absorb_activations(sequence: nn.Sequential) -> None:
    names = [name for name, module in sequence._modules.items() if not isinstance(module, nn.Identity)]
    for name, following in pairwise(names):
        conv, activation = sequence._modules[name], sequence._modules[following]
        if isinstance(conv, PackedConv2d) and type(activation) in _ATTRIBUTES and conv.out_dtype is None:
            conv.activation, conv.scalars = _ATTRIBUTES[type(activation)]
            sequence._modules[following] = nn.Identity().eval()
