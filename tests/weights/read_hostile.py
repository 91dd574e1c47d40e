"""Reads every weights file of a folder, in a process of its own: a crash is seen. A JSON line per file."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

LIMIT = 6 << 30  # bytes of address space beyond what the imports take
SECONDS = 30


def main(folder: str, doors: list[str]) -> None:
    warnings.simplefilter("ignore")
    import torch

    from hardnet_suite.errors import UserError
    from hardnet_suite.weights import fill, open_weights, read_checkpoint

    torch.set_num_threads(1)

    def resume(path):
        from mmengine.runner import CheckpointLoader

        import hardnet_suite.openmm  # noqa: F401

        return CheckpointLoader.load_checkpoint(path, "cpu")

    def stock(path):
        import hardnet_suite.openmm  # noqa: F401

        return torch.load(path, weights_only=True)

    def network(path):
        return fill(torch.nn.Linear(3, 1), open_weights(path, known=False))

    known = {"read": read_checkpoint, "network": network, "mmengine": resume, "torch": stock}
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT, size + LIMIT))
    for name in sorted(os.listdir(folder)):
        for door in doors:
            print(json.dumps([name, door, "began"]), flush=True)
            signal.alarm(SECONDS)
            began = time.monotonic()
            try:
                known[door](os.path.join(folder, name))
                outcome = "answered"
            except UserError as error:
                outcome = "refused" if "\n" not in str(error) else f"several lines: {error}"
            except Exception as error:
                outcome = "refused" if door == "torch" else f"{type(error).__name__}: {error}"
            print(json.dumps([name, door, outcome, time.monotonic() - began]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
