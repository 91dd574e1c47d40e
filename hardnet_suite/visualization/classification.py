"""What a classifier takes for what, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

_NAMED = 40  # classes whose names and numbers have room


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], path: str | Path) -> None:
    """Write a picture (PNG, or what the suffix says): a row a true class, a column a guess, dark is often.

    Each row is in shares of its class's pictures. Up to 40 classes have their names, and the shares in
    percent; classes without pictures are left out where there are more.

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
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class's pictures")
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
