"""The prediction for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hardnet_suite.data.sources import SourceImage
from hardnet_suite.prediction.writer import PredictionWriter
from hardnet_suite.visualization.classification import draw_guesses
from hardnet_suite.visualization.detection import draw_boxes
from hardnet_suite.visualization.segmentation import overlay_with_legend


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image; pixel coordinates start at its upper left corner.

    Attributes:
        name: the image's path, address or frame.
        task: "classification", "detection" or "segmentation".
        size: (width, height) of the image.
        labels: (K,) class indices, best first: the top classes; the boxes' classes; or the classes of the
            mask.
        names: their K names.
        scores: (K,) their probabilities, the boxes' scores, or the classes' shares of the image.
        boxes: (K, 4) x1, y1, x2, y2 in pixels, for detection.
        mask: (H, W) uint8 class indices, for segmentation.
        classes: the names of all classes.
        palette: an RGB colour per class, for segmentation.
        source: the image.
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
        """Plain numbers, strings and lists, for JSON.

        Returns:
            The fields by name. A mask is run-length encoded row by row:
            ``{"size": [H, W], "runs": [[class, length], …]}``.
        """
        row: dict[str, Any] = {
            "name": self.name,
            "task": self.task,
            "size": list(self.size),
            "labels": self.labels.tolist(),
            "names": list(self.names),
            "scores": [round(float(score), 6) for score in self.scores],
        }
        if self.boxes is not None:
            row["boxes"] = [[round(float(value), 2) for value in box] for box in self.boxes]
        if self.mask is not None:
            flat = self.mask.ravel()
            starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]])
            runs = zip(flat[starts].tolist(), np.diff(np.r_[starts, flat.size]).tolist(), strict=True)
            row["mask"] = {"size": list(self.mask.shape), "runs": [list(run) for run in runs]}
        return row

    def draw(self) -> Image.Image:
        """The image with the prediction drawn on it: classes below it, boxes, or a mask with its legend."""
        image = np.array(self.source.open())
        if self.boxes is not None:
            drawn = draw_boxes(image, self.boxes, self.labels, names=self.classes, scores=self.scores)
        elif self.mask is not None:
            drawn = overlay_with_legend(image, self.mask, self.palette, self.classes)
        else:
            drawn = draw_guesses(image, self.names, self.scores)
        return Image.fromarray(drawn)

    def save(self, folder: str | Path, stem: str | None = None) -> Path:
        """Writes the drawing as FOLDER/STEM.jpg, a mask as STEM_mask.png (one class index per pixel), and a
        line that names them into FOLDER/predictions.jsonl.

        An earlier prediction of the same file, address or frame in the folder is replaced. For many
        predictions, a ``PredictionWriter`` is faster: it reads the folder once.

        Args:
            folder: is created where it is missing.
            stem: default: the image's, with a number after it where another file has it. A file of a given
                stem is overwritten, unless it is the image itself.

        Returns:
            The path of the drawing.

        Raises:
            UserError: the files cannot be written, or the folder holds a ``predictions.jsonl`` of another
                kind.
            ValueError: a stem that contains a folder.
        """
        return PredictionWriter(folder).write(self, stem)

    def __str__(self) -> str:
        classes = [f"{name} {100 * score:.1f} %" for name, score in zip(self.names, self.scores, strict=True)]
        name = self.name.replace("\n", "\\n")  # a file's name may hold line ends
        return f"{name}: {', '.join(classes) or 'nothing'}"
