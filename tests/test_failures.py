"""What the system does to a program, in one line each."""

from __future__ import annotations

import errno

import pytest
import torch

from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.failures import explain

KILLED = "DataLoader worker (pid 12) is killed by signal: Killed. "
BUS = "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory. Please try to raise your shared memory limit."  # noqa: E501
CRASH = "DataLoader worker (pid 12) is killed by signal: Segmentation fault. "
GONE = "DataLoader worker (pid(s) 12, 13) exited unexpectedly"
OF_WORKER = (
    "Caught {0} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  …\n{0}: {1}\n"
)
GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 3.00 GiB"
CPU = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            WriteError(errno.ENOSPC, "No space left", "/nowhere/a", size=2_500_000),
            ["/nowhere/a", "2.5 MB to write", "free some"],
        ),
        (
            WriteError(errno.ENOSPC, "No space left", "/nowhere/a", size=35_210),
            ["/nowhere/a", "35.2 kB to write"],
        ),
        (
            WriteError(errno.EACCES, "Permission denied", "a"),
            ["cannot write a: Permission denied", "permission to write"],
        ),
        (WriteError(errno.EIO, "Input/output error", "a"), ["cannot write a", "check the disk"]),
        (OSError(errno.EFBIG, "File too large"), ["cannot write: File too large", "ulimit -f"]),
        (OSError(errno.EROFS, "Read-only file system", "a"), ["cannot write a", "make it writable"]),
        (
            OSError(errno.EMFILE, "Too many open files", "a"),
            ["too many open files", "ulimit -n", "num_workers"],
        ),
        (
            RuntimeError("Too many open files. Communication with the workers"),
            ["too many open files", "ulimit -n"],
        ),
        (OSError(OF_WORKER.format("OSError", "[Errno 24] Too many open files: 'a'")), ["ulimit -n"]),
        (
            OSError(OF_WORKER.format("OSError", "[Errno 28] No space left on device: '/x/b'")),
            ["cannot write /x/b"],
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ["memory of this machine", "batch size"]),
        (MemoryError(), ["memory of this machine", "num_workers"]),
        (RuntimeError(CPU), ["memory of this machine", "batch size"]),
        (torch.OutOfMemoryError(GPU), ["memory of the GPU", "tried to allocate 2.00 GiB", "--bf16"]),
        (RuntimeError(KILLED), ["worker 12 was killed", "out of memory is the usual cause", "num_workers"]),
        (RuntimeError(CRASH), ["worker 12 was ended by a signal (Segmentation fault)", "num_workers=0"]),
        (RuntimeError(BUS), ["/dev/shm", "--shm-size", "num_workers=0"]),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), ["/dev/shm"]),
        (RuntimeError(GONE), ["worker 12, 13 exited unexpectedly", "num_workers=0"]),
    ],
)
def test_what_happened_and_what_to_do(error, parts):
    line = explain(error)
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_a_worker_that_was_found_gone_before_its_signal():
    error = RuntimeError(GONE)
    error.__cause__ = RuntimeError(KILLED)
    assert explain(error) == explain(RuntimeError(KILLED))


@pytest.mark.parametrize(
    "error",
    [
        UserError("No space left on device"),
        ValueError("x"),
        RuntimeError("shape mismatch"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
        OSError("cannot identify image file"),
    ],
)
def test_other_errors_are_not_explained(error):
    assert explain(error) is None


def test_an_error_without_a_file_is_of_the_folder(tmp_path):
    line = explain(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert line.startswith(f"cannot write into {tmp_path}: No space left on device (")
    assert "MB free" in line
