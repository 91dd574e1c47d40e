"""Connections without a request are bounded in number and time; others are left alone."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

import uvicorn

from hardnet_suite.serving.connections import ACCEPTED, connection_class, most_connections

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@asynccontextmanager
async def serving(answered: asyncio.Event, **bounds):
    """The port of a server that answers once ``answered`` is set."""

    async def app(scope, receive, send):
        await answered.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    protocol = connection_class(**bounds)
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, port=0, backlog=ACCEPTED)
    server = uvicorn.Server(config)
    server.capture_signals = nullcontext
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        answered.set()
        server.should_exit = True
        await task


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    """The answer; empty where the connection ends without one."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        return head + await reader.readexactly(2)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def test_of_too_many_the_one_closes_that_waits_longest():
    async def connect() -> tuple[list[bytes], bytes]:
        answered = asyncio.Event()
        async with serving(answered, most=4, seconds=600) as port:
            asking = await asyncio.open_connection("127.0.0.1", port)
            asking[1].write(HEAD + b"\r\n")
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
            closed = [reader.read() for reader, _ in idle[:-3]]
            ended = await asyncio.wait_for(asyncio.gather(*closed, return_exceptions=True), 30)
            assert all(each == b"" or isinstance(each, ConnectionError) for each in ended)
            answered.set()
            for _, writer in idle[-3:]:
                writer.write(HEAD + b"\r\n")
            left = [await answer_of(reader) for reader, _ in idle[-3:]]
            return left, await answer_of(asking[0])

    left, first = asyncio.run(connect())
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in (*left, first))


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD])
def test_a_connection_without_a_whole_head_closes(sent):
    async def wait() -> bytes:
        async with serving(asyncio.Event(), most=9, seconds=0.2) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), 30)

    assert asyncio.run(wait()) == b""


def test_a_request_in_progress_is_no_idle_connection():
    async def ask() -> tuple[bytes, bytes]:
        answered = asyncio.Event()
        async with serving(answered, most=9, seconds=0.2) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD + b"\r\n")
            asyncio.get_running_loop().call_later(0.6, answered.set)
            answer = await answer_of(reader)
            return answer, await asyncio.wait_for(reader.read(), 30)  # it waits for the next request

    answer, end = asyncio.run(ask())
    assert (answer[:12], end) == (b"HTTP/1.1 200", b"")


def test_connections_leave_file_descriptors(monkeypatch):
    resource = pytest.importorskip("resource")
    for limit, most in ((1024, 896), (100, 8), (resource.RLIM_INFINITY, 4096)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert most_connections() == most
