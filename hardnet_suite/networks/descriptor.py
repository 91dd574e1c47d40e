"""HardNet, the local patch descriptor (Mishchuk et al., NIPS 2017, arXiv 1705.10872).

Despite the similar name it is unrelated to HarDNet. Official implementation: https://github.com/DagnyT/hardnet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardnet_suite.networks.arch import DescriptorArch
from hardnet_suite.networks.layers import (
    at_least_float32,
    checked_squares,
    is_captured,
    is_meta,
    shape_text,
)

torch.fx.wrap("at_least_float32")
torch.fx.wrap("checked_squares")

_WINDOW = 17  # height and width of the dense form's local normalisation
_LIMIT = 6.0  # locally normalised values are clamped to ±6


class PatchDescriptor(nn.Module):
    """HardNet: (N, in_chans, 32, 32) patches -> (N, 128) descriptors of unit length.

    Patches are greyscale and may have any value range: each is normalised by its own mean and standard
    deviation, so brightness and contrast do not change the descriptor. A constant patch has a finite
    descriptor, too: that of zeros. ``torch.jit.script`` compiles ``forward``.

    Args:
        arch: A row of the architecture table.
        num_classes: Must be None; for the common signature of all networks.
        in_chans: Number of input channels.

    Raises:
        ValueError: ``num_classes`` is given, or patches of another shape in ``forward``.
    """

    class_layers = ()  # no parameter depends on a number of classes
    num_classes = 0

    def __init__(self, arch: DescriptorArch, *, num_classes: None = None, in_chans: int = 1):
        super().__init__()
        if num_classes is not None:
            raise ValueError(f"a patch descriptor has no classes, got num_classes={num_classes}; omit it")
        self.arch = arch
        # same names as the published checkpoints
        self.official_prefixes = {name: name for name in ("features", "components", "mean")}
        self.in_chans = in_chans
        self.patch = arch.patch
        self.chunk = 128  # patches whose feature maps fit into a CPU's cache
        affine, channels, side = arch.affine, in_chans, arch.patch
        self.features = nn.Sequential()
        for width, stride in arch.layers:
            self.features += nn.Sequential(
                nn.Conv2d(channels, width, 3, stride, padding=1, bias=affine),
                nn.BatchNorm2d(width, affine=affine),
                nn.ReLU(inplace=True),
            )
            channels, side = width, -(-side // stride)
        if arch.dropout:
            self.features.append(nn.Dropout(arch.dropout))
        last = arch.length if arch.pca_from is None else arch.pca_from
        self.features.append(nn.Conv2d(channels, last, side, bias=affine))
        if arch.last_norm:
            self.features.append(nn.BatchNorm2d(last, affine=affine))
        # until weights are loaded, the PCA keeps the first channels
        self.register_buffer("components", None if arch.pca_from is None else torch.eye(last, arch.length))
        self.register_buffer("mean", None if arch.pca_from is None else torch.zeros(last))
        for layer in self.features:
            if isinstance(layer, nn.Conv2d) and not is_meta(layer):
                nn.init.orthogonal_(layer.weight, gain=0.6)
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, 0.01)

    def forward(self, patches: Tensor) -> Tensor:
        patches = checked_squares(patches, self.in_chans, self.patch, "patches")
        if self._in_chunks(patches):
            return torch.cat([self._describe(chunk) for chunk in patches.split(self.chunk)])
        return self._describe(patches)

    def dense(self, image: Tensor, *, stride: int = 2) -> Tensor:
        """Descriptors of the windows of whole images, as the original's DenseHardNet.

        In place of a patch's own mean and standard deviation, each pixel is normalised by those of the
        17×17 pixels around it (reflected at the border) and clamped to ±6, so the descriptors differ from
        those of patches. Row i, column j of the result describes the window whose top left pixel (without
        the padding of the convolutions) is (4·i, 4·j) with stride 2, (i, j) with stride 1.

        Args:
            image: (N, in_chans, H, W) of any dtype, 0…255 in the original; the value range does not matter.
            stride: Of the two strided convolutions. 2 as in patches: one descriptor per 4×4 pixels, of
                windows of 32×32. 1: one per pixel, of windows of 8×8, thus of finer detail than patches.

        Returns:
            (N, 128, h, w) with unit-length columns, h = ceil(H / 4) − 7 with stride 2, H − 7 with stride 1;
            w likewise; NaN where the image is NaN or infinite.

        Raises:
            ValueError: Another shape, an image smaller than 29×29 (stride 1: 9×9), another stride, or an
                architecture whose strides are not 1 and 2.
        """
        if type(stride) is not int or stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride!r}")
        strides = [each for _, each in self.arch.layers]
        if not {*strides} <= {1, 2}:
            raise ValueError(f"no dense form of an architecture with strides {strides}; expected 1 and 2")
        least = self.features[self._last_conv()].kernel_size[0]
        for each in reversed(strides):
            least = (least - 1) * min(each, stride) + 1
        least = max(least, _WINDOW // 2 + 1)  # what the border is reflected from
        if image.ndim != 4 or image.shape[1] != self.in_chans or min(image.shape[2:]) < least:
            raise ValueError(
                f"expected images of shape (N, {self.in_chans}, H, W), H and W at least {least} "
                f"with stride={stride}, got {shape_text(image)}"
            )
        x = fast_layout(normalize_locally(image).to(self._dtype()))
        for layer in self.features:
            if isinstance(layer, nn.Conv2d) and stride < layer.stride[0]:
                x = F.conv2d(x, layer.weight, layer.bias, stride, layer.padding)
            else:
                x = layer(x)
        return self._to_unit_length(x)

    def _describe(self, patches: Tensor) -> Tensor:
        x = fast_layout(normalize_patches(patches).to(self._dtype()))
        return self._to_unit_length(self.features(x)).flatten(1)  # (N, length, 1, 1) -> (N, length)

    def _to_unit_length(self, x: Tensor) -> Tensor:
        """(N, C, h, w) features -> (N, length, h, w) of unit length per location, in the network's dtype."""
        return self._unit_length(x).to(self._dtype())

    def _unit_length(self, x: Tensor) -> Tensor:
        # at least float32: the squares of small values vanish in float16. The original program adds 1e-10 to
        # the sum of squares instead: differs for near-zero rows only
        out = F.normalize(at_least_float32(x))
        if self.components is not None and self.mean is not None:
            centred = out.permute(0, 2, 3, 1) - self.mean.to(out)
            out = F.normalize((centred @ self.components.to(out)).permute(0, 3, 1, 2))
        return out

    def _in_chunks(self, patches: Tensor) -> bool:
        """Whether feature maps are better computed for some patches at a time.

        Inference on the CPU is then faster, and its memory does not grow with the number of patches.
        """
        if is_captured(patches) or self.training or torch.is_grad_enabled():
            return False
        return patches.device.type == "cpu" and len(patches) > self.chunk

    def _dtype(self) -> torch.dtype:
        return self.features[0].weight.dtype

    def _last_conv(self) -> int:
        return max(i for i, layer in enumerate(self.features) if isinstance(layer, nn.Conv2d))


def normalize_patches(patches: Tensor) -> Tensor:
    """(x − mean) / std of each patch.

    Args:
        patches: (N, C, H, W) of any dtype and value range.

    Returns:
        (N, C, H, W) in float32 (float64 if the patches are); constant patches become zeros.
    """
    patches = at_least_float32(patches)  # 1e-7 vanishes in float16
    # so that a constant patch is exactly zero, in whatever order a runtime adds up
    patches = patches - patches[:, :1, :1, :1]
    if _is_empty(patches):  # of which std_mean warns
        return patches
    std, mean = torch.std_mean(patches, dim=(1, 2, 3), keepdim=True)
    return (patches - mean) / (std + 1e-7)


def _is_empty(patches: Tensor) -> bool:
    return not is_captured(patches) and len(patches) == 0


def normalize_locally(image: Tensor) -> Tensor:
    """(x − mean) / std of the 17×17 pixels around each pixel, clamped to ±6.

    Args:
        image: (N, C, H, W) of any dtype and value range, H and W at least 9; the border is reflected. Mean
            and standard deviation are those of all channels.

    Returns:
        (N, C, H, W) in float32 (float64 if the image is); constant surroundings become zeros.
    """
    # float64: the difference of mean squares is inaccurate in float32, and in flat areas nothing but that
    wide = image.to(torch.float32 if image.device.type == "mps" else torch.float64)
    around = F.pad(wide, [_WINDOW // 2] * 4, mode="reflect")
    mean, square = (_window_means(x).mean(dim=1, keepdim=True) for x in (around, around.square()))
    std = ((square - mean.square()).clamp(min=0) + 1e-20).sqrt()
    normalized = ((wide - mean) / std).clamp(-_LIMIT, _LIMIT)
    return normalized if image.dtype == torch.float64 else normalized.float()


def _window_means(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.avg_pool2d(x, (1, _WINDOW), stride=1), (_WINDOW, 1), stride=1)


@torch.fx.wrap
def fast_layout(x: Tensor) -> Tensor:
    """The memory layout that the convolutions are fastest in: others are reordered before each of them."""
    if x.device.type == "cpu" and x.dtype != torch.float64:
        return x.to(memory_format=torch.channels_last)
    return x
