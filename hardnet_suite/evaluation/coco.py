"""COCO scores of a detector: the twelve figures and those of each class, and its mistakes."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardnet_suite.data.coco import (
    CocoBox,
    CocoCategory,
    CocoFile,
    as_id,
    is_box,
    load_annotations,
    read_coco,
    read_json,
)
from hardnet_suite.data.coco.masks import encode_mask, read_mask
from hardnet_suite.data.coco.values import LARGEST_NUMBER, is_normalized, match_id
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.tables import class_table, format_score
from hardnet_suite.numeric import is_number

__all__ = [
    "COCO_BACKENDS",
    "COCO_METRICS",
    "CocoMistakes",
    "CocoScores",
    "ImageMistakes",
    "evaluate_coco",
    "find_mistakes",
    "load_annotations",
    "load_results",
    "without_nan",
]

# name -> (averages precision?, IoU threshold or None for all ten, area range, index into max_dets)
_FIGURES: dict[str, tuple[bool, float | None, str, int]] = {
    "mAP": (True, None, "all", 2),
    "AP50": (True, 0.5, "all", 2),
    "AP75": (True, 0.75, "all", 2),
    "AP_small": (True, None, "small", 2),
    "AP_medium": (True, None, "medium", 2),
    "AP_large": (True, None, "large", 2),
    "AR_1": (False, None, "all", 0),
    "AR_10": (False, None, "all", 1),
    "AR_100": (False, None, "all", 2),
    "AR_small": (False, None, "small", 2),
    "AR_medium": (False, None, "medium", 2),
    "AR_large": (False, None, "large", 2),
}
COCO_METRICS: tuple[str, ...] = tuple(_FIGURES)
# name of a class's figure -> that of all classes whose rule it follows
_CLASS_FIGURES = {
    "AP": "mAP",
    **{name: name for name in ("AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100")},
}
MISTAKE_IOU, MISTAKE_SCORE = 0.5, 0.3
# package -> (module of its data sets, their class, module of its evaluation, its class)
_BACKENDS = {
    "pycocotools": ("pycocotools.coco", "COCO", "pycocotools.cocoeval", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "COCO", "faster_coco_eval", "COCOeval_faster"),
    "hotcoco": ("hotcoco", "COCO", "hotcoco", "COCOeval"),
}
COCO_BACKENDS: tuple[str, ...] = tuple(_BACKENDS)
# what is compared -> the key of a result that holds it
_COMPARED = {"bbox": "bbox", "segm": "segmentation"}


@dataclass(frozen=True)
class CocoScores:
    """Figures in [0, 1]; nan where the ground truth has nothing to measure them on (pycocotools says -1).

    The names AR_1, AR_10 and AR_100 stand for the first, second and third of ``max_dets``.

    Attributes:
        metrics: COCO_METRICS in this order.
        per_class: class name -> its "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_100" and
            "boxes", the number of boxes to find; in the order of the category ids.
        max_dets: the limits on the detections of one class in one image.
        warnings: lines about detections that can match nothing.
        precision: (10, 101, C) precision at IoU 0.50, 0.55 … 0.95 and recall 0, 0.01 … 1 of each class: 0
            where that recall is not reached, NaN for a class without boxes.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    max_dets: tuple[int, int, int] = (1, 10, 100)
    warnings: tuple[str, ...] = ()
    precision: np.ndarray = field(default_factory=lambda: np.zeros((10, 101, 0)), repr=False, compare=False)

    def table(self) -> str:
        """The twelve figures as aligned plain text, described as pycocotools does."""
        lines = [f"{'figure':<10}  {'what':<17}  {'IoU':<9}  {'area':<6}  {'max dets':>8}  {'value':>6}"]
        for name, (is_precision, iou, area, limit) in _FIGURES.items():
            what = "Average Precision" if is_precision else "Average Recall"
            ious = "0.50:0.95" if iou is None else f"{iou:.2f}"
            value = format_score(self.metrics[name], 3)
            lines.append(
                f"{name:<10}  {what:<17}  {ious:<9}  {area:<6}  {self.max_dets[limit]:>8}  {value:>6}"
            )
        return "\n".join(lines)

    def class_table(self, most: int | None = None) -> str:
        """AP, AP50, AP75, AR and the number of boxes of every class as aligned plain text.

        Args:
            most: with more classes than this, only the ten best and the ten worst by AP; None: all.
        """
        keys = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "AR": "AR_100", "boxes": "boxes"}
        rows = list(self.per_class.values())
        columns = {heading: [row[key] for row in rows] for heading, key in keys.items()}
        return class_table(list(self.per_class), columns, most=most)

    def report(self) -> dict[str, Any]:
        """The figures and those of each class, for JSON: None instead of nan."""
        return {
            "metrics": without_nan(self.metrics),
            "per_class": {name: without_nan(row) for name, row in self.per_class.items()},
        }


@dataclass(frozen=True)
class ImageMistakes:
    """What a detector gets wrong in one image.

    Attributes:
        missed: true boxes that no detection is on.
        confused: true boxes with a detection of another class on them, and none of their own.
        false: detections on no true box, second ones on a box included.
    """

    missed: int = 0
    confused: int = 0
    false: int = 0

    @property
    def total(self) -> int:
        return self.missed + self.confused + self.false

    def __str__(self) -> str:
        """Such as "2 missed, 1 false"."""
        counts = {"missed": self.missed, "wrong class": self.confused, "false": self.false}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "all found"


@dataclass(frozen=True, eq=False)
class CocoMistakes:
    """Which classes a detector takes for which, and where.

    Attributes:
        classes: C class names.
        confusion: (C + 1, C + 1) counts; rows are true classes, columns detected ones. The last row counts
            detections on no true box, the last column true boxes without a detection.
        images: id of each scored image -> its mistakes.
        iou: least overlap of a detection with its box.
        least_score: detections below it are left out.
    """

    classes: tuple[str, ...]
    confusion: np.ndarray
    images: dict[int | str, ImageMistakes]
    iou: float
    least_score: float

    def worst_first(self) -> list[int | str]:
        """Image ids by their number of mistakes, descending; equals in the order of the scoring."""
        return sorted(self.images, key=lambda key: -self.images[key].total)


def load_results(path: str | Path) -> list[dict[str, Any]]:
    """A COCO results file: a list of {"image_id", "category_id", "bbox": [x, y, w, h] in pixels, "score"}.

    Raises:
        UserError: no such file, no valid JSON, not a list, or an entry that lacks a key or a finite number.
    """
    return _check_results(read_json(path), str(path))


def evaluate_coco(
    annotations: str | Path | dict[str, Any] | CocoFile,
    results: str | Path | list[dict[str, Any]],
    *,
    iou_type: str = "bbox",
    max_dets: Sequence[int] = (1, 10, 100),
    image_ids: Sequence[int | str] | None = None,
    classes: Sequence[str] | None = None,
    backend: str = "pycocotools",
) -> CocoScores:
    """Scores detections against COCO annotations; both are left unchanged.

    Annotations are read by the rules of ``hardnet_suite.data.coco.reader``: unusable boxes are dropped and
    count neither way. Detections of equal scores keep the order of ``results``, as in pycocotools; otherwise
    the order does not matter.

    Args:
        annotations: a COCO annotation file, its content, or its records.
        results: a COCO results file, or its content (see ``load_results``); an empty list scores 0.
        iou_type: what is compared: "bbox", or "segm", masks. Then each result has a ``segmentation``
            (polygons or a run-length encoding of the image's size) and needs no ``bbox``, its area is that
            of the mask, and every box that is scored must have a mask.
        max_dets: three increasing limits on the detections of one class in one image.
        image_ids: score these images only; results on the others are left out.
        classes: score the categories of these names only; None: all.
        backend: one of ``COCO_BACKENDS``, which give the same figures: pycocotools, the reference, or a
            faster package that computes the same.

    Raises:
        UserError: a file is missing or malformed, what is scored holds no box, the results, ``image_ids`` or
            ``classes`` name images or categories that the annotations do not have, a mask is missing or
            malformed, or the backend is not installed.
        ValueError: another ``iou_type``, ``backend`` or other ``max_dets`` than allowed, or empty
            ``image_ids``.
    """
    require_backend(backend)
    if iou_type not in _COMPARED:
        raise ValueError(f"iou_type must be 'bbox' or 'segm', got {iou_type!r}")
    max_dets = tuple(max_dets)
    if len(max_dets) != 3 or not 0 < max_dets[0] < max_dets[1] < max_dets[2]:
        raise ValueError(f"max_dets must be three increasing numbers above 0, got {max_dets}")

    inputs = _compared(read_coco(annotations).require_boxes(), results, image_ids, classes, iou_type)
    truth, categories, scored = inputs.truth, inputs.categories, set(inputs.image_ids)
    names = {category.name for category in categories}
    boxes = [box for box in truth.boxes if box.image_id in scored and box.category in names]
    if all(box.iscrowd for box in boxes):
        raise UserError(
            f"{truth.source} holds no box of the classes in the {len(scored)} images that are scored: "
            "there is nothing to score against"
        )
    masks = _Masks(inputs, boxes) if iou_type == "segm" else None
    precision, recall, params = _run_backend(
        backend, boxes, categories, inputs.results, inputs.image_ids, max_dets, masks
    )
    counts, per_class = Counter(box.category for box in boxes if not box.iscrowd), {}
    for index, category in enumerate(categories):
        own = precision[:, :, index : index + 1], recall[:, index : index + 1], params
        figures = {name: _figure(*own, *_FIGURES[rule]) for name, rule in _CLASS_FIGURES.items()}
        per_class[category.name] = {**figures, "boxes": counts[category.name]}
    curves = precision[..., params.areaRngLbl.index("all"), 2]
    return CocoScores(
        metrics={name: _figure(precision, recall, params, *row) for name, row in _FIGURES.items()},
        per_class=per_class,
        max_dets=max_dets,
        warnings=_result_warnings(inputs.results, inputs.source) if masks is None else (),
        precision=np.where(curves < 0, np.nan, curves),
    )


def find_mistakes(
    annotations: str | Path | dict[str, Any] | CocoFile,
    results: str | Path | list[dict[str, Any]],
    *,
    iou: float = MISTAKE_IOU,
    least_score: float = MISTAKE_SCORE,
    image_ids: Sequence[int | str] | None = None,
    classes: Sequence[str] | None = None,
) -> CocoMistakes:
    """Compares detections with COCO annotations, box by box.

    By descending score, each detection takes the free true box of its class that it overlaps most, as in
    COCO's scoring. The detections that are left then take free boxes of other classes in the same way, unless
    they lie on a crowd region of their own class: these count neither way.

    Args:
        annotations: as of ``evaluate_coco``; a file without boxes is allowed.
        results: as of ``evaluate_coco``.
        iou: least overlap of a detection with its box.
        least_score: detections below it are left out.
        image_ids: as of ``evaluate_coco``.
        classes: as of ``evaluate_coco``, and the order of the classes; None: that of the category ids.

    Raises:
        UserError: as of ``evaluate_coco``.
    """
    inputs = _compared(read_coco(annotations).require(), results, image_ids, classes)
    names = tuple(category.name for category in inputs.categories) if classes is None else tuple(classes)
    labels = {name: index for index, name in enumerate(names)}
    label_of_id = {category.id: labels[category.name] for category in inputs.categories}
    detections: defaultdict[int | str, list[tuple[int, Sequence[float], float]]] = defaultdict(list)
    for entry, image_id, category_id in inputs.results:
        if category_id in label_of_id and entry["score"] >= least_score:
            detections[image_id].append((label_of_id[category_id], entry["bbox"], entry["score"]))
    confusion = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    images = {}
    for image_id in inputs.image_ids:
        boxes = [box for box in inputs.truth.boxes_of_image[image_id] if box.category in labels]
        pairs = _pairs(boxes, [labels[box.category] for box in boxes], detections[image_id], iou)
        for true, found in pairs:
            confusion[true, found] += 1
        images[image_id] = ImageMistakes(
            missed=sum(found == -1 for _, found in pairs),
            confused=sum(true != found and -1 not in (true, found) for true, found in pairs),
            false=sum(true == -1 for true, _ in pairs),
        )
    return CocoMistakes(names, confusion, images, iou, least_score)


def _pairs(
    boxes: Sequence[CocoBox],
    true_labels: Sequence[int],
    detections: Sequence[tuple[int, Sequence[float], float]],
    iou: float,
) -> list[tuple[int, int]]:
    """(true label, detected label) of what is in one image; −1 where there is no box or no detection.

    Args:
        boxes: of the ground truth.
        true_labels: of the boxes.
        detections: (label, (x, y, width, height), score) each.
        iou: least overlap of a pair.
    """
    from pycocotools import mask

    # keeps the order of equal scores; negated, unsigned ones would wrap around
    detections = sorted(detections, key=lambda detection: detection[2], reverse=True)
    overlaps = np.zeros((len(detections), len(boxes)))
    if detections and boxes:
        found = [[float(value) for value in bbox] for _, bbox, _ in detections]
        crowds = [int(box.iscrowd) for box in boxes]  # of these, the share of the detection that is inside
        overlaps = np.array(mask.iou(found, [list(box.bbox) for box in boxes], crowds))
        overlaps[[min(bbox[2:]) < 0 for bbox in found]] = 0
    free = [index for index, box in enumerate(boxes) if not box.iscrowd]
    pairs: list[tuple[int, int]] = []

    def take(number: int, candidates: list[int]) -> bool:
        candidates = [index for index in candidates if overlaps[number, index] >= iou]
        if not candidates:
            return False
        # of equal overlaps the last, as in pycocotools
        best = max(candidates, key=lambda index: (overlaps[number, index], index))
        free.remove(best)
        pairs.append((true_labels[best], detections[number][0]))
        return True

    left = []
    for number, (label, _, _) in enumerate(detections):
        if not take(number, [index for index in free if true_labels[index] == label]):
            left.append(number)
    for number in left:
        label = detections[number][0]
        on_crowd = any(
            box.iscrowd and true_labels[index] == label and overlaps[number, index] >= iou
            for index, box in enumerate(boxes)
        )
        if not on_crowd and not take(number, list(free)):
            pairs.append((-1, label))
    return pairs + [(true_labels[index], -1) for index in free]


def without_nan(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures as strict JSON can hold them: nan becomes None (null)."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


class _Comparison(NamedTuple):
    """What is compared: the categories and image ids that are scored, sorted, and the results with their ids.

    Attributes:
        truth: the annotations.
        categories: those that are scored, by id.
        results: (result, id of its image, id of its category), the ids as the annotations have them.
        image_ids: of the images that are scored, sorted.
        source: what messages call the results.
    """

    truth: CocoFile
    categories: list[CocoCategory]
    results: list[tuple[dict, int | str, int | str]]
    image_ids: list[int | str]
    source: str


def _compared(
    truth: CocoFile,
    results: str | Path | list[dict[str, Any]],
    image_ids: Sequence[int | str] | None,
    classes: Sequence[str] | None,
    iou_type: str = "bbox",
) -> _Comparison:
    is_file = isinstance(results, (str, Path))
    source = str(results) if is_file else "the results"
    results = _check_results(read_json(source) if is_file else results, source, _COMPARED[iou_type])
    if is_file and iou_type == "bbox":
        _require_pixels(results, source)
    images = {str(image.id): image.id for image in truth.images}
    categories = truth.categories
    if classes is not None:
        truth.require_classes(classes)
        categories = tuple(category for category in categories if category.name in set(classes))
    known = _with_known_ids(truth, images, results, source)
    scored = set(images.values()) if image_ids is None else _choose(images, image_ids, truth.source)
    ordered = sorted(categories, key=lambda category: _order(category.id))
    return _Comparison(truth, ordered, known, sorted(scored, key=_order), source)


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]  # -1: nothing of this class and size to find
    return float(values.mean()) if values.size else float("nan")


def _figure(precision, recall, params, is_precision: bool, iou: float | None, area: str, limit: int) -> float:
    values = precision if is_precision else recall  # (10 IoUs, [101 recalls,] classes, areas, limits)
    values = values[..., params.areaRngLbl.index(area), limit]
    return _mean(values if iou is None else values[np.isclose(params.iouThrs, iou)])


def _check_results(results: Any, source: str, compared: str = "bbox") -> list[dict[str, Any]]:
    if not isinstance(results, list):
        kind = type(results).__name__
        raise UserError(f"{source}: expected a list of detections, got a {kind} (an annotation file?)")
    for index, entry in enumerate(results):
        if not isinstance(entry, dict):
            raise UserError(f"{source}: entry {index} is a {type(entry).__name__}, not an object")
        lacking = [key for key in ("image_id", "category_id", compared, "score") if key not in entry]
        if lacking:
            raise UserError(f"{source}: entry {index} lacks {', '.join(lacking)}")
        if as_id(entry["image_id"]) is None or as_id(entry["category_id"]) is None:
            ids = f"image_id {entry['image_id']!r} and category_id {entry['category_id']!r}"
            raise UserError(f"{source}: entry {index} has {ids}, expected integers or strings")
        if compared == "bbox" and not is_box(entry["bbox"]):
            raise UserError(
                f"{source}: entry {index} has bbox {entry['bbox']}, not four finite numbers x, y, w, h"
            )
        if not is_number(entry["score"]):
            raise UserError(f"{source}: entry {index} has score {entry['score']!r}, not a finite number")
    return results


def _require_pixels(results: list[dict], source: str) -> None:
    """Refuses a results file with a box beyond any image, or half of whose boxes or more are normalised."""
    for index, entry in enumerate(results):
        if max(map(abs, entry["bbox"])) > LARGEST_NUMBER:
            raise UserError(f"{source}: entry {index} has bbox {entry['bbox']}, far beyond any image")
    boxes = [entry["bbox"] for entry in results if entry["bbox"][2] > 0 and entry["bbox"][3] > 0]
    normalized = sum(map(is_normalized, boxes))
    if normalized and 2 * normalized >= len(boxes):
        which = "all boxes" if normalized == len(boxes) else f"{normalized} of the {len(boxes)} boxes"
        raise UserError(
            f"{source}: {which} are between 0 and 1, so normalised; expected x, y, width, height in pixels"
        )


def _result_warnings(results: list[tuple[dict, int | str, int | str]], source: str) -> tuple[str, ...]:
    """A line about the boxes of negative width or height, which pycocotools may leave out of its counts."""
    negative = [entry for entry, _, _ in results if is_box(entry.get("bbox")) and min(entry["bbox"][2:]) < 0]
    if not negative:
        return ()
    first = negative[0]
    return (
        f"warning: {source}: {len(negative)} of the {len(results)} detections have a negative width or "
        f"height and match nothing, e.g. bbox {list(first['bbox'])} of image {first['image_id']}",
    )


def _with_known_ids(
    truth: CocoFile, images: dict[str, int | str], results: list[dict], source: str
) -> list[tuple[dict, int | str, int | str]]:
    """(result, id of its image, id of its category), the ids as the annotations have them."""
    keys = [
        [match_id(entry[key], known) for entry in results]
        for key, known in (
            ("image_id", images),
            ("category_id", {str(category.id): category.id for category in truth.categories}),
        )
    ]
    for key, plural, matched in zip(("image_id", "category_id"), ("images", "categories"), keys, strict=True):
        unknown = [str(entry[key]) for entry, known in zip(results, matched, strict=True) if known is None]
        if unknown:
            several = list(dict.fromkeys(unknown))
            shown = ", ".join(several[:5]) + (f" and {len(several) - 5} more" if len(several) > 5 else "")
            raise UserError(
                f"{source}: {key} {shown} not among the {len(getattr(truth, plural))} {plural} of "
                f"{truth.source}: do results and annotations belong together?"
            )
    return list(zip(results, *keys, strict=True))


def _choose(images: dict[str, int | str], image_ids: Sequence[int | str], source: str) -> set[int | str]:
    if not len(image_ids):
        raise ValueError("image_ids must name at least one image, or be None for all of them, got none")
    for key in image_ids:
        if match_id(key, images) is None:
            raise UserError(
                f"image_ids holds {key!r}, which is not among the {len(images)} images of {source}"
            )
    return {match_id(key, images) for key in image_ids}


def _order(key: int | str) -> tuple[bool, int | str]:
    """The key to sort ids by: integers first."""
    return isinstance(key, str), key


def require_backend(backend: str) -> None:
    """Checks a backend of ``evaluate_coco`` before anything is computed.

    Raises:
        UserError: it is not installed.
        ValueError: there is none of that name.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"expected a backend of {', '.join(_BACKENDS)}, got {backend!r}")
    _backend(backend)


def _backend(name: str) -> tuple[Any, Any]:
    """The classes of data sets and of evaluations, which have pycocotools' interface."""
    data_module, data_class, evaluation_module, evaluation_class = _BACKENDS[name]
    try:
        data = getattr(importlib.import_module(data_module), data_class)
        return data, getattr(importlib.import_module(evaluation_module), evaluation_class)
    except ImportError as error:
        raise UserError(
            f"the backend {name} is not installed ({error}): pip install 'hardnet-suite[eval]'"
        ) from None


class _Masks:
    """The masks of what is compared, as compressed run-length encodings of their images' sizes.

    Attributes:
        sizes: (height, width) by the id of each image that is scored.
        true: of the boxes, in their order.
        detected: of the results, in their order; None on images that are not scored.

    Raises:
        UserError: a box has no mask, a mask is malformed, or the size of its image is not known.
    """

    def __init__(self, inputs: _Comparison, boxes: Sequence[CocoBox]):
        sizes = {image.id: (image.height, image.width) for image in inputs.truth.images}
        self.sizes = {image_id: sizes[image_id] for image_id in inputs.image_ids}
        inputs.truth.require_masks(boxes, "scoring masks")
        for image_id, size in self.sizes.items():
            if None in size:
                raise UserError(
                    f"{inputs.truth.source}: image {image_id} states no valid width and height, which "
                    "scoring masks needs"
                )
        self.true = [encode_mask(box.segmentation, *self.sizes[box.image_id]) for box in boxes]
        self.detected = []
        for index, (entry, image_id, _) in enumerate(inputs.results):
            mask = None
            if image_id in self.sizes:
                try:
                    mask = read_mask(entry["segmentation"], self.sizes[image_id])
                except ValueError as error:
                    raise UserError(f"{inputs.source}: entry {index} has {error}") from None
                if mask is None:
                    raise UserError(f"{inputs.source}: entry {index} has an empty segmentation")
                mask = encode_mask(mask, *self.sizes[image_id])
            self.detected.append(mask)


def _run_backend(
    backend: str,
    true_boxes: Sequence[CocoBox],
    categories: Sequence[CocoCategory],
    results: list[tuple[dict, int | str, int | str]],
    image_ids: Sequence[int | str],
    max_dets: tuple[int, int, int],
    masks: _Masks | None,
):
    """(precision (10, 101, classes, 4, 3), recall (10, classes, 4, 3), parameters); -1: nothing to find."""
    from pycocotools import mask as coco_mask

    data_class, evaluation_class = _backend(backend)
    # pycocotools is given numbers from 1 for all ids: it takes a match with id 0 for no match, and sorts ids
    image_numbers = {key: index + 1 for index, key in enumerate(image_ids)}
    numbers = {category.id: index + 1 for index, category in enumerate(categories)}
    names = {category.name: numbers[category.id] for category in categories}
    true_masks = [None] * len(true_boxes) if masks is None else masks.true
    boxes = [
        (box.image_id, names[box.category], box.bbox, box.area, int(box.iscrowd), None, mask)
        for box, mask in zip(true_boxes, true_masks, strict=True)
    ]
    detected_masks = [None] * len(results) if masks is None else masks.detected
    detections = []
    for (entry, image_id, category_id), mask in zip(results, detected_masks, strict=True):
        if category_id not in numbers or image_id not in image_numbers:
            continue
        box = [float(value) for value in (entry["bbox"] if mask is None else coco_mask.toBbox(mask))]
        area = box[2] * box[3] if mask is None else float(coco_mask.area(mask))
        detections.append((image_id, numbers[category_id], box, area, 0, float(entry["score"]), mask))
    sizes = {} if masks is None else masks.sizes

    def content(rows: list[tuple]) -> Any:
        coco = data_class()
        coco.dataset = {
            "images": [
                {"id": number, **dict(zip(("height", "width"), sizes.get(key, ()), strict=False))}
                for key, number in image_numbers.items()
            ],
            "categories": [{"id": number, "name": str(number)} for number in numbers.values()],
            "annotations": [
                {
                    "id": index + 1,
                    "image_id": image_numbers[image_id],
                    "category_id": category_number,
                    "bbox": list(box),
                    "area": area,
                    "iscrowd": crowd,
                    "score": score,
                    **({} if mask is None else {"segmentation": mask}),
                }
                for index, (image_id, category_number, box, area, crowd, score, mask) in enumerate(rows)
            ],
        }
        coco.createIndex()
        return coco

    kind = "bbox" if masks is None else "segm"
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = evaluation_class(content(boxes), content(detections), kind)
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    params = evaluation.params
    shape = len(params.iouThrs), len(categories), len(params.areaRngLbl), len(max_dets)
    recall = np.asarray(evaluation.eval["recall"]).reshape(shape)
    precision = np.asarray(evaluation.eval["precision"]).reshape(shape[0], -1, *shape[1:])
    return precision, recall, params
