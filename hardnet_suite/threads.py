"""How many threads PyTorch computes in, as a setting of one thread of Python instead of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, Thread

MOST_THREADS = 1024  # engines start as many as they are told to
_lock = Lock()


def set_own_threads(count: int) -> None:
    """Sets the number of threads that PyTorch's operators compute in when called from this thread.

    ``torch.set_num_threads`` also sets the number that threads inherit which have not called PyTorch yet;
    here they keep theirs. Threads that only assist the main thread need it: with two threads of OpenMP each,
    there are more of them than cores, and OpenMP then puts threads to sleep at the end of every operator.

    Args:
        count: At least 1.
    """
    import torch

    with _lock:
        torch.get_num_threads()  # this thread inherits first: later that would undo the setting
        inherited: list[int] = []
        _in_new_thread(lambda: inherited.append(torch.get_num_threads()))
        torch.set_num_threads(count)
        _in_new_thread(lambda: torch.set_num_threads(*inherited))


@contextmanager
def own_threads(count: int | None) -> Iterator[None]:
    """Context manager in which PyTorch's operators compute in so many threads when called from this thread.

    Args:
        count: At least 1; None makes it a no-op.
    """
    import torch

    with _lock:  # a thread that calls PyTorch for the first time must not inherit what another sets
        before = torch.get_num_threads()
    if count in (None, before):
        yield
        return
    set_own_threads(count)
    try:
        yield
    finally:
        set_own_threads(before)


def _in_new_thread(function: Callable[[], object]) -> None:
    thread = Thread(target=function)
    thread.start()
    thread.join()
