"""Worker processes of data loaders."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from torch.utils.data import DataLoader


def shield_workers(loader: DataLoader) -> DataLoader:
    """Lets only its own process end a loader's workers by SIGTERM.

    Schedulers and torchrun send it to a whole process group: the training is to save and end, for which it
    needs its workers. A no-op where the system does not tell who sent a signal.
    """
    if loader.num_workers and hasattr(signal, "sigwaitinfo"):
        loader.worker_init_fn = _Shielded(loader.worker_init_fn)
    return loader


class _Shielded:
    """A ``worker_init_fn``; an object, so that it can be sent to a spawned process."""

    def __init__(self, inner: Callable[[int], object] | None):
        self._inner = inner

    def __call__(self, worker: int) -> None:
        # torch's handler ends the worker; blocked, the signal waits for the thread, which sees its sender
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, args=(os.getppid(),), daemon=True).start()
        if self._inner is not None:
            self._inner(worker)


def _end_by_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
