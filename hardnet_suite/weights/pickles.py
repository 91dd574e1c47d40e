"""What a pickled checkpoint may hold beside tensors and plain containers: NumPy's numbers.

The published segmentation checkpoints carry a ``best_iou``, which is one. Pickle writes it as a call of
``scalar`` on a ``dtype``; these two names, under the module paths of NumPy 1 and 2, are all that is allowed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

NUMBERS = ("?", "b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", "e", "f", "d")


def multiarray():
    """NumPy's module of that name, which moved in NumPy 2."""
    return (np._core if hasattr(np, "_core") else np.core).multiarray


def under_name(function: Callable, module: str, name: str) -> Callable:
    """The function under another name, by which torch knows what it may call."""

    def stand_in(*args):
        return function(*args)

    stand_in.__module__, stand_in.__name__, stand_in.__qualname__ = module, name, name
    return stand_in


def under_both_paths(function: Callable, name: str) -> list[Callable]:
    """NumPy 1 and 2 name the same function under different paths; a file may hold either."""
    return [under_name(function, f"numpy.{core}.multiarray", name) for core in ("core", "_core")]


@contextmanager
def numbers_allowed() -> Iterator[None]:
    """Within, ``torch.load(weights_only=True)`` takes NumPy's numbers, too."""
    already = torch.serialization.get_safe_globals()
    # torch's context forgets at its end what it was given, also what was allowed before
    with torch.serialization.safe_globals([one for one in number_globals() if one not in already]):
        yield


def number_globals() -> list:
    """What torch has to allow for NumPy's scalar numbers."""
    dtypes = {type(np.dtype(code)) for code in NUMBERS}
    return [np.dtype, *dtypes, *under_both_paths(_number, "scalar")]


def _number(dtype: np.dtype, data: bytes) -> np.generic:
    if not isinstance(dtype, np.dtype) or dtype.char not in NUMBERS or not isinstance(data, bytes):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.core.multiarray.scalar of {dtype!r}")
    return multiarray().scalar(dtype, data)
