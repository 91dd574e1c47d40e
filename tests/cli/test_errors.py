"""What goes wrong on the user's side is one clear line on stderr: what, where, what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hardnet_suite.openmm  # noqa: F401  (lets torch.load read mmengine's log buffers)
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


class Run:
    """Pickled, it would make a folder when it is read."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def options(config, data, tmp_path):
    return (config, "--data-root", data, "--work-dir", tmp_path / "work")


@pytest.mark.parametrize("command", ["train", "test", "check-data"])
def test_no_data(error_of, config, command, tmp_path):
    assert "nothing: no such folder" in error_of(command, config, "--data-root", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    err = error_of(command, config, "--data-root", tmp_path / "empty")
    assert "empty/annotations/instances_" in err
    assert "ROOT/train2017/*.jpg" in err
    assert "https://cocodataset.org" in err
    assert "draw-shapes" in err


def test_truncated_image_in_a_workers_hands(options, data):
    """Through the real data loader, as a process of its own, whose stderr holds that line alone."""
    for path in (data / "train2017").iterdir():
        truncate(path)
    code = "import sys; from hardnet_suite.cli import main; sys.exit(main(sys.argv[1:]))"
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", code, "train", *options, "--device", "cpu"]
    result = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: cannot read the image {data / 'train2017'}")
    assert "truncated" in line
    assert line.endswith("replace the file")


def test_checkpoints_that_cannot_be_used(error_of, options, trained, tmp_path):
    path, canary = tmp_path / "bad.pth", tmp_path / "canary"
    own = torch.load(trained / "epoch_1.pth", weights_only=False)["state_dict"]

    def error(content) -> str:
        torch.save(content, path)
        err = error_of("test", options[0], path, *options[1:])
        assert str(path) in err
        return err

    assert "could run code (it asks for posix.mkdir)" in error({"state_dict": own, "meta": Run(canary)})
    assert not canary.exists()
    assert "no state dict" in error({"epoch": 3, "note": torch.zeros(1)})
    assert "these weights do not fit HarDNetSSD" in error({"conv.weight": torch.zeros(3)})
    key = next(key for key in own if key.endswith("weight"))
    wrong = own | {key: own[key][:1]}
    assert f"1 of another shape ({key}" in error({"state_dict": wrong})
    path.write_bytes((trained / "epoch_1.pth").read_bytes()[:5000])
    assert "corrupt or cut short" in error_of("test", options[0], path, *options[1:])
    assert "no such file" in error_of("test", options[0], tmp_path / "none.pth", *options[1:])
    assert "no checkpoint" in error_of("test", options[0], tmp_path, *options[1:])


def test_resuming_from_what_is_no_checkpoint(error_of, options, tmp_path):
    path = tmp_path / "bad.pth"
    assert "no such file" in error_of("train", *options, "--resume", path)
    torch.save({"meta": Run(tmp_path / "canary")}, path)
    assert "could run code" in error_of("train", *options, "--resume", path)
    assert not (tmp_path / "canary").exists()
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, path)
    assert f"load_from={path}" in error_of("train", *options, "--resume", path)


def test_number_of_classes_that_does_not_fit(error_of, options):
    err = error_of("train", *options, "--cfg-options", "model.bbox_head.num_classes=5")
    assert "the model has num_classes=5, but train_dataloader has 6 classes" in err
    assert "metainfo.classes" in err


def test_classes_that_the_annotations_lack(error_of, options, data):
    path = data / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "blob"
    path.write_text(json.dumps(content))
    assert f"{path} has 6 classes and lacks 'circle'" in error_of("train", *options)


@pytest.mark.parametrize("command", ["train", "test"])
def test_work_dir_that_cannot_be_written(error_of, config, data, command):
    below = data / "annotations/instances_val2017.json" / "work"
    err = error_of(command, config, "--data-root", data, "--work-dir", below)
    assert f"cannot write into {below}" in err
    assert "--work-dir" in err


@pytest.mark.parametrize("command", ["train", "check-data"])
def test_annotations_that_are_no_json(error_of, config, data, tmp_path, command):
    path = data / "annotations/instances_train2017.json"
    truncate(path)
    work = ["--work-dir", tmp_path / "work"] if command == "train" else []
    err = error_of(command, config, "--data-root", data, *work)
    assert f"{path} is not valid JSON, or is truncated" in err


@pytest.mark.parametrize("way", [("--compile",), ("--cfg-options", "compile=True")])
def test_training_that_cannot_compile(error_of, config, drawn, tmp_path, monkeypatch, way):
    def fail(*_, **__):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("torch.compile", fail)
    message = error_of("train", config, "--data-root", drawn, "--work-dir", tmp_path / "run", *way)
    assert "torch.compile does not work on this machine: no compiler here; leave out --compile" in message
    assert not list(tmp_path.glob("run/*.pth"))


def test_launcher_without_torchrun(error_of, options, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for way in (["--launcher", "pytorch"], ["--cfg-options", "launcher=pytorch"]):
        assert "expects a process started by torchrun" in error_of("train", *options, *way)
    assert not options[-1].exists()


def test_unknown_config(error_of):
    err = error_of("train", "ssd512_hardnet99")
    assert "no config ssd512_hardnet99" in err
    assert "did you mean ssd512_hardnet" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = dict(", "SyntaxError"),
        ("model = undefined", "NameError"),
        ("_base_ = 'none.py'", "none.py"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_config_that_cannot_be_read(error_of, tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    err = error_of("check-data", path)
    assert f"cannot read the config {path}" in err
    assert message in err


def test_config_without_data_root(error_of, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("model = dict()")
    assert "has no data_root" in error_of("check-data", path, "--data-root", tmp_path)
    assert "no data that can be checked" in error_of("check-data", path)


@pytest.mark.parametrize("device", ["gpu", "cuda:first", "cuda:99"])
def test_unknown_device(error_of, options, device):
    assert f"--device {device}" in error_of("train", *options, "--device", device)


@pytest.mark.parametrize("pair", ["seed", "model.bbox_head"])
def test_option_without_a_value(error_of, options, pair):
    err = error_of("train", *options, "--cfg-options", pair)
    assert f"--cfg-options takes KEY=VALUE, got '{pair}'" in err


def test_debug_shows_the_traceback(config, tmp_path):
    from hardnet_suite.cli import main

    with pytest.raises(UserError, match="no annotation file"):
        main(["train", str(config), "--data-root", str(tmp_path), "--debug"])


def test_data_of_ones_own_that_is_missing_is_not_told_to_be_coco(error_of, tmp_path):
    err = error_of("train", "ssd320_hardnet39ds_bccd", "--data-root", tmp_path, "--work-dir", tmp_path / "w")
    assert "instances_train.json" in err
    assert "convert-dataset" in err
    assert "2017" not in err


def test_shipped_weights_of_other_classes_are_not_scored(error_of, shared, tmp_path):
    from hardnet_suite.data.voc import convert_voc

    convert_voc(shared / "data/bccd", tmp_path / "data", splits=["test"], link=True)
    config = tmp_path / "mine.py"
    config.write_text(
        f'_base_ = "{OWN_CONFIGS}/ssd320_hardnet39ds_bccd.py"\n'
        'test_dataloader = dict(dataset=dict(metainfo=dict(classes=("WBC", "RBC", "Platelets"))))\n'
    )
    err = error_of("test", config, "--data-root", tmp_path / "data", "--work-dir", tmp_path / "w")
    assert "the same classes in another order: class 0 is 'RBC', in test_dataloader it is 'WBC'" in err
