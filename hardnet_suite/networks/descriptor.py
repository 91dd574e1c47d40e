"""HardNet, the local patch descriptor (Mishchuk et al., NIPS 2017, arXiv 1705.10872): another network than
HarDNet. Its published programs: https://github.com/DagnyT/hardnet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardnet_suite.networks.arch import DescriptorArch


class PatchDescriptor(nn.Module):
    """(N, in_chans, 32, 32) patches -> (N, 128) descriptors of unit length.

    Patches are grey, in any unit: each is normalised by its own mean and standard deviation, so that a patch
    and the same one brighter or of more contrast have one descriptor. A patch without any contrast has one,
    too. Raises ValueError for other shapes.
    """

    class_layers = ()  # nothing depends on a number of classes
    num_classes = 0

    def __init__(self, arch: DescriptorArch, *, num_classes: None = None, in_chans: int = 1):
        super().__init__()
        if num_classes is not None:
            raise ValueError("a patch descriptor has no classes: leave out num_classes")
        self.arch = arch
        self.official_prefixes = {"features": "features"}  # the published names are ours
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
            if isinstance(layer, nn.Conv2d):
                nn.init.orthogonal_(layer.weight, gain=0.6)
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, 0.01)

    def forward(self, patches: Tensor) -> Tensor:
        wanted = (self.in_chans, self.arch.patch, self.arch.patch)
        if patches.ndim != 4 or tuple(patches.shape[1:]) != wanted:
            raise ValueError(
                f"patches must be (N, {', '.join(map(str, wanted))}), got {tuple(patches.shape)}"
            )
        x = normalize_patches(patches).to(self.features[0].weight.dtype)
        # the published programs add 1e-10 to the sum of squares instead: the same but for nearly empty rows
        return F.normalize(self.features(x).flatten(1))


def normalize_patches(patches: Tensor) -> Tensor:
    """Each patch of (N, C, H, W), any dtype, less its mean and over its standard deviation, in float32.

    A patch without contrast becomes zeros.
    """
    # in float32 at least: 1e-7 is nothing in fp16
    patches = patches if patches.dtype == torch.float64 else patches.float()
    mean = patches.mean(dim=(1, 2, 3), keepdim=True)
    return (patches - mean) / (patches.std(dim=(1, 2, 3), keepdim=True) + 1e-7)
