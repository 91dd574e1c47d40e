"""Drawings of classifications: the confusion matrix, and the guesses below an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hardnet_suite.visualization.canvas import INK, PAPER, as_image, save_figure, title_font
from hardnet_suite.visualization.fonts import drawable, matplotlib_style

_NAMED = 40  # the most classes for which names and numbers fit
_NAME = 32  # the most characters of a name beside the matrix
_BAR = (31, 78, 158)
_LEAST_WIDTH = 320  # pixels, so that names have room


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], path: str | Path) -> None:
    """Write the confusion matrix as an image: one row per true class, one column per guess; dark is frequent.

    Each row shows shares of its class's images. With up to 40 classes, names and percentages are added;
    with more, classes that do not occur are omitted.

    Args:
        confusion: (C, C) counts; the row is the true class, the column the first guess.
        classes: C names, in any script; long ones are cut.
        path: the file, in the format of its suffix; missing folders are created.

    Raises:
        ValueError: other shapes.
    """
    from matplotlib.figure import Figure  # draws with Agg, without pyplot's global state

    confusion = np.asarray(confusion)
    count = len(classes)
    if confusion.shape != (count, count) or not count:
        raise ValueError(f"confusion must be ({count}, {count}) for {count} classes, got {confusion.shape}")
    if count > _NAMED:
        shown = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
        confusion, classes = confusion[np.ix_(shown, shown)], [classes[index] for index in shown]
        count = len(classes)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    named = count <= _NAMED
    names = [_cut(name) for name in classes] if named else []
    side = 2.6 + 0.42 * count + 0.06 * max(map(len, names)) if named else 9.0
    figure = Figure(figsize=(side + 1, side), dpi=130, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's images")
    axes.set(xlabel="taken for", ylabel="true class")
    if named:
        styles = [matplotlib_style(name, 10) for name in names]
        texts = [style.pop("text") for style in styles]
        axes.set_xticks(range(count), texts, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), texts)
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        for label, style in zip(labels, [*styles, *styles], strict=True):
            label.set(**style)
        for row, column in zip(*np.nonzero(confusion), strict=True):
            color = "white" if shares[row, column] > 0.55 else "#333333"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    save_figure(figure, path)


def _cut(name: str) -> str:
    """A class name as it is drawn, cut with an ellipsis."""
    name = drawable(name)
    return name if len(name) <= _NAME else name[: _NAME - 1].rstrip() + "…"


def draw_guesses(image: np.ndarray, names: Sequence[str], scores: np.ndarray) -> np.ndarray:
    """The image, and below it one line per guess: its name, a bar for its probability, and the percentage.

    Args:
        image: (H, W, 3) uint8, RGB; a narrow one is padded at its sides.
        names: (K,) names of the guesses, best first, in any script.
        scores: (K,) probabilities, 0 to 1.

    Returns:
        (H', W', 3) uint8, RGB.

    Raises:
        ValueError: an image of another shape or type, or a number of names that differs from that of scores.
    """
    image = as_image(image)
    if len(names) != len(scores):
        raise ValueError(f"expected as many names as scores, got {len(names)} and {len(scores)}")
    height, width = image.shape[:2]
    wide = max(width, _LEAST_WIDTH)
    font = title_font(np.zeros((wide, wide, 3), np.uint8))
    line, margin = round(1.8 * font.size), round(0.6 * font.size)
    canvas = Image.new("RGB", (wide, height + line * len(names) + margin * bool(len(names))), PAPER)
    canvas.paste(Image.fromarray(image), ((wide - width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    left, right = round(0.52 * wide), round(0.84 * wide)
    for number, (name, score) in enumerate(zip(names, scores, strict=True)):
        middle = height + margin // 2 + line * (number + 0.5)
        font.draw(draw, (margin, middle), font.shorten(name, left - 2 * margin), fill=INK)
        end = left + (right - left) * min(max(float(score), 0.0), 1.0)
        draw.rectangle((left, middle - line / 4, right, middle + line / 4), fill=(228, 228, 228))
        draw.rectangle((left, middle - line / 4, end, middle + line / 4), fill=_BAR)
        font.draw(draw, (wide - margin, middle), f"{100 * score:.1f} %", fill=INK, anchor="r")
    return np.array(canvas)
