"""Greedy non-maximum suppression of all images and classes at once, as the formats express it.

From boxes (N, P, 4) and scores (N, C, P) to (M, 3) int64 rows of image, class and box: those that no better
box of their class suppresses. A side is x2 − x1 long: to count the last pixel
into it, add 1 to x2 and y2 first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def select(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, limit: int) -> Tensor:
    """With torchvision's operator.

    Args:
        boxes: (N, P, 4) x1, y1, x2, y2.
        scores: (N, C, P); those that are not above the threshold are at most −1.
        iou_threshold: a box whose IoU with a better one is larger is dropped.
        score_threshold: least score, exclusive.
        limit: of no effect here: the caller keeps the best.
    """
    image, label, box = (scores > score_threshold).nonzero(as_tuple=True)
    # Groups lie apart by a power of two, which a double holds beside the coordinates without rounding.
    reach = boxes.abs().amax().double().clamp(min=1).log2().ceil().exp2() * 4
    group = image * scores.shape[1] + label
    moved = boxes[image, box].double() + (group * reach)[:, None]
    values = scores[image, label, box].double()
    keep = torch.ops.torchvision.nms(moved, values, float(np.float32(iou_threshold)))
    return torch.stack([image, label, box], 1)[keep]
