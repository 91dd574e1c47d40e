"""The basic layers of all networks."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kernel = int | tuple[int, int]  # of both sides, or (height, width)
ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class AveragePoolInside(nn.AvgPool2d):
    """Average of the pixels of a window that lie in the image: the padding is not counted."""

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False
    ):
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad=False)


POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d, "average_inside": AveragePoolInside}


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm and activation, with padding at both ends of each side.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H/stride), ceil(W/stride))

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel: Height and width of the kernel: one number, or (height, width).
        stride: Stride.
        dilation: Dilation.
        act: Activation, a key of ``ACTIVATIONS``.
        same: For a 3×3 convolution with stride 2, pad as ``PadSame`` does.
        padding: Rows and columns of zeros at each side; default: what keeps the size of the map at stride 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Kernel = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        act: str = "relu",
        same: bool = False,
        padding: Kernel | None = None,
    ):
        super().__init__()
        padding = _keeping(kernel, dilation) if padding is None else padding
        if same:
            self.pad, padding = PadSame(), 0
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation=dilation, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = ACTIVATIONS[act](inplace=True)


class ConvNorm(nn.Sequential):
    """Convolution without bias and batch norm, no activation, with padding at both ends of each side.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H/stride), ceil(W/stride))

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel: Height and width of the kernel, odd: one number, or (height, width).
        stride: Stride.
        dilation: Dilation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Kernel = 3, *, stride: int = 1, dilation: int = 1
    ):
        super().__init__()
        padding = _keeping(kernel, dilation)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, padding, dilation=dilation, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)


class ReceptiveFieldBlock(nn.Module):
    """Branches of other kernels and dilations, joined and added to a shortcut (RFB Net, arXiv 1711.07767).

    (N, C, H, W) -> what ``joined`` and ``shortcut`` agree in, both with the same stride.

    Args:
        branches: One chain of convolutions per branch, on the input.
        joined: What follows the branches' concatenated maps.
        shortcut: What is added to that, a convolution of the input.
    """

    def __init__(self, branches: Iterable[nn.Sequential], joined: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.joined, self.shortcut = joined, shortcut
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.joined(torch.cat([branch(x) for branch in self.branches], 1)) + self.shortcut(x))


def field_names(block: ReceptiveFieldBlock, joined: str, shortcut: str) -> dict[str, str]:
    """The convolutions of a block -> their names in the published programs, which number branches and layers.

    Args:
        block: The block.
        joined: Their name of its part ``joined``.
        shortcut: Their name of its part ``shortcut``.
    """
    names = {"joined": joined, "shortcut": shortcut}
    for number, branch in enumerate(block.branches):
        for place in range(len(branch)):
            names[f"branches.{number}.{place}"] = f"branch{number}.{place}"
    return names


def _keeping(kernel: Kernel, dilation: int) -> Kernel:
    """The padding with which a convolution of odd sides keeps the size of a map."""
    if isinstance(kernel, int):
        return dilation * (kernel // 2)
    return dilation * (kernel[0] // 2), dilation * (kernel[1] // 2)


class PadSame(nn.Module):
    """The padding "SAME" of TensorFlow and Paddle for a 3×3 convolution with stride 2.

    One row of zeros at the bottom, and one at the top where the height is odd; likewise for columns.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        # one row and column more than needed: torch.export would guard a cut of nothing by the size
        return F.pad(x, [2, 1, 2, 1])[:, :, 2 - height % 2 :, 2 - width % 2 :]


class DepthwiseConvNorm(nn.Sequential):
    """Depthwise 3×3 convolution without bias, batch norm, no activation."""

    def __init__(self, channels: int, *, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.dwconv = nn.Conv2d(
            channels, channels, 3, stride, dilation, dilation=dilation, groups=channels, bias=False
        )
        self.norm = nn.BatchNorm2d(channels)


class PointwiseDepthwise(nn.Sequential):
    """The layer of the DS variants: a 1×1 convolution with activation, then a depthwise 3×3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1, act: str = "relu6"):
        super().__init__()
        self.layer1 = ConvNormAct(in_channels, out_channels, 1, act=act)
        self.layer2 = DepthwiseConvNorm(out_channels, dilation=dilation)


class DilatedPool(nn.Module):
    """2×2 pooling of every ``stride``-th pixel and its neighbours at distance ``dilation``.

    (N, C, H, W) -> (N, C, ceil(H/stride), ceil(W/stride)). At the right and bottom border a window holds the
    pixels that there are, as in torch's pools with ``ceil_mode``; those without it, as most networks have
    them, drop the last row or column of an odd side.

    Args:
        kind: A key of ``POOLS``.
        dilation: Distance of the pixels of a window.
        stride: Distance of the windows.
    """

    def __init__(self, kind: str, *, dilation: int = 1, stride: int = 1):
        super().__init__()
        self.kind, self.dilation, self.stride = kind, dilation, stride

    def forward(self, x: Tensor) -> Tensor:
        d = self.dilation
        x = torch.cat([self._pool(x[:, :, :-d], x[:, :, d:]), x[:, :, -d:]], 2)
        x = torch.cat([self._pool(x[..., :-d], x[..., d:]), x[..., -d:]], 3)
        return x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x

    def _pool(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.maximum(one, other) if self.kind == "max" else (one + other) / 2


class L2Norm(nn.Module):
    """L2-normalises the channels of each pixel and scales them by one learned weight per channel.

    From ParseNet (Liu et al. 2015, arXiv 1506.04579). (N, C, H, W) -> (N, C, H, W).

    Args:
        channels: Number of channels C.
        scale: Initial value of the weights.
    """

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        # a sum of hundreds of squares overflows float16 and is inaccurate in bfloat16
        wide = at_least_float32(x)
        # the gradient of sqrt(0) is not finite: one all-zero pixel would spoil the whole batch
        length = wide.pow(2).sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt()
        return (self.weight[:, None, None] * (wide / length)).to(x.dtype)


@torch.fx.wrap
def at_least_float32(x: Tensor) -> Tensor:
    """The values in float32, or in float64 if they are."""
    return x if x.dtype == torch.float64 else x.float()


def enlarge(x: Tensor, size: list[int], align_corners: bool = True) -> Tensor:
    """Bilinear upsampling, by default with aligned corners: (N, C, h, w) -> (N, C, *size)."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def init_weights(module: nn.Module) -> None:
    """Initialises the convolutions of ``module`` as He et al., and its linear layers with std 0.01.

    A no-op on the meta device.
    """
    if is_meta(module):
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            # fan_in: for depthwise layers, torch's fan_out counts all channels instead of one group
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="linear")
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


def is_meta(module: nn.Module) -> bool:
    """Whether a module is built without values; torch would import its compiler to draw random ones there."""
    return any(parameter.is_meta for parameter in module.parameters())


def without_wrappers(module: nn.Module, *, compiled: bool = True) -> nn.Module:
    """The module within ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``, in any order.

    Args:
        module: wrapped or not.
        compiled: also unwraps what ``torch.compile`` returned; otherwise that keeps computing as compiled.
    """
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif compiled and isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod
        else:
            return module


def is_captured(x: Tensor) -> bool:
    """Whether a graph is captured, whose form must not depend on the number of images.

    Args:
        x: The network's input; a graph of ``torch.fx`` is captured by a stand-in for it.
    """
    if torch.jit.is_scripting():
        return False
    return torch.jit.is_tracing() or torch.compiler.is_compiling() or isinstance(x, torch.fx.Proxy)


def _recorded(check: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.jit.script_if_tracing`` of a check of the input, where the graph can raise an error.

    ONNX cannot, and ``torch.onnx.export(..., dynamo=False)`` fails on such a graph: there, the check is of
    the example alone.
    """
    scripted = torch.jit.script_if_tracing(check)

    @functools.wraps(check)
    def checked(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return scripted(*args, **kwargs)
        with warnings.catch_warnings():  # the example's sizes are meant to be constants
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            return check(*args, **kwargs)

    # what torch.jit.script and torch.compile know a function of script_if_tracing by
    checked.__dict__.update(__original_fn=check, __script_if_tracing_wrapper=True)
    return checked


@_recorded
def checked_images(x: Tensor, channels: int, least: int, multiple: int = 1) -> Tensor:
    """A batch of images whose shape is as it should be.

    The check is a node of every captured graph: modules that call this name ``torch.fx.wrap`` it, and
    ``torch.jit.trace`` records it as a function.

    Args:
        x: The images.
        channels: Number of channels that they must have.
        least: Least height and width in pixels.
        multiple: What height and width must be multiples of.

    Returns:
        ``x`` itself.

    Raises:
        ValueError: ``x`` is not (N, channels, H, W) with such H and W.
    """
    wanted = f"(N, {channels}, H, W)"
    if multiple > 1:
        wanted += f", H and W multiples of {multiple}"
    if x.dim() != 4 or x.shape[1] != channels or x.shape[2] % multiple != 0 or x.shape[3] % multiple != 0:
        raise ValueError(f"expected input of shape {wanted}, got {shape_text(x)}")
    if x.shape[2] < least or x.shape[3] < least:
        raise ValueError(
            f"expected input of at least {least}×{least} pixels (H×W), got {x.shape[2]}×{x.shape[3]}"
        )
    return x


@_recorded
def checked_squares(x: Tensor, channels: int, side: int, what: str = "input") -> Tensor:
    """Like ``checked_images``, for images of one size.

    Args:
        x: The images.
        channels: Number of channels that they must have.
        side: Height and width that they must have.
        what: What the images are called in the message.

    Returns:
        ``x`` itself.

    Raises:
        ValueError: ``x`` is not (N, channels, side, side).
    """
    if x.dim() != 4 or x.shape[1] != channels or x.shape[2] != side or x.shape[3] != side:
        raise ValueError(f"expected {what} of shape (N, {channels}, {side}, {side}), got {shape_text(x)}")
    return x


def shape_text(x: Tensor) -> str:
    """A tensor's shape as Python writes it."""
    return "(" + ", ".join([str(size) for size in x.shape]) + ")"
