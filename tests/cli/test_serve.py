"""``serve`` and ``demo`` as processes: they answer, and end when they are told to."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hardnet_suite.cli.samples import SAMPLES
from hardnet_suite.cli.serve import parsed_model
from hardnet_suite.errors import UserError

pytest.importorskip("uvicorn", reason="the extra serve is not installed")


class Server:
    """A server on a free port, started and stopped as in a shell."""

    def __init__(self, *arguments: str, ignored: bool = False):
        """``ignored``: SIGINT and SIGTERM, as where a script starts it with ``&``."""
        command = [sys.executable, "-m", "hardnet_suite", *arguments, "--port", "0", "--threads", "1"]
        trap = "trap '' INT TERM" if ignored else ":"
        self.process = subprocess.Popen(
            ["sh", "-c", f'{trap}; exec "$@"', "sh", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.address = found[0]
                return
        raise AssertionError(self.process.stderr.read())

    def ask(self, path: str, content: bytes | None = None):
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}{path}", content, timeout=60) as response:
                    return response.read()
            except urllib.error.HTTPError:
                raise
            except OSError:  # it listens, and does not answer yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def end(self, how: int) -> tuple[int, str]:
        self.process.send_signal(how)
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output + errors


def health(address: str) -> subprocess.CompletedProcess:
    """What the container's HEALTHCHECK finds at an address."""
    text = (Path(__file__).resolve().parents[2] / "Dockerfile").read_text()
    (command,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.+?\])$", text, re.MULTILINE | re.DOTALL)
    program, *arguments = json.loads(command)
    assert program == "python"
    assert "http://127.0.0.1:8000/" in arguments[-1]
    arguments[-1] = arguments[-1].replace("http://127.0.0.1:8000", address)
    return subprocess.run([sys.executable, *arguments], capture_output=True, check=False, timeout=60)


def test_serve_answers_and_ends(tmp_path):
    server = Server(
        "serve", "--model", "hardnet39ds:tiny_imagenet10", "--model", "two=hardnet39ds:tiny_imagenet10"
    )
    try:
        models = json.loads(server.ask("/v1/models"))["models"]
        assert [model["name"] for model in models] == ["hardnet39ds", "two"]
        assert "weights" not in models[0]
        content = (SAMPLES / "bus.jpg").read_bytes()
        answer = json.loads(server.ask("/v1/predict?model=two&top=1", content))
        assert answer["names"] == ["school bus"]
        assert health(server.address).returncode == 0
        with pytest.raises(urllib.error.HTTPError) as refused:  # while it is still being sent
            server.ask("/v1/predict", bytes(40 << 20))
        assert (refused.value.code, list(json.loads(refused.value.read()))) == (413, ["error"])
    finally:
        status, output = server.end(signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert "every request was answered" in output
    assert "Traceback" not in output
    assert health(server.address).returncode == 1


def test_requests_in_progress_are_answered_before_it_ends():
    from concurrent.futures import ThreadPoolExecutor

    server = Server("serve", "--model", "ssd320_hardnet39ds:bccd", "--batch-size", "1")
    content = (SAMPLES / "cells.jpg").read_bytes()
    try:
        server.ask("/v1/predict", content)
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(server.ask, "/v1/predict", content) for _ in range(12)]
            deadline = time.monotonic() + 30
            while not any(answer.done() for answer in answers) and time.monotonic() < deadline:
                time.sleep(0.01)
            text = server.ask("/metrics").decode()
            (taken,) = re.findall(r"requests_in_progress\{.*\} (\d+)", text)
            status, output = server.end(signal.SIGINT)
            lengths = {
                len(json.loads(answer.result())["scores"]) for answer in answers if not answer.exception()
            }
            failed = sum(answer.exception() is not None for answer in answers)
    finally:
        server.process.kill()
    assert (status, "Traceback" in output) == (0, False)
    assert len(lengths) == 1
    assert failed <= 12 - int(taken)  # those that had not come in yet, at most


def test_an_answer_that_is_not_received_is_told_at_the_end():
    import io

    import numpy as np
    from PIL import Image

    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (1800, 1800, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "BMP")  # its drawing is larger than what sockets hold
    server = Server("serve", "--model", "hardnet39ds:tiny_imagenet10", "--timeout", "8")
    try:
        server.ask("/healthz")
        content = stream.getvalue()
        host, _, port = server.address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"POST /v1/predict?include=drawing HTTP/1.1\r\nHost: {host}\r\n"
            client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
            status, output = server.end(signal.SIGTERM)
    finally:
        server.process.kill()
    assert status == 128 + signal.SIGTERM
    assert "ended: requests in progress were cut off" in output
    assert "an answer was cut off: not received within 8 s" in output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_ignored_signals_ends_and_tells_so(how):
    server = Server("serve", "--model", "hardnet39ds:tiny_imagenet10", ignored=True)
    try:
        server.ask("/healthz")
        status, output = server.end(how)
    finally:
        server.process.kill()
    assert (status, output.splitlines()) == (0, ["ended: every request was answered"])


@pytest.mark.parametrize("ignored", [False, True])
def test_a_second_interrupt_cuts_off_what_is_in_progress(ignored):
    server = Server("serve", "--model", "hardnet39ds:tiny_imagenet10", ignored=ignored)
    try:
        server.ask("/healthz")
        host, _, port = server.address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\n".encode())
            deadline = time.monotonic() + 30
            while b'progress{model="hardnet39ds"} 1' not in server.ask("/metrics"):
                assert time.monotonic() < deadline
            server.process.send_signal(signal.SIGINT)
            while True:  # until the first one has been seen
                try:
                    socket.create_connection((host, int(port)), timeout=60).close()
                except OSError:
                    break
                assert time.monotonic() < deadline
                time.sleep(0.05)
            status, output = server.end(signal.SIGINT)  # which waits less long than --timeout
            try:
                answer = client.recv(100)
            except ConnectionError:
                answer = b""
    finally:
        server.process.kill()
    assert (status, answer, output.splitlines()) == (0, b"", ["ended: requests in progress were cut off"])


def test_demo_has_every_task():
    server = Server("demo")
    try:
        answer = json.loads(server.ask("/v1/models"))
        assert {model["task"] for model in answer["models"]} == {
            "classification",
            "detection",
            "segmentation",
        }
        assert answer["match"]
        for task, names in answer["samples"].items():
            assert all(server.ask(f"/samples/{task}/{name}").startswith(b"\xff\xd8") for name in names)
        assert b"<title>hardnet_suite</title>" in server.ask("/")
    finally:
        status, output = server.end(signal.SIGINT)
    assert (status, "Traceback" in output) == (0, False)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("fchardnet70", ("fchardnet70", "fchardnet70", None)),
        ("fchardnet70:camvid", ("fchardnet70", "fchardnet70", "camvid")),
        ("streets=fchardnet70:camvid", ("streets", "fchardnet70", "camvid")),
        ("a=runs/one.pth", ("a", "runs/one.pth", None)),
        ("runs/a:b/one.pth", ("runs/a:b/one.pth", "runs/a:b/one.pth", None)),
        ("runs/lr=0.1/one.pth", ("runs/lr=0.1/one.pth", "runs/lr=0.1/one.pth", None)),
        ("x=runs/lr=0.1/one.pth", ("x", "runs/lr=0.1/one.pth", None)),
    ],
)
def test_models_are_named(word, parts):
    assert parsed_model(word) == parts


@pytest.mark.parametrize("word", ["", "=", "a=", "=fchardnet70", "fchardnet70:", ":camvid", "a=:camvid"])
def test_words_that_name_no_model(word):
    with pytest.raises(UserError, match="expected"):
        parsed_model(word)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "99999"], "--port 99999: expected 0 to 65535"),
        (["--queue", "0"], "--queue 0: expected at least 1"),
        (["--delay", "90"], "--delay 90 --timeout 60: expected seconds, 0 ≤ delay < timeout"),
        (["--max-megapixels", "0"], "--max-megapixels 0.0"),
        (["--max-megapixels", "inf"], "--max-megapixels inf"),
        (["--max-megapixels", "900"], "no image of more than"),
        (["--timeout", "inf"], "--delay 0 --timeout inf: expected seconds, 0 ≤ delay < timeout"),
        (["--allowed-host", "name:80"], "without port"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
    ],
)
def test_bad_options_are_one_line(cli, arguments, text):
    status, _, err = cli("serve", "--model", "hardnet39ds:tiny_imagenet10", *arguments)
    assert status == 2
    assert text in err
    assert err.count("\n") == 1


def test_two_models_of_one_name(cli):
    model = ("--model", "hardnet39ds:tiny_imagenet10")
    status, _, err = cli("serve", *model, *model)
    assert (status, "give OTHER_NAME=hardnet39ds:tiny_imagenet10" in err) == (2, True)
    named = ("--model", "two=hardnet39ds:tiny_imagenet10")
    status, _, err = cli("serve", *named, *named)
    assert (status, "give OTHER_NAME=hardnet39ds:tiny_imagenet10" in err) == (2, True)
