"""A run's folder in the place of a model or checkpoint, and whose figures a run's folder holds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from hardnet_suite import create_model, load_model
from hardnet_suite.cli.models import FIGURES
from hardnet_suite.config_names import own_configs
from hardnet_suite.run_folders import folder_word
from hardnet_suite.weights import open_weights


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    """The finished run as ``run`` in the current folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def image(drawn) -> Path:
    return min((drawn / "val2017").iterdir())


@pytest.mark.parametrize("spelling", ["run", "run/", "./run", "../{parent}/run", "{parent_path}/run"])
def test_a_runs_folder_is_a_model_however_it_is_spelt(cli, run, image, spelling):
    word = spelling.format(parent=run.parent.name, parent_path=run.parent)
    status, out, err = cli("predict", image, "--model", word)
    assert (status, err) == (0, "")
    assert out.startswith("weights: ")
    assert "best_coco_bbox_mAP_epoch_1.pth, the best of the run" in out


NAMES = [*FIGURES, *own_configs()]


@pytest.mark.parametrize("name", ["ssd320_hardnet39ds", "ssd320_hardnet39ds_bccd"])
def test_a_folder_with_the_name_of_a_model_or_config(cli, run, image, name):
    run.rename(name)
    word = folder_word(name, NAMES)  # what train prints
    assert word == f"./{name}"
    assert "best_coco_bbox_mAP" in cli("predict", image, "--model", word)[1]
    status, out, err = cli("predict", image, "--model", name, "--weights", "bccd")
    assert (status, err) == (0, "")
    assert "the weights 'bccd' of ssd320_hardnet39ds" in out


@pytest.mark.parametrize(
    ("place", "name"),
    [("work_dirs", "mine"), (".", "SSD320-HarDNet39ds"), ("work_dirs", "ssd320_hardnet39ds-BCCD")],
)
def test_a_word_is_the_same_run_for_every_command(cli, error_of, run, image, drawn, place, name):
    """Also where the name of a model or config is alike."""
    Path(place).mkdir(exist_ok=True)
    folder = run.rename(Path(place, name))
    best = f"weights: {folder / 'best_coco_bbox_mAP_epoch_1.pth'}, the best of the run"
    assert best.replace("weights: ./", "weights: ") in cli("predict", image, "--model", name)[1]
    status, out, _ = cli("test", name, "--data-root", drawn)
    assert status == 0
    assert best in out
    assert f"figures: {folder}/metrics.json" in out
    assert cli("check-data", name, "--quick", "--data-root", drawn)[0] == 0
    error = error_of("predict", image, "--model", name, "--weights", "bccd")
    assert (
        f"is a run, with the weights {folder / 'best_coco_bbox_mAP_epoch_1.pth'}: leave out weights=bccd"
        in error
    )
    assert load_model(name).name == "ssd224_hardnet29"


def test_a_folder_that_is_no_run(error_of, run, image):
    Path("empty").mkdir()
    assert "no checkpoint" in error_of("predict", image, "--model", "empty")
    assert "no config" in error_of("test", "empty")
    words = ("run", "work_dirs/hardnet68", "/a/hardnet68")
    assert [folder_word(word, NAMES) for word in words] == list(words)


@pytest.mark.parametrize("spelling", ["run/", "{path}", "link", "run/tiny.py"])
def test_a_copied_run_is_the_one_in_the_folder_given(cli, trained, run, drawn, spelling):
    """Its config names the folder where it was trained."""
    assert f"work_dir = {str(trained)!r}" in (run / "tiny.py").read_text()
    Path("link").symlink_to(run)
    for file in run.glob("best_*.pth"):
        file.unlink()
    before = sorted(trained.iterdir())
    status, out, _ = cli("test", spelling.format(path=run), "--data-root", drawn)
    assert status == 0
    assert "epoch_1.pth, the newest of the run" in out.partition("\n")[0]
    assert (run / "metrics.json").is_file()
    assert sorted(trained.iterdir()) == before


def test_a_copied_run_is_scored_from_inside_and_beside_it(cli, run, drawn, others, monkeypatch):
    monkeypatch.chdir(run)
    assert cli("test", ".", "--data-root", drawn)[0] == 0
    assert (run / "metrics.json").is_file()
    assert cli("test", ".", others["copy.pth"], "--data-root", drawn)[0] == 0
    assert (run.parent / "run_copy/metrics.json").is_file()
    assert (
        cli("test", ".", "--data-root", drawn, "--work-dir", others["other"])[0] == 0
    )  # the option comes first
    assert (others["other"] / "metrics.json").is_file()


def test_a_renamed_run_is_resumed_in_its_folder(cli, trained, run, drawn):
    """Beside another run where it was; and its config is still that of the whole training."""
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    folder = run.rename("first")
    longer = ("--data-root", drawn, "--cfg-options", "train_cfg.max_epochs=2")
    status, out, _ = cli("train", "first", *longer, "--resume")
    assert status == 0
    assert "weights: first/epoch_1.pth, resumed" in out
    assert re.search(r"hardnet.suite test first --data-root", out)
    assert (folder / "epoch_2.pth").is_file()
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
    record = (folder / "tiny.py").read_text()
    assert "resume = False" in record
    assert "load_from = None" in record
    assert "HarDNetPretrained" in record
    # the folder without --resume: another training in it
    out = cli("train", "first", *longer)[1]
    assert "resumed" not in out
    assert "folder: first" in out
    assert "epoch 1/2" in out


@pytest.fixture
def others(trained, tmp_path) -> dict[str, Path]:
    """Weights that are not of the run in ``run``."""
    shutil.copytree(trained, tmp_path / "other")
    shutil.copyfile(trained / "epoch_1.pth", tmp_path / "copy.pth")
    return {name: tmp_path / name for name in ("other", "other/epoch_1.pth", "copy.pth")}


@pytest.mark.parametrize("name", ["other", "other/epoch_1.pth", "copy.pth"])
def test_figures_of_other_weights_do_not_land_in_a_runs_folder(
    cli, error_of, config, drawn, run, others, name
):
    def files():
        return {path: path.stat().st_mtime_ns for path in run.rglob("*")}

    data, before = ("--data-root", drawn), files()
    message = error_of("test", config, others[name], *data, "--work-dir", run)
    assert f"{run} is the folder of a run: figures of {others[name]} would be taken for its own" in message
    assert files() == before
    # without --work-dir: beside the run
    shutil.copytree(run, "work_dirs/tiny")
    status, out, _ = cli("test", config, others[name], *data)
    assert status == 0
    assert f"figures: work_dirs/tiny_{others[name].stem}/metrics.json" in out
    assert not Path("work_dirs/tiny/metrics.json").exists()


@pytest.mark.parametrize("link", [False, True])
def test_a_runs_own_checkpoint_is_scored_into_its_folder(cli, config, drawn, run, tmp_path, link):
    checkpoint = run / "epoch_1.pth"
    if link:
        (tmp_path / "elsewhere.pth").symlink_to(checkpoint)
        checkpoint = tmp_path / "elsewhere.pth"
    assert cli("test", config, checkpoint, "--data-root", drawn, "--work-dir", run)[0] == 0
    assert (run / "metrics.json").is_file()


def test_a_runs_folder_is_converted_as_its_best_checkpoint(cli, error_of, run, tmp_path):
    best = next(run.glob("best_*.pth"))
    status, out, _ = cli("convert-weights", "run", "out.safetensors")
    assert status == 0
    assert out.startswith(f"weights: run/{best.name}, the best of the run\n")
    assert cli("convert-weights", best, "same.safetensors")[0] == 0
    one, other = (open_weights(Path(name)) for name in ("out.safetensors", "same.safetensors"))
    assert one.metadata == other.metadata
    torch.testing.assert_close(one.tensors, other.tensors)
    assert "no earlier convert-weights wrote it" in error_of("convert-weights", "run", f"run/{best.name}")
    Path("empty").mkdir()
    assert "empty" in error_of("convert-weights", "empty", "other.safetensors")
    assert not Path("other.safetensors").exists()


def test_a_runs_folder_is_a_weights_file_everywhere(run):
    best = next(run.glob("best_*.pth"))
    opened = open_weights(run, "ssd224_hardnet29")
    assert opened.path == best
    assert opened.digest == open_weights(best, "ssd224_hardnet29").digest
    states = [create_model("ssd224_hardnet29", pretrained=path).state_dict() for path in (run, str(best))]
    torch.testing.assert_close(*states)
    assert str(best) in load_model("ssd224_hardnet29", weights="run").weights.replace("run/", f"{run}/")


@pytest.mark.parametrize("way", ["resume", "load_from"])
def test_training_goes_on_from_a_runs_folder(cli, config, drawn, run, way):
    """A run is resumed from its newest checkpoint, another starts from its best."""
    options = ["--cfg-options", "train_cfg.max_epochs=2"]
    given = ["--resume", "run", *options] if way == "resume" else [*options, "load_from=run"]
    status, out, _ = cli("train", config, "--data-root", drawn, "--work-dir", "new", *given)
    assert status == 0
    name = "epoch_1.pth, resumed" if way == "resume" else next(run.glob("best_*.pth")).name
    assert f"run/{name}" in next(line for line in out.splitlines() if line.startswith("weights: "))


def test_a_folder_without_a_run_cannot_be_resumed(error_of, config, drawn, run):
    Path("empty").mkdir()
    message = error_of("train", config, "--data-root", drawn, "--work-dir", "new", "--resume", "empty")
    assert "empty has no checkpoint epoch_N.pth or iter_N.pth to resume from" in message
