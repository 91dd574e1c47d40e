"""Non-maximum suppression. Boxes are (N, 4) as x1 y1 x2 y2; a side is x2 − x1 + ``offset`` long."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hardnet_suite.networks.layers import at_least_float32

_FIRST = 1000  # candidates per class that are looked at first


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, *, offset: int = 0) -> Tensor:
    """Greedy suppression.

    Args:
        boxes: (N, 4).
        scores: (N,).
        iou_threshold: a box whose IoU with a better one is above it is dropped.
        offset: 1 counts the last pixel into a side, as older programs do.

    Returns:
        Indices of the boxes kept, best first.
    """
    boxes = at_least_float32(boxes)  # not every kernel of torchvision knows half precision and bfloat16
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return _operator()(boxes, scores.to(boxes.dtype), _as_float32(iou_threshold))


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    *,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS (Bodla et al., ICCV 2017): lowers the scores of overlapping boxes.

    Args:
        boxes: (N, 4).
        scores: (N,).
        iou_threshold: IoU from which "naive" and "linear" act.
        sigma: width of "gaussian".
        min_score: boxes that fall below it are dropped.
        method: "naive" (plain suppression), "linear" or "gaussian".
        offset: as in :func:`nms`.

    Returns:
        Indices of the boxes kept and their new scores, best first.
    """
    if method not in ("naive", "linear", "gaussian"):
        raise ValueError(f"method={method!r}: expected naive, linear or gaussian")
    boxes, left = at_least_float32(boxes), at_least_float32(scores).clone()
    index = torch.arange(len(boxes), device=boxes.device)
    kept: list[Tensor] = []
    kept_scores: list[Tensor] = []
    while len(index):
        best = int(left.argmax())
        kept.append(index[best].clone())
        kept_scores.append(left[best].clone())
        index[best], left[best] = index[0], left[0]
        index, left = index[1:], left[1:]

        iou = iou_with(boxes[kept[-1]], boxes[index], offset)
        if method == "gaussian":
            left = left * torch.exp(-(iou * iou) / sigma)
        else:
            left = torch.where(iou >= iou_threshold, left * (0 if method == "naive" else 1 - iou), left)

        # The compiled operator of mmcv moves the last box into a dropped one's place, which decides between
        # equal scores.
        alive = ~(left < min_score)
        survivors = alive.nonzero().flatten()
        count = len(survivors)
        order = torch.arange(count, device=boxes.device)
        order[~alive[:count]] = survivors[survivors >= count].flip(0)
        index, left = index[order], left[order]
    if not kept:
        return index, left
    return torch.stack(kept), torch.stack(kept_scores)


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
    """Greedy suppression within each class, on the boxes themselves.

    (Moving the classes apart by large offsets, as torchvision and mmcv do, costs precision.)

    Args:
        boxes: (N, 4).
        scores: (N,).
        labels: (N,) integer class of each box.
        iou_threshold, offset: as in :func:`nms`.
        class_agnostic: suppress across classes.
        limit: keep at most this many boxes, the best ones. Suppression then looks at the best candidates of a
            class first and at more only while too few are kept: the same result, without minutes per image
            for an untrained network's tens of thousands of boxes.

    Returns:
        Indices of the boxes kept, best first; equal scores in the order of their classes.
    """
    if class_agnostic:
        labels = torch.zeros_like(labels)
    kept = [
        members[_nms_best_first(boxes[members], scores[members], iou_threshold, offset, limit)]
        for members in ((labels == label).nonzero().flatten() for label in labels.unique())
    ]
    if not kept:
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    keep = torch.cat(kept)
    return keep[scores[keep].argsort(descending=True, stable=True)[:limit]]


def _nms_best_first(
    boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int, limit: int | None
) -> Tensor:
    order = scores.argsort(descending=True, stable=True)
    count = len(order) if limit is None else _FIRST
    while True:
        best = order[:count]
        keep = nms(boxes[best], scores[best], iou_threshold, offset=offset)
        if count >= len(order) or len(keep) >= limit:
            return best[keep]
        count *= 4


def iou_with(box: Tensor, boxes: Tensor, offset: int = 0) -> Tensor:
    """IoU of one box (4,) with each of boxes (N, 4)."""
    top_left = torch.maximum(box[:2], boxes[:, :2])
    bottom_right = torch.minimum(box[2:], boxes[:, 2:])
    sides = (bottom_right - top_left + offset).clamp(min=0)
    intersection = sides.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    return intersection / ((box[2:] - box[:2] + offset).prod() + areas - intersection)


def _as_float32(threshold: float) -> float:
    """mmcv's compiled operator compares in float32: 0.3 as a double would decide ties the other way."""
    return torch.tensor(threshold, dtype=torch.float32).item()


def load_operator() -> None:
    """Makes ``torch.ops.torchvision.nms`` known, for programs that call it by that name."""
    _operator()


@cache
def _operator() -> Callable[[Tensor, Tensor, float], Tensor]:
    """torchvision's compiled suppression, (boxes, scores, threshold) -> indices.

    The library is loaded alone: the Python package around it imports its models and torch's compiler, which
    takes as long as torch itself.
    """
    spec = None if "torchvision" in sys.modules else importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted(Path(folder).glob("_C*")):  # _C, since 0.29 _C_stable
            with suppress(OSError):
                torch.ops.load_library(library)
    with suppress(AttributeError):
        return torch.ops.torchvision.nms
    import torchvision.ops  # says what does not fit

    return torchvision.ops.nms
