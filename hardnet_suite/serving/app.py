"""The ASGI application: predictions, health, metrics, and the page."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from python_multipart.multipart import parse_options_header
from starlette.applications import Starlette
from starlette.datastructures import QueryParams, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hardnet_suite import __version__
from hardnet_suite.data.images import image_errors, open_image, open_rgb
from hardnet_suite.data.segmentation import LabelSet
from hardnet_suite.data.segmentation.label_images import label_image
from hardnet_suite.data.sources import SourceImage
from hardnet_suite.errors import UserError
from hardnet_suite.inference.prepare import content_size
from hardnet_suite.prediction.batch import USUAL_SCORE, Wanted, require_wanted
from hardnet_suite.prediction.model import LoadedModel
from hardnet_suite.prediction.result import Prediction
from hardnet_suite.serving.batching import Batcher, BusyError, ComputeError, Slots, Ticket, compute_thread

_PAGE = Path(__file__).parent / "page"
_LOG = logging.getLogger("hardnet_suite.serving")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PARTS = ("drawing", "mask")
_SLICE = 1 << 16  # bytes of a form that are parsed at once
_DISCARDED = 64 << 20  # bytes of a refused body that are read on, and seconds
_DISCARD_SECONDS = 10.0
_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}")  # no port, no wildcard
# what the page may load: its own files, and images that it makes of answers
_POLICY = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'"

Matcher = Callable[[Image.Image, Image.Image], Any]  # two RGB images -> matching.Matches


@dataclass(frozen=True)
class ServeLimits:
    """What a server takes on.

    Attributes:
        size: the most bytes of a request's body.
        pixels: the most pixels of an image; looked up in its header, before it is decoded.
        queue: the most requests of a model that are in progress, until their answers are sent; further ones
            get 503.
        batch_size: the most images of a batch.
        batch_pixels: the most pixels of a batch, as the network takes them; one image may have more.
        delay: seconds that an image waits for others, if there are too few for a batch.
        seconds: the longest time from a request to its answer; 504 after it. As long may a client take to
            receive the answer, which is cut off then.
        decoders: threads that decode images, per model.
    """

    size: int = 16 << 20
    pixels: int = 16_000_000
    queue: int = 64
    batch_size: int = 8
    batch_pixels: int = 8_000_000
    delay: float = 0.0
    seconds: float = 60.0
    decoders: int = 2

    def __post_init__(self) -> None:
        for name in ("size", "pixels", "queue", "batch_size", "batch_pixels", "decoders"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and self.pixels > 2 * most:
            raise ValueError(f"pixels={self.pixels}: no image of more than {2 * most} is read")
        if not (math.isfinite(self.seconds) and 0 <= self.delay < self.seconds):
            raise ValueError(
                f"delay={self.delay}, seconds={self.seconds}: expected 0 ≤ delay < seconds, both finite"
            )


class _RefusedError(Exception):
    """A request that gets an error: its HTTP status and one line."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class _Metrics:
    """What ``/metrics`` tells, of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = {"registry": self.registry, "namespace": "hardnet"}
        self.requests = Counter(
            "requests", "Requests by model and HTTP status.", ["model", "status"], **names
        )
        self.seconds = Histogram(
            "request_seconds", "From the request to its answer.", ["model"], buckets=_SECONDS, **names
        )
        self.batches = Histogram(
            "batch_images", "Images per batch.", ["model"], buckets=(1, 2, 4, 8, 16, 32, 64), **names
        )
        self.compute = Histogram("batch_seconds", "What a batch takes.", ["model"], buckets=_SECONDS, **names)
        self.progress = Gauge("requests_in_progress", "Requests in progress.", ["model"], **names)


def create_app(
    models: Mapping[str, LoadedModel],
    *,
    limits: ServeLimits | None = None,
    matcher: Matcher | None = None,
    samples: Mapping[str, Mapping[str, bytes]] | None = None,
    hosts: tuple[str, ...] = ("*",),
) -> Starlette:
    """Builds the application: any ASGI server runs it, in one process.

    - ``POST /v1/predict?model=NAME&top=…&score=…&include=drawing,mask``: an image as the body, or as the only
      file of a form. The answer is that of ``predict`` as JSON; ``include`` adds PNG files in base64.
    - ``POST /v1/match``: with ``matcher``, a form with the files ``a`` and ``b``.
    - ``GET /v1/models``, ``/healthz`` (the process lives), ``/readyz`` (it takes requests), ``/metrics``
      (Prometheus); ``/`` is the page.

    Errors are ``{"error": "one line"}``: 400 for options, forms and Host headers, 403 for requests of other
    sites' pages, 404 for what is not there, 413 for a body or image that is too large, 422 for what is no
    image, 500, 503 with ``Retry-After`` where too many are in progress, and 504 where it took too long.

    Requests name no paths and no addresses: what is read is what they send, and files of the page.

    The application's lifespan starts and ends its threads: mounted in another application, run it within
    that one's (``app.router.lifespan_context(app)``).

    Args:
        models: name in requests -> model; the first is the default.
        limits: of requests.
        matcher: of two images.
        samples: of the page: task, or "match" -> name -> bytes of a JPEG file.
        hosts: names that requests may have in their Host header, without port; "*": any. On a machine where
            browsers run, give its own names, so that no other site's page can be pointed at the server.

    Raises:
        ValueError: no model, and no matcher, a model named "match" beside one, or a host with a port or a
            wildcard.
    """
    if not models and matcher is None:
        raise ValueError("expected at least one model")
    if matcher is not None and "match" in models:  # as /metrics would take one for the other
        raise ValueError("a model is named match, as the matching of images is: give it another name")
    for host in hosts:
        if host != "*" and not _HOST.fullmatch(host):
            raise ValueError(f"expected the name of a host without port, or *, got {host!r}")
    server = _Server(
        dict(models),
        limits or ServeLimits(),
        matcher,
        {task: dict(images) for task, images in (samples or {}).items()},
    )
    routes = [
        Route("/", server.page),
        Route("/page/{name}", server.page),
        Route("/samples/{task}/{name}", server.sample),
        Route("/healthz", server.health),
        Route("/readyz", server.ready),
        Route("/metrics", server.prometheus),
        Route("/v1/models", server.list_models),
        Route("/v1/predict", server.predict, methods=["POST"]),
        Route("/v1/match", server.match, methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(_Guard, hosts=frozenset(host.lower() for host in hosts), count=server.count_refusal)
        ],
        exception_handlers={HTTPException: partial(_refused, server.count_refusal), 500: _failed},
        lifespan=server.lifespan,
    )
    app.router.redirect_slashes = False
    return app


class _Guard:
    """Refuses requests by another host's name, and those that another site's page makes a browser send."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], count: Callable[[str, int], None]):
        self.app, self.hosts, self.count = app, hosts, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http":
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            host = re.sub(r":\d*$", "", headers.get(b"host", "")).lower()
            if "*" not in self.hosts and host not in self.hosts:
                refusal = _error(400, "the Host header is none of this server's names")
            elif scope["method"] == "POST" and self._is_of_another_site(headers, host):
                refusal = _error(403, "requests of other sites' pages are refused")
        if refusal is not None:
            self.count(scope["path"], refusal.status_code)
        await (refusal or self.app)(scope, receive, send)

    def _is_of_another_site(self, headers: Mapping[bytes, str], host: str) -> bool:
        if site := headers.get(b"sec-fetch-site"):
            return site in ("cross-site", "same-site")
        if (origin := headers.get(b"origin")) is None:  # not a browser's
            return False
        # browsers send no Sec-Fetch-Site to plain http but for localhost; a proxy may have changed Host
        name = re.sub(r":\d*$", "", origin.partition("://")[2]).lower()
        return (
            origin.lower().partition("://")[2] != headers.get(b"host", "").lower() and name not in self.hosts
        )


class _Server:
    def __init__(
        self,
        models: dict[str, LoadedModel],
        limits: ServeLimits,
        matcher: Matcher | None,
        samples: dict[str, dict[str, bytes]],
    ):
        self.models = models
        self.limits = limits
        self.matcher = matcher
        self.samples = samples
        self.metrics = _Metrics()
        self.batchers: dict[str, Batcher] = {}
        self.pairs = Slots(limits.queue, "pairs")
        self.late: set[asyncio.Task[Response]] = set()  # answers that nobody waits for any more
        self.is_ready = False

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            self.compute = stack.enter_context(compute_thread())
            self.write = stack.enter_context(ThreadPoolExecutor(self.limits.decoders, "answer"))
            for name, model in self.models.items():
                batcher = Batcher(
                    model,
                    batch_size=self.limits.batch_size,
                    batch_pixels=self.limits.batch_pixels,
                    queue=self.limits.queue,
                    decoders=self.limits.decoders,
                    delay=self.limits.delay,
                    compute=self.compute,
                    observe=partial(self._observe, name),
                )
                self.batchers[name] = await stack.enter_async_context(batcher)
                self._show(name, batcher.slots)
            if self.matcher is not None:
                self._show("match", self.pairs)
            self.is_ready = True
            yield
            self.is_ready = False
            while self.late:
                await asyncio.wait(self.late)

    def _show(self, name: str, slots: Slots) -> None:
        self.metrics.progress.labels(name).set_function(lambda: slots.taken)

    def _observe(self, name: str, images: int, seconds: float) -> None:
        self.metrics.batches.labels(name).observe(images)
        self.metrics.compute.labels(name).observe(seconds)

    def count_refusal(self, path: str, status: int) -> None:
        """Counts a request that is refused before it is looked at; the model is not known then."""
        if path.startswith("/v1/"):
            self.metrics.requests.labels("", status).inc()

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def ready(self, request: Request) -> Response:
        status = "ready" if self.is_ready else "not ready"
        return JSONResponse({"status": status}, 200 if self.is_ready else 503)

    async def prometheus(self, request: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    async def list_models(self, request: Request) -> Response:
        models = [
            {
                "name": name,
                "model": model.name,
                "task": model.task,
                "classes": list(model.classes),
                "score": USUAL_SCORE if model.task == "detection" else 0.0,
            }
            for name, model in self.models.items()
        ]
        answer = {"models": models, "match": self.matcher is not None}
        answer["samples"] = {task: list(images) for task, images in self.samples.items()}
        return JSONResponse(answer | {"most_bytes": self.limits.size, "most_pixels": self.limits.pixels})

    async def page(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        known = {path.name: path for path in _PAGE.iterdir() if path.is_file()}
        if name not in known:
            return _error(404, f"no page {name}")
        return FileResponse(
            known[name], headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        )

    async def sample(self, request: Request) -> Response:
        task, name = request.path_params["task"], request.path_params["name"]
        content = self.samples.get(task, {}).get(name)
        if content is None:
            return _error(404, f"no sample {task}/{name}")
        return Response(content, media_type="image/jpeg")

    async def predict(self, request: Request) -> Response:
        name = request.query_params.get("model") or next(iter(self.models), "")
        known = name if name in self.models else ""  # what a client writes is no label of the metrics
        return await self._measured(known, request, partial(self._predict, name))

    async def match(self, request: Request) -> Response:
        return await self._measured("match", request, self._match)

    async def _measured(self, name: str, request: Request, handle: _Handle) -> Response:
        begin = time.perf_counter()
        response = await self._answered(name, request, handle)
        self.metrics.requests.labels(name, response.status_code).inc()
        self.metrics.seconds.labels(name).observe(time.perf_counter() - begin)
        return response

    async def _answered(self, name: str, request: Request, handle: _Handle) -> Response:
        """The answer, or 504 once time is up: what a thread has begun then goes on, in its slot."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(loop.time() + self.limits.seconds)
        reading = _Reading(request, self.limits, ticket)
        slot = ExitStack()
        task = loop.create_task(_or_refusal(name, handle(reading, ticket, slot), slot))
        watch = loop.create_task(reading.watch())
        is_sent = False
        try:
            await asyncio.wait({task, watch}, timeout=self.limits.seconds, return_when="FIRST_COMPLETED")
            if task.done():
                await reading.discard()
                response = task.result()
                if isinstance(response, _HeldResponse):
                    response.sending(slot, self.limits.seconds)
                    is_sent = True
                return response
            self.late.add(task)
            task.add_done_callback(self.late.discard)
            if ticket.gone:
                return _error(499, "the client went away")
            return _error(504, f"no answer within {self.limits.seconds:g} s")
        finally:
            watch.cancel()
            if not is_sent:
                task.add_done_callback(lambda _: slot.close())

    async def _predict(self, name: str, reading: _Reading, ticket: Ticket, slot: ExitStack) -> Response:
        if name not in self.models:
            raise _RefusedError(404, f"no model {name!r}; there are {', '.join(self.models) or 'none'}")
        batcher, model = self.batchers[name], self.models[name]
        wanted, include = _options(reading.request.query_params)
        if "mask" in include and model.task != "segmentation":
            raise _RefusedError(400, f"include=mask: {name} is for {model.task}, and its answers have none")
        slot.enter_context(batcher.slots.one())
        files = await reading.files()
        if len(files) != 1:
            raise _RefusedError(400, f"expected one image, got {len(files)}")
        ((_, content),) = files
        source = SourceImage("image", partial(_decoded, content, self.limits.pixels, model))
        prediction = await batcher.answer(source, wanted, ticket)
        return await self._write(_answer, {"model": name}, prediction, include)

    async def _match(self, reading: _Reading, ticket: Ticket, slot: ExitStack) -> Response:
        if self.matcher is None:
            raise _RefusedError(404, "this server does not match images")
        for option in reading.request.query_params:
            raise _RefusedError(400, f"unknown option {option!r}: matching has none")
        slot.enter_context(self.pairs.one())
        files = await reading.files()
        if sorted(name for name, _ in files) != ["a", "b"]:
            raise _RefusedError(400, "expected a form with the files a and b")
        loop, contents = asyncio.get_running_loop(), dict(files)
        images = [
            await loop.run_in_executor(self.write, _decoded_of, name, contents[name], self.limits.pixels)
            for name in ("a", "b")
        ]
        try:
            found = await loop.run_in_executor(self.compute, _matched, self.matcher, images, ticket)
        except (TimeoutError, UserError):
            raise
        except Exception as error:
            raise ComputeError("matching failed") from error
        return await self._write(_matches, found)

    async def _write(self, function: Callable[..., dict[str, Any]], *values: Any) -> Response:
        """JSON, made in a thread: drawings and masks take their time."""
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self.write, lambda: json.dumps(function(*values)).encode())
        return _HeldResponse(text, media_type="application/json")


class _HeldResponse(Response):
    """An answer that keeps its slot until it is sent, as its text takes memory until then."""

    def sending(self, slot: ExitStack, seconds: float) -> None:
        """Sets what is closed once the answer is sent, and how long a client may take to receive it."""
        self._slot, self._seconds = slot, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._slot:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._send(send)
            except TimeoutError:  # the server closes the connection, as the answer is not complete
                _LOG.warning("an answer was cut off: not received within %g s", self._seconds)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        # in parts: the server takes the next one when the client has received those before
        for start in range(0, max(1, len(self.body)), _SLICE):
            part = self.body[start : start + _SLICE]
            more = start + _SLICE < len(self.body)
            await send({"type": "http.response.body", "body": part, "more_body": more})


async def _or_refusal(name: str, answer: Awaitable[Response], slot: ExitStack) -> Response:
    """The answer, or what went wrong as one, which needs no slot any more."""
    try:
        return await answer
    except _RefusedError as error:
        refusal = _error(error.status, str(error))
    except BusyError as error:
        refusal = _error(503, f"busy: {error}; try again", {"Retry-After": "1"})
    except UserError as error:
        refusal = _error(422, str(error))
    except TimeoutError:
        refusal = _error(504, "no answer in time")
    except ClientDisconnect:
        refusal = _error(499, "the client went away")
    except Exception:
        _LOG.exception("%s failed", name)
        refusal = _error(500, "the server failed; its log says why")
    slot.close()
    return refusal


class _Reading:
    """A request's body, within limits."""

    def __init__(self, request: Request, limits: ServeLimits, ticket: Ticket):
        self.request, self.limits, self.ticket = request, limits, ticket
        self._is_read = asyncio.Event()
        self._stream: AsyncIterator[bytes] | None = None

    async def watch(self) -> None:
        """Returns when the client goes away after its body has come."""
        await self._is_read.wait()
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        self.ticket.gone = True

    async def files(self) -> list[tuple[str, bytes]]:
        """The body, under "image", or the files of a form under their names."""
        body = await asyncio.wait_for(self._body(), self.limits.seconds)
        self._is_read.set()
        kind = self.request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            return [("image", body)]

        async def stream() -> AsyncIterator[bytes]:
            for start in range(0, len(body), _SLICE):  # other requests have their turn in between
                yield body[start : start + _SLICE]
                await asyncio.sleep(0)

        boundary = parse_options_header(kind)[1].get(b"boundary")
        if boundary is not None and b"--" + boundary + b"--" not in body:
            raise _RefusedError(400, "not a form: it is cut short")
        try:
            parser = MultiPartParser(
                self.request.headers, stream(), max_files=4, max_fields=4, max_part_size=self.limits.size
            )
            parser.spool_max_size = self.limits.size + 1  # nothing goes to a disk
            form = await parser.parse()
        except (MultiPartException, KeyError, UnicodeError, LookupError) as error:  # the last two: charset=
            reason = str(error).replace("\n", " ")
            raise _RefusedError(400, f"not a form: {reason}") from None
        try:
            parts = form.multi_items()
            for name, part in parts:
                if not isinstance(part, UploadFile):
                    raise _RefusedError(
                        400, f"the form's field {name!r} is not a file; options are given in the address"
                    )
            return [(name, await part.read()) for name, part in parts]
        finally:
            await form.close()

    async def discard(self) -> None:
        """Reads on after a refusal: a client that still sends would see a broken connection instead."""
        if self._is_read.is_set() or "expect" in self.request.headers:  # which sends when it is told to
            return
        left = max(_DISCARDED, self.limits.size)
        with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):  # the stream is at its end
            async with asyncio.timeout(_DISCARD_SECONDS):
                async for chunk in self._stream or self.request.stream():
                    left -= len(chunk)
                    if left < 0:
                        return

    async def _body(self) -> bytes:
        too_large = _RefusedError(413, f"the body is larger than {self.limits.size} bytes")
        stated = self.request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > self.limits.size:
            raise too_large
        body = bytearray()
        self._stream = self.request.stream()
        async for chunk in self._stream:
            body += chunk
            if len(body) > self.limits.size:
                raise too_large
        return bytes(body)


_Handle = Callable[[_Reading, Ticket, ExitStack], Awaitable[Response]]


def _decoded(content: bytes, most_pixels: int, model: LoadedModel | None = None) -> Image.Image:
    """An image that was sent, if it is not too large, also as the model takes it."""
    if content.startswith(b"\0\0\1\0"):  # Pillow decodes icons when it opens them
        raise _RefusedError(422, "cannot read the image sent: icons are not taken")
    with image_errors("sent"):
        try:
            size = open_image(content).size
        except Image.DecompressionBombError:
            size = None
    if size is None:
        raise _RefusedError(413, f"the image has more than {most_pixels} pixels")
    width, height = size
    sizes = {"": (height, width)}
    if model is not None:
        taken = content_size(height, width, model.preprocess)
        sizes[f", and {taken[1]}×{taken[0]} as the model takes it"] = taken
    for words, (rows, columns) in sizes.items():
        if rows * columns > most_pixels:
            number = f"{rows * columns} are more than {most_pixels}"
            raise _RefusedError(413, f"the image has {width}×{height} pixels{words}: {number}")
    return open_rgb(content, "sent")


def _decoded_of(name: str, content: bytes, most_pixels: int) -> Image.Image:
    """``_decoded`` for one image of several, which an error names."""
    try:
        return _decoded(content, most_pixels)
    except _RefusedError as error:
        raise _RefusedError(error.status, f"image {name}: {error}") from None
    except UserError as error:
        raise UserError(f"image {name}: {error}") from None


def _options(given: QueryParams) -> tuple[Wanted, tuple[str, ...]]:
    try:
        return _parsed_options(given)
    except ValueError as error:
        raise _RefusedError(400, str(error)) from None


def _parsed_options(given: QueryParams) -> tuple[Wanted, tuple[str, ...]]:
    unknown = set(given) - {"model", "top", "score", "include"}
    if unknown:
        raise ValueError(f"unknown option {sorted(unknown)[0]!r}: expected model, top, score, include")
    for name in given:
        if len(values := given.getlist(name)) > 1:
            raise ValueError(f"{name} is given {len(values)} times")
    top, score = _number(given, "top", int), _number(given, "score", float)
    include = tuple(filter(None, given.get("include", "").split(",")))
    if wrong := set(include) - set(_PARTS):
        raise ValueError(f"include={sorted(wrong)[0]!r}: expected {' or '.join(_PARTS)}")
    wanted = Wanted(top, score)
    require_wanted(wanted)
    return wanted, include


def _number(given: QueryParams, name: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(given[name]) if name in given else None
    except ValueError:
        what = "an integer" if kind is int else "a number"
        raise ValueError(f"{name}={given[name]!r}: expected {what}") from None


def _answer(more: dict[str, Any], prediction: Prediction, include: tuple[str, ...]) -> dict[str, Any]:
    answer = more | prediction.to_dict()
    if "drawing" in include:
        answer["drawing"] = _png(prediction.draw())
    if "mask" in include and prediction.mask is not None:
        answer["mask_png"] = _png(label_image(prediction.mask, LabelSet("", (), prediction.palette or ())))
    return answer


def _matched(matcher: Matcher, images: list[Image.Image], ticket: Ticket) -> Any:
    if ticket.gone:
        raise TimeoutError
    return matcher(*images)


def _matches(found: Any) -> dict[str, Any]:
    inliers = None if found.inliers is None else int(np.count_nonzero(found.inliers))
    return {
        "keypoints": [len(found.keypoints_a), len(found.keypoints_b)],
        "matches": len(found),
        "inliers": inliers,
        "matrix": None if found.matrix is None else np.asarray(found.matrix).tolist(),
        "points_a": found.points_a.astype(float).round(2).tolist(),
        "points_b": found.points_b.astype(float).round(2).tolist(),
        "is_inlier": None if found.inliers is None else found.inliers.tolist(),
        "drawing": _png(found.draw()),
    }


def _png(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=3)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    line = " ".join(message.split())
    return JSONResponse({"error": line}, status, dict(headers or {}))


async def _refused(count: Callable[[str, int], None], request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    count(request.url.path, error.status_code)
    what = "no such page" if error.status_code == 404 else error.detail
    return _error(error.status_code, f"{request.method} {request.url.path}: {what}", error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "the server failed; its log says why")
