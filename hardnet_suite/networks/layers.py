"""The few layers that everything else is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}
POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, activation; "same" padding at stride 1.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H/stride), ceil(W/stride))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        act: str = "relu",
    ):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation=dilation, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = ACTIVATIONS[act](inplace=True)


class DepthwiseConvNorm(nn.Sequential):
    """Depthwise 3×3 convolution without bias, batch norm, no activation."""

    def __init__(self, channels: int, *, stride: int = 1):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)


class PointwiseDepthwise(nn.Sequential):
    """The layer of the DS variants: 1×1 convolution with activation, then depthwise 3×3."""

    def __init__(self, in_channels: int, out_channels: int, *, act: str = "relu6"):
        super().__init__()
        self.layer1 = ConvNormAct(in_channels, out_channels, 1, act=act)
        self.layer2 = DepthwiseConvNorm(out_channels)


class L2Norm(nn.Module):
    """Each pixel's channel vector scaled to unit length, times a learnt weight a channel (ParseNet, 2015).

    (N, C, H, W) -> (N, C, H, W)
    """

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        # in float32 at least: a sum of hundreds of squares overflows fp16 and is coarse in bf16
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        # the root of zero has no gradient, and an all-zero pixel would poison the whole batch
        length = wide.pow(2).sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt()
        return (self.weight[:, None, None] * (wide / length)).to(x.dtype)


def init_weights(module: nn.Module) -> None:
    """He initialisation of every convolution and linear layer inside ``module``; norms to identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            # fan-out of a depthwise layer counts one group, not all channels
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


def check_images(x: Tensor, channels: int, least: int) -> None:
    """Raises ValueError unless ``x`` is (N, channels, H, W) with H and W of at least ``least`` pixels."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"input must be (N, {channels}, H, W), got {tuple(x.shape)}")
    if min(x.shape[2:]) < least:
        raise ValueError(
            f"input of {x.shape[2]}×{x.shape[3]} pixels (H×W) is too small: at least {least}×{least}"
        )
