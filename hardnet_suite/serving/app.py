"""The ASGI application: predictions, health, metrics, and the page."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from hardnet_suite import __version__
from hardnet_suite.data.images import image_errors, open_image, open_rgb
from hardnet_suite.data.segmentation import LabelSet
from hardnet_suite.data.segmentation.label_images import label_image
from hardnet_suite.data.sources import SourceImage
from hardnet_suite.errors import UserError
from hardnet_suite.prediction.batch import USUAL_SCORE, Wanted, require_wanted
from hardnet_suite.prediction.model import LoadedModel
from hardnet_suite.prediction.result import Prediction
from hardnet_suite.serving.batching import Batcher, BusyError

_PAGE = Path(__file__).parent / "page"
_LOG = logging.getLogger("hardnet_suite.serving")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PARTS = ("drawing", "mask")
# what the page may load: its own files, and images that it makes of answers
_POLICY = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'"

Matcher = Callable[[Image.Image, Image.Image], Any]  # two RGB images -> matching.Matches


@dataclass(frozen=True)
class ServeLimits:
    """What a server takes on.

    Attributes:
        size: the most bytes of a request's body.
        pixels: the most pixels of an image; looked up in its header, before it is decoded.
        queue: the most images of a model that are decoded, wait or are computed; further requests get 503.
        batch_size: the most images of a batch.
        delay: seconds that an image waits for others, if there are too few for a batch.
        seconds: the longest time from a request to its answer; 504 after it.
        decoders: threads that decode images, per model.
    """

    size: int = 16 << 20
    pixels: int = 25_000_000
    queue: int = 64
    batch_size: int = 8
    delay: float = 0.0
    seconds: float = 60.0
    decoders: int = 2

    def __post_init__(self) -> None:
        for name in ("size", "pixels", "queue", "batch_size", "decoders"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.delay < self.seconds:
            raise ValueError(f"delay={self.delay}: expected 0 to below {self.seconds}")


class _RefusedError(Exception):
    """A request that gets an error: its HTTP status and one line."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = headers


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
        self.waiting = Gauge("images_in_progress", "Images being worked on.", ["model"], **names)


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

    Errors are ``{"error": "one line"}``: 400 for options, 404 for a model that is not there, 413 for a body
    or image that is too large, 422 for what is no image, 500, 503 with ``Retry-After`` where too many wait,
    and 504 where body or answer took too long.

    Requests name no paths and no addresses: what is read is what they send, and files of the page.

    Args:
        models: name in requests -> model; the first is the default.
        limits: of requests.
        matcher: of two images.
        samples: of the page: task, or "match" -> name -> bytes of a JPEG file.
        hosts: names that requests may have in their Host header; "*": any. On a machine where browsers run,
            give its own names, so that no other site's page can be pointed at the server.

    Raises:
        ValueError: no model, and no matcher.
    """
    if not models and matcher is None:
        raise ValueError("expected at least one model")
    server = _Server(
        dict(models),
        limits or ServeLimits(),
        matcher,
        {task: dict(images) for task, images in (samples or {}).items()},
    )
    routes = [
        Route("/", server.page),
        Route("/page/{name}", server.page),
        Route("/samples/{name}", server.sample),
        Route("/healthz", server.health),
        Route("/readyz", server.ready),
        Route("/metrics", server.prometheus),
        Route("/v1/models", server.list_models),
        Route("/v1/predict", server.predict, methods=["POST"]),
        Route("/v1/match", server.match, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={404: _not_found, 405: _not_found, 500: _failed},
        lifespan=server.lifespan,
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
        self.samples = {name: content for images in samples.values() for name, content in images.items()}
        self.samples_of = {task: list(images) for task, images in samples.items()}
        self.metrics = _Metrics()
        self.batchers: dict[str, Batcher] = {}
        self.pairs = 0  # being matched, or waiting
        self.one_pair = asyncio.Lock()
        self.is_ready = False

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for name, model in self.models.items():
                batcher = Batcher(
                    model,
                    batch_size=self.limits.batch_size,
                    queue=self.limits.queue,
                    decoders=self.limits.decoders,
                    delay=self.limits.delay,
                    observe=partial(self._observe, name),
                )
                self.batchers[name] = await stack.enter_async_context(batcher)
                self.metrics.waiting.labels(name).set_function(lambda each=batcher: each.taken)
            self.is_ready = True
            yield
            self.is_ready = False

    def _observe(self, name: str, images: int, seconds: float) -> None:
        self.metrics.batches.labels(name).observe(images)
        self.metrics.compute.labels(name).observe(seconds)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def ready(self, request: Request) -> Response:
        status = "ready" if self.is_ready else "starting or ending"
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
                "weights": model.weights and Path(model.weights).name,
            }
            for name, model in self.models.items()
        ]
        answer = {"models": models, "match": self.matcher is not None, "samples": self.samples_of}
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
        name = request.path_params["name"]
        if name not in self.samples:
            return _error(404, f"no sample {name}")
        return Response(self.samples[name], media_type="image/jpeg")

    async def predict(self, request: Request) -> Response:
        name = request.query_params.get("model") or next(iter(self.models), "")
        if name not in self.models:
            return _error(404, f"no model {name!r}; there are {', '.join(self.models) or 'none'}")
        return await self._measured(name, request, self._predict)

    async def match(self, request: Request) -> Response:
        if self.matcher is None:
            return _error(404, "this server does not match images")
        return await self._measured("match", request, self._match)

    async def _measured(
        self, name: str, request: Request, handle: Callable[[str, Request], Awaitable[Response]]
    ) -> Response:
        begin = time.perf_counter()
        try:
            response = await asyncio.wait_for(handle(name, request), self.limits.seconds)
        except _RefusedError as error:
            response = _error(error.status, str(error), error.headers)
        except BusyError as error:
            response = _error(503, f"busy: {error}; try again", {"Retry-After": "1"})
        except UserError as error:
            response = _error(422, str(error))
        except ValueError as error:
            response = _error(400, str(error))
        except TimeoutError:
            response = _error(504, f"no answer within {self.limits.seconds:g} s")
        except ClientDisconnect:
            response = _error(499, "the client went away")
        except Exception:
            _LOG.exception("%s failed", name)
            response = _error(500, "the server failed; its log says why")
        self.metrics.requests.labels(name, response.status_code).inc()
        self.metrics.seconds.labels(name).observe(time.perf_counter() - begin)
        return response

    async def _predict(self, name: str, request: Request) -> Response:
        wanted, include = _options(request.query_params)
        batcher = self.batchers[name]
        if batcher.taken >= batcher.queue:  # before the body is read
            raise BusyError(f"{batcher.queue} images are waiting")
        files = await self._files(request)
        if len(files) != 1:
            raise _RefusedError(422, f"expected one image, got {len(files)}")
        ((_, content),) = files.items()
        prediction = await batcher.predict(self._source(content), wanted)
        answer = await run_in_threadpool(_answer, prediction, include)
        return JSONResponse({"model": name, **answer})

    async def _match(self, name: str, request: Request) -> Response:
        assert self.matcher is not None
        if self.pairs >= self.limits.queue:
            raise BusyError(f"{self.pairs} pairs are waiting")
        self.pairs += 1
        try:
            files = await self._files(request)
            if set(files) != {"a", "b"}:
                raise _RefusedError(422, "expected a form with the files a and b")
            sources = [self._source(files[key]) for key in ("a", "b")]
            async with self.one_pair:
                return JSONResponse(await run_in_threadpool(_matches, self.matcher, *sources))
        finally:
            self.pairs -= 1

    def _source(self, content: bytes) -> SourceImage:
        return SourceImage("image", partial(_decoded, content, self.limits.pixels))

    async def _files(self, request: Request) -> dict[str, bytes]:
        """The body, under "image", or the files of a form under their names."""
        body = await self._body(request)
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return {"image": body} if body else {}

        async def stream() -> AsyncIterator[bytes]:
            yield body

        try:
            parser = MultiPartParser(
                request.headers, stream(), max_files=4, max_fields=4, max_part_size=self.limits.size
            )
            form = await parser.parse()
        except (MultiPartException, KeyError) as error:
            raise _RefusedError(400, f"not a form: {error}") from None
        try:
            return {
                name: await part.read() for name, part in form.multi_items() if isinstance(part, UploadFile)
            }
        finally:
            await form.close()

    async def _body(self, request: Request) -> bytes:
        too_large = _RefusedError(
            413, f"the body is larger than {self.limits.size} bytes", Connection="close"
        )
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > self.limits.size:
            raise too_large
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.limits.size:
                raise too_large
        return bytes(body)


def _decoded(content: bytes, most_pixels: int) -> Image.Image:
    with image_errors("sent"):
        width, height = open_image(content).size
    if width * height > most_pixels:
        raise _RefusedError(413, f"the image has {width}×{height} pixels, at most {most_pixels} are taken")
    return open_rgb(content, "sent")


def _options(given: Mapping[str, str]) -> tuple[Wanted, tuple[str, ...]]:
    unknown = set(given) - {"model", "top", "score", "include"}
    if unknown:
        raise ValueError(f"unknown option {sorted(unknown)[0]!r}: expected model, top, score, include")
    try:
        top = int(given["top"]) if "top" in given else None
        score = float(given["score"]) if "score" in given else None
    except ValueError as error:
        raise ValueError(f"top and score are numbers: {error}") from None
    include = tuple(filter(None, given.get("include", "").split(",")))
    if wrong := set(include) - set(_PARTS):
        raise ValueError(f"include={sorted(wrong)[0]!r}: expected {' or '.join(_PARTS)}")
    wanted = Wanted(top, score)
    require_wanted(wanted)
    return wanted, include


def _answer(prediction: Prediction, include: tuple[str, ...]) -> dict[str, Any]:
    answer = prediction.to_dict()
    if "drawing" in include:
        answer["drawing"] = _png(prediction.draw())
    if "mask" in include and prediction.mask is not None:
        answer["mask_png"] = _png(label_image(prediction.mask, LabelSet("", (), prediction.palette or ())))
    return answer


def _matches(matcher: Matcher, a: SourceImage, b: SourceImage) -> dict[str, Any]:
    found = matcher(a.open(), b.open())
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


async def _not_found(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _error(
        status, f"{request.method} {request.url.path}: {'no such page' if status == 404 else error}"
    )


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "the server failed; its log says why")
