"""A new folder of label images of CamVid's classes, for the scripts here that make them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hardnet_suite.data.segmentation.label_images import write_label
from hardnet_suite.data.segmentation.labels import IGNORE, LABEL_SETS
from hardnet_suite.errors import UserError

CAMVID = LABEL_SETS["camvid"]


def require_new(folder: Path) -> None:
    """UserError unless a folder is missing or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out: expected a new or empty folder, got {folder}")


def write_labels(folder: Path, labels: Iterable[tuple[Path, np.ndarray]], count: int) -> None:
    """Writes label images, and tells how far it is and, at the end, the share of each class.

    Args:
        folder: of the label images.
        labels: path in the folder, and (H, W) uint8 train labels.
        count: how many there are.
    """
    pixels = np.zeros(256, np.int64)
    for number, (name, array) in enumerate(labels, 1):
        write_label(folder / name, array, CAMVID)
        pixels += np.bincount(array.ravel(), minlength=256)
        if number % max(1, count // 10) == 0 or number == count:
            print(f"{number} of {count}", flush=True)
    shares = {name: pixels[label] / pixels.sum() for label, name in enumerate(CAMVID.classes)}
    shares["without label"] = pixels[IGNORE] / pixels.sum()
    print(" · ".join(f"{name} {share:.2%}" for name, share in shares.items()))
