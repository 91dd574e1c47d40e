"""Configs from data folders: what is chosen, and that each one can be read and built."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from PIL import Image
from toy_runs import assert_identical

from hardnet_suite import list_models
from hardnet_suite.data.classes import readable
from hardnet_suite.data.segmentation import find_pairs
from hardnet_suite.data.shapes import write_shapes
from hardnet_suite.errors import UserError
from hardnet_suite.networks import PREPROCESS
from hardnet_suite.openmm.data.parts import label_set, parts, require_data
from hardnet_suite.openmm.run import from_data
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.from_data import Choices, default_work_dir, put_back, write_config
from hardnet_suite.openmm.run.recipes import Plan, Start, choose_batch_size, choose_epochs
from hardnet_suite.openmm.run.records import preprocess_of
from hardnet_suite.openmm.run.runner import prepare
from hardnet_suite.openmm.run.train import train
from hardnet_suite.weights import ROWS

SCRATCH = Choices(from_scratch=True)
TRAINABLE = [name for name in list_models() if "descriptor" not in name]


def task(model):
    kinds = {"ssd": "boxes", "rfb": "boxes", "cen": "boxes", "fch": "masks", "hardnet_mseg": "masks"}
    return kinds.get(model, kinds.get(model[:3], "classes"))


def picture(path, size=(48, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small folder for each task, none with a validation split but the boxes."""
    folder = tmp_path_factory.mktemp("data")
    write_shapes(folder / "boxes", train=6, val=3, size=96)
    for number in range(6):
        picture(folder / f"masks/images/{number}.jpg", (128, 96))
        label = np.resize(np.uint8([0, 1, 2, 255]), (96, 128))
        (folder / "masks/labels").mkdir(exist_ok=True)
        Image.fromarray(label).save(folder / f"masks/labels/{number}.png")
        for name in ("cat", "dog"):
            picture(folder / f"classes/{name}/{number}.png")
    return folder


def begin(run):
    """Makes a folder that of a run with a checkpoint, without which there is nothing to resume."""
    (run / "epoch_1.pth").touch()


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SHORT = Choices(from_scratch=True, epochs=2, image_size=64, batch_size=2)
MODELS = {"hardnet39ds": "classes", "fchardnet70": "masks", "centernet_hardnet68": "boxes"}


def split_data(folder, kind, names):
    """A small data set of each task: split -> names of images, each of which looks otherwise."""
    for split, stems in names.items():
        for stem in stems:
            colours = np.random.default_rng([*stem.encode()]).integers(0, 255, (40, 48, 3), np.uint8)
            places = {
                "classes": [f"{split}/{name}/{stem}.png" for name in ("cat", "dog")],
                "masks": [f"images/{split}/{stem}.png"],
                "boxes": [f"images/{split}/{stem}.png"],
            }[kind]
            for number, place in enumerate(places):
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.roll(colours, number, 0)).save(folder / place)
            if kind == "classes":
                continue
            (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
            if kind == "masks":
                label = np.resize(np.uint8([0, 1]), (40, 48))
                Image.fromarray(label).save(folder / f"labels/{split}/{stem}.png")
            else:
                (folder / f"labels/{split}/{stem}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (folder / "classes.txt").write_text("cat\n" if kind == "boxes" else "cat\ndog\n")


@pytest.mark.parametrize("model", TRAINABLE)
def test_every_trainable_model(data, tmp_path, model):
    before = files(data)
    lines = []
    path = write_config(model, data / task(model), tmp_path / "run", SCRATCH, say=lines.append)
    cfg = load_config(path, warn=pytest.fail)
    init_default_scope(cfg.default_scope)
    require_data(cfg, ["train_dataloader", "val_dataloader", "test_dataloader"])
    assert cfg.arch == model
    assert cfg.load_from is None
    assert cfg.work_dir == str(tmp_path / "run")
    assert not any(name.endswith("_base_") for name in cfg)
    hooks = [hook["type"] for hook in (*cfg.custom_hooks, *cfg.default_hooks.values())]
    assert hooks.count("EMAHook") == 1
    assert len({*hooks}) == len(hooks)
    assert files(data) == before
    told = "\n".join(lines)
    assert "weights" not in told  # which the training itself tells, as it does the schedule
    assert "epoch" not in told
    for start in ("data: ", "chosen: ", "config: "):
        assert f"\n{start}" in f"\n{told}"


@pytest.mark.parametrize("model", ["fchardnet70", "fchardnet70_paddleseg", "hardnet_mseg"])
def test_segmentors_get_images_in_their_own_order_and_units(data, tmp_path, model):
    cfg = load_config(write_config(model, data / "masks", tmp_path / "run", SCRATCH))
    rule, given = PREPROCESS[model], preprocess_of(cfg)
    assert not {"channels", "mean", "std"} & {*given.differences(rule)}


@pytest.mark.parametrize(
    ("model", "full"),
    [("rfb512_hardnet85", True), ("ssd512_hardnet85", False), ("centernet_hardnet85", False)],
)
def test_epochs_of_detectors_with_batch_norms_of_one_pixel_end_with_a_full_batch(data, tmp_path, model, full):
    path = write_config(model, data / "boxes", tmp_path / "run", SCRATCH, say=lambda _: None)
    assert load_config(path).train_dataloader.drop_last == full


@HOOKS.register_module()
class KeepWeights(Hook):
    """The weights in training before and after each validation."""

    kept: ClassVar[list] = []

    def before_val(self, runner) -> None:
        self.kept.append([weight.detach().clone() for weight in runner.model.parameters()])

    after_val = before_val


def test_validation_leaves_the_weights_in_training_and_a_resumed_run_is_the_same(data, tmp_path):
    """Of the segmentor whose name is not that of its base config."""
    choices = Choices(from_scratch=True, epochs=2, image_size=64, batch_size=2)
    cfg = load_config(write_config("hardnet_mseg", data / "masks", tmp_path, choices, say=lambda _: None))
    cfg.visualizer.vis_backends = [{"type": "LocalVisBackend"}]
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.num_workers = 0
    cfg.custom_hooks = [*cfg.custom_hooks, {"type": "KeepWeights"}]
    KeepWeights.kept.clear()
    train(prepare(cfg, work_dir=tmp_path / "whole"))
    kept = KeepWeights.kept
    assert len(kept) == 4
    for before, after in ((kept[0], kept[1]), (kept[2], kept[3])):
        assert_identical(before, after)
    resumed = shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    (resumed / "epoch_2.pth").unlink()
    train(prepare(cfg, work_dir=resumed), resume=str(resumed / "epoch_1.pth"))
    ends = [torch.load(tmp_path / name / "epoch_2.pth", weights_only=False) for name in ("whole", "resumed")]
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert_identical(ends[0][part], ends[1][part], part)
    raw = {key.removeprefix("module."): value for key, value in ends[0]["ema_state_dict"].items()}
    names = [name for name in raw if name.endswith("weight")]
    assert any(not torch.equal(raw[name], ends[0]["state_dict"][name]) for name in names)


@pytest.mark.parametrize("name", ["hardnet_descriptor", "hardnet_descriptor_ps"])
def test_the_descriptor(data, tmp_path, name):
    with pytest.raises(UserError, match=f"{name} describes patches"):
        write_config(name, data / "boxes", tmp_path / "run")


@pytest.mark.parametrize(
    ("model", "folder", "message"),
    [
        ("ssd320_hardnet39ds", "masks", "has data for segmentation, but ssd320_hardnet39ds is for detection"),
        ("ssd320_hardnet39ds", "classes", "has data for classification"),
        ("fchardnet70", "boxes", "has data for detection"),
        ("hardnet68", "masks", "it needs a folder of images per class"),
        ("hardnet68", "nowhere", "no folder"),
        ("hardnet68", ".", "has no data of a known layout"),
        ("hardnet99", "classes", "got hardnet99; there are"),
    ],
)
def test_data_of_another_task(data, tmp_path, model, folder, message):
    if folder == ".":
        (tmp_path / "empty").mkdir()
        data, folder = tmp_path, "empty"
    with pytest.raises(UserError, match=message):
        write_config(model, data / folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "choices", "message"),
    [
        ("ssd320_hardnet39ds", Choices(image_size=512), r"320×320 pixels \(ssd512_hardnet68"),
        ("ssd320_hardnet39ds", Choices(epochs=0), "--epochs 0"),
        ("hardnet68", Choices(batch_size=-1), "--batch-size -1"),
        ("fchardnet70", Choices(image_size=100), "a multiple of 32"),
        ("centernet_hardnet68", Choices(image_size=8192), "from 32 to 4096"),
    ],
)
def test_choices_out_of_range(data, tmp_path, model, choices, message):
    with pytest.raises(UserError, match=message):
        write_config(model, data / task(model), tmp_path / "run", choices)


@pytest.mark.parametrize("model", ["centernet_hardnet68", "fchardnet70", "hardnet39ds"])
def test_choices_have_an_effect(data, tmp_path, model):
    choices = Choices(epochs=3, image_size=96, batch_size=3, from_scratch=True)
    path = write_config(model, data / task(model), tmp_path / "run", choices, say=lambda _: None)
    cfg = load_config(path)
    assert cfg.train_cfg.max_epochs == 3
    assert cfg.train_dataloader.batch_size == 3
    steps = {step["type"]: step for step in cfg.train_dataloader.dataset.pipeline}
    if model == "fchardnet70":
        assert tuple(steps["mmseg.RandomCrop"]["crop_size"]) == (96, 96)
    elif model == "hardnet39ds":
        assert steps["torchvision/RandomResizedCrop"]["size"] == 96
    else:
        assert tuple(steps["Resize"]["scale"]) == (96, 96)
    end = cfg.param_scheduler[-1]["end"]
    count = {"fchardnet70": 5, "hardnet39ds": 10}.get(model, 6)  # what is not held out
    assert end == 3 * (count // 3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("choices", "batch", "images"), [({"batch_size": 2}, 2, 4), ({"global_batch_size": 8}, 4, 8)]
)
def test_the_schedule_ends_with_a_training_on_several_ranks(tmp_path, model, choices, batch, images):
    folder = tmp_path / "data"
    split_data(folder, MODELS[model], {"train": "abcdefghijklmnopq", "val": "uvw"})
    chosen = Choices(epochs=3, image_size=64, from_scratch=True, ranks=2, **choices)
    cfg = load_config(write_config(model, folder, tmp_path / "run", chosen, say=lambda _: None))
    count = 34 if model == "hardnet39ds" else 17
    batches = -(-9 // batch) if model == "centernet_hardnet68" else count // images
    assert cfg.param_scheduler[-1]["end"] == 3 * batches
    assert cfg.train_dataloader.batch_size == batch


def test_a_drawn_split_is_disjoint_and_the_same_each_time(data, tmp_path):
    for model in ("fchardnet70", "hardnet39ds"):
        members = []
        for run in ("a", "b"):
            path = write_config(
                model, data / task(model), tmp_path / model / run, SCRATCH, say=lambda _: None
            )
            cfg = load_config(path)
            init_default_scope(cfg.default_scope)
            found = []
            for part in parts(cfg, ["train_dataloader", "val_dataloader"]):
                images = part.samples.images if model == "hardnet39ds" else [i for i, _ in part.pairs()]
                found.append({str(image) for image in images})
            assert not found[0] & found[1]
            assert len(found[0] | found[1]) == (12 if model == "hardnet39ds" else 6)
            members.append(found)
        assert members[0] == members[1]


def test_a_fifth_of_each_class_is_held_out(tmp_path):
    for name, count in (("cat", 30), ("dog", 10), ("eel", 2)):
        for number in range(count):
            picture(tmp_path / f"data/{name}/{number}.png")
    lines = []
    path = write_config("hardnet39ds", tmp_path / "data", tmp_path / "run", SCRATCH, say=lines.append)
    assert "no validation split: 9 of the 42 images, drawn at random, are held out" in lines
    assert any(line.startswith("data:") and "33 training and 9 validation images" in line for line in lines)
    cfg = load_config(path)
    init_default_scope(cfg.default_scope)
    train, val = (part.samples for part in parts(cfg, ["train_dataloader", "val_dataloader"]))
    assert [[found.labels.count(label) for label in range(3)] for found in (train, val)] == [
        [24, 8, 1],
        [6, 2, 1],
    ]
    assert {*train.images} | {*val.images} == {*(tmp_path / "data").glob("*/*.png")}
    picture(tmp_path / "data/cat/another.png")  # would change what is drawn
    with pytest.raises(
        UserError, match=r"annotations/train\.csv exists, and no earlier training on the same"
    ):
        write_config("hardnet39ds", tmp_path / "data", tmp_path / "run", SCRATCH, say=lines.append)


def test_a_single_class_of_images_is_refused_before_a_config_is_written(tmp_path):
    picture(tmp_path / "data/train/cat/0.png")
    with pytest.raises(UserError, match=r"data has one class, cat: a classifier with one class answers"):
        write_config("hardnet39ds", tmp_path / "data", tmp_path / "run", SCRATCH, say=lambda _: None)
    assert not (tmp_path / "run").exists()


def yolo(folder, names, classes=("cat",), *, split="", colour=lambda number: number):
    """A YOLO data set with a box in each image, of the classes in turn."""
    for number, name in enumerate(names):
        for place in ("images", "labels"):
            (folder / place / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (9, 9, colour(number))).save(folder / f"images/{split}/{name}.png")
        box = f"{number % len(classes)} 0.5 0.5 0.4 0.4\n"
        (folder / f"labels/{split}/{name}.txt").write_text(box)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes))


@pytest.mark.parametrize("change", ["none", "classes", "drawn", "added"])
def test_a_resumed_run_keeps_what_it_scores(tmp_path, change):
    """Images that the run has seen would be scored after another draw: nothing of the run is replaced."""
    folder, run = tmp_path / "data", tmp_path / "run"
    yolo(folder, [f"t{number}" for number in range(10)], split="" if change == "drawn" else "train")
    if change != "drawn":
        yolo(folder, ["v"], split="val")
    resume = Choices(from_scratch=True, epochs=3, resume=True)
    write_config("ssd320_hardnet39ds", folder, run, resume, say=lambda _: None)  # nothing is there yet
    begin(run)
    before = files(run)
    if change == "classes":
        yolo(folder, [f"t{number}" for number in range(10)], ("cat", "dog"), split="train")
    elif change == "drawn":
        yolo(folder, ["a_new"])
    elif change == "added":
        yolo(folder, ["a_new"], split="train")
    if change in ("none", "added"):
        write_config("ssd320_hardnet39ds", folder, run, resume, say=lambda _: None)
        assert (files(run) == before) == (change == "none")
        return
    message = {
        "classes": "cannot resume: the classes are cat, dog, those of the run cat: resume with",
        "drawn": r"others than those of the run, and 1 of the 2 images of val, such as images/t\d",
    }
    with pytest.raises(UserError, match=message[change]):
        write_config("ssd320_hardnet39ds", folder, run, resume, say=lambda _: None)
    assert files(run) == before
    write_config("ssd320_hardnet39ds", folder, run, SCRATCH, say=lambda _: None)  # a new training there


@pytest.mark.parametrize("model", ["hardnet39ds", "fchardnet70"])
def test_a_run_of_other_classes_is_not_resumed(tmp_path, model):
    """Its config stays, which test and predict read."""
    folder, run = tmp_path / "data", tmp_path / "run"
    names = ["cat", "dog"]

    def write():
        for split in ("train", "val"):
            for name in names:
                if model == "hardnet39ds":
                    picture(folder / f"{split}/{name}/0.png")
                    continue
                picture(folder / f"images/{split}/{name}.png", (64, 64))
                (folder / f"labels/{split}").mkdir(parents=True, exist_ok=True)
                label = np.full((64, 64), names.index(name), np.uint8)
                Image.fromarray(label).save(folder / f"labels/{split}/{name}.png")
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))

    resume = Choices(from_scratch=True, resume=True)
    write()
    write_config(model, folder, run, resume, say=lambda _: None)
    begin(run)
    before = files(run)
    write_config(model, folder, run, resume, say=lambda _: None)
    assert files(run) == before
    names.append("fox")
    write()
    with pytest.raises(UserError, match="the classes are cat, dog, fox, those of the run cat, dog: "):
        write_config(model, folder, run, resume, say=lambda _: None)
    assert files(run) == before
    write_config(model, folder, run, SCRATCH, say=lambda _: None)
    assert files(run) != before


def test_a_run_whose_data_were_moved_and_changed_is_not_resumed(tmp_path):
    folder, run = tmp_path / "data", tmp_path / "run"
    yolo(folder, [f"t{number}" for number in range(10)])
    write_config("ssd320_hardnet39ds", folder, run, SCRATCH, say=lambda _: None)
    begin(run)
    before = files(run)
    moved = folder.rename(tmp_path / "moved")
    yolo(moved, ["a_new"])
    with pytest.raises(UserError, match="1 of the 2 images of val"):
        write_config(
            "ssd320_hardnet39ds", moved, run, Choices(from_scratch=True, resume=True), say=lambda _: None
        )
    assert files(run) == before


def test_a_run_whose_splits_share_images_is_resumed(tmp_path):
    """As of a data set that is validated on what it trains on, which is told when the run begins."""
    folder, run = tmp_path / "data", tmp_path / "run"
    yolo(folder, ["a", "b"], split="train")
    names = {"path": str(folder), "train": "images/train", "val": "images/train", "names": ["cat"]}
    (folder / "data.yaml").write_text(json.dumps(names))
    resume = Choices(from_scratch=True, resume=True)
    write_config("ssd320_hardnet39ds", folder, run, resume, say=lambda _: None)
    begin(run)
    before = files(run)
    write_config("ssd320_hardnet39ds", folder, run, resume, say=lambda _: None)
    assert files(run) == before


def test_a_run_on_a_folder_is_not_resumed_on_one_of_its_files(tmp_path):
    """The file's split is divided, then: images are known by their files, not by their names in it."""
    folder, run = tmp_path / "data", tmp_path / "run"
    for split, count in (("train", 10), ("valid", 2)):
        images = [{"id": n, "file_name": f"{split}{n}.jpg", "width": 48, "height": 40} for n in range(count)]
        boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [2, 2, 20, 20]} for n in range(count)]
        for image in images:
            picture(folder / split / image["file_name"])
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    write_config("ssd320_hardnet39ds", folder, run, SCRATCH, say=lambda _: None)
    begin(run)
    before = files(run)
    with pytest.raises(UserError, match=r"2 of the 2 images of val, such as .*train\d\.jpg, were trained on"):
        write_config(
            "ssd320_hardnet39ds",
            folder / "train/_annotations.coco.json",
            run,
            Choices(from_scratch=True, resume=True),
            say=lambda _: None,
        )
    assert files(run) == before


@pytest.mark.parametrize("model", ["hardnet39ds", "fchardnet70"])
def test_a_run_whose_validation_split_is_gone_is_not_resumed(tmp_path, model):
    folder, run = tmp_path / "data", tmp_path / "run"
    for split, count in (("train", 10), ("val", 2)):
        for number in range(count):
            for name in ("cat", "dog"):
                if model == "hardnet39ds":
                    picture(folder / f"{split}/{name}/{split}{number}.png")
                    continue
                picture(folder / f"images/{split}/{name}{number}.png", (64, 64))
                (folder / f"labels/{split}").mkdir(parents=True, exist_ok=True)
                label = np.resize(np.uint8([0, 1]), (64, 64))
                Image.fromarray(label).save(folder / f"labels/{split}/{name}{number}.png")
    write_config(model, folder, run, SCRATCH, say=lambda _: None)
    begin(run)
    before = files(run)
    for place in ("val", "images/val", "labels/val"):
        shutil.rmtree(folder / place, ignore_errors=True)
    with pytest.raises(UserError, match=r"4 of the 4 images of val, such as .*, were trained on"):
        write_config(model, folder, run, Choices(from_scratch=True, resume=True), say=lambda _: None)
    assert files(run) == before


@pytest.mark.parametrize("place", ["same", "copy", "checkpoint", "renamed"])
@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_not_resumed_on_images_that_went_to_another_split(tmp_path, model, place):
    """In the same folder, or in a copy; in the run's own folder, in another one, or in a renamed one."""
    folder, run, options = tmp_path / "data", tmp_path / "run", {"resume": True}
    split_data(folder, MODELS[model], {"train": "abcdef", "val": "uvw"})
    write_config(model, folder, run, SHORT, say=lambda _: None)
    begin(run)
    before = files(run)
    if place == "copy":
        folder = tmp_path / "copy"
    elif place == "checkpoint":
        options["resume"], run = str(run / "epoch_1.pth"), tmp_path / "other"
    elif place == "renamed":
        run = run.rename(tmp_path / "renamed")
        before = files(run)
    shutil.rmtree(folder, ignore_errors=True)
    split_data(folder, MODELS[model], {"train": "abcuvw", "val": "def"})
    with pytest.raises(
        UserError, match=r"(3 of the 3|6 of the 6) images of val, such as .*, were trained on"
    ):
        write_config(model, folder, run, replace(SHORT, **options), say=lambda _: None)
    assert files(run) == ({} if place == "checkpoint" else before)


def test_what_a_run_was_trained_on_before_it_was_resumed_counts(tmp_path):
    folder, run, resume = tmp_path / "data", tmp_path / "run", replace(SHORT, resume=True)
    for trained, val, passes in (("abcdef", "uv", True), ("abcdexy", "uv", True), ("abcdexy", "uvf", False)):
        shutil.rmtree(folder, ignore_errors=True)
        split_data(folder, "classes", {"train": trained, "val": val})
        if not passes:
            with pytest.raises(UserError, match=r"2 of the 6 images of val, such as val/cat/f\.png"):
                write_config("hardnet39ds", folder, run, resume, say=lambda _: None)
            continue
        write_config("hardnet39ds", folder, run, resume, say=lambda _: None)
        begin(run)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_not_chosen_is_as_in_the_run(tmp_path, monkeypatch, model):
    """Also on a machine with a GPU, or where other weights can be had: the schedule goes by them."""
    folder, run = tmp_path / "data", tmp_path / "run"
    split_data(folder, MODELS[model], {"train": "abcdefghijklmnopqrst", "val": "uvw"})
    fetch = {"path": None}

    def fetched(row, timeout):
        if fetch["path"] is None:
            raise UserError("no network; none")
        return fetch["path"]

    monkeypatch.setattr(from_data, "fetch", fetched)
    chosen = Choices(epochs=3, image_size=96, batch_size=3)
    path = write_config(model, folder, run, chosen, say=lambda _: None)
    begin(run)
    before = files(run)
    fetch["path"] = tmp_path / "weights.pth"
    write_config(model, folder, run, Choices(resume=True), gpu=True, say=lambda _: None)
    assert files(run) == before
    write_config(model, folder, run, Choices(resume=True, epochs=5), say=lambda _: None)
    assert load_config(path).train_cfg.max_epochs == 5
    write_config(model, folder, run, Choices(), say=lambda _: None)  # a new training there
    assert ("lr=0.001," in before[path].decode(), "lr=0.0005," in path.read_text()) == (True, True)


def test_a_run_that_is_not_the_same_training_is_not_resumed(tmp_path, monkeypatch):
    folder, run = tmp_path / "data", tmp_path / "run"
    split_data(folder, "classes", {"train": "abcdef", "val": "uvw"})
    monkeypatch.setattr(from_data, "fetch", lambda row, timeout: tmp_path / "weights.pth")
    write_config("hardnet39ds", folder, run, Choices(), say=lambda _: None)
    begin(run)
    before = files(run)
    for model, scratch, message in (
        ("hardnet68", False, "cannot resume: the run is of hardnet39ds, not hardnet68"),
        ("hardnet39ds", True, "cannot resume with --from-scratch: the run began with pretrained weights"),
    ):
        with pytest.raises(UserError, match=message):
            write_config(model, folder, run, Choices(resume=True, from_scratch=scratch), say=lambda _: None)
    assert files(run) == before


@pytest.mark.parametrize("record", ["missing", "edited", "whole"])
@pytest.mark.parametrize("checkpoint", [None, "epoch_1.pth", "mine.pth"])
def test_a_run_that_does_not_tell_what_it_was_trained_on(tmp_path, record, checkpoint):
    """It is resumed with a warning; a checkpoint may have any name."""
    folder, run, lines = tmp_path / "data", tmp_path / "run", []
    split_data(folder, "classes", {"train": "abcdef", "val": "uvw"})
    write_config("hardnet39ds", folder, run, SHORT, say=lambda _: None)
    (run / (checkpoint or "epoch_1.pth")).touch()
    path = run / "annotations/data.json"
    if record == "missing":
        path.unlink()
    elif record == "edited":
        path.write_text(path.read_text().replace("train/cat/a.png", "train/cat/b.png"))
    split_data(folder, "classes", {"val": "a"})
    resume = replace(SHORT, resume=str(run / checkpoint) if checkpoint else True)
    if record == "whole":
        with pytest.raises(UserError, match="2 of the 8 images of val"):
            write_config("hardnet39ds", folder, run, resume, say=lines.append)
        return
    if record == "missing":
        write_config("hardnet39ds", folder, run, resume, say=lines.append)
    else:
        with pytest.raises(UserError, match=r"data\.json exists, and no earlier training wrote it"):
            write_config("hardnet39ds", folder, run, resume, say=lines.append)
    why = {"missing": "is missing", "edited": "is not as train --data wrote it"}[record]
    assert any(line.startswith(f"warning: {path} {why}") for line in lines)


def test_nothing_is_written_where_a_file_is_in_the_way(tmp_path):
    folder, run = tmp_path / "data", tmp_path / "run"
    split_data(folder, "boxes", {"train": "abcdef", "val": "uvw"})
    write_config("centernet_hardnet68", folder, run, SHORT, say=lambda _: None)
    file = run / "annotations/instances_val.json"
    file.write_text(file.read_text().replace("cat", "cut"))
    before = files(run)
    split_data(folder, "boxes", {"train": "g", "val": ""})
    with pytest.raises(UserError, match=r"instances_val\.json exists, and no earlier training wrote it"):
        write_config("centernet_hardnet68", folder, run, SHORT, say=lambda _: None)
    assert files(run) == before


def test_what_was_replaced_can_be_put_back(tmp_path):
    folder, run, replaced = tmp_path / "data", tmp_path / "run", {}
    split_data(folder, "boxes", {"train": "abcdef", "val": "uvw"})
    resume = replace(SHORT, resume=True)
    write_config("centernet_hardnet68", folder, run, resume, say=lambda _: None, replaced=replaced)
    assert not replaced  # there was nothing to resume
    begin(run)
    before = files(run)
    split_data(folder, "boxes", {"train": "g", "val": "", "test": "z"})
    write_config("centernet_hardnet68", folder, run, resume, say=lambda _: None, replaced=replaced)
    assert files(run) != before
    put_back(replaced)
    assert files(run) == before
    replaced.clear()
    chosen = replace(SHORT, epochs=5)  # a new training, which another one in the folder would refuse
    write_config("centernet_hardnet68", folder, run, chosen, say=lambda _: None, replaced=replaced)
    put_back(replaced)
    left = files(run)
    assert {path: left[path] for path in before} == before


def test_the_schedule_counts_images_of_difficult_objects_alone(tmp_path):
    """They are trained on, as images without a box to find."""
    folder = tmp_path / "data"
    lines = {
        f"{name}.jpg": mark
        for name, mark in {"a": False, "b": True, "c": True, "d": True, "e": None, "v": False}.items()
    }
    for name in lines:
        picture(folder / "images" / name)
    images = "".join(
        f'<image name="{name}" subset="{"val" if name == "v.jpg" else "train"}">'
        + (
            ""
            if mark is None
            else '<box label="cat" xtl="2" ytl="2" xbr="30" ybr="30">'
            f'<attribute name="difficult">{str(mark).lower()}</attribute></box>'
        )
        + "</image>"
        for name, mark in lines.items()
    )
    (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    choices = Choices(from_scratch=True, epochs=5, batch_size=1)
    cfg = load_config(
        write_config("ssd320_hardnet39ds", folder, tmp_path / "run", choices, say=lambda _: None)
    )
    init_default_scope(cfg.default_scope)
    (part,) = parts(cfg, ["train_dataloader"])
    assert part.counts() == "4 images, 1 box"
    assert cfg.param_scheduler[-1]["end"] == 5 * 4


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("model", ["ssd320_hardnet39ds", "fchardnet70", "hardnet39ds"])
def test_a_moved_run_finds_its_annotations(data, tmp_path, monkeypatch, model, relative):
    path = write_config(model, data / task(model), tmp_path / "run", SCRATCH, say=lambda _: None)
    path.with_name("epoch_1.pth").touch()
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    word = "moved" if relative else str(tmp_path / "moved")
    cfg = load_config(word)
    init_default_scope(cfg.default_scope)
    require_data(cfg, ["train_dataloader", "val_dataloader", "test_dataloader"])
    assert {part.loader for part in parts(cfg)} >= {"train_dataloader", "val_dataloader"}


def test_boxes_without_a_validation_split(data, tmp_path):
    source = tmp_path / "source"
    write_shapes(source, train=6, val=1, size=96)
    (source / "annotations/instances_val2017.json").unlink()
    lines = []
    write_config("ssd224_hardnet29", source, tmp_path / "run", SCRATCH, say=lines.append)
    assert "no validation split: 1 of the 6 images, drawn at random, is held out" in lines
    names = [
        {
            image["file_name"]
            for image in json.loads((tmp_path / f"run/annotations/instances_{split}.json").read_text())[
                "images"
            ]
        }
        for split in ("train", "val")
    ]
    assert [len(found) for found in names] == [5, 1]
    assert not names[0] & names[1]


@pytest.mark.parametrize("told", [False, True])
def test_ids_and_areas_of_a_coco_data_set(tmp_path, told):
    """What ``test`` writes can be scored against the user's own file."""
    source = tmp_path / "source"
    write_shapes(source, train=6, val=1, size=96)
    (source / "annotations/instances_val2017.json").unlink()
    path = source / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    for entry in content["categories"]:
        entry["id"] = f"c{entry['id']}" if told else 100 - entry["id"]
    for entry in content["images"]:
        entry["id"] *= 7
    for entry in content["annotations"]:
        entry["category_id"] = f"c{entry['category_id']}" if told else 100 - entry["category_id"]
        entry["image_id"] *= 7
        entry["area"] = 30.5
    path.write_text(json.dumps(content))
    lines = []
    write_config("ssd224_hardnet29", source, tmp_path / "run", SCRATCH, say=lines.append)
    assert any(line.startswith("warning: category ids (1)") for line in lines) == told
    own_images = {image["file_name"]: image["id"] for image in content["images"]}
    own_classes = {category["name"]: category["id"] for category in content["categories"]}
    for split in ("train", "val"):
        written = json.loads((tmp_path / f"run/annotations/instances_{split}.json").read_text())
        assert all(own_images[Path(i["file_name"]).name] == i["id"] for i in written["images"])
        assert {entry["area"] for entry in written["annotations"]} == {30.5}
        if not told:
            assert all(own_classes[entry["name"]] == entry["id"] for entry in written["categories"])


def coco_split(source, split, numbers, annotated=True, name="instances_{}2017.json"):
    """A further split of images of ``train`` in a COCO data set of drawn shapes."""
    content = json.loads((source / "annotations/instances_train2017.json").read_text())
    ids = [image["id"] for image in content["images"]][slice(*numbers)]
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
    for image in content["images"]:
        path = source / split / image["file_name"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((source / "train2017" / image["file_name"]).read_bytes())
    if not annotated:
        del content["annotations"]
    (source / "annotations" / name.format(split)).write_text(json.dumps(content))


@pytest.mark.parametrize("has_val", [True, False])
def test_splits_that_are_left_out_are_told(tmp_path, has_val):
    source, lines = tmp_path / "source", []
    write_shapes(source, train=6, val=2, size=96)
    if not has_val:
        (source / "annotations/instances_val2017.json").unlink()
    coco_split(source, "extra", (0, 1))
    coco_split(source, "minival", (1, 3))
    coco_split(source, "test", (3, 6), annotated=False)
    cfg = load_config(write_config("ssd224_hardnet29", source, tmp_path / "run", SCRATCH, say=lines.append))
    assert (
        "splits left out: test (3 images without annotations), extra (1 image), minival (2 images); train, "
        "val and test are used"
    ) in lines
    held_out = "no other validation split: 1 of the 6 images, drawn at random, is held out"
    assert (held_out in lines) is not has_val
    assert cfg.test_dataloader.dataset.ann_file.endswith("instances_val.json")
    assert not (tmp_path / "run/annotations/instances_test.json").exists()


@pytest.mark.parametrize("layout", ["images/{}", "{}/images", "{}", "{}/cat"])
def test_folders_of_other_splits_are_told(tmp_path, layout):
    model = "hardnet39ds" if layout == "{}/cat" else "fchardnet70"
    labels = "{}annot" if layout == "{}" else layout.replace("images", "labels")
    for split in ("train", "extra"):
        for number in range(3):
            picture(tmp_path / "data" / layout.format(split) / f"{number}.png", (64, 64))
            if model == "fchardnet70":
                path = tmp_path / "data" / labels.format(split) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.resize(np.uint8([0, 1, 2]), (64, 64))).save(path)
            else:
                picture(tmp_path / "data" / split / f"dog/{number}.png", (64, 64))
    (tmp_path / "data/notes").mkdir()
    lines = []
    write_config(model, tmp_path / "data", tmp_path / "run", SCRATCH, say=lines.append)
    place, count = ("extra", 6) if layout == "{}/cat" else (layout.format("extra"), 3)
    assert f"images left out: {place} ({count} images); train, val and test are used" in lines


def test_the_only_split_is_told_and_needs_annotations(tmp_path):
    source, lines = tmp_path / "source", []
    write_shapes(source, train=6, val=1, size=96)
    coco_split(source, "unlabeled", (0, 6), annotated=False, name="image_info_{}2017.json")
    write_config("ssd224_hardnet29", source, tmp_path / "both", SCRATCH, say=lines.append)
    told = "warning: splits (1): source: left out: image_info_unlabeled2017.json, without annotations"
    assert told in lines
    for path in (source / "annotations").glob("*.json"):
        if not path.name.startswith("image_info"):
            path.unlink()
    with pytest.raises(UserError, match="the training images have no annotations"):
        write_config("ssd224_hardnet29", source, tmp_path / "run", SCRATCH)
    write_shapes(tmp_path / "more", train=6, val=1, size=96)
    (tmp_path / "more/train2017").rename(tmp_path / "more/images")
    (tmp_path / "more/annotations/instances_train2017.json").rename(tmp_path / "more/instances_other.json")
    write_config(
        "ssd224_hardnet29",
        tmp_path / "more/instances_other.json",
        tmp_path / "run",
        SCRATCH,
        say=lines.append,
    )
    assert "the only split, other, is the training split" in lines


def test_a_changed_config_is_not_replaced(data, tmp_path):
    def write(**choices):
        return write_config(
            "ssd224_hardnet29",
            data / "boxes",
            tmp_path / "run",
            Choices(from_scratch=True, **choices),
            say=lambda _: None,
        )

    path = write()
    first = path.read_text()
    assert write().read_text() == first
    assert write(epochs=2).read_text() != first
    path.write_text(path.read_text() + "\n# mine\n")
    with pytest.raises(UserError, match=r"run\.py exists"):
        write()
    assert path.read_text().endswith("# mine\n")


def test_annotations_of_others_are_not_replaced(data, tmp_path):
    place = tmp_path / "run/annotations/instances_train.json"
    place.parent.mkdir(parents=True)
    arguments = "ssd224_hardnet29", data / "boxes", tmp_path / "run", SCRATCH
    for text in ("{}", "[]", '{"info": []}'):
        place.write_text(text)
        with pytest.raises(UserError, match="no earlier training wrote it"):
            write_config(*arguments, say=lambda _: None)
        assert place.read_text() == text


def test_annotations_that_were_edited_are_not_replaced(data, tmp_path):
    arguments = "ssd224_hardnet29", data / "boxes", tmp_path / "run", SCRATCH
    for _ in range(2):  # its own are
        write_config(*arguments, say=lambda _: None)
    place = tmp_path / "run/annotations/instances_train.json"
    content = json.loads(place.read_text())
    content["annotations"][0]["bbox"][0] += 1
    place.write_text(edited := json.dumps(content))
    with pytest.raises(UserError, match="no earlier training wrote it"):
        write_config(*arguments, say=lambda _: None)
    assert place.read_text() == edited


def test_a_list_of_images_that_is_not_text_is_not_replaced(data, tmp_path):
    place = tmp_path / "run/annotations/train.txt"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="wrote it"):
        write_config("fchardnet70", data / "masks", tmp_path / "run", SCRATCH, say=lambda _: None)
    assert place.read_bytes() == b"\xff\xfe"


@pytest.mark.parametrize("name", [" 0", "0 .", "a\\0", "\u20280"])
def test_lists_of_images_are_read_back(data, tmp_path, name):
    """None of the images is of both splits, whatever a line would name if it were tidied up."""
    folder = tmp_path / "masks"
    shutil.copytree(data / "masks", folder)
    shutil.copy(folder / "images/1.jpg", folder / f"images/{name}.jpg")
    shutil.copy(folder / "labels/1.png", folder / f"labels/{name}.png")
    path = write_config("fchardnet70", folder, tmp_path / "run", SCRATCH, say=lambda _: None)
    cfg = load_config(path)
    labels = label_set(metainfo={"classes": ("a", "b", "c")})
    read = []
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        pairs = find_pairs(folder / "images", None, labels, loader.dataset.ann_file)
        read.append({image.name for image, _ in pairs})
    assert not read[0] & read[1]
    assert read[0] | read[1] == {image.name for image in (folder / "images").iterdir()}


def test_a_name_that_no_list_holds(data, tmp_path):
    shutil.copytree(data / "masks", tmp_path / "masks")
    for folder, suffix in (("images", "jpg"), ("labels", "png")):
        shutil.copy(tmp_path / f"masks/{folder}/1.{suffix}", tmp_path / f"masks/{folder}/a\n.{suffix}")
    with pytest.raises(UserError, match=r"the name 'a\\n\.jpg' cannot stand in a list of images"):
        write_config("fchardnet70", tmp_path / "masks", tmp_path / "run", SCRATCH, say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_a_class_of_difficult_objects_alone_is_left_out(tmp_path):
    """They are neither trained on nor scored."""
    folder = tmp_path / "data"
    boxes = {"cat": False, "dog": True}
    for split in ("train", "val"):
        picture(folder / f"images/{split}/a.jpg")
    shapes = "".join(
        f'<box label="{name}" xtl="2" ytl="2" xbr="30" ybr="30">'
        f'<attribute name="difficult">{str(mark).lower()}</attribute></box>'
        for name, mark in boxes.items()
    )
    images = "".join(f'<image name="a.jpg" subset="{split}">{shapes}</image>' for split in ("train", "val"))
    (folder / "annotations.xml").write_text(f"<annotations>{images}</annotations>")
    lines = []
    cfg = load_config(write_config("ssd224_hardnet29", folder, tmp_path / "run", SCRATCH, say=lines.append))
    assert cfg.model.bbox_head.num_classes == 1
    assert "classes without a training box are left out: dog" in lines
    assert any("1 training box, 1 class: cat" in line for line in lines)


@pytest.mark.parametrize("available", [{"published", "base"}, {"base"}, {"camvid"}, set()])
def test_the_best_available_weights(data, tmp_path, monkeypatch, available):
    def fetch(row, **_):
        if row.tag in available:
            return tmp_path / f"{row.tag}.pth"
        raise UserError(f"could not get {row.tag}: no network")

    monkeypatch.setattr(from_data, "fetch", fetch)
    lines = []
    cfg = load_config(write_config("fchardnet70", data / "masks", tmp_path / "run", say=lines.append))
    told = "\n".join(lines)
    if "published" in available:
        assert cfg.load_from.endswith("published.pth")
        assert "unavailable" not in told
    elif available == {"base"}:
        assert cfg.load_from is None
        assert cfg.model.init_cfg.tag == "base"
        assert "published" in told
        assert "unavailable" in told
    elif available:
        assert cfg.load_from.endswith("camvid.pth")
    else:
        assert "unavailable weights: " in told
        assert cfg.model.init_cfg is None


@pytest.mark.parametrize(
    ("same", "available", "chosen"),
    [
        (False, {"camvid", "camvid_trainval"}, "camvid_trainval"),
        (True, {"camvid", "camvid_trainval"}, "camvid"),
        (True, {"camvid_trainval"}, "camvid_trainval"),
    ],
)
def test_weights_that_saw_the_validation_split_come_last_on_the_same_data(
    data, tmp_path, monkeypatch, same, available, chosen
):
    """The better weights otherwise: they would only score their own training images."""
    from hardnet_suite.weights import find

    def fetch(row, **_):
        if row.tag in available:
            return tmp_path / f"{row.tag}.pth"
        raise UserError(f"could not get {row.tag}: no network")

    folder = tmp_path / "streets"
    shutil.copytree(data / "masks", folder)
    if same:
        (folder / "classes.txt").write_text("\n".join(find("fchardnet70", "camvid").classes))
    monkeypatch.setattr(from_data, "fetch", fetch)
    lines = []
    cfg = load_config(write_config("fchardnet70", folder, tmp_path / "run", say=lines.append))
    assert Path(cfg.load_from).stem == chosen
    assert (f"the weights {chosen!r} were trained on these classes" in "\n".join(lines)) == same


def test_weights_of_networks_that_compute_otherwise_start_no_training(data, tmp_path, monkeypatch):
    """A path says nothing of the row's layout, and a graph is no weights file."""
    asked = []

    def fetch(row, **_):
        asked.append((row.model, row.tag))
        raise UserError(f"could not get {row.tag}: no network")

    monkeypatch.setattr(from_data, "fetch", fetch)
    for model, folder in {
        "fchardnet70": "masks",
        "fchardnet70_paddleseg": "masks",
        "hardnet39ds": "classes",
        "hardnet85": "classes",
    }.items():
        write_config(model, data / folder, tmp_path / model, say=lambda _: None)
    rows = {(row.model, row.tag) for row in ROWS if row.model in {model for model, _ in asked}}
    assert rows - {*asked} == {
        ("fchardnet70", "published_2"),
        ("fchardnet70", "semantic-segmentation"),
        ("hardnet39ds", "stm32ai"),
        ("hardnet85", "pytorchcv"),
    }


def test_the_order_of_classes_is_that_of_weights_with_the_same_ones(tmp_path, monkeypatch):
    """The names in another order would be an error of training."""
    for name in ("WBC", "Platelets", "RBC"):
        picture(tmp_path / "cells/images/train" / f"{name}.jpg")
        picture(tmp_path / "cells/images/val" / f"{name}.jpg")
        number = ["WBC", "Platelets", "RBC"].index(name)
        for split in ("train", "val"):
            label = tmp_path / f"cells/labels/{split}/{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{number} 0.5 0.5 0.5 0.5")
    (tmp_path / "cells/data.yaml").write_text(
        "train: images/train\nval: images/val\nnames: [WBC, Platelets, RBC]\n"
    )
    cfg = load_config(
        write_config("ssd320_hardnet39ds", tmp_path / "cells", tmp_path / "run", say=lambda _: None)
    )
    assert tuple(cfg.train_dataloader.dataset.metainfo.classes) == ("RBC", "WBC", "Platelets")
    assert cfg.load_from.endswith("ssd320_hardnet39ds_bccd.safetensors")


@pytest.mark.parametrize("by_name", [False, True])
def test_classes_of_the_weights_are_known_by_id_and_by_name(tmp_path, by_name):
    ids = next(row.classes for row in ROWS if row.tag == "tiny_imagenet10")
    own = readable(ids) if by_name else ids
    for name in own:
        for split in ("train", "val"):
            picture(tmp_path / f"data/{split}/{name}/a.jpg")
    cfg = load_config(write_config("hardnet39ds", tmp_path / "data", tmp_path / "run", say=lambda _: None))
    assert tuple(cfg.train_dataloader.dataset.classes) == own
    assert cfg.load_from.endswith("hardnet39ds_tiny_imagenet10.safetensors")


def test_classes_without_a_training_box_are_left_out(tmp_path):
    for split, label in (("train", 0), ("val", 0)):
        picture(tmp_path / f"data/images/{split}/a.jpg")
        (tmp_path / f"data/labels/{split}").mkdir(parents=True)
        (tmp_path / f"data/labels/{split}/a.txt").write_text(f"{label} 0.5 0.5 0.5 0.5")
    (tmp_path / "data/data.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b]\n")
    lines = []
    cfg = load_config(write_config("ssd224_hardnet29", tmp_path / "data", tmp_path / "run", say=lines.append))
    assert cfg.model.bbox_head.num_classes == 1
    assert "classes without a training box are left out: b" in lines


@pytest.mark.parametrize("images", [1, 2, 7, 64, 1000, 120_000])
def test_choices_by_the_number_of_images(images):
    batch_size = choose_batch_size(images, on_gpu=32, on_cpu=8, gpu=True)
    epochs = choose_epochs(images, batch_size, 5000)
    plan = Plan("ssd320_hardnet39ds", ("a",), images, (320, 320), batch_size, epochs, 1, Start())
    assert 1 <= batch_size <= min(32, images)
    assert 10 <= epochs <= 150
    assert 0 <= plan.warm_up < plan.iterations * epochs
    assert plan.warm_up != 1  # of a single iteration, nothing would grow
    assert 1 <= plan.val_interval <= epochs


def test_the_default_work_dir_is_not_that_of_a_config():
    assert str(default_work_dir("ssd320_hardnet39ds", "/data/bccd/")) == "work_dirs/ssd320_hardnet39ds-bccd"
    assert str(default_work_dir("hardnet68", "/data/my cats")) == "work_dirs/hardnet68-my_cats"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("birds/data.yaml", "birds"),
        ("birds/small.yaml", "birds-small"),
        ("birds/annotations.xml", "birds"),
        ("birds/annotations/instances_val.json", "birds-instances_val"),
        ("birds/train/_annotations.coco.json", "birds"),
    ],
)
def test_a_run_on_a_file_is_called_after_its_folder(tmp_path, file, name):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    assert default_work_dir("hardnet68", tmp_path / file).name == f"hardnet68-{name}"


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_copies_in_the_validation_split_are_told(tmp_path, task, copied):
    data = tmp_path / "data"
    for split in ("train", "val"):
        for number in range(3):
            name = f"{split}{number}.png"
            kind = "dog" if number == 2 else "cat"
            place = f"{split}/{kind}/{name}" if task == "classification" else f"images/{split}/{name}"
            (data / place).parent.mkdir(parents=True, exist_ok=True)
            red = 0 if copied and number == 1 else 9 + (split == "val")
            Image.new("RGB", (48, 40), (red, 9, number)).save(data / place)
            if task == "segmentation":
                (data / f"labels/{split}").mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.eye(40, 48, dtype=np.uint8)).save(data / f"labels/{split}/{name}")
            elif task == "detection":
                (data / f"labels/{split}").mkdir(parents=True, exist_ok=True)
                (data / f"labels/{split}/{split}{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    if task == "detection":
        (data / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    model = {
        "detection": "ssd320_hardnet39ds",
        "segmentation": "fchardnet70",
        "classification": "hardnet39ds",
    }
    lines = []
    write_config(model[task], data, tmp_path / "run", Choices(from_scratch=True), say=lines.append)
    told = [line for line in lines if "image in several splits" in line]
    assert len(told) == copied
    if copied:
        assert "train1.png: is the same image as" in told[0]
        assert told[0].endswith("val1.png")


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("task", ["detection", "classification"])
def test_copies_in_a_drawn_validation_split_are_told(tmp_path, task, copied):
    data = tmp_path / "data"
    colour = (lambda number: 0) if copied else (lambda number: number)
    if task == "detection":
        yolo(data, "abcdefgh", colour=colour)
    else:
        for number, name in enumerate("abcdefgh"):
            place = data / ("cat" if number < 4 else "dog") / f"{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 40), (9, number // 4, colour(number))).save(place)
    model = {"detection": "ssd320_hardnet39ds", "classification": "hardnet39ds"}[task]
    lines = []
    write_config(model, data, tmp_path / "run", SCRATCH, say=lines.append)
    assert any("no validation split" in line for line in lines)
    assert any("image in several splits" in line for line in lines) == copied


@pytest.mark.parametrize("same", [True, False])
def test_held_out_images_that_the_weights_may_know_are_told(tmp_path, monkeypatch, same):
    from hardnet_suite.weights import find

    row = find("hardnet39ds", "tiny_imagenet10")
    for name in row.classes if same else ("cat", "dog"):
        for number in range(2):
            picture(tmp_path / "data" / name / f"{number}.png")

    def fetch(row, **_):
        if row.shipped:
            return tmp_path / "shipped.pth"
        raise UserError("no network")

    monkeypatch.setattr(from_data, "fetch", fetch)
    lines = []
    write_config("hardnet39ds", tmp_path / "data", tmp_path / "run", say=lines.append)
    assert ("not new to them" in "\n".join(lines)) == same
