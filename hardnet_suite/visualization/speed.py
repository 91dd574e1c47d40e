"""Charts of speed: latency against accuracy, and rates under a roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardnet_suite.visualization.canvas import save_figure
from hardnet_suite.visualization.fonts import chart_name, matplotlib_style

_OURS, _OTHERS = "#1f4e9e", "#c0392b"
_MARKERS = "osD^vPX<>*hp"
_LIMITS = ("#444444", "#888888", "#b0b0b0", "#cccccc")


@dataclass(frozen=True)
class ChartPoint:
    """A point with a name.

    Attributes:
        name: the model.
        setting: what distinguishes points of a model, such as the engine; its marker.
        x: in the chart's unit, above 0.
        y: in the chart's unit.
        ours: whether it is one of the suite's models.
    """

    name: str
    setting: str
    x: float
    y: float
    ours: bool


def plot_latency(panels: Mapping[str, Sequence[ChartPoint]], path: str | Path, title: str = "") -> None:
    """Latency against published accuracy, one panel per metric.

    Args:
        panels: metric -> points of (milliseconds per pass, accuracy in percent).
        path: the file, in the format of its suffix.
        title: a heading.

    Raises:
        ValueError: no points, or no such format.
        WriteError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    panels = {metric: points for metric, points in panels.items() if points}
    if not panels:
        raise ValueError("no model with a published accuracy was timed")
    figure = Figure(figsize=(7.2 * len(panels), 5), dpi=130, layout="constrained")
    for axes, (metric, points) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _scatter(axes, points)
        axes.set(xlabel="ms per pass (median), lower is better", ylabel=f"published {metric}, %")
        values = [point.y for point in points]
        room = max(1.0, 0.15 * (max(values) - min(values)))
        axes.set_ylim(min(values) - room, max(values) + room)
    _finish(figure, title)
    save_figure(figure, path)


def plot_roofline(
    bandwidth: float,
    rates: Mapping[str, float],
    points: Sequence[ChartPoint],
    path: str | Path,
    title: str = "",
) -> None:
    """Rates of models under the limits of their machine.

    Args:
        bandwidth: bytes per second.
        rates: precision -> multiply-adds per second.
        points: (multiply-adds per byte, multiply-adds per second).
        path: the file, in the format of its suffix.
        title: a heading.

    Raises:
        ValueError: no rates, or no such format.
        WriteError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    if not rates:
        raise ValueError("no matrix rate was measured")
    figure = Figure(figsize=(8.5, 5.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    ridges = [rate / bandwidth for rate in rates.values()]
    low = min([*ridges, *(point.x for point in points)]) / 4
    high = max([*ridges, *(point.x for point in points)]) * 6
    for (precision, rate), color in zip(rates.items(), _LIMITS * len(rates), strict=False):
        corner = rate / bandwidth
        axes.plot(
            [low, corner, high], [low * bandwidth / 1e9, rate / 1e9, rate / 1e9], color=color, linewidth=1.6
        )
        text = f"{precision}: {_short(rate / 1e9)} GMAC/s"
        axes.annotate(
            text,
            (high, rate / 1e9),
            (-4, 4),
            textcoords="offset points",
            ha="right",
            color="#444444",
            fontsize=8,
        )
    axes.annotate(
        f"{_short(bandwidth / 1e9)} GB/s",
        (low, low * bandwidth / 1e9),
        (6, 0),
        textcoords="offset points",
        va="top",
        color="#444444",
        fontsize=8,
    )
    _scatter(axes, [ChartPoint(p.name, p.setting, p.x, p.y / 1e9, p.ours) for p in points])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: _short(value))
    axes.yaxis.set_minor_formatter(lambda value, _: _minor(value))
    axes.set_xlim(low, high)
    axes.set(xlabel="multiply-adds per byte moved (CIO and weights)", ylabel="GMAC per second")
    _finish(figure, title)
    save_figure(figure, path)


def _scatter(axes, points: Sequence[ChartPoint]) -> None:
    """Points over a logarithmic axis; the fastest of each model has its name."""
    settings = list(dict.fromkeys(point.setting for point in points))
    for setting, marker in zip(settings, _MARKERS * (1 + len(settings) // len(_MARKERS)), strict=False):
        for ours, color in ((True, _OURS), (False, _OTHERS)):
            chosen = [point for point in points if point.setting == setting and point.ours == ours]
            axes.plot(
                [point.x for point in chosen],
                [point.y for point in chosen],
                linestyle="",
                marker=marker,
                color=color,
                markersize=7,
                alpha=0.85,
                zorder=3,
            )
        axes.plot([], [], linestyle="", marker=marker, color="#555555", label=setting)
    for name in dict.fromkeys(point.name for point in points):
        own = [point for point in points if point.name == name]
        own.sort(key=lambda point: point.x)
        color = _OURS if own[0].ours else _OTHERS
        if len(own) > 1:
            axes.plot([p.x for p in own], [p.y for p in own], color=color, linewidth=0.8, alpha=0.4, zorder=2)
        axes.annotate(
            "", (own[0].x, own[0].y), (6, 6 if own[0].ours else -14), textcoords="offset points"
        ).set(**matplotlib_style(chart_name(name), 9), color=color)
    axes.set_xscale("log")
    values = [point.x for point in points]
    if values:
        axes.set_xlim(min(values) / 1.6, max(values) * 2.2)


def _finish(figure, title: str) -> None:
    for axes in figure.axes:
        axes.grid(True, which="both", color="#ececec", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        axes.xaxis.set_minor_formatter(lambda value, _: _minor(value))
    if title:
        figure.suptitle("").set(**matplotlib_style(title, 12))


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _minor(value: float) -> str:
    """A tick between powers of ten: 2 and 5 have a number."""
    return _short(value) if f"{value:e}"[0] in "25" else ""
