"""Non-maximum suppression, per class or across classes."""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor

_FIRST = 1000  # boxes of a class that are looked at first


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, offset: int = 0) -> Tensor:
    """Non-maximum suppression as mmcv computes it.

    Args:
        boxes: (K, 4) x1, y1, x2, y2.
        scores: (K,).
        iou_threshold: a box is dropped whose IoU with a better one is larger.
        offset: sides are x2 − x1 + ``offset`` long.

    Returns:
        Indices of the boxes kept, best first.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # compared in float32 as mmcv does: 0.3 in double precision would decide ties the other way
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), threshold)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    *,
    offset: int = 0,
    class_agnostic: bool = False,
    limit: int | None = None,
) -> Tensor:
    """Suppression within each class, on the boxes themselves.

    Shifting the classes apart, as torchvision and mmcv do, would cost precision. Suppression decides in the
    order of the scores, and no more than ``limit`` boxes are asked for: only the best of a class are looked
    at, and more while too few are kept. The result is the same, but an untrained network's tens of thousands
    of boxes per class do not take minutes per image.

    Args:
        boxes: (K, 4) x1, y1, x2, y2.
        scores: (K,).
        labels: (K,) class indices.
        iou_threshold: a box is dropped whose IoU with a better one of its class is larger.
        offset: sides are x2 − x1 + ``offset`` long.
        class_agnostic: suppression across classes.
        limit: how many boxes are kept, best first; None: all.

    Returns:
        Indices of the boxes kept, best first.
    """
    if class_agnostic:
        labels = torch.zeros_like(labels)
    kept = [labels.new_zeros(0)]
    for label in labels.unique():
        group = (labels == label).nonzero().flatten()
        order = group[scores[group].argsort(descending=True, stable=True)]
        count = len(order) if limit is None else _FIRST
        while True:
            best = order[:count]
            keep = nms(boxes[best], scores[best], iou_threshold, offset=offset)
            if count >= len(order) or len(keep) >= limit:
                break
            count *= 4
        kept.append(best[keep])
    keep = torch.cat(kept)
    return keep[scores[keep].argsort(descending=True, stable=True)][:limit]
