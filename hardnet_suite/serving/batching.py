"""Images of concurrent requests, answered in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from hardnet_suite.data.sources import SourceImage
from hardnet_suite.prediction.batch import PreparedImage, Wanted, predictions_of, prepare_source
from hardnet_suite.prediction.model import LoadedModel
from hardnet_suite.prediction.result import Prediction
from hardnet_suite.threads import set_own_threads


class BusyError(Exception):
    """As many images as may wait are waiting."""


@dataclass(eq=False)
class _Waiting:
    prepared: PreparedImage
    wanted: Wanted
    answer: asyncio.Future[Prediction] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """Answers images one by one, and computes those that wait together.

    Images are decoded in threads of their own. Whenever the network is free, it takes the oldest image that
    waits and up to ``batch_size`` - 1 others whose inputs have the same size: an image alone is answered at
    once, and batches grow as far as the load does. The answers are those of ``predict``.

    Used within ``async with``, or between ``start`` and ``close``, in one event loop.

    Args:
        model: the model.
        batch_size: the most images of a batch.
        queue: the most images that are decoded, wait or are computed at any time.
        decoders: threads that decode.
        delay: seconds that an image waits for others to come, if there are too few for a batch.
        observe: called with the number of images of each batch and the seconds that it took.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        batch_size: int = 8,
        queue: int = 64,
        decoders: int = 2,
        delay: float = 0.0,
        observe: Callable[[int, float], None] | None = None,
    ):
        self.model = model
        self.batch_size = batch_size
        self.queue = queue
        self.delay = delay
        self.taken = 0  # images between ``predict`` and its answer
        self._observe = observe
        self._decode = ThreadPoolExecutor(decoders, "decode", initializer=set_own_threads, initargs=(1,))
        self._compute = ThreadPoolExecutor(1, "compute")
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
        """Answers what waits, then ends the threads."""
        while self.taken:
            await asyncio.sleep(0.01)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._decode.shutdown()
        self._compute.shutdown()

    async def predict(self, source: SourceImage, wanted: Wanted = Wanted()) -> Prediction:  # noqa: B008
        """The prediction for one image.

        Raises:
            BusyError: ``queue`` images are being worked on.
            UserError: the image cannot be read.
            ValueError: ``wanted`` is out of range.
        """
        if self.taken >= self.queue:
            raise BusyError(f"{self.queue} images are waiting")
        self.taken += 1
        try:
            loop = asyncio.get_running_loop()
            prepared = await loop.run_in_executor(self._decode, prepare_source, self.model, source)
            waiting = _Waiting(prepared, wanted)
            self._waiting.append(waiting)
            self._arrived.set()
            return await waiting.answer
        finally:
            self.taken -= 1

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            if self.delay and len(self._waiting) < self.batch_size:
                await asyncio.sleep(self.delay)
            batch = self._next()
            if not batch:
                continue
            begin = loop.time()
            await self._answer(batch)
            if self._observe is not None:
                self._observe(len(batch), loop.time() - begin)

    def _next(self) -> list[_Waiting]:
        """The oldest image and those of its size; requests that were given up are dropped."""
        alive = [each for each in self._waiting if not each.answer.done()]
        shape = alive[0].prepared.pixels.shape if alive else None
        batch = [each for each in alive if each.prepared.pixels.shape == shape][: self.batch_size]
        self._waiting = deque(each for each in alive if each not in batch)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
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
                    await self._answer([each])
                return
            if not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for each, prediction in zip(batch, predictions, strict=True):
            if not each.answer.done():
                each.answer.set_result(prediction)
