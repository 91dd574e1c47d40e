"""``torchrun … -m hardnet_suite predict``: what one process gives, in one file, in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.prediction.writer import JSON_LINES

MODEL = ("--model", "ssd320_hardnet39ds", "--weights", "bccd", "--score", "0.01", "--top", "3")


@pytest.fixture
def images(tmp_path):
    """Seven images in two folders, two of them of one name; the third cannot be read."""
    random = np.random.default_rng(0)
    folder = tmp_path / "in"
    for name in ("a/0.png", "a/1.png", "a/3.png", "b/0.png", "b/1.jpg", "c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / name)
    (folder / "a/2.png").write_bytes(b"no image")
    return folder


def start(*arguments, ranks=2, **variables):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    command = [sys.executable, *torchrun, "-m", "hardnet_suite", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_processes_give_what_one_gives(cli, images, tmp_path):
    out = tmp_path / "out"
    assert cli("predict", images / "b", *MODEL, "--out", out)[0] == 0  # lines of an earlier run
    before = content(out)
    running = start("predict", images, *MODEL, "--out", out)
    text, err = running.communicate(timeout=300)
    assert running.returncode == 1  # for the image that was skipped
    on_ranks = content(out)
    for name in on_ranks:
        (out / name).unlink()
    for name, data in before.items():
        (out / name).write_bytes(data)
    status, expected, skipped = cli("predict", images, *MODEL, "--out", out)
    assert status == 1
    assert text.splitlines() == expected.splitlines()
    assert skipped in err
    ours, theirs = on_ranks.pop(JSON_LINES), content(out)
    # one process brings each line into the file at once, the ranks all of them together
    assert ours == theirs.pop(JSON_LINES)
    assert on_ranks == theirs


@pytest.mark.parametrize("model", [MODEL, ("--model", "fchardnet70", "--weights", "camvid")])
def test_lines_of_shards_and_folders(cli, images, tmp_path, model):
    """Without drawings; the third image of the folder cannot be read, the second shard is cut short."""
    for name, folder in (("s-0.tar", "a"), ("s-1.tar", "b")):
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(images / folder, folder)
    whole = (tmp_path / "s-1.tar").read_bytes()
    (tmp_path / "s-1.tar").write_bytes(whole.rstrip(b"\0"))
    arguments = ("predict", f"{tmp_path}/s-{{0..1}}.tar", images, *model, "--out")
    running = start(*arguments, tmp_path / "ranks.jsonl", ranks=3)
    text, err = running.communicate(timeout=300)
    assert running.returncode == 1  # for what was skipped
    status, expected, skipped = cli(*arguments, tmp_path / "one.jsonl")
    assert status == 1
    assert text.splitlines() == expected.replace("one.jsonl", "ranks.jsonl").splitlines()
    for line in skipped.splitlines():
        assert line in err
    assert "s-0.tar/a/2.png" in skipped
    assert "s-1.tar is " in skipped
    lines = (tmp_path / "one.jsonl").read_text()
    assert (tmp_path / "ranks.jsonl").read_text() == lines
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["name"].removeprefix(f"{tmp_path}/") for row in rows] == [
        *(f"s-0.tar/a/{number}.png" for number in range(4)),
        *("s-1.tar/b/0.png", "s-1.tar/b/1.jpg", "s-1.tar"),
        *(f"in/a/{number}.png" for number in range(4)),
        *("in/b/0.png", "in/b/1.jpg", "in/c.png"),
    ]
    failures = {index: row["error"] for index, row in enumerate(rows) if "error" in row}
    assert list(failures) == [2, 6, 9]
    assert skipped.splitlines() == [f"skipped: {reason}" for reason in failures.values()]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in",
        "one.jsonl",
        "ranks.jsonl",
        "s-0.tar",
        "s-1.tar",
    ]


def test_a_single_shard_that_is_cut_short_is_an_error_on_ranks_too(cli, images, tmp_path):
    """Not a file of lines without those of the lost images."""
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(images / "b", "b")
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes().rstrip(b"\0"))
    arguments = ("predict", tmp_path / "s.tar", *MODEL, "--out")
    running = start(*arguments, tmp_path / "ranks.jsonl", ranks=2)
    _, err = running.communicate(timeout=300)
    assert running.returncode
    assert "error: " in err
    assert "s.tar is " in err
    status, _, message = cli(*arguments, tmp_path / "one.jsonl")
    assert status == 2
    assert "s.tar is " in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "s.tar"]


@pytest.fixture
def as_ranks(monkeypatch):
    """A process that is rank 0 of two; rank 1 is a thread of it."""
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    values, numbers = {}, iter(range(2))

    class Thread:
        size = 2

        def __init__(self):
            self.rank = next(numbers)

        def tell(self, key, value):
            values[key] = json.loads(json.dumps(value))

        def hear(self, key):
            while key not in values:
                time.sleep(0.01)
            return values[key]

        def device(self):
            return None

    monkeypatch.setattr("hardnet_suite.prediction.ranks.Ranks", Thread)


@pytest.mark.parametrize("times", [1, 2], ids=["fewer images than processes", "an image given twice"])
def test_single_images(cli, images, tmp_path, as_ranks, monkeypatch, times):
    from hardnet_suite.cli import _predict_on_ranks

    predict = _predict_on_ranks.predict_on_ranks
    threads = []

    def both(args):
        _predict_on_ranks.predict_on_ranks = predict
        threads.append(threading.Thread(target=lambda: (time.sleep(0.2), predict(args))))
        threads[0].start()
        return predict(args)

    monkeypatch.setattr(_predict_on_ranks, "predict_on_ranks", both)
    arguments = ("predict", *[images / "c.png"] * times, *MODEL, "--out")
    shared = cli(*arguments, tmp_path / "ranks")
    threads[0].join()
    monkeypatch.undo()
    alone = cli(*arguments, tmp_path / "one")
    assert shared[0] == alone[0] == 0
    assert shared[1].replace("ranks", "one") == alone[1]
    assert content(tmp_path / "ranks") == content(tmp_path / "one")
    assert alone[1].endswith(f"1 image: {tmp_path / 'one'}\n")
    assert len(alone[1].splitlines()) == 2 + times  # the weights, a prediction each, the total


def test_an_error_is_told_once_and_ends_all(images, tmp_path):
    (tmp_path / "empty").mkdir()
    running = start("predict", tmp_path / "empty", *MODEL, "--out", tmp_path / "out")
    _, err = running.communicate(timeout=300)
    assert running.returncode == 1
    assert err.count("error: no images in ") == 1
    assert not (tmp_path / "out").exists()


SLOW = """
import os, pathlib, sys, time
from hardnet_suite.prediction.result import Prediction
draw = Prediction.draw
def slow(self, **options):
    pathlib.Path(os.environ["BEGUN"], os.environ["RANK"]).write_text(str(os.getpid()))
    if os.environ["RANK"] == "1":
        time.sleep(60)
    return draw(self, **options)
Prediction.draw = slow
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_rank_that_is_killed_leaves_no_merged_file(cli, images, tmp_path):
    """The other one has ended its share by then, and waits."""
    out, begun = tmp_path / "out", tmp_path / "begun"
    assert cli("predict", images / "b", *MODEL, "--out", out)[0] == 0
    before = content(out)
    begun.mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'RANK' in os.environ:\n"
        f"    sys.path.insert(0, {os.getcwd()!r})\n"
        + "".join(f"    {line}\n" for line in SLOW.strip().splitlines())
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    running = start("predict", images, *MODEL, "--out", out, PYTHONPATH=path, BEGUN=str(begun))
    deadline = time.monotonic() + 200
    while not (begun / "1").exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)
    assert running.poll() is None, running.stderr.read()
    os.kill(int((begun / "1").read_text()), signal.SIGKILL)
    running.communicate(timeout=120)
    assert running.returncode == 1
    assert {name: data for name, data in content(out).items() if not name.startswith(".")} == before
    assert cli("predict", images / "b", *MODEL, "--out", out)[0] == 0  # the next run clears up
    assert not [name for name in content(out) if name.startswith(".")]
    assert [json.loads(line)["name"] for line in (out / JSON_LINES).read_text().splitlines()] == [
        str(images / "b/0.png"),
        str(images / "b/1.jpg"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("camera:0",), "a camera has no end: start predict without torchrun"),
        (("--out", "result.jpg"), "is one image, got 7 images"),
        (
            ("--precision", "auto"),
            "--precision auto times one process: choose float32 or bf16 under torchrun",
        ),
    ],
)
def test_what_ranks_cannot_share(error_of, images, as_ranks, arguments, message):
    assert message in error_of("predict", images, *arguments, *MODEL)


def test_ranks_that_cannot_meet(error_of, images, monkeypatch):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "1",
        "WORLD_SIZE": "2",
        "RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "no",
    }.items():
        monkeypatch.setenv(name, value)
    assert "the ranks cannot meet at 127.0.0.1:no" in error_of("predict", images, *MODEL)
