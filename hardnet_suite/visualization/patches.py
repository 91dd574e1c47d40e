"""Drawings of patches: pairs with their distance, and how far apart those of one point and of two are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hardnet_suite.visualization.canvas import PAPER, captioned, fitted, save_figure, save_image, sheet

DISTANCES = "distances.png"  # the usual name
_SIDE = 192  # pixels of a patch in a drawing
_GAP = 12
_SAME, _OTHER = "#1f4e9e", "#c0392b"


def draw_pair(
    first: np.ndarray, second: np.ndarray, *, label: bool, distance: float, name: str = ""
) -> np.ndarray:
    """Two patches side by side above the distance of their descriptors and their name.

    Args:
        first: (S, S) uint8, grey.
        second: (S, S) uint8, grey.
        label: whether they show one point.
        distance: of their descriptors, 0 to 2.
        name: a second line.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    big = [fitted(np.repeat(patch[..., None], 3, axis=2), _SIDE) for patch in (first, second)]
    gap = np.full((_SIDE, _GAP, 3), PAPER, np.uint8)
    kind = "one point" if label else "different points"
    lines = [f"{kind}: distance {distance:.3f}", *([name] if name else [])]
    return captioned(np.concatenate([big[0], gap, big[1]], 1), lines)


def draw_worst_pairs(drawings: Sequence[np.ndarray], path: str | Path) -> None:
    """Write drawings of pairs on one sheet, three in a row; UserError as ``save_image``."""
    save_image(Path(path), sheet(drawings))


def draw_distances(
    labels: Mapping[str, np.ndarray],
    distances: Mapping[str, np.ndarray],
    thresholds: Mapping[str, float],
    path: str | Path,
) -> None:
    """Write histograms of the distances of pairs of one point and of two, one chart per set.

    Args:
        labels: set -> (N,) 1 for one point, 0 for two.
        distances: set -> (N,) of the descriptors, 0 to 2.
        thresholds: set -> the distance within which 95% of the pairs of one point lie.
        path: the file, in the format of its suffix; missing folders are created.
    """
    from matplotlib.figure import Figure  # draws with Agg, without pyplot's global state

    figure = Figure(figsize=(7, 2.6 * len(labels) + 0.4), dpi=130, layout="constrained")
    charts = figure.subplots(len(labels), 1, squeeze=False)[:, 0]
    for axes, name in zip(charts, labels, strict=True):
        top = max(2.0, float(distances[name].max(initial=0)))
        bins = np.linspace(0, top, 101)
        same = labels[name] == 1
        for chosen, color, title in ((same, _SAME, "one point"), (~same, _OTHER, "different points")):
            share = np.full(chosen.sum(), 100 / max(chosen.sum(), 1))
            axes.hist(distances[name][chosen], bins, weights=share, color=color, alpha=0.6, label=title)
        axes.axvline(thresholds[name], color="#333333", linewidth=1, linestyle="--", label="95 % recall")
        axes.set(title=name, xlabel="distance of the descriptors", ylabel="% of the pairs", xlim=(0, top))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)
