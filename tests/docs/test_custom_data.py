"""docs/custom_data.md: its commands, word by word, on a small part of the blood cells."""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from mmengine.logging import MMLogger

from hardnet_suite.cli import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "ssd320_hardnet39ds_bccd"
PART = {"train": 12, "val": 6, "test": 6}
# the fewest steps, in this process; what the commands say stays as it is
QUICK = [
    *("train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"),
    *("val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False"),
    *("test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"),
]
SHORT = ["train_cfg.max_epochs=1", "train_cfg.val_interval=1", "default_hooks.checkpoint.interval=1"]


def commands() -> list[list[str]]:
    """convert-dataset, check-data, train, test and predict, as the first section of the document has them."""
    text = (ROOT / "docs/custom_data.md").read_text(encoding="utf-8").split("\n## ")[0]
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    clone, *rest = [shlex.split(line, comments=True) for line in blocks.splitlines() if line.strip()]
    assert clone[:2] == ["git", "clone"]
    return rest


def run(command: list[str], options: list[str] = ()) -> None:
    words = [path for word in command for path in (sorted(glob.glob(word)) or [word])]
    assert words[0] == "hardnet-suite"
    MMLogger._instance_dict.clear()
    arguments = words[1:]
    if options:
        arguments += ["--cfg-options", *options]
    assert main(arguments) == 0, " ".join(command)


@pytest.fixture(scope="module")
def cells(shared, tmp_path_factory):
    """A folder to work in, with the clone that the first command makes, reduced to ``PART``."""
    source = shared / "data/bccd"
    if not source.is_dir():
        pytest.skip(f"no blood cells at {source}")
    folder = tmp_path_factory.mktemp("custom_data")
    clone = folder / "BCCD_Dataset/BCCD"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (clone / name).mkdir(parents=True)
    for split, count in PART.items():
        stems = (source / f"ImageSets/Main/{split}.txt").read_text().split()[:count]
        (clone / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            shutil.copy(source / f"Annotations/{stem}.xml", clone / "Annotations")
            shutil.copy(source / f"JPEGImages/{stem}.jpg", clone / "JPEGImages")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def names_in_xml(stem: str) -> Counter[str]:
    root = ElementTree.parse(f"BCCD_Dataset/BCCD/Annotations/{stem}.xml")
    return Counter(element.findtext("name") for element in root.iter("object"))


def test_the_five_commands(cells, capfd):
    convert, check, train, test, predict = commands()
    run(convert)
    content = json.loads((cells / "data/bccd/annotations/instances_train.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["Platelets", "RBC", "WBC"]

    capfd.readouterr()
    run(check)
    assert "\n0 errors\n" in capfd.readouterr().out

    run(train, [*QUICK, *SHORT])
    assert list((cells / f"work_dirs/{CONFIG}").glob("best_*.pth"))
    run(test, QUICK)
    assert len(list((cells / f"work_dirs/{CONFIG}/images").rglob("*.jpg"))) == PART["test"]
    run(predict)
    results = Path(predict[predict.index("--out") + 1])
    assert any(results.rglob("*"))


@pytest.mark.parametrize("split", PART)
def test_labels_that_reach_the_model_are_right_by_name(cells, split):
    """The file orders the classes by the alphabet, the config otherwise."""
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    from hardnet_suite.openmm.run.configs import load_config

    run(commands()[0])
    cfg = load_config(CONFIG)
    init_default_scope(cfg.default_scope)
    assert tuple(cfg.classes) == ("RBC", "WBC", "Platelets")
    dataset = DATASETS.build(cfg[f"{split}_dataloader"].dataset)
    assert len(dataset) == PART[split]
    for index in range(len(dataset)):
        instances = dataset.get_data_info(index)["instances"]
        stem = Path(dataset.get_data_info(index)["img_path"]).stem
        expected = names_in_xml(stem)
        assert Counter(cfg.classes[entry["bbox_label"]] for entry in instances) == expected
        if split == "train":  # crops: a part of the boxes reaches the model
            labels = dataset[index]["data_samples"].gt_instances.labels.tolist()
            assert labels
            assert Counter(cfg.classes[label] for label in labels) <= expected


@pytest.mark.slow
def test_a_short_fine_tune_of_the_shipped_weights_keeps_their_quality(cells):
    """Wrong labels would push mAP towards 0 within these steps."""
    from hardnet_suite.weights import registry
    from hardnet_suite.weights.download import fetch

    run(commands()[0])
    options = [
        *QUICK,
        *("train_cfg.max_epochs=4", "train_cfg.val_interval=4", "default_hooks.checkpoint.interval=4"),
        *("optim_wrapper.optimizer.lr=1e-4", "param_scheduler=[]"),
        f"load_from={fetch(registry.find('ssd320_hardnet39ds', 'bccd'))}",
    ]
    run(["hardnet-suite", "train", CONFIG, "--work-dir", "tuned"], options)
    (checkpoint,) = (cells / "tuned").glob("epoch_*.pth")
    run(["hardnet-suite", "test", CONFIG, str(checkpoint), "--work-dir", "scored"], QUICK)
    figures = json.loads((cells / "scored/metrics.json").read_text())["metrics"]
    assert figures["coco/bbox_mAP"] > 0.4
