"""Results on disk: written whole or not at all, and only over earlier results."""

from __future__ import annotations

import errno
import fnmatch
import glob
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
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
LONGEST_STEM = 200  # bytes: file systems allow 255 for the whole name
_LONGEST_ORIGIN = 150  # bytes of a file's name within that of its temporary file
_in_use: set[Path] = set()  # temporary folders of this process


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
        temporary = _temporary(Path(folder, name))
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # the folder may be gone
                temporary.unlink()


@contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """A fresh folder beside a place, for what will stand there; removed at the end unless it was renamed.

    Those of the same place whose processes were killed are removed first, as by ``remove_leftovers``.

    Args:
        path: the place; its folder exists.

    Raises:
        OSError: the folder cannot be created.
    """
    path = _absolute(Path(path))
    remove_leftovers(path.parent, glob.escape(path.name))
    temporary = _temporary(path)
    _in_use.add(temporary)
    try:
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _in_use.discard(temporary)


def short_stem(stem: str) -> str:
    """A stem whose file name, with a number and a suffix, fits every file system: its last 200 bytes."""
    return _last_bytes(stem, LONGEST_STEM)


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


def require_different(places: Mapping[str, str | Path | Iterable[str | Path] | None]) -> None:
    """Checks, before anything is computed, that no result would replace another of the same run.

    Args:
        places: option -> the file that it names, if any, or the files that go into the folder that it names.

    Raises:
        UserError: two options name one file.
    """
    options: dict[str, str] = {}
    for option, files in places.items():
        paths = [files] if isinstance(files, str | Path) else files or ()
        for path in paths:
            other = options.setdefault(os.path.realpath(path), option)
            if other != option:
                raise UserError(f"{other} and {option} are one file, {path}: choose another for one of them")


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
    """Removes what ``write_file`` and ``temporary_folder`` left in a folder when their process was killed.

    What belongs to a process that lives stays; files of another machine, or without a process in their name,
    stay for a day, and so do folders of another machine. Other folders, and links to folders, are none.

    Args:
        folder: where to look.
        pattern: of the names of what was to be written, such as ``*.pth``.
    """
    for path in Path(folder).glob(f".{pattern}.*.tmp"):
        with suppress(OSError):  # another run may have removed it
            if not path.is_dir() or path.is_symlink():
                if _is_abandoned(path):
                    path.unlink()
            elif _is_temporary_folder(path, pattern) and _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """A path beside another one, whose name tells which process of which machine writes there."""
    origin = _last_bytes(path.name, _LONGEST_ORIGIN)
    return path.with_name(f".{origin}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")


def _last_bytes(text: str, count: int) -> str:
    """The end of a text that has up to ``count`` bytes, from the start of a character."""
    content = text.encode(errors="surrogatepass")
    return text if len(content) <= count else content[-count:].decode(errors="ignore")


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())[:48] or "localhost"


def _is_temporary_folder(path: Path, pattern: str) -> bool:
    """Whether the name is one that ``temporary_folder`` gives, and none that this process uses now."""
    owner = re.fullmatch(r"\.(.*)\.[\w-]+\.\d+\.[0-9a-f]{8}\.tmp", path.name, re.DOTALL)
    return bool(owner) and fnmatch.fnmatchcase(owner[1], pattern) and _absolute(path) not in _in_use


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _is_abandoned(path: Path) -> bool:
    owner = _TEMPORARY.fullmatch(path.name)
    if owner and owner["host"] == _host() and os.name == "posix":
        return not _lives(int(owner["process"]))
    parts = [path, *path.iterdir()] if path.is_dir() and not path.is_symlink() else [path]
    return time.time() - max(part.lstat().st_mtime for part in parts) > _DAY


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
