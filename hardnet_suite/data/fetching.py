"""Fetching over http and https within limits of size, time and redirects: of images and of weights."""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote, urljoin, urlsplit

_CHUNK = 1 << 16  # bytes
_REDIRECTS = (301, 302, 303, 307, 308)
_ATTEMPTS = 100  # connections for one file: a server that closes each after a few bytes is given up
_DELIMITERS = ":/?#[]@!$&'()*+,;=%~"  # what an address may hold unquoted, besides letters and digits


class FetchError(Exception):
    """Why an address cannot be fetched: one line that follows the address in a message."""


class ConnectionLostError(FetchError):
    """A failure of the network or server that another attempt may not meet."""


class UnreachableError(ConnectionLostError):
    """No connection to the host, or the proxy, comes about."""


@dataclass(frozen=True)
class Limits:
    """What fetching one file may take.

    Attributes:
        size: bytes of the file, both declared by the server and received.
        wait: seconds of each wait: to connect, at most ``connect``, or for the next bytes.
        total: seconds for everything, redirects and resumptions included; None: no limit.
        window: seconds within which ``least`` more bytes of the file, or the rest of it, must arrive, however
            steadily the server sends; longer than ``wait``, so that a stalled connection can be resumed.
        least: bytes.
        redirects: how many are followed.
        connect: seconds to look up a host, and to connect to it.
    """

    size: int
    wait: float = 30
    total: float | None = None
    window: float = 60
    least: int = 60 << 10
    redirects: int = 5
    connect: float = 10


def host_of(url: str) -> str:
    """The host of an address in lower case, with its port if it has one."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def unknown_hosts(urls: Iterable[str], wait: float) -> dict[str, str]:
    """The hosts of addresses that have no entry in the name service -> why, as a clause of a message.

    All are looked up side by side: without a network each look-up may wait for seconds. Hosts that a proxy of
    the environment would look up are left out.

    Args:
        urls: http or https addresses.
        wait: seconds for all of them; a host whose look-up has not ended by then is among the answers.
    """
    proxies = urllib.request.getproxies()
    names = {}
    for url in urls:
        parts = urlsplit(url)
        proxied = parts.scheme.lower() in proxies or "all" in proxies
        if parts.hostname and not (proxied and not urllib.request.proxy_bypass(parts.netloc)):
            names[host_of(url)] = parts.hostname
    answers: dict[str, str | None] = {}

    def look_up(host: str, name: str) -> None:
        try:
            socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            answers[host] = None
        except (OSError, UnicodeError) as error:  # UnicodeError: of a name that no host can have
            answers[host] = getattr(error, "strerror", None) or str(error)

    end = time.monotonic() + wait
    threads = [threading.Thread(target=look_up, args=item, daemon=True) for item in names.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"timed out: no answer of the name service for {wait:g} s"
    reasons = {host: answers.get(host, late) for host in names}
    return {host: reason for host, reason in reasons.items() if reason is not None}


def fetch_bytes(url: str, limits: Limits) -> bytes:
    """The file at an address, in memory; arguments and errors are those of ``receive``.

    Raises:
        FetchError: also for an empty file.
    """
    stream = io.BytesIO()
    receive(url, stream, limits)
    if not stream.tell():
        raise FetchError("the answer is empty")
    return stream.getvalue()


def receive(
    url: str,
    stream: BinaryIO,
    limits: Limits,
    *,
    pinned: bool = False,
    progress: Callable[[int, int | None], object] | None = None,
) -> None:
    """Downloads an address into an empty seekable stream; a proxy of the environment is used.

    A connection that breaks is resumed there if the server says that the file is still the same or a hash
    will tell; otherwise the download starts over. It is given up when an attempt brings no more than the one
    before.

    Args:
        url: an http or https address.
        stream: what to write into.
        limits: of size, time and redirects.
        pinned: a hash of the file is known and is compared afterwards: parts may be joined without a version,
            and a redirect may lead from https to http.
        progress: called with the bytes that have arrived, and their number in the end if the server says it.

    Raises:
        FetchError: the address is not http or https, holds a password or is invalid; the server is
            unavailable, answers with an error, with less than it declares or not in HTTP; or a limit is
            exceeded.
        OSError: the stream cannot be written.
    """
    clock = _Clock(limits)
    size, version = 0, None  # the version is the server's word for it
    for attempt in range(1, _ATTEMPTS + 1):
        before = size
        part = {}
        if size and (version or pinned):
            part["Range"] = f"bytes={size}-"
            if version:
                part["If-Range"] = version
        try:
            with contextlib.closing(_open(url, part, clock, pinned)) as response:
                if response.status == 206:
                    if not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
                        raise FetchError("the server sends another part of the file than was requested")
                else:  # not every server sends parts
                    size = 0
                    stream.seek(0)
                    stream.truncate()
                tag = response.headers.get("ETag", "")
                version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
                declared = _declared(response)
                total = None if declared is None else size + declared
                if total is not None and total > limits.size:
                    raise FetchError(f"{total} bytes, the limit is {limits.size}")
                for chunk in _chunks(response, declared, clock):
                    size += len(chunk)
                    if size > limits.size:
                        raise FetchError(f"more than {limits.size} bytes, the limit")
                    stream.write(chunk)
                    if progress is not None:
                        progress(size, total)
            if total is not None and size < total:
                raise ConnectionLostError(f"cut short: {size} of {total} bytes")
            return
        except ConnectionLostError:
            if size <= before or attempt == _ATTEMPTS:
                raise


def shown(url: str) -> str:
    """An address as messages show it: on one line, without user name and password."""
    url = re.sub(r"(?<=://)[^/?#]*@", "***@", url, count=1)
    return "".join(letter if letter.isprintable() else quote(letter, errors="replace") for letter in url)


class _Clock:
    """What is left of the time, over all connections for one file."""

    def __init__(self, limits: Limits):
        self.limits = limits
        now = time.monotonic()
        self._end = math.inf if limits.total is None else now + limits.total
        self._window_end = now + limits.window
        self._arrived = 0  # bytes in this window

    def count(self, size: int) -> None:
        self._arrived += size
        if self._arrived >= self.limits.least:
            self._arrived = 0
            self._window_end = time.monotonic() + self.limits.window

    def allowance(self) -> float:
        """Seconds that the next wait may take; FetchError when there are none."""
        now, limits = time.monotonic(), self.limits
        if now >= self._end:
            raise FetchError(f"timed out: not complete after {limits.total:g} s")
        if now >= self._window_end:
            raise FetchError(f"timed out: fewer than {limits.least} bytes in {limits.window:g} s")
        return min(limits.wait, self._end - now, self._window_end - now)


class _TimedStream(io.RawIOBase):
    """The receiving end of a socket whose every wait is as long as the clock allows.

    A timeout of the socket alone starts anew with each byte, so that neither headers nor a body would end.
    """

    def __init__(self, sock: socket.socket, clock: _Clock):
        self._sock, self._clock = sock, clock
        self._stream = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        self._sock.settimeout(self._clock.allowance())
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _TimedSocket:
    """What http.client needs of a socket to read an answer."""

    def __init__(self, sock: socket.socket, clock: _Clock):
        self._sock, self._clock = sock, clock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedStream(self._sock, self._clock))


class _TimedHandler(urllib.request.HTTPHandler):
    """urllib's connections, whose answers, those of a proxy included, are read by the clock."""

    https_request = urllib.request.HTTPHandler.http_request

    def __init__(self, clock: _Clock):
        super().__init__()
        self._clock = clock

    def http_open(self, request):
        return self.do_open(self._connect(http.client.HTTPConnection), request)

    def https_open(self, request):
        return self.do_open(self._connect(http.client.HTTPSConnection), request)

    def _connect(self, kind: type[http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        def response(sock, *args, **kwargs):
            return http.client.HTTPResponse(_TimedSocket(sock, self._clock), *args, **kwargs)

        def connect(host, **kwargs):
            connection = kind(host, **kwargs)
            connection.response_class = response
            return connection

        return connect


def _open(url: str, part: dict[str, str], clock: _Clock, pinned: bool) -> http.client.HTTPResponse:
    """The answer to a request for the file, or for the part of it that the headers ``part`` name."""
    # none of urllib's own handlers for errors and redirects, which read whole bodies, nor for files and ftp
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), _TimedHandler(clock), urllib.request.UnknownHandler()):
        opener.add_handler(handler)
    headers = {"User-Agent": "hardnet-suite", "Accept-Encoding": "identity", **part}
    with _network_errors(clock):
        url = _sendable(url)
        for _ in range(clock.limits.redirects + 1):
            wait = min(clock.allowance(), clock.limits.connect)
            response = opener.open(urllib.request.Request(url, headers=headers), timeout=wait)
            if response.status not in _REDIRECTS:
                break
            response.close()
            # http.client decodes headers as Latin-1
            target = urljoin(url, response.headers.get("Location", "").strip())
            if url.lower().startswith("https:") and target.lower().startswith("http:") and not pinned:
                raise FetchError(f"a redirect from https to http: {shown(target)[:200]}")
            url = _sendable(target, encoding="latin-1")
        else:
            raise FetchError(f"more than {clock.limits.redirects} redirects")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    with contextlib.ExitStack() as failing:
        failing.callback(response.close)
        if response.status not in (200, 203) and not (response.status == 206 and part):
            raise FetchError(f"HTTP {response.status}")
        if encoding not in ("", "identity"):
            raise FetchError(f"the server compresses the file ({encoding[:20]!r}), which was not requested")
        failing.pop_all()
    return response


def _sendable(url: str, encoding: str = "utf-8") -> str:
    """An address as browsers send it, with spaces and the like quoted."""
    if not re.match("https?://", url, re.IGNORECASE):
        raise FetchError(f"only http and https addresses are fetched, got {shown(url)[:200]}")
    if "@" in re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]:
        raise FetchError("an address with a user name or password, which is not supported")
    return quote(url, safe=_DELIMITERS, encoding=encoding)


def _declared(response: http.client.HTTPResponse) -> int | None:
    """The size of the body that the server declares, in bytes, if it does."""
    lengths = set(response.headers.get_all("Content-Length", ()))
    if response.chunked or not lengths:
        return None
    length = lengths.pop().strip()
    if lengths or not re.fullmatch("[0-9]{1,30}", length):
        raise FetchError(f"expected a Content-Length in bytes, got {length[:30]!r}")
    return int(length)


def _chunks(response: http.client.HTTPResponse, declared: int | None, clock: _Clock) -> Iterator[bytes]:
    """The body in pieces as they arrive, up to the declared size; it may end sooner."""
    left = math.inf if declared is None else declared
    while left:
        with _network_errors(clock):
            chunk = response.read1(min(_CHUNK, left))
        if not chunk:
            return
        clock.count(len(chunk))
        left -= len(chunk)
        yield chunk


@contextlib.contextmanager
def _network_errors(clock: _Clock) -> Iterator[None]:
    """Turns what urllib, http.client and sockets raise into one line."""
    kind, wait = ConnectionLostError, clock.limits.wait
    try:
        yield
        return
    except http.client.InvalidURL as error:
        raise FetchError(f"an invalid address: {error}") from None
    except http.client.IncompleteRead:
        message = "cut short"
    except (OSError, http.client.HTTPException) as error:
        reason = error
        if isinstance(error, urllib.error.URLError):  # urllib's, before there is an answer to read
            kind, wait, reason = UnreachableError, min(wait, clock.limits.connect), error.reason
        if isinstance(reason, TimeoutError):
            clock.allowance()  # whose error it is if that time is up
            message = f"timed out: no answer for {wait:g} s"
        elif isinstance(reason, http.client.HTTPException) and not isinstance(reason, OSError):
            message = f"the answer is not valid HTTP ({type(reason).__name__})"
        else:
            message = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    except ValueError as error:
        raise FetchError(f"an invalid address: {error}") from None
    raise kind(message.replace("\n", " "))
