"""Intersection over union (IoU) of label images per class and category, as in cityscapesScripts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardnet_suite.data.images import walk_files
from hardnet_suite.data.segmentation import IGNORE, LABEL_SETS, LabelSet, labels_of, predicted_as, read_label
from hardnet_suite.data.segmentation.labels import without_ending
from hardnet_suite.data.segmentation.pairs import labels_by_name
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import without_nan
from hardnet_suite.evaluation.tables import class_table, format_score

# in order of preference, for frames that have both
_CITYSCAPES_TRUTH = tuple(end.removesuffix(".png") for end in LABEL_SETS["cityscapes"].label_endings)


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """Segmentation scores in [0, 1]; nan where there are no pixels to score.

    Attributes:
        confusion: (C, C), (C, C + 1) or (C + 1, C + 1), see ``score_confusion``.
        category_iou: Category -> its IoU; empty for a data set without categories.
        num_classes: Number of classes C.
    """

    confusion: np.ndarray
    category_iou: dict[str, float]
    num_classes: int

    @property
    def iou(self) -> np.ndarray:
        """(C,) IoU per class: nan for a class in neither the ground truth nor the predictions.

        A class that is predicted but absent from the ground truth has an IoU of 0.
        """
        return np.array([_merged_iou(self.confusion, [index]) for index in range(self.num_classes)])

    @property
    def accuracy(self) -> np.ndarray:
        """(C,) accuracy per class; nan for a class absent from the ground truth."""
        right = np.diagonal(self.confusion)[: self.num_classes]
        return _ratio(right, self.confusion[: self.num_classes].sum(axis=1))

    @property
    def miou(self) -> float:
        """Mean IoU of the classes whose IoU is not nan."""
        return _mean(self.iou)

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of the counted pixels that are correct."""
        return float(_ratio(np.trace(self.confusion), self.confusion.sum()))

    @property
    def mean_accuracy(self) -> float:
        """Mean accuracy of the classes in the ground truth."""
        return _mean(self.accuracy)

    @property
    def metrics(self) -> dict[str, float]:
        """The scores under OpenMMLab's names: mIoU, aAcc (over pixels) and mAcc (over classes)."""
        return {"mIoU": self.miou, "aAcc": self.pixel_accuracy, "mAcc": self.mean_accuracy}

    def chart(self, classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        """The confusion matrix as a square one, with the name of each row and column.

        Pixels predicted as no class have a column "void" if there are any; a set of one class has a row and
        a column "background".
        """
        count, matrix = self.num_classes, self.confusion
        if len(matrix) > count:
            return matrix, (*classes, "background")
        if not matrix[:, count:].any():
            return matrix[:, :count], tuple(classes)
        return np.vstack([matrix, np.zeros_like(matrix[:1])]), (*classes, "void")

    def report(self, classes: Sequence[str]) -> dict[str, Any]:
        """The metrics and the scores per class and category, for JSON: None instead of nan."""
        rows = zip(classes, self.iou.tolist(), self.accuracy.tolist(), strict=True)
        return {
            "metrics": without_nan(self.metrics),
            "per_class": {name: without_nan({"IoU": iou, "Acc": accuracy}) for name, iou, accuracy in rows},
            "per_category": without_nan(self.category_iou),
        }

    def table(self, classes: Sequence[str], most: int | None = None) -> str:
        """IoU, accuracy and share of the true pixels per class, and their means, as aligned plain text.

        Args:
            classes: Class names.
            most: With more classes than this, only the ten best and the ten worst by IoU are listed; None:
                all.

        Raises:
            ValueError: The number of names is not the number of classes.
        """
        if len(classes) != self.num_classes:
            raise ValueError(f"expected {self.num_classes} class names, got {len(classes)}")
        share = _ratio(self.confusion[: self.num_classes].sum(axis=1), self.confusion.sum())
        return class_table(
            classes,
            {"IoU": self.iou.tolist(), "Acc": self.accuracy.tolist(), "pixels": share.tolist()},
            totals={
                "mean": (self.miou, self.mean_accuracy, None),
                "all pixels": (None, self.pixel_accuracy, None),
            },
            digits=4,
            most=most,
        )

    def category_table(self) -> str:
        """IoU per category, and its mean, as aligned plain text."""
        rows = {**self.category_iou, "mean": _mean(np.array(list(self.category_iou.values())))}
        width = max(map(len, [*rows, "category"]))
        head = f"{'category':<{width}}  {'IoU':>6}"
        lines = [f"{name:<{width}}  {format_score(value, 4):>6}" for name, value in rows.items()]
        return "\n".join([head, *lines])


def confusion_matrix(
    target: np.ndarray, prediction: np.ndarray, num_classes: int, ignore: int = IGNORE
) -> np.ndarray:
    """Confusion matrix of label images; the matrices of several images can be added.

    Args:
        target: Integers of any shape, each in [0, num_classes) or ``ignore``.
        prediction: Integers of the same shape, in [0, num_classes) where the target is not ``ignore``.
        num_classes: Number of classes C.
        ignore: Target value of ignored pixels.

    Returns:
        (C, C) int64 counts; rows are true classes, columns predicted ones.

    Raises:
        ValueError: Different shapes, a dtype that is not an integer type, or a value out of range.
    """
    target, prediction = np.asarray(target), np.asarray(prediction)
    if target.shape != prediction.shape:
        raise ValueError(
            f"expected target and prediction of the same shape, got {target.shape} and {prediction.shape}"
        )
    counted = target != ignore
    pair = []
    for name, array in (("target", target), ("prediction", prediction)):
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"expected an integer {name}, got {array.dtype}")
        values = array[counted].astype(np.int64)
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            wrong = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"expected {name} in [0, {num_classes}) or ignored, got {wrong}")
        pair.append(values)
    counts = np.bincount(pair[0] * num_classes + pair[1], minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def score_confusion(confusion: np.ndarray, labels: LabelSet) -> SegmentationScores:
    """Scores a confusion matrix.

    The IoU of a category merges its classes: confusing a car with a bus lowers the IoU of both classes, but
    not that of their category.

    Args:
        confusion: (C, C) counts; rows are true classes, columns predicted ones. In (C, C + 1), the last
            column counts pixels predicted as no class: they are false negatives of their true class and false
            positives of none. In (C + 1, C + 1), the last row counts pixels of no class, the background of a
            data set with one class: it has no IoU, but pixels predicted as a class there are false positives.
        labels: The C classes and their categories.

    Raises:
        ValueError: Unexpected shape.
    """
    confusion, count = np.asarray(confusion), len(labels.classes)
    shapes = (count, count), (count, count + 1), (count + 1, count + 1)
    if confusion.shape not in shapes:
        raise ValueError(
            f"expected confusion of shape {' or '.join(map(str, shapes))}, got {confusion.shape}"
        )
    return SegmentationScores(
        confusion,
        {
            name: _merged_iou(confusion, [labels.classes.index(member) for member in members])
            for name, members in labels.categories.items()
        },
        count,
    )


def count_pixels(target: np.ndarray, prediction: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Confusion matrix of one image, with a row and a column for the background if the label set has one.

    Args:
        target: (H, W) training labels.
        prediction: (H, W) class indices; with one class also ``IGNORE`` or 1, both meaning background.
        labels: The classes.

    Returns:
        (C, C) counts, or (2, 2) for one class; see ``score_confusion``.
    """
    count = len(labels.classes) + (labels.background is not None)
    return confusion_matrix(target, labels.show_background(prediction), count)


def evaluate_folders(
    predictions: Path, annotations: Path, labels: LabelSet, *, prediction_labels: LabelSet | None = None
) -> SegmentationScores:
    """Scores a folder of predicted label images against a folder of ground-truth label images.

    Every label image below ``annotations`` needs a prediction; predictions of other images are ignored. In
    Cityscapes' layout the ground truth is X_gtFine_labelTrainIds.png, or X_gtFine_labelIds.png if only that
    exists, and its prediction any X*.png in any subfolder. Otherwise the prediction of PATH plus a label
    image's ending is PATH.png. Pixels predicted as void are false negatives, as in cityscapesScripts.

    Args:
        predictions: Folder of the predictions.
        annotations: Folder of the ground truth.
        labels: The classes, and how the ground truth is stored.
        prediction_labels: How the predictions are stored; None: as class indices, see ``predicted_as``.

    Raises:
        UserError: A folder, its images or a prediction is missing, an image has two predictions, an image
            cannot be read as labels, sizes differ, or every pixel is void.
    """
    count = len(labels.classes)
    rows = count + (labels.background is not None)
    prediction_labels = prediction_labels or predicted_as(labels)
    confusion = np.zeros((rows, count + 1), dtype=np.int64)
    for truth, predicted in _pairs(Path(annotations), Path(predictions), labels):
        target = read_label(truth, labels_of(truth, labels))
        prediction = read_label(predicted, prediction_labels)
        if target.shape != prediction.shape:
            sizes = ["{1}x{0}".format(*array.shape) for array in (prediction, target)]
            raise UserError(
                f"{predicted} is {sizes[0]} pixels, but {truth} is {sizes[1]}: save predictions at full size"
            )
        prediction = np.where(prediction == IGNORE, count, prediction)
        confusion += confusion_matrix(target, prediction, count + 1)[:rows]
    if not confusion.any():
        raise UserError(f"{annotations}: every pixel is void, so nothing can be scored (is it a test set?)")
    return score_confusion(confusion, labels)


def _pairs(annotations: Path, predictions: Path, labels: LabelSet) -> list[tuple[Path, Path]]:
    """Pairs of true and predicted label images, sorted by name."""
    available = _images(annotations, "label", labels.label_endings)
    frames: dict[str, Path] = {}
    for ending in _CITYSCAPES_TRUTH:
        for path in available:
            if (frame := without_ending(path.stem, ending)) is not None:
                frames.setdefault(frame, path)

    truth = frames or labels_by_name(annotations, labels)
    of_name: dict[str, list[Path]] = defaultdict(list)
    for path in _images(predictions, "prediction"):
        if frames:  # city_sequence_frame, then any suffix of the program that wrote it
            words = path.stem.split("_")
            names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
        else:  # PATH.png, or the name of the label image itself
            name = path.relative_to(predictions).as_posix()
            names = [
                name[:-4],
                *(stem for end in labels.label_endings if (stem := without_ending(name, end)) is not None),
            ]
        for name in names:
            if name in truth:
                of_name[name].append(path)
                break

    missing = [name for name in truth if name not in of_name]
    if missing:
        pattern = f"{missing[0]}*.png" if frames else f"{missing[0]}.png"
        more = f" (and {len(missing) - 1} more of {len(truth)} are missing)" if len(missing) > 1 else ""
        raise UserError(f"{predictions} has no {pattern}, the prediction for {truth[missing[0]]}{more}")
    for name in truth:
        if len(of_name[name]) > 1:
            several = " and ".join(str(path.relative_to(predictions)) for path in of_name[name][:2])
            raise UserError(f"{predictions} has both {several} for {truth[name]}: keep one per image")
    return [(truth[name], of_name[name][0]) for name in sorted(truth)]


def _images(folder: Path, kind: str, endings: Sequence[str] = (".png",)) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: pass the folder of the {kind} images")
    images = walk_files(folder, [f".{ending.rpartition('.')[2]}" for ending in endings])
    if not images:
        raise UserError(f"{folder} has no PNG images: pass the folder of the {kind} images")
    return images


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, with nan for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return np.true_divide(part, whole)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def _merged_iou(confusion: np.ndarray, members: list[int]) -> float:
    """IoU of several classes merged into one."""
    intersection = confusion[np.ix_(members, members)].sum()
    true, predicted = confusion[members].sum(), confusion[:, members].sum()
    return float(_ratio(intersection, true + predicted - intersection))
