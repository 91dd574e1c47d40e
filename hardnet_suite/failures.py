"""What the system does to a program, in words: no space, no memory, a killed process."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from hardnet_suite.errors import UserError, WriteError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITING = (*_FULL, errno.EFBIG, errno.EROFS)  # no reader gets these
_OPEN_FILES = (errno.EMFILE, errno.ENFILE)
_CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or use a file system without one",
    errno.EROFS: "make it writable, or choose another folder",
    errno.EACCES: "give yourself permission to write there, or choose another folder",
    errno.EPERM: "give yourself permission to write there, or choose another folder",
    errno.ENOENT: "nothing can be created there: choose another folder",
    errno.ENOTDIR: "a file is in the place of its folder: move it away",
    errno.EEXIST: "a file is in the place of its folder: move it away",
}
_MEMORY = "use a smaller batch size, smaller images or fewer data loader workers (num_workers)"
_WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (.*?)\. |exited)"
)
_SHARED = re.compile(r"unable to (?:write to file|resize file|open shared memory|mmap)|out of shared memory")
_ALLOCATION = re.compile(r"can't allocate memory|not enough memory: you tried to allocate")
_ERRNO = re.compile(r"\[Errno (\d+)\] (.*?)(?:: '(.*)')?")


def explain(error: BaseException, folder: str | Path | None = None) -> str | None:
    """What happened and what to do, in one line; None for an error of another kind.

    Args:
        error: as it was raised, also by a data loader for one of its workers.
        folder: what was written into, for an error that names no file.
    """
    if isinstance(error, UserError):
        return None
    text = str(error)
    if isinstance(error, OSError):
        return _explain_system(_of_worker(text) or error, folder)
    if isinstance(error, MemoryError) or _ALLOCATION.search(text):
        return f"the memory of this machine is exhausted; {_MEMORY}"
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in text:
        return (
            f"the memory of the GPU is exhausted ({_allocation(text)}); use a smaller batch size, or --bf16"
        )
    if not isinstance(error, RuntimeError):
        return None
    if "Too many open files" in text or "received 0 items of ancdata" in text:
        return _explain_system(OSError(errno.EMFILE, ""))
    if stalled := re.search(r"DataLoader timed out after (\d+) seconds", text):
        return (
            f"the data loader workers brought no batch for {stalled[1]} s: a full shared memory (/dev/shm) "
            "or a slow disk are usual causes; num_workers=0 shows where, the loader's timeout sets the limit"
        )
    worker = _WORKER.search(text)
    signal = (worker and worker[2]) or ""
    if worker and not signal and error.__cause__ is not None and (known := explain(error.__cause__)):
        return known  # torch has found the worker gone before it was told how
    if "Bus error" in signal or _SHARED.search(text.replace(worker[0], "") if worker else text):
        return _shared_memory(worker)
    if not worker:
        return None
    if signal == "Killed":
        return (
            f"data loader worker {worker[1]} was killed (SIGKILL): out of memory is the usual cause; use "
            "fewer data loader workers (num_workers) or a smaller batch size"
        )
    ended = f"was ended by a signal ({signal})" if signal else "exited unexpectedly"
    return f"data loader worker {worker[1]} {ended}; num_workers=0 shows where"


def _explain_system(error: OSError, folder: str | Path | None = None) -> str | None:
    number = error.errno
    if number in _OPEN_FILES:
        return (
            f"too many open files{_limit_of_files()}; raise the limit (ulimit -n 65536), or use fewer data "
            "loader workers (num_workers)"
        )
    if number == errno.ENOMEM:
        return f"the memory of this machine is exhausted; {_MEMORY}"
    if not isinstance(error, WriteError) and number not in _WRITING:
        return None
    path, size = error.filename or folder, getattr(error, "size", None)
    known = [f"{_amount(size)} to write"] if size else []
    if number in _FULL and path:
        known += _free_space(path)
    place = f" {error.filename}" if error.filename else f" into {folder}" if folder else ""
    details = f" ({', '.join(known)})" if known else ""
    cure = _CURES.get(number, "check the disk, or choose another folder")
    return f"cannot write{place}: {error.strerror}{details}; {cure}"


def _of_worker(text: str) -> OSError | None:
    """The error that a data loader's worker met: it comes as text, under a traceback."""
    if not text.startswith("Caught ") or "worker process" not in text:
        return None
    match = _ERRNO.fullmatch(text.strip().splitlines()[-1].split(": ", 1)[-1])
    return OSError(int(match[1]), match[2], match[3]) if match else None


def _shared_memory(worker: re.Match | None) -> str:
    who = f"data loader worker {worker[1]} was killed" if worker else "a data loader worker failed"
    return (
        f"{who}: the shared memory (/dev/shm) is full; enlarge it (docker run --shm-size=8g), or use fewer "
        "data loader workers (num_workers=0 needs none of it)"
    )


def _allocation(text: str) -> str:
    tried = re.search(r"Tried to allocate [\d.]+ \w+", text)
    return tried[0].lower().replace("gib", "GiB").replace("mib", "MiB") if tried else "out of memory"


def _limit_of_files() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return ""
    return f" (the limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"


def _free_space(path: str | Path) -> list[str]:
    path = Path(os.path.abspath(path))
    for folder in (path, *path.parents):
        try:
            return [f"{_amount(shutil.disk_usage(folder).free)} free"]
        except OSError:  # has been removed
            continue
    return []


def _amount(size: int) -> str:
    """ "2.5 MB", and below a tenth of that unit, which would be rounded to nothing, "2.5 kB"."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def cannot_meet(error: Exception) -> UserError:
    """Ranks of a distributed run that cannot reach each other, in a line.

    Args:
        error: what ``torch.distributed`` raised.
    """
    address = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    reason = str(error).partition("\n")[0]
    return UserError(
        f"the ranks cannot meet at {address} (MASTER_ADDR:MASTER_PORT): {reason}; choose a free port "
        "(torchrun --master-port), and start all ranks with the same address"
    )
