"""Scores per class as aligned plain text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence

from hardnet_suite.data.report import escaped

__all__ = ["MOST_CLASSES", "class_table", "extremes", "format_score"]

MOST_CLASSES = 30  # that a console lists

_LONGEST_NAME = 60  # columns
_SHOWN = 10  # of the worst and of the best classes, where not all are listed


def class_table(
    names: Sequence[str],
    columns: Mapping[str, Sequence[float | int]],
    *,
    totals: Mapping[str, Sequence[float | int | None]] | None = None,
    digits: int = 3,
    most: int | None = None,
    heading: str = "class",
    longest: int | None = _LONGEST_NAME,
) -> str:
    """One line per class: its name, then its scores; integers are counts, NaN is "n/a".

    Args:
        names: class names; those of more than ``longest`` columns are cut.
        columns: heading of each column -> one value per class.
        totals: name -> one value per column, None for an empty cell; these lines follow the classes.
        digits: decimal places of the scores.
        most: with more classes than this, the ten that score best in the first column and the ten that score
            worst are listed alone; None lists all.
        heading: of the names.
        longest: width of the column of names at most; None: of any width.
    """
    rows = [(name, [column[index] for column in columns.values()]) for index, name in enumerate(names)]
    gap: list[str] = []
    if most is not None and len(rows) > most:
        best, worst = extremes(next(iter(columns.values())), _SHOWN)
        gap = [f"… {len(rows) - len(best) - len(worst)} more in metrics.json"]
        upper, lower = ([rows[index] for index in group] for group in (best, worst))
    else:
        upper, lower = rows, []
    further = list((totals or {}).items())
    upper, lower = (
        [(escaped(name).replace("\n", "\\n"), row) for name, row in group] for group in (upper, lower)
    )
    listed = [*upper, *lower, *further]
    width = max([_columns(heading), *(_columns(name) for name, _ in listed)])
    width = width if longest is None else min(width, longest)
    cells = [[_cell(value, digits) for value in values] for _, values in listed]
    widths = [
        max(digits + 3, len(column), *(len(row[index]) for row in cells))
        for index, column in enumerate(columns)
    ]

    def line(name: str, cells: Sequence[str]) -> str:
        shown = "  ".join(f"{cell:>{size}}" for cell, size in zip(cells, widths, strict=True))
        return f"{_fit(name, width)}  {shown}".rstrip()

    def lines(group: Sequence[tuple[str, Sequence]]) -> list[str]:
        return [line(name, [_cell(value, digits) for value in values]) for name, values in group]

    return "\n".join([line(heading, list(columns)), *lines(upper), *gap, *lines(lower), *lines(further)])


def extremes(values: Sequence[float], count: int) -> tuple[list[int], list[int]]:
    """Indices of the highest values, descending, and of the lowest, descending, each ``count`` at most.

    NaN is in neither, and no index is in both.
    """
    order = [index for index, value in enumerate(values) if not math.isnan(value)]
    order.sort(key=lambda index: values[index], reverse=True)  # keeps the order of equal ones
    best = order[:count]
    return best, order[max(len(best), len(order) - count) :]


def format_score(value: float, digits: int) -> str:
    """A score of that many decimal places, or "n/a" for NaN."""
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def _cell(value: float | int | None, digits: int) -> str:
    if value is None:
        return ""
    return format_score(value, digits) if isinstance(value, float) else f"{value:,}"


def _columns(text: str) -> int:
    """The columns that a terminal needs for a text."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _fit(name: str, width: int) -> str:
    """The name padded to a width, or cut with an ellipsis."""
    if _columns(name) > width:
        while _columns(name) > width - 1:
            name = name[:-1]
        name += "…"
    return name + " " * (width - _columns(name))
