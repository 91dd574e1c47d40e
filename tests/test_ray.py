"""Ray Data: two workers give the lines that one process writes."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.cli import main
from hardnet_suite.errors import UserError

pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("pandas", reason="pandas is not installed")

import ray.data

from hardnet_suite.ray import predict_dataset, write_lines

MODELS = {"detection": ("ssd320_hardnet39ds", "bccd"), "segmentation": ("fchardnet70", "camvid")}


@pytest.fixture(scope="module")
def workers():
    """Ray on this machine; its cores are a number, and reading needs one of them."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets need a short path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TQDM_PATCH_PRINT", "0")  # Ray would replace builtins.print for good
        ray.init(num_cpus=8, include_dashboard=False, logging_level=logging.ERROR, _temp_dir=folder)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six images, one of them turned by EXIF, and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for index in range(6):
        image = Image.fromarray(random.integers(0, 256, (48, 64 + 8 * (index % 2), 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if index == 3 else 1
        image.save(folder / f"{index}.jpg", exif=exif)
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


def lines_of_one_process(source, task, path, status: int = 1) -> list[str]:
    model, weights = MODELS[task]
    arguments = ["--model", model, "--weights", weights, "--score", "0.01", "--top", "3", "--threads", "1"]
    assert main(["predict", str(source), *arguments, "--out", str(path)]) == status  # 1: for bad.jpg
    return Path(path).read_text().splitlines()


def predicted(dataset, task, **options):
    model, weights = MODELS[task]
    return predict_dataset(dataset, model, weights=weights, score=0.01, top=3, concurrency=2, **options)


@pytest.mark.parametrize("task", MODELS)
def test_two_workers_give_the_lines_of_one_process(workers, images, tmp_path, task):
    dataset = ray.data.read_binary_files(str(images), include_paths=True)
    rows = predicted(dataset, task).take_all()
    failed = [row for row in rows if row["error"] is not None]
    expected = lines_of_one_process(images, task, tmp_path / "one.jsonl")
    assert sorted(row["line"] for row in rows) == sorted(expected)
    assert len(expected) == 7
    assert [row["name"] for row in failed] == [f"{images}/bad.jpg"]
    assert json.loads(failed[0]["line"]) == {"name": f"{images}/bad.jpg", "error": failed[0]["error"]}
    assert "it is not an image" in failed[0]["error"]


def test_shards_into_an_object_store(workers, images, tmp_path, monkeypatch):
    """WebDataset's shards; a file system of pyarrow stands for the store."""
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    for number in range(2):
        with tarfile.open(tmp_path / f"s-{number}.tar", "w") as tar:
            for index in range(3 * number, 3 * number + 3):
                tar.add(images / f"{index}.jpg", f"{index}.jpg")
    store = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    dataset = ray.data.read_webdataset(
        ["s-0.tar", "s-1.tar"], filesystem=store, decoder=None, file_extensions=["tar"], include_paths=True
    )
    lines = predicted(dataset, "detection", image="jpg", name=("path", "__key__"))
    write_lines(lines, "found", filesystem=store)
    assert (tmp_path / "found/_SUCCESS").read_bytes() == b""
    files = [path for path in (tmp_path / "found").iterdir() if path.name != "_SUCCESS"]
    assert files
    assert all(path.suffix == ".jsonl" for path in files)
    found = [line for path in files for line in path.read_text().splitlines()]
    assert json.loads(min(found))["name"] == "s-0.tar/0.jpg"
    monkeypatch.chdir(tmp_path)
    expected = lines_of_one_process("s-{0..1}.tar", "detection", "one.jsonl", status=0)
    assert sorted(found) == sorted(expected)


def test_a_folder_that_exists_is_refused_before_anything_is_computed(workers, tmp_path):
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    dataset = ray.data.from_items([{"line": "{}"}]).map(lambda row: 1 / 0)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    store = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    for path, filesystem in (
        (str(tmp_path / "folder"), None),
        (f"{tmp_path}/file", None),
        ("folder", store),
    ):
        with pytest.raises(UserError) as error:
            write_lines(dataset, path, filesystem=filesystem)
        assert str(error.value) == f"{path} exists: remove it, or choose another folder"
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["file", "folder"]


def test_batches_agree_with_single_images(workers, images):
    dataset = ray.data.read_binary_files([f"{images}/{index}.jpg" for index in range(6)], include_paths=True)
    one, several = (
        sorted(
            (json.loads(row["line"]) for row in predicted(dataset, "detection", batch_size=size).take_all()),
            key=lambda row: row["name"],
        )
        for size in (1, 4)
    )
    assert [row["names"] for row in one] == [row["names"] for row in several]
    for a, b in zip(one, several, strict=True):
        np.testing.assert_allclose(a["scores"], b["scores"], atol=2e-5)
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=0.02)


def test_decoded_images_are_refused(workers, images):
    """Ray's own decoder would turn nothing upright."""
    dataset = ray.data.read_images([f"{images}/0.jpg"], include_paths=True)
    with pytest.raises(Exception, match=r"expected the content of an image file, got a (ndarray|list)"):
        predicted(dataset, "detection", image="image").take_all()


def test_a_row_without_an_image(workers):
    stream = io.BytesIO()
    Image.new("RGB", (64, 48)).save(stream, "PNG")
    content = stream.getvalue()
    dataset = ray.data.from_items(
        [
            {"path": "a", "bytes": content},
            {"path": "b", "bytes": None},
            {"path": None, "bytes": content},
        ]
    )
    rows = {row["name"]: row["error"] for row in predicted(dataset, "detection").take_all()}
    assert rows == {"a": None, "b": "b: the row has no image", None: "the row has no name"}


def test_a_job_that_fails_leaves_no_mark_of_success(workers, images, tmp_path):
    dataset = ray.data.read_images([f"{images}/0.jpg"], include_paths=True)
    with pytest.raises(Exception, match="expected the content of an image file"):
        write_lines(predicted(dataset, "detection", image="image"), str(tmp_path / "found"))
    assert not (tmp_path / "found/_SUCCESS").exists()


def test_options_are_checked_before_anything_runs(workers):
    dataset = ray.data.from_items([{"path": "a", "bytes": b""}])
    with pytest.raises(UserError, match="has no column 'jpg', but "):
        predict_dataset(dataset, "hardnet68", image="jpg")
    for options, message in (
        ({"batch_size": 0}, "batch_size=0"),
        ({"top": 0}, "top=0"),
        ({"score": 2}, "score=2"),
        ({"precision": "auto"}, "precision='auto' times one process"),
        ({"concurrency": 0}, "concurrency=0: expected an integer of at least 1"),
        ({"concurrency": True}, "concurrency=True"),
        ({"concurrency": 1.5}, "concurrency=1.5"),
        ({"concurrency": (2, 1)}, re.escape("concurrency=(2, 1)")),
        ({"concurrency": (1, 2, 3)}, re.escape("concurrency=(1, 2, 3)")),
    ):
        with pytest.raises(ValueError, match=message):
            predict_dataset(dataset, "hardnet68", **options)
    with pytest.raises(ValueError, match="expected the name or path of a model, got a list"):
        predict_dataset(dataset, ["hardnet68"])
    with pytest.raises(ValueError, match="expected the name of a column"):
        predict_dataset(dataset, "hardnet68", name=())
    with pytest.warns(UserWarning, match="the workers take 8 of the 8 cores that Ray has"):
        predict_dataset(dataset, "hardnet68", concurrency=8)


def test_the_document_runs(workers, tmp_path, monkeypatch):
    document = Path(__file__).parents[1] / "docs/scaling.md"
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(tmp_path)
    assert main(["samples"]) == 0
    (tmp_path / "images").mkdir()
    (tmp_path / "street.jpg").rename(tmp_path / "images/street.jpg")
    block = blocks[0].replace("s3://bucket", str(tmp_path)).replace("concurrency=8", "concurrency=1")
    exec(compile(block, str(document), "exec"), {})
    (file,) = (tmp_path / "predictions").glob("*.jsonl")
    (line,) = file.read_text().splitlines()
    assert json.loads(line)["task"] == "segmentation"


def test_without_ray_the_import_says_what_to_install():
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "try:\n    import hardnet_suite.ray\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "hardnet_suite.ray needs Ray Data: pip install 'hardnet-suite[ray]'" in run.stdout, run.stderr
