"""Results in a work dir: only what an earlier test wrote is ever replaced or removed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.results import MANIFEST, publish, require_replaceable, staging_folder


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def put(work_dir, **files):
    with staging_folder(work_dir) as folder:
        write(folder, **files)
        publish(folder, work_dir)


def texts(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


def test_a_new_run_replaces_what_the_last_one_wrote_and_nothing_else(tmp_path):
    write(tmp_path, predictions__own_txt="mine", heatmaps__own_png="mine", notes_md="mine")
    mine = texts(tmp_path)
    put(tmp_path, predictions__a_png="1", predictions__deep__b_png="1", heatmaps__a_png="1", metrics_json="1")
    put(tmp_path, predictions__a_png="2", predictions__c_png="2", metrics_json="2")
    assert texts(tmp_path) == mine | {
        "predictions/a.png": "2",
        "predictions/c.png": "2",
        "metrics.json": "2",
    }
    assert not (tmp_path / "predictions/deep").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".test_")] == [MANIFEST]


@pytest.mark.parametrize("name", ["metrics.json", "predictions/a.png", "predictions/deep/b.png"])
@pytest.mark.parametrize("kind", ["file", "link", "folder", "parent"])
def test_a_foreign_file_of_that_name_is_refused_and_kept(tmp_path, name, kind):
    path = tmp_path / "work" / name
    path.parent.mkdir(parents=True)
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "folder":
        path.mkdir()
    else:
        if path.parent == tmp_path / "work":
            pytest.skip("the work dir itself")
        path.parent.rmdir()
        path.parent.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="exists, and no earlier test run wrote it"):
        require_replaceable(tmp_path / "work", [name])
    with pytest.raises(UserError, match="--work-dir"):
        put(tmp_path / "work", **{name.replace("/", "__").replace(".", "_"): "new"})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_fails_leaves_the_earlier_results(tmp_path):
    put(tmp_path, metrics_json="1", predictions__a_png="1")
    before = texts(tmp_path)

    def fail():
        with staging_folder(tmp_path) as folder:
            write(folder, metrics_json="2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert texts(tmp_path) == before


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


MINE = json.dumps(sha256("mine"))


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "no json",
        "{}",
        "[3, null]",
        '["own.txt"]',
        '["../outside.txt", "/etc/hosts", "", "."]',
        f'{{"../outside.txt": {MINE}, "/etc/hosts": {MINE}, "": {MINE}, ".": {MINE}}}',
        f'{{"own.txt": 3, "sub": {MINE}, "a\\u0000b": {MINE}, "{"a" * 300}": {MINE}, "\\udc80": {MINE}}}',
        f'{{"own.txt": [[{MINE}], null], "link/outside.txt": {MINE}, "alias.txt": {MINE}}}',
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"a":' * 100_000, id="deep object"),
    ],
)
def test_a_manifest_that_lies_owns_nothing(tmp_path, manifest):
    work = tmp_path / "work"
    write(tmp_path, outside_txt="mine", work__own_txt="mine")
    (work / "sub").mkdir()
    (work / "link").symlink_to(tmp_path)
    (work / "alias.txt").symlink_to(tmp_path / "outside.txt")
    (work / MANIFEST).write_text(manifest)
    put(work, metrics_json="1")
    assert (tmp_path / "outside.txt").read_text() == (work / "own.txt").read_text() == "mine"
    assert (work / "sub").is_dir()
    assert (work / "alias.txt").is_symlink()
    assert json.loads((work / MANIFEST).read_text()) == {"metrics.json": sha256("1")}


def test_a_file_that_has_changed_since_is_refused_or_stays(tmp_path):
    put(tmp_path, metrics_json="1", predictions__a_png="1", predictions__b_png="1")
    write(tmp_path, predictions__a_png="mine")
    with pytest.raises(UserError, match=r"a\.png exists, and no earlier test run wrote it"):
        require_replaceable(tmp_path, ["predictions/a.png"])
    put(tmp_path, metrics_json="2")
    assert texts(tmp_path) == {"metrics.json": "2", "predictions/a.png": "mine"}


def test_nothing_is_replaced_through_a_link_to_a_folder(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    put(work, predictions__a_png="1")
    (work / "predictions").rename(tmp_path / "elsewhere")
    (work / "predictions").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="predictions exists, and no earlier test run wrote it"):
        put(work, predictions__a_png="2")
    put(work, metrics_json="2")
    assert texts(tmp_path / "elsewhere") == {"a.png": "1"}


def test_a_work_dir_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "work").symlink_to("real")
    put(tmp_path / "work", predictions__a_png="1")
    put(tmp_path / "work", metrics_json="2")
    assert texts(tmp_path / "real") == {"metrics.json": "2"}


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link"])
def test_a_manifest_that_is_no_file_is_refused_before_anything_is_computed(tmp_path, kind):
    path = tmp_path / MANIFEST
    {"pipe": os.mkfifo, "folder": os.mkdir, "dangling link": lambda p: os.symlink("nowhere", p)}[kind](path)
    with pytest.raises(UserError, match=r"test_results\.json exists, and no earlier test run wrote it"):
        require_replaceable(tmp_path, ["metrics.json"])


def test_what_changes_while_results_are_published_is_kept(tmp_path, monkeypatch):
    put(tmp_path, a_txt="1", b_txt="1", c_txt="1")
    replace = os.replace

    def meanwhile(source, target):
        replace(source, target)
        if target == tmp_path / "a.txt":
            write(tmp_path, b_txt="mine", c_txt="mine")

    monkeypatch.setattr("os.replace", meanwhile)
    with pytest.raises(UserError, match=r"b\.txt exists"):
        put(tmp_path, a_txt="2", b_txt="2")
    assert texts(tmp_path) == {"a.txt": "2", "b.txt": "mine", "c.txt": "mine"}
    put(tmp_path, a_txt="3")  # is still known as a test run's
    assert texts(tmp_path) == {"a.txt": "3", "b.txt": "mine", "c.txt": "mine"}


def test_the_staging_folder_of_a_killed_run_goes(tmp_path):
    code = """if True:
        import os, pathlib, sys
        from hardnet_suite.openmm.run.results import staging_folder
        with staging_folder(pathlib.Path(sys.argv[1])) as folder:
            (folder / "metrics.json").write_text("1")
            os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=300)
    assert len(os.listdir(tmp_path)) == 1
    put(tmp_path, metrics_json="2")
    assert sorted(os.listdir(tmp_path)) == [MANIFEST, "metrics.json"]
