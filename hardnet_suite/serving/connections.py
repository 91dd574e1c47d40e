"""uvicorn's connections, within bounds: clients that only connect take no place from others for long."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_RESERVED = 128  # file descriptors that are no connections, or of some that are closing
_UNLIMITED = 4096  # connections where the system has no limit, or does not tell it
_FEWEST = 8
_uvicorns: Any = AutoHTTPProtocol

# Connections that asyncio accepts at a time: it knows of each only later, so that more could use up the file
# descriptors of the process before the first is refused.
ACCEPTED = 8


def most_connections() -> int:
    """As many connections as this process may hold, by its limit of file descriptors."""
    try:
        import resource
    except ImportError:  # Windows
        return _UNLIMITED
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, -1):
        return _UNLIMITED
    return int(max(_FEWEST, min(soft - _RESERVED, _UNLIMITED)))


def connection_class(*, most: int, seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, for ``uvicorn.Config(http=…)``, which closes connections that ask nothing.

    uvicorn waits for a request for ever, on any number of connections. Without file descriptors left,
    asyncio accepts none, and logs a traceback for each try, thousands a second.

    Args:
        most: the most connections; of more, the one closes that has waited longest for its client to ask
            something, or the new one where every other has a request in progress.
        seconds: the longest time from the connection, or the end of an answer, to the end of the next
            request's head.
    """

    class Connection(_uvicorns):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._expect_request()
            if len(self.connections) > most:
                # what has closed and is still sending is among them
                idle = [each for each in self.connections if each._timer is not None]
                oldest = min(idle, key=lambda each: each._timer.when())
                self.connections.discard(oldest)  # at once: it is told that it is lost only later
                oldest.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_asked():
                self._cancel_timer()

        def on_response_complete(self) -> None:
            super().on_response_complete()  # which may begin with the next request already
            if not self._is_asked():
                self._expect_request()

        def _is_asked(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _expect_request(self) -> None:
            self._cancel_timer()
            self._timer = asyncio.get_running_loop().call_later(seconds, self.transport.close)

        def _cancel_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection
