"""The losses of CenterNet-HarDNet.

The focal loss is that of Objects as Points (Zhou et al. 2019, arXiv 1904.07850, section 3). Unlike in the
paper, sizes and offsets are learned in every cell around a centre, not only in the centre's own cell.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hardnet_suite.networks.layers import at_least_float32

LOSS_WEIGHTS = {"hm": 1.0, "wh": 0.05, "off": 0.5}  # total loss = sum of weight · loss


def centernet_loss(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The three losses of a batch, without ``LOSS_WEIGHTS``.

    Half-precision outputs are converted to float32.

    Args:
        outputs: What `networks.centernet.CenterNet` returns: ``hm`` (N, C, h, w) logits, ``wh`` and ``reg``
            (N, 2, h, w).
        targets: Stacked results of `networks.centernet.targets`: ``hm`` (N, C, h, w) in [0, 1], 1 at the
            centres; ``wh``, ``off`` and ``weight`` (N, 2, h, w).

    Returns:
        A dict of non-negative scalars:

        - ``hm``: penalty-reduced focal loss, its sum divided by the number of centres in the batch (by 1 if
          there are none);
        - ``wh``, ``off``: absolute error of size and offset in output pixels, averaged with ``weight``.

    Raises:
        ValueError: An entry is missing, or shapes differ.
    """
    for output, target in (("hm", "hm"), ("wh", "wh"), ("reg", "off"), ("wh", "weight")):
        if output not in outputs or target not in targets:
            raise ValueError(
                f"expected {output!r} in outputs and {target!r} in targets, got {[*outputs]} and {[*targets]}"
            )
        if outputs[output].shape != targets[target].shape:
            raise ValueError(
                f"expected equal shapes, got {tuple(outputs[output].shape)} for outputs[{output!r}] and "
                f"{tuple(targets[target].shape)} for targets[{target!r}]"
            )
    hm = outputs["hm"]
    sizes = (len(hm), 2, *hm.shape[2:]) if hm.ndim == 4 else None
    for part in ("wh", "reg"):
        if outputs[part].shape != sizes:  # or they would be broadcast
            raise ValueError(
                f"expected (N, C, h, w) for hm and (N, 2, h, w) for {part}, got {tuple(hm.shape)} and "
                f"{tuple(outputs[part].shape)}"
            )
    weight = targets["weight"]
    return {
        "hm": _focal(outputs["hm"], targets["hm"]),
        "wh": _weighted_l1(outputs["wh"], targets["wh"], weight),
        "off": _weighted_l1(outputs["reg"], targets["off"], weight),
    }


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    # half precision rounds 1 - 1e-4 to 1; the other losses are promoted by their float32 targets
    logits = at_least_float32(logits)
    score = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    is_centre = target == 1
    hit = torch.where(is_centre, score.log() * (1 - score) ** 2, 0)
    # the last factor is 0 at the centres
    miss = (1 - score).log() * score**2 * (1 - target) ** 4
    return -(hit + miss).sum() / is_centre.sum().clamp(min=1)


def _weighted_l1(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((output - target).abs() * weight).sum() / (weight.sum() + 1e-4)
