"""Images through a network in batches, and its answers as predictions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hardnet_suite.data.sources import SourceImage, images_of, is_camera, is_single
from hardnet_suite.errors import UserError
from hardnet_suite.inference import NO_CLASS, Boxes, Guesses, Mask, Placement, answers, prepare, to_input
from hardnet_suite.networks import list_models
from hardnet_suite.prediction.model import LoadedModel, load_model, model_of_network
from hardnet_suite.prediction.options import PredictOptions
from hardnet_suite.prediction.result import Prediction


class _Prepared(NamedTuple):
    source: SourceImage
    image: Image.Image
    pixels: Tensor
    placement: Placement


@overload
def predict(
    model: str | Path | LoadedModel | nn.Module,
    images: Any,
    *,
    stream: Literal[False] = False,
    **options: Unpack[PredictOptions],
) -> list[Prediction]: ...


@overload
def predict(
    model: str | Path | LoadedModel | nn.Module,
    images: Any,
    *,
    stream: Literal[True],
    **options: Unpack[PredictOptions],
) -> Iterator[Prediction]: ...


@overload
def predict(
    model: str | Path | LoadedModel | nn.Module,
    images: Any,
    *,
    stream: bool,
    **options: Unpack[PredictOptions],
) -> list[Prediction] | Iterator[Prediction]: ...


def predict(
    model: str | Path | LoadedModel | nn.Module,
    images: Any,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    top: int = 5,
    score: float = 0.3,
    channels: str = "rgb",
    batch_size: int = 1,
    device: str | torch.device | None = None,
    bf16: bool = False,
    stream: bool = False,
    failed: list[tuple[str, str]] | None = None,
) -> list[Prediction] | Iterator[Prediction]:
    """Classifies, detects or segments images: one ``Prediction`` per image, in order.

    Args:
        model: a name of ``list_models()``, a config, a file of weights, a run's folder, what ``load_model``
            returned, or a network of ``create_model``, which is used as it is, in eval mode.
        images: a path, folder, pattern, address, PIL image, array (H, W, 3) uint8, tensor (3, H, W) or
            (N, 3, H, W) of uint8 or of floats in 0…1, bytes of an image file, open file, video, camera, or a
            list or iterator of these, see ``images_of``.
        weights: for a name or a config, a tag of the weights registry or a file; default: the published.
        classes: names of the classes, where the weights do not bring them along.
        top: how many classes of a classifier.
        score: boxes that score lower, 0 to 1, are left out.
        channels: channel order of arrays and tensors, "rgb" or "bgr" (as OpenCV reads images).
        batch_size: images per batch; only images whose inputs have the same size go together.
        device: "cpu", "cuda", …; None: a GPU where there is one.
        bf16: computes in bfloat16.
        stream: returns an iterator that reads on as it is asked, so that memory stays flat.
        failed: images that cannot be read are added to it, as (name, reason).

    An image that cannot be read is skipped with a warning; if it is the only one, it is an error.

    Raises:
        UserError: no such model, weights or images, or the two arguments are swapped.
        ValueError: ``top`` or ``batch_size`` below 1, ``score`` outside 0 to 1, something that is not an
            image, options of ``load_model`` beside a loaded model, or a camera without ``stream``.
    """
    if top < 1 or batch_size < 1 or not 0 <= score <= 1:
        raise ValueError(
            f"top={top} and batch_size={batch_size} must be at least 1, score={score} from 0 to 1"
        )
    _require_order(model, images)
    if is_camera(images) and not stream:
        raise ValueError("a camera has no end: stream=True returns its images one by one")
    if isinstance(model, LoadedModel | nn.Module):
        if weights is not None or device is not None or (isinstance(model, LoadedModel) and classes):
            raise ValueError("weights, classes and device are for load_model: this model is loaded")
        if isinstance(model, nn.Module):
            model = model_of_network(model, classes=classes, bf16=bf16)
        elif bf16:
            raise ValueError("bf16 is for load_model: this model is loaded")
    else:
        model = load_model(model, weights=weights, classes=classes, device=device, bf16=bf16)
    predictions = _run(
        model, images_of(images, channels=channels), is_single(images), top, score, batch_size, failed
    )
    return predictions if stream else list(predictions)


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


def _run(
    model: LoadedModel,
    images: Iterator[SourceImage],
    single: bool,
    top: int,
    score: float,
    batch_size: int,
    failed: list[tuple[str, str]] | None,
) -> Iterator[Prediction]:
    batch: list[_Prepared] = []
    for source in images:
        try:
            image = source.open()
            pixels, placement = _prepare(image, model, source.name)
        except UserError as error:
            if single:
                raise
            warnings.warn(f"skipped: {error}", stacklevel=3)
            if failed is not None:
                failed.append((source.name, str(error)))
            continue
        if batch and (len(batch) == batch_size or batch[0].pixels.shape != pixels.shape):
            yield from _predictions(model, batch, top, score)
            batch = []
        batch.append(_Prepared(source, image, pixels, placement))
    if batch:
        yield from _predictions(model, batch, top, score)


def _prepare(image: Image.Image, model: LoadedModel, name: str) -> tuple[Tensor, Placement]:
    try:
        return prepare(image, model.preprocess)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def _predictions(model: LoadedModel, batch: list[_Prepared], top: int, score: float) -> Iterator[Prediction]:
    pixels = torch.stack([prepared.pixels for prepared in batch]).to(model.device)
    placements = [prepared.placement for prepared in batch]
    network: Any = model.network
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    dtype = next(network.parameters()).dtype
    try:
        with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=model.bf16):
            results: Sequence[Any] = answers(
                network,
                to_input(pixels, model.preprocess).to(dtype),
                placements,
                arch=network.arch,
                rule=model.postprocess,
            )
    finally:
        for module, training in modes:  # a part may be frozen in another mode than the whole
            module.training = training
    for prepared, result in zip(batch, results, strict=True):
        answer = _arrays(result, top, score)
        yield Prediction(
            name=prepared.source.name,
            task=model.task,
            size=prepared.image.size,
            names=tuple(model.classes[label] for label in answer["labels"]),
            classes=model.classes,
            palette=model.palette,
            source=prepared.source,
            **answer,
        )


def _arrays(answer: Boxes | Guesses | Mask, top: int, score: float) -> dict[str, np.ndarray]:
    """The fields of a ``Prediction`` that an answer fills."""
    if isinstance(answer, Guesses):
        return {"labels": answer.labels[:top].cpu().numpy(), "scores": answer.scores[:top].cpu().numpy()}
    if isinstance(answer, Boxes):
        keep = answer.scores >= score
        return {
            "labels": answer.labels[keep].cpu().numpy(),
            "scores": answer.scores[keep].float().cpu().numpy(),
            "boxes": answer.boxes[keep].float().cpu().numpy(),
        }
    mask = answer.mask.cpu().numpy()
    labels, counts = np.unique(mask, return_counts=True)
    labels, counts = labels[labels != NO_CLASS], counts[labels != NO_CLASS]
    order = np.argsort(-counts, kind="stable")
    return {"labels": labels[order].astype(np.int64), "scores": counts[order] / mask.size, "mask": mask}
