"""What a model computes in, as users choose it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean

Precision: TypeAlias = Literal["float32", "bf16", "auto"]
PRECISIONS = ("float32", "bf16", "auto")


def settled_precision(precision: Precision | None, *, bf16: bool = False) -> Precision | None:
    """The precision of two options, of which ``bf16`` is the shorter one.

    Args:
        precision: of ``PRECISIONS``, or None.
        bf16: the same as the precision "bf16".

    Raises:
        UserError: unknown, or they exclude each other.
    """
    if precision is not None and (not isinstance(precision, str) or precision not in PRECISIONS):
        near = did_you_mean(precision, PRECISIONS) if isinstance(precision, str) else ""
        raise UserError(f"unknown precision {precision!r}; {near}known: {', '.join(PRECISIONS)}")
    if bf16 and precision not in (None, "bf16"):
        raise UserError(f"bf16 and the precision {precision} exclude each other")
    return "bf16" if bf16 else precision
