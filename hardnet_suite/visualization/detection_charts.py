"""Charts of a detector's scores: precision-recall curves and the confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hardnet_suite.evaluation.coco import CocoMistakes, CocoScores
from hardnet_suite.evaluation.tables import extremes, format_score
from hardnet_suite.visualization.canvas import save_figure
from hardnet_suite.visualization.classification import CONFUSION, draw_confusion
from hardnet_suite.visualization.fonts import chart_name, matplotlib_style

CURVES = "precision_recall.png"
CHARTS = {"curves": CURVES, "confusion": CONFUSION}  # what messages call each chart -> its file
_COLORED = 10  # the most classes with a colour of their own
_PANELS = {"IoU 0.50": 0, "IoU 0.75": 5}  # title -> index of the threshold
_MEAN, _OTHER = "#1c1e22", "#c9ccd1"


def draw_detection_charts(scores: CocoScores, mistakes: CocoMistakes, folder: str | Path) -> None:
    """Write ``CHARTS`` into a folder: the curves, and the confusion matrix with a row of false detections and
    a column of missed boxes, both named background.

    Args:
        scores: of ``evaluate_coco``.
        mistakes: of ``find_mistakes``.
        folder: where to write; created if missing.

    Raises:
        WriteError: a file cannot be written.
    """
    draw_precision_recall(scores, Path(folder, CURVES))
    draw_confusion(
        mistakes.confusion,
        (*mistakes.classes, "background"),
        Path(folder, CONFUSION),
        unit="boxes",
        title=f"IoU of at least {mistakes.iou:.2f}, score of at least {mistakes.least_score:.2f}",
    )


def draw_precision_recall(scores: CocoScores, path: str | Path) -> None:
    """Write the precision-recall curves of each class and their mean at IoU 0.50 and 0.75 as an image.

    With more than ten classes, the five of the highest AP and the five of the lowest have colours, the others
    are grey. A curve ends at the highest recall that its class reaches; the area under it is the AP.

    Args:
        scores: of ``evaluate_coco``.
        path: the file, in the format of its suffix; missing folders are created.

    Raises:
        ValueError: no class has a box, or no such format.
        WriteError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure  # draws with Agg, without pyplot's global state

    names = list(scores.per_class)
    average = [row["AP"] for row in scores.per_class.values()]
    scored = [k for k, value in enumerate(average) if not np.isnan(value)]
    best, worst = extremes(average, _COLORED // 2)
    chosen = scored if len(scored) <= _COLORED else [*best, *worst]
    if not scored:
        raise ValueError("expected a class with a box, got none")
    colors = dict(zip(chosen, matplotlib.colormaps["tab10"].colors, strict=False))
    recall = np.linspace(0, 1, scores.precision.shape[1])

    figure = Figure(figsize=(12.5, 4.8), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (title, index) in zip(panels, _PANELS.items(), strict=True):
        curves = scores.precision[index]  # (101, C)
        for k in scored:
            if k not in colors:
                axes.plot(*_reached(recall, curves[:, k]), color=_OTHER, linewidth=0.8, zorder=2)
        for k, color in colors.items():
            axes.plot(*_reached(recall, curves[:, k]), color=color, linewidth=1.5, zorder=3)
        mean = curves[:, scored].mean(axis=1)
        axes.plot(*_reached(recall, mean), color=_MEAN, linewidth=2.6, zorder=4)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", title=f"{title}, mean AP {mean.mean():.3f}")
        axes.grid(True, color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("precision")

    rows = [(chart_name(names[k], 24), names[k], color) for k, color in colors.items()]
    entries = [
        (name, [scores.per_class[key]["AP50"], scores.per_class[key]["AP75"]], color, 2.0)
        for name, key, color in rows
    ]
    entries.append((f"mean of {len(scored)}", [scores.metrics["AP50"], scores.metrics["AP75"]], _MEAN, 2.6))
    if len(scored) > len(colors):
        entries.append((f"{len(scored) - len(colors)} other classes", None, _OTHER, 0.8))
    handles = [matplotlib.lines.Line2D([], [], color=color, linewidth=width) for *_, color, width in entries]
    legend = figure.legend(
        handles,
        [name for name, *_ in entries],
        loc="outside right center",
        frameon=False,
        title="AP at IoU 0.50 / 0.75",
        alignment="left",
    )
    for text, (name, values, *_) in zip(legend.get_texts(), entries, strict=True):
        figures = "" if values is None else "  " + " / ".join(format_score(value, 3) for value in values)
        text.set(**matplotlib_style(name + figures, 9.5))
    save_figure(figure, path)


def _reached(recall: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve up to the highest recall that is reached."""
    count = int((precision > 0).sum())  # falls with the recall
    return recall[:count], precision[:count]
