"""ONNX Runtime Web in a headless Chromium, called from Python.

The page asks this process for inputs and posts the raw outputs back, over the loopback interface: neither
Node nor a driver of browsers is needed, only Chromium and the files of npm's onnxruntime-web.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_PAGE = Path(__file__).with_name("page.html")
_ROOT = Path(__file__).resolve().parents[2]  # its package.json states the version of the runtime
_TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}
_POLL = 5.0  # seconds that the page's question for an input stays open


def missing(modules: str | Path | None = None) -> str | None:
    """What is missing to run it, in words; None if everything is there.

    Args:
        modules: as for ``Browser``.
    """
    if _chromium() is None:
        return "no Chromium (Debian: apt-get install chromium-headless-shell)"
    if not (_files(modules) / "ort.wasm.min.mjs").is_file():
        return "no onnxruntime-web (npm ci --ignore-scripts, in the source folder)"
    return None


def version(modules: str | Path | None = None) -> str:
    """Of onnxruntime-web; arguments as of ``missing``."""
    return json.loads((_files(modules).parent / "package.json").read_text())["version"]


class Browser:
    """A page with an ONNX file in it: (N, C, H, W) float32 -> the outputs, in the order of the file.

    Args:
        model: the ONNX file.
        modules: folder of ``node_modules``; None: ``NODE_MODULES``, or that of the source folder.
        threads: of WebAssembly.
        timeout: seconds that a call may take.

    Raises:
        RuntimeError: the browser or the package is missing.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        modules: str | Path | None = None,
        threads: int = 1,
        timeout: float = 300,
    ):
        reason = missing(modules)
        if reason is not None:
            raise RuntimeError(reason)
        self._timeout = timeout
        self._inputs: queue.Queue[np.ndarray] = queue.Queue()
        self._results: queue.Queue[bytes | RuntimeError] = queue.Queue()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), _handler(self, Path(model).read_bytes(), _files(modules), threads)
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        options = ["--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={self._profile}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium has no sandbox for root
            options.append("--no-sandbox")
        port = self._server.server_address[1]
        self._process = subprocess.Popen(
            [_chromium(), *options, "--remote-debugging-port=0", f"http://127.0.0.1:{port}/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __call__(self, inputs: np.ndarray) -> list[np.ndarray]:
        self._inputs.put(np.ascontiguousarray(inputs, dtype="<f4"))
        try:
            result = self._results.get(timeout=self._timeout)
        except queue.Empty:
            raise RuntimeError(f"the browser has not answered for {self._timeout:g} s") from None
        if isinstance(result, RuntimeError):
            raise result
        return _arrays(result)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._server.shutdown()
        self._server.server_close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _arrays(body: bytes) -> list[np.ndarray]:
    length = int.from_bytes(body[:4], "little")
    arrays, start = [], 4 + length
    for tensor in json.loads(body[4:start]):
        values = np.frombuffer(body, tensor["type"], int(np.prod(tensor["dims"], dtype=int)), start)
        arrays.append(values.reshape(tensor["dims"]))
        start += values.nbytes
    return arrays


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


def _files(modules: str | Path | None) -> Path:
    folder = modules or os.environ.get("NODE_MODULES") or _ROOT / "node_modules"
    return Path(folder) / "onnxruntime-web" / "dist"


def _handler(browser: Browser, model: bytes, files: Path, threads: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/":
                self._reply(_PAGE.read_bytes(), ".html")
            elif self.path == "/settings":
                self._reply(json.dumps({"threads": threads}).encode())
            elif self.path == "/model":
                self._reply(model)
            elif self.path == "/next":
                self._next()
            elif self.path.startswith("/ort/") and (files / Path(self.path).name).is_file():
                name = Path(self.path).name
                self._reply((files / name).read_bytes(), Path(name).suffix)
            else:
                self._reply(b"", status=404)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            failed = self.path == "/failed"
            browser._results.put(RuntimeError(body.decode(errors="replace")) if failed else body)
            self._reply(b"")

        def _next(self) -> None:
            try:
                inputs = browser._inputs.get(timeout=_POLL)
            except queue.Empty:
                self._reply(b"", status=204)
            else:
                self._reply(inputs.tobytes(), shape=",".join(map(str, inputs.shape)))

        def _reply(self, body: bytes, suffix: str = "", *, status: int = 200, shape: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", _TYPES.get(suffix, "application/octet-stream"))
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            # threads of WebAssembly need a page that is isolated from others
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            if shape:
                self.send_header("X-Shape", shape)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
