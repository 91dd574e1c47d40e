"""One training at a time in a work dir."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hardnet_suite.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".train.lock"


@contextmanager
def sole_training(work_dir: str | Path) -> Iterator[None]:
    """Within, no other process trains in the work dir.

    The lock is the system's: it ends with the process, however that ends, and data loader workers do not
    hold it. Where a file system has no locks, there is none.

    Args:
        work_dir: an existing folder.

    Raises:
        UserError: another process trains there; the message says which.
    """
    path = Path(work_dir, LOCK)
    with path.open("a+") as file:
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise UserError(
                    f"another training runs in {work_dir} ({file.read(200).strip() or 'unknown process'}): "
                    "end it, or choose another --work-dir"
                ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
