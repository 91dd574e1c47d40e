"""Work done in threads ahead of who takes the results, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from hardnet_suite.threads import set_own_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

_PATIENCE = 5.0  # seconds; a thread in the middle of a download is left to end by itself


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[tuple[Item, Future[Result]]]:
    """Applies a function to items in threads, as long as results are waited for.

    The items are taken in the caller's thread, one after the other, at most ``ahead`` more than were yielded:
    memory stays flat however many there are. Closing the iterator ends the threads.

    Args:
        function: may run several times at once.
        items: an error among them is raised in its place.
        workers: threads; 0: the function runs in the caller's thread, each time a result is asked for.
        ahead: the most items that are waiting or worked on, at least 1.

    Yields:
        Each item in order, and its future, which is done: ``result()`` raises what the function raised.
    """
    if not workers:
        for item in items:
            future: Future[Result] = Future()
            _work(function, item, future)
            yield item, future
        return
    tasks: SimpleQueue[tuple[Item, Future[Result]] | None] = SimpleQueue()
    threads = [Thread(target=_serve, args=(function, tasks), daemon=True) for _ in range(workers)]
    pending: deque[tuple[Item, Future[Result]]] = deque()
    source = iter(items)
    error: Exception | None = None
    more = True
    try:
        for thread in threads:
            thread.start()
        while more or pending:
            while more and len(pending) < ahead:
                try:
                    task = next(source), Future[Result]()
                except StopIteration:
                    more = False
                except Exception as raised:
                    error, more = raised, False
                else:
                    pending.append(task)
                    tasks.put(task)
                    del task
            if pending:
                pending[0][1].exception()  # waits
                yield pending.popleft()
        if error is not None:
            raise error
    finally:
        for _, future in pending:
            future.cancel()
        for _ in threads:
            tasks.put(None)
        deadline = time.monotonic() + _PATIENCE
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(deadline - time.monotonic(), 0.0))


def _serve(
    function: Callable[[Item], Result], tasks: SimpleQueue[tuple[Item, Future[Result]] | None]
) -> None:
    set_own_threads(1)  # beside the threads that the network computes in
    while (task := tasks.get()) is not None:
        item, future = task
        if future.set_running_or_notify_cancel():
            _work(function, item, future)
        del task, item, future  # frees the image while the thread waits


def _work(function: Callable[[Item], Result], item: Item, future: Future[Result]) -> None:
    try:
        result = function(item)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
