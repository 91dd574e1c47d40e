"""From an image to a network's input, and from its output to an answer, on torch and torchvision alone.

``prepare`` makes the input by a ``Preprocess`` record, ``answers`` turns the output of any callable into
``Boxes``, ``Mask`` or ``Guesses`` by a ``Postprocess`` record. OpenMMLab's heads, ``predict`` and exported
models all go through here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hardnet_suite.inference.boxes import Boxes, centernet_boxes, ssd_boxes
from hardnet_suite.inference.labels import Guesses, logits_to_guesses
from hardnet_suite.inference.masks import NO_CLASS, Mask, segmentation_masks
from hardnet_suite.inference.patches import resize_patches
from hardnet_suite.inference.prepare import Placement, prepare, to_input
from hardnet_suite.networks import (
    Arch,
    ClassificationPostprocess,
    Postprocess,
    SegmentationPostprocess,
    SSDArch,
)

__all__ = [
    "NO_CLASS",
    "Boxes",
    "Guesses",
    "Mask",
    "Placement",
    "answers",
    "centernet_boxes",
    "logits_to_guesses",
    "prepare",
    "resize_patches",
    "segmentation_masks",
    "ssd_boxes",
    "to_input",
]


def answers(
    forward: Callable[[Tensor], Any],
    inputs: Tensor,
    placements: Sequence[Placement],
    *,
    arch: Arch,
    rule: Postprocess,
) -> list[Boxes] | list[Mask] | list[Guesses]:
    """What a network finds in a batch of images.

    Args:
        forward: the network, or anything that returns the same for the same input.
        inputs: (N, C, H, W), as ``to_input`` returns them.
        placements: where each image lies in its input, as ``prepare`` returns them.
        arch: the network's row of the architecture table.
        rule: the output rule.

    Returns:
        One answer per image: ``Boxes``, ``Mask`` or ``Guesses``, by the task of the rule.

    Raises:
        UserError: the network's output holds NaN or infinity.
    """
    if isinstance(rule, ClassificationPostprocess):
        return logits_to_guesses(forward(inputs))
    if isinstance(rule, SegmentationPostprocess):
        return segmentation_masks(forward, inputs, placements, rule)
    if isinstance(arch, SSDArch):
        return ssd_boxes(forward(inputs), arch, placements, rule)
    return centernet_boxes(forward, inputs, placements, rule)
