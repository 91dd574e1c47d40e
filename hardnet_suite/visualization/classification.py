"""Drawings of classifications: the confusion matrix, and the guesses below an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hardnet_suite.data.report import counted
from hardnet_suite.visualization.canvas import (
    INK,
    PAPER,
    as_image,
    captioned,
    fitted,
    free_path,
    ranked_name,
    save_figure,
    save_image,
    sheet,
    title_font,
)
from hardnet_suite.visualization.fonts import chart_name, matplotlib_style

CONFUSION = "confusion.png"  # the usual name
_NUMBERED, _NAMED = 40, 120  # the most classes for which numbers fit, and names
_BAR = (31, 78, 158)
_CELL = 420  # pixels of the longer side of an image on a sheet
_DRAWN = 512  # pixels of the longer side of one that is drawn alone
_LEAST_WIDTH = 320  # pixels, so that names have room


def draw_confusion(
    confusion: np.ndarray,
    classes: Sequence[str],
    path: str | Path,
    *,
    unit: str = "images",
    title: str = "",
) -> None:
    """Write the confusion matrix as an image: one row per true class, one column per guess; dark is frequent.

    Each row shows shares of its class. Percentages from 1 are added with up to 40 classes; the names, and how
    many there are of each class, with up to 120. With more than 40, classes that do not occur are omitted,
    and shades follow the square root.

    Args:
        confusion: (C, C) counts; the row is the true class, the column the first guess.
        classes: C names, in any script; long ones are cut.
        path: the file, in the format of its suffix; missing folders are created.
        unit: what is counted.
        title: a heading, in any script.

    Raises:
        ValueError: other shapes.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure  # draws with Agg, without pyplot's global state

    confusion = np.asarray(confusion)
    count = len(classes)
    if confusion.shape != (count, count) or not count:
        raise ValueError(
            f"confusion must be ({count}, {count}) for {counted(count, 'class')}, got {confusion.shape}"
        )
    if count > _NUMBERED:
        shown = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
        confusion, classes = confusion[np.ix_(shown, shown)], [classes[index] for index in shown]
        count = len(classes)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    numbered, named = count <= _NUMBERED, count <= _NAMED
    names = [chart_name(name) for name in classes] if named else []
    totals = [
        f"{name}  ({_count(number)})" for name, number in zip(names, confusion.sum(axis=1), strict=False)
    ]
    cell = 0.42 if numbered else 0.17
    side = 2.6 + cell * count + 0.06 * max(map(len, names), default=0) if named else 9.0
    figure = Figure(figsize=(side + 1, side), dpi=130, layout="constrained")
    axes = figure.subplots()
    norm = PowerNorm(1 if numbered else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02, label=f"share of the class's {unit}")
    axes.set(xlabel="taken for", ylabel="true class")
    if named:
        styles = [matplotlib_style(name, 10 if numbered else 7) for name in (*names, *totals)]
        texts = [style.pop("text") for style in styles]
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if numbered else {"rotation": 90}
        axes.set_xticks(range(count), texts[:count], **slant)
        axes.set_yticks(range(count), texts[count:])
        if not numbered:  # lines to follow a row by
            axes.set_xticks(np.arange(0.5, count - 1), minor=True)
            axes.set_yticks(np.arange(0.5, count - 1), minor=True)
            axes.grid(which="minor", color="#e4e4e4", linewidth=0.4)
            axes.tick_params(which="minor", length=0)
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels()]
        for label, style in zip(labels, styles, strict=True):
            label.set(**style)
        for row, column in zip(*np.nonzero(shares >= 0.005), strict=True) if numbered else ():
            color = "white" if shares[row, column] > 0.55 else "#333333"
            text = f"{100 * shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    if title:
        figure.suptitle("").set(**matplotlib_style(title, 11))
    save_figure(figure, path)


def _count(number: int) -> str:
    """A count in three or four digits, such as 950, 12.3k, 4.56M."""
    for factor, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= 10 * factor or (number >= factor and factor > 1_000):
            return f"{number / factor:.3g}{letter}"
    return str(number)


def draw_worst_guesses(
    images: Iterable[np.ndarray], captions: Sequence[Sequence[str]], path: str | Path
) -> None:
    """Draw images on one sheet, three in a row, each above its caption.

    Args:
        images: (H, W, 3) uint8, RGB; at least one.
        captions: the lines below each.
        path: the file, in the format of its suffix; missing folders are created.

    Raises:
        UserError: the file cannot be written.
    """
    cells = [
        captioned(_squared(fitted(image, _CELL)), lines)
        for image, lines in zip(images, captions, strict=True)
    ]
    save_image(Path(path), sheet(cells))


@dataclass(frozen=True)
class GuessResult:
    """A classified image, (H, W, 3) uint8 RGB, its guesses, best first, their probabilities, and class."""

    name: str
    image: np.ndarray
    guesses: Sequence[str]
    scores: Sequence[float]
    true_class: str


def draw_guess_results(
    results: Iterable[GuessResult], out_folder: str | Path, *, ranks: int | None = None
) -> int:
    """Draw each image above its true class and its guesses, the right one marked.

    One image at a time is in memory. ``sub/a.png`` is drawn into ``out_folder/a.jpg``, or into the first of
    ``a_2.jpg``, ``a_3.jpg`` … that is free. The folder is created if missing.

    Args:
        results: of ``test``.
        out_folder: the folder of the drawings.
        ranks: the number of images, to put the place of each in front of its name, as in ``001_a.jpg``.

    Returns:
        The number of files written.

    Raises:
        UserError: the folder cannot be written.
    """
    count, numbers = 0, {}
    for result in results:
        count += 1
        names = [f"{name} (true)" if name == result.true_class else name for name in result.guesses]
        drawing = draw_guesses(fitted(result.image, _DRAWN), names, np.array(result.scores))
        name = ranked_name(f"{Path(result.name).stem}.jpg", None if ranks is None else count, ranks or 0)
        save_image(
            free_path(Path(out_folder, name), numbers),
            captioned(drawing, [f"true class {result.true_class}"]),
        )
    return count


def _squared(image: np.ndarray) -> np.ndarray:
    """The image in the middle of a square of its longer side, so that all captions are at one height."""
    height, width = image.shape[:2]
    side = max(height, width)
    canvas = np.full((side, side, 3), PAPER, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


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
