"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from hardnet_suite import outputs
from hardnet_suite.cli import main
from hardnet_suite.errors import WriteError
from hardnet_suite.outputs import remove_leftovers, temporary_folder, write_file


@contextmanager
def limited(size: int):
    """The system refuses to write files beyond ``size`` bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path):
    path = tmp_path / "new/a.bin"
    write_file(path, "old")
    with limited(1000), pytest.raises(WriteError, match="File too large") as caught:
        write_file(path, bytes(5000))
    assert (caught.value.filename, caught.value.size) == (str(path), 5000)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.bin"]


@pytest.mark.parametrize(("form", "size"), [("safetensors", 1000), ("pth", 1000)])
def test_commands_name_the_file(capsys, tmp_path, form, size):
    import torch

    from hardnet_suite import create_model

    source, target = tmp_path / "hardnet39ds.pth", tmp_path / f"mine.{form}"
    torch.save(create_model("hardnet39ds").state_dict(), source)
    with limited(size):
        assert main(["convert-weights", str(source), str(target), "--model", "hardnet39ds"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: cannot write {target}: File too large (")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == [source.name]


def test_plots_name_the_file(capsys, tmp_path):
    log = tmp_path / "run/vis_data/scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 1.0, "step": 1}\n')
    with limited(1000):
        assert main(["plot", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path}/training.png: File too large")
    assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "pdf", "svg"])
def test_plots_replace_plots_alone(capsys, tmp_path, suffix):
    log = tmp_path / "run/vis_data/scalars.json"
    log.parent.mkdir(parents=True)
    log.write_text('{"loss": 1.0, "step": 1}\n')
    mine, out = tmp_path / f"mine.{suffix}", tmp_path / f"plot.{suffix}"
    mine.write_bytes(b"mine")
    assert main(["plot", str(tmp_path), "--out", str(mine)]) == 2
    assert f"{mine} exists, and no earlier plot wrote it" in capsys.readouterr().err
    assert mine.read_bytes() == b"mine"
    for _ in range(2):
        assert main(["plot", str(tmp_path), "--out", str(out)]) == 0


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_conversions_replace_conversions_alone(capsys, tmp_path, suffix):
    import torch

    from hardnet_suite import create_model

    source, mine, out = (tmp_path / name for name in ("hardnet39ds.pth", f"mine.{suffix}", f"out.{suffix}"))
    torch.save(create_model("hardnet39ds").state_dict(), source)
    for content in (b"mine", source.read_bytes()):
        mine.write_bytes(content)
        assert main(["convert-weights", str(source), str(mine)]) == 2
        assert f"{mine} exists, and no earlier convert-weights wrote it" in capsys.readouterr().err
        assert mine.read_bytes() == content
    for _ in range(2):
        assert main(["convert-weights", str(source), str(out)]) == 0


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        with pytest.raises(WriteError, match="not a regular file"):
            write_file(tmp_path / name, "text")
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]
    assert os.readlink(tmp_path / "link") == "/dev/null"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to("target")
    write_file(tmp_path / "link", "text")
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "link").read_text() == "text"


def test_leftovers_of_living_processes_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, day = outputs._host(), 24 * 3600
    ages = {
        f".a.pth.{host}.{ended.pid}.x1.tmp": (0, False),
        f".a.pth.{host}.{os.getppid()}.x2.tmp": (2 * day, True),
        ".a.pth.elsewhere.17.x3.tmp": (day / 2, True),
        ".a.pth.elsewhere.17.x4.tmp": (2 * day, False),
        ".a.pth.x5.tmp": (day / 2, True),
        ".a.pth.x6.tmp": (2 * day, False),
        ".a.json.x7.tmp": (2 * day, True),
    }
    for name, (age, _) in ages.items():
        path = tmp_path / name
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    remove_leftovers(tmp_path, "*.pth")
    assert set(os.listdir(tmp_path)) == {name for name, (_, stays) in ages.items() if stays}


def test_folders_of_ended_processes_go(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, day = outputs._host(), 24 * 3600
    ages = {
        f".se[t.{host}.{ended.pid}.0123abcd.tmp": (0, False),
        f".se[t.{host}.{os.getppid()}.0123abcd.tmp": (2 * day, True),
        ".se[t.elsewhere.17.0123abcd.tmp": (2 * day, False),
        ".se[t.elsewhere.18.0123abcd.tmp": (day / 2, True),
        f".se[t.{host}.{ended.pid}.notes.tmp": (2 * day, True),
        f".se[t.old.{host}.{ended.pid}.0123abcd.tmp": (2 * day, True),
        ".se[t.mine.tmp": (2 * day, True),
        f".other.{host}.{ended.pid}.0123abcd.tmp": (2 * day, True),
    }
    for name, (age, _) in ages.items():
        path = tmp_path / name / "sub"
        path.mkdir(parents=True)
        for each in (path, path.parent):
            os.utime(each, (time.time() - age,) * 2)
    (tmp_path / "target").mkdir()
    (tmp_path / f".se[t.{host}.{ended.pid}.fedc0123.tmp").symlink_to("target")
    with temporary_folder(tmp_path / "se[t") as first, temporary_folder(tmp_path / "se[t") as second:
        assert first.is_dir()
        assert second.is_dir()
    assert set(os.listdir(tmp_path)) == {"target"} | {name for name, (_, stays) in ages.items() if stays}


def test_the_longest_name_can_be_written(tmp_path):
    for name in ("漢" * 84 + ".md", "a" * 255):
        write_file(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
