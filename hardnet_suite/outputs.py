"""Results on disk: written whole or not at all, and only over earlier results."""

from __future__ import annotations

import errno
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

from hardnet_suite.errors import UserError, WriteError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_DAY = 24 * 60 * 60
_TEMPORARY = re.compile(r"\..*\.(?P<host>[^.]+)\.(?P<process>\d+)\.[^.]+\.tmp", re.DOTALL)


@contextmanager
def writing(path: str | Path, size: int | None = None) -> Iterator[None]:
    """Within, an error of the system becomes a ``WriteError`` that names the file: a full disk names none.

    Args:
        path: what the error names.
        size: of the content in bytes, for the message.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path), size=size) from error


@contextmanager
def whole_file(path: str | Path, size: int | None = None) -> Iterator[Path]:
    """A path beside a file's place, for its content; the finished file takes the place.

    The file is what is written within, or what it was before. A link is replaced, not followed.

    Args:
        path: the file; missing folders are created.
        size: of the content in bytes, for the message of an error.

    Yields:
        The temporary path, where nothing is yet.

    Raises:
        WriteError: the file cannot be written, or its place holds a folder, pipe, socket or device.
    """
    folder, name = os.path.split(os.path.abspath(path))
    with writing(path, size):
        os.makedirs(folder, exist_ok=True)
        if os.path.exists(path) and not os.path.isfile(path):
            raise WriteError(errno.EINVAL, "not a regular file", str(path))
        temporary = Path(folder, f".{name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # the folder may be gone
                temporary.unlink()


def write_file(path: str | Path, content: str | bytes) -> None:
    """Writes a file beside its place and renames it: it is whole, or what it was before.

    Args:
        path: the file; missing folders are created.
        content: text is written as UTF-8.

    Raises:
        WriteError: the file cannot be written; no part of it is left.
    """
    content = content.encode() if isinstance(content, str) else content
    with whole_file(path, len(content)) as temporary, temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def require_replaceable(
    path: str | Path, is_own: Callable[[Path], bool], *, writer: str, option: str
) -> None:
    """Checks, before anything is computed, that a result may take its place.

    Args:
        path: the file.
        is_own: whether an existing file is an earlier result of the same kind.
        writer: what writes such results, for the message.
        option: what chooses another place.

    Raises:
        UserError: something else is there.
    """
    if not str(path):
        raise UserError(f"cannot write: the {option} is empty")
    path = Path(path)
    if os.path.lexists(path) and not (path.is_file() and is_own(path)):
        raise UserError(
            f"{path} exists, and no earlier {writer} wrote it: move it away, or choose another {option}"
        )


class FolderLock:
    """Keeps other processes that ask for it out of a folder, until it is garbage or the process ends.

    The lock is the system's, on the folder itself: nothing is written. Where a file system has no locks, or
    the system none on folders, there is none. Within a process, all who ask for a folder share one lock.

    Args:
        folder: an existing folder.

    Raises:
        BlockingIOError: another process has the lock.
    """

    _held: ClassVar[WeakValueDictionary[str, FolderLock]] = WeakValueDictionary()

    def __new__(cls, folder: str | Path) -> FolderLock:
        key = os.path.realpath(folder)
        lock = cls._held.get(key)
        if lock is None:
            lock = super().__new__(cls)
            lock._handle = _locked(key)
            cls._held[key] = lock
        return lock

    def __del__(self):
        handle = self.__dict__.pop("_handle", None)
        if handle is not None:
            os.close(handle)


def _locked(folder: str) -> int | None:
    """An open descriptor of the folder that holds its lock; None where there are no locks."""
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return handle


def remove_leftovers(folder: str | Path, pattern: str) -> None:
    """Removes what ``write_file`` left in a folder when its process was killed.

    Files of a process that lives stay; those of another machine, or without a process in their name, stay
    for a day.

    Args:
        folder: where to look.
        pattern: of the names of the files that were to be written, such as ``*.pth``.
    """
    for path in Path(folder).glob(f".{pattern}.*.tmp"):
        with suppress(OSError):  # another run may have removed it
            if _is_abandoned(path):
                path.unlink()


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())[:48] or "localhost"


def _is_abandoned(path: Path) -> bool:
    owner = _TEMPORARY.fullmatch(path.name)
    if owner and owner["host"] == _host() and os.name == "posix":
        return not _lives(int(owner["process"]))
    return time.time() - path.stat().st_mtime > _DAY


def _lives(process: int) -> bool:
    """Whether another process of that number runs; this one writes nothing while it looks."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True
