"""Images of concurrent requests, answered in batches."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from hardnet_suite.data.sources import SourceImage
from hardnet_suite.deploy.session import Session
from hardnet_suite.errors import UserError
from hardnet_suite.prediction.batch import (
    PreparedImage,
    Wanted,
    predictions_of,
    prepare_source,
    require_wanted,
)
from hardnet_suite.prediction.model import LoadedModel
from hardnet_suite.prediction.result import Prediction
from hardnet_suite.threads import set_own_threads

_LOG = logging.getLogger("hardnet_suite.serving")
_POLL = 0.01  # seconds between looks at whether all is answered


class BusyError(Exception):
    """As many images as may be in progress are."""


class ComputeError(Exception):
    """The network failed, which is no fault of the image's."""


class Slots:
    """Counts what is in progress.

    Args:
        limit: the most at any time.
        what: in words, for the error.

    Attributes:
        taken: how many there are.
    """

    def __init__(self, limit: int, what: str):
        self.limit, self.what, self.taken = limit, what, 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """One of them, within.

        Raises:
            BusyError: there are as many as there may be.
        """
        if self.taken >= self.limit:
            raise BusyError(f"{self.limit} {self.what} are in progress")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


@dataclass
class Ticket:
    """Whether somebody still waits for an answer.

    Attributes:
        deadline: time of the event loop after which nobody does; None: there is none.
        gone: nobody does any more.
    """

    deadline: float | None = None
    gone: bool = False

    @property
    def is_valid(self) -> bool:
        """Whether an image that waits is still worth computing."""
        late = self.deadline is not None and asyncio.get_running_loop().time() > self.deadline
        return not (self.gone or late)


@dataclass(eq=False)
class _Waiting:
    prepared: PreparedImage
    wanted: Wanted
    ticket: Ticket
    since: float
    answer: asyncio.Future[Prediction] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """Answers images one by one, and computes those that wait together.

    Images are decoded in threads of their own. Whenever the network is free, it takes the oldest image that
    waits, and others whose inputs have the same size, up to ``batch_size`` images and ``batch_pixels``
    pixels: an image alone is answered at once, and batches grow as far as the load does. The answers are
    those of ``predict``.

    Used within ``async with``, or between ``start`` and ``close``, in one event loop.

    Args:
        model: the model.
        batch_size: the most images of a batch.
        batch_pixels: the most pixels of a batch, as the network takes them; one image may have more.
        queue: the most images that are in progress: from the request to its answer.
        decoders: threads that decode.
        delay: seconds that an image waits for others to come, if there are too few for a batch.
        compute: the one thread that computes, where several models share it; None: one of its own.
        observe: called with the number of images of each batch and the seconds that it took.

    Attributes:
        slots: the images in progress.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        batch_size: int = 8,
        batch_pixels: int = 8_000_000,
        queue: int = 64,
        decoders: int = 2,
        delay: float = 0.0,
        compute: Executor | None = None,
        observe: Callable[[int, float], None] | None = None,
    ):
        self.model = model
        self.batch_size = batch_size
        self.batch_pixels = batch_pixels
        self.slots = Slots(queue, "images")
        self.delay = delay
        self._observe = observe
        self._decode = ThreadPoolExecutor(decoders, "decode", initializer=set_own_threads, initargs=(1,))
        self._own_compute = compute_thread() if compute is None else None
        self._compute = compute or self._own_compute
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batcher:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begins to compute."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Answers what is in progress, then ends the threads."""
        while self.slots.taken:
            await asyncio.sleep(_POLL)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._decode.shutdown()
        if self._own_compute is not None:
            self._own_compute.shutdown()

    async def predict(self, source: SourceImage, wanted: Wanted | None = None) -> Prediction:
        """The prediction for one image.

        Raises:
            BusyError: ``queue`` images are in progress.
            UserError: the image cannot be read, or the model does not take it.
            ComputeError: the network failed.
            ValueError: ``wanted`` is out of range.
        """
        wanted = wanted or Wanted()
        require_wanted(wanted)
        with self.slots.one():
            return await self.answer(source, wanted, Ticket())

    async def answer(self, source: SourceImage, wanted: Wanted, ticket: Ticket) -> Prediction:
        """As ``predict``, within one of ``slots``.

        Raises:
            TimeoutError: nobody waits any more; the image was not computed.
        """
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._decode, _prepared, self.model, source)
        waiting = _Waiting(prepared, wanted, ticket, loop.time())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await self._wait_for_more()
            batch = self._next()
            if not batch:
                continue
            begin = loop.time()
            await self._compute_batch(batch)
            if self._observe is not None:
                try:
                    self._observe(len(batch), loop.time() - begin)
                except Exception:
                    _LOG.exception("a batch was not recorded")

    async def _wait_for_more(self) -> None:
        """Until there is a whole batch, or the oldest image has waited for ``delay``."""
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._waiting) < self.batch_size:
            left = self._waiting[0].since + self.delay - loop.time()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                return

    def _next(self) -> list[_Waiting]:
        """The oldest image and others of its size that go with it; what nobody waits for is dropped."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        for each in self._waiting:
            shape = each.prepared.pixels.shape
            pixels = (len(batch) + 1) * shape[1] * shape[2]
            if each.answer.done():
                continue
            if not each.ticket.is_valid:
                each.answer.set_exception(TimeoutError())
            elif not batch or (
                shape == batch[0].prepared.pixels.shape
                and len(batch) < self.batch_size
                and pixels <= self.batch_pixels
            ):
                batch.append(each)
            else:
                others.append(each)
        self._waiting = others
        return batch

    async def _compute_batch(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            predictions = await loop.run_in_executor(
                self._compute,
                predictions_of,
                self.model,
                [each.prepared for each in batch],
                [each.wanted for each in batch],
            )
        except Exception as error:
            if len(batch) > 1:  # one of them, or all: each gets its own answer
                for each in batch:
                    await self._compute_batch([each])
            elif not batch[0].answer.done():
                failed = ComputeError(f"{self.model.name} failed")
                failed.__cause__ = error
                batch[0].answer.set_exception(failed)
            return
        for each, prediction in zip(batch, predictions, strict=True):
            if not each.answer.done():
                each.answer.set_result(prediction)


def _prepared(model: LoadedModel, source: SourceImage) -> PreparedImage:
    """An image that the model takes; errors do not say where its file is."""
    network = model.network
    if not isinstance(network, Session):
        return prepare_source(model, source)
    try:
        prepared = prepare_source(model, source)
        network.require_pixels(prepared.pixels, model.preprocess, model.postprocess, fixed=True)
        return prepared
    except UserError as error:
        raise UserError(str(error).replace(str(network.path), model.name)) from None


def compute_thread() -> ThreadPoolExecutor:
    """One thread, whose operators compute in as many threads as those of the caller."""
    return ThreadPoolExecutor(1, "compute", initializer=set_own_threads, initargs=(torch.get_num_threads(),))
