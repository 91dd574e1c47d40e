"""What the suite's OpenMMLab models share at test time: they answer through ``hardnet_suite.inference``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hardnet_suite.inference.prepare import Placement


class PerShapeInference:
    """Mixin of models: the images of a batch that differ in size go through the network apart.

    mmdet would pad them to one size, so that a prediction would depend on its neighbours in the batch, and
    mmseg refuses them.
    """

    def test_step(self, data: Mapping[str, Any]) -> list:
        inputs, samples = data["inputs"], data.get("data_samples")
        if isinstance(inputs, Tensor):
            return super().test_step(data)
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(inputs):
            groups.setdefault(tuple(image.shape), []).append(index)
        answers: list = [None] * len(inputs)
        for indices in groups.values():
            group = {"inputs": [inputs[index] for index in indices]}
            if samples is not None:
                group["data_samples"] = [samples[index] for index in indices]
            for index, answer in zip(indices, super().test_step(group), strict=True):
                answers[index] = answer
        return answers

    val_step = test_step


def placement_of(meta: Mapping[str, Any]) -> Placement:
    """Where the image of a data sample lies in the network's input.

    Args:
        meta: its meta information: ``placement`` where ``PrepareImage`` made the input, otherwise what
            OpenMMLab's own transforms leave (``ori_shape``, ``img_shape``, ``scale_factor``, ``border``).
    """
    if "placement" in meta:
        return meta["placement"]
    image_size = tuple(int(side) for side in meta["ori_shape"][:2])
    height, width = meta["img_shape"][:2]
    horizontal, vertical = meta.get("scale_factor", (width / image_size[1], height / image_size[0]))
    content_size = (round(image_size[0] * vertical), round(image_size[1] * horizontal))
    top, _, left, _ = meta.get("border", (0, height, 0, width))
    scale = (content_size[1] / image_size[1], content_size[0] / image_size[0])
    return Placement(image_size, content_size, scale, (float(left), float(top)))


def input_placement(meta: Mapping[str, Any]) -> Placement:
    """The placement that leaves boxes in pixels of the resized image (mmdet's ``rescale=False``)."""
    placement = placement_of(meta)
    return Placement(placement.content_size, placement.content_size, offset=placement.offset)
