"""HardNet, the local patch descriptor (Mishchuk et al., NIPS 2017, arXiv 1705.10872).

Despite the similar name it is unrelated to HarDNet. Official implementation: https://github.com/DagnyT/hardnet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardnet_suite.networks.arch import DescriptorArch
from hardnet_suite.networks.layers import is_meta


class PatchDescriptor(nn.Module):
    """HardNet: (N, in_chans, 32, 32) patches -> (N, 128) descriptors of unit length.

    Patches are greyscale and may have any value range: each is normalised by its own mean and standard
    deviation, so brightness and contrast do not change the descriptor. A constant patch has a finite
    descriptor, too.

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
        self.official_prefixes = {"features": "features"}  # same names as the published checkpoints
        self.in_chans = in_chans
        affine, channels, side = arch.affine, in_chans, arch.patch
        self.features = nn.Sequential()
        for width, stride in arch.layers:
            self.features += nn.Sequential(
                nn.Conv2d(channels, width, 3, stride, padding=1, bias=affine),
                nn.BatchNorm2d(width, affine=affine),
                nn.ReLU(),
            )
            channels, side = width, -(-side // stride)
        if arch.dropout:
            self.features.append(nn.Dropout(arch.dropout))
        self.features.append(nn.Conv2d(channels, arch.length, side, bias=affine))
        if arch.last_norm:
            self.features.append(nn.BatchNorm2d(arch.length, affine=affine))
        for layer in self.features:
            if isinstance(layer, nn.Conv2d) and not is_meta(layer):
                nn.init.orthogonal_(layer.weight, gain=0.6)
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, 0.01)

    def forward(self, patches: Tensor) -> Tensor:
        expected = (self.in_chans, self.arch.patch, self.arch.patch)
        if patches.ndim != 4 or tuple(patches.shape[1:]) != expected:
            raise ValueError(
                f"expected patches of shape (N, {', '.join(map(str, expected))}), got {tuple(patches.shape)}"
            )
        x = normalize_patches(patches).to(self.features[0].weight.dtype)
        # the official program adds 1e-10 to the sum of squares instead: differs for near-zero rows only
        return F.normalize(self.features(x).flatten(1))  # (N, length, 1, 1) -> (N, length)


def normalize_patches(patches: Tensor) -> Tensor:
    """(x − mean) / std of each patch.

    Args:
        patches: (N, C, H, W) of any dtype and value range.

    Returns:
        (N, C, H, W) in float32 (float64 if the patches are); constant patches become zeros.
    """
    # at least float32: 1e-7 vanishes in float16
    patches = patches if patches.dtype == torch.float64 else patches.float()
    mean = patches.mean(dim=(1, 2, 3), keepdim=True)
    return (patches - mean) / (patches.std(dim=(1, 2, 3), keepdim=True) + 1e-7)
