"""A network's output as a list of named tensors, as files for other runtimes have it, and the way back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from hardnet_suite.errors import UserError
from hardnet_suite.inference import NO_CLASS, Boxes, Guesses, Mask
from hardnet_suite.inference.finite import require_finite
from hardnet_suite.networks import (
    Arch,
    CenterNetArch,
    DescriptorArch,
    SegmentationArch,
    SSDArch,
)

Value = TypeVar("Value")

_SINGLE = ("logits", "descriptors")  # outputs that are a tensor, not a dict
_LEVEL = re.compile(r"(?P<map>.+)_(?P<level>[0-9]{1,2})")  # of lists: one tensor per level


def output_names(arch: Arch) -> tuple[str, ...]:
    """Names of what a network returns, in order.

    "logits" of classifiers and segmentation, "descriptors", CenterNet's "hm", "wh" and "reg"; of SSD "cls_0",
    "cls_1", … and "box_0", "box_1", …, one per level.
    """
    if isinstance(arch, SSDArch):
        levels = range(len(arch.priors.strides))
        return (*(f"cls_{level}" for level in levels), *(f"box_{level}" for level in levels))
    if isinstance(arch, CenterNetArch):
        return ("hm", "wh", "reg")
    return ("descriptors",) if isinstance(arch, DescriptorArch) else ("logits",)


def answer_names(arch: Arch) -> tuple[str, ...]:
    """Names of what a file returns that has the postprocessing inside, in order."""
    if isinstance(arch, SSDArch | CenterNetArch):
        return ("boxes", "scores", "labels")
    if isinstance(arch, SegmentationArch):
        return ("mask",)
    return ("descriptors",) if isinstance(arch, DescriptorArch) else ("probabilities",)


def flatten(out: Tensor | Mapping[str, Any]) -> list[Tensor]:
    """What a network's ``forward`` returns as a list, in the order of ``output_names``."""
    if isinstance(out, Tensor):
        return [out]
    tensors = []
    for value in out.values():
        tensors += [value] if isinstance(value, Tensor) else list(value)
    return tensors


def unflatten(names: Sequence[str], values: Sequence[Value]) -> Any:
    """The inverse of ``flatten``, for tensors or arrays.

    Args:
        names: as ``output_names`` returns them.
        values: one per name.

    Returns:
        A value, or a dict of values and of lists of them, as the network's ``forward`` returns.

    Raises:
        UserError: not as many values as names.
    """
    if len(names) != len(values):
        raise UserError(f"expected {len(names)} outputs ({', '.join(names)}), got {len(values)}")
    if len(names) == 1 and names[0] in _SINGLE:
        return values[0]
    out: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        level = _LEVEL.fullmatch(name)
        if level is None:
            out[name] = value
        else:
            out.setdefault(level["map"], []).append(value)
    return out


def invalid_class(num_classes: int) -> int:
    """What a file's masks hold for an image whose logits are not finite: no class, nor the lack of one."""
    return NO_CLASS if num_classes > 1 else NO_CLASS - 1


def is_class(mask: Tensor, num_classes: int) -> Tensor:
    """Where a mask holds what a network of so many classes can find: bool, of the mask's shape."""
    return (mask < num_classes) | (mask == NO_CLASS) if num_classes == 1 else mask < num_classes


def input_answers(
    names: Sequence[str], values: Sequence[Tensor], num_classes: int
) -> list[Boxes] | list[Mask] | list[Guesses]:
    """The answers that a file with the postprocessing inside returns, in pixels of its input.

    Args:
        names: as ``answer_names`` returns them; not of a patch descriptor.
        values: one tensor per name.
        num_classes: of the network.

    Returns:
        One answer per image, as ``inference.answers`` returns them for images that are the input.

    Raises:
        UserError: the network's output was not finite.
    """
    out = dict(zip(names, values, strict=True))
    if "mask" in out:
        require_finite(torch.where(is_class(out["mask"], num_classes), 0.0, torch.nan))
        return [Mask(mask) for mask in out["mask"]]
    require_finite(*(value for value in out.values() if value.is_floating_point()))
    if "probabilities" in out:
        best = out["probabilities"].float().sort(dim=1, descending=True, stable=True)
        return [Guesses(labels, scores) for labels, scores in zip(best.indices, best.values, strict=True)]
    results = []
    for boxes, scores, labels in zip(out["boxes"], out["scores"], out["labels"], strict=True):
        used = labels >= 0
        results.append(Boxes(boxes[used], scores[used], labels[used].long()))
    return results
