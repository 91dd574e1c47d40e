"""A run's log: its files, and what the console shows of it."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from logging import ERROR, INFO, WARNING, FileHandler, Handler, Logger, LogRecord, StreamHandler
from pathlib import Path
from typing import TextIO

from mmengine.dist import is_main_process
from tqdm import tqdm

import hardnet_suite
from hardnet_suite.data.report import printable
from hardnet_suite.outputs import writing

_PACKAGE = Path(hardnet_suite.__file__).parent
_ANNOUNCED = "announced"  # attribute of the records that a quiet console shows whatever their level
_quiet: ContextVar[_Quiet | None] = ContextVar("_quiet", default=None)


class _Quiet:
    """Where Python's warnings of other packages go: the files of the run's log, once there are some."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._logger: Logger | None = None

    def follow(self, logger: Logger) -> None:
        self._logger, waiting, self._waiting = logger, self._waiting, []
        for text in waiting:
            self._log(text)

    def show_warning(self, message, category, filename, lineno, file=None, line=None) -> None:
        """In place of ``warnings.showwarning``: the suite's own are printed, those of others are logged."""
        if not _is_own(filename):
            self._log(warnings.formatwarning(message, category, filename, lineno, line).rstrip())
        elif is_main_process():
            print_above(f"warning: {message}".replace("\n", " "), sys.stderr)

    def _log(self, text: str) -> None:
        if self._logger is None:
            self._waiting.append(text)
            return
        _hand_over([one for one in self._logger.handlers if isinstance(one, FileHandler)], WARNING, text)


@contextmanager
def quiet_console(verbose: bool = False) -> Iterator[None]:
    """Within, the console shows of the logs that runs open what the suite announces or warns of.

    Their files keep every line; Python's warnings of other packages go there too. Warnings are printed on
    standard error, announcements on standard output, as bare lines. A no-op with ``verbose``.
    """
    if verbose:
        yield
        return
    quiet = _Quiet()
    token = _quiet.set(quiet)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = quiet.show_warning
            yield
    finally:
        _quiet.reset(token)


def set_console(logger: Logger) -> None:
    """Makes a log print as little as ``quiet_console`` asks for where this is called, above a live line."""
    quiet = _quiet.get()
    for index, handler in enumerate(logger.handlers):
        if not isinstance(handler, StreamHandler) or isinstance(handler, FileHandler):
            continue
        if quiet is None:
            handler.emit = partial(_emit_above, handler, handler.emit)
        else:
            logger.handlers[index] = _ConsoleHandler(handler.filters)
    if quiet is not None:
        quiet.follow(logger)


def announce(logger: Logger, text: str) -> None:
    """Logs a line that a quiet console shows as it is, on the main rank."""
    logger.info(text, extra={_ANNOUNCED: True})


def say(logger: Logger, text: str) -> None:
    """Prints a line on a quiet console, on the main rank; the files of the log do not get it."""
    handlers = [handler for handler in logger.handlers if isinstance(handler, _ConsoleHandler)]
    _hand_over(handlers, INFO, text)


class _ConsoleHandler(StreamHandler):
    """Prints announcements, the suite's own warnings and all errors, above a live line if there is one."""

    def __init__(self, filters: list) -> None:
        super().__init__(sys.stderr)
        self.setLevel(INFO if is_main_process() else ERROR)
        self.filters = [_is_for_console, *filters]

    def emit(self, record: LogRecord) -> None:
        try:
            message = record.getMessage()
            if getattr(record, _ANNOUNCED, False):
                print_above(message, sys.stdout)
            else:
                # a library that goes on after its error leaves no failed run
                level = record.levelname.lower() if _is_own(record.pathname) else "warning"
                print_above(f"{level}: {message}", sys.stderr)
        except Exception:
            self.handleError(record)


def _emit_above(handler: StreamHandler, emit: Callable[[LogRecord], None], record: LogRecord) -> None:
    with tqdm.external_write_mode(file=handler.stream):
        emit(record)


def print_above(text: str, stream: TextIO) -> None:
    """Prints a text, above the live line of a run if there is one."""
    with tqdm.external_write_mode(file=stream):
        print(printable(text, stream), file=stream, flush=True)


def _is_for_console(record: LogRecord) -> bool:
    if getattr(record, _ANNOUNCED, False) or record.levelno >= ERROR:
        return True
    return record.levelno >= WARNING and _is_own(record.pathname)


def _is_own(path: str) -> bool:
    return Path(path).is_relative_to(_PACKAGE)


def _hand_over(handlers: list[Handler], level: int, text: str) -> None:
    record = logging.makeLogRecord({"name": "mmengine", "levelno": level, "msg": text, _ANNOUNCED: True})
    record.levelname = logging.getLevelName(level)
    for handler in handlers:
        if level >= handler.level:
            handler.handle(record)


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
