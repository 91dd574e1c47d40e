"""Classification from folders to figures: ``check-data``, ``train``, ``test``."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from hardnet_suite import create_model
from hardnet_suite.cli import main
from hardnet_suite.data.classes import imagenet_classes
from hardnet_suite.errors import UserError
from hardnet_suite.prediction import load_model
from hardnet_suite.weights import find, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
_base_ = "{root}/configs/hardnet39ds_tiny_imagenet10.py"
num_classes = 2
model = dict(num_classes=num_classes, data_preprocessor=dict(num_classes=num_classes))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(hold_out=2))
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(hold_out=2))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
"""


@pytest.fixture(scope="session")
def tiny_classes(tmp_path_factory):
    """(config, data): 6 images of each of two classes, one of them one of ImageNet's."""
    folder = tmp_path_factory.mktemp("classes")
    random = np.random.default_rng(0)
    for name in ("dog", "n02111889"):
        (folder / "data/train" / name).mkdir(parents=True)
        for index in range(6):
            pixels = random.integers(0, 256, (70, 80, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"data/train/{name}/{index}.png")
    (folder / "tiny.py").write_text(CONFIG.format(root=ROOT))
    return folder / "tiny.py", folder / "data"


@pytest.fixture(scope="session")
def classifier(tiny_classes, tmp_path_factory):
    config, data = tiny_classes
    folder = tmp_path_factory.mktemp("classifier") / "run"
    arguments = ["train", config, "--data-root", data, "--work-dir", folder, "--seed", 3]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_training_scores_and_keeps_the_best(classifier):
    (log,) = classifier.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["iter"] for row in rows if "loss" in row] == [1, 2]
    assert {"top1", "top5"} <= rows[-1].keys()
    assert (classifier / "best_top1_epoch_1.pth").is_file()


def test_lists_are_trained_on_and_scored(cli, tiny_classes, tmp_path):
    """A CSV list in the place of folders, as docs/custom_data.md has it."""
    config, data = tiny_classes
    files = sorted(path.relative_to(data / "train") for path in data.glob("train/*/*.png"))
    shutil.copytree(data / "train", tmp_path / "data/images")
    for name, chosen in (("train", files[::2]), ("val", files[1::2])):
        rows = [f"{file.as_posix()},{file.parts[0]}" for file in chosen]
        (tmp_path / f"data/{name}.csv").write_text("\n".join(["file,label", *rows]))
    lists = "folder='images', classes=None, hold_out=0, held_out=False"
    (tmp_path / "lists.py").write_text(
        f"_base_ = {str(config)!r}\n"
        f"train_dataloader = dict(dataset=dict(csv='train.csv', {lists}))\n"
        f"val_dataloader = dict(dataset=dict(csv='val.csv', {lists}))\n"
        "test_dataloader = val_dataloader\n"
    )
    arguments = (tmp_path / "lists.py", "--data-root", tmp_path / "data")
    status, out, _ = cli("check-data", *arguments)
    assert status == 0
    assert len(re.findall(r"a class has +3 \(\w+\) to 3 ", out)) == 2
    assert cli("train", *arguments, "--work-dir", tmp_path / "run")[0] == 0
    assert (
        cli("test", *arguments[:1], tmp_path / "run", *arguments[1:], "--work-dir", tmp_path / "run")[0] == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [str(tmp_path / "data/images" / file) for file in files[1::2]]


@pytest.mark.parametrize("option", ["indices=2", "hold_out=1"])
def test_images_that_no_list_names_are_told(cli, tiny_classes, tmp_path, option):
    config, data = tiny_classes
    shutil.copytree(data / "train", tmp_path / "images")
    files = sorted(path.relative_to(data / "train") for path in data.glob("train/*/*.png"))
    for name, chosen in (("train", files[::2]), ("val", files[3::2])):
        rows = [f"{file.as_posix()},{file.parts[0]}" for file in chosen]
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,label", *rows]))
    entry = "folder='images', classes=None, hold_out=0, held_out=False"
    (tmp_path / "lists.py").write_text(
        f"_base_ = {str(config)!r}\n"
        f"train_dataloader = dict(dataset=dict(csv='train.csv', {entry}))\n"
        f"val_dataloader = dict(dataset=dict(csv='val.csv', {entry}))\n"
        "test_dataloader = val_dataloader\n"
    )
    options = ("--cfg-options", f"train_dataloader.dataset.{option}")
    status, out, _ = cli("check-data", tmp_path / "lists.py", "--data-root", tmp_path, *options)
    assert status == 0
    folder = (tmp_path / "images" / files[1]).parent
    told = f"1 that no data set of the config names: {files[1].name}"
    assert f"warning: images left out: {folder}: {told}\n" in out


def test_a_folder_of_classes_beside_a_list_is_not_left_out(cli, tiny_classes, tmp_path):
    config, data = tiny_classes
    rows = ["file,label"]
    for path in sorted(data.glob("train/*/*.png")):
        label, place = path.parent.name, f"{path.parent.name}_{path.name}"
        (tmp_path / "images/held_out" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "images" / place)
        Image.open(path).rotate(90, expand=True).save(tmp_path / "images/held_out" / label / path.name)
        rows.append(f"{place},{label}")
    (tmp_path / "train.csv").write_text("\n".join(rows))
    entry = "classes=None, hold_out=0, held_out=False"
    (tmp_path / "lists.py").write_text(
        f"_base_ = {str(config)!r}\n"
        f"train_dataloader = dict(dataset=dict(csv='train.csv', folder='images', {entry}))\n"
        f"val_dataloader = dict(dataset=dict(folder='images/held_out', {entry}))\n"
        "test_dataloader = val_dataloader\n"
    )
    status, out, _ = cli("check-data", tmp_path / "lists.py", "--data-root", tmp_path)
    assert status == 0
    assert "left out" not in out
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "images/other.png")
    out = cli("check-data", tmp_path / "lists.py", "--data-root", tmp_path)[1]
    assert "1 that no data set of the config names: other.png" in out


def test_a_single_class_is_an_error_of_the_check(cli, tiny_classes, tmp_path):
    config, data = tiny_classes
    kept = min((data / "train").iterdir())
    shutil.copytree(kept, tmp_path / "train/cat")
    options = [f"{loader}_dataloader.dataset.classes=['cat']" for loader in ("train", "val", "test")]
    arguments = (config, "--data-root", tmp_path, "--cfg-options", "model.num_classes=1", *options)
    status, out, _ = cli("check-data", *arguments)
    assert status == 1
    assert "ERROR  one class (1)\n    cat: a classifier with one class answers it for every image" in out


def test_the_ten_classes_of_tiny_imagenet_are_told_apart(cli, shared, tmp_path):
    """The weights in the package, on the images kept aside: docs/experiments.md."""
    arguments = ("--data-root", shared / "data/tiny_imagenet10", "--work-dir", tmp_path)
    assert cli("test", "hardnet39ds_tiny_imagenet10", "--pretrained", *arguments)[0] == 0
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["images"] == 500
    assert report["metrics"]["top1"] == pytest.approx(0.884, abs=0.003)
    assert (tmp_path / "confusion.png").stat().st_size > 10_000


def test_a_runs_checkpoint_is_a_file_of_weights_also_without_mmengine(classifier):
    code = (
        "import sys; sys.modules['mmengine'] = None; import hardnet_suite;"
        f"model = hardnet_suite.create_model('hardnet39ds', pretrained={str(classifier / 'epoch_1.pth')!r});"
        "print(model.num_classes, model.fc.bias.sum().item())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    state = read_checkpoint(classifier / "epoch_1.pth")["state_dict"]
    assert run.stdout.split() == ["2", str(state["network.fc.bias"].sum().item())]
    assert "UserWarning" not in run.stderr


def test_a_schedule_with_a_function_is_gone_on_with(cli, tiny_classes, tmp_path):
    """OneCycleLR keeps one in its state, which no file of weights may hold."""
    config, data = tiny_classes
    schedule = "dict(type='OneCycleLR', eta_max=1e-3, total_steps=2, convert_to_iter_based=True)"
    text = config.read_text().replace("param_scheduler = []", f"param_scheduler = [{schedule}]")
    (tmp_path / "one.py").write_text(text.replace("max_epochs=1", "max_epochs=2"))
    arguments = ("train", tmp_path / "one.py", "--data-root", data, "--work-dir", tmp_path / "run")
    assert cli(*arguments)[0] == 0
    whole = read_checkpoint(tmp_path / "run/epoch_2.pth")["param_schedulers"]
    (tmp_path / "run/epoch_2.pth").unlink()
    assert cli(*arguments, "--resume")[::2] == (0, "")
    resumed = read_checkpoint(tmp_path / "run/epoch_2.pth")["param_schedulers"]
    assert resumed == whole
    assert whole[0]["last_step"] == 3


def test_a_checkpoint_is_scored(cli, tiny_classes, classifier, tmp_path):
    config, data = tiny_classes
    arguments = ("test", config, classifier, "--data-root", data, "--work-dir", tmp_path)
    status, out, err = cli(*arguments)
    assert (status, err) == (0, "")
    assert "Samoyed" in out
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["images"] == 4
    assert list(report["per_class"]) == ["dog", "n02111889"]
    assert report["metrics"]["top5"] == 1
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    right = [row["label"] == row["guesses"][0] for row in rows]
    assert report["metrics"]["top1"] == sum(right) / 4
    assert all(sum(row["probabilities"]) == pytest.approx(1, abs=1e-4) for row in rows)
    assert Image.open(tmp_path / "confusion.png").size[0] > 300
    assert report["per_class"]["dog"]["images"] == 2
    mistakes = [json.loads(line) for line in (tmp_path / "mistakes.jsonl").read_text().splitlines()]
    wrong = [row["label"] != row["guess"] for row in mistakes]
    assert wrong == sorted(wrong, reverse=True)
    assert sum(wrong) == 4 - sum(right)
    assert (tmp_path / "worst.jpg").exists() == any(wrong)
    for part in (mistakes[: sum(wrong)], mistakes[sum(wrong) :]):
        losses = [row["loss"] for row in part]
        assert losses == sorted(losses, reverse=True)
    for row in mistakes:
        if row["label"] == row["guess"]:
            assert row["loss"] == pytest.approx(-math.log(row["probability"]), abs=1e-4)


def test_classified_images_are_drawn_the_worst_first(cli, error_of, tiny_classes, classifier, tmp_path):
    config, data = tiny_classes
    arguments = ("test", config, classifier, "--data-root", data, "--work-dir", tmp_path / "work")
    assert cli(*arguments, "--show-dir", tmp_path / "all")[::2] == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "work/mistakes.jsonl").read_text().splitlines()]
    names = [f"{rank:03d}_{Path(row['image']).stem}" for rank, row in enumerate(rows, 1)]
    drawings = sorted((tmp_path / "all").iterdir())
    assert [path.stem.rsplit("_2")[0] for path in drawings] == names
    assert min(Image.open(path).size[0] for path in drawings) >= 320
    assert cli(*arguments, "--show-dir", tmp_path / "worst", "--worst", 1)[0] == 0
    wrong = sum(row["label"] != row["guess"] for row in rows)
    assert len([*(tmp_path / "worst").glob("*")]) == min(1, wrong)
    assert "lies in the data" in error_of(*arguments, "--show-dir", data / "train/drawings")


def test_check_data(cli, tiny_classes, tmp_path):
    config, data = tiny_classes
    data = shutil.copytree(data, tmp_path / "data")
    status, out, err = cli("check-data", config, "--data-root", data)
    assert (status, err) == (0, "")
    assert "images                8" in out
    path = data / "train/dog/3.png"
    path.write_bytes(path.read_bytes()[:500])
    status, out, err = cli("check-data", config, "--data-root", data)
    assert (status, err) == (1, "1 error\n")
    assert f"ERROR  unreadable image (1)\n    {path}: cannot read the image" in out


def test_a_broken_image_stops_training_with_its_name(error_of, tiny_classes, tmp_path):
    config, data = tiny_classes
    data = shutil.copytree(data, tmp_path / "data")
    for path in (data / "train/dog").iterdir():
        path.write_bytes(path.read_bytes()[:500])
    message = error_of("train", config, "--data-root", data, "--work-dir", tmp_path / "work")
    assert "cannot read the image" in message
    assert "train/dog/" in message


def test_data_that_does_not_fit(error_of, tiny_classes, tmp_path):
    config, data = tiny_classes
    arguments = ("--data-root", data, "--work-dir", tmp_path)
    message = error_of("train", config, *arguments, "--cfg-options", "model.num_classes=3")
    assert "num_classes=3, but train_dataloader has 2 classes" in message
    message = error_of("train", config, *arguments, "--cfg-options", "train_dataloader.batch_size=9")
    assert "8 images are too few for a batch of 9" in message
    (tmp_path / "none").mkdir()
    message = error_of("train", config, "--data-root", tmp_path / "none", "--work-dir", tmp_path)
    assert "expected FOLDER/CLASS/IMAGE" in message
    message = error_of(
        "test",
        "hardnet68_imagenet",
        *arguments,
        "--cfg-options",
        *(f"{loader}.dataset.folder=train" for loader in ("val_dataloader", "test_dataloader")),
    )
    assert "train/dog is not the folder of a class" in message


def test_other_classes_than_were_trained(cli, error_of, tiny_classes, classifier, tmp_path):
    """As many folders, but others: labels would be shifted in silence."""
    config, data = tiny_classes
    data = shutil.copytree(data, tmp_path / "data")
    shutil.copytree(data / "train", data / "val")
    (data / "val/dog").rename(data / "val/zebra")
    arguments = (config, "--data-root", data, "--work-dir", tmp_path / "work", "--cfg-options")
    options = [f"val_dataloader.dataset.{k}" for k in ("folder=val", "hold_out=0", "held_out=False")]
    message = error_of("train", *arguments, *options)
    assert (
        "val_dataloader has other classes: class 0 is 'n02111889', in train_dataloader it is 'dog'" in message
    )
    options = [option.replace("val_data", "test_data") for option in options]
    message = error_of("test", config, classifier, *arguments[1:], *options)
    assert f"test_dataloader has other classes: class 0 is 'n02111889', in {classifier}" in message


def test_a_runs_checkpoint_is_predicted_as_it_was_trained(classifier, tiny_classes):
    saved = classifier / "best_top1_epoch_1.pth"
    model = load_model(saved)
    assert model.classes == ("dog", "Samoyed")
    assert model.preprocess == load_model(tiny_classes[0], weights=saved).preprocess
    assert (model.preprocess.resize_to, model.preprocess.size) == (64, 64)
    assert load_model(classifier).classes == model.classes  # of the run's folder the newest


def test_a_folder_without_a_checkpoint_is_no_model(tmp_path):
    with pytest.raises(
        UserError, match=r"no checkpoint best_\*\.pth, epoch_N\.pth or iter_N\.pth in .*; train first"
    ):
        load_model(tmp_path)


def test_the_published_weights_are_scored_on_demand(cli, error_of, shared, golden, tmp_path, monkeypatch):
    """As the original's ``main.py -a hardnet39ds --pretrained -e``."""
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    torch.save(golden.state_dict("hardnet39ds"), tmp_path / find("hardnet39ds").file)
    config = "hardnet39ds_imagenet"
    arguments = (config, "--data-root", shared / "data/imagenet_mini", "--work-dir", tmp_path / "work")
    options = ("--cfg-options", "test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False")
    options += ("test_dataloader.dataset.indices=6",)
    status, _, err = cli("test", *arguments, "--pretrained", *options)
    assert status == 0
    assert err == (
        "warning: --cfg-options test_dataloader.dataset.indices: the config has no "
        "test_dataloader.dataset.indices yet, it is added\n"
    )
    report = json.loads((tmp_path / "work/metrics.json").read_text())
    assert report["images"] == 6
    assert report["checkpoint"].endswith(find("hardnet39ds").file)
    rule = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    network = create_model("hardnet39ds", pretrained=True).eval()
    wnids = list(imagenet_classes())
    rows = [json.loads(line) for line in (tmp_path / "work/predictions.jsonl").read_text().splitlines()]
    for row in rows:
        image = Image.open(row["name"]).convert("RGB")
        with torch.inference_mode():
            best = network(rule(image)[None])[0].topk(5).indices.tolist()
        assert row["guesses"] == [wnids[index] for index in best]
        assert row["label"] == Path(row["name"]).parent.name
    right = sum(row["label"] == row["guesses"][0] for row in rows)
    assert report["metrics"]["top1"] == right / 6
    message = error_of("test", config, "some.pth", "--pretrained", *arguments[1:])
    assert "--pretrained scores weights of the registry, not some.pth: give one of them" in message


def test_other_classes_than_the_published_weights(error_of, tiny_classes, tmp_path, monkeypatch):
    config, data = tiny_classes
    arguments = ("test", config, "--pretrained", "--data-root", data, "--work-dir", tmp_path / "work")
    message = error_of(*arguments, "--cfg-options", "weights_tag=nothing")
    assert "no weights tagged 'nothing'" in message
    row = replace(find("hardnet39ds"), classes=("cat", "dog"))
    monkeypatch.setattr("hardnet_suite.openmm.run.test.find", lambda *a: row)
    message = error_of(*arguments, "--cfg-options", "weights_tag=published")
    assert "class 0 is 'dog', in the weights 'published' of hardnet39ds it is 'cat'" in message
