"""From a segmentation network to one class per pixel of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hardnet_suite.inference.finite import require_finite
from hardnet_suite.inference.prepare import Placement
from hardnet_suite.networks import SegmentationPostprocess

NO_CLASS = 255  # in masks of one class: the pixels that are not of it


class Mask(NamedTuple):
    """One image's ``mask``: (H, W) uint8 class indices, with ``NO_CLASS`` where a single class is absent."""

    mask: Tensor


def segmentation_masks(
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    placements: Sequence[Placement],
    rule: SegmentationPostprocess,
) -> list[Mask]:
    """``segmentation_logits``, and of them one ``Mask`` per image."""
    return [
        Mask(logits_to_mask(logits, rule))
        for logits in segmentation_logits(forward, inputs, placements, rule)
    ]


def segmentation_logits(
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    placements: Sequence[Placement],
    rule: SegmentationPostprocess,
) -> list[Tensor]:
    """Logits for each pixel of each image.

    Args:
        forward: the network, (N, C, h, w) -> (N, classes, h, w) logits.
        inputs: (N, C, H, W) normalised.
        placements: where each image lies in the input.
        rule: the output rule; its sliding window averages logits where windows overlap.

    Returns:
        One (classes, height, width) tensor per image, in the image's own size.

    Raises:
        UserError: the logits are not finite.
    """
    logits = input_logits(forward, inputs, rule)
    return [placement.map_to_image(row) for row, placement in zip(logits, placements, strict=True)]


def input_logits(
    forward: Callable[[Tensor], Tensor], inputs: Tensor, rule: SegmentationPostprocess
) -> Tensor:
    """(N, classes, H, W) float32 logits for each pixel of the inputs; UserError unless they are finite."""
    if rule.window is None:
        logits = forward(inputs)
    else:
        logits = _slide(forward, inputs, rule.window, rule.stride or rule.window)
    require_finite(logits)
    return logits.float()


def logits_to_mask(logits: Tensor, rule: SegmentationPostprocess) -> Tensor:
    """(classes, H, W) logits -> (H, W) uint8 class indices, see ``logits_to_classes``."""
    return logits_to_classes(logits, rule).to(torch.uint8)


def logits_to_classes(logits: Tensor, rule: SegmentationPostprocess) -> Tensor:
    """(classes, H, W) logits -> (H, W) int64 class indices.

    With a single class, 0 where its probability exceeds the rule's threshold and ``NO_CLASS`` elsewhere.
    """
    return _classes(logits, is_object=logits[0].sigmoid() > rule.threshold)


def mean_to_mask(views: Sequence[Tensor], rule: SegmentationPostprocess) -> Tensor:
    """Logits of several views of one image -> the mask of their mean probabilities.

    Args:
        views: (classes, H, W) logits, one per view.
        rule: the output rule.

    Returns:
        (H, W) uint8, as ``logits_to_mask``.
    """
    single = views[0].shape[0] == 1
    total = sum(logits.sigmoid() if single else logits.softmax(0) for logits in views) / len(views)
    return _classes(total, is_object=total[0] > rule.threshold).to(torch.uint8)


def _classes(values: Tensor, *, is_object: Tensor) -> Tensor:
    if values.shape[0] > NO_CLASS:
        raise ValueError(f"masks of 8 bits hold up to {NO_CLASS} classes, got {values.shape[0]}")
    if values.shape[0] == 1:
        return torch.where(is_object, 0, NO_CLASS)
    return values.argmax(0)


def _slide(
    forward: Callable[[Tensor], Tensor], inputs: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """The mean of the logits of all windows; the last of a row or column is moved back inside (mmseg)."""
    height, width = inputs.shape[2:]
    total = count = None
    for y in _starts(height, window[0], stride[0]):
        for x in _starts(width, window[1], stride[1]):
            rows, columns = slice(y, y + window[0]), slice(x, x + window[1])
            logits = forward(inputs[:, :, rows, columns]).float()
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
                count = logits.new_zeros(1, 1, height, width)
            total[:, :, rows, columns] += logits
            count[:, :, rows, columns] += 1
    return total / count


def _starts(side: int, window: int, stride: int) -> list[int]:
    steps = max(side - window + stride - 1, 0) // stride + 1
    return [max(min(step * stride + window, side) - window, 0) for step in range(steps)]
