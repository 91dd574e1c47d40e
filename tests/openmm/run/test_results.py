"""Results in a work dir: only what an earlier test wrote is ever replaced or removed."""

from __future__ import annotations

import json

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


@pytest.mark.parametrize(
    "manifest", ["", "no json", "{}", "[3, null]", '["../outside.txt", "/etc/hosts", "", "."]']
)
def test_a_manifest_that_lies_owns_nothing(tmp_path, manifest):
    work = tmp_path / "work"
    write(tmp_path, outside_txt="mine", work__own_txt="mine")
    (work / MANIFEST).write_text(manifest)
    put(work, metrics_json="1")
    assert (tmp_path / "outside.txt").read_text() == (work / "own.txt").read_text() == "mine"
    assert json.loads((work / MANIFEST).read_text()) == ["metrics.json"]
