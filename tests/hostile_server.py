"""A web server on this machine that answers well, badly or never: one behaviour per path."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STEP = 0.05  # seconds between the bytes of a slow answer
RIGHT = ("ok", "chunked", "unsized", "moved", "moved_endlessly")  # behaviours that end with the file


class HostileServer:
    """``/slow.jpg`` behaves as the method ``slow`` below; the file that the good ones serve is ``body``."""

    def __init__(self, body: bytes):
        self.body = body
        self.closing = threading.Event()
        outer = self

        class Handler(_Handler):
            server_of_test = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_of_test: HostileServer

    def do_GET(self):
        behaviour, _, self.suffix = self.path.strip("/").partition("?")[0].rpartition(".")
        try:
            getattr(self, behaviour)(self.server_of_test.body)
        except OSError:  # the client has left
            self.close_connection = True

    def log_message(self, *args):
        pass

    def head(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def slowly(self, piece: bytes):
        while not self.server_of_test.closing.wait(STEP):
            self.wfile.write(piece)

    def endlessly(self, piece: bytes):
        while not self.server_of_test.closing.is_set():
            self.wfile.write(piece)

    def ok(self, body):
        self.head(Content_Length=len(body))
        self.wfile.write(body)

    def chunked(self, body):
        self.protocol_version = "HTTP/1.1"
        self.head(Transfer_Encoding="chunked")
        for start in range(0, len(body), 100):
            piece = body[start : start + 100]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def unsized(self, body):
        self.head()
        self.wfile.write(body)

    def moved(self, body):
        self.head(302, Location=f"/ok.{self.suffix}")

    def moved_endlessly(self, body):
        self.head(302, Location=f"/ok.{self.suffix}")
        self.endlessly(bytes(1 << 16))

    def loop(self, body):
        self.head(302, Location=self.path)

    def nowhere(self, body):
        self.head(302)

    def to_file(self, body):
        self.head(302, Location="file:///etc/passwd")

    def to_ftp(self, body):
        self.head(302, Location="ftp://127.0.0.1:9/x")

    def to_data(self, body):
        self.head(302, Location="data:text/plain,x")

    def to_password(self, body):
        self.head(302, Location=f"http://user:secret@127.0.0.1:{self.server.server_port}/ok.jpg")

    def to_nonsense(self, body):
        self.head(302, Location="http://[::1/\x1b[31m.jpg")

    def short(self, body):
        self.head(Content_Length=len(body) + 500)
        self.wfile.write(body)

    def long(self, body):
        self.head(Content_Length=len(body) - 100)
        self.wfile.write(body)

    def negative(self, body):
        self.head(Content_Length=-5)
        self.wfile.write(body)

    def wordy(self, body):
        self.head(Content_Length="abc")
        self.wfile.write(body)

    def contradictory(self, body):
        self.send_response(200)
        for size in (len(body), 5):
            self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(body)

    def huge(self, body):
        self.head(Content_Length=2**62)
        self.wfile.write(body)

    def compressed(self, body):
        packed = gzip.compress(body)
        self.head(Content_Encoding="gzip", Content_Length=len(packed))
        self.wfile.write(packed)

    def bomb(self, body):
        self.compressed(bytes(10**7))

    def endless(self, body):
        self.head()
        self.endlessly(bytes(1 << 16))

    def endless_chunks(self, body):
        self.protocol_version = "HTTP/1.1"
        self.head(Transfer_Encoding="chunked")
        self.endlessly(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    def slow(self, body):
        self.head(Content_Length=10**6)
        self.slowly(b"x")

    def slow_chunks(self, body):
        self.protocol_version = "HTTP/1.1"
        self.head(Transfer_Encoding="chunked")
        self.slowly(b"1\r\nx\r\n")

    def slow_headers(self, body):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        self.slowly(b"X-A: b\r\n")

    def slow_status(self, body):
        self.slowly(b"H")

    def slow_continue(self, body):
        self.slowly(b"HTTP/1.1 100 Continue\r\n\r\n")

    def endless_header(self, body):
        self.endlessly(b"X" * 1000)

    def endless_headers(self, body):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        self.endlessly(b"X-A: b\r\n")

    def never(self, body):
        self.server_of_test.closing.wait()

    def stalled(self, body):
        self.head(Content_Length=len(body))
        self.wfile.write(body[:10])
        self.server_of_test.closing.wait()

    def dropped(self, body):
        """One byte per connection, wherever the client wants it."""
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        status, part = (206, {"Content_Range": f"bytes {start}-999999/1000000"}) if start else (200, {})
        self.head(status, Content_Length=10**6 - start, ETag='"one"', **part)
        self.wfile.write(b"x")

    def html(self, body):
        self.head(Content_Type="text/html")
        self.wfile.write(b"<html>")

    def empty(self, body):
        self.head(Content_Length=0)

    def no_content(self, body):
        self.head(204)

    def partial(self, body):
        self.head(206, Content_Length=len(body))
        self.wfile.write(body)

    def garbage(self, body):
        self.wfile.write(b"\x00\xff\xfe garbage\x1b[31m\n")

    def escape(self, body):
        self.wfile.write(b"HTTP/1.0 404 \x1b[31mred\r\n\r\n")

    def closed(self, body):
        self.close_connection = True

    def bad_chunks(self, body):
        self.protocol_version = "HTTP/1.1"
        self.head(Transfer_Encoding="chunked")
        self.wfile.write(b"ZZZ\r\nabc")

    def missing(self, body):
        self.head(404, Content_Length=len(body))
        self.wfile.write(body)
