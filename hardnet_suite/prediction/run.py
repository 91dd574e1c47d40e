"""Images through a network in batches, and its output to answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image
from torchvision.transforms.v2 import functional as tvf

from hardnet_suite.data.sources import SourceImage, images_of, is_camera, is_single
from hardnet_suite.errors import UserError
from hardnet_suite.networks import centernet, ssd
from hardnet_suite.prediction.model import LoadedModel, load_model
from hardnet_suite.prediction.result import Prediction

_LEAST_SIDE = 64  # of FC-HarDNet's input; smaller images are padded
_OFF_BY_ONE = 1.0  # the published SSD counts both ends of a box: sides are one pixel longer
_MOST_BOXES = {"ssd": 200, "centernet": 100}


def predict(
    model: str | Path | LoadedModel,
    images: Any,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    top: int = 5,
    least_score: float = 0.3,
    batch_size: int = 1,
    device: str | torch.device | None = None,
    bf16: bool = False,
    stream: bool = False,
    failed: list[tuple[str, str]] | None = None,
) -> list[Prediction] | Iterator[Prediction]:
    """What a model finds in images: one ``Prediction`` an image, in order.

    Args:
        model: a name of ``list_models()``, a config, a file of weights, or what ``load_model`` made of one.
        images: a path, folder, pattern, address, PIL image, array (H, W, 3) RGB uint8, video, camera, or a
            list or iterator of these, see ``images_of``.
        weights: for a name or a config, a tag of the weights registry or a file; default: the published.
        classes: names of the classes, where the weights do not bring them along.
        top: how many guesses of a classifier.
        least_score: boxes below it, 0 to 1, are left out.
        batch_size: images at once; only images whose input has one size go together.
        device: "cpu", "cuda", …; None: a GPU where there is one.
        bf16: compute in bfloat16.
        stream: give an iterator that reads on as it is asked, so that memory stays flat.
        failed: images that cannot be read are added to it, as (name, reason).

    An image that cannot be read is skipped with a warning; if it is the only one, it is an error.

    Raises:
        UserError: no such model, weights or images.
        ValueError: ``top`` or ``batch_size`` below 1, ``least_score`` outside 0 to 1, no image's form,
            options of ``load_model`` beside a loaded model, or a camera without ``stream``.
    """
    if top < 1 or batch_size < 1 or not 0 <= least_score <= 1:
        raise ValueError(
            f"top={top} and batch_size={batch_size} must be at least 1, least_score={least_score} from 0 to 1"
        )
    if is_camera(images) and not stream:
        raise ValueError("a camera has no end: stream=True gives its images one by one")
    if isinstance(model, LoadedModel):
        if bf16 or any(option is not None for option in (weights, classes, device)):
            raise ValueError("weights, classes, device and bf16 are for load_model: this model is loaded")
    else:
        model = load_model(model, weights=weights, classes=classes, device=device, bf16=bf16)
    found = _run(model, images, top, least_score, batch_size, failed)
    return found if stream else list(found)


def _run(
    model: LoadedModel,
    images: Any,
    top: int,
    least_score: float,
    batch_size: int,
    failed: list[tuple[str, str]] | None,
) -> Iterator[Prediction]:
    single = is_single(images)
    batch: list[tuple[SourceImage, Image.Image, Tensor, tuple]] = []
    for item in images_of(images):
        try:
            image = item.open()
        except UserError as error:
            if single:
                raise
            warnings.warn(f"skipped: {error}", stacklevel=3)
            if failed is not None:
                failed.append((item.name, str(error)))
            continue
        pixels, place = _input(model, image)
        if batch and (len(batch) == batch_size or batch[0][2].shape != pixels.shape):
            yield from _answers(model, batch, top, least_score)
            batch = []
        batch.append((item, image, pixels, place))
    if batch:
        yield from _answers(model, batch, top, least_score)


def _input(model: LoadedModel, image: Image.Image) -> tuple[Tensor, tuple[float, float, float, float]]:
    """The network's image (3, h, w), RGB 0…255, and how to go back: (left, top, scale x, scale y)."""
    rule = model.rule
    if rule.resize == "short":
        image = tvf.resize(image, rule.resize_to) if rule.resize_to else image
        image = tvf.center_crop(image, rule.size) if rule.size else image
        return _pixels(image), (0, 0, 1, 1)
    pixels = _pixels(image).float()
    height, width = pixels.shape[1:]
    if rule.resize == "stretch":
        size = (rule.size, rule.size)
        pixels = F.interpolate(pixels[None], size, mode="bilinear", align_corners=False)[0].round()
        return pixels, (0, 0, width / rule.size, height / rule.size)
    if model.task == "detection":  # in the middle of a black image of the next larger multiple of 32
        high, wide = ((side | 31) + 1 for side in (height, width))
        top, left = high // 2 - height // 2, wide // 2 - width // 2
        canvas = pixels.new_zeros(3, high, wide)
        canvas[:, top : top + height, left : left + width] = pixels
        return canvas, (left, top, 1, 1)
    if min(height, width) < _LEAST_SIDE:
        mean = rule.pixel_mean[::-1] if rule.channels == "bgr" else rule.pixel_mean
        canvas = torch.tensor(mean).view(3, 1, 1).repeat(1, max(height, _LEAST_SIDE), max(width, _LEAST_SIDE))
        canvas[:, :height, :width] = pixels
        pixels = canvas
    return pixels, (0, 0, 1, 1)


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _answers(model: LoadedModel, batch: list[tuple], top: int, least_score: float) -> Iterator[Prediction]:
    images = torch.stack([pixels for _, _, pixels, _ in batch]).to(model.device)
    images = model.rule.normalize(images).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=model.bf16):
        out = model.network(images)
        if model.task == "classification":
            answers = _guesses(out, top)
        elif model.task == "segmentation":
            answers = ((logits, image.size) for logits, (_, image, _, _) in zip(out, batch, strict=True))
            answers = map(_mask, answers)
        else:
            answers = _boxes(model, out, [(image.size, place) for _, image, _, place in batch], least_score)
    for (item, image, _, _), answer in zip(batch, answers, strict=True):
        labels = answer["labels"]
        yield Prediction(
            name=item.name,
            task=model.task,
            size=image.size,
            names=tuple(model.classes[label] for label in labels),
            classes=model.classes,
            palette=model.palette,
            source=item,
            **answer,
        )


def _guesses(logits: Tensor, top: int) -> list[dict[str, np.ndarray]]:
    shares = logits.float().softmax(1).cpu()
    best = shares.sort(dim=1, descending=True, stable=True)
    return [
        {"labels": labels[:top].numpy(), "scores": scores[:top].numpy()}
        for labels, scores in zip(best.indices, best.values, strict=True)
    ]


def _mask(answer: tuple[Tensor, tuple[int, int]]) -> dict[str, np.ndarray]:
    logits, (width, height) = answer
    mask = logits[:, :height, :width].argmax(0).to(torch.uint8).cpu().numpy()
    labels, counts = np.unique(mask, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {"labels": labels[order].astype(np.int64), "scores": counts[order] / mask.size, "mask": mask}


def _boxes(
    model: LoadedModel, out: dict, places: list[tuple], least_score: float
) -> Iterator[dict[str, np.ndarray]]:
    if isinstance(model.network, ssd.SSD):
        fractions, shares = ssd.decode(out, model.network.arch)
        for boxes, scores, (size, _) in zip(fractions, shares, places, strict=True):
            yield _suppressed(boxes * boxes.new_tensor([*size, *size]), scores, size, least_score)
        return
    heat = out["hm"].float().sigmoid()
    for rows, ((width, height), (left, top, x, y)) in zip(
        centernet.decode(heat, out["wh"].float(), out["reg"].float(), _MOST_BOXES["centernet"]),
        places,
        strict=True,
    ):
        boxes = (4 * rows[:, :4] - rows.new_tensor([left, top, left, top])) * rows.new_tensor([x, y, x, y])
        keep = rows[:, 4] >= max(least_score, 1e-6)
        yield _found(boxes[keep], rows[keep, 4], rows[keep, 5].long(), (width, height))


def _suppressed(boxes: Tensor, scores: Tensor, size: tuple[int, int], least_score: float) -> dict:
    """The published SSD's test: (P, 4) pixels, (P, C) probabilities."""
    index, labels = (scores > max(least_score, 0.01)).nonzero(as_tuple=True)
    scores, boxes = scores[index, labels], boxes[index]
    longer = boxes + boxes.new_tensor([0, 0, _OFF_BY_ONE, _OFF_BY_ONE])
    keep = batched_nms(longer, scores, labels, 0.45)[: _MOST_BOXES["ssd"]]
    return _found(boxes[keep], scores[keep], labels[keep], size)


def _found(boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> dict[str, np.ndarray]:
    boxes = clip_boxes_to_image(boxes, size[::-1])
    return {
        "labels": labels.cpu().numpy(),
        "scores": scores.float().cpu().numpy(),
        "boxes": boxes.float().cpu().numpy(),
    }
