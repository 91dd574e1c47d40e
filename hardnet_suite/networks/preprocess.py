"""How an image becomes a network's input: one frozen record per model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601), as in Pillow and OpenCV

CHANNELS = ("rgb", "bgr", "grey")
RESIZES = ("keep", "stretch", "fit", "short", "factor")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
MAX_DIVISOR = 512  # of a network's input; a larger one pads small images to huge ones
MAX_SIDE = 2**14  # pixels of what a rule resizes or pads to: a larger side is a mistake, or an attack
_MAX_FACTOR = 100


def _are_sides(*values: Any) -> bool:
    return all(type(value) is int and 1 <= value <= MAX_SIDE for value in values)


def _are_numbers(*values: Any) -> bool:
    """Whether each is a number, not a boolean, that float32 can hold."""
    return all(type(value) in (int, float) and abs(value) < 1e38 for value in values)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


@dataclass(frozen=True)
class Pad:
    """Padding of the resized image with pixels of one colour, before normalisation.

    Attributes:
        to: (height, width) of the padded image; a larger image is an error.
        multiple: pads both sides to the next multiple instead.
        larger: with ``multiple``, always to a larger one: 512 becomes 544 for 32, as CenterNet tests.
        square: pads the shorter side to the longer one first.
        center: the image lies in the middle; otherwise at the top left.
        value: pixel value, one number or one per RGB channel, 0 to 255.
    """

    to: tuple[int, int] | None = None
    multiple: int = 1
    larger: bool = False
    square: bool = False
    center: bool = False
    value: float | tuple[float, float, float] = 0.0

    def __post_init__(self) -> None:
        if self.to is not None and not _is_pair(self.to):
            raise ValueError(f"the padded size must be (height, width), got {self.to!r}")
        sides = (*(self.to or ()), self.multiple)
        if not _are_sides(*sides):
            raise ValueError(f"padded sizes must be integers from 1 to {MAX_SIDE}, got {sides}")
        flags = (self.larger, self.square, self.center)
        if not all(type(flag) is bool for flag in flags):
            raise ValueError(f"larger, square and center must be true or false, got {flags}")
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        if (
            len(values) not in (1, 3)
            or not _are_numbers(*values)
            or not 0 <= min(values) <= max(values) <= 255
        ):
            raise ValueError(f"the value of padding must be one number or three, 0 to 255, got {self.value}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the padded image; ValueError where the image does not fit into ``to``."""
        if self.to is not None:
            if height > self.to[0] or width > self.to[1]:
                raise ValueError(
                    f"an image of {height}×{width} pixels does not fit into the padded size "
                    f"{self.to[0]}×{self.to[1]}"
                )
            return self.to
        if self.square:
            height = width = max(height, width)
        step = self.multiple
        if self.larger:
            return (height // step + 1) * step, (width // step + 1) * step
        return -(-height // step) * step, -(-width // step) * step


@dataclass(frozen=True)
class Preprocess:
    """The input rule of a network, from an upright RGB image of 8 bits to normalised numbers.

    An image is resized, cropped, padded (``pad``), converted to ``channels``, normalised, and padded again
    to the sizes that the network can take (``input_divisor``, ``input_size``).

    Attributes:
        channels: "rgb", "bgr" or "grey", the order of the network's input channels.
        scale: pixels 0…255 are divided by it, then comes (x − mean) / std.
        mean: one number per channel, in the network's channel order and in units of pixels / ``scale``.
        std: likewise.
        resize: "keep" (no resizing), "stretch" (to ``size``, whatever the aspect ratio), "fit" (aspect ratio
            kept, as large as fits into ``size``, which may lie across: mmcv's ``keep_ratio``), "short" (the
            short side to ``resize_to``, aspect ratio kept) or "factor" (both sides by ``factor``).
        size: for "stretch" and "fit" the target, for "short" the centre crop after resizing; an integer
            (square) or (height, width). None: no crop.
        resize_to: for "short", the length of the short side.
        factor: for "factor", the factors of (height, width).
        interpolation: "nearest", "bilinear" or "bicubic".
        antialias: smooths when shrinking, as Pillow does; OpenCV and mmcv do not.
        pad: padding in pixels.
        input_divisor: the normalised input is padded at the bottom and right to a multiple of it.
        input_size: (height, width) that the normalised input is padded to at least.
        input_value: value of that padding, in normalised units; one number, or one per channel.
    """

    channels: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    size: int | tuple[int, int] | None = None
    resize_to: int | None = None
    factor: tuple[float, float] | None = None
    interpolation: str = "bilinear"
    antialias: bool = False
    pad: Pad | None = None
    input_divisor: int = 1
    input_size: tuple[int, int] = (1, 1)
    input_value: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("channels", CHANNELS),
            ("resize", RESIZES),
            ("interpolation", INTERPOLATIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        needed = {"stretch": "size", "fit": "size", "factor": "factor"}.get(self.resize)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"resize={self.resize!r} needs {needed}")
        pairs = [size for size in (self.height_width, self.input_size) if size is not None]
        if not all(map(_is_pair, pairs)):
            raise ValueError(
                f"a size must be an integer or (height, width), got {self.size}, {self.input_size}"
            )
        sides = [*(side for size in pairs for side in size), self.input_divisor]
        sides += [] if self.resize_to is None else [self.resize_to]
        if not _are_sides(*sides):
            raise ValueError(f"sizes must be integers from 1 to {MAX_SIDE}, got {sides}")
        if self.input_divisor > MAX_DIVISOR:
            raise ValueError(f"input_divisor must be at most {MAX_DIVISOR}, got {self.input_divisor}")
        if self.factor is not None and not (
            _is_pair(self.factor)
            and _are_numbers(*self.factor)
            and 0 < min(self.factor) <= max(self.factor) <= _MAX_FACTOR
        ):
            raise ValueError(f"factor={self.factor} must be two numbers above 0, up to {_MAX_FACTOR}")
        if type(self.antialias) is not bool or not isinstance(self.pad, Pad | None):
            raise ValueError(
                f"antialias={self.antialias!r} must be true or false, pad={self.pad!r} a padding"
            )
        values = self.input_value if isinstance(self.input_value, tuple) else (self.input_value,)
        if len(values) not in (1, len(self.mean)):
            raise ValueError(f"input_value={self.input_value} must be one number, or one per channel")
        numbers = (self.scale, *values, *self.mean, *self.std)
        if not _are_numbers(*numbers):
            raise ValueError(f"scale, mean, std and input_value must be finite numbers, got {numbers}")
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ValueError(f"mean={self.mean} and std={self.std} must have one number per channel, std > 0")

    @property
    def height_width(self) -> tuple[int, int] | None:
        """``size`` as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts, as stored beside weights."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: Preprocess | None = None) -> Preprocess:
        """The inverse of ``to_dict``.

        Args:
            values: what ``to_dict`` returned.
            base: the model's own record, for the values that records of version 0.1 do not have.

        Raises:
            ValueError: anything else.
        """
        names = {field.name for field in fields(cls)}
        first = {"channels", "scale", "mean", "std", "resize", "size", "resize_to"}  # version 0.1
        known = isinstance(values, Mapping) and (set(values) == names or (base and set(values) == first))
        if not known:
            raise ValueError(f"not an input rule: {values}")
        try:
            values = {
                key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
            }
            if isinstance(values.get("pad"), Mapping):
                values["pad"] = Pad(**{k: _tuple(value) for k, value in values["pad"].items()})
            return replace(base, **values) if base is not None else cls(**values)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not an input rule: {values} ({error})") from None

    def differences(self, other: Preprocess) -> list[str]:
        """Names of the values in which another rule differs, whatever units its mean and std have."""
        names = [field.name for field in fields(self) if field.name not in ("scale", "mean", "std")]
        different = [name for name in names if getattr(self, name) != getattr(other, name)]
        for name in ("mean", "std"):
            ours, theirs = (torch.tensor(getattr(rule, f"pixel_{name}")) for rule in (self, other))
            if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-4):
                different.append(name)
        return different

    @property
    def pixel_mean(self) -> tuple[float, ...]:
        """The mean in units of 0…255 pixels."""
        return tuple(value * self.scale for value in self.mean)

    @property
    def pixel_std(self) -> tuple[float, ...]:
        """The standard deviation in units of 0…255 pixels."""
        return tuple(value * self.scale for value in self.std)

    def timm_config(self) -> dict[str, Any]:
        """The rule as timm's data configuration, the arguments of ``timm.data.create_transform``.

        Raises:
            ValueError: timm's transforms cannot express it.
        """
        sizes = self.height_width or (0, 1)
        side, short = sizes[0], self.resize_to or 0
        padded = (self.pad, self.input_divisor, self.input_size) != (None, 1, (1, 1))
        if (
            self.channels != "rgb"
            or sizes[0] != sizes[1]
            or not (self.resize == "stretch" or (self.resize == "short" and short >= side))
            or padded
            or not self.antialias
        ):
            raise ValueError(f"timm's transforms cannot express the input rule {self}")
        if self.resize == "stretch":
            crop = {"crop_pct": 1.0, "crop_mode": "squash"}
        else:  # timm resizes the short side to floor(side / crop_pct)
            exact = side / short
            crop_pct = exact if math.floor(side / exact) == short else side / (short + 0.5)
            crop = {"crop_pct": crop_pct, "crop_mode": "center"}
        return {
            "input_size": (3, side, side),
            "interpolation": self.interpolation,
            "mean": tuple(value / 255 for value in self.pixel_mean),
            "std": tuple(value / 255 for value in self.pixel_std),
            **crop,
        }

    def affine(self) -> tuple[Tensor, Tensor]:
        """What ``normalize`` does, as numbers: pixels (3,) become matrix @ pixels + offset.

        Returns:
            The matrix (C, 3) and the offset (C,), float64.
        """
        rgb = torch.eye(3, dtype=torch.float64)
        luma = torch.tensor([_LUMA], dtype=torch.float64)
        matrix = {"rgb": rgb, "bgr": rgb.flip(0), "grey": luma}[self.channels]
        mean = torch.tensor(self.pixel_mean, dtype=torch.float64)
        std = torch.tensor(self.pixel_std, dtype=torch.float64)
        return matrix / std[:, None], -mean / std

    def normalize(self, images: Tensor) -> Tensor:
        """Converts channels and normalises.

        Args:
            images: (N, 3, H, W) RGB pixels 0…255, any dtype.

        Returns:
            (N, 3, H, W) float32 in the network's channel order and units; (N, 1, H, W) for "grey".

        Raises:
            ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
        images = images.float()
        if self.channels == "bgr":
            images = images.flip(1)
        elif self.channels == "grey":
            images = (images * torch.tensor(_LUMA, device=images.device).view(1, -1, 1, 1)).sum(1, True)
        mean, std = self._pixel_numbers(images)
        return (images - mean) / std

    def denormalize(self, inputs: Tensor) -> Tensor:
        """The inverse of ``normalize``: (N, C, H, W) -> (N, 3, H, W) float32 RGB pixels, not rounded."""
        inputs = inputs.float()
        mean, std = self._pixel_numbers(inputs)
        images = inputs * std + mean
        if self.channels == "grey":
            return images.expand(-1, 3, -1, -1)
        return images.flip(1) if self.channels == "bgr" else images

    def _pixel_numbers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``pixel_mean`` and ``pixel_std``, (C, 1, 1) each."""
        mean, std = (
            torch.tensor(values, device=images.device) for values in (self.pixel_mean, self.pixel_std)
        )
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_IMAGENET = Preprocess(
    "rgb",
    255.0,
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
    resize="short",
    size=224,
    resize_to=256,
    antialias=True,
)


def _ssd(size: int) -> Preprocess:
    return Preprocess("bgr", 1.0, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), resize="stretch", size=size)


_CENTERNET = Preprocess(
    "bgr",
    255.0,
    (0.40789654, 0.44719302, 0.47026115),
    (0.28863828, 0.27408164, 0.27809835),
    resize="stretch",
    size=512,
    input_divisor=32,
)
# at the image's own size, in the middle of the next larger multiple of 32
_CENTERNET_KEEP = replace(
    _CENTERNET, resize="keep", size=None, pad=Pad(multiple=32, larger=True, center=True)
)
# the network halves its input six times: smaller images are padded
_FCHARDNET = Preprocess(
    "bgr",
    255.0,
    (0.406, 0.456, 0.485),
    (0.225, 0.224, 0.229),
    resize="keep",
    input_size=(64, 64),
)
_MSEG = replace(_IMAGENET, resize="stretch", size=352, resize_to=None)
# the network itself normalises each patch by its own mean and standard deviation
_PATCH = Preprocess("grey", 255.0, (0.0,), (1.0,), resize="stretch", size=32)

PREPROCESS: dict[str, Preprocess] = {
    "hardnet39ds": _IMAGENET,
    "hardnet68ds": _IMAGENET,
    "hardnet68": _IMAGENET,
    "hardnet_petite": _IMAGENET,
    "hardnet39dsa": _IMAGENET,
    "hardnet68a": _IMAGENET,
    "hardnet85": _IMAGENET,
    "ssd512_hardnet68": _ssd(512),
    "ssd512_hardnet85": _ssd(512),
    "rfb512_hardnet68": _ssd(512),
    "rfb512_hardnet85": _ssd(512),
    "centernet_hardnet68": _CENTERNET_KEEP,
    "centernet_hardnet85": _CENTERNET,
    "fchardnet70": _FCHARDNET,
    "fchardnet70_stride2": _FCHARDNET,
    "fchardnet70_detail": _FCHARDNET,
    "fchardnet68": _FCHARDNET,
    "fchardnet76": _FCHARDNET,
    "fchardnet84": _FCHARDNET,
    "fchardnet70_paddleseg": replace(_FCHARDNET, channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3),
    "fchardnet70a": _FCHARDNET,
    "hardnet_mseg": _MSEG,
    "hardnet_descriptor": _PATCH,
    "hardnet_descriptor_ps": _PATCH,
    "hardnet8_descriptor": _PATCH,
    "ssd224_hardnet29": _ssd(224),
    "ssd320_hardnet39ds": _ssd(320),
    "centernet_hardnet39ds": _CENTERNET,
}
