"""An exported file beside the network that it was made of, on real images: the numbers, then the answers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hardnet_suite.data.report import counted
from hardnet_suite.data.sources import images_of, is_camera
from hardnet_suite.deploy.formats import Run
from hardnet_suite.deploy.outputs import flatten, input_answers, unflatten
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError
from hardnet_suite.inference import Boxes, Guesses, Mask, Placement, answers, prepare, to_input
from hardnet_suite.inference.nms import iou_with
from hardnet_suite.networks import (
    DescriptorArch,
    DetectionPostprocess,
    Postprocess,
    SegmentationPostprocess,
)

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
_MOST = 8  # images
_AT_ONCE = 4  # images per batch of any size
_LEAST_IOU = 0.95  # of boxes that are the same
_SLACK = 2  # boxes that one side alone may have: rounding decides between peaks, and at thresholds


class DisagreementError(UserError):
    """A written file does not compute what the network computes."""


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from its network.

    Attributes:
        values: largest difference of the raw outputs, as a share of the largest value.
        scores: largest difference of probabilities; of best classes as a share of the best one.
        answers: least share of equal answers: images with the same best class, pixels with the same label,
            boxes that both find; of patches in int8, those to which the same other one is nearest.
    """

    values: float
    scores: float
    answers: float


TOLERANCES = {
    "fp32": Tolerance(1e-3, 2e-3, 0.99),
    "fp16": Tolerance(2e-2, 2e-2, 0.98),
    "bf16": Tolerance(1e-1, 5e-2, 0.95),
}


@dataclass(frozen=True)
class Agreement:
    """What a comparison has seen.

    Attributes:
        images: number of different images, or of patches.
        values: largest difference of the outputs, as a share of the largest value; None where they are
            answers.
        answers: share of equal answers; None for patch descriptors in float, and where there were none.
        unit: what is counted as an answer.
    """

    images: int
    values: float | None
    answers: float | None
    unit: str

    def __str__(self) -> str:
        parts = []
        if self.values is not None:
            parts.append(f"numbers within {self.values:.1g} of the largest")
        if self.answers is not None:
            parts.append(f"{100 * self.answers:.4g} % of {self.unit} equal")
        elif self.unit:
            parts.append(f"no {self.unit} compared, as PyTorch finds none")
        return f"agrees with PyTorch on {counted(self.images, 'image')}: {', '.join(parts)}"

    @property
    def drop(self) -> float | None:
        """How many of 100 answers differ."""
        return None if self.answers is None else 100 * (1 - self.answers)


def require_agreement(
    run: Run,
    network: nn.Module,
    record: ExportRecord,
    images: Any,
    *,
    name: str | Path,
    tolerance: Tolerance | None = None,
    most: int = _MOST,
) -> Agreement:
    """Runs a file beside its network.

    Args:
        run: an opened file, see ``hardnet_suite.deploy.formats``.
        network: what it was made of, in float32 and eval mode, on the CPU.
        record: of the file.
        images: whatever ``images_of`` takes, of which at most ``most`` are used, evenly spread; None:
            the package's samples.
        name: of the file, for the error.
        tolerance: default: that of the record's precision.
        most: number of images.

    Raises:
        DisagreementError: they differ.
        UserError: no images, or a network whose output is not finite.
    """
    tolerance = tolerance or TOLERANCES[record.precision]
    rule = record.usage.postprocess
    if "postprocess" not in record.includes:
        rule = _single_run(rule)
    count, worst, equal, total = 0, None, 0, 0
    descriptors: list[tuple[Tensor, Tensor]] = []
    for pixels, placements, new in _batches(record, images, most):
        inputs = _inputs(pixels, record)
        given = pixels if "preprocess" in record.includes else inputs
        found = [torch.from_numpy(values) for values in run(given.contiguous().numpy())]
        with torch.inference_mode():
            out = network(inputs)
        if "postprocess" not in record.includes or isinstance(record.arch, DescriptorArch):
            difference = _difference(found, flatten(out), record, name)
            worst = max(worst or 0.0, difference)
            if not difference <= tolerance.values:
                raise DisagreementError(
                    f"{name}: the outputs differ from PyTorch's by {difference:.2g} of the largest value, "
                    f"allowed are {tolerance.values:.2g}"
                )
        count += new
        if rule is None:
            descriptors.append((found[0][:new], flatten(out)[0][:new]))
            continue
        if "postprocess" in record.includes:
            size = tuple(pixels.shape[2:] if "preprocess" in record.includes else inputs.shape[2:])
            placements = [Placement(size, size)] * len(pixels)  # of an image that is the input
            results: Sequence[Any] = input_answers(record.outputs, found, record.num_classes)
        else:
            results = answers(
                lambda _, values=found: unflatten(record.outputs, values),
                inputs,
                placements,
                arch=record.arch,
                rule=rule,
            )
        with torch.inference_mode():
            expected = answers(network, inputs, placements, arch=record.arch, rule=rule)
        for pair in list(zip(results, expected, strict=True))[:new]:
            same, compared = _equal(*pair, record, tolerance)
            equal, total = equal + same, total + compared
    unit = {"classification": "best classes", "detection": "boxes", "segmentation": "pixels"}
    unit = unit[rule.task] if rule is not None else ""
    if record.precision == "int8" and rule is None:
        unit = "nearest patches"
        equal, total = _equal_neighbours(*map(torch.cat, zip(*descriptors, strict=True)), tolerance)
    share = equal / total if total else None
    by_answers = worst is None or math.isinf(tolerance.values)
    if rule is not None and not total and by_answers and tolerance.answers > 0:
        raise DisagreementError(
            f"{name}: nothing to compare: on these images PyTorch finds no {unit} that score clearly above "
            "the least kept: give others, or a trained network"
        )
    slack = 0
    if isinstance(rule, DetectionPostprocess) and tolerance.answers < 1:
        slack = min(_SLACK, total // 4)  # of few boxes, none may differ
    if total - equal > max(slack, (1 - tolerance.answers) * total):
        raise DisagreementError(
            f"{name}: {100 * share:.4g} % of {unit} equal PyTorch's, expected {100 * tolerance.answers:g} %"
        )
    return Agreement(count, worst, share, unit)


def _single_run(rule: Postprocess | None) -> Postprocess | None:
    """The output rule without what runs the network several times per image."""
    if isinstance(rule, DetectionPostprocess):
        return replace(rule, flip=False)
    return replace(rule, window=None, stride=None) if isinstance(rule, SegmentationPostprocess) else rule


def file_inputs(record: ExportRecord, images: Any, most: int) -> Iterator[np.ndarray]:
    """Images as a file takes them, batch by batch; arguments as of ``require_agreement``."""
    for pixels, *_ in _batches(record, images, most):
        inputs = pixels if "preprocess" in record.includes else _inputs(pixels, record)
        yield inputs.contiguous().numpy()


def _batches(record: ExportRecord, images: Any, most: int) -> Iterator[tuple[Tensor, list[Placement], int]]:
    """Batches of uint8 pixels as the file takes them, where the images lie in them, and how many are new.

    The new ones come first; the others fill the batch up.
    """
    if is_camera(images):
        raise UserError("expected images to run the file on, got a camera, which never ends")
    sources = list(images_of(SAMPLES if images is None else images))
    if not sources:
        raise UserError("no images to run the file on")
    count = min(most, len(sources))
    # evenly spread: the first ones of a folder may be of one class, or of one scene
    # one at a time: photographs need far more memory than what is prepared of them
    opened = (sources[index * len(sources) // count].open() for index in range(count))
    if isinstance(record.arch, DescriptorArch):
        prepared = _patches(opened, record)
    else:
        prepared = [prepare(image, record.usage.preprocess) for image in opened]
    batch = record.input_shape[0]
    if isinstance(batch, int):
        for start in range(0, len(prepared), batch):
            new = prepared[start : start + batch]
            yield *_stacked(list(islice(cycle(new), batch))), len(new)
        return
    first, *others = prepared
    yield *_stacked([first]), 1
    groups = defaultdict(list)
    for each in (*others, first):  # which is tried in a batch of several, too
        groups[each[0].shape].append(each)
    for group in groups.values():
        for start in range(0, len(group), _AT_ONCE):
            rows = group[start : start + _AT_ONCE]
            new = rows[: len(rows) - (rows[-1] is first)]
            if new:
                yield *_stacked(rows), len(new)


def _stacked(prepared: Sequence[tuple[Tensor, Placement]]) -> tuple[Tensor, list[Placement]]:
    return torch.stack([pixels for pixels, _ in prepared]), [placement for _, placement in prepared]


def _patches(images: Iterable[Image.Image], record: ExportRecord) -> list[tuple[Tensor, Placement]]:
    """Windows of the images, and constant patches."""
    side = record.input_shape[2]
    placement = Placement((side, side), (side, side))
    patches = []
    for image in images:
        pixels, _ = prepare(image, record.usage.preprocess)  # the whole image as one patch
        patches.append(pixels)
        for left in range(0, max(image.width - 2 * side, 1), max(image.width // 4, 1)):
            window = image.crop((left, image.height // 2, left + 2 * side, image.height // 2 + 2 * side))
            patches.append(prepare(window, record.usage.preprocess)[0])
    patches += [torch.full((3, side, side), value, dtype=torch.uint8) for value in (0, 80, 255)]
    return [(pixels, placement) for pixels in patches]


def _inputs(pixels: Tensor, record: ExportRecord) -> Tensor:
    inputs = to_input(pixels, record.usage.preprocess)
    if inputs.shape[1] != record.in_chans:  # a network for other than colour images
        inputs = inputs.mean(1, keepdim=True).expand(-1, record.in_chans, -1, -1).contiguous()
    return inputs


def _difference(
    found: Sequence[Tensor], expected: Sequence[Tensor], record: ExportRecord, name: str | Path
) -> float:
    """The largest difference as a share of the largest expected value of an output."""
    largest = 0.0
    for output, actual, wanted in zip(record.outputs, found, expected, strict=True):
        if actual.shape != wanted.shape:
            raise DisagreementError(
                f"{name}: its {output} has the shape {tuple(actual.shape)}, PyTorch's {tuple(wanted.shape)}"
            )
        scale = wanted.abs().max().clamp(min=1e-6)
        difference = ((actual.float() - wanted).abs().max() / scale).item()
        largest = max(largest, difference) if difference == difference else float("nan")
    return largest


def _equal(found: Any, expected: Any, record: ExportRecord, tolerance: Tolerance) -> tuple[int, int]:
    """How many answers of an image are equal, and how many are compared."""
    if isinstance(expected, Mask):
        if found.mask.shape != expected.mask.shape:
            return 0, expected.mask.numel()
        return int((found.mask == expected.mask).sum()), expected.mask.numel()
    if isinstance(expected, Guesses):
        by_class = torch.zeros_like(expected.scores).index_put((expected.labels,), expected.scores)
        # as good as the best: equal, or nearly, also of classes that are all unlikely
        least = expected.scores[0] * (1 - tolerance.scores)
        return int(by_class[found.labels[0]] >= least), 1
    return equal_boxes(found, expected, record.usage.postprocess, tolerance)


def _equal_neighbours(found: Tensor, expected: Tensor, tolerance: Tolerance) -> tuple[int, int]:
    """How many of (N, D) descriptors have the same nearest other one, or one nearly as near; and N."""
    if not found.isfinite().all():
        return 0, len(found)
    farthest = torch.diag(torch.full((len(found),), torch.inf))
    distances, wanted = (torch.cdist(rows.float(), rows.float()) + farthest for rows in (found, expected))
    chosen = wanted.gather(1, distances.argmin(1, keepdim=True))[:, 0]
    near = tolerance.scores * expected.float().std(0).norm()  # of descriptors that spread as these do
    return int((chosen <= wanted.amin(1) + near).sum()), len(found)


def equal_boxes(
    found: Boxes, expected: Boxes, rule: DetectionPostprocess, tolerance: Tolerance
) -> tuple[int, int]:
    """Boxes of both sides that the other has, too, and all; without those that score near the least kept."""
    cut = rule.score_threshold
    for boxes in (found, expected):
        if len(boxes.scores) >= rule.max_boxes:
            cut = max(cut, boxes.scores.min().item())
    strong = matched = 0
    for these, others in ((found, expected), (expected, found)):
        for box, score, label in zip(*these, strict=True):
            if score < cut + tolerance.scores:
                continue
            strong += 1
            alike = (others.labels == label) & ((others.scores - score).abs() <= tolerance.scores)
            near = others.boxes[alike]
            if len(near):
                close = (near - box).abs().amax(1) <= 0.5  # pixels; boxes without area have no IoU
                matched += bool((close | (iou_with(box, near) >= _LEAST_IOU)).any())
    return matched, strong
