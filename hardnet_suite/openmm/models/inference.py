"""What the suite's OpenMMLab models share at test time: they answer through ``hardnet_suite.inference``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from hardnet_suite.inference.boxes import placed_boxes
from hardnet_suite.inference.prepare import Placement
from hardnet_suite.networks import DetectionPostprocess


class ReplaceableNetwork:
    """Mixin of models: their network can be computed elsewhere, as an exported file is in its engine.

    A model implements ``own_outputs`` and reads ``outputs``.
    """

    _elsewhere: Callable[[Tensor], Any] | None = None
    returns_boxes = False  # whether ``outputs`` are boxes in the input, see ``inference.boxes.placed_boxes``

    def own_outputs(self, inputs: Tensor) -> Any:
        """What the network of ``create_model`` returns, computed by the model's own parts."""
        raise NotImplementedError

    def outputs(self, inputs: Tensor) -> Any:
        """What the network of ``create_model`` returns, computed by whatever the model has for it."""
        return self.own_outputs(inputs) if self._elsewhere is None else self._elsewhere(inputs)

    def replace_network(self, forward: Callable[[Tensor], Any], *, returns_boxes: bool = False) -> None:
        """From now on ``forward`` computes the network, at test time.

        The model's own parameters become NaN, so that an answer of theirs cannot be taken for one of
        ``forward``.

        Args:
            forward: takes and returns what the network of ``create_model`` does.
            returns_boxes: it returns boxes in the input instead, decoded and suppressed.
        """
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(torch.nan)
        self.__dict__["_elsewhere"] = forward  # not a submodule: the runner neither moves nor saves it
        self.returns_boxes = returns_boxes


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


def placed_instances(
    out: Mapping[str, Tensor], metas: Sequence[Mapping[str, Any]], rule: DetectionPostprocess, rescale: bool
) -> list[InstanceData]:
    """``placed_boxes`` for mmdet: in pixels of the image with ``rescale``, otherwise of the input."""
    place = placement_of if rescale else input_placement
    return [
        InstanceData(bboxes=answer.boxes, scores=answer.scores, labels=answer.labels)
        for answer in placed_boxes(out, [place(meta) for meta in metas], rule)
    ]
