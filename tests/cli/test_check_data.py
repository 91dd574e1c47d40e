"""``check-data CONFIG``: what would stop a training, told before it."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def annotations(data):
    """Changes the training annotations by a function on their content."""
    path = data / "annotations/instances_train2017.json"

    def change(function) -> None:
        content = json.loads(path.read_text())
        function(content)
        path.write_text(json.dumps(content))

    return change


def test_good_data(cli, config, drawn):
    status, out, err = cli("check-data", config, "--data-root", drawn)
    assert (status, err) == (0, "")
    train, val = out.split("\nval_dataloader\n")
    assert train.startswith("train_dataloader\n")
    assert "images                4" in train
    assert "images                3" in val
    assert out.endswith("0 errors\n")


def test_truncated_image(cli, config, data):
    path = sorted((data / "train2017").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-200])
    status, out, err = cli("check-data", config, "--data-root", data)
    assert (status, err) == (1, "1 error\n")
    assert "ERROR  unreadable image (1)" in out
    assert f"image 2: {path}: " in out
    status, out, _ = cli("check-data", config, "--data-root", data, "--quick")
    assert status == 0


def test_missing_image(cli, config, data):
    (path, *_) = (data / "val2017").iterdir()
    path.unlink()
    status, out, _ = cli("check-data", config, "--data-root", data, "--quick")
    assert status == 1
    assert f"no file {path}" in out


@pytest.mark.parametrize("name", ["a\0b.jpg", "a\0/b.jpg", f"{'x' * 300}.jpg", "d" * 5000, "a\ud800.jpg"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_name_that_no_file_can_have(cli, config, data, split, name):
    path = data / f"annotations/instances_{split}2017.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    for options in ([], ["--quick"]):
        status, out, err = cli("check-data", config, "--data-root", data, *options)
        assert (status, err) == (1, "1 error\n")
        assert "ERROR  missing image (1)" in out


@pytest.mark.parametrize("config_of", ["all", "one"])
def test_images_that_nothing_names_are_told(cli, config, data, annotations, config_of):
    (path, *_) = sorted((data / "train2017").iterdir())
    for name in ("x", "y"):
        (data / "train2017" / name).with_suffix(path.suffix).write_bytes(path.read_bytes())
    options = ["--cfg-options", "train_dataloader.dataset.indices=1"] if config_of == "one" else []
    status, out, _ = cli("check-data", config, "--data-root", data, *options)
    assert status == 0
    told = f"2 that no data set of the config names: x{path.suffix}, y{path.suffix}"
    assert f"warning: images left out: {data / 'train2017'}: {told}\n" in out


def test_bad_box(cli, config, data, annotations):
    annotations(lambda content: content["annotations"][0].update(bbox=[5, 5, 0, 10]))
    status, out, err = cli("check-data", config, "--data-root", data)
    assert (status, err) == (1, "1 error\n")
    assert "ERROR  empty box (1)" in out
    assert "annotation 1 of image 1" in out


def test_other_classes_than_the_models(cli, config, data, annotations):
    status, out, _ = cli(
        "check-data", config, "--data-root", data, "--cfg-options", "model.bbox_head.num_classes=5"
    )
    assert status == 1
    assert "error: the model has num_classes=5, the data set 6 classes" in out

    annotations(lambda content: content["categories"][0].update(name="blob"))
    status, out, _ = cli("check-data", config, "--data-root", data)
    assert status == 1
    assert "ERROR  missing class (1)" in out
    assert "class circle: is to be trained, but no category of the file has this name" in out


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("how", ["copy", "link", "list"])
def test_validation_images_that_are_trained_on(cli, config, data, how, quick):
    """Under another name, by a link, or in both lists: a warning, as it may be meant."""
    training, validation = (sorted((data / f"{split}2017").iterdir()) for split in ("train", "val"))
    options = ["--quick"] if quick else []
    if how == "copy":
        validation[1].write_bytes(training[2].read_bytes())
    elif how == "link":
        validation[1].unlink()
        validation[1].symlink_to(training[2])
    else:
        prefix = "val_dataloader.dataset.data_prefix.img=train2017/"
        file = "val_dataloader.dataset.ann_file=annotations/instances_train2017.json"
        evaluator = f"val_evaluator.ann_file={data}/annotations/instances_train2017.json"
        options += ["--cfg-options", prefix, file, evaluator]
    status, out, err = cli("check-data", config, "--data-root", data, *options)
    assert (status, err) == (0, ""), out
    lines = [line for line in out.splitlines() if "are training data as well" in line]
    if how == "copy" and quick:
        assert lines == []
        return
    (line,) = lines
    count = "4 of 4" if how == "list" else "1 of 3"
    assert line.startswith(f"warning: {count} files of val_dataloader are training data as well, such as ")
    assert (f"{validation[1]}, a copy of {training[2]}" in line) == (how == "copy")
