"""CenterNet's losses, as CenterNet-HarDNet trains with them.

The focal loss is that of Objects as Points (Zhou et al. 2019, arXiv 1904.07850, section 3); sizes and offsets
are learned in every cell around a centre, where the paper learns them in the centre's cell alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

LOSS_WEIGHTS = {"hm": 1.0, "wh": 0.05, "off": 0.5}  # the total is the sum of weight · loss


def centernet_loss(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The three losses of a batch, each a scalar >= 0, before ``LOSS_WEIGHTS``.

    ``outputs``: of `networks.centernet.CenterNet`: ``hm`` (N, C, h, w) logits, ``wh`` and ``reg``
    (N, 2, h, w); ``targets``: of `networks.centernet.targets`, stacked: ``hm`` (N, C, h, w) in [0, 1], 1 at
    the centres, ``wh``, ``off`` and ``weight`` (N, 2, h, w). Outputs in half precision are
    computed in float32.

    - ``hm``: the penalty-reduced focal loss, its sum divided by the batch's number of centres (not divided
      where there is none);
    - ``wh``, ``off``: the absolute error of size and offset in output pixels, its mean by ``weight``.

    Raises ValueError where an entry is missing or shapes differ.
    """
    for output, target in (("hm", "hm"), ("wh", "wh"), ("reg", "off"), ("wh", "weight")):
        if output not in outputs or target not in targets:
            raise ValueError(
                f"outputs must hold {output!r} and targets {target!r}, got {[*outputs]} and {[*targets]}"
            )
        if outputs[output].shape != targets[target].shape:
            raise ValueError(
                f"outputs[{output!r}] is {tuple(outputs[output].shape)}, "
                f"targets[{target!r}] {tuple(targets[target].shape)}: they must be equal"
            )
    weight = targets["weight"]
    return {
        "hm": _focal(outputs["hm"], targets["hm"]),
        "wh": _weighted_l1(outputs["wh"], targets["wh"], weight),
        "off": _weighted_l1(outputs["reg"], targets["off"], weight),
    }


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    # half precision rounds 1 - 1e-4 to 1; the other losses are promoted by their float32 targets
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    score = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    is_centre = target == 1
    hit = torch.where(is_centre, score.log() * (1 - score) ** 2, 0)
    # 0 at the centres, by the last factor
    miss = (1 - score).log() * score**2 * (1 - target) ** 4
    return -(hit + miss).sum() / is_centre.sum().clamp(min=1)


def _weighted_l1(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((output - target).abs() * weight).sum() / (weight.sum() + 1e-4)
