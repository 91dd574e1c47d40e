"""Drawings of detections: boxes with label chips, and ground truth beside detections for a test set."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from hardnet_suite.data.coco import CocoFile, CocoImage, as_id, read_coco
from hardnet_suite.data.coco.masks import decode_mask, read_mask
from hardnet_suite.data.coco.values import match_id
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import load_results
from hardnet_suite.visualization.canvas import (
    INK,
    Color,
    as_image,
    beside,
    captioned,
    class_color,
    fitted,
    free_path,
    ranked_name,
    read_rgb,
    save_image,
    sheet,
)
from hardnet_suite.visualization.fonts import Font

_MASK_OPACITY = 0.5
_CELL = 480  # pixels of the longer side of an image on a sheet


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    scores: np.ndarray | None = None,
    palette: Sequence[Color] | None = None,
    masks: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """A copy of an image with boxes, their masks and their labels ("dog 0.87") drawn on it.

    A box with swapped corners, as from an untrained network, is drawn as the rectangle they span.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (K, 4) corners x1, y1, x2, y2 in pixels; K may be 0. Boxes are clipped to the image.
        labels: (K,) class indices into ``names``.
        names: the class names, in any script.
        scores: (K,) confidences, shown with two digits; None shows the names alone.
        palette: one RGB colour (0–255) per class; default: ``class_color``.
        masks: K masks, (H, W) bool, tinted in the colours of the boxes, with a dark outline; None: boxes
            alone.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: other shapes or types, boxes that are not finite, or labels without a name or colour.
    """
    image = as_image(image)
    boxes, labels = np.asarray(boxes, dtype=float), np.asarray(labels)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    count = len(boxes)
    if boxes.shape != (count, 4) or not np.isfinite(boxes).all():
        raise ValueError(f"boxes must be finite numbers of shape (K, 4), got shape {boxes.shape}: {boxes}")
    if labels.shape != (count,) or (scores is not None and np.shape(scores) != (count,)):
        raise ValueError(
            f"labels and scores must have shape ({count},) as there are {count} boxes, "
            f"got {labels.shape} and {None if scores is None else np.shape(scores)}"
        )
    classes = len(names) if palette is None else min(len(names), len(palette))
    if count and not (
        np.issubdtype(labels.dtype, np.integer) and 0 <= labels.min() <= labels.max() < classes
    ):
        raise ValueError(f"labels must be integers in [0, {classes}), got {labels}")
    if masks is not None and [np.shape(mask) for mask in masks] != [image.shape[:2]] * count:
        shapes = [np.shape(mask) for mask in masks]
        raise ValueError(f"masks must be {count} of shape {image.shape[:2]}, got {shapes[:5]}")

    height, width = image.shape[:2]
    side = math.sqrt(height * width)
    line = max(1, round(side / 200))
    fonts = [Font(max(9, round(side / part))) for part in (36, 46)]
    corners = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1
    )
    visible = (corners[:, 2:] > 0).all(1) & (corners[:, :2] < [width, height]).all(1)
    corners = corners.clip(0, [width - 1, height - 1] * 2).round().astype(int)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    order = [k for k in np.argsort(-areas, kind="stable").tolist() if visible[k]]  # small ones on top
    colors = [class_color(label) if palette is None else tuple(palette[label]) for label in labels.tolist()]

    if masks is not None:
        image = image.copy()
        for k in np.argsort(-areas, kind="stable").tolist():
            _tint(image, np.asarray(masks[k], bool), colors[k])
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for k in order:
        x1, y1, x2, y2 = corners[k].tolist()
        # a dark rim keeps the line visible on a background of its own colour
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=INK, width=line + 2)
        draw.rectangle((x1, y1, x2, y2), outline=colors[k], width=line)

    taken: list[tuple[int, int, int, int]] = []
    for k in reversed(order):  # the smallest boxes choose their place first
        score = "" if scores is None else f" {scores[k]:.2f}"
        room = max(width / 2, corners[k][2] - corners[k][0]) - fonts[0].getlength(score)
        text = (
            fonts[0].shorten(names[labels[k]], max(room, 0)) + score
        )  # a long name leaves its score visible
        taken.append(_draw_chip(draw, text, corners[k].tolist(), colors[k], fonts, (width, height), taken))
    return np.array(canvas)


def _tint(image: np.ndarray, mask: np.ndarray, color: Color) -> None:
    """Tints the pixels of a mask, in place, and darkens those at its border."""
    image[mask] = np.rint(image[mask] + _MASK_OPACITY * (np.array(color) - image[mask]))
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    image[mask & ~inner] = INK


def draw_results(
    annotation_file: str | Path,
    results_file: str | Path,
    image_folder: str | Path,
    out_dir: str | Path,
    *,
    image_ids: Iterable[int | str] | None = None,
    least_score: float = 0.3,
    classes: Sequence[str] | None = None,
    palette: Sequence[Color] | None = None,
    ranked: bool = False,
) -> int:
    """Draw each image of a COCO annotation file twice, ground truth beside detections.

    If the detections have masks ("segmentation"), masks are drawn, also those of the ground truth.

    One image at a time is in memory. ``sub/a.png`` is drawn into ``out_dir/a.jpg``, or into the first of
    ``a_2.jpg``, ``a_3.jpg`` … that is free: every image has its own file and no file is overwritten. The
    folder is created if missing. Crowd regions are omitted, as they are not scored.

    Args:
        annotation_file: COCO annotations.
        results_file: detections in COCO result format.
        image_folder: the folder that the annotations' ``file_name`` entries are relative to.
        out_dir: the folder of the drawings.
        image_ids: draw these images only (None: all).
        least_score: detections below it are not drawn.
        classes: class names in the order of their labels, which colours go by; others follow. None: the order
            of the file.
        palette: one (red, green, blue) per class of ``classes``; None for the usual colours.
        ranked: puts the place of an image in ``image_ids`` in front of the name, as in ``001_a.jpg``.

    Returns:
        The number of files written.

    Raises:
        UserError: a file is missing or malformed, the files do not belong together, an image is broken, or
            the folder cannot be written.
    """
    drawer = _PairDrawer(annotation_file, results_file, image_folder, least_score, classes, palette)
    images = pick_images(drawer.content, image_ids, ordered=ranked)
    numbers: dict = {}
    for rank, image in enumerate(images, 1):
        name = ranked_name(f"{Path(image.file_name).stem}.jpg", rank if ranked else None, len(images))
        save_image(free_path(Path(out_dir, name), numbers), beside(*drawer.draw(image)))
    return len(images)


def draw_worst_detections(
    annotation_file: str | Path,
    results_file: str | Path,
    image_folder: str | Path,
    path: str | Path,
    captions: Mapping[int | str, str],
    *,
    least_score: float = 0.3,
    classes: Sequence[str] | None = None,
    palette: Sequence[Color] | None = None,
) -> None:
    """Draw images on one sheet, three in a row, each as ground truth beside detections above its caption.

    Args:
        annotation_file: as of ``draw_results``, like all that is not named here.
        results_file: likewise.
        image_folder: likewise.
        path: the file, in the format of its suffix; missing folders are created.
        captions: id of each image -> what is written below it; at least one.
        least_score: as of ``draw_results``.
        classes: likewise.
        palette: likewise.

    Raises:
        UserError: as ``draw_results``.
    """
    drawer = _PairDrawer(annotation_file, results_file, image_folder, least_score, classes, palette)
    cells = []
    for image in pick_images(drawer.content, captions, ordered=True):
        pair = beside(*drawer.draw(image, side=_CELL))
        cells.append(captioned(pair, (captions[image.id], image.file_name)))
    save_image(Path(path), sheet(cells))


class _DrawnBox(NamedTuple):
    """A true box or a detection; ``bbox`` is (x, y, width, height) of the whole image."""

    name: str
    bbox: Sequence[float]
    score: float | None
    mask: Any


def _pixels(mask: Any, size: tuple[int, int], drawn: tuple[int, int]) -> np.ndarray:
    """A mask of an image of ``size``, in the drawing's size; of a box without a mask nothing.

    Raises:
        UserError: the mask is malformed.
    """
    try:
        mask = read_mask(mask, size)
    except ValueError as error:
        raise UserError(f"the results have {error}: do results and annotations belong together?") from None
    if mask is None:
        return np.zeros(drawn, bool)
    pixels = Image.fromarray(decode_mask(mask, *size))
    return np.asarray(pixels.resize(drawn[::-1], Image.Resampling.NEAREST))


class _PairDrawer:
    """Draws ground truth and detections of one image after another; the arguments are ``draw_results``'."""

    def __init__(
        self,
        annotation_file: str | Path,
        results_file: str | Path,
        image_folder: str | Path,
        least_score: float,
        classes: Sequence[str] | None,
        palette: Sequence[Color] | None,
    ):
        self.content = read_coco(annotation_file, image_folder=image_folder).require()
        self.folder = Path(image_folder)
        self.names = list(dict.fromkeys([*(classes or ()), *self.content.category_ids]))
        if palette is not None:
            palette = (*palette, *map(class_color, range(len(palette), len(self.names))))
        self.palette = palette
        texts = {str(key): name for name, key in self.content.category_ids.items()}
        self.detections: defaultdict[str, list[_DrawnBox]] = defaultdict(list)
        self.has_masks = False
        for entry in load_results(results_file):
            name = match_id(entry["category_id"], texts)
            if name is None:
                raise UserError(
                    f"{results_file} has category_id {entry['category_id']}, which {annotation_file} does "
                    "not have: do results and annotations belong together?"
                )
            if entry["score"] >= least_score:
                image = str(as_id(entry["image_id"]))
                mask = entry.get("segmentation")
                self.has_masks |= mask is not None
                self.detections[image].append(_DrawnBox(name, entry["bbox"], entry["score"], mask))

    def draw(self, image: CocoImage, side: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The image with its true boxes, and with its detections.

        Args:
            image: of the annotation file.
            side: of the longer side in pixels; None: as large as the image.
        """
        whole = read_rgb(self.folder / image.file_name)
        drawing = whole if side is None else fitted(whole, side)
        boxes = [box for box in self.content.boxes_of_image[image.id] if not box.iscrowd]
        truth = [_DrawnBox(box.category, box.bbox, None, box.segmentation) for box in boxes]
        size = whole.shape[:2]
        return self._draw(drawing, truth, size), self._draw(drawing, self.detections[str(image.id)], size)

    def _draw(self, image: np.ndarray, entries: Sequence[_DrawnBox], size: tuple[int, int]) -> np.ndarray:
        """The image, shrunk or not from ``size`` (height, width), with what is in it drawn on it."""
        boxes = np.array([entry.bbox for entry in entries], float).reshape(-1, 4)
        boxes *= max(image.shape[:2]) / max(size)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([self.names.index(entry.name) for entry in entries], int)
        scores = [entry.score for entry in entries if entry.score is not None]
        masks = [_pixels(entry.mask, size, image.shape[:2]) for entry in entries] if self.has_masks else None
        look = {"names": self.names, "palette": self.palette}
        return draw_boxes(image, boxes, labels, scores=scores or None, masks=masks, **look)


def pick_images(
    content: CocoFile, image_ids: Iterable[int | str] | None, *, ordered: bool = False
) -> list[CocoImage]:
    """The images with one of these ids (None: all), in the file's order, with ``ordered`` in the ids'.

    Raises:
        UserError: one of them has no file name.
    """
    chosen = None if image_ids is None else {str(as_id(key)): rank for rank, key in enumerate(image_ids)}
    images = [image for image in content.images if chosen is None or str(image.id) in chosen]
    if ordered and chosen is not None:
        images.sort(key=lambda image: chosen[str(image.id)])
    for image in images:
        if image.file_name is None:
            raise UserError(f"{content.source}: image {image.id} has no valid file_name to draw")
    return images


def _draw_chip(draw, text, box, color, fonts, size, taken) -> tuple[int, int, int, int]:
    """Draw a label near its box, within the image, clear of the chips ``taken``; returns its rectangle."""
    width, height = size
    x1, y1, x2, y2 = box
    # a box narrower than its label gets the smaller font: it probably has close neighbours
    font = fonts[fonts[0].getlength(text) > x2 - x1]
    pad = max(2, round(font.size / 5))
    text = font.shorten(text, width - 2 * pad)
    chip_w = math.ceil(font.getlength(text)) + 2 * pad
    chip_h = math.ceil(font.size) + 2 * (pad // 2) + 1
    # above the box, inside its top, inside its bottom, below it; then the same at its right end
    places = [(x, y) for x in (x1, x2 - chip_w) for y in (y1 - chip_h, y1, y2 - chip_h, y2)]
    rects = []
    for x, y in places:
        left = min(max(x, 0), max(0, width - chip_w))
        top = min(max(y, 0), max(0, height - chip_h))
        rects.append((left, top, left + chip_w - 1, top + chip_h - 1))
    rect = rects[int(_overlaps(rects, taken).argmin())]  # the first of equals
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    draw.rectangle(rect, fill=color)
    middle = (rect[1] + rect[3] + 1) / 2
    font.draw(draw, (rect[0] + pad, middle), text, fill=INK if luminance > 140 else (255, 255, 255))
    return rect


def _overlaps(rects: Sequence[tuple[int, ...]], taken: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The pixels that each of some rectangles (both corners included) shares with the others, summed up."""
    own, other = np.array(rects)[:, None], np.array(taken, int).reshape(1, -1, 4)
    sides = np.minimum(own[..., 2:], other[..., 2:]) - np.maximum(own[..., :2], other[..., :2]) + 1
    return np.maximum(sides, 0).prod(2).sum(1)
