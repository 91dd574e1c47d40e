"""What a pickled checkpoint may hold besides tensors and plain containers.

These are NumPy scalars and the log buffers that mmengine stores in the checkpoints of a run. The published
segmentation checkpoints contain ``best_iou``, which pickle writes as a call of ``scalar`` with a ``dtype``:
these two names, under the module paths of NumPy 1 and 2, are allowed. Loading weights does not need the log;
without mmengine, its buffers become empty objects.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import torch

_LOCK = threading.RLock()
_HARMLESS = ("torch.", "collections.", "numpy")  # not named in errors
NUMBERS = ("?", "b", "B", "h", "H", "i", "I", "l", "L", "q", "Q", "e", "f", "d")


def multiarray():
    """NumPy's module of that name, which moved in NumPy 2."""
    return (np._core if hasattr(np, "_core") else np.core).multiarray


def under_name(function: Callable, module: str, name: str) -> Callable:
    """The function under another qualified name, which is what torch compares with its list."""

    def stand_in(*args):
        return function(*args)

    stand_in.__module__, stand_in.__name__, stand_in.__qualname__ = module, name, name
    return stand_in


def under_both_paths(function: Callable, name: str) -> list[Callable]:
    """NumPy 1 and 2 name the same function under different paths; a file may hold either."""
    return [under_name(function, f"numpy.{core}.multiarray", name) for core in ("core", "_core")]


@contextmanager
def plain_data_allowed() -> Iterator[None]:
    """Within, ``torch.load(weights_only=True)`` also takes NumPy's numbers and a run's log.

    torch's list of allowed names is process-wide and unlocked, so one thread at a time holds the allowance;
    the rest wait. It ends with the context.
    """
    with _LOCK:
        names = {_name(allowed) for allowed in torch.serialization.get_safe_globals()}
        # by name, as mmengine's own buffers are allowed once it is imported; torch's context also drops at
        # its end what was allowed before
        missing = [allowed for allowed in log_globals() if _name(allowed) not in names]
        with torch.serialization.safe_globals(missing):
            yield


def _name(allowed) -> str:
    if isinstance(allowed, tuple):  # an object and the name it goes by
        return allowed[1]
    return f"{allowed.__module__}.{allowed.__qualname__}"


def number_globals() -> list:
    """The globals that torch must allow for NumPy scalars."""
    dtypes = {type(np.dtype(code)) for code in NUMBERS}
    return [np.dtype, *dtypes, *under_both_paths(_number, "scalar")]


class _LogBuffer:
    """Replaces ``mmengine.logging.HistoryBuffer`` when a run's checkpoint is read."""

    def __setstate__(self, state: object) -> None:
        pass


_LogBuffer.__module__ = "mmengine.logging.history_buffer"
_LogBuffer.__name__ = _LogBuffer.__qualname__ = "HistoryBuffer"


def log_globals(buffer: type = _LogBuffer) -> list:
    """The globals that torch must allow for the log in a run's checkpoint, whose buffers become ``buffer``.

    A buffer pickles a table of its own methods, and pickle writes ``HistoryBuffer.mean`` as
    ``getattr(HistoryBuffer, "mean")``: ``getattr`` is allowed for these methods only.
    """

    def method(owner: type, name: str) -> Callable | None:
        if owner is not buffer or name not in ("min", "max", "mean", "current"):
            raise pickle.UnpicklingError(
                f"Unsupported global: GLOBAL builtins.getattr, of {owner!r} and {name!r}"
            )
        return getattr(owner, name, None)

    rebuild = multiarray()._reconstruct
    arrays = [np.ndarray, rebuild, *under_both_paths(rebuild, "_reconstruct")]
    return [buffer, *number_globals(), *arrays, under_name(method, "builtins", "getattr")]


def _number(dtype: np.dtype, data: bytes) -> np.generic:
    if not isinstance(dtype, np.dtype) or dtype.char not in NUMBERS or not isinstance(data, bytes):
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.core.multiarray.scalar of {dtype!r}")
    return multiarray().scalar(dtype, data)


def asks_for(data: bytes) -> str | None:
    """The first function or class beyond torch's own that a pickle, bare or in a torch file, would import.

    None where it names none, or is no pickle. Nothing is run; used in error messages only.
    """
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
        stream = io.BytesIO(data)
        while stream.tell() < len(data):  # torch's old files are several pickles in a row, then numbers
            name = next((name for name in _imports(stream) if not name.startswith(_HARMLESS)), None)
            if name:
                return name
    except Exception:  # no pickle, or not to its end
        pass
    return None


def _imports(stream: BinaryIO) -> Iterator[str]:
    """The names that one pickle imports."""
    texts: list[str] = []
    memo: dict[int, str] = {}
    last = ""
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name in ("GLOBAL", "INST"):
            yield argument.replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts[-2:])
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = last
        elif operation.name in ("BINGET", "LONG_BINGET"):
            texts.append(memo.get(argument, ""))
        last = argument if isinstance(argument, str) else ""
        if last:
            texts.append(last)
