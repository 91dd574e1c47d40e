"""Images of detections: boxes with label chips, pairs, contact sheets, a folder of a whole test."""

from __future__ import annotations

import colorsys
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hardnet_suite.data.coco import CocoFile, CocoImage, as_id, read_coco
from hardnet_suite.data.coco.values import match_id
from hardnet_suite.data.images import open_rgb
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import load_results

Color = tuple[int, int, int]

INK: Color = (28, 30, 34)
PAPER: Color = (245, 245, 242)
_GAP = 6  # pixels between images


def class_color(index: int) -> Color:
    """The RGB colour (0–255) of a class: the same in every image, neighbours far apart in hue."""
    hue = (0.02 + index * (math.sqrt(5) - 1) / 2) % 1  # the golden ratio never comes round to a used hue
    value, saturation = ((0.98, 0.78), (0.80, 0.90), (1.0, 0.52))[index % 3]
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    scores: np.ndarray | None = None,
    palette: Sequence[Color] | None = None,
) -> np.ndarray:
    """A copy of an image with boxes and their labels ("dog 0.87") drawn on it.

    A box with swapped corners, as an untrained network may give, is drawn as the rectangle they span.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (K, 4) corners x1, y1, x2, y2 in pixels; K may be 0, what lies outside the image is cut.
        labels: (K,) class indices into ``names``.
        names: the class names.
        scores: (K,) confidences, shown with two digits; None shows the names alone.
        palette: an RGB colour (0–255) a class; None takes ``class_color``.

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

    height, width = image.shape[:2]
    side = math.sqrt(height * width)
    line = max(1, round(side / 200))
    fonts = [ImageFont.load_default(size=max(9, round(side / part))) for part in (36, 46)]
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)

    corners = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1
    )
    visible = (corners[:, 2:] > 0).all(1) & (corners[:, :2] < [width, height]).all(1)
    corners = corners.clip(0, [width - 1, height - 1] * 2).round().astype(int)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    order = [k for k in np.argsort(-areas, kind="stable").tolist() if visible[k]]  # small ones on top
    colors = [class_color(label) if palette is None else tuple(palette[label]) for label in labels.tolist()]

    for k in order:
        x1, y1, x2, y2 = corners[k].tolist()
        # a dark rim keeps the line visible on ground of its own colour
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=INK, width=line + 2)
        draw.rectangle((x1, y1, x2, y2), outline=colors[k], width=line)

    taken: list[tuple[int, int, int, int]] = []
    for k in reversed(order):  # the smallest boxes choose their place first
        name = names[labels[k]]
        text = name if scores is None else f"{name} {scores[k]:.2f}"
        taken.append(_draw_chip(draw, text, corners[k].tolist(), colors[k], fonts, (width, height), taken))
    return np.array(canvas)


def beside(*images: np.ndarray, titles: Sequence[str] = ("ground truth", "prediction")) -> np.ndarray:
    """Images (H, W, 3) uint8 side by side, each under its title; titles wider than they are make room.

    Raises:
        ValueError: an image of another shape or type, or not one title an image.
    """
    images = [as_image(image) for image in images]
    if not len(images) == len(titles) > 0:
        raise ValueError(f"beside needs one title an image, got {len(images)} and {len(titles)}")
    font = title_font(images[0])
    bar = round(2 * font.size)
    titled = []
    for image, title in zip(images, titles, strict=True):
        height, width = image.shape[:2]
        cell = max(width, math.ceil(font.getlength(title)))
        canvas = Image.new("RGB", (cell, height + bar), PAPER)
        canvas.paste(Image.fromarray(image), ((cell - width) // 2, bar))
        ImageDraw.Draw(canvas).text((cell / 2, bar / 2), title, fill=INK, font=font, anchor="mm")
        titled.append(np.array(canvas))
    return grid(titled, len(titled))


def title_font(image: np.ndarray) -> ImageFont.FreeTypeFont:
    """The font of titles and legends of an image (H, W, 3), grown with it so that it reads when shrunk."""
    return ImageFont.load_default(size=max(11, round(math.sqrt(image.shape[0] * image.shape[1]) / 28)))


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """A contact sheet, row by row: every image (H, W, 3) uint8 in the middle of a cell of the largest size.

    Raises:
        ValueError: no images, fewer than one column, or an image of another shape or type.
    """
    if not len(images) or columns < 1:
        raise ValueError(f"grid needs images and at least 1 column, got {len(images)} and {columns}")
    drawings = [as_image(image) for image in images]
    columns = min(columns, len(drawings))
    rows = math.ceil(len(drawings) / columns)
    cell_h = max(drawing.shape[0] for drawing in drawings)
    cell_w = max(drawing.shape[1] for drawing in drawings)
    shape = (rows * (cell_h + _GAP) - _GAP, columns * (cell_w + _GAP) - _GAP, 3)
    sheet = np.full(shape, PAPER, np.uint8)
    for index, drawing in enumerate(drawings):
        row, column = divmod(index, columns)
        top = row * (cell_h + _GAP) + (cell_h - drawing.shape[0]) // 2
        left = column * (cell_w + _GAP) + (cell_w - drawing.shape[1]) // 2
        sheet[top : top + drawing.shape[0], left : left + drawing.shape[1]] = drawing
    return sheet


def draw_results(
    annotation_file: str | Path,
    results_file: str | Path,
    image_folder: str | Path,
    out_dir: str | Path,
    *,
    image_ids: Iterable[int | str] | None = None,
    least_score: float = 0.3,
) -> int:
    """Draw each image of a COCO annotation file twice, ground truth beside detections; returns how many.

    One image at a time is held. Each becomes ``out_dir/STEM.jpg``, see ``drawing_stems``; missing folders
    are made. Crowd regions are left out, as no detection is asked of them.

    Args:
        annotation_file: COCO annotations.
        results_file: detections in COCO result format.
        image_folder: what the annotations' ``file_name`` entries are relative to.
        out_dir: where to write.
        image_ids: draw these images only (None: all).
        least_score: detections below it are not drawn.

    Raises:
        UserError: a file is missing or malformed, files that do not belong together, a broken image, or a
            folder that cannot be written.
    """
    content = read_coco(annotation_file).require()
    images = pick_images(content, image_ids)
    names = list(content.category_ids)
    texts = {str(key): name for name, key in content.category_ids.items()}
    detections: defaultdict[str, list[tuple[str, Sequence[float], float]]] = defaultdict(list)
    for entry in load_results(results_file):
        name = match_id(entry["category_id"], texts)
        if name is None:
            raise UserError(
                f"{results_file} has category_id {entry['category_id']}, which {annotation_file} does not "
                "have: do results and annotations belong together?"
            )
        if entry["score"] >= least_score:
            detections[str(as_id(entry["image_id"]))].append((name, entry["bbox"], entry["score"]))
    for image, stem in zip(images, drawing_stems(images), strict=True):
        drawing = read_rgb(Path(image_folder, image.file_name))
        boxes = [box for box in content.boxes_of_image[image.id] if not box.iscrowd]
        truth = [(box.category, box.bbox, None) for box in boxes]
        left = _draw_entries(drawing, truth, names)
        right = _draw_entries(drawing, detections[str(image.id)], names)
        save_image(Path(out_dir, f"{stem}.jpg"), beside(left, right))
    return len(images)


def pick_images(content: CocoFile, image_ids: Iterable[int | str] | None) -> list[CocoImage]:
    """The images with one of these ids (None: all), in the file's order.

    Raises:
        UserError: one of them has no file name.
    """
    chosen = None if image_ids is None else {str(as_id(key)) for key in image_ids}
    images = [image for image in content.images if chosen is None or str(image.id) in chosen]
    for image in images:
        if image.file_name is None:
            raise UserError(f"{content.source}: image {image.id} has no valid file_name to draw")
    return images


def drawing_stems(images: Sequence[CocoImage]) -> list[str]:
    """Distinct names for drawings of images, without suffix: the stem of ``file_name``.

    Images that share it get the folders of ``file_name`` too, then its suffix ("1.jpg" beside "1.png"), then
    their position.
    """
    files = [Path(image.file_name) for image in images]
    folders = [[part for part in file.parent.parts if part not in ("..", file.anchor)] for file in files]
    longer = zip(
        (file.stem for file in files),
        ("/".join([*parts, file.stem]) for parts, file in zip(folders, files, strict=True)),
        ("/".join([*parts, file.name]) for parts, file in zip(folders, files, strict=True)),
        (f"{file.name}_{index}" for index, file in enumerate(files)),
        strict=True,
    )
    candidates = list(longer)
    counts = Counter(name.casefold() for names in candidates for name in dict.fromkeys(names))
    return [next((name for name in names if counts[name.casefold()] == 1), names[-1]) for names in candidates]


def read_rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, turned as its EXIF tag says: so the boxes lie, as OpenCV obeys it in training.

    Raises:
        UserError: no such file, or it cannot be decoded.
    """
    return np.array(open_rgb(path))


def save_image(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8 RGB in the format of the suffix; missing folders are made.

    Raises:
        UserError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # JPEG with full-size colour channels, or thin lines would lose their hue; PNG takes no heed of it
        Image.fromarray(image).save(path, quality=92, subsampling=0)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; choose another folder") from None


def as_image(image: np.ndarray) -> np.ndarray:
    """``image`` as a contiguous array; ValueError unless it is (H, W, 3) uint8 with H, W >= 1."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"an image must be (H, W, 3) uint8, got shape {image.shape} of {image.dtype}")
    return np.ascontiguousarray(image)


def _draw_entries(
    image: np.ndarray, entries: Sequence[tuple[str, Sequence[float], float | None]], names: list[str]
) -> np.ndarray:
    """The image with (class name, (x, y, width, height), score or None) drawn on it."""
    boxes = np.array([box for _, box, _ in entries], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([names.index(name) for name, _, _ in entries], int)
    scores = [score for _, _, score in entries if score is not None]
    return draw_boxes(image, boxes, labels, names=names, scores=scores or None)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """``text``, cut with an ellipsis where it is wider than ``width`` pixels."""
    short = text
    while short and font.getlength(short if short == text else short + "…") > width:
        short = short[:-1]
    return short if short == text else short + "…"


def _draw_chip(draw, text, box, color, fonts, size, taken) -> tuple[int, int, int, int]:
    """Draw a label near its box, within the image, off the chips already ``taken``; returns its place."""
    width, height = size
    x1, y1, x2, y2 = box
    # a box narrower than its label gets the smaller font: it has likely neighbours to leave room to
    font = fonts[fonts[0].getlength(text) > x2 - x1]
    pad = max(2, round(font.size / 5))
    text = _shorten(text, font, width - 2 * pad)
    chip_w = math.ceil(font.getlength(text)) + 2 * pad
    chip_h = math.ceil(font.size) + 2 * (pad // 2) + 1
    # above the box, inside its top, inside its bottom, below it; then the same at its right end
    places = [(x, y) for x in (x1, x2 - chip_w) for y in (y1 - chip_h, y1, y2 - chip_h, y2)]
    rects = []
    for x, y in places:
        left = min(max(x, 0), max(0, width - chip_w))
        top = min(max(y, 0), max(0, height - chip_h))
        rects.append((left, top, left + chip_w - 1, top + chip_h - 1))
    rect = min(rects, key=lambda rect: sum(_overlap(rect, other) for other in taken))  # the first of equals
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    draw.rectangle(rect, fill=color)
    middle = (rect[1] + rect[3] + 1) / 2
    draw.text(
        (rect[0] + pad, middle),
        text,
        fill=INK if luminance > 140 else (255, 255, 255),
        font=font,
        anchor="lm",
    )
    return rect


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> int:
    """The pixels that two rectangles (both corners included) share."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(0, width) * max(0, height)
