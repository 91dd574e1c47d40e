"""``train MODEL --data FOLDER``, then test and predict with what it wrote."""

from __future__ import annotations

import argparse
import errno
import json
import signal

import pytest

from hardnet_suite.cli import main, train
from hardnet_suite.data.conversion.convert import convert_dataset
from hardnet_suite.errors import WriteError
from hardnet_suite.openmm.run import from_data

QUICK = [
    "--cfg-options",
    *(f"{loader}_dataloader.num_workers=0" for loader in ("train", "val", "test")),
    *(f"{loader}_dataloader.persistent_workers=False" for loader in ("train", "val", "test")),
]


def test_yolo_to_a_detector(cli, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert_dataset(drawn, "shapes", target_format="yolo")
    before = {path: path.read_bytes() for path in (tmp_path / "shapes").rglob("*") if path.is_file()}
    status, out, err = cli("train", "ssd224_hardnet29", "--data", "shapes", "--epochs", 1, *QUICK)
    assert status == 0, err
    assert "data: shapes (YOLO), 4 training and 3 validation images" in out
    run = tmp_path / "work_dirs/ssd224_hardnet29-shapes"
    assert (run / "epoch_1.pth").is_file()
    config = run / "ssd224_hardnet29-shapes.py"
    status, out, err = cli("test", config, *QUICK)
    assert status == 0, err
    assert (run / "metrics.json").is_file()
    status, out, err = cli("predict", "shapes/images/val", "--model", run, "--out", "drawings")
    assert status == 0, err
    assert len((tmp_path / "drawings/predictions.jsonl").read_text().splitlines()) == 3
    assert {path: path.read_bytes() for path in (tmp_path / "shapes").rglob("*") if path.is_file()} == before
    content = json.loads((run / "annotations/instances_val.json").read_text())
    assert all(image["file_name"].startswith("images/val/") for image in content["images"])
    # the same again goes on with the run, with what was chosen for it
    written = {path: path.read_bytes() for path in (config, *(run / "annotations").iterdir())}
    assert len(written) == 4
    resume = ("train", "ssd224_hardnet29", "--data", "shapes", "--resume")
    status, out, err = cli(*resume, *QUICK)
    assert status == 0, err
    assert {path: path.read_bytes() for path in written} == written
    for options in (
        ("--batch-size", 4),
        ("--epochs", 2, "--cfg-options", "optim_wrapper.optimizer.type=SGD"),
    ):
        status, out, err = cli(*resume, *options, *QUICK[1 if "--cfg-options" in options else 0 :])
        assert status != 0
        assert "cannot resume: " in err
        assert {path: path.read_bytes() for path in written} == written


def test_a_config_that_cannot_be_written_leaves_the_files_of_the_run(error_of, drawn, tmp_path, monkeypatch):
    """What stands beside it has been replaced by then."""
    data, run = tmp_path / "shapes", tmp_path / "run"
    convert_dataset(drawn, data, target_format="yolo")
    config = from_data.write_config("ssd224_hardnet29", data, run, say=lambda _: None)
    before = {path: path.read_bytes() for path in (config, *(run / "annotations").iterdir())}
    next(data.glob("images/train/*")).unlink()
    usual = from_data.write_file

    def full(path, content):
        if path == config and content != before[config]:
            raise WriteError(errno.ENOSPC, "No space left on device", str(path))
        usual(path, content)

    monkeypatch.setattr(from_data, "write_file", full)
    message = error_of("train", "ssd224_hardnet29", "--data", data, "--work-dir", run, "--epochs", 2)
    assert f"cannot write {config}: No space left" in message
    assert {path: path.read_bytes() for path in before} == before


def test_sigterm_before_the_training_begins_leaves_the_files_of_the_run(drawn, tmp_path, monkeypatch):
    data, run, changed = tmp_path / "shapes", tmp_path / "run", []
    convert_dataset(drawn, data, target_format="yolo")
    config = from_data.write_config("ssd224_hardnet29", data, run, say=lambda _: None)
    before = config.read_bytes()

    def loading(args):
        changed.append(config.read_bytes() != before)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("not reached")

    monkeypatch.setattr(train, "load_run_config", loading)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        main(["train", "ssd224_hardnet29", "--data", str(data), "--work-dir", str(run), "--epochs", "2"])
    assert (ended.value.code, changed, config.read_bytes() == before) == (143, [True], True)
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize(
    ("launcher", "size", "ranks"), [("pytorch", "4", 4), ("none", "4", 1), ("pytorch", "four", 1)]
)
def test_the_ranks_of_torchrun(monkeypatch, launcher, size, ranks):
    monkeypatch.setenv("WORLD_SIZE", size)
    assert train._ranks(argparse.Namespace(launcher=launcher)) == ranks


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_data_root_of_another_format_says_how_to_go_on(error_of, drawn, tmp_path, kind):
    folder = tmp_path / "my data"
    convert_dataset(drawn, folder, target_format=kind)
    err = error_of("train", "ssd320_hardnet39ds_bccd", "--data-root", folder, "--work-dir", tmp_path / "run")
    assert f"{folder} is a {kind.upper()} data set" in err
    assert f"`hardnet-suite convert-dataset '{folder}' TARGET`" in err
    assert f"`hardnet-suite train MODEL --data '{folder}'`" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ssd320_hardnet39ds_bccd", "--data", "{data}"], "--data goes with the name of a model"),
        (["hardnet_descriptor", "--data", "{data}"], "describes patches"),
        (["ssd224_hardnet29", "--data", "{data}", "--data-root", "{data}"], "exclude each other"),
        (["ssd224_hardnet29", "--data", "{data}/nowhere"], "no folder"),
        (["hardnet68"], "hardnet68 is a model, not a config: add --data FOLDER"),
        (["ssd320_hardnet39ds_bccd", "--epochs", "3"], "--epochs goes with --data FOLDER"),
        (["ssd320_hardnet39ds_bccd", "--image-size", "3"], "--image-size goes with --data FOLDER"),
    ],
)
def test_wrong_use(error_of, drawn, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in error_of("train", *(argument.format(data=drawn) for argument in arguments))
    assert not [*tmp_path.iterdir()]
