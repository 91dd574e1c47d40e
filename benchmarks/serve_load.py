"""A load test of ``hardnet-suite serve``: requests per second, latency, refusals, losses and memory, as JSON.

    python benchmarks/serve_load.py --model hardnet39ds:tiny_imagenet10 --image bus.jpg --clients 1 8 32
    python benchmarks/serve_load.py --model fchardnet70:camvid --image photos/*.jpg --clients 4 --rate 2 \
        --seconds 7200

Starts the server, and for each number of clients keeps that many requests on their way for so many seconds:
each client sends the next one, of the next image, when the last is answered, or later with ``--rate``. An
answer must be that of the first request of its image. The server's resident memory is sampled at the start,
at the end and ``--samples`` times between. Client and server share the machine.
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
            threading.Thread(target=server.stdout.read, daemon=True).start()  # a full pipe would stop it
            return server, int(found[1])
    raise SystemExit("the server did not start")


def resident(process: int) -> int:
    """MiB in memory."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) // 1024  # type: ignore[index]


class Client(threading.Thread):
    """Sends one request after the other until ``end``, each at least ``interval`` seconds after the last."""

    def __init__(self, port: int, contents: dict[bytes, bytes], first: int, end: float, interval: float):
        super().__init__()
        self.port, self.end, self.interval = port, end, interval
        self.contents = list(contents.items())  # file, expected answer
        self.number = first
        self.seconds: list[float] = []
        self.statuses: Counter[str] = Counter()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        due = time.perf_counter()
        while (begin := time.perf_counter()) < self.end:
            if begin < due:
                time.sleep(min(due, self.end) - begin)
                continue
            due += self.interval
            content, expected = self.contents[self.number % len(self.contents)]
            self.number += 1
            try:
                connection.request("POST", "/v1/predict", content)
                response = connection.getresponse()
                answer = response.read()
            except OSError as error:
                self.statuses[type(error).__name__] += 1
                connection.close()
                continue
            self.statuses[str(response.status)] += 1
            if response.status == 200:
                self.seconds.append(time.perf_counter() - begin)
                if rounded(answer) != expected:
                    self.statuses["another answer"] += 1
            else:
                time.sleep(float(response.headers.get("Retry-After", 0)))
        connection.close()


def rounded(answer: bytes) -> bytes:
    """An answer to compare: batches of other sizes round differently, so scores to two digits."""
    values = json.loads(answer)
    values["scores"] = [round(score, 2) for score in values["scores"]]
    return json.dumps({key: values[key] for key in ("model", "labels", "scores")}).encode()


def answers(port: int, images: Sequence[Path]) -> dict[bytes, bytes]:
    """The content of each image and the answer to it, rounded; warms the server up."""
    expected = {}
    for path in [*images, *([images[0]] * WARM_UP)]:
        content = path.read_bytes()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/v1/predict", content)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status != 200:
            raise SystemExit(f"{path}: {response.status} {answer.decode(errors='replace')}")
        expected[content] = rounded(answer)
    return expected


def measure(
    port: int,
    contents: dict[bytes, bytes],
    process: int,
    *,
    clients: int,
    seconds: float,
    rate: float | None,
    samples: int,
) -> dict[str, object]:
    """The figures of one number of clients.

    Args:
        port: of the server.
        contents: of the images, with the expected answers.
        process: of the server.
        clients: how many send at the same time.
        seconds: how long they begin new requests.
        rate: requests per second at most, in all; None: as many as are answered.
        samples: of the memory, between the first and the last.
    """
    memory = [resident(process)]
    begin = time.perf_counter()
    interval = clients / rate if rate else 0
    threads = [Client(port, contents, index, begin + seconds, interval) for index in range(clients)]
    for thread in threads:
        thread.start()
    for index in range(samples):
        time.sleep(max(0, begin + seconds * (index + 1) / (samples + 1) - time.perf_counter()))
        memory.append(resident(process))
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begin
    times = 1000 * np.array([value for thread in threads for value in thread.seconds])
    statuses: Counter[str] = sum((thread.statuses for thread in threads), Counter())
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "requests_per_second": round(len(times) / took, 1),
        **{f"p{share}_ms": round(float(np.percentile(times, share)), 1) for share in (50, 95, 99)},
        "statuses": dict(statuses),
        "resident_mib": [*memory, resident(process)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="as of serve")
    parser.add_argument("--image", type=Path, nargs="+", required=True, help="sent in turn")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=60, help="per number of clients")
    parser.add_argument("--rate", type=float, help="requests per second at most, in all")
    parser.add_argument("--samples", type=int, default=8, help="of the memory, within --seconds")
    parser.add_argument("server_options", nargs="*", help="after --: options of serve")
    args = parser.parse_args()
    server, port = start(["--model", args.model, *args.server_options])
    try:
        contents = answers(port, args.image)
        for clients in args.clients:
            figures = measure(
                port,
                contents,
                server.pid,
                clients=clients,
                seconds=args.seconds,
                rate=args.rate,
                samples=args.samples,
            )
            print(json.dumps(figures), flush=True)
    finally:
        server.terminate()
        server.wait(timeout=120)


if __name__ == "__main__":
    main()
