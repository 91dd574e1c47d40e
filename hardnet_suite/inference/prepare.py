"""From an image to a network's input, and the way back: the only place that resizes, crops and pads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hardnet_suite.networks import Preprocess

_ONE = 1 << 11  # 1.0 in OpenCV's weights


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the network's input. A point p of the image is ``scale`` · p + ``offset`` there.

    Attributes:
        image_size: (height, width) of the image in pixels.
        content_size: (height, width) of the resized image in the input.
        scale: (horizontal, vertical) input pixels per image pixel.
        offset: (x, y) of the image's top left corner in the input; negative where a crop cuts it off.
    """

    image_size: tuple[int, int]
    content_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def boxes_to_image(self, boxes: Tensor) -> Tensor:
        """(K, 4) x1, y1, x2, y2 in pixels of the input -> in pixels of the image, not clipped."""
        offset = boxes.new_tensor([*self.offset, *self.offset])
        return (boxes - offset) / boxes.new_tensor([*self.scale, *self.scale])

    def map_to_image(self, maps: Tensor) -> Tensor:
        """(C, h, w) over the input -> (C, H, W) over the image, bilinear.

        Padding is cut off. ValueError where a crop has cut off part of the image.
        """
        (left, top), (height, width) = self.offset, self.content_size
        if left < 0 or top < 0:
            raise ValueError("a centre crop cuts off part of the image: its pixels have no prediction")
        content = maps[:, int(top) : int(top) + height, int(left) : int(left) + width]
        if content.shape[1:] == self.image_size:
            return content
        return F.interpolate(content[None], size=self.image_size, mode="bilinear", align_corners=True)[0]


def prepare(image: Image.Image, rule: Preprocess, scale: float = 1.0) -> tuple[Tensor, Placement]:
    """Resizes, crops and pads an image as the rule says.

    Args:
        image: upright RGB image of 8 bits, as ``data.images`` decodes it.
        rule: the input rule.
        scale: factor on the size that the rule resizes to, for test-time augmentation.

    Returns:
        (3, h, w) uint8 RGB pixels, and where the image lies in them. ``to_input`` normalises a batch of them.

    Raises:
        ValueError: an image that does not fit into the padded size of the rule.
    """
    if image.mode != "RGB":
        raise ValueError(f"expected an RGB image, got mode {image.mode}")
    height, width = image.height, image.width
    new_height, new_width = content_size(height, width, rule, scale)
    pixels = _resized(image, new_height, new_width, rule)
    top = left = 0
    if rule.resize == "short" and rule.size is not None:
        crop_height, crop_width = rule.height_width
        top, left = -_crop_start(new_height, crop_height), -_crop_start(new_width, crop_width)
        # a side that is too short is padded with zeros: negative padding crops
        margins = left, crop_width - new_width - left, top, crop_height - new_height - top
        pixels = F.pad(pixels, margins)
    if rule.pad is not None:
        pixels, pad_top, pad_left = _padded(pixels, rule)
        top, left = top + pad_top, left + pad_left
    placement = Placement(
        image_size=(height, width),
        content_size=(new_height, new_width),
        scale=(new_width / width, new_height / height),
        offset=(float(left), float(top)),
    )
    return pixels, placement


def content_size(height: int, width: int, rule: Preprocess, scale: float = 1.0) -> tuple[int, int]:
    """(height, width) of an image of that size after resizing, before any crop or padding."""
    if rule.resize == "stretch":
        new_height, new_width = rule.height_width
    elif rule.resize == "fit":
        new_height, new_width = _fit(height, width, rule.height_width)
    elif rule.resize == "factor":
        new_height, new_width = _times(height, rule.factor[0]), _times(width, rule.factor[1])
    elif rule.resize == "short" and rule.resize_to is not None:
        short, long = sorted((height, width))
        other = int(rule.resize_to * long / short)  # as torchvision
        new_height, new_width = (rule.resize_to, other) if height <= width else (other, rule.resize_to)
    else:
        new_height, new_width = height, width
    if scale != 1.0:
        larger = (_times(new_height, scale), _times(new_width, scale))
        new_height, new_width = _fit(new_height, new_width, larger)
    return max(new_height, 1), max(new_width, 1)


def to_input(pixels: Tensor, rule: Preprocess) -> Tensor:
    """Normalises a batch and pads it to a size that the network takes.

    Args:
        pixels: (N, 3, h, w) RGB, 0…255.
        rule: the input rule.

    Returns:
        (N, C, H, W) float32; the padding lies at the bottom and right, and has the value ``input_value``.
    """
    images = rule.normalize(pixels)
    height, width = images.shape[2:]
    padded_height, padded_width = input_size(height, width, rule)
    bottom, right = padded_height - height, padded_width - width
    if bottom or right:
        images = _padded_input(images, bottom, right, rule.input_value)
    return images.contiguous(memory_format=torch.channels_last)


def input_size(height: int, width: int, rule: Preprocess) -> tuple[int, int]:
    """(height, width) of what ``to_input`` makes of pixels of that size."""
    step = rule.input_divisor
    return (
        max(-(-height // step) * step, rule.input_size[0]),
        max(-(-width // step) * step, rule.input_size[1]),
    )


def _padded_input(images: Tensor, bottom: int, right: int, value: float | tuple[float, ...]) -> Tensor:
    if not isinstance(value, tuple):
        return F.pad(images, (0, right, 0, bottom), value=value)
    batch, _, height, width = images.shape
    canvas = images.new_tensor(value).view(1, -1, 1, 1).repeat(batch, 1, height + bottom, width + right)
    canvas[:, :, :height, :width] = images
    return canvas


def _fit(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """mmcv's ``rescale_size``: the aspect ratio is kept, the long side fits the longer one of ``size``."""
    factor = min(max(size) / max(height, width), min(size) / min(height, width))
    return _times(height, factor), _times(width, factor)


def _times(side: int, factor: float) -> int:
    return int(side * float(factor) + 0.5)


def _resized(image: Image.Image, height: int, width: int, rule: Preprocess) -> Tensor:
    """(3, height, width) uint8."""
    if rule.antialias:  # Pillow's own resampling, as torchvision has it for images
        if (image.height, image.width) != (height, width):
            image = image.resize((width, height), Image.Resampling[rule.interpolation.upper()])
        return _pixels(image)
    pixels = _pixels(image)
    if pixels.shape[1:] == (height, width):
        return pixels
    if rule.interpolation == "bilinear":
        return _resize_bilinear(pixels, height, width)
    options = {} if rule.interpolation == "nearest" else {"align_corners": False}
    resized = F.interpolate(pixels[None].float(), size=(height, width), mode=rule.interpolation, **options)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def _resize_bilinear(pixels: Tensor, height: int, width: int) -> Tensor:
    """(3, H, W) uint8 -> (3, height, width) uint8, in the integer arithmetic of OpenCV, to the last bit.

    OpenCV multiplies by weights of 11 bits, first along the rows, and drops digits on the way. OpenMMLab's
    models are trained and tested on such images.
    """
    columns, right, weight = _neighbours(pixels.shape[2], width)
    # beyond the border a row's pixel stands alone
    outside = (columns < 0) | (columns >= pixels.shape[2] - 1)
    weight[0, outside], weight[1, outside] = _ONE, 0
    columns, right = (index.clamp(0, pixels.shape[2] - 1) for index in (columns, right))
    values = pixels.to(torch.int32)
    rows = values.index_select(2, columns) * weight[0] + values.index_select(2, right) * weight[1]

    top, bottom, weight = _neighbours(pixels.shape[1], height)
    top, bottom = (index.clamp(0, pixels.shape[1] - 1) for index in (top, bottom))
    rows = rows >> 4
    upper = (rows.index_select(1, top) * weight[0].view(-1, 1)) >> 16
    lower = (rows.index_select(1, bottom) * weight[1].view(-1, 1)) >> 16
    return ((upper + lower + 2) >> 2).clamp(0, 255).to(torch.uint8)


def _neighbours(side: int, new_side: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each new pixel the two old ones around its centre, (n,) each, and their weights (2, n) int32."""
    step = 1 / (new_side / side)  # as OpenCV computes it
    place = ((torch.arange(new_side, dtype=torch.float64) + 0.5) * step - 0.5).float()
    first = place.floor()
    share = place - first
    weight = (torch.stack([1 - share, share]) * _ONE).round().to(torch.int32)
    return first.long(), first.long() + 1, weight


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _crop_start(side: int, crop: int) -> int:
    """First row or column of torchvision's centre crop; negative where it pads."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2.0)


def _padded(pixels: Tensor, rule: Preprocess) -> tuple[Tensor, int, int]:
    """(3, H, W) with the image inside, and the rows above and the columns to the left of it."""
    height, width = pixels.shape[1:]
    new_height, new_width = rule.pad.size(height, width)
    top = new_height // 2 - height // 2 if rule.pad.center else 0
    left = new_width // 2 - width // 2 if rule.pad.center else 0
    value = rule.pad.value if isinstance(rule.pad.value, tuple) else (rule.pad.value,) * 3
    canvas = torch.tensor(value).to(torch.uint8).view(3, 1, 1).repeat(1, new_height, new_width)
    canvas[:, top : top + height, left : left + width] = pixels
    return canvas, top, left
