"""Images through a network in batches, and its answers as predictions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack, overload

import numpy as np
import torch
from torch import Tensor, nn

from hardnet_suite.data.coco import is_number
from hardnet_suite.data.sources import SourceImage, images_of, is_camera, is_live, is_single
from hardnet_suite.deploy.session import Session
from hardnet_suite.errors import UserError
from hardnet_suite.inference import NO_CLASS, Boxes, Guesses, Mask, Placement, prepare
from hardnet_suite.networks import list_models
from hardnet_suite.precision import Precision
from hardnet_suite.prediction.model import LoadedModel, load_model, model_of_network
from hardnet_suite.prediction.options import Images, PredictOptions
from hardnet_suite.prediction.result import Prediction
from hardnet_suite.prediction.workers import map_ahead

_USUAL_TOP = 5  # guesses
_USUAL_SCORE = 0.3  # of a box
_MOST_USUAL_WORKERS = 8


class _Prepared(NamedTuple):
    source: SourceImage
    size: tuple[int, int]  # width, height
    pixels: Tensor
    placement: Placement


@overload
def predict(
    model: str | Path | LoadedModel | nn.Module,
    images: Images,
    *,
    stream: Literal[False] = False,
    **options: Unpack[PredictOptions],
) -> list[Prediction]: ...


@overload
def predict(
    model: str | Path | LoadedModel | nn.Module,
    images: Images,
    *,
    stream: Literal[True],
    **options: Unpack[PredictOptions],
) -> Iterator[Prediction]: ...


@overload
def predict(
    model: str | Path | LoadedModel | nn.Module,
    images: Images,
    *,
    stream: bool,
    **options: Unpack[PredictOptions],
) -> list[Prediction] | Iterator[Prediction]: ...


def predict(
    model: str | Path | LoadedModel | nn.Module,
    images: Images,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    top: int | None = None,
    score: float | None = None,
    channels: str = "rgb",
    batch_size: int = 1,
    device: str | torch.device | None = None,
    bf16: bool = False,
    precision: Precision | None = None,
    workers: int | None = None,
    stream: bool = False,
    failed: list[tuple[str, str]] | None = None,
) -> list[Prediction] | Iterator[Prediction]:
    """Classifies, detects or segments images: one ``Prediction`` per image, in order.

    Args:
        model: a name of ``list_models()``, a config, a file of weights, an exported file, a run's folder,
            what ``load_model`` returned, or a network of ``create_model``, used as it is, in eval mode.
        images: a path, folder, pattern, address, PIL image, array (H, W, 3) uint8, tensor (3, H, W) or
            (N, 3, H, W) of uint8 or of floats in 0…1, bytes of an image file, open file, video, camera, or a
            list or iterator of these, see ``images_of``.
        weights: for a name or a config, a tag of the weights registry or a file; default: the published.
        classes: names of the classes, where the weights do not bring them along.
        top: at most so many guesses, boxes, or classes of a mask, best first; None: 5 guesses, or all.
        score: guesses, boxes, or classes of a mask that score lower, 0 to 1, are left out; None: boxes below
            0.3. The mask itself stays whole.
        channels: channel order of arrays and tensors, "rgb" or "bgr" (as OpenCV reads images).
        batch_size: images per batch; only images whose inputs have the same size go together.
        device: "cpu", "cuda", …; None: a GPU where there is one.
        bf16: computes in bfloat16: short for ``precision="bf16"``.
        precision: as for ``load_model``.
        workers: threads that decode and prepare images while the network computes; the answers are the same.
            A few images, a batch and two per thread, are read ahead. 0: none are. None: one thread per thread
            of PyTorch, up to 8, and none for one image or for what may still be on its way: cameras,
            iterators and videos at an address.
        stream: returns an iterator that reads on as it is asked, so that memory stays flat.
        failed: images that cannot be read are added to it, as (name, reason).

    An image that cannot be read is skipped with a warning; if it is the only one, it is an error.

    Raises:
        UserError: no such model, weights or images, or the two arguments are swapped.
        ValueError: ``top`` or ``batch_size`` below 1, ``workers`` below 0, ``score`` outside 0 to 1,
            something that is not an image, options of ``load_model`` beside a loaded model, or a camera
            without ``stream``.
    """
    _require_counts(top=top, batch_size=batch_size)
    _require_counts(least=0, workers=workers)
    if score is not None and not (is_number(score) and 0 <= score <= 1):
        raise ValueError(f"score={score!r}: expected a number from 0 to 1")
    _require_order(model, images)
    if is_camera(images) and not stream:
        raise ValueError("a camera has no end: stream=True returns its images one by one")
    if isinstance(model, LoadedModel | nn.Module):
        if weights is not None or device is not None or (isinstance(model, LoadedModel) and classes):
            raise ValueError("weights, classes and device are for load_model: this model is loaded")
        if isinstance(model, nn.Module):
            model = model_of_network(model, classes=classes, bf16=bf16, precision=precision)
        elif bf16 or precision is not None:
            raise ValueError("bf16 and precision are for load_model: this model is loaded")
    else:
        model = load_model(
            model, weights=weights, classes=classes, device=device, bf16=bf16, precision=precision
        )
    if workers is None:
        workers = usual_workers(images)
    single = is_single(images)

    def skip(source: SourceImage, error: UserError) -> None:
        if single:
            raise error
        warnings.warn(f"skipped: {error}", stacklevel=4)
        if failed is not None:
            failed.append((source.name, str(error)))

    sources = images_of(images, channels=channels)
    predictions = predict_sources(
        model, sources, skip, top=top, score=score, batch_size=batch_size, workers=workers
    )
    return predictions if stream else list(predictions)


def _require_counts(*, least: int = 1, **counts: int | None) -> None:
    for name, count in counts.items():
        is_count = isinstance(count, int | np.integer) and not isinstance(count, bool) and count >= least
        if not is_count and (count is not None or name == "batch_size"):
            raise ValueError(f"{name}={count!r}: expected an integer of at least {least}")


def usual_workers(images: Any) -> int:
    """How many threads read ahead where nobody says: see ``predict``."""
    if is_single(images) or is_live(images):
        return 0
    return min(torch.get_num_threads(), _MOST_USUAL_WORKERS)


def _require_order(model: Any, images: Any) -> None:
    """Refuses ``predict(images, model)``; where both are text, ``load_model`` does."""
    names_model = isinstance(images, str) and images in list_models() and not os.path.lexists(images)
    if isinstance(images, LoadedModel | nn.Module):
        shown = f"a {type(images).__name__}"
    elif names_model and not isinstance(model, str | Path | LoadedModel | nn.Module):
        shown = repr(images)
    else:
        return
    raise UserError(f"the arguments are swapped: expected predict(model, images), got {shown} as images")


def predict_sources(
    model: LoadedModel,
    images: Iterator[SourceImage],
    skip: Callable[[SourceImage, UserError], None],
    *,
    top: int | None,
    score: float | None,
    batch_size: int,
    workers: int,
) -> Iterator[Prediction]:
    """``predict`` for sources; ``skip`` is called for each that cannot be read, in its place."""
    batch: list[_Prepared] = []
    prepared_images = map_ahead(
        partial(_prepare, model), images, workers=workers, ahead=batch_size + 2 * workers
    )
    with closing(prepared_images):
        for source, future in prepared_images:
            try:
                prepared = future.result()
            except UserError as error:
                if batch:
                    yield from _predictions(model, batch, top, score)
                    batch = []
                skip(source, error)
                continue
            if batch and batch[0].pixels.shape != prepared.pixels.shape:
                yield from _predictions(model, batch, top, score)
                batch = []
            batch.append(prepared)
            del future
            if len(batch) == batch_size:
                yield from _predictions(model, batch, top, score)
                batch = []
        if batch:
            yield from _predictions(model, batch, top, score)


def _prepare(model: LoadedModel, source: SourceImage) -> _Prepared:
    image = source.open()
    try:
        pixels, placement = prepare(image, model.preprocess)
        if isinstance(model.network, Session):
            model.network.require_pixels(pixels, model.preprocess, model.postprocess)
        return _Prepared(source, image.size, pixels, placement)
    except (ValueError, UserError) as error:
        raise UserError(f"{source.name}: {error}") from None


def _predictions(
    model: LoadedModel, batch: list[_Prepared], top: int | None, score: float | None
) -> Iterator[Prediction]:
    pixels = torch.stack([prepared.pixels for prepared in batch]).to(model.device)
    placements = [prepared.placement for prepared in batch]
    results: Sequence[Any] = model.answers(pixels, placements)
    for prepared, result in zip(batch, results, strict=True):
        answer = _arrays(result, top, score)
        yield Prediction(
            name=prepared.source.name,
            task=model.task,
            size=prepared.size,
            names=tuple(model.classes[label] for label in answer["labels"]),
            classes=model.classes,
            palette=model.palette,
            source=prepared.source,
            **answer,
        )


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
        return _chosen(items, top, _USUAL_SCORE if score is None else score)
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
