"""The files of a run's log."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from logging import FileHandler, Handler, Logger, LogRecord

from hardnet_suite.outputs import writing


def handle_errors(logger: Logger) -> None:
    """A log file that cannot be written is an error, an output that cannot be a warning.

    Python's logging prints a traceback for every line instead.
    """
    for handler in logger.handlers:
        report = _raise_write_error if isinstance(handler, FileHandler) else _warn_once
        handler.handleError = partial(report, handler)


def close_log(logger: Logger) -> None:
    """Closes the files of a log and takes them off it, as mmengine writes to every file it finds there."""
    for handler in [handler for handler in logger.handlers if isinstance(handler, FileHandler)]:
        logger.removeHandler(handler)
        with suppress(OSError):  # what a full disk did not take
            handler.close()


def reopen_log(logger: Logger) -> None:
    """Opens the files of a log anew, where they or their folder were removed."""
    for handler in logger.handlers:
        if isinstance(handler, FileHandler):
            with suppress(OSError):
                handler.close()
            handler.stream = handler._open()


def _raise_write_error(handler: FileHandler, record: LogRecord) -> None:
    """Called where the error is handled."""
    with writing(handler.baseFilename):
        raise sys.exception()


def _warn_once(handler: Handler, record: LogRecord) -> None:
    handler.handleError = lambda record: None
    with suppress(OSError):
        print(f"warning: the log cannot be printed: {sys.exception()}", file=sys.stderr)
