"""Drawings of segmentations: tints with a legend, error maps, and strips for a test set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hardnet_suite.data.segmentation import IGNORE, LabelSet, labels_of, predicted_as, read_label
from hardnet_suite.errors import UserError
from hardnet_suite.visualization.canvas import (
    Color,
    as_image,
    beside,
    captioned,
    fitted,
    free_path,
    ranked_name,
    read_rgb,
    resized,
    save_image,
    sheet,
    title_font,
    with_corner_text,
    with_legend,
)
from hardnet_suite.visualization.fonts import Font

# an image, its label file or None, and the prediction: train labels, or a label image of them
Pair = tuple[str | Path, str | Path | None, np.ndarray | str | Path]

_CELL = 480  # pixels of the longer side of an image on a sheet
_NEAREST = Image.Resampling.NEAREST
_OUTLINE: Color = (255, 255, 255)
_OUTLINE_OPACITY = 0.6  # of the opacity of the tint: at full strength the lines drown small regions
_WRONG: Color = (255, 24, 40)
_WRONG_OPACITY = 0.8  # the image stays visible underneath
_RIGHT_BLACK, _RIGHT_WHITE = 28, 165  # what black and white of the image become: dimmed, dark scenes visible
_HATCH: tuple[Color, Color] = ((0, 0, 0), (52, 54, 58))


def colorize(labels: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Labels as colours; ``IGNORE`` (255) is black.

    Args:
        labels: (H, W) integers, classes in [0, len(palette)) or 255.
        palette: one RGB colour (0–255) per class, at most 255 of them.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: labels or a palette of another shape or type, or a label without a colour.
    """
    colors = np.asarray(palette)
    if colors.ndim != 2 or colors.shape[1] != 3 or len(colors) > IGNORE:
        raise ValueError(f"the palette must be (C, 3) with C in 1 to {IGNORE}, got shape {colors.shape}")
    if not np.issubdtype(colors.dtype, np.integer) or colors.min() < 0 or colors.max() > 255:
        raise ValueError(f"the palette must hold integers in [0, 255], got {palette}")
    labels = _as_labels(labels)
    unknown = np.setdiff1d(labels, [*range(len(colors)), IGNORE])
    if unknown.size:
        raise ValueError(f"labels must lie in [0, {len(colors)}) or be {IGNORE}, got {unknown[:10].tolist()}")
    table = np.zeros((IGNORE + 1, 3), np.uint8)
    table[: len(colors)] = colors
    return table[labels]


def overlay_labels(
    image: np.ndarray,
    labels: np.ndarray,
    palette: Sequence[Color],
    *,
    opacity: float = 0.55,
    names: Sequence[str] | None = None,
    outline: bool = True,
    regions: np.ndarray | None = None,
) -> np.ndarray:
    """The image tinted by class, with thin light lines between regions; ignored pixels are unchanged.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) integers, classes in [0, len(palette)) or 255 (ignored).
        palette: one RGB colour (0–255) per class.
        opacity: of the tint, in [0, 1]; 1 hides the image, 0 leaves it unchanged.
        names: the class names, in any script; with them, a legend of the classes that appear is added below.
        outline: whether to draw the lines.
        regions: (H, W) integers: lines are drawn between these, too, such as instances of one class.

    Returns:
        (H, W, 3) uint8, RGB; higher by the legend, and wider where the image is narrower than a name.

    Raises:
        ValueError: other shapes or types, sizes that differ, a label without a colour, a number of names that
            differs from that of colours, or an opacity outside [0, 1].
    """
    image, labels = as_image(image), _as_labels(labels)
    _same_size(image, labels=labels)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")
    _require_name_per_color(names, palette)

    ground = image.astype(np.float32)
    ground += opacity * (_grey(image) - ground)  # the image's colours would change the hue of the tint
    drawn = ground + opacity * (colorize(labels, palette) - ground)
    if outline:
        edges = _edges(labels) if regions is None else _edges(labels) | _edges(regions)
        drawn[edges] += _OUTLINE_OPACITY * opacity * (_OUTLINE - drawn[edges])
    drawn = np.where((labels == IGNORE)[..., None], image, np.rint(drawn).astype(np.uint8))
    return drawn if names is None else _with_legend(drawn, [labels], palette, names, title_font(image))


def error_map(
    image: np.ndarray, target: np.ndarray, prediction: np.ndarray, *, ignore: int = IGNORE
) -> np.ndarray:
    """Wrong pixels in red, right ones as the dimmed grey image, ignored ones hatched in black.

    The pixel accuracy among those not ignored is written into the lower left corner if it fits,
    rounded down: "100.0 %" means every pixel.

    Args:
        image: (H, W, 3) uint8, RGB.
        target: (H, W) integers, the ground truth.
        prediction: (H, W) integers.
        ignore: the target value of pixels that are not scored.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: other shapes or types, or sizes that differ.
    """
    image, target, prediction = as_image(image), _as_labels(target), _as_labels(prediction)
    _same_size(image, target=target, prediction=prediction)
    counted = target != ignore
    wrong = counted & (target != prediction)

    dimmed = _RIGHT_BLACK + (_RIGHT_WHITE - _RIGHT_BLACK) / 255 * _grey(image)
    drawn = np.repeat(dimmed, 3, axis=2)
    drawn[wrong] += _WRONG_OPACITY * (_WRONG - drawn[wrong])
    height, width = target.shape
    stripes = (np.arange(height)[:, None] + np.arange(width)) % 8 < 2  # diagonal
    drawn[~counted] = np.asarray(_HATCH)[stripes[~counted].astype(int)]

    total = int(counted.sum())
    right = total - int(wrong.sum())
    share = f"{1000 * right // total / 10:.1f} % right" if total else "nothing labelled"
    return with_corner_text(np.rint(drawn).astype(np.uint8), share)


def overlay_with_legend(
    image: np.ndarray, labels: np.ndarray, palette: Sequence[Color], names: Sequence[str]
) -> np.ndarray:
    """``overlay_labels`` above the colours and names of the classes in it.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) integers, classes in [0, len(palette)) or 255 (left untinted).
        palette: one RGB colour (0–255) per class.
        names: one name per class.

    Raises:
        ValueError: other shapes, or a number of names that differs from that of colours.
    """
    _require_name_per_color(names, palette)
    image = as_image(image)
    tinted = overlay_labels(image, labels, palette)
    return _with_legend(tinted, [np.asarray(labels)], palette, names, title_font(image))


def strip(
    image: np.ndarray,
    target: np.ndarray | None,
    prediction: np.ndarray,
    palette: Sequence[Color],
    names: Sequence[str],
) -> np.ndarray:
    """Image, ground truth, prediction and errors in a row under titles, the legend below.

    Without a target, image and prediction alone.

    Args:
        image: (H, W, 3) uint8, RGB.
        target: (H, W) integers, classes in [0, len(palette)) or 255 (ignored); or None. Where there is one
            class, 1 is a pixel that is not of it.
        prediction: as the target; with one class, 255 is a pixel that is not of it.
        palette: one RGB colour (0–255) per class.
        names: the class names.

    Returns:
        (H', W', 3) uint8, RGB.

    Raises:
        ValueError: as ``overlay_labels`` and ``error_map``.
    """
    labels = LabelSet("", tuple(names), tuple(palette))
    if target is None:
        return _tinted_row(image, {"prediction": labels.hide_background(prediction)}, palette, names)
    errors = error_map(image, target, labels.show_background(prediction))
    target, prediction = labels.hide_background(target), labels.hide_background(prediction)
    return _tinted_row(
        image, {"ground truth": target, "prediction": prediction}, palette, names, {"errors": errors}
    )


def segments_strip(
    image: np.ndarray,
    segmentations: Mapping[str, tuple[np.ndarray, Mapping[int, int]]],
    palette: Sequence[Color],
    names: Sequence[str],
) -> np.ndarray:
    """The image and its segmentations in a row under titles, tinted by class, with lines between segments.

    Args:
        image: (H, W, 3) uint8, RGB.
        segmentations: title -> (H, W) ids of segments, and their labels by id; others are left untinted.
        palette: one RGB colour (0–255) per class, at most 255 of them.
        names: the class names.

    Returns:
        (H', W', 3) uint8, RGB, with a legend below.
    """
    labellings, regions = {}, {}
    for title, (ids, labels) in segmentations.items():
        labellings[title] = np.full(ids.shape, IGNORE)
        for key, label in labels.items():
            labellings[title][ids == key] = label
        regions[title] = np.where(labellings[title] == IGNORE, IGNORE, ids + IGNORE + 1)
    return _tinted_row(image, labellings, palette, names, regions=regions)


def before_after(
    image: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    palette: Sequence[Color],
    names: Sequence[str],
) -> np.ndarray:
    """Image and two predictions in a row under the titles "before" and "after", the legend below.

    Args:
        image: (H, W, 3) uint8, RGB.
        before: (H, W) integers, classes in [0, len(palette)) or 255 (left untinted).
        after: as ``before``.
        palette: one RGB colour (0–255) per class.
        names: the class names.

    Returns:
        (H', W', 3) uint8, RGB.

    Raises:
        ValueError: as ``overlay_labels``.
    """
    return _tinted_row(image, {"before": before, "after": after}, palette, names)


def draw_segmentation_results(
    pairs: Iterable[Pair], labels: LabelSet, out_folder: str | Path, *, ranks: int | None = None
) -> int:
    """Draw the ``strip`` of each image.

    One image at a time is in memory. ``sub/a.png`` is drawn into ``out_folder/a.jpg``, or into the first of
    ``a_2.jpg``, ``a_3.jpg`` … that is free: every image has its own file and no file is overwritten. The
    folder is created if missing.

    Args:
        pairs: for each image its file, its label file or None, and the prediction: an (H, W) array of train
            labels, or a label image of them.
        labels: the meaning of the values in label files, the names and colours of the classes.
        out_folder: the folder of the drawings.
        ranks: the number of images, to put the place of each in front of its name, as in ``001_a.jpg``.

    Returns:
        The number of files written.

    Raises:
        UserError: a file is missing or broken, a label or prediction differs from its image in size, or the
            folder cannot be written.
        ValueError: an array with labels that the label set does not have.
    """
    count, numbers = 0, {}
    for pair in pairs:
        count += 1
        drawing = strip(*_read_pair(pair, labels), labels.palette, labels.classes)
        name = ranked_name(f"{Path(pair[0]).stem}.jpg", None if ranks is None else count, ranks or 0)
        save_image(free_path(Path(out_folder, name), numbers), drawing)
    return count


def draw_worst_segmentations(
    pairs: Iterable[Pair], captions: Sequence[Sequence[str]], labels: LabelSet, path: str | Path
) -> None:
    """Draw labelled images on one sheet, three in a row, each as ground truth beside prediction.

    Args:
        pairs: as of ``draw_segmentation_results``, each with its label file; at least one.
        captions: the lines below each.
        labels: as of ``draw_segmentation_results``.
        path: the file, in the format of its suffix; missing folders are created.

    Raises:
        UserError: as ``draw_segmentation_results``.
    """
    cells, shown = [], []
    for pair, lines in zip(pairs, captions, strict=True):
        image, *maps = _read_pair(pair, labels)
        scale = _CELL / max(image.shape[:2])
        # nearest: a mean of two labels is a third
        maps = [resized(labels.hide_background(each).astype(np.uint8), scale, _NEAREST) for each in maps]
        shown += maps
        image = fitted(image, _CELL)
        tinted = [overlay_labels(image, each, labels.palette) for each in maps]
        cells.append(captioned(beside(*tinted), lines))
    save_image(Path(path), _with_legend(sheet(cells), shown, labels.palette, labels.classes, Font(22)))


def _read_pair(pair: Pair, labels: LabelSet) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The image, its train labels if it has some, and the predicted ones, all of one size."""
    image_path, label_path, prediction = pair
    image = read_rgb(Path(image_path))
    target = None if label_path is None else read_label(label_path, labels_of(label_path, labels))
    source = "the prediction"
    if isinstance(prediction, str | Path):
        source = f"the prediction {prediction}"
        prediction = read_label(prediction, predicted_as(labels))
    for name, array in ((f"the label {label_path}", target), (source, prediction)):
        if array is not None and np.shape(array) != image.shape[:2]:
            raise UserError(
                f"{name} has shape {np.shape(array)} (height, width), but its image {image_path} "
                f"has {image.shape[:2]}: they must be of one size"
            )
    return image, target, prediction


def _as_labels(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 2 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be (H, W) integers, got shape {labels.shape} of {labels.dtype}")
    return labels


def _same_size(image: np.ndarray, **labels: np.ndarray) -> None:
    for name, array in labels.items():
        if array.shape != image.shape[:2]:
            raise ValueError(
                f"image and {name} must be of one size, got (height, width) {image.shape[:2]} "
                f"and {array.shape}"
            )


def _require_name_per_color(names: Sequence[str] | None, palette: Sequence[Color]) -> None:
    if names is not None and len(names) != len(palette):
        raise ValueError(f"names and palette must be of one length, got {len(names)} and {len(palette)}")


def _grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 1) float32 in [0, 255]."""
    return np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]


def _edges(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: lines one pixel wide between regions and around ignored ones."""
    edges = np.zeros(labels.shape, bool)
    for values, marks in ((labels, edges), (labels.T, edges.T)):
        differ = values[:-1] != values[1:]
        marks[:-1] |= differ
        marks[1:] |= differ & (values[:-1] == IGNORE)  # lines are not drawn on ignored pixels
    return edges


def _tinted_row(
    image: np.ndarray,
    labellings: dict[str, np.ndarray],
    palette: Sequence[Color],
    names: Sequence[str],
    further: dict[str, np.ndarray] | None = None,
    regions: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """The image, its tint by each labelling and further images in a row above the legend; keys are titles."""
    _require_name_per_color(names, palette)
    panels = {"image": image}
    panels |= {
        title: overlay_labels(image, labels, palette, regions=(regions or {}).get(title))
        for title, labels in labellings.items()
    }
    panels |= further or {}
    row = beside(*panels.values(), titles=list(panels))
    return _with_legend(row, list(labellings.values()), palette, names, title_font(image))


def _with_legend(
    image: np.ndarray,
    labellings: Sequence[np.ndarray],
    palette: Sequence[Color],
    names: Sequence[str],
    font: Font,
) -> np.ndarray:
    """The image above the colours and names of the classes in the labellings."""
    classes = sorted({index for labels in labellings for index in np.unique(labels).tolist()} - {IGNORE})
    return with_legend(image, [(tuple(palette[index]), names[index]) for index in classes], font)
