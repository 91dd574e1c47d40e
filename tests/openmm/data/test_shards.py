"""Shards in a config: the images and labels of folders, checks, training, and where --data-root leads."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS
from PIL import Image

import hardnet_suite.openmm
from hardnet_suite.cli import main
from hardnet_suite.data.sources import images_of
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.classification import ClassificationPart, classification_samples
from hardnet_suite.openmm.data.sampling import fingerprint
from hardnet_suite.openmm.run.configs import load_config, set_data_root

assert hardnet_suite.openmm

CLASSES = ("ant", "bee", "cow")
QUICK = [
    *("model.num_classes=3", "model.data_preprocessor.num_classes=3", "train_cfg.max_epochs=1"),
    *("train_dataloader.dataset.classes=ant,bee,cow", "val_dataloader.dataset.classes=ant,bee,cow"),
    *("test_dataloader.dataset.classes=ant,bee,cow", "train_dataloader.batch_size=4"),
    *("train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"),
    *("val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False"),
    *("test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"),
]


@pytest.fixture
def data(tmp_path):
    """The same images as folders of classes and as shards."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for number in range(count):
            label = number % 3
            path = tmp_path / "folders" / split / CLASSES[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (70, 80, 3), np.uint8)).save(path)
            (tmp_path / "label").write_text(str(label))
            with tarfile.open(tmp_path / f"{split}-{number % 2:02}.tar", "a") as tar:
                tar.add(path, f"{number:03}.png")
                tar.add(tmp_path / "label", f"{number:03}.cls")
    return tmp_path


def test_the_same_images_as_in_folders(data):
    options = {"type": "ClassificationDataset", "classes": CLASSES, "pipeline": []}
    folders = DATASETS.build({**options, "folder": str(data / "folders/train")})
    shards = DATASETS.build({**options, "data_root": str(data), "shards": "train-{00..01}.tar"})
    assert len(folders) == len(shards) == 12
    assert folders.metainfo["classes"] == shards.metainfo["classes"]

    def content(dataset):
        return sorted((item["label"], np.asarray(item["img"]).tobytes()) for item in dataset)

    assert content(folders) == content(shards)
    held = DATASETS.build({**options, "shards": str(data / "train-*.tar"), "hold_out": 1, "held_out": True})
    assert sorted(held.get_data_info(index)["label"] for index in range(len(held))) == [0, 1, 2]


def test_data_root_of_shards(data):
    cfg = load_config("hardnet39ds_imagenet")
    set_data_root(cfg, f"{data}/train-{{00..01}}.tar")
    assert cfg.train_dataloader.dataset.shards == f"{data}/train-{{00..01}}.tar"
    assert cfg.val_dataloader.dataset.shards == cfg.test_dataloader.dataset.shards == f"{data}/val-*.tar"
    assert len(DATASETS.build({**cfg.val_dataloader.dataset, "pipeline": []})) == 6


@pytest.mark.parametrize("pattern", ["train-{0..11}.tar", "train-{2..9}.tar", "train-*.tar"])
def test_images_held_out_of_shards_are_not_trained_on(tmp_path, pattern):
    for shard in range(12):
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as tar:
            for label in range(10):
                for name, content in ((f"{label}.png", b"-"), (f"{label}.cls", str(label).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    cfg = load_config("hardnet39ds_tiny_imagenet10")
    set_data_root(cfg, f"{tmp_path}/{pattern}")

    def places(dataset):
        samples = classification_samples({**dataset, "hold_out": 3})
        return {samples.dataset.name(index) for index in samples.images}

    training, held = (places(cfg[f"{key}_dataloader"].dataset) for key in ("train", "val"))
    assert len(held) == 30
    assert training
    assert not training & held
    assert places(cfg.test_dataloader.dataset) == held


@pytest.mark.parametrize(
    ("config", "pattern", "text"),
    [
        ("ssd512_hardnet68", "train-{00..01}.tar", "is for classifiers"),
        ("hardnet39ds_imagenet", "none-{00..01}.tar", "do not say train"),
        ("hardnet39ds_imagenet", "train/x-{00..01}.tar", "do not say train"),
    ],
)
def test_data_roots_that_do_not_fit(data, config, pattern, text):
    with pytest.raises(UserError, match=text):
        set_data_root(load_config(config), str(data / pattern))


@pytest.mark.parametrize(
    "more", [{"folder": "train"}, {"csv": "a.csv"}, {"torchvision": {"name": "CIFAR10"}}]
)
def test_one_source_alone(data, more):
    with pytest.raises(UserError, match="not several"):
        DATASETS.build({"type": "ClassificationDataset", "shards": str(data / "train-*.tar"), **more})


def test_check_and_train(data, capsys, monkeypatch):
    monkeypatch.chdir(data)
    root = ["--data-root", "train-{00..01}.tar", "--cfg-options", *QUICK]
    assert main(["check-data", "hardnet39ds_imagenet", *root]) == 0, capsys.readouterr().err
    assert "train-{00..01}.tar" in capsys.readouterr().out
    assert main(["train", "hardnet39ds_imagenet", "--from-scratch", *root, "train_cfg.val_interval=1"]) == 0
    assert Path("work_dirs/hardnet39ds_imagenet/epoch_1.pth").is_file()
    scored = [
        "test",
        "hardnet39ds_imagenet",
        "work_dirs/hardnet39ds_imagenet/epoch_1.pth",
        "--show-dir",
        "drawn",
    ]
    assert main([*scored, *root, "--work-dir", "scores"]) == 0
    lines = Path("scores/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [image.name for image in images_of("val-*.tar")]
    assert len(list(Path("drawn").glob("*.jpg"))) == 6
    capsys.readouterr()
    assert main(["train", "hardnet39ds_imagenet", "--data-root", "train-{00..09}.tar"]) == 2
    assert "no shard train-02.tar (and 7 more)" in capsys.readouterr().err


def test_other_shards_are_other_images(data):
    """Two shards may hold images of the same names, so that those of the files count."""
    options = {"type": "ClassificationDataset", "classes": CLASSES, "pipeline": [], "data_root": str(data)}
    first, same, other = (
        DATASETS.build({**options, "shards": f"{name}.tar"}) for name in ("train-00", "train-00", "train-01")
    )
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)


def test_shards_that_are_packed_anew_are_other_images(data):
    """Under the same names of files, with the same labels in the same order."""
    options = {"type": "ClassificationDataset", "classes": CLASSES, "pipeline": [], "data_root": str(data)}
    before = fingerprint(DATASETS.build({**options, "shards": "train-00.tar"}))
    swapped = {"000": "006", "006": "000"}
    with tarfile.open(data / "train-00.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    keys = list(dict.fromkeys(Path(name).stem for name in files))
    with tarfile.open(data / "train-00.tar", "w") as tar:
        for key in (swapped.get(key, key) for key in keys):
            for name in (f"{key}.png", f"{key}.cls"):
                member = tarfile.TarInfo(name)
                member.size = len(files[name])
                tar.addfile(member, io.BytesIO(files[name]))
    assert fingerprint(DATASETS.build({**options, "shards": "train-00.tar"})) != before


def test_names_are_those_of_predict(data):
    """In the results of a test, in drawings and in what check-data finds."""
    pattern = f"{data}/val-{{00..01}}.tar"
    names = [image.name for image in images_of(pattern)]
    assert names[0] == f"{data}/val-00.tar/000.png"
    options = {"type": "ClassificationDataset", "shards": pattern, "hold_out": 1}
    dataset = DATASETS.build({**options, "hold_out": 0, "pipeline": [{"type": "PackClass"}]})
    assert [item["names"] for item in dataset] == names
    part = ClassificationPart.of_dataset("val_dataloader", options)
    for item in DATASETS.build({**options, "pipeline": [{"type": "PackClass"}]}):
        drawn = np.asarray(part.samples.open_named(item["names"]))
        assert np.array_equal(drawn, item["inputs"].permute(1, 2, 0))
    content = Path(data, "val-01.tar").read_bytes()
    Path(data, "val-01.tar").write_bytes(content.replace(b"\x89PNG", b"\0PNG", 1))
    (finding,) = ClassificationPart.of_dataset("val_dataloader", {**options, "hold_out": 0}).check().findings
    assert (finding.kind, finding.where) == ("unreadable image", f"{data}/val-01.tar/001.png")
