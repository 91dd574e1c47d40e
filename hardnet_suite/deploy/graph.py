"""A network as the module that is exported: one tensor in; one tensor, or a tuple of them, out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hardnet_suite.deploy.outputs import flatten, invalid_class
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.inference.boxes import centernet_maps
from hardnet_suite.inference.masks import input_logits, logits_to_classes
from hardnet_suite.inference.prepare import to_input
from hardnet_suite.networks import (
    ClassificationPostprocess,
    DetectionPostprocess,
    SegmentationPostprocess,
    SSDArch,
    centernet,
    ssd,
)

# (N, P, 4) boxes, (N, C, P) scores, IoU threshold, score threshold, limit per class
# -> (M, 3) image, class and box of those that remain
Select = Callable[[Tensor, Tensor, float, float, int], Tensor]

_TINY = 1e-30
UNUSED = -1  # score and label of rows that hold no box


class Graph(nn.Module):
    """What a record says that a file does.

    The answers are those of ``inference.answers`` for images that are the file's input: detections as boxes
    (N, K, 4) in pixels of the input, scores (N, K) and labels (N, K), best first, ``UNUSED`` from the last
    one on; segmentation as (N, H, W) uint8; classification as (N, classes) probabilities. Of an image for
    which the network computes NaN or infinity no score or probability is finite, and the mask is
    ``invalid_class`` everywhere.

    Args:
        network: of ``create_model``, in eval mode; it gets inputs of its own dtype.
        record: what the file does.
        select: non-maximum suppression as the format has it, see ``hardnet_suite.deploy.suppression``.
    """

    def __init__(self, network: nn.Module, record: ExportRecord, select: Select):
        super().__init__()
        self.network, self.record, self.select = network, record, select
        self.dtype = next(network.parameters()).dtype

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        out = self._outputs(x)
        return out if len(out) > 1 else out[0]

    def _outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        size = x.shape[2:]
        if "preprocess" in self.record.includes:
            x = to_input(x, self.record.usage.preprocess)
        rule = self.record.usage.postprocess
        if "postprocess" not in self.record.includes or rule is None:
            return tuple(flatten(self._raw(x)))
        if isinstance(rule, ClassificationPostprocess):
            logits = self._raw(x)
            # not finite where a logit is not, else too little to count: ncnn has no comparisons, and
            # optimizers fold a product with 0
            spoil = logits.abs().mean(1, keepdim=True) * _TINY
            return (logits.softmax(1) + spoil,)
        network = _Watched(self._raw)
        if isinstance(rule, SegmentationPostprocess):
            logits = input_logits(network, x, rule)[:, :, : size[0], : size[1]]
            classes = logits_to_classes(logits.transpose(0, 1), rule)
            invalid = invalid_class(self.record.num_classes)
            return (classes.where(network.is_finite(x)[:, None, None], invalid).to(torch.uint8),)
        decode = self._suppressed if isinstance(self.record.arch, SSDArch) else self._peaks
        boxes, scores, labels = decode(network, x, size, rule)
        return boxes, scores.where(network.is_finite(x)[:, None], torch.nan), labels

    def _raw(self, x: Tensor) -> Any:
        out = self.network(x.to(self.dtype))
        if isinstance(out, Tensor):
            return out.float()
        return {
            name: value.float() if isinstance(value, Tensor) else [each.float() for each in value]
            for name, value in out.items()
        }

    def _peaks(
        self, network: _Watched, x: Tensor, size: Any, rule: DetectionPostprocess
    ) -> tuple[Tensor, Tensor, Tensor]:
        maps = centernet_maps(network, x, flip=rule.flip)
        rows = centernet.decode(*maps, rule.max_boxes)
        boxes, scores, labels = rows[..., :4] * centernet.OUTPUT_STRIDE, rows[..., 4], rows[..., 5].long()
        return _finished(boxes, scores, labels, scores > rule.score_threshold, size, rule)

    def _suppressed(
        self, network: _Watched, x: Tensor, size: Any, rule: DetectionPostprocess
    ) -> tuple[Tensor, Tensor, Tensor]:
        arch = self.record.arch
        out = network(x)
        fractions, scores = ssd.decode(out, arch)
        boxes, scores = fractions * arch.size, scores.transpose(1, 2)  # (N, P, 4), (N, C, P)
        boxes = boxes.where(network.is_finite(x)[:, None, None], 0)  # suppression is of all images at once
        scores = torch.where(scores > rule.score_threshold, scores, float(UNUSED))
        if rule.max_before_nms is not None:
            counts = [maps.shape[1] // 4 * maps.shape[2] * maps.shape[3] for maps in out["box"]]
            levels = scores.split(counts, 2)
            scores = torch.cat([_best(level, rule.max_before_nms) for level in levels], 2)
        labels = None
        if rule.class_agnostic:
            scores, labels = scores.max(1, keepdim=True)
        threshold = 1.0 if rule.iou_threshold is None else rule.iou_threshold
        ends = boxes.new_tensor([0, 0, rule.iou_offset, rule.iou_offset])
        chosen = self.select(boxes + ends, scores, threshold, rule.score_threshold, rule.max_boxes)
        return _finished(*_tables(boxes, scores, labels, chosen, rule.max_boxes), size, rule)


class _Watched:
    """A network that remembers whether its outputs were finite.

    Args:
        network: (M, C, H, W) -> tensors of M rows, where M is a multiple of the number of images.
    """

    def __init__(self, network: Callable[[Tensor], Any]):
        self.network = network
        self.sizes: list[Tensor] = []  # (M,) mean absolute values of each call

    def __call__(self, x: Tensor) -> Any:
        out = self.network(x)
        self.sizes += [value.abs().flatten(1).mean(1) for value in flatten(out)]
        return out

    def is_finite(self, images: Tensor) -> Tensor:
        """(N,) bool: whether all outputs so far were finite."""
        rows = torch.cat([sizes.reshape(-1, images.shape[0]) for sizes in self.sizes])
        return rows.sum(0) < torch.finfo(torch.float32).max  # false of NaN, too


def _best(scores: Tensor, count: int) -> Tensor:
    """(N, C, P) scores, of which the ``count`` best per image are kept and the others unused."""
    flat = scores.transpose(1, 2).flatten(1)  # in the order of boxes, then classes
    if flat.shape[1] <= count:
        return scores
    values, index = flat.topk(count)
    kept = torch.full_like(flat, float(UNUSED)).scatter(1, index, values)
    return kept.unflatten(1, (scores.shape[2], scores.shape[1])).transpose(1, 2)


def _tables(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, chosen: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ``count`` best of the chosen boxes per image: boxes (N, K, 4), scores, labels, whether used."""
    image, label, box = chosen.unbind(1)  # (M,) each
    rows = boxes[image, box]
    values = scores[image, label, box]
    if labels is not None:
        label = labels[image, label, box]
    # K unused rows at the end, for images with fewer boxes
    rows = torch.cat([rows, rows.new_zeros(count, 4)])
    label = torch.cat([label, label.new_zeros(count)])
    own = torch.arange(boxes.shape[0], device=boxes.device)[:, None] == image  # (N, M)
    values = torch.where(own, values, float(UNUSED))
    values = torch.cat([values, values.new_full((boxes.shape[0], count), float(UNUSED))], 1)
    values, index = values.topk(count)
    return rows[index], values, label[index], values > UNUSED


def _finished(
    boxes: Tensor, scores: Tensor, labels: Tensor, used: Tensor, size: Any, rule: DetectionPostprocess
) -> tuple[Tensor, Tensor, Tensor]:
    if rule.clip:
        height, width = size
        x, y = boxes[..., 0::2].clamp(min=0), boxes[..., 1::2].clamp(min=0)
        x, y = x.clamp(max=width), y.clamp(max=height)
        boxes = torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)
    return (
        torch.where(used[..., None], boxes, 0),
        torch.where(used, scores, float(UNUSED)),
        torch.where(used, labels, UNUSED),
    )
