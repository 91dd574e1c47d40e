"""One batch: images prepared, and the network's answers as predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hardnet_suite.data.sources import SourceImage
from hardnet_suite.deploy.session import Session
from hardnet_suite.errors import UserError
from hardnet_suite.inference import NO_CLASS, Boxes, Guesses, Mask, Placement, prepare
from hardnet_suite.numeric import is_count, is_number
from hardnet_suite.prediction.model import LoadedModel
from hardnet_suite.prediction.result import Prediction

_USUAL_TOP = 5  # guesses
USUAL_SCORE = 0.3  # of a box


class PreparedImage(NamedTuple):
    """An image as the network takes it.

    Attributes:
        source: the image.
        size: (width, height) of it.
        pixels: (3, h, w) uint8 RGB.
        placement: where the image lies in them.
    """

    source: SourceImage
    size: tuple[int, int]
    pixels: Tensor
    placement: Placement


class Wanted(NamedTuple):
    """What of an answer is kept; see ``predict``."""

    top: int | None = None
    score: float | None = None


def require_wanted(wanted: Wanted) -> None:
    """ValueError for values out of range."""
    require_counts(top=wanted.top)
    if wanted.score is not None and not (is_number(wanted.score) and 0 <= wanted.score <= 1):
        raise ValueError(f"score={wanted.score!r}: expected a number from 0 to 1")


def require_counts(*, least: int = 1, **counts: int | None) -> None:
    """ValueError for counts that are no integers of at least ``least``; None is one where it is usual."""
    for name, count in counts.items():
        if not is_count(count, least=least) and (count is not None or name == "batch_size"):
            raise ValueError(f"{name}={count!r}: expected an integer of at least {least}")


def prepare_source(model: LoadedModel, source: SourceImage) -> PreparedImage:
    """Decodes and prepares an image; may run in several threads at once.

    Raises:
        UserError: the image cannot be read, or the network cannot take it.
    """
    image = source.open()
    try:
        pixels, placement = prepare(image, model.preprocess)
        if isinstance(model.network, Session):
            model.network.require_pixels(pixels, model.preprocess, model.postprocess)
        return PreparedImage(source, image.size, pixels, placement)
    except (ValueError, UserError) as error:
        raise UserError(f"{source.name}: {error}") from None


def predictions_of(
    model: LoadedModel, batch: Sequence[PreparedImage], wanted: Sequence[Wanted]
) -> list[Prediction]:
    """Runs the network once.

    Args:
        model: the model.
        batch: prepared images whose pixels have one shape.
        wanted: one per image.

    Returns:
        One prediction per image.
    """
    pixels = torch.stack([prepared.pixels for prepared in batch]).to(model.device)
    placements = [prepared.placement for prepared in batch]
    results: Sequence[Any] = model.answers(pixels, placements)
    predictions = []
    for prepared, result, kept in zip(batch, results, wanted, strict=True):
        answer = _arrays(result, kept.top, kept.score)
        predictions.append(
            Prediction(
                name=prepared.source.name,
                task=model.task,
                size=prepared.size,
                names=tuple(model.classes[label] for label in answer["labels"]),
                classes=model.classes,
                palette=model.palette,
                source=prepared.source,
                **answer,
            )
        )
    return predictions


def _arrays(answer: Boxes | Guesses | Mask, top: int | None, score: float | None) -> dict[str, np.ndarray]:
    """The fields of a ``Prediction`` that an answer fills."""
    if isinstance(answer, Guesses):
        items = {"labels": answer.labels.cpu().numpy(), "scores": answer.scores.cpu().numpy()}
        return _chosen(items, _USUAL_TOP if top is None else top, score)
    if isinstance(answer, Boxes):
        items = {
            "labels": answer.labels.cpu().numpy(),
            "scores": answer.scores.float().cpu().numpy(),
            "boxes": answer.boxes.float().cpu().numpy(),
        }
        return _chosen(items, top, USUAL_SCORE if score is None else score)
    mask = answer.mask.cpu().numpy()
    counts = np.bincount(mask.ravel())
    labels = np.flatnonzero(counts)
    labels = labels[labels != NO_CLASS]
    labels = labels[np.argsort(-counts[labels], kind="stable")]
    items = {"labels": labels, "scores": counts[labels] / mask.size}
    return _chosen(items, top, score) | {"mask": mask}


def _chosen(items: dict[str, np.ndarray], top: int | None, score: float | None) -> dict[str, np.ndarray]:
    """The first ``top`` of those that score enough; they are in the order of their scores."""
    if score is not None:
        keep = items["scores"] >= score
        items = {name: values[keep] for name, values in items.items()}
    return {name: values[:top] for name, values in items.items()}
