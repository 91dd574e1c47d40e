"""Images decoded ahead in threads: the same answers, in order, with bounded memory and no thread left."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardnet_suite import create_model, predict
from hardnet_suite.data.sources import images_of, is_live
from hardnet_suite.errors import UserError
from hardnet_suite.prediction import batch, run
from hardnet_suite.prediction.model import model_of_network
from hardnet_suite.prediction.workers import map_ahead

WORKERS = (0, 1, 3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return model_of_network(create_model("hardnet39ds", num_classes=4).eval())


@pytest.fixture
def folder(tmp_path):
    """Eleven images of two sizes; the second and the ninth cannot be read."""
    random = np.random.default_rng(0)
    for index in range(11):
        size = (40, 60, 3) if index % 4 else (50, 30, 3)
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(tmp_path / f"{index:02}.png")
    for name in ("01.png", "08.png"):
        (tmp_path / name).write_bytes(b"no image")
    return tmp_path


def worker_threads():
    return [thread for thread in threading.enumerate() if "_serve" in thread.name]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert worker_threads() == []


@pytest.mark.parametrize("name", ["hardnet39ds", "ssd224_hardnet29", "fchardnet70"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_equal_to_the_last_bit(folder, name, batch_size):
    torch.manual_seed(0)
    network = create_model(name, num_classes=4).eval()
    options = {"batch_size": batch_size, "score": 0.05}
    plain, *others = (predict(network, folder, workers=count, **options) for count in WORKERS)
    assert [one.name for one in plain] == [
        str(folder / f"{index:02}.png") for index in range(11) if index not in (1, 8)
    ]
    for found in others:
        for one, other in zip(plain, found, strict=True):
            assert (one.name, one.size) == (other.name, other.size)
            for key in ("labels", "scores", "boxes", "mask"):
                np.testing.assert_array_equal(getattr(one, key), getattr(other, key))


@pytest.mark.parametrize("workers", WORKERS)
def test_batches_are_the_same(model, folder, monkeypatch, workers):
    batches = []
    predictions = run._predictions

    def record(model, batch, *options):
        batches.append([prepared.source.stem for prepared in batch])
        return predictions(model, batch, *options)

    monkeypatch.setattr(run, "_predictions", record)
    sources = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 3
    model([*sources, folder], batch_size=2, workers=workers)
    assert batches == [
        ["image_0", "image_1"], ["image_2", "00"], ["02", "03"], ["04", "05"], ["06", "07"], ["09", "10"],
    ]  # fmt: skip


@pytest.mark.parametrize("workers", WORKERS)
def test_failures_come_in_order(model, folder, workers):
    failed = []
    with pytest.warns(UserWarning, match="skipped: cannot read the image") as warned:
        found = predict(model, [folder, folder / "none.png"], workers=workers, failed=failed)
    assert len(found) == 9
    assert [name.rpartition("/")[2] for name, _ in failed] == ["01.png", "08.png", "none.png"]
    assert [str(one.message) for one in warned if "skipped" in str(one.message)] == [
        f"skipped: {reason}" for _, reason in failed
    ]
    with pytest.raises(UserError, match=r"01\.png"):
        predict(model, folder / "01.png", workers=workers)


@pytest.mark.parametrize("workers", WORKERS)
def test_an_error_among_the_sources_comes_in_its_place(model, folder, workers):
    stream = predict(model, [folder / "00.png", folder / "02.png", 1.5], workers=workers, stream=True)
    assert next(stream).name == str(folder / "00.png")
    with pytest.raises(ValueError, match="got a float"):
        list(stream)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (0, 4), (1, 1), (2, 3), (4, 2)])
def test_memory_is_flat(model, tmp_path, monkeypatch, workers, batch_size):
    """However many images there are, few are decoded or prepared at a time."""
    image = tmp_path / "a.png"
    Image.new("RGB", (40, 30)).save(image)
    alive: list[weakref.ref] = []
    lock, most = threading.Lock(), 0
    prepare = batch.prepare

    def count(image, rule):
        nonlocal most
        pixels, placement = prepare(image, rule)
        with lock:
            alive.extend((weakref.ref(image), weakref.ref(pixels)))
            most = max(most, sum(one() is not None for one in alive))
        return pixels, placement

    monkeypatch.setattr(batch, "prepare", count)
    stream = predict(model, [image] * 40, workers=workers, batch_size=batch_size, stream=True)
    for taken, _ in enumerate(stream, 1):
        if taken == 1:
            time.sleep(0.05)  # the threads would go on if nothing stopped them
            assert len(alive) // 2 <= 2 * batch_size + 2 * workers + 1
    assert taken == 40
    # waiting, in the batch, and being decoded; two for each image while it is prepared
    assert batch_size <= most <= 2 * batch_size + 4 * workers + 3


def test_what_is_still_on_its_way_is_not_read_ahead(model, folder):
    taken = []

    def images():
        for index in (0, 2, 3, 4, 5):
            taken.append(index)
            yield folder / f"{index:02}.png"

    stream = predict(model, images(), stream=True)
    next(stream)
    assert taken == [0]
    stream.close()
    taken.clear()
    stream = predict(model, images(), stream=True, workers=1)
    next(stream)
    assert len(taken) > 2
    stream.close()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("workers", WORKERS)
def test_what_is_skipped_is_told_between_its_neighbours(model, folder, workers, batch_size):
    told = []
    stream = run.predict_sources(
        model,
        images_of(folder),
        lambda source, _: told.append(int(source.stem)),
        top=None,
        score=None,
        batch_size=batch_size,
        workers=workers,
    )
    for prediction in stream:
        told.append(int(Path(prediction.name).stem))
    assert told == list(range(11))


def test_live_sources(tmp_path):
    for source in (0, "camera:1", iter([]), ["a.png", iter([])], "http://a.b/c.mp4", ["x", ["camera:0"]]):
        assert is_live(source)
    for source in ("a.png", tmp_path, ["a.png", tmp_path], "http://a.b/c.png", "a.mp4", np.zeros(3), b"", []):
        assert not is_live(source)
    with (tmp_path / "a").open("wb+") as stream:
        assert not is_live(stream)


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_a_stream_that_is_closed_early_ends_its_threads(model, folder, taken):
    stream = predict(model, [folder] * 9, workers=2, stream=True)
    for _ in range(taken):
        next(stream)
    assert len(worker_threads()) == (2 if taken else 0)
    stream.close()
    assert worker_threads() == []
    stream = predict(model, [folder] * 9, workers=2, stream=True)
    next(stream)
    del stream
    assert worker_threads() == []


def test_an_error_of_the_network_ends_the_threads(model, folder, monkeypatch):
    def fail(*_):
        raise UserError("the output holds NaN")

    monkeypatch.setattr(run, "_predictions", fail)
    with pytest.raises(UserError, match="holds NaN"):
        predict(model, [folder] * 9, workers=2)


def test_one_lazy_image_many_times(model, folder):
    """Pillow reads a file on the first use of an image, which two threads may make at once."""
    image = Image.open(folder / "00.png")
    found = predict(model, [image] * 16, workers=4)
    assert {tuple(one.scores) for one in found} == {tuple(predict(model, folder / "00.png")[0].scores)}


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_a_number_of_workers(model, folder, value):
    with pytest.raises(ValueError, match=r"^workers=.*: expected an integer of at least 0"):
        predict(model, folder, workers=value)


@pytest.mark.parametrize("workers", WORKERS)
def test_map_ahead_keeps_order_and_errors(workers):
    def invert(number):
        time.sleep(0.002 * (number % 3))
        return 1 / (number - 5)

    results = map_ahead(invert, range(9), workers=workers, ahead=4)
    for number, (item, future) in enumerate(results):
        assert item == number
        if item == 5:
            with pytest.raises(ZeroDivisionError):
                future.result()
        else:
            assert future.result() == 1 / (item - 5)
    assert list(map_ahead(invert, [], workers=workers, ahead=4)) == []


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("ahead", [1, 5])
def test_map_ahead_takes_no_more_than_it_may(workers, ahead):
    taken = 0

    def items():
        nonlocal taken
        for number in range(1, 31):
            taken = number
            yield number

    for item, _ in map_ahead(lambda item: item, items(), workers=workers, ahead=ahead):
        assert taken <= item + ahead - 1


def test_map_ahead_drops_what_is_not_begun():
    release, begun = threading.Event(), []

    def wait(item):
        begun.append(item)
        if item:
            release.wait(10)

    results = map_ahead(wait, range(20), workers=1, ahead=10)
    next(results)
    threading.Timer(0.05, release.set).start()
    results.close()
    assert begun in ([0], [0, 1])


SLEEPER = """
import signal, sys, time
from hardnet_suite.prediction.workers import map_ahead

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it

def slow(item):
    time.sleep(0.05)
    return item

for item, _ in map_ahead(slow, range(10**6), workers=3, ahead=6):
    if item == 3:
        print("ready", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interruption_ends_the_process():
    running = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout.readline() == "ready\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
