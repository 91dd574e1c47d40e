"""What libraries tell their developers, kept from users; for several threads at once, unlike ``warnings``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

_lock = Lock()
_within: dict[str, int] = {}  # of each kind of silence, how many are within it
_restore: dict[str, ExitStack] = {}


@contextmanager
def without_warnings() -> Iterator[None]:
    """Within, no warning is shown, of any thread; the last one to leave restores the filters."""
    with _shared("warnings"):
        yield


@contextmanager
def without_log() -> Iterator[None]:
    """As ``without_warnings``, of what is logged below an error."""
    with _shared("logging"):
        yield


@contextmanager
def without_messages() -> Iterator[None]:
    """Within, both."""
    with without_warnings(), without_log():
        yield


@contextmanager
def _shared(kind: str) -> Iterator[None]:
    """A setting of the process that is made by the first thread within, and undone by the last.

    ``warnings.catch_warnings`` alone would let the second of two overlapping threads restore what the first
    one had set.
    """
    with _lock:
        if not _within.get(kind):
            _restore[kind] = stack = ExitStack()
            if kind == "warnings":
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            else:
                stack.callback(logging.disable, logging.root.manager.disable)
                logging.disable(logging.WARNING)
        _within[kind] = _within.get(kind, 0) + 1
    try:
        yield
    finally:
        with _lock:
            _within[kind] -= 1
            if not _within[kind]:
                _restore.pop(kind).close()
