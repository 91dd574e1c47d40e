"""The twelve COCO figures of a detector, by pycocotools, with inputs checked and prints silenced."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardnet_suite.data.coco import (
    CocoCategory,
    CocoFile,
    as_id,
    is_box,
    is_number,
    load_annotations,
    read_coco,
    read_json,
)
from hardnet_suite.data.coco.values import LARGEST_NUMBER, is_normalized, match_id
from hardnet_suite.errors import UserError

__all__ = [
    "COCO_METRICS",
    "CocoScores",
    "evaluate_coco",
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
_LONGEST_NAME = 60  # characters of a class name in a table


@dataclass(frozen=True)
class CocoScores:
    """Figures in [0, 1]; nan where the ground truth has nothing to measure them on (pycocotools says -1).

    ``metrics`` holds COCO_METRICS in this order; ``per_class`` maps a class name to its "AP" and "AP50".
    The names AR_1, AR_10 and AR_100 stand for the first, second and third of ``max_dets``. ``warnings`` are
    lines about detections that can match nothing.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    max_dets: tuple[int, int, int] = (1, 10, 100)
    warnings: tuple[str, ...] = ()

    def table(self) -> str:
        """The twelve figures as aligned plain text, described as pycocotools does."""
        lines = [f"{'figure':<10}  {'what':<17}  {'IoU':<9}  {'area':<6}  {'max dets':>8}  {'value':>6}"]
        for name, (is_precision, iou, area, limit) in _FIGURES.items():
            what = "Average Precision" if is_precision else "Average Recall"
            ious = "0.50:0.95" if iou is None else f"{iou:.2f}"
            value = _format(self.metrics[name])
            lines.append(f"{name:<10}  {what:<17}  {ious:<9}  {area:<6}  {self.max_dets[limit]:>8}  {value}")
        return "\n".join(lines)

    def class_table(self) -> str:
        """AP and AP50 of every class as aligned plain text, in the order of the category ids."""
        width = min(max([len("class"), *map(len, self.per_class)]), _LONGEST_NAME)
        lines = [f"{'class':<{width}}  {'AP':>6}  {'AP50':>6}"]
        for name, row in self.per_class.items():
            shown = name if len(name) <= width else f"{name[: width - 1]}…"
            lines.append(f"{shown:<{width}}  {_format(row['AP'])}  {_format(row['AP50'])}")
        return "\n".join(lines)


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
) -> CocoScores:
    """Scores detections against COCO annotations; both are left unchanged.

    Annotations are read by the rules of ``hardnet_suite.data.coco.reader``: unusable boxes are dropped and
    count neither way. Detections of equal scores keep the order of ``results``, as in pycocotools; otherwise
    the order does not matter.

    Args:
        annotations: a COCO annotation file, its content, or its records.
        results: a COCO results file, or its content (see ``load_results``); an empty list scores 0.
        iou_type: "bbox", the only kind that the suite's detectors need.
        max_dets: three increasing limits on the detections of one class in one image.
        image_ids: score these images only; results on the others are left out.
        classes: score the categories of these names only; None: all.

    Raises:
        UserError: a file is missing or malformed, what is scored holds no box, or the results, ``image_ids``
            or ``classes`` name images or categories that the annotations do not have.
        ValueError: another ``iou_type`` or other ``max_dets`` than allowed, or empty ``image_ids``.
    """
    if iou_type != "bbox":
        raise ValueError(f"iou_type must be 'bbox', got {iou_type!r}")
    max_dets = tuple(max_dets)
    if len(max_dets) != 3 or not 0 < max_dets[0] < max_dets[1] < max_dets[2]:
        raise ValueError(f"max_dets must be three increasing numbers above 0, got {max_dets}")

    truth = read_coco(annotations).require_boxes()
    if isinstance(results, (str, Path)):
        results_source, results = str(results), load_results(results)
        _require_pixels(results, results_source)
    else:
        results_source, results = "the results", _check_results(results, "the results")
    images = {str(image.id): image.id for image in truth.images}
    categories = truth.categories
    if classes is not None:
        truth.require_classes(classes)
        categories = tuple(category for category in categories if category.name in set(classes))
    results = _with_known_ids(truth, images, results, results_source)
    scored = set(images.values()) if image_ids is None else _choose(images, image_ids, truth.source)
    names = {category.name for category in categories}
    if not any(box.image_id in scored and box.category in names and not box.iscrowd for box in truth.boxes):
        raise UserError(
            f"{truth.source} holds no box of the classes in the {len(scored)} images that are scored: "
            "there is nothing to score against"
        )

    ordered = sorted(categories, key=lambda category: _order(category.id))
    precision, recall, params = _run_pycocotools(
        truth, ordered, results, sorted(scored, key=_order), max_dets
    )
    return CocoScores(
        metrics={name: _figure(precision, recall, params, *row) for name, row in _FIGURES.items()},
        per_class={
            category.name: {
                "AP": _mean(precision[:, :, index, 0, 2]),
                "AP50": _mean(precision[0, :, index, 0, 2]),
            }
            for index, category in enumerate(ordered)
        },
        max_dets=max_dets,
        warnings=_result_warnings(results, results_source),
    )


def without_nan(figures: dict[str, float]) -> dict[str, float | None]:
    """Figures as strict JSON can hold them: nan becomes None (null)."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _format(value: float) -> str:
    return f"{'n/a':>6}" if math.isnan(value) else f"{value:6.3f}"


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]  # -1: nothing of this class and size to find
    return float(values.mean()) if values.size else float("nan")


def _figure(precision, recall, params, is_precision: bool, iou: float | None, area: str, limit: int) -> float:
    values = precision if is_precision else recall  # (10 IoUs, [101 recalls,] classes, areas, limits)
    values = values[..., params.areaRngLbl.index(area), limit]
    return _mean(values if iou is None else values[np.isclose(params.iouThrs, iou)])


def _check_results(results: Any, source: str) -> list[dict[str, Any]]:
    if not isinstance(results, list):
        kind = type(results).__name__
        raise UserError(f"{source}: expected a list of detections, got a {kind} (an annotation file?)")
    for index, entry in enumerate(results):
        if not isinstance(entry, dict):
            raise UserError(f"{source}: entry {index} is a {type(entry).__name__}, not an object")
        lacking = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
        if lacking:
            raise UserError(f"{source}: entry {index} lacks {', '.join(lacking)}")
        if as_id(entry["image_id"]) is None or as_id(entry["category_id"]) is None:
            ids = f"image_id {entry['image_id']!r} and category_id {entry['category_id']!r}"
            raise UserError(f"{source}: entry {index} has {ids}, expected integers or strings")
        if not is_box(entry["bbox"]):
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
    negative = [entry for entry, _, _ in results if min(entry["bbox"][2:]) < 0]
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


def _run_pycocotools(
    truth: CocoFile,
    categories: Sequence[CocoCategory],
    results: list[tuple[dict, int | str, int | str]],
    image_ids: Sequence[int | str],
    max_dets: tuple[int, int, int],
):
    """(precision (10, 101, classes, 4, 3), recall (10, classes, 4, 3), parameters); -1: nothing to find."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # pycocotools is given numbers from 1 for all ids: it takes a match with id 0 for no match, and sorts ids
    image_numbers = {key: index + 1 for index, key in enumerate(image_ids)}
    numbers = {category.id: index + 1 for index, category in enumerate(categories)}
    names = {category.name: numbers[category.id] for category in categories}
    boxes = [
        (box.image_id, names[box.category], box.bbox, box.area, int(box.iscrowd), None)
        for box in truth.boxes
        if box.category in names and box.image_id in image_numbers
    ]
    detections = [
        (image_id, numbers[category_id], box, box[2] * box[3], 0, float(entry["score"]))
        for entry, image_id, category_id in results
        if category_id in numbers and image_id in image_numbers
        for box in [[float(value) for value in entry["bbox"]]]
    ]

    def content(rows: list[tuple]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in image_numbers.values()],
            "categories": [{"id": number} for number in numbers.values()],
            "annotations": [
                {
                    "id": index + 1,
                    "image_id": image_numbers[image_id],
                    "category_id": category_number,
                    "bbox": list(box),
                    "area": area,
                    "iscrowd": crowd,
                    "score": score,
                }
                for index, (image_id, category_number, box, area, crowd, score) in enumerate(rows)
            ],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(content(boxes), content(detections), "bbox")
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"], evaluation.params
