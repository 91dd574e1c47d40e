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

from hardnet_suite.data.coco import check_layout, has_ids, is_box, is_number, load_annotations, read_json
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


@dataclass(frozen=True)
class CocoScores:
    """Figures in [0, 1]; nan where the ground truth has nothing to measure them on (pycocotools says -1).

    ``metrics`` holds COCO_METRICS in this order; ``per_class`` maps a class name to its "AP" and "AP50".
    The names AR_1, AR_10 and AR_100 stand for the first, second and third of ``max_dets``.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    max_dets: tuple[int, int, int] = (1, 10, 100)

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
        width = max([len("class"), *map(len, self.per_class)])
        lines = [f"{'class':<{width}}  {'AP':>6}  {'AP50':>6}"]
        for name, row in self.per_class.items():
            lines.append(f"{name:<{width}}  {_format(row['AP'])}  {_format(row['AP50'])}")
        return "\n".join(lines)


def load_results(path: str | Path) -> list[dict[str, Any]]:
    """A COCO results file: a list of {"image_id", "category_id", "bbox": [x, y, w, h] in pixels, "score"}.

    Raises:
        UserError: no such file, no valid JSON, not a list, or an entry that lacks a key or a finite number.
    """
    return _check_results(read_json(path), str(path))


def evaluate_coco(
    annotations: str | Path | dict[str, Any],
    results: str | Path | list[dict[str, Any]],
    *,
    iou_type: str = "bbox",
    max_dets: Sequence[int] = (1, 10, 100),
    image_ids: Sequence[int | str] | None = None,
) -> CocoScores:
    """Score detections against COCO annotations; both are left as they are.

    Equal scores keep the order of ``results``, as in pycocotools; otherwise the order does not matter.
    Annotations may do without "id", "area" (then width · height) and "iscrowd" (then 0).

    Args:
        annotations: a COCO annotation file, or its content.
        results: a COCO results file, or its content (see ``load_results``); an empty list scores 0.
        iou_type: "bbox", the only kind that the suite's detectors need.
        max_dets: three increasing limits on the detections of one class in one image.
        image_ids: score these images only; results on the others are left out.

    Raises:
        UserError: a file is missing or malformed, the annotations hold no box, or the results or
            ``image_ids`` name images or categories that the annotations do not know.
        ValueError: another ``iou_type`` or other ``max_dets`` than allowed, or empty ``image_ids``.
    """
    if iou_type != "bbox":
        raise ValueError(f"iou_type must be 'bbox', got {iou_type!r}")
    max_dets = tuple(max_dets)
    if len(max_dets) != 3 or not 0 < max_dets[0] < max_dets[1] < max_dets[2]:
        raise ValueError(f"max_dets must be three increasing numbers above 0, got {max_dets}")

    if isinstance(annotations, dict):
        source = "the annotations"
        truth = _ground_truth(check_layout(annotations, source), source)
    else:
        source = str(annotations)
        truth = _ground_truth(load_annotations(annotations), source)
    if isinstance(results, (str, Path)):
        results_source, results = str(results), load_results(results)
    else:
        results_source, results = "the results", _check_results(results, "the results")
    _check_known(truth, results, source, results_source)

    known = {image["id"] for image in truth["images"]}
    wanted = known if image_ids is None else set(image_ids)
    if not wanted:
        raise ValueError("image_ids must name at least one image, or be None for all of them, got none")
    if wanted - known:
        example = next(key for key in image_ids if key not in known)
        raise UserError(
            f"image_ids holds {example!r}, which is not among the {len(known)} images of {source}"
        )

    precision, recall, params = _run_pycocotools(truth, results, sorted(wanted), max_dets)
    return CocoScores(
        metrics={name: _figure(precision, recall, params, *row) for name, row in _FIGURES.items()},
        per_class={
            category["name"]: {
                "AP": _mean(precision[:, :, index, 0, 2]),
                "AP50": _mean(precision[0, :, index, 0, 2]),
            }
            for index, category in enumerate(sorted(truth["categories"], key=lambda entry: entry["id"]))
        },
        max_dets=max_dets,
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


def _ground_truth(data: dict[str, Any], source: str) -> dict[str, Any]:
    """A copy that pycocotools can use (and write to) safely, or a ``UserError``."""
    for key, needed in (("images", ("id",)), ("categories", ("id", "name"))):
        for index, entry in enumerate(data[key]):
            if not has_ids(entry, *needed):
                raise UserError(f"{source}: {key}[{index}] lacks a valid {' or '.join(needed)}")
    names = [entry["name"] for entry in data["categories"]]
    if len(set(names)) < len(names) or len({entry["id"] for entry in data["categories"]}) < len(names):
        raise UserError(
            f"{source}: two categories share an id or a name, so that no score a class can be told"
        )

    if not data["annotations"]:
        raise UserError(f"{source} holds no box: there is nothing to score against (is it a test set?)")
    boxes = []
    for index, entry in enumerate(data["annotations"]):
        if not has_ids(entry, "image_id", "category_id") or not is_box(entry.get("bbox")):
            what = "lacks a valid image_id, category_id or bbox of four finite numbers"
            raise UserError(f"{source}: annotations[{index}] {what}")
        area = entry.get("area", entry["bbox"][2] * entry["bbox"][3])
        if not is_number(area):
            raise UserError(f"{source}: annotations[{index}] has area {area!r}, not a finite number")
        # pycocotools takes a match with id 0 for no match: number them from 1
        boxes.append({**entry, "id": index + 1, "area": area, "iscrowd": int(bool(entry.get("iscrowd")))})
    return {"images": data["images"], "categories": data["categories"], "annotations": boxes}


def _check_results(results: Any, source: str) -> list[dict[str, Any]]:
    if not isinstance(results, list):
        kind = type(results).__name__
        raise UserError(f"{source}: a list of detections is needed, this is a {kind} (an annotation file?)")
    for index, entry in enumerate(results):
        if not isinstance(entry, dict):
            raise UserError(f"{source}: entry {index} is a {type(entry).__name__}, not an object")
        lacking = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
        if lacking:
            raise UserError(f"{source}: entry {index} lacks {', '.join(lacking)}")
        if not has_ids(entry, "image_id", "category_id"):
            ids = f"image_id {entry['image_id']!r} and category_id {entry['category_id']!r}"
            raise UserError(f"{source}: entry {index} has {ids}: each must be a whole number or a string")
        if not is_box(entry["bbox"]):
            raise UserError(
                f"{source}: entry {index} has bbox {entry['bbox']}, not four finite numbers x, y, w, h"
            )
        if not is_number(entry["score"]):
            raise UserError(f"{source}: entry {index} has score {entry['score']!r}, not a finite number")
    return results


def _check_known(truth: dict, results: list[dict], source: str, results_source: str) -> None:
    for key, plural in (("image_id", "images"), ("category_id", "categories")):
        known = {entry["id"] for entry in truth[plural]}
        unknown = [str(entry[key]) for entry in results if entry[key] not in known]
        if unknown:
            several = list(dict.fromkeys(unknown))
            shown = ", ".join(several[:5]) + (f" and {len(several) - 5} more" if len(several) > 5 else "")
            raise UserError(
                f"{results_source}: {key} {shown} not among the {len(known)} {plural} of {source}: "
                "do results and annotations belong together?"
            )


def _run_pycocotools(truth: dict, results: list[dict], image_ids: list, max_dets: tuple[int, int, int]):
    """(precision (10, 101, classes, 4, 3), recall (10, classes, 4, 3), parameters); -1: nothing to find."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # COCO.loadRes fails on no results and writes to those it is given
    detections = [
        {
            "id": index + 1,
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": [float(value) for value in entry["bbox"]],
            "area": float(entry["bbox"][2]) * float(entry["bbox"][3]),
            "score": float(entry["score"]),
            "iscrowd": 0,
        }
        for index, entry in enumerate(results)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth, found = COCO(), COCO()
        ground_truth.dataset = truth
        ground_truth.createIndex()
        found.dataset = {**truth, "annotations": detections}
        found.createIndex()
        evaluation = COCOeval(ground_truth, found, "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"], evaluation.params
