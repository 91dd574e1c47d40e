"""What a run looks at in label images before its first iteration."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hardnet_suite.data.images import header
from hardnet_suite.data.segmentation.label_images import describe_unknown, read_values
from hardnet_suite.data.segmentation.labels import IGNORE, LABEL_SETS, LabelSet, labels_of
from hardnet_suite.errors import UserError

SAMPLE = 200  # label images that are read first; the others only where these leave a doubt


def require_meaning(files: Sequence[Path], labels: LabelSet, where: str, *, train: bool) -> None:
    """Checks that the stored values of label images mean what the label set says.

    At most ``SAMPLE`` files, spread over the set, are read; the others only while ``hidden_classes`` suspects
    that a class is stored as a value that is ignored.

    Args:
        files: the label images.
        labels: the classes, and how they are stored.
        where: what the error calls the data set.
        train: whether the data set is trained on, see ``hidden_classes``.

    Raises:
        UserError: ``hidden_classes`` says so, or a file that was read is broken or holds unknown values.
    """
    files = list(dict.fromkeys(files))
    step = max(1, -(-len(files) // SAMPLE))
    chosen = set(files[::step])
    counts = np.zeros(256, np.int64)
    message = None
    with ThreadPoolExecutor(4) as pool:
        for batch in (files[::step], *_batches([file for file in files if file not in chosen])):
            for counted in pool.map(lambda file: _count(file, labels), batch):
                counts += counted
            message = hidden_classes(counts, labels, train=train)
            if message is None:
                return
    if message:
        raise UserError(f"{where}: {message}")


def hidden_classes(counts: np.ndarray, labels: LabelSet, *, train: bool) -> str | None:
    """Why classes seem to be stored as a value that is ignored; None where they do not.

    In training data that is so where a class has no pixel and 255 occurs, which nothing but its default makes
    ignored, or where the masks of one or two classes hold ignored pixels and at most one label. In other
    data, where a class may well be absent, it is so where both are the case. Known label sets, such as
    Cityscapes, define their values and are not questioned.

    Args:
        counts: (256,) pixels of each stored value.
        labels: the classes, and how they are stored.
        train: whether the data are trained on.
    """
    if not labels.classes or labels.name in LABEL_SETS:
        return None
    values = labels.values
    occurring = np.flatnonzero(counts).tolist()
    counting = {values[value] for value in occurring if values.get(value, IGNORE) != IGNORE}
    ignored = [value for value in occurring if values.get(value, IGNORE) == IGNORE]
    empty = [index for index in range(len(labels.classes)) if index not in counting]
    by_default = IGNORE in ignored and IGNORE not in labels.stored
    alone = bool(ignored) and len(counting) < 2 and len(labels.classes) <= 2
    if not empty or not ((by_default or alone) if train else (by_default and alone)):
        return None
    hidden = IGNORE if by_default else ignored[0]
    name = labels.classes[empty[-1]]
    stored = ({} if len(labels.stored) > 8 else labels.stored) | {hidden: empty[-1]}
    keep = f", or add {{{IGNORE}: {IGNORE}}} if it is not" if by_default and not (alone and train) else ""
    held, left_out = (", ".join(map(str, some)) for some in (occurring, ignored))
    return (
        f"no pixel is of the class {name!r}; the label images hold {held}, of which {left_out} "
        f"{'is' if len(ignored) == 1 else 'are'} ignored; set "
        f"stored={stored} if {hidden} is that class{keep}"
    )


def require_aligned(pairs: Sequence[tuple[Path, Path]], where: str) -> None:
    """Checks every pair with ``misalignment``; reads the heads of the files alone.

    Raises:
        UserError: a pair may not be aligned.
    """
    with ThreadPoolExecutor(4) as pool:
        for message in pool.map(lambda pair: misalignment(*pair), pairs):
            if message:
                raise UserError(f"{where}: {message}")


def misalignment(image: Path, label: Path) -> str | None:
    """``orientation_conflict``, or that the label is of another size than its image; None for a good pair."""
    if conflict := orientation_conflict(image, label):
        return conflict
    sizes = [header(path)[1] for path in (image, label)]
    if sizes[0] == sizes[1]:
        return None
    return "the label image {} is {}×{} pixels, its image {} is {}×{}".format(
        label, *sizes[1], image, *sizes[0]
    )


def orientation_conflict(image: Path, label: Path) -> str | None:
    """Why an image and its label may not lie on each other once both are upright; None where they do.

    Both are turned upright by their own EXIF orientation. Where these differ, the label may have been drawn
    on the displayed image or on the stored pixels. Only a label that has the size of the displayed image and
    not that of the stored pixels tells which.
    """
    (size, _, tag), (label_size, _, label_tag) = header(image), header(label)
    if tag == label_tag:
        return None
    label_size = _upright(label_size, label_tag)
    if label_tag == 1 and label_size == _upright(size, tag) != size:
        return None
    return (
        f"the image {image} has EXIF orientation {tag}, its label {label} {label_tag}, so they may not be "
        "aligned: save both upright, without EXIF orientation, if the label fits the image as displayed; "
        "give the label that of the image if it was drawn on the stored pixels"
    )


def _upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size[::-1] if orientation >= 5 else size


def _batches(files: Sequence[Path]) -> list[Sequence[Path]]:
    return [files[start : start + SAMPLE] for start in range(0, len(files), SAMPLE)]


def _count(path: Path, labels: LabelSet) -> np.ndarray:
    labels = labels_of(path, labels)
    counts = np.bincount(read_values(path, labels).ravel(), minlength=256)
    unknown = [value for value in np.flatnonzero(counts).tolist() if value not in labels.values]
    if unknown:
        raise UserError(f"the label image {path} {describe_unknown(unknown, labels)}")
    return counts
