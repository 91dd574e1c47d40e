"""What a value in COCO's JSON means: ids, numbers, boxes, flags."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from hardnet_suite.numeric import is_number

LARGEST_SIDE = 65535  # pixels; what a JPEG can have
LARGEST_NUMBER = 10 * LARGEST_SIDE  # beyond which a coordinate or side of any image is an error
_FLAGS = {
    **dict.fromkeys(("0", "0.0", "false", "no"), False),
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
}


def is_box(value: Any) -> bool:
    """Whether ``value`` is a sequence of four finite numbers."""
    return hasattr(value, "__len__") and len(value) == 4 and all(is_number(item) for item in value)


def as_side(value: Any) -> int | None:
    """The width or height of an image, an integer from 1 to ``LARGEST_NUMBER``; None if it is none."""
    return int(value) if is_number(value) and 1 <= value <= LARGEST_NUMBER and value % 1 == 0 else None


def is_normalized(box: Any) -> bool:
    """Whether the four numbers of a box look normalised: all lie around [0, 1], where pixels rarely do."""
    return all(-0.5 <= value <= 1.5 for value in box)


def as_id(value: Any) -> int | str | None:
    """An id as it is compared: an integer or a string; None if ``value`` is neither.

    Floats that are integers (1.0) are read as integers. Booleans are no ids.
    """
    if type(value) is int:  # nearly all of them; asking an abstract class is slow
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return value or None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float | Real) and math.isfinite(value) and value == int(value):
        return int(value)
    return None


def match_id(value: Any, ids: Mapping[str, int | str]) -> int | str | None:
    """The id that a reference means; None if there is none.

    Args:
        value: the reference. 1 and "1" mean the same.
        ids: text of each known id -> the id.
    """
    key = as_id(value)
    return None if key is None else ids.get(str(key))


def as_flag(value: Any) -> bool | None:
    """The truth of ``iscrowd``, ``ignore`` or ``difficult``, in every format; None if the value has none.

    These are 0, 1, false and true, as strings also no and yes. A missing value (None) is false.
    """
    if value is None:
        return False
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    if isinstance(value, bool):
        return value
    return bool(value) if is_number(value) and value in (0, 1) else None
