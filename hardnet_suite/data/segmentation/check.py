"""Finding what is wrong with a segmentation data set before training does."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardnet_suite.data.images import image_size
from hardnet_suite.data.options import take
from hardnet_suite.data.report import Finding, Report
from hardnet_suite.data.segmentation.label_images import describe_unknown, read_values
from hardnet_suite.data.segmentation.labels import IGNORE, LabelSet, labels_of
from hardnet_suite.data.segmentation.pairs import (
    explain_missing,
    find_pairs,
    images_by_name,
    labels_by_name,
)
from hardnet_suite.data.segmentation.preflight import hidden_classes, orientation_conflict
from hardnet_suite.errors import UserError

_EXPLAINED = 20  # missing labels whose folders are looked into


@dataclass(frozen=True, kw_only=True)
class SegmentationReport(Report):
    """What two folders of images and label images hold and what was found wrong with them.

    Attributes:
        images: folder of the images.
        annotations: folder of the label images.
        pairs: how many images have a label.
        pixels: class name -> its pixels; empty where the labels were not read.
        background: pixels that count and are of no class; None except in a set of one class.
        ignored: pixels that do not count.
        sizes: (smallest width, smallest height, largest width, largest height) of the images in pixels;
            None where none was read.
    """

    images: Path
    annotations: Path
    pairs: int
    pixels: dict[str, int]
    background: int | None = None
    ignored: int
    sizes: tuple[int, int, int, int] | None

    def summary(self) -> dict[str, str]:
        rows = {
            "images": str(self.images),
            "label images": str(self.annotations),
            "pairs": str(self.pairs),
        }
        if self.sizes:
            rows["image sizes"] = "{}×{} to {}×{}".format(*self.sizes)
        count = sum(self.pixels.values()) + self.ignored + (self.background or 0)
        if count:
            rows["ignored"] = f"{self.ignored / count:.1%} of the pixels"
            rows |= {f"  {name}": f"{pixels / count:.1%}" for name, pixels in self.pixels.items()}
            if self.background is not None:
                rows["  (background)"] = f"{self.background / count:.1%}"
        return rows


def check_segmentation(
    images: str | Path,
    annotations: str | Path,
    labels: LabelSet,
    *,
    read: bool = True,
    list_file: str | Path | None = None,
    indices: int | Sequence[int] | None = None,
    train: bool = True,
) -> SegmentationReport:
    """Looks through a segmentation data set for all that would stop or spoil a training.

    Args:
        images: folder of the images.
        annotations: folder of the label images.
        labels: the classes, and how they are stored.
        read: decode every image and label; False only looks whether each image has its label.
        list_file: the list of the images that are used, see ``find_pairs``; None: all.
        indices: which of them, see ``take``; None: all.
        train: whether the data are trained on, see ``hidden_classes``.

    Raises:
        UserError: as ``find_pairs`` and ``take``.
    """
    images, annotations = Path(images), Path(annotations)
    pairs = take(find_pairs(images, annotations, labels, list_file), indices)
    findings = []
    for image, label in pairs:
        if label is None:
            endings = " or ".join(f"*{ending}" for ending in labels.label_endings)
            missing = sum(finding.kind == "missing label" for finding in findings[-_EXPLAINED:])
            explanation = "as for the others"
            if missing < _EXPLAINED:  # the folders are looked into for the first ones
                explanation = explain_missing(image, images, annotations, labels)
            message = f"no {endings} for it in {annotations}; {explanation}"
            where = image.relative_to(images).as_posix()
            findings.append(Finding("error", "missing label", where, message))
    names = images_by_name(images, labels, annotations)
    for name, path in sorted(labels_by_name(annotations, labels, images).items()):
        if name not in names:
            where, message = path.relative_to(annotations).as_posix(), f"no image for it in {images}"
            findings.append(Finding("warning", "label without an image", where, message))
    sizes, values, counts = [], np.zeros(256, np.int64), np.zeros(256, np.int64)
    if read:
        with ThreadPoolExecutor(4) as pool:
            looks = pool.map(lambda pair: _look(*pair, labels), pairs)
            for (image, label), (size, stored, problems) in zip(pairs, looks, strict=True):
                where = image.relative_to(images).as_posix()
                findings += [Finding(level, kind, where, message) for level, kind, message in problems]
                sizes += [size] if size else []
                values += stored
                counts += _by_label(stored, labels if label is None else labels_of(label, labels))
        findings += _empty_classes(labels, values, counts, train=train)
    pixels = dict(zip(labels.classes, counts.tolist(), strict=False)) if read else {}
    return SegmentationReport(
        images=images,
        annotations=annotations,
        pairs=sum(label is not None for _, label in pairs),
        pixels=pixels,
        background=None if labels.background is None else int(counts[labels.background]),
        ignored=int(counts[IGNORE]),
        sizes=(*map(min, zip(*sizes, strict=True)), *map(max, zip(*sizes, strict=True))) if sizes else None,
        findings=tuple(findings),
    )


def _by_label(stored: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Pixels per train label (256,) of pixels per stored value; values without a meaning are ignored."""
    counts, meanings = np.zeros(256, np.int64), labels.values
    for value in np.flatnonzero(stored).tolist():
        counts[meanings.get(value, IGNORE)] += stored[value]
    return counts


def _empty_classes(labels: LabelSet, values: np.ndarray, counts: np.ndarray, *, train: bool) -> list[Finding]:
    """Every class that no pixel is of; none where nothing was read."""
    if not counts.any():
        return []
    empty = [name for name, count in zip(labels.classes, counts.tolist(), strict=False) if not count]
    hidden = hidden_classes(values, labels, train=train)
    if hidden:
        return [Finding("error", "class without pixels", ", ".join(empty), hidden)]
    return [Finding("warning", "class without pixels", name, "not a single pixel is of it") for name in empty]


def _look(
    image: Path, label: Path | None, labels: LabelSet
) -> tuple[tuple[int, int] | None, np.ndarray, list[tuple[str, str, str]]]:
    """A pair's (width, height), pixels per stored value (256,), and (level, kind, message) of each fault."""
    problems, size, counts = [], None, np.zeros(256, np.int64)
    try:
        size = image_size(image)
    except Exception as error:  # PIL raises half a dozen types on broken files
        problems.append(("error", "unreadable image", f"{image}: {error}"))
    if label is None:
        return size, counts, problems
    labels = labels_of(label, labels)
    try:
        array = read_values(label, labels)
    except UserError as error:
        problems.append(("error", "unusable label", str(error)))
        return size, counts, problems
    counts = np.bincount(array.ravel(), minlength=256)
    unknown = [value for value in np.flatnonzero(counts).tolist() if value not in labels.values]
    if unknown:
        problems.append(("error", "label value out of range", f"{label} {describe_unknown(unknown, labels)}"))
    if size and array.shape[::-1] != size:
        message = "{}: the label is {}×{}, the image {}×{}".format(label, *array.shape[::-1], *size)
        problems.append(("error", "label size differs", message))
    elif size and (conflict := orientation_conflict(image, label)):
        problems.append(("error", "orientation differs", conflict))
    if _by_label(counts, labels)[IGNORE] == array.size and not unknown:
        problems.append(("warning", "label without a class", f"{label}: every pixel is ignored"))
    return size, counts, problems
