"""One training at a time in a work dir."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".train.lock"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_PROCESS = re.compile(r"(process \d+ on .*\n)?")  # the content of a lock, unless a full disk left it empty


class TrainingLock:
    """The lock of a work dir.

    The lock is the system's: it ends with the process, however that ends, and data loader workers do not
    hold it. Where a file system has no locks, there is none.

    Args:
        work_dir: the folder; created if missing.

    Raises:
        UserError: another process trains there; the message says which.
        WriteError: the folder cannot be written.
    """

    def __init__(self, work_dir: str | Path):
        self.work_dir = Path(work_dir)
        self._path = self.work_dir / LOCK
        self._file = self._acquire()

    def is_lost(self) -> bool:
        """Whether the file has been removed or replaced, so that another training may begin there."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return True

    def renew(self) -> None:
        """Takes a lost lock again; the errors are those of the first time."""
        file = self._acquire()
        self._close()
        self._file = file

    def release(self) -> None:
        if not self.is_lost():
            with suppress(OSError):  # a folder that can no longer be written
                self._path.unlink()
        self._close()

    def _close(self) -> None:
        with suppress(OSError):  # a full disk has not taken its text
            self._file.close()

    def _acquire(self) -> TextIO:
        with writing(self.work_dir):
            self.work_dir.mkdir(parents=True, exist_ok=True)
            require_replaceable(
                self._path, lambda path: not path.is_symlink(), writer="training", option="--work-dir"
            )
            file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666), "r+")
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = file.read(200).strip() or "unknown process"
                file.close()
                raise UserError(
                    f"another training runs in {self.work_dir} ({holder}): "
                    "end it, or choose another --work-dir"
                ) from None
        if not _PROCESS.fullmatch(file.read(1000)):
            file.close()
            require_replaceable(self._path, lambda _: False, writer="training", option="--work-dir")
        with suppress(OSError):  # the lock holds without its text, which a full disk does not take
            file.seek(0)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        return file


@contextmanager
def sole_training(work_dir: str | Path, *, main: bool = True) -> Iterator[TrainingLock | None]:
    """Within, no other process trains in the work dir; the errors are the lock's.

    Args:
        work_dir: the folder.
        main: whether this is the rank that holds the lock for all.
    """
    lock = TrainingLock(work_dir) if main else None
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()
