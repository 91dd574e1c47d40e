"""Reading of local files: a named pipe that nobody writes to, or a device without end, is an error."""

from __future__ import annotations

import errno
import hashlib
import stat
from pathlib import Path

_LONGEST = 4096  # bytes of a path, on most systems


class NotAFileError(OSError):
    """A path that is neither a file nor a folder."""

    def __init__(self, path: str | Path):
        super().__init__(errno.EINVAL, "a pipe, socket or device, not a file", str(path))

    def __str__(self) -> str:
        return self.strerror


def require_regular(path: str | Path) -> None:
    """Checks what is about to be opened; a folder passes, since opening it says what it is.

    Raises:
        NotAFileError: the path is a pipe, socket or device.
        OSError: there is nothing at the path.
    """
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise NotAFileError(path)


def is_file(path: str | Path) -> bool:
    """Whether a file exists; False for a name that no file can have."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_path(name: str) -> bool:
    """Whether a name is short enough to be the path of a file; looking into its folders would take long."""
    return len(name.encode(errors="surrogatepass")) < _LONGEST


def read_bytes(path: str | Path) -> bytes:
    """The contents of a file; the errors are those of ``require_regular`` and of ``Path.read_bytes``."""
    require_regular(path)
    return Path(path).read_bytes()


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; errors as of ``read_bytes``."""
    require_regular(path)
    return Path(path).read_text(encoding="utf-8-sig")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hex digits; errors as of ``Path.open``."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
