"""Images that are in memory already: arrays, tensors, bytes and open files, checked and never guessed at."""

from __future__ import annotations

import io
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from hardnet_suite.data.files import is_file
from hardnet_suite.data.images import image_errors, load, to_rgb
from hardnet_suite.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
_LOADING = [Lock() for _ in range(64)]  # by the image's identity: Pillow reads a file on its first use


def upright(image: Image.Image) -> Image.Image:
    """A PIL image as ``data.images`` decodes its file: upright, RGB.

    Raises:
        UserError: it has no pixels, or they cannot be decoded.
    """
    with image_errors("in memory"):
        if not all(image.size):
            raise UserError("it has no pixels")
        with _LOADING[id(image) // 64 % len(_LOADING)]:
            load(image)
        return to_rgb(ImageOps.exif_transpose(image), image)


def image_of_array(values: np.ndarray, channels: str = "rgb") -> Image.Image:
    """An array as a PIL image.

    Args:
        values: (H, W, 3), (H, W, 4) with alpha, (H, W, 1) or (H, W), uint8.
        channels: "rgb", or "bgr" as OpenCV reads images.

    Raises:
        ValueError: another shape or type.
    """
    if values.dtype != np.uint8 or not (
        values.ndim == 2 or (values.ndim == 3 and values.shape[2] in _CHANNELS)
    ):
        advice = ""
        if values.ndim == 3 and values.shape[0] in _CHANNELS and values.shape[2] not in _CHANNELS:
            advice = "; transpose (C, H, W) with array.transpose(1, 2, 0)"
        if values.dtype != np.uint8:
            advice += "; convert the values to uint8 in 0…255"
        raise ValueError(
            "expected an array of shape (H, W, 3), (H, W, 4) or (H, W), uint8, "
            f"got shape {values.shape}, {values.dtype}{advice}"
        )
    if not values.size:
        raise ValueError(f"expected an array with pixels, got shape {values.shape}")
    flat = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if channels == "bgr" and flat.ndim == 3:
        flat = flat[..., [2, 1, 0, 3][: flat.shape[2]]]
    return Image.fromarray(np.ascontiguousarray(flat))


def is_tensor(value: Any) -> bool:
    """Whether a value is a torch tensor; without an import of torch."""
    return hasattr(value, "detach") and hasattr(value, "shape")


def arrays_of_tensor(tensor: Tensor) -> list[np.ndarray]:
    """The images of a tensor as arrays (H, W, C), uint8; floats are scaled by 255 and rounded.

    Args:
        tensor: (C, H, W) or (N, C, H, W) with 1, 3 or 4 channels; uint8 in 0…255, or floats in 0…1.

    Raises:
        ValueError: another layout, type or range.
    """
    import torch

    shape = tuple(tensor.shape)
    if len(shape) not in (3, 4) or shape[-3] not in _CHANNELS:
        advice = ""
        if len(shape) in (3, 4) and shape[-1] in _CHANNELS:
            order = "2, 0, 1" if len(shape) == 3 else "0, 3, 1, 2"
            advice = f"; the channels are last: tensor.permute({order}) puts them first"
        raise ValueError(
            f"expected a tensor of shape (3, H, W) or (N, 3, H, W), got shape {shape}, {tensor.dtype}{advice}"
        )
    if not tensor.numel():
        raise ValueError(f"expected a tensor with pixels, got shape {shape}")
    if tensor.is_meta or tensor.layout != torch.strided:
        kind = "on the meta device" if tensor.is_meta else f"of layout {tensor.layout}"
        raise ValueError(f"expected a dense tensor with values, got one {kind}")
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()
        _require_unit_range(tensor)
        tensor = (255 * tensor).round().to(torch.uint8)
    elif tensor.dtype != torch.uint8:
        raise ValueError(
            f"expected a uint8 tensor in 0…255 or a float tensor in 0…1, got shape {shape}, {tensor.dtype}; "
            "convert the values to uint8"
        )
    batch = tensor if tensor.ndim == 4 else tensor[None]
    return list(batch.permute(0, 2, 3, 1).contiguous().numpy())


def _require_unit_range(tensor: Tensor) -> None:
    low, high = float(tensor.min()), float(tensor.max())
    if low >= 0 and high <= 1:
        return
    if not low > -float("inf") or not high < float("inf"):
        reason = "it holds NaN or infinity"
    elif low < 0 and high - low > 1.5:
        reason = "a normalised input? pass the image as it was before (x − mean) / std"
    elif high > 2:
        reason = "divide by 255, or convert the values to uint8"
    else:
        reason = "tensor.clamp(0, 1) cuts off what a resize added"
    raise ValueError(f"expected a float tensor in 0…1, got values from {low:.4g} to {high:.4g}: {reason}")


def is_file_object(value: Any) -> bool:
    """Whether a value is an open file, or anything else that is read as one."""
    return callable(getattr(value, "read", None))


def name_of_file(file: Any) -> str | None:
    """The path of an open file; None for what lies in memory or has no name."""
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and is_file(name) else None


def content_of(file: Any) -> bytes:
    """What an open file holds, from its beginning where it can be rewound, as in ``PIL.Image.open``.

    Raises:
        ValueError: it is not open, or not in binary mode.
        UserError: it cannot be read.
    """
    if isinstance(file, io.TextIOBase):
        raise ValueError("expected a file opened in binary mode: open(path, 'rb')")
    try:
        if callable(getattr(file, "seek", None)) and getattr(file, "seekable", lambda: True)():
            file.seek(0)
        content = file.read()
    except OSError as error:
        raise UserError(f"cannot read the image {name_of_file(file) or 'in memory'}: {error}") from None
    if not isinstance(content, bytes | bytearray):
        raise ValueError(
            f"expected a file opened in binary mode, whose read() returns bytes, got a {type(file).__name__} "
            f"whose read() returns a {type(content).__name__}"
        )
    return bytes(content)
