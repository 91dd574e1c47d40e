"""Training curves from the JSON-lines log of a training (mmengine's vis_data/scalars.json)."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from hardnet_suite.data.files import read_bytes
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable
from hardnet_suite.visualization.canvas import is_figure, save_figure
from hardnet_suite.visualization.fonts import matplotlib_style

_MAP, _MAP50 = "coco/bbox_mAP", "coco/bbox_AP50"
_OTHER_NAMES = {"coco/bbox_mAP_50": _MAP50}  # mmdet's own metric
_MASKS = "coco/segm_mAP"
_PQ, _PQ_THINGS, _PQ_STUFF = "coco/PQ", "coco/PQ_things", "coco/PQ_stuff"
_MIOU, _PIXELS = "mIoU", "aAcc"
_TOP1, _TOP5 = "top1", "top5"
_FPR95 = "fpr95"
# the main score of a task -> the axis, and each curve with its name
_SCORES = {
    _MASKS: ("mAP at IoU 0.50:0.95", {_MAP: "boxes", _MASKS: "masks"}),
    _PQ: ("panoptic quality", {_PQ_THINGS: "things", _PQ_STUFF: "stuff", _PQ: "all"}),
    _MAP: ("mAP", {_MAP50: "mAP at IoU 0.50", _MAP: "mAP at IoU 0.50:0.95"}),
    _MIOU: ("share", {_PIXELS: "pixel accuracy", _MIOU: "mean IoU of the classes"}),
    _TOP1: ("accuracy", {_TOP5: "top-5", _TOP1: "top-1"}),
    _FPR95: ("false positives at 95 % recall", {_FPR95: "FPR95"}),
}
_LOWER_IS_BETTER = frozenset({_FPR95, "FPR95"})  # keys and short names
_SHORT = {
    _MAP: "mAP",
    _MAP50: "AP50",
    _MASKS: "mask mAP",
    _PQ: "PQ",
    _PQ_THINGS: "PQ of things",
    _PQ_STUFF: "PQ of stuff",
    _MIOU: "mIoU",
    _PIXELS: "pixel accuracy",
    _TOP1: "top-1",
    _TOP5: "top-5",
    _FPR95: "FPR95",
}
_STEPS = frozenset(("step", "iter", "epoch"))
_PLOTTED = frozenset(
    (
        *_STEPS,
        "loss",
        "loss_cls",
        "loss_bbox",
        *_SCORES,
        *_OTHER_NAMES,
        _MAP50,
        _PQ_THINGS,
        _PQ_STUFF,
        _PIXELS,
        _TOP5,
    )
)
_LARGEST = 1e38  # of a loss in single precision
_COLORS = {
    "loss": "#c0392b",
    "loss_cls": "#2c7fb8",
    "loss_bbox": "#2a9d6f",
    _MAP: "#1f4e9e",
    _MAP50: "#8fb3e0",
    _MASKS: "#2a9d6f",
    _PQ: "#1f4e9e",
    _PQ_THINGS: "#8fb3e0",
    _PQ_STUFF: "#2a9d6f",
    _MIOU: "#1f4e9e",
    _PIXELS: "#8fb3e0",
    _TOP1: "#1f4e9e",
    _TOP5: "#8fb3e0",
    _FPR95: "#1f4e9e",
}


def read_scalars(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a training log, one JSON object per line; a truncated last line is dropped.

    Raises:
        UserError: the file cannot be read, a line other than the last is not a JSON object, or one holds no
            number where a number is plotted.
    """
    try:
        lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give a scalars.json") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: integers of thousands of digits too
            if number == len(lines) and rows:
                break
            raise UserError(f"{path}, line {number} is not JSON ({error}): give a scalars.json") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not a JSON object: give a scalars.json")
        _require_numbers(row, f"{path}, line {number}")
        rows.append(row)
    return rows


def _require_numbers(row: dict[str, Any], where: str) -> None:
    """``UserError`` where the row has a value that cannot be plotted; values may be null, NaN or infinity."""
    for key in row.keys() & _PLOTTED:
        value, is_step = row[key], key in _STEPS
        if value is None and key != "epoch":
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        odd = isinstance(value, float) and not math.isfinite(value)
        if not is_number or (is_step if odd else abs(value) > _LARGEST):
            raise UserError(f"{where}: {key} is {repr(value)[:60]}, expected a number of a training log")


def main_scores(metrics: Mapping[str, Any], first: Collection[str] = ()) -> list[tuple[str, float]]:
    """The scores that matter most among those of a validation: (short name, value).

    Those of an unknown kind are the first four numbers, after ``first``.

    Args:
        metrics: key -> value.
        first: keys of those that come before all others, such as the one that chooses the best epoch.
    """
    values = {
        _OTHER_NAMES.get(key, key): float(value)
        for key, value in metrics.items()
        if isinstance(value, Real) and not isinstance(value, bool)
    }
    known = [(name, values[key]) for key, name in _SHORT.items() if key in values]
    leading = [
        (score_name(key), values[key])
        for key in (_OTHER_NAMES.get(key, key) for key in first)
        if key in values
    ]
    return list(dict.fromkeys([*leading, *(known or list(values.items())[:4])]))


def score_name(key: str) -> str:
    """The short name of a score, such as mAP for coco/bbox_mAP."""
    return _SHORT.get(_OTHER_NAMES.get(key, key), key)


def score_text(key: str, value: float) -> str:
    """The value of a score as people read it; that of an error rate, which is small, has a digit more."""
    return f"{value:.4f}" if key in _LOWER_IS_BETTER else f"{value:.3f}"


def read_run(work_dir: str | Path) -> list[dict[str, Any]]:
    """The rows of the logs in a run's folder, as ``read_scalars`` gives them.

    Where a later log begins before an earlier one ends, as of a resumed training or of one that began anew,
    the rows of the earlier one from there on are dropped.

    Raises:
        UserError: there is no log, or one cannot be read.
    """
    kept: list[dict[str, Any]] = []
    for log in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        rows = read_scalars(log)
        training, validation = _steps(rows, training=True), _steps(rows, training=False)
        if training:
            interval = training[1] - training[0] if len(training) > 1 else 1
            began = training[0] - interval
            kept = [row for row in kept if began > 0 and not _is_after(row, began, training=True)]
        if validation:
            kept = [row for row in kept if not _is_after(row, validation[0] - 1, training=False)]
        kept += rows
    if not kept:
        raise UserError(f"no training log under {work_dir} (*/vis_data/scalars.json)")
    return kept


def _steps(rows: list[dict[str, Any]], *, training: bool) -> list[float]:
    steps = {row.get("step", row.get("iter")) for row in rows if ("loss" in row) == training}
    return sorted(steps - {None})


def _is_after(row: dict[str, Any], step: float, *, training: bool) -> bool:
    return any(own > step for own in _steps([row], training=training))


def plot_run(work_dir: str | Path, out: str | Path | None = None) -> Path:
    """Plots the logs of a run's folder; returns the path of the picture.

    Args:
        work_dir: the folder.
        out: the file; None: ``training.png`` in the folder.

    Raises:
        UserError: no log, one that cannot be read, or a picture that cannot be written or would replace
            another file.
    """
    out = Path(work_dir, "training.png") if out is None else Path(out)
    rows = read_run(work_dir)
    require_replaceable(out, is_figure, writer="plot", option="--out")
    try:
        plot_training(rows, out, title=Path(work_dir).name)
    except ValueError as error:  # unknown suffix, or nothing to plot
        raise UserError(f"cannot write {out}: {error}") from None
    return out


def plot_training(scalars: list[dict[str, Any]], path: str | Path, title: str | None = None) -> None:
    """Plot losses over iterations and scores over epochs.

    Args:
        scalars: rows of ``read_scalars``. Training rows hold "loss" (optionally "loss_cls", "loss_bbox") and
            "step" or "iter"; validation rows "coco/bbox_mAP", "coco/bbox_AP50" (mmdet: "coco/bbox_mAP_50"),
            or "mIoU" and "aAcc" (mmseg: in percent), or "top1" and "top5", or "fpr95" and "fpr95/SET", and
            "step": the epoch, or the iteration in trainings that are counted by iterations. Other rows are
            ignored.
        path: the file, in the format of its suffix; missing folders are created.
        title: a heading, in any script.

    Raises:
        ValueError: there is no row of either kind, or no such format.
        WriteError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # draws with Agg, without pyplot's global state

    training = [row for row in scalars if "loss" in row]
    main = next((key for key in _SCORES if any(key in row for row in scalars)), _MAP)
    validation = [
        {_OTHER_NAMES.get(key, key): value for key, value in row.items()} for row in scalars if main in row
    ]
    if not training and not validation:
        raise ValueError(
            f"expected rows with 'loss' or a score, got none among {counted(len(scalars), 'row')}"
        )
    is_percent = any((row[main] or 0) > 1 for row in validation)
    if is_percent and main in (_MAP, _MASKS, _PQ):
        raise ValueError(f"expected {main} of at most 1, got {max(row[main] or 0 for row in validation):g}")
    if is_percent:
        validation = [
            {key: row[key] / 100 if key in _SCORES[main][1] else row[key] for key in row}
            for row in validation
        ]

    figure = Figure(figsize=(11, 4.2), dpi=130, layout="constrained")
    loss_axes, score_axes = figure.subplots(1, 2)
    _plot_losses(loss_axes, training)
    _plot_scores(score_axes, validation, main, _validation_unit(training, _points(validation, main)[0]))
    for axes in (loss_axes, score_axes):
        axes.grid(True, color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if labels := axes.get_legend_handles_labels()[1]:
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            # between the title and the axes: within them it might cover a curve
            columns = min(len(labels), 4)
            place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "borderaxespad": 0.2}
            axes.legend(frameon=False, fontsize=9, ncols=columns, **place)
            axes.set_title(axes.get_title(), pad=10 + 15 * math.ceil(len(labels) / columns))
    if title:
        figure.suptitle("").set(**matplotlib_style(title, 13))
    save_figure(figure, path)


def _points(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of the rows that hold ``key``; a NaN leaves a gap."""
    points = [(row.get("step", row.get("iter")), row[key]) for row in rows if key in row]
    points = sorted(
        (step, float("nan") if value is None else value) for step, value in points if step is not None
    )
    return [step for step, _ in points], [value for _, value in points]


def _smooth(values: list[float]) -> np.ndarray:
    """The mean of the finite values in a window of a twentieth of the curve, centred on each value.

    A mean over past values alone would lie above a falling loss.
    """
    index, half = np.arange(len(values)), len(values) // 40
    first, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    finite = np.isfinite(values)
    sums = np.concatenate([[0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    with np.errstate(invalid="ignore"):  # 0 / 0 where a whole window is NaN
        return (sums[stop] - sums[first]) / (counts[stop] - counts[first])


def _plot_losses(axes, rows: list[dict[str, Any]]) -> None:
    axes.set_title("training loss")
    if not rows:
        _say(axes, "no training rows")
        return
    for key in ("loss", "loss_cls", "loss_bbox"):
        steps, values = _points(rows, key)
        if not steps:
            continue
        main = key == "loss"
        axes.plot(steps, values, color=_COLORS[key], alpha=0.25, linewidth=1)
        style = {
            "linewidth": 2.2 if main else 1.3,
            "marker": "o" if len(steps) == 1 else "",
            "zorder": 3 + main,
        }
        axes.plot(steps, _smooth(values), color=_COLORS[key], label=key, **style)
    finite = sorted(value for value in _points(rows, "loss")[1] if math.isfinite(value))
    # a few huge losses of the first steps must not flatten the rest
    top = finite[round(0.98 * (len(finite) - 1))] if finite else 0
    axes.set(xlabel="iteration", ylabel="loss", ylim=(0, 1.15 * top or 1))


def _plot_scores(axes, rows: list[dict[str, Any]], main: str, unit: str) -> None:
    axes.set_title("validation")
    finite = [(value, step) for step, value in zip(*_points(rows, main), strict=True) if math.isfinite(value)]
    if not finite:
        _say(axes, "no validation yet")
        return
    highest = 0.0
    label, curves = _SCORES[main]
    for key, name in curves.items():
        steps, values = _points(rows, key)
        highest = max([highest, *(value for value in values if math.isfinite(value))])
        axes.plot(steps, values, color=_COLORS[key], linewidth=2, marker="o", markersize=4, label=name)
    parts = sorted({key for row in rows for key in row if key.startswith(f"{main}/")})
    for key in parts:  # of the data sets
        steps, values = _points(rows, key)
        highest = max([highest, *(value for value in values if math.isfinite(value))])
        axes.plot(steps, values, linewidth=1, alpha=0.7, label=key.removeprefix(f"{main}/"))
    top = 1.15 * highest or 1
    choose = min if main in _LOWER_IS_BETTER else max
    best, step = choose(finite, key=lambda point: point[0])
    axes.plot([step], [best], marker="o", markersize=9, markerfacecolor="none", color=_COLORS[main])
    offset = (0, -18) if best > 0.15 * top else (0, 12)  # below the curve, unless that is below the axis
    first, last = min(at for _, at in finite), max(at for _, at in finite)
    place = (step - first) / (last - first) if last > first else 0.5
    side = "left" if place < 0.15 else "right" if place > 0.85 else "center"  # within the axes
    style = {"textcoords": "offset points", "ha": side, "color": _COLORS[main]}
    axes.annotate(f"best {score_text(main, best)}", (step, best), offset, **style)
    axes.set(xlabel=unit, ylabel=label, ylim=(0, top))


def _validation_unit(training: list[dict[str, Any]], steps: list[float]) -> str:
    """Whether validations are counted in epochs or iterations, told by size: mmengine does not record it."""
    if not training:
        return "step"
    epochs = [row["epoch"] for row in training if "epoch" in row]
    return "epoch" if epochs and max(steps, default=0) <= max(epochs) else "iteration"


def _say(axes, text: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#888888")
