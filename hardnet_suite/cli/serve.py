"""``serve --model fchardnet70 --weights camvid``."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any

from hardnet_suite.cli._options import (
    add_precision_arguments,
    add_threads_argument,
    flush_denormals,
    set_threads,
    show,
)
from hardnet_suite.errors import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette

_LOCAL = ("127.0.0.1", "localhost", "::1", "[::1]")
_IDLE_SECONDS = 30  # of a connection without a request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="[NAME=]MODEL[:TAG]",
        help="a model as predict takes it, and the tag of its weights; several times: several models, of "
        "which requests name one (default name: MODEL)",
    )
    add_precision_arguments(parser)
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add_threads_argument(parser)
    add_server_arguments(parser, port=8000)


def add_server_arguments(parser: argparse.ArgumentParser, *, port: int) -> None:
    """Where it listens, and the limits of requests."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=port, help=f"0: any free one (default {port})")
    parser.add_argument(
        "--allowed-host",
        action="append",
        metavar="NAME",
        help="name that requests may call the server by; several times (default: on 127.0.0.1 only this "
        "machine's, else any)",
    )
    parser.add_argument("--batch-size", type=int, default=8, help="most images of a batch (default 8)")
    parser.add_argument(
        "--queue", type=int, default=64, help="most images in progress; further requests get 503 (default 64)"
    )
    parser.add_argument(
        "--delay",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long an image waits for others (default 0)",
    )
    parser.add_argument(
        "--max-mebibytes", type=int, default=16, help="of a request's body; larger ones get 413 (default 16)"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=16, help="of an image; larger ones get 413 (default 16)"
    )
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="SECONDS", help="of a request; 504 after it (default 60)"
    )


def run(args: argparse.Namespace) -> None:
    require_extra()
    set_threads(args.threads)
    flush_denormals()
    limits_of(args)  # an error comes before models are loaded
    from hardnet_suite.prediction import load_model

    parsed = {}
    for word in args.model:
        name, model, tag = parsed_model(word)
        if name in parsed:
            rest = word.partition("=")[2] if word.startswith(f"{name}=") else word
            raise UserError(f"--model {word}: there is a model {name} already; give OTHER_NAME={rest}")
        parsed[name] = model, tag
    models = {}
    for name, (model, tag) in parsed.items():
        models[name] = load_model(
            model, weights=tag, device=args.device, bf16=args.bf16, precision=args.precision
        )
        show(f"model {name}: {models[name].summary}")
    listen(application(args, models), args, "POST images to /v1/predict")


def parsed_model(word: str) -> tuple[str, str, str | None]:
    """(name, model, tag) of [NAME=]MODEL[:TAG].

    Raises:
        UserError: a part is empty.
    """
    given, sign, rest = word.partition("=")
    if "/" in given or "\\" in given:  # a path may contain an equals sign and a colon
        given, sign, rest = "", "", word
    model, colon, tag = (rest if sign else word).rpartition(":")
    if not colon or "/" in tag:
        model, colon, tag = rest if sign else word, "", ""
    if not model or (sign and not given) or (colon and not tag):
        raise UserError(f"--model {word}: expected [NAME=]MODEL[:TAG], such as streets=fchardnet70:camvid")
    return given if sign else model, model, tag or None


def require_extra() -> None:
    """UserError unless the packages of the extra ``serve`` are there."""
    try:
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"this needs the package {error.name}: pip install 'hardnet-suite[serve]'") from None


def limits_of(args: argparse.Namespace) -> Any:
    """The ``ServeLimits`` of the options."""
    from hardnet_suite.serving import ServeLimits

    if not 0 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: expected 0 to 65535")
    if not 0 < args.max_megapixels < 1_000_000:
        raise UserError(f"--max-megapixels {args.max_megapixels}: expected above 0 and below 1000000")
    for option in ("max_mebibytes", "queue", "batch_size"):
        if getattr(args, option) < 1:
            name = option.replace("_", "-")
            raise UserError(f"--{name} {getattr(args, option)}: expected at least 1")
    if not (math.isfinite(args.timeout) and 0 <= args.delay < args.timeout):
        raise UserError(
            f"--delay {args.delay:g} --timeout {args.timeout:g}: expected seconds, 0 ≤ delay < timeout"
        )
    try:
        return ServeLimits(
            size=args.max_mebibytes << 20,
            pixels=int(args.max_megapixels * 1_000_000),
            queue=args.queue,
            batch_size=args.batch_size,
            delay=args.delay,
            seconds=args.timeout,
        )
    except ValueError as error:
        raise UserError(f"not limits of a server: {error}") from None


def application(args: argparse.Namespace, models: Any, **options: Any) -> Starlette:
    """The application of the options, see ``serving.create_app``."""
    from hardnet_suite.serving import create_app

    hosts = _LOCAL if args.host in _LOCAL else ("*",)
    if args.allowed_host:
        hosts = (*args.allowed_host, *_LOCAL)
    try:
        return create_app(models, limits=limits_of(args), hosts=hosts, **options)
    except ValueError as error:
        raise UserError(f"--allowed-host: {error}") from None


def listen(app: Starlette, args: argparse.Namespace, what: str) -> None:
    """Serves until SIGINT or SIGTERM; then requests in progress are answered, and new ones refused.

    A second SIGINT cuts them off, and so do ``--timeout`` and 5 seconds more.

    Raises:
        UserError: the address is taken, or is none of this machine's.
    """
    import asyncio
    import logging
    import socket

    import uvicorn

    from hardnet_suite.serving.connections import ACCEPTED, connection_class, most_connections

    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    waiting = 2048  # connections that are not accepted yet
    try:
        listener.bind((args.host, args.port))
        listener.listen(waiting)  # who connects from now on waits until the server has started
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise UserError(
            f"cannot listen on {args.host}, port {args.port}: {reason}; --port gives another"
        ) from None
    host = f"[{args.host}]" if ":" in args.host else args.host
    show(f"serving on http://{host}:{listener.getsockname()[1]}/; {what}; Ctrl+C ends it")
    sys.stdout.flush()
    longest = args.timeout + 5  # seconds that requests in progress have to end
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="warning",
        http=connection_class(most=most_connections(), seconds=_IDLE_SECONDS),
        backlog=ACCEPTED,
        timeout_graceful_shutdown=math.ceil(longest) + 5,  # for tasks whose connections were cut off
        timeout_keep_alive=_IDLE_SECONDS,
        server_header=False,
    )

    class Server(uvicorn.Server):
        """Cuts off requests in progress when their time is over, or at a second SIGINT."""

        has_cut = False

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            listener.listen(waiting)  # asyncio has set it to ACCEPTED

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            watch = asyncio.create_task(self._watch())
            await super().shutdown(sockets)
            if self.force_exit:  # it may have seen so before the watch
                self._cut_off()
            watch.cancel()
            await asyncio.sleep(0)  # or what is cut off would be answered as a fault of the server

        async def _watch(self) -> None:
            clock = asyncio.get_running_loop()
            end = clock.time() + longest
            while clock.time() < end and not self.force_exit:
                await asyncio.sleep(0.1)
            self._cut_off()  # since Python 3.12, the end of the server waits for its connections

        def _cut_off(self) -> None:
            """Ends what is in progress without tracebacks: the last line tells of it."""
            connections, tasks = self.server_state.connections, self.server_state.tasks
            self.has_cut = self.has_cut or bool(connections or tasks)
            logging.getLogger("uvicorn.error").disabled = True
            for connection in list(connections):
                connection.transport.abort()

    server = Server(config)
    ended: BaseException | None = None
    try:
        server.run(sockets=[listener])  # which returns where the process ignored the signal when it began
    except (KeyboardInterrupt, SystemExit) as error:  # uvicorn raises the signal again at the end
        ended = error
    finally:
        listener.close()
    if not server.started:
        raise UserError("the server did not start; see the lines above")
    outcome = "requests in progress were cut off" if server.has_cut else "every request was answered"
    show(f"ended: {outcome}")
    sys.stdout.flush()
    if isinstance(ended, SystemExit):
        raise ended
