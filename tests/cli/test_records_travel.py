"""The checkpoint of a run alone predicts as its config says: input and output rule, class names, palette."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardnet_suite import create_model, predict
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.data.shapes import SHAPES
from hardnet_suite.prediction import load_model

PALETTE = [(1, 2, 3), (250, 120, 0), (7, 200, 9)]
CLASSES = ("road", "path", "obstacle")
FAST = """
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = [dict(type="ConstantLR", factor=1.0, by_epoch=False)]
custom_hooks = []
weights_tag = None
"""
SEGMENTATION = """
_base_ = "{configs}/fchardnet70_camvid.py"
data_root = {data!r}
own = dict(labels=None, metainfo=dict(classes={classes!r}, palette={palette!r}), data_root=data_root)
model = dict(
    decode_head=dict(num_classes=3),
    data_preprocessor=dict(
        size=(64, 64), mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0], bgr_to_rgb=True
    ),
    test_cfg=dict(_delete_=True, mode="slide", crop_size=(64, 64), stride=(40, 40)),
)
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="mmseg.RandomCrop", crop_size=(64, 64)),
    dict(type="mmseg.PackSegInputs"),
]
place = dict(img_path="images", seg_map_path="labels")
single = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=pipeline, data_prefix=place, **own), **single)
val_dataloader = dict(batch_size=2, dataset=dict(data_prefix=place, **own), **single)
test_dataloader = val_dataloader
"""
CLASSIFICATION = """
_base_ = "{configs}/hardnet39ds_tiny_imagenet10.py"
model = dict(num_classes=3, data_preprocessor=dict(num_classes=3, mix_probability=0.0))
own = dict(data_root={data!r}, folder="classes", hold_out=0, held_out=False, classes={classes!r})
stretch = [dict(type="torchvision/Resize", size=[48, 80]), dict(type="PackClass")]
single = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=own, **single)
val_dataloader = dict(dataset=dict(pipeline=stretch, **own), **single)
test_dataloader = val_dataloader
"""


@pytest.fixture
def data(tmp_path) -> Path:
    """Two images with label images, and the same by class; odd sizes, three colours."""
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(((70, 99), (81, 66))):
        labels = np.repeat(np.arange(3, dtype=np.uint8), [width // 3, width // 3, width - 2 * (width // 3)])
        labels = np.tile(labels, (height, 1))
        image = np.array(PALETTE, np.uint8)[labels] // 2 + random.integers(
            0, 128, (height, width, 3), np.uint8
        )
        for name, values in (("images", image), ("labels", labels)):
            path = tmp_path / "data" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(path)
        for name in CLASSES:
            path = tmp_path / "data/classes" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(path)
    return tmp_path / "data"


@pytest.fixture
def data_of_shapes(drawn, tmp_path) -> Path:
    """The drawn shapes, to be spoilt."""
    return shutil.copytree(drawn, tmp_path / "shapes")


def train(cli, text: str, data: Path, folder: Path, **values) -> tuple[Path, Path]:
    """(config, checkpoint) of a training of one epoch."""
    config, run = folder / "mine.py", folder / "run"
    config.write_text(text.format(configs=OWN_CONFIGS, data=f"{data}/", classes=CLASSES, **values) + FAST)
    status, out, err = cli("train", config, "--work-dir", run, "--seed", 1)
    assert status == 0, out + err
    return config, run / "epoch_1.pth"


def test_segmentor(cli, data, tmp_path):
    config, checkpoint = train(cli, SEGMENTATION, data, tmp_path, palette=PALETTE)
    model = load_model(checkpoint)
    assert (model.classes, model.palette) == (CLASSES, tuple(PALETTE))
    assert (model.preprocess.channels, model.preprocess.pixel_mean) == ("rgb", (100.0, 110.0, 120.0))
    assert (model.postprocess.window, model.postprocess.stride) == ((64, 64), (40, 40))
    alone = predict(checkpoint, data / "images")
    told = predict(str(config), data / "images", weights=checkpoint)
    network = predict(create_model("fchardnet70", pretrained=checkpoint), data / "images")
    cli("convert-weights", checkpoint, tmp_path / "small.safetensors")
    converted = predict(tmp_path / "small.safetensors", data / "images")
    for one, *others in zip(alone, told, network, converted, strict=True):
        assert one.classes == CLASSES
        for other in others:
            np.testing.assert_array_equal(one.mask, other.mask)
            assert (other.classes, other.palette) == (CLASSES, tuple(PALETTE))
    # the tint has the run's own colours
    drawn = np.array(alone[0].draw())
    assert drawn.shape[0] >= 70


def test_classifier_of_stretched_images(cli, data, tmp_path):
    config, checkpoint = train(cli, CLASSIFICATION, data, tmp_path)
    assert load_model(checkpoint).preprocess.height_width == (48, 80)
    alone = predict(checkpoint, data / "images")
    told = predict(str(config), data / "images", weights=checkpoint)
    status, _, err = cli("test", config, checkpoint, "--work-dir", tmp_path / "scored")
    assert status == 0, err
    rows = [json.loads(line) for line in (tmp_path / "scored/predictions.jsonl").read_text().splitlines()]
    for number, (one, other) in enumerate(zip(alone, told, strict=True)):
        assert one.names == other.names
        np.testing.assert_array_equal(one.scores, other.scores)
        row = next(row for row in rows if row["name"].endswith(f"road/{number}.png"))
        assert list(one.names) == row["guesses"]
        np.testing.assert_allclose(one.scores, row["probabilities"], atol=2e-6)


def test_detector(cli, config, drawn, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        f"_base_ = {str(config)!r}\n"
        "model = dict(data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[9.0, 8.0, 7.0], bgr_to_rgb=True),\n"
        "             test_cfg=dict(score_thr=0.05, max_per_img=7))\n"
    )
    run = tmp_path / "run"
    status, out, err = cli("train", mine, "--data-root", drawn, "--work-dir", run)
    assert status == 0, out + err
    model = load_model(run / "epoch_1.pth")
    assert model.classes == SHAPES
    assert (model.preprocess.channels, model.preprocess.pixel_std) == ("rgb", (9.0, 8.0, 7.0))
    assert (model.postprocess.score_threshold, model.postprocess.max_boxes) == (0.05, 7)
    alone = predict(run / "epoch_1.pth", drawn / "val2017", score=0.0)
    told = predict(str(mine), drawn / "val2017", weights=run / "epoch_1.pth", score=0.0)
    assert [one.to_dict() for one in alone] == [other.to_dict() for other in told]
    assert all(len(one.scores) <= 7 for one in alone)


def test_other_classes_than_the_weights_have(cli, data, tmp_path):
    """A config whose test data have the classes in another order cannot name the checkpoint's."""
    config, checkpoint = train(cli, CLASSIFICATION, data, tmp_path)
    config.write_text(config.read_text().replace(repr(CLASSES), repr(CLASSES[::-1])))
    with pytest.raises(Exception, match="the same classes in another order: class 0 is 'obstacle'"):
        predict(str(config), data / "images", weights=checkpoint)


def test_other_rules_than_the_checkpoint_has_are_reported(cli, config, drawn, tmp_path):
    mine, run = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text(f"_base_ = {str(config)!r}\nmodel = dict(data_preprocessor=dict(mean=[1.0, 2.0, 3.0]))\n")
    assert cli("train", mine, "--data-root", drawn, "--work-dir", run)[0] == 0
    for told, options in (
        (True, ()),
        (False, ("--cfg-options", "model.data_preprocessor.mean=[1.0,2.0,3.0]")),
    ):
        arguments = (
            "test",
            config,
            run / "epoch_1.pth",
            "--data-root",
            drawn,
            "--work-dir",
            tmp_path / "scored",
        )
        status, out, err = cli(*arguments, *options)
        assert status == 0, err
        assert ("at test time the config's mean differ" in out + err) == told
    with pytest.warns(UserWarning, match="at test time the config's mean differ"):
        predict(str(config), drawn / "val2017", weights=run / "epoch_1.pth")


def test_nothing_is_drawn_into_the_data(error_of, cli, config, data_of_shapes, trained, tmp_path):
    before = {path.name: path.read_bytes() for path in (data_of_shapes / "val2017").iterdir()}
    arguments = ("test", config, trained, "--data-root", data_of_shapes, "--work-dir", tmp_path / "scored")
    for folder in ("val2017", "val2017/drawings"):
        assert "lies in the data" in error_of(*arguments, "--show-dir", data_of_shapes / folder)
    assert {path.name: path.read_bytes() for path in (data_of_shapes / "val2017").iterdir()} == before


def test_a_schedule_that_ends_before_the_training_is_reported(cli, config, drawn, tmp_path):
    mine, run = tmp_path / "mine.py", tmp_path / "run"
    schedule = "dict(type='PolyLR', begin=0, end=1, by_epoch=True, convert_to_iter_based=True)"
    mine.write_text(f"_base_ = {str(config)!r}\nparam_scheduler = [{schedule}]\n")
    arguments = ("train", mine, "--data-root", drawn, "--work-dir", run)
    assert cli(*arguments)[0] == 0
    status, _, err = cli(*arguments, "--resume", "--cfg-options", "train_cfg.max_epochs=2")
    assert status == 0, err
    logs = sorted(run.glob("*/*.log"), key=lambda path: path.stat().st_mtime)
    told = ["the last schedule ends at" in log.read_text() for log in logs]
    assert told == [False, True]
