"""From a classifier's logits to its guesses."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hardnet_suite.errors import UserError
from hardnet_suite.inference.finite import require_finite

ONE_CLASS = (
    "a classifier with one class answers it for every image, with a probability of 1: train it on two "
    "classes or more, one of which may be everything else"
)


class Guesses(NamedTuple):
    """The classes of one image, the highest logit first; equal ones by index.

    ``labels`` (classes,) int64 class indices; ``scores`` (classes,) float32 probabilities (softmax).
    """

    labels: Tensor
    scores: Tensor


def logits_to_guesses(logits: Tensor) -> list[Guesses]:
    """(N, classes) logits to one ``Guesses`` per image.

    Raises:
        UserError: they are not finite, or of a single class.
    """
    require_finite(logits)
    if logits.shape[1] == 1:
        raise UserError(ONE_CLASS)
    order = logits.argsort(dim=1, descending=True, stable=True)  # many a small probability is 0
    scores = logits.float().softmax(1).gather(1, order)
    return [Guesses(*guess) for guess in zip(order, scores, strict=True)]
