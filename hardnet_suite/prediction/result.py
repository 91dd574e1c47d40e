"""What was found in one image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardnet_suite.data.segmentation import LabelSet, write_label
from hardnet_suite.data.sources import JSON_LINES, SourceImage
from hardnet_suite.errors import UserError
from hardnet_suite.visualization.classification import draw_guesses
from hardnet_suite.visualization.detection import draw_boxes, save_image
from hardnet_suite.visualization.segmentation import overlay_with_legend


def free_stem(stem: str, is_free: Callable[[str], bool]) -> str:
    """``stem``, or with the first number after it that is free: a.jpg may lie by a.png."""
    return next(name for name in chain([stem], (f"{stem}_{n}" for n in count(2))) if is_free(name))


@dataclass(frozen=True, eq=False)
class Prediction:
    """One image's answer; pixels count from its upper left corner.

    ``labels`` (K,) class indices, best first, ``names`` and ``scores`` (K,) of the same: the first guesses
    and their probabilities; the boxes' classes and scores; or the classes of the mask and their shares of the
    image. ``boxes`` (K, 4) x1, y1, x2, y2 in pixels, for detection, otherwise None. ``mask`` (H, W) uint8
    class indices, for segmentation, otherwise None. ``size``: (width, height). ``classes``: all their names.
    """

    name: str
    task: str
    size: tuple[int, int]
    labels: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray
    boxes: np.ndarray | None = None
    mask: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] | None = field(default=None, repr=False)
    source: SourceImage | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON. A mask is given row by row as runs of equal classes:
        ``{"size": [H, W], "runs": [[class, length], …]}``."""
        made = {
            "name": self.name,
            "task": self.task,
            "size": list(self.size),
            "labels": self.labels.tolist(),
            "names": list(self.names),
            "scores": [round(float(score), 6) for score in self.scores],
        }
        if self.boxes is not None:
            made["boxes"] = [[round(float(value), 2) for value in box] for box in self.boxes]
        if self.mask is not None:
            flat = self.mask.ravel()
            starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
            runs = zip(flat[starts].tolist(), np.diff(np.r_[starts, flat.size]).tolist(), strict=True)
            made["mask"] = {"size": list(self.mask.shape), "runs": [list(run) for run in runs]}
        return made

    def draw(self) -> Image.Image:
        """The image with what was found: guesses below it, boxes on it, or a tint by class and a legend."""
        image = np.array(self.source.open())
        if self.boxes is not None:
            drawn = draw_boxes(image, self.boxes, self.labels, names=self.classes, scores=self.scores)
        elif self.mask is not None:
            drawn = overlay_with_legend(image, self.mask, self.palette, self.classes)
        else:
            drawn = draw_guesses(image, self.names, self.scores)
        return Image.fromarray(drawn)

    def save(self, folder: str | Path, stem: str | None = None) -> Path:
        """Writes the drawing as FOLDER/STEM.jpg, a mask as STEM_mask.png (one class index a pixel), and adds
        a line to FOLDER/predictions.jsonl, which names the drawing; returns the drawing's path.

        stem: default the image's, with a number after it where there is such a file, so that nothing is
        written over. One that is given is written over, but never the image itself.

        UserError where it cannot be written.
        """
        folder = Path(folder)
        stem = stem or free_stem(self.source.stem, lambda free: not self._taken(folder, free))
        path = folder / f"{stem}.jpg"
        if path.exists() and Path(self.name).exists() and path.samefile(self.name):
            raise UserError(f"{path} is the image itself: choose another folder or name for its drawing")
        save_image(path, np.array(self.draw()))
        row = self.to_dict() | {"drawing": path.name}
        if self.mask is not None:
            row["mask"] = f"{stem}_mask.png"
            write_label(folder / row["mask"], self.mask, LabelSet("", (), ()))
        try:
            with (folder / JSON_LINES).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {folder / JSON_LINES}: {error.strerror}") from None
        return path

    def _taken(self, folder: Path, stem: str) -> bool:
        return (folder / f"{stem}.jpg").exists() or (folder / f"{stem}_mask.png").exists()

    def __str__(self) -> str:
        found = [f"{name} {100 * score:.1f} %" for name, score in zip(self.names, self.scores, strict=True)]
        return f"{self.name}: {', '.join(found) or 'nothing'}"
