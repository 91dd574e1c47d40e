"""Images through a network, batch by batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import torch
from torch import nn

from hardnet_suite.data.sources import SourceImage, images_of, is_camera, is_live, is_single
from hardnet_suite.errors import UserError
from hardnet_suite.networks import list_models
from hardnet_suite.precision import Precision
from hardnet_suite.prediction.batch import (
    PreparedImage,
    Wanted,
    predictions_of,
    prepare_source,
    require_counts,
    require_wanted,
)
from hardnet_suite.prediction.model import LoadedModel, load_model, model_of_network
from hardnet_suite.prediction.options import Images, PredictOptions
from hardnet_suite.prediction.result import Prediction
from hardnet_suite.prediction.workers import map_ahead

_MOST_USUAL_WORKERS = 8


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
    require_wanted(Wanted(top, score))
    require_counts(batch_size=batch_size)
    require_counts(least=0, workers=workers)
    _require_order(model, images)
    if is_camera(images) and not stream:
        raise ValueError("a camera has no end: stream=True returns its images one by one")
    if isinstance(model, LoadedModel | nn.Module):
        renamed = classes is not None and isinstance(model, LoadedModel)
        if weights is not None or device is not None or renamed:
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
    batch: list[PreparedImage] = []
    prepared_images = map_ahead(
        partial(prepare_source, model), images, workers=workers, ahead=batch_size + 2 * workers
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


def _predictions(
    model: LoadedModel, batch: list[PreparedImage], top: int | None, score: float | None
) -> list[Prediction]:
    return predictions_of(model, batch, [Wanted(top, score)] * len(batch))
