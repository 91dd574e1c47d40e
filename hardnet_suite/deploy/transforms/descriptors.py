"""Forms of the patch descriptor."""

from __future__ import annotations

import torch
from torch import Tensor

from hardnet_suite.networks import PatchDescriptor
from hardnet_suite.networks.descriptor import fast_layout, normalize_patches


class RawPatchDescriptor(PatchDescriptor):
    """A patch descriptor of raw RGB patches: (N, 3, 32, 32) 0…255 -> (N, 128)."""

    def _describe(self, patches: Tensor) -> Tensor:
        wide = patches.to(torch.float64 if self._dtype() == torch.float64 else torch.float32)
        grey = (wide * self.matrix.to(wide.dtype).view(1, -1, 1, 1)).sum(1, keepdim=True)
        x = fast_layout(normalize_patches(grey + self.offset.to(wide.dtype)).to(self._dtype()))
        return self._to_unit_length(self.features(x)).flatten(1)


class CastPatchDescriptor(PatchDescriptor):
    """A patch descriptor that returns float32, whatever it computes in."""

    def _to_unit_length(self, x: Tensor) -> Tensor:
        return self._unit_length(x)


class CastRawPatchDescriptor(CastPatchDescriptor, RawPatchDescriptor):
    """Both."""


def take_raw_pixels(network: PatchDescriptor, matrix: Tensor, offset: Tensor) -> None:
    """Makes a descriptor take RGB patches.

    Args:
        network: The descriptor to change.
        matrix: (3,) weights of red, green and blue in a grey pixel.
        offset: () what is added to it.
    """
    is_cast = isinstance(network, CastPatchDescriptor)
    network.__class__ = CastRawPatchDescriptor if is_cast else RawPatchDescriptor
    network.in_chans = 3
    network.register_buffer("matrix", matrix, persistent=False)
    network.register_buffer("offset", offset, persistent=False)


def return_float32(network: PatchDescriptor) -> None:
    """Makes a descriptor return float32."""
    is_raw = isinstance(network, RawPatchDescriptor)
    network.__class__ = CastRawPatchDescriptor if is_raw else CastPatchDescriptor
