"""What each network expects of its input: one frozen record a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601), as Pillow and OpenCV have it


@dataclass(frozen=True)
class Preprocess:
    """The input rule of a network.

    ``channels``: "rgb", "bgr" or "grey". Pixels 0…255 are divided by ``scale``, then mean is subtracted and
    std divided, each one number a channel in the network's channel order.
    ``resize``: "short" (the short side to ``resize_to``, then the central square of ``size``, or all of it
    where that is None), "stretch" (to ``size`` whatever the proportions) or "keep".
    """

    channels: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    size: int | None = None
    resize_to: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, as they are kept beside weights."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The way back from ``to_dict``; ValueError for anything else."""
        if not isinstance(values, Mapping) or set(values) != {field.name for field in fields(cls)}:
            raise ValueError(f"no input rule: {values}")
        lists = ("mean", "std")
        return cls(**{key: tuple(value) if key in lists else value for key, value in values.items()})

    @property
    def pixel_mean(self) -> tuple[float, ...]:
        """The mean in units of 0…255 pixels."""
        return tuple(value * self.scale for value in self.mean)

    @property
    def pixel_std(self) -> tuple[float, ...]:
        """The standard deviation in units of 0…255 pixels."""
        return tuple(value * self.scale for value in self.std)

    def normalize(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) RGB pixels 0…255, any dtype -> float32 in the network's channels and units.

        For "grey" (N, 1, H, W) comes out.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
        images = images.float()
        if self.channels == "bgr":
            images = images.flip(1)
        elif self.channels == "grey":
            images = (images * torch.tensor(_LUMA, device=images.device).view(1, -1, 1, 1)).sum(1, True)
        mean = torch.tensor(self.pixel_mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.pixel_std, device=images.device).view(1, -1, 1, 1)
        return (images - mean) / std


_IMAGENET = Preprocess(
    "rgb", 255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize="short", size=224, resize_to=256
)


def _ssd(size: int) -> Preprocess:
    return Preprocess("bgr", 1.0, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), resize="stretch", size=size)


def _centernet(resize: str, size: int | None = None) -> Preprocess:
    mean = (0.40789654, 0.44719302, 0.47026115)
    return Preprocess("bgr", 255.0, mean, (0.28863828, 0.27408164, 0.27809835), resize=resize, size=size)


# the network itself normalises each patch by its own mean and deviation
_PATCH = Preprocess("grey", 255.0, (0.0,), (1.0,), resize="stretch", size=32)

PREPROCESS: dict[str, Preprocess] = {
    "hardnet39ds": _IMAGENET,
    "hardnet68ds": _IMAGENET,
    "hardnet68": _IMAGENET,
    "hardnet85": _IMAGENET,
    "ssd512_hardnet68": _ssd(512),
    "ssd512_hardnet85": _ssd(512),
    "centernet_hardnet68": _centernet("keep"),
    "centernet_hardnet85": _centernet("stretch", 512),
    "fchardnet70": Preprocess("bgr", 255.0, (0.406, 0.456, 0.485), (0.225, 0.224, 0.229), resize="keep"),
    "hardnet_descriptor": _PATCH,
    "hardnet_descriptor_ps": _PATCH,
    "ssd224_hardnet29": _ssd(224),
    "ssd320_hardnet39ds": _ssd(320),
}
