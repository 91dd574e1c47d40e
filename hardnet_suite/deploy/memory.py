"""Peak memory of prepared networks, each measured in a process of its own.

Within one process the allocators keep what earlier networks have freed, so that a later one seems to need
nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from hardnet_suite.deploy.runners import EngineForm, load_engine, make_pass
from hardnet_suite.timing import synchronizer

_PASSES = 2  # after one that is not counted
_LONGEST = 1800  # seconds


def peak_memory(prepared: Sequence[EngineForm], shapes: Sequence[tuple[int, ...]]) -> list[int | None]:
    """Bytes that forward passes need: weights, activations and work space, without the engine itself.

    On the CPU it is the growth of the private (anonymous) memory of a fresh process, on a GPU that of CUDA's
    allocator, from before the network is loaded to the peak of passes that follow a first one.

    Args:
        prepared: Of ``runners.prepare``.
        shapes: Of their inputs.

    Returns:
        One number per network; None where the system does not tell, where the network's class cannot be
        imported in another process, or where the engine cannot run it.
    """
    if not hasattr(os, "fork"):
        return [None] * len(prepared)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.pt") for number in range(len(prepared))]
        for file, each, shape in zip(files, prepared, shapes, strict=True):
            with suppress(Exception):  # pickle's errors are of many types; no file is no answer
                torch.save({"prepared": each, "shape": shape, "threads": torch.get_num_threads()}, file)
        command = [sys.executable, "-m", "hardnet_suite.deploy.memory", *map(str, files)]
        _run(command)
        return [_answer(file) for file in files]


def _run(command: Sequence[str]) -> None:
    """Runs a command, and ends it with the processes that it forked where it takes too long."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            process.wait(_LONGEST)
        except BaseException as error:  # Ctrl-C, too
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise


def _answer(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.with_suffix(".bytes").read_text())
    return None


def main(files: Sequence[str]) -> None:
    """Measures each network in a process that is forked from this one, which has imported PyTorch.

    Args:
        files: ``peak_memory``'s own, in a folder where nobody else writes.
    """
    for file in files:
        child = os.fork()
        if child == 0:
            try:
                _measure(Path(file))
                os._exit(0)
            finally:
                os._exit(1)
        os.waitpid(child, 0)


def _measure(file: Path) -> None:
    torch.set_flush_denormal(True)
    shell = torch.load(file, map_location="meta", weights_only=False)  # imports what the network is made of
    setting, shape = shell["prepared"].setting, shell["shape"]
    torch.set_num_threads(shell["threads"])
    device = torch.device(setting.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    load_engine(setting.engine)
    with torch.inference_mode():
        nn.Conv2d(3, 8, 3)(torch.zeros(1, 3, 32, 32))  # starts threads
    before = _bytes("RssAnon")
    run = make_pass(torch.load(file, weights_only=False)["prepared"], torch.zeros(shape))
    run()
    wait = synchronizer(device)
    if wait is not None:
        wait()
        torch.cuda.reset_peak_memory_stats(device)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for _ in range(_PASSES):
        run()
    if wait is not None:
        wait()
        peak = torch.cuda.max_memory_allocated(device)
    else:  # no peak of the anonymous memory is kept; the mapped files do not shrink within a pass
        peak = _bytes("VmHWM") - _bytes("RssFile") - before
    file.with_suffix(".bytes").write_text(str(max(peak, 0)))


def _bytes(key: str) -> int:
    """An entry of Linux's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the system does not tell {key}")


if __name__ == "__main__":
    main(sys.argv[1:])
