"""From a detector's raw output to boxes in the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hardnet_suite.inference.finite import require_finite
from hardnet_suite.inference.nms import batched_nms
from hardnet_suite.inference.prepare import Placement
from hardnet_suite.networks import DetectionPostprocess, SSDArch, centernet, ssd


class Boxes(NamedTuple):
    """The boxes found in one image, best first.

    ``boxes`` (K, 4) x1, y1, x2, y2 in pixels of the image; ``scores`` (K,) in [0, 1]; ``labels`` (K,) int64
    class indices.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def ssd_boxes(
    out: Mapping[str, Sequence[Tensor]],
    arch: SSDArch,
    placements: Sequence[Placement],
    rule: DetectionPostprocess,
) -> list[Boxes]:
    """SSD's raw maps to boxes: decoding, score threshold, suppression per class, the best of all.

    Args:
        out: ``cls`` and ``box``, one map per level, as ``networks.SSD`` returns them.
        arch: the row of the table with the default boxes.
        placements: where each image lies in the input.
        rule: the output rule.

    Returns:
        One ``Boxes`` per image.

    Raises:
        UserError: the maps are not finite.
    """
    require_finite(*out["cls"], *out["box"])
    fractions, probabilities = ssd.decode(out, arch)
    levels = [maps.shape[1] // 4 * maps.shape[2] * maps.shape[3] for maps in out["box"]]
    results = []
    for boxes, scores, placement in zip(fractions * arch.size, probabilities, placements, strict=True):
        box, label = _candidates(scores, levels, rule)
        scores = scores[box, label]
        boxes = placement.boxes_to_image(boxes[box])
        if rule.iou_threshold is not None:
            keep = batched_nms(
                boxes,
                scores,
                label,
                rule.iou_threshold,
                offset=rule.iou_offset,
                class_agnostic=rule.class_agnostic,
                limit=rule.max_boxes,
            )
            boxes, scores, label = boxes[keep], scores[keep], label[keep]
        results.append(_finished(boxes, scores, label, placement, rule))
    return results


def _candidates(scores: Tensor, levels: Sequence[int], rule: DetectionPostprocess) -> tuple[Tensor, Tensor]:
    """(P, C) probabilities -> the (box, class) pairs above the threshold, at most so many per level."""
    pairs = []
    start = 0
    for count in levels:
        box, label = (scores[start : start + count] > rule.score_threshold).nonzero(as_tuple=True)
        box = box + start
        if rule.max_before_nms is not None and len(box) > rule.max_before_nms:
            best = scores[box, label].argsort(descending=True, stable=True)[: rule.max_before_nms]
            box, label = box[best], label[best]
        pairs.append((box, label))
        start += count
    return torch.cat([box for box, _ in pairs]), torch.cat([label for _, label in pairs])


def centernet_boxes(
    forward: Callable[[Tensor], Mapping[str, Tensor]],
    inputs: Tensor,
    placements: Sequence[Placement],
    rule: DetectionPostprocess,
) -> list[Boxes]:
    """CenterNet on a batch: the network, its mirror image where the rule says so, peaks, the best of them.

    Args:
        forward: the network, to ``hm`` (logits), ``wh`` and ``reg`` as ``networks.CenterNet`` returns them.
        inputs: (N, C, H, W) normalised.
        placements: where each image lies in the input.
        rule: the output rule.

    Returns:
        One ``Boxes`` per image.
    """
    return peaks_to_boxes(*centernet_maps(forward, inputs, flip=rule.flip), placements, rule)


def centernet_maps(
    forward: Callable[[Tensor], Mapping[str, Tensor]], inputs: Tensor, *, flip: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``hm`` as probabilities, ``wh`` and ``reg``, with ``flip`` averaged with those of the mirror image."""
    out = forward(torch.cat([inputs, inputs.flip(3)]) if flip else inputs)
    require_finite(out["hm"], out["wh"], out["reg"])
    hm, wh, reg = out["hm"].float().sigmoid(), out["wh"].float(), out["reg"].float()
    return centernet.average_flipped(hm, wh, reg) if flip else (hm, wh, reg)


def peaks_to_boxes(
    hm: Tensor, wh: Tensor, reg: Tensor, placements: Sequence[Placement], rule: DetectionPostprocess
) -> list[Boxes]:
    """CenterNet's maps, ``hm`` as probabilities, to one ``Boxes`` per image."""
    results = []
    for rows, placement in zip(centernet.decode(hm, wh, reg, rule.max_boxes), placements, strict=True):
        rows = rows[rows[:, 4] > rule.score_threshold]
        boxes = placement.boxes_to_image(rows[:, :4] * centernet.OUTPUT_STRIDE)
        results.append(_finished(boxes, rows[:, 4], rows[:, 5].long(), placement, rule))
    return results


def placed_boxes(
    out: Mapping[str, Tensor], placements: Sequence[Placement], rule: DetectionPostprocess
) -> list[Boxes]:
    """Boxes in the input, as exported files with their own postprocessing return them, to boxes in the image.

    Args:
        out: ``boxes`` (N, K, 4) in pixels of the input, ``scores`` and ``labels`` (N, K); −1 in unused rows.
        placements: where each image lies in the input.
        rule: the output rule; suppression is over.

    Returns:
        One ``Boxes`` per image.

    Raises:
        UserError: the boxes are not finite.
    """
    require_finite(out["boxes"], out["scores"])
    results = []
    for boxes, scores, labels, placement in zip(
        out["boxes"].float(), out["scores"].float(), out["labels"].long(), placements, strict=True
    ):
        used = (labels >= 0) & (scores > rule.score_threshold)
        boxes = placement.boxes_to_image(boxes[used])
        results.append(_finished(boxes, scores[used], labels[used], placement, rule))
    return results


def _finished(
    boxes: Tensor, scores: Tensor, labels: Tensor, placement: Placement, rule: DetectionPostprocess
) -> Boxes:
    order = scores.argsort(descending=True, stable=True)[: rule.max_boxes]
    boxes = boxes[order]
    if rule.clip:
        height, width = placement.image_size
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height] * 2))
    return Boxes(boxes, scores[order], labels[order])
