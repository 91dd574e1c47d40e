"""The prediction for one image."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image, ImageShow

from hardnet_suite.data.coco import COCO_CATEGORY_IDS, COCO_CLASSES
from hardnet_suite.data.sources import SourceImage, stem_of
from hardnet_suite.errors import UserError
from hardnet_suite.prediction.files import DrawingFile, names_file
from hardnet_suite.prediction.items import Guess, PredictedBox, Segment
from hardnet_suite.prediction.writer import PredictionWriter, json_of
from hardnet_suite.visualization.canvas import with_corner_text
from hardnet_suite.visualization.classification import draw_guesses
from hardnet_suite.visualization.detection import draw_boxes
from hardnet_suite.visualization.segmentation import overlay_labels

if TYPE_CHECKING:
    import pandas
    import supervision

_LISTED = 50  # boxes that one line of text lists; of more it has the number per class
_CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image; pixel coordinates start at its upper left corner.

    Its length is the number of boxes, of guesses, or of classes of the mask, and iteration goes over them. It
    is true where nothing was found, too. Notebooks show it as the drawing.

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

    def to_json(self) -> str:
        """``to_dict()`` as one line of JSON.

        Raises:
            UserError: scores or boxes are not finite.
        """
        return json_of(self.to_dict())

    def __len__(self) -> int:
        """The number of boxes, guesses, or classes of the mask."""
        return len(self.labels)

    def __bool__(self) -> bool:
        """True, also where nothing was found: ``len(prediction)`` says that."""
        return True

    @property
    def detections(self) -> list[PredictedBox]:
        """The boxes, best first.

        Raises:
            ValueError: the prediction is of another task.
        """
        if self.boxes is None:
            raise self._other_task("detections", "a detector")
        pairs = zip(self._triples(), self.boxes.tolist(), strict=True)
        return [PredictedBox(*triple, tuple(box)) for triple, box in pairs]

    @property
    def guesses(self) -> list[Guess]:
        """The guesses of a classifier, best first.

        Raises:
            ValueError: the prediction is of another task.
        """
        if self.boxes is not None or self.mask is not None:
            raise self._other_task("guesses", "a classifier")
        return [Guess(*triple) for triple in self._triples()]

    @property
    def segments(self) -> list[Segment]:
        """The classes of the mask, largest first.

        Raises:
            ValueError: the prediction is of another task.
        """
        if self.mask is None:
            raise self._other_task("segments", "a segmentor")
        return [Segment(*triple, self.mask == triple[0]) for triple in self._triples()]

    def _triples(self) -> list[tuple[int, str, float]]:
        return list(zip(self.labels.tolist(), self.names, self.scores.tolist(), strict=True))

    def _other_task(self, items: str, model: str) -> ValueError:
        return ValueError(f"{items} are of {model}, this prediction is of {self.task}")

    def _items(self) -> list[PredictedBox] | list[Guess] | list[Segment]:
        if self.boxes is not None:
            return self.detections
        return self.guesses if self.mask is None else self.segments

    def __iter__(self) -> Iterator[Any]:
        """Goes over the ``detections``, ``guesses`` or ``segments``, by the task.

        Type checkers know the items of these three by their types.
        """
        return iter(self._items())

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        """One of the ``detections``, ``guesses`` or ``segments``, or for a slice a list of them."""
        return self._items()[index]

    def rows(self) -> list[dict[str, Any]]:
        """One flat dictionary per box, guess or class of the mask, as for ``pandas.DataFrame``.

        Returns:
            The keys are ``image``, ``label``, ``name`` and ``score``; for boxes also ``x1``, ``y1``, ``x2``
            and ``y2`` in pixels, for masks ``pixels``, the number of pixels of the class.
        """
        rows: list[dict[str, Any]] = []
        for item in self:
            row = {"image": self.name, "label": item.label, "name": item.name, "score": item.score}
            if isinstance(item, PredictedBox):
                row |= zip(_CORNERS, item.xyxy, strict=True)
            elif isinstance(item, Segment):
                row["pixels"] = int(item.mask.sum())
            rows.append(row)
        return rows

    def to_pandas(self) -> pandas.DataFrame:
        """``rows()`` as a data frame, whose columns are there without a row, too.

        Raises:
            UserError: pandas is not installed.
        """
        pandas = _optional("pandas", "to_pandas", "rows() returns the same as dictionaries")
        types = {"image": object, "label": "int64", "name": object, "score": "float64"}
        if self.boxes is not None:
            types |= dict.fromkeys(_CORNERS, "float64")
        elif self.mask is not None:
            types["pixels"] = "int64"
        return pandas.DataFrame(self.rows(), columns=list(types)).astype(types)

    def to_supervision(self) -> supervision.Detections | supervision.Classifications:
        """The prediction for Roboflow's ``supervision``, which filters, counts and annotates.

        Returns:
            ``Detections`` with ``data["class_name"]``: of boxes, or of a mask, one per class, without
            confidences. For guesses ``Classifications``.

        Raises:
            UserError: supervision is not installed.
        """
        supervision = _optional("supervision", "to_supervision", "pip install 'hardnet-suite[supervision]'")
        labels, scores = self.labels.astype(int), self.scores.astype(np.float32)
        data = {"class_name": np.array(self.names, dtype=str)}
        if self.boxes is not None:
            boxes = self.boxes.astype(np.float32).reshape(-1, 4)
            return supervision.Detections(xyxy=boxes, confidence=scores, class_id=labels, data=data)
        if self.mask is None:
            return supervision.Classifications(class_id=labels, confidence=scores)
        masks = self.mask == labels[:, None, None]
        boxes = supervision.mask_to_xyxy(masks).astype(np.float32).reshape(-1, 4)
        return supervision.Detections(xyxy=boxes, mask=masks, class_id=labels, data=data)

    def to_coco(
        self, image_id: int | str | None = None, *, categories: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        """Entries of a COCO results file.

        Args:
            image_id: default: the file's name without suffix, as a number where it is one.
            categories: name of a class -> id of its category. Default: COCO's ids for its 80 classes, else 1
                for the first class, 2 for the second …, as ``convert-dataset`` numbers them.

        Returns:
            For boxes ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels) and ``score``.
            For each class of a mask ``image_id``, ``category_id``, ``segmentation`` (``size`` and the
            compressed ``counts`` of pycocotools, a string), ``bbox`` and ``area``.

        Raises:
            ValueError: guesses of a classifier, which COCO has no form for, or a class without a category.
        """
        if self.boxes is None and self.mask is None:
            raise ValueError("COCO results are boxes or masks, got the guesses of a classifier; see rows()")
        if image_id is None:
            is_file = not re.search(r"://|#\d{6,}$", self.name)
            stem = Path(self.name).stem if is_file else stem_of(self.name)
            image_id = int(stem) if re.fullmatch("[0-9]{1,18}", stem) else stem
        if categories is None:
            known = self.classes == COCO_CLASSES
            numbers = COCO_CATEGORY_IDS if known else range(1, len(self.classes) + 1)
            categories = dict(zip(self.classes, numbers, strict=True))
        missing = [name for name in self.names if name not in categories]
        if missing:
            raise ValueError(f"categories has no id for the class {missing[0]!r}: {sorted(categories)}")
        entries: list[dict[str, Any]] = []
        for item in self:
            entry: dict[str, Any] = {"image_id": image_id, "category_id": categories[item.name]}
            if isinstance(item, PredictedBox):
                x1, y1, x2, y2 = item.xyxy
                entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": item.score}
            elif isinstance(item, Segment):
                entry |= _coco_mask(item.mask)
            entries.append(entry)
        return entries

    def draw(self, *, legend: bool = True) -> Image.Image:
        """The image with the prediction drawn on it: classes below it, boxes, or a mask with its legend.

        Args:
            legend: whether the image may grow by what is written below it. Without it, as in videos, the size
                is the image's: a mask has no legend, and of a classifier the first guess is in a corner.
        """
        if self.source is None:
            raise ValueError(f"the prediction of {self.name} has no source to draw on")
        image = np.array(self.source.open())
        if self.boxes is not None:
            drawn = draw_boxes(image, self.boxes, self.labels, names=self.classes, scores=self.scores)
        elif self.mask is not None and self.palette is not None:
            names = self.classes if legend else None
            drawn = overlay_labels(image, self.mask, self.palette, names=names)
        elif legend:
            drawn = draw_guesses(image, self.names, self.scores)
        else:
            guesses = [f"{guess.name} {100 * guess.score:.1f} %" for guess in self.guesses]
            drawn = with_corner_text(image, guesses[0]) if guesses else image
        return Image.fromarray(drawn)

    def show(self) -> None:
        """Shows the drawing: below the cell of a notebook, else in the system's image viewer.

        Raises:
            UserError: there is neither a display nor a notebook.
        """
        drawing = self.draw()
        if not (_show_in_notebook(drawing) or _show_in_viewer(drawing)):
            raise UserError(
                "there is no display to show the image on: prediction.save('result.jpg') writes it to a file"
            )

    def save(self, path: str | Path, stem: str | None = None) -> Path:
        """Writes the prediction: the drawing alone into a file, or all of it into a folder.

        In a folder, the drawing is FOLDER/STEM.jpg, a mask STEM_mask.png (one class index per pixel, in the
        colours of the classes), and a line of FOLDER/predictions.jsonl names them. An earlier prediction of
        the same file, address or frame is replaced. For many predictions, a ``PredictionWriter`` is faster:
        it reads the folder once.

        Args:
            path: a file (.jpg, .jpeg or .png), which is replaced only if it is an earlier drawing; or a
                folder, which is created where it is missing.
            stem: with a folder, default: the image's, with a number after it where another file has it. A
                file of a given stem is overwritten, unless it is the image itself.

        Returns:
            The path of the drawing.

        Raises:
            UserError: the files cannot be written, the file is there and no drawing of a prediction, or the
                folder holds a ``predictions.jsonl`` of another kind.
            ValueError: a stem that contains a folder, or one for a file.
        """
        if not names_file(path):
            return PredictionWriter(path).write(self, stem)
        if stem is not None:
            raise ValueError(f"a stem is for a folder, got stem={stem!r} and the file {path}")
        return DrawingFile(path).write(self)

    def _repr_png_(self) -> bytes:
        """The drawing, which notebooks show for the last value of a cell."""
        stream = io.BytesIO()
        self.draw().save(stream, "PNG")
        return stream.getvalue()

    def __str__(self) -> str:
        name = self.name.replace("\n", "\\n")  # a file's name may hold line ends
        if self.task == "detection" and len(self.names) > _LISTED:
            counts = ", ".join(f"{count} {each}" for each, count in Counter(self.names).most_common())
            return f"{name}: {len(self.names)} boxes: {counts}"
        classes = [f"{name} {100 * score:.1f} %" for name, score in zip(self.names, self.scores, strict=True)]
        return f"{name}: {', '.join(classes) or 'nothing'}"


def _optional(package: str, caller: str, advice: str) -> Any:
    """A package that is not among the requirements."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{caller} needs the package {error.name}, which is not installed; {advice}"
        ) from None


def _coco_mask(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {
        "segmentation": {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")},
        "bbox": coco_mask.toBbox(encoded).tolist(),
        "area": int(coco_mask.area(encoded)),
    }


def _show_in_notebook(image: Image.Image) -> bool:
    """Shows an image below the cell; False outside of notebooks, in IPython's terminal too."""
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        return False
    importlib.import_module("IPython.display").display(image)
    return True


def _show_in_viewer(image: Image.Image) -> bool:
    """Opens an image in the system's viewer; False where there is no display or no viewer."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    return ImageShow.show(image)
