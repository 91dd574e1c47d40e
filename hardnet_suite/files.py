"""Files that are written as a whole or not at all, by errors that say which file."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hardnet_suite.errors import WriteError

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


def write_file(path: str | Path, content: str | bytes) -> None:
    """Writes a file beside its place and renames it: it is whole, or what it was before.

    Args:
        path: the file; missing folders are created.
        content: text is written as UTF-8.

    Raises:
        WriteError: the file cannot be written; no part of it is left.
    """
    content = content.encode() if isinstance(content, str) else content
    folder, name = os.path.split(os.path.abspath(path))
    with writing(path, len(content)):
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=_prefix(name), suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp creates 0600, which others cannot read
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # the folder may be gone
                os.unlink(temporary)
            raise


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


def _prefix(name: str) -> str:
    return f".{name}.{_host()}.{os.getpid()}."


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
