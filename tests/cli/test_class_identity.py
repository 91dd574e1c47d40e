"""Class names, in order, of data sets, checkpoints and resumed runs, for every task."""

from __future__ import annotations

import json
from copy import deepcopy
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.data.shapes import write_shapes
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.configs import load_config, set_data_root
from hardnet_suite.openmm.run.test import TestOptions, plan_test
from hardnet_suite.openmm.run.train import _compare_initial_weights, train
from hardnet_suite.weights import open_weights

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
BASES = {
    "detection": "demo_ssd224_shapes",
    "segmentation": "fchardnet70_camvid",
    "classification": "hardnet39ds_tiny_imagenet10",
}
CLASSES = {
    "detection": ("circle", "square", "triangle", "star", "ring", "cross"),
    "segmentation": ("road", "path", "obstacle"),
    "classification": ("bird", "cat", "dog"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny data set for each task."""
    root = tmp_path_factory.mktemp("data")
    write_shapes(root / "detection", train=2, val=2, size=96)
    pixels = np.zeros((40, 40), np.uint8)
    for split in ("train", "val"):
        for place in (f"segmentation/{split}/a", f"segmentation/{split}annot/a"):
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / f"{place}.png")
        for name in CLASSES["classification"]:
            (root / "classification" / split / name).mkdir(parents=True)
            Image.fromarray(pixels).convert("RGB").save(root / "classification" / split / name / "a.png")
    return root


def set_classes(cfg, task, loader, classes):
    dataset = cfg[loader].dataset
    if task == "classification":
        dataset.classes = list(classes)
    else:
        dataset.metainfo = {"classes": classes}


def count(task):
    key = {"detection": "model.bbox_head.num_classes", "segmentation": "model.decode_head.num_classes"}
    if task == "classification":
        return {"model.num_classes": 3, "model.data_preprocessor.num_classes": 3}
    return {key[task]: len(CLASSES[task])}


@pytest.fixture
def config(folders, tmp_path):
    """Makes the config of a task, its work dir included; classes per loader."""

    def make(task, **classes):
        cfg = load_config(BASES[task], count(task))
        set_data_root(cfg, folders / task)
        cfg.work_dir = str(tmp_path)
        for loader in LOADERS:
            dataset = cfg[loader].dataset
            if task == "segmentation":
                split = "train" if loader == "train_dataloader" else "val"
                dataset.labels = None
                dataset.data_prefix = {"img_path": split, "seg_map_path": f"{split}annot"}
            elif task == "classification":
                split = "train" if loader == "train_dataloader" else "val"
                dataset.update(folder=split, hold_out=0, held_out=False)
            set_classes(cfg, task, loader, classes.get(loader, CLASSES[task]))
        return cfg

    return make


@pytest.fixture
def checkpoint(tmp_path):
    """A file of one tensor that says what it was trained on."""

    def make(classes, form="run"):
        tensors, path = {"x": torch.zeros(1)}, tmp_path / "weights.pth"
        if form == "run":
            meta = {"dataset_meta": {"classes": classes}, "epoch": 1, "iter": 1}
            torch.save({"state_dict": tensors, "meta": meta, "optimizer": {}}, path)
        elif form == "converted":
            torch.save({"state_dict": tensors, "meta": {"classes": list(classes)}}, path)
        else:
            path = tmp_path / "weights.safetensors"
            save_file(tensors, path, metadata={"classes": json.dumps(classes)})
        return path

    return make


def others(task):
    """Names that differ from the task's own: in order, in one name, in their number."""
    names = CLASSES[task]
    swapped = [order for order in permutations(names[:3]) if order != names[:3]][:3]
    return [
        *((*order, *names[3:]) for order in swapped),
        (*names[:-1], names[-1].upper()),
        (*names, "more"),
        names[:-1],
    ]


CASES = [(task, classes) for task in BASES for classes in others(task)]


@pytest.mark.parametrize(("task", "classes"), CASES)
@pytest.mark.parametrize("form", ["run", "converted", "safetensors"])
def test_a_checkpoint_of_other_classes_is_not_scored(config, checkpoint, task, classes, form):
    path = checkpoint(classes, form)
    with pytest.raises(UserError, match=r"test_dataloader has .*in the order of the checkpoint") as error:
        plan_test(config(task), path, TestOptions())
    assert str(path) in str(error.value)


@pytest.mark.parametrize("task", BASES)
@pytest.mark.parametrize("form", ["run", "converted", "safetensors"])
def test_a_plan_is_a_function_that_changes_nothing(config, checkpoint, task, form, tmp_path):
    cfg, path = config(task), checkpoint(CLASSES[task], form)
    before, files = deepcopy(cfg._cfg_dict), sorted(tmp_path.rglob("*"))
    plans = [plan_test(cfg, path, TestOptions()) for _ in range(2)]
    assert cfg._cfg_dict == before
    assert sorted(tmp_path.rglob("*")) == files
    assert plans[0].cfg._cfg_dict == plans[1].cfg._cfg_dict
    assert plans[0].part.task == task
    assert plans[0].checkpoint.path == path
    assert plans[0].settings_sha256 == plans[1].settings_sha256
    assert {"metrics.json"} < set(plans[0].files)


@pytest.mark.parametrize("task", BASES)
@pytest.mark.parametrize("loader", LOADERS)
def test_data_sets_of_one_config_that_differ(config, task, loader):
    cfg = config(task, **{loader: CLASSES[task][::-1]})
    with pytest.raises(UserError, match=r"same classes in another order.*one list of classes") as error:
        train(cfg)
    assert loader in str(error.value)


@pytest.mark.parametrize(("task", "classes"), CASES)
def test_a_run_of_other_classes_is_not_resumed(config, checkpoint, task, classes):
    with pytest.raises(UserError, match=r"train_dataloader has .*resume with the classes of the run"):
        train(config(task), resume=str(checkpoint(classes)))


@pytest.mark.parametrize(("task", "classes"), CASES)
def test_weights_of_other_classes_to_start_from(config, checkpoint, task, classes):
    own = CLASSES[task]

    def notes(names) -> list[str]:
        cfg = config(task)
        cfg.load_from = str(checkpoint(names))
        return _compare_initial_weights(cfg, open_weights(cfg.load_from, cfg.get("arch"), known=False))

    if sorted(classes) == sorted(own):
        with pytest.raises(UserError, match="list the classes in the checkpoint's order"):
            notes(classes)
        return
    (note,) = notes(classes)
    assert ("start from the file's" if len(classes) == len(own) else "are re-initialised") in note
    assert notes(own) == []


@pytest.mark.parametrize("task", BASES)
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("value", ["circle", [], ["a", "a", "b"], ["a", 3], ["", "b"]])
def test_class_names_that_are_no_list_of_names(config, task, loader, value):
    if value == [] and task == "classification":
        pytest.skip("an empty list means what the folders hold")
    cfg = config(task)
    node = cfg[loader].dataset
    if task == "classification":
        node.classes = value
    else:
        node.metainfo.classes = value
    with pytest.raises(UserError, match=r"classes (is|contains|names)") as error:
        train(cfg)
    assert loader in str(error.value)


def test_check_data_compares_the_data_sets(cli, folders, tmp_path):
    path = tmp_path / "mine.py"
    order = CLASSES["detection"][::-1]
    path.write_text(
        f'_base_ = "{OWN_CONFIGS}/demo_ssd224_shapes.py"\n'
        f"val_dataloader = dict(dataset=dict(metainfo=dict(classes={order})))\n"
    )
    status, out, _ = cli("check-data", path, "--data-root", folders / "detection")
    assert status == 1
    assert "error: val_dataloader has the same classes in another order: class 0 is 'cross'" in out
