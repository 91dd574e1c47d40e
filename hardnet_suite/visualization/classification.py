"""What a classifier takes for what, as an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hardnet_suite.visualization.detection import INK, PAPER, as_image, title_font

_NAMED = 40  # classes whose names and numbers have room
_BAR = (31, 78, 158)
_LEAST_WIDTH = 320  # pixels, so that names have room


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], path: str | Path) -> None:
    """Write an image (PNG, or what the suffix says): a row a true class, a column a guess, dark is often.

    Each row is in shares of its class's images. Up to 40 classes have their names, and the shares in
    percent; classes without images are left out where there are more.

    Args:
        confusion: (C, C) counts, row the true class, column the first guess.
        classes: C names.
        path: where to write; missing folders are made.

    Raises:
        ValueError: other shapes.
    """
    from matplotlib.figure import Figure  # a Figure of its own draws with Agg and leaves pyplot alone

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
    side = 3.0 + 0.42 * count if named else 9.0
    figure = Figure(figsize=(side + 1, side), dpi=130, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's images")
    axes.set(xlabel="taken for", ylabel="true class")
    if named:
        axes.set_xticks(range(count), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), classes)
        for row, column in zip(*np.nonzero(confusion), strict=True):
            color = "white" if shares[row, column] > 0.55 else "#333333"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_guesses(image: np.ndarray, names: Sequence[str], scores: np.ndarray) -> np.ndarray:
    """The image, and below it a line a guess: its name, a bar as long as its probability, and percents.

    Args:
        image: (H, W, 3) uint8, RGB; a narrow one gets room at its sides.
        names: (K,) of the guesses, best first.
        scores: (K,) probabilities, 0 to 1.

    Returns:
        (H', W', 3) uint8, RGB.

    Raises:
        ValueError: an image of another shape or type, or not as many names as scores.
    """
    image = as_image(image)
    if len(names) != len(scores):
        raise ValueError(f"as many names as scores are needed, got {len(names)} and {len(scores)}")
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
        while len(name) > 4 and font.getlength(name) > left - 2 * margin:
            name = name[:-2].rstrip(" …") + "…"
        draw.text((margin, middle), name, fill=INK, font=font, anchor="lm")
        end = left + (right - left) * min(max(float(score), 0.0), 1.0)
        draw.rectangle((left, middle - line / 4, right, middle + line / 4), fill=(228, 228, 228))
        draw.rectangle((left, middle - line / 4, end, middle + line / 4), fill=_BAR)
        draw.text((wide - margin, middle), f"{100 * score:.1f} %", fill=INK, font=font, anchor="rm")
    return np.array(canvas)
