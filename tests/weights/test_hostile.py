"""Weights files made to hurt: each is refused in one line, in bounded time and memory, without a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hostile_weights as hostile
import pytest

from hardnet_suite.errors import UserError
from hardnet_suite.weights import read_checkpoint
from hardnet_suite.weights.file import ENGINE_SUFFIXES

READER = Path(__file__).with_name("read_hostile.py")
ROOT = Path(__file__).resolve().parents[2]


def outcomes(folder, *doors) -> list[list]:
    """[file, door, outcome, seconds] for every file and door; fails where the process died on a file."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(READER), str(folder), *doors]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('["')]
    assert result.returncode == 0, f"died on {lines[-1] if lines else 'nothing'}: {result.stderr[-2000:]}"
    return [line for line in lines if len(line) == 4]


def write(folder, files) -> None:
    for name, content in files.items():
        (folder / f"{name}.pth" if "." not in name else folder / name).write_bytes(content)


def test_the_good_files_are_read(tmp_path):
    write(tmp_path, hostile.good_files())
    for path in tmp_path.iterdir():
        assert read_checkpoint(path)
    assert {line[2] for line in outcomes(tmp_path, "read", "mmengine", "torch")} <= {"answered", "refused"}


def test_arrays_that_are_no_numbers_of_their_own_bytes(tmp_path):
    """At every door, torch's own after ``import hardnet_suite.openmm`` included."""
    write(tmp_path, {name: hostile.beside_a_tensor(value) for name, value in hostile.ARRAYS.items()})
    results = outcomes(tmp_path, "read", "network", "mmengine", "torch")
    assert len(results) == 4 * len(hostile.ARRAYS)
    assert {(name, door): outcome for name, door, outcome, _ in results if outcome != "refused"} == {}


def test_an_array_of_numbers_is_read(tmp_path):
    write(tmp_path, {"numbers": hostile.beside_a_tensor(hostile.NUMBERS)})
    value = read_checkpoint(tmp_path / "numbers.pth")["x"]
    assert value.tobytes() == hostile.POINTER


def test_bombs(tmp_path):
    """The limits of time and memory are the reader's process's."""
    write(tmp_path, hostile.BOMBS)
    results = outcomes(tmp_path, "read", "network", "mmengine")
    read = {(name, door) for name, door, outcome, _ in results if outcome != "refused"}
    # it is a table of tensors, of no network
    assert read <= {("a name of many parts.pth", "read"), ("a name of many parts.pth", "mmengine")}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a bytearray of 6 GB", "makes a bytearray"),
        ("text that codecs double", "encodes text as 'hex', expected Latin-1"),
        ("a second pickle", "several pickles"),
        ("a compressed tensor", "it declares 200 MiB of contents"),
        ("a dictionary in itself", "contains itself"),
        ("nested lists", "nested deeper"),
        ("a list of lists of lists", "repeated more often"),
        ("millions of entries", "more entries than any checkpoint"),
        ("a tensor repeated without memory", "its tensors have"),
    ],
)
def test_the_reason_is_said(tmp_path, name, reason):
    write(tmp_path, {name: hostile.BOMBS[name]})
    with pytest.raises(UserError, match=reason):
        read_checkpoint(tmp_path / f"{name}.pth")


@pytest.mark.parametrize("suffix", ENGINE_SUFFIXES)
def test_a_file_for_an_engine_is_no_weights(tmp_path, suffix):
    file = tmp_path / f"model{suffix.upper()}"
    file.write_bytes(next(iter(hostile.good_files().values())))
    with pytest.raises(UserError, match="for an inference engine, not weights: predict and test take"):
        read_checkpoint(file)


def mutated(folder, count, seed, *doors) -> Counter:
    write(folder, dict(hostile.mutations(count, seed)))
    results = outcomes(folder, *doors)
    assert len(results) == count * len(doors)
    other = {
        (name, door): outcome for name, door, outcome, _ in results if outcome not in ("answered", "refused")
    }
    assert other == {}
    return Counter(outcome for _, _, outcome, _ in results)


def test_mutated_files(tmp_path):
    counts = mutated(tmp_path, 100, 0, "read", "network")
    assert counts["answered"] > 2  # most mutations break a checksum, but not all
    assert counts["refused"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_mutated_files(tmp_path, seed):
    mutated(tmp_path, 500, seed, "read", "network", "mmengine", "torch")


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_regular_file(tmp_path, kind):
    path = tmp_path / "weights.pth"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        import socket

        socket.socket(socket.AF_UNIX).bind(str(path))
    with pytest.raises(UserError, match="a pipe, socket or device, not a file"):
        read_checkpoint(path)
