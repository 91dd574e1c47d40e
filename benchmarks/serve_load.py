"""A load test of ``hardnet-suite serve``: requests per second, latency, refusals, losses and memory, as JSON.

    python benchmarks/serve_load.py --model hardnet39ds:tiny_imagenet10 --image bus.jpg --clients 1 8 32

Starts the server, and for each number of clients keeps that many requests on their way for so many seconds:
each client sends the next one when the last is answered. An answer must be that of the first request. Client
and server share the machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WARM_UP = 5  # requests


def start(arguments: Sequence[str]) -> tuple[subprocess.Popen[str], int]:
    """The server and its port."""
    command = [sys.executable, "-m", "hardnet_suite", "serve", "--port", "0", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            return server, int(found[1])
    raise SystemExit("the server did not start")


def resident(process: int) -> int:
    """MiB in memory."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) // 1024  # type: ignore[index]


class Client(threading.Thread):
    """Sends one request after the other until ``end``."""

    def __init__(self, port: int, content: bytes, expected: bytes | None, end: float):
        super().__init__()
        self.port, self.content, self.expected, self.end = port, content, expected, end
        self.seconds: list[float] = []
        self.statuses: Counter[str] = Counter()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        while time.perf_counter() < self.end:
            begin = time.perf_counter()
            try:
                connection.request("POST", "/v1/predict", self.content)
                response = connection.getresponse()
                answer = response.read()
            except OSError as error:
                self.statuses[type(error).__name__] += 1
                connection.close()
                continue
            self.statuses[str(response.status)] += 1
            if response.status == 200:
                self.seconds.append(time.perf_counter() - begin)
                if self.expected is not None and rounded(answer) != self.expected:
                    self.statuses["another answer"] += 1
            else:
                time.sleep(float(response.headers.get("Retry-After", 0)))
        connection.close()


def rounded(answer: bytes) -> bytes:
    """An answer to compare: batches of other sizes round differently, so scores to two digits."""
    values = json.loads(answer)
    values["scores"] = [round(score, 2) for score in values["scores"]]
    return json.dumps({key: values[key] for key in ("model", "labels", "scores")}).encode()


def measure(port: int, content: bytes, clients: int, seconds: float, process: int) -> dict[str, object]:
    expected = None
    for _ in range(WARM_UP):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/v1/predict", content)
        expected = rounded(connection.getresponse().read())
        connection.close()
    before = resident(process)
    begin = time.perf_counter()
    threads = [Client(port, content, expected, begin + seconds) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begin
    times = 1000 * np.array([value for thread in threads for value in thread.seconds])
    statuses: Counter[str] = sum((thread.statuses for thread in threads), Counter())
    return {
        "clients": clients,
        "requests_per_second": round(len(times) / took, 1),
        **{f"p{share}_ms": round(float(np.percentile(times, share)), 1) for share in (50, 95, 99)},
        "statuses": dict(statuses),
        "resident_mib": [before, resident(process)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="as of serve")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=60, help="per number of clients")
    parser.add_argument("server_options", nargs="*", help="after --: options of serve")
    args = parser.parse_args()
    content = args.image.read_bytes()
    server, port = start(["--model", args.model, *args.server_options])
    try:
        for clients in args.clients:
            print(json.dumps(measure(port, content, clients, args.seconds, server.pid)), flush=True)
    finally:
        server.terminate()
        server.wait(timeout=120)


if __name__ == "__main__":
    main()
