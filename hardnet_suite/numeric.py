"""Numbers that users give: what is one, and whether it is in range."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite real number, of Python or NumPy; booleans are none."""
    # int and float come first: asking an abstract class is slow, and COCO holds millions of numbers
    try:
        return (
            isinstance(value, (int, float, Real))
            and value is not True
            and value is not False
            and math.isfinite(value)
        )
    except OverflowError:  # an integer that no float can hold
        return False


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer, of Python or NumPy; booleans are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_count(value: Any, *, least: int = 1) -> bool:
    """Whether ``value`` is an integer of at least ``least``, of Python or NumPy; booleans are none."""
    return is_integer(value) and value >= least


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Checks that a value is an integer of at least ``least``.

    Raises:
        ValueError: it is not; the message begins with ``name``.
    """
    if not is_count(value, least=least):
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def require_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> None:
    """Checks that a value is a finite number from ``least`` to ``most``.

    Raises:
        ValueError: it is not; the message begins with ``name``.
    """
    if is_number(value) and least <= value <= most:
        return
    kind = "a finite number"
    if most < math.inf:
        kind = f"a number from {least:g} to {most:g}"
    elif least > -math.inf:
        kind += f" of at least {least:g}"
    raise ValueError(f"{name} must be {kind}, got {value!r}")
