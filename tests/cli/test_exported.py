"""Exported files on the command line: predict, test and describe take them in place of a checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli.test_same_answers import MODES, folder_config, images, label_config
from PIL import Image, ImageOps

from hardnet_suite import create_model, predict
from hardnet_suite.deploy import export
from hardnet_suite.prediction import load_model
from hardnet_suite.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
assert images  # a fixture
SSD = "ssd224_hardnet29"


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory) -> Path:
    """The finished run's checkpoint as TorchScript."""
    model = load_model(trained / "epoch_1.pth", device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    return export(model, tmp_path_factory.mktemp("exported") / "shapes.pt", images=image)


def detections(folder: Path) -> list[dict]:
    return json.loads((folder / "detections.json").read_text())


def test_test_scores_the_file_in_its_engine(cli, config, drawn, trained, exported, tmp_path):
    arguments = ("--data-root", drawn, "--work-dir")
    status, out, err = cli("test", config, exported, *arguments, tmp_path / "file")
    assert (status, err) == (0, "")
    first = out.splitlines()[0]
    assert first.startswith(f"weights: {exported} of {trained / 'epoch_1.pth'}")
    assert first.endswith("fp32 in torchscript")
    assert cli("test", config, trained / "epoch_1.pth", *arguments, tmp_path / "checkpoint")[0] == 0
    ours, theirs = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("file", "checkpoint")
    )
    assert (ours["engine"], ours["precision"], ours["bf16"]) == ("torchscript", "fp32", False)
    assert (theirs["engine"], theirs["precision"]) == ("pytorch", "fp32")
    assert ours["checkpoint"] == str(exported)
    assert ours["checkpoint_sha256"] == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert ours["versions"]["torchscript"] == torch.__version__.partition("+")[0]
    assert ours["config_sha256"] == theirs["config_sha256"]
    assert ours["metrics"].keys() == theirs["metrics"].keys()
    for name, value in theirs["metrics"].items():
        assert ours["metrics"][name] == pytest.approx(value, abs=1e-3)
    found, expected = detections(tmp_path / "file"), detections(tmp_path / "checkpoint")
    assert len(found) == len(expected) > 100
    scores = (np.array([row["score"] for row in rows]) for rows in (found, expected))
    np.testing.assert_allclose(*scores, atol=1e-3)


def test_the_precision_of_a_file_is_said(cli, config, drawn, exported, tmp_path):
    said = "precision: fp32 (torchscript computes this file in nothing else)"
    arguments = ("--data-root", drawn, "--work-dir", tmp_path)
    status, out, err = cli("test", config, exported, *arguments, "--precision", "auto")
    assert (status, err, out.splitlines()[0]) == (0, "", said)
    image = sorted((drawn / "val2017").iterdir())[0]
    status, out, err = cli("predict", image, "--model", exported, "--precision", "auto")
    assert (status, err, out.splitlines()[0]) == (0, "", said)


def test_the_network_of_the_config_itself_is_not_used(cli, config, drawn, exported, tmp_path, monkeypatch):
    from hardnet_suite.openmm.models.ssd import HarDNetSSD

    def fail(self, inputs):
        raise AssertionError("computed in PyTorch")

    monkeypatch.setattr(HarDNetSSD, "own_outputs", fail)
    monkeypatch.setattr(HarDNetSSD, "extract_feat", fail)
    assert cli("test", config, exported, "--data-root", drawn, "--work-dir", tmp_path)[0] == 0


def test_figures_never_land_in_the_folder_of_a_run(
    cli, error_of, config, drawn, trained, exported, tmp_path, monkeypatch
):
    run = shutil.copytree(trained, tmp_path / "work_dirs" / "tiny")
    inside = shutil.copy(exported, run / "shapes.pt")
    message = error_of("test", config, inside, "--data-root", drawn, "--work-dir", run)
    assert re.search("is the folder of a run: figures of .*shapes.pt would be taken for its own", message)
    monkeypatch.chdir(tmp_path)
    before = sorted(run.iterdir())
    assert cli("test", config, inside, "--data-root", drawn)[0] == 0
    assert sorted(run.iterdir()) == before
    assert (tmp_path / "work_dirs/tiny_shapes_pt/metrics.json").is_file()


def test_what_does_not_fit_is_one_line(error_of, config, drawn, exported, tmp_path):
    arguments = ("test", config, exported, "--data-root", drawn, "--work-dir", tmp_path / "run")
    assert "holds fp32: PyTorch computes in the precision of the file" in error_of(*arguments, "--bf16")
    assert "CUDA devices found here" in error_of(*arguments, "--device", "cuda")
    base = config.read_text()
    other = tmp_path / "other.py"
    other.write_text(f"{base}\nmodel = dict(bbox_head=dict(num_classes=4))\n")
    options = ("--data-root", drawn, "--work-dir", tmp_path / "run")
    assert "num_classes=4" in error_of("test", other, exported, *options)
    wrong = export(create_model("ssd320_hardnet39ds", num_classes=6), tmp_path / "wrong.pt")
    assert f"wrong.pt: this is ssd320_hardnet39ds, but {config} is for {SSD}" in error_of(
        "test", config, wrong, *options
    )
    few = export(create_model(SSD, num_classes=2), tmp_path / "few.pt")
    assert f"few.pt has 2 classes, but {config} has num_classes=6" in error_of("test", config, few, *options)
    (tmp_path / "foreign.onnx").write_bytes(b"\x08\x07")
    for command in (
        ("test", config, tmp_path / "foreign.onnx", "--data-root", drawn, "--work-dir", tmp_path / "run"),
        ("predict", drawn / "val2017", "--model", tmp_path / "foreign.onnx"),
        ("describe", tmp_path / "ref.png", tmp_path / "out.npz", "--descriptor", tmp_path / "foreign.onnx"),
    ):
        Image.fromarray(np.zeros((130, 65), np.uint8)).save(tmp_path / "ref.png")
        assert "foreign.onnx does not say which model it is" in error_of(*command)
    assert "none.onnx: no such file" in error_of("predict", drawn, "--model", tmp_path / "none.onnx")
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.parametrize(
    ("base", "name", "count", "options"),
    [
        ("hardnet39ds_tiny_imagenet10", "hardnet39ds", 10, {"batch": 3}),
        ("hardnet39ds_tiny_imagenet10", "hardnet39ds", 10, {"preprocess": True, "postprocess": True}),
        ("fchardnet70_camvid", "fchardnet70", 11, {"dynamic": "size"}),
    ],
)
def test_classes_and_masks_are_scored(cli, images, tmp_path, base, name, count, options):
    tag, model_name = base.partition("_")[2], name
    network = create_model(name, num_classes=count, pretrained=tag)
    if name == "hardnet39ds":
        classes = network.usage.classes
        data = folder_config(images, tmp_path, classes)
        others = [
            f"{split}_dataloader = dict(dataset=dict(classes={classes!r}))" for split in ("train", "val")
        ]
    else:
        data, others = label_config(images, tmp_path, "camvid"), []
        data["data_prefix"]["img_path"] = str(tmp_path / "large")  # 128 pixels at least
        (tmp_path / "large").mkdir()
        for name in MODES:
            for path in (images / name, tmp_path / "labels" / f"{Path(name).stem}.png"):
                image = ImageOps.exif_transpose(Image.open(path))
                large = image.resize((160, 192), Image.Resampling.NEAREST)
                large.save((path.parent if path.parent != images else tmp_path / "large") / path.name)
    loader = {"batch_size": 4, "num_workers": 0, "persistent_workers": False, "dataset": data}
    lines = [f"_base_ = {str(ROOT / 'configs' / f'{base}.py')!r}", *others, f"test_dataloader = {loader!r}"]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    save_weights(network.state_dict(), tmp_path / "weights.safetensors", half=False)
    # whose classes are names where those of the data are WordNet ids, as the command exports it
    model = load_model(model_name, weights=tag, device="cpu")
    path = export(model, tmp_path / "file.pt", images=np.zeros((128, 128, 3), np.uint8), **options)
    for weights in (path, tmp_path / "weights.safetensors"):
        status, out, err = cli("test", tmp_path / "mine.py", weights, "--work-dir", tmp_path / weights.stem)
        assert (status, err) == (0, ""), out + err
    ours, theirs = (
        json.loads((tmp_path / stem / "metrics.json").read_text()) for stem in ("file", "weights")
    )
    assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=0.05)
    assert (ours["images"], ours["engine"]) == (len(MODES), "torchscript")
    if name == "hardnet39ds":
        rows = [
            (tmp_path / stem / "predictions.jsonl").read_text().splitlines() for stem in ("file", "weights")
        ]
        for row, other in zip(*(map(json.loads, each) for each in rows), strict=True):
            assert row["guesses"] == other["guesses"]
            np.testing.assert_allclose(row["probabilities"], other["probabilities"], atol=1e-4)
        return
    views = ("--flip", "--scales", "1", "1.5")
    for weights in (path, tmp_path / "weights.safetensors"):
        work = tmp_path / f"{weights.stem}_views"
        assert cli("test", tmp_path / "mine.py", weights, "--work-dir", work, *views)[0] == 0
    for suffix in ("", "_views"):
        masks = sorted((tmp_path / f"weights{suffix}/predictions").rglob("*.png"))
        assert len(masks) == len(MODES)
        for mask in masks:
            other = tmp_path / f"file{suffix}" / mask.relative_to(tmp_path / f"weights{suffix}")
            same = np.asarray(Image.open(mask)) == np.asarray(Image.open(other))
            assert same.mean() > 0.999


def test_a_detector_that_suppresses_itself(cli, error_of, config, drawn, trained, tmp_path):
    model = load_model(trained / "epoch_1.pth", device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    path = export(model, tmp_path / "boxes.pt", preprocess=True, postprocess=True, batch=2, images=image)
    arguments = ("test", config, path, "--data-root", drawn, "--work-dir", tmp_path / "run")
    status, _, err = cli(*arguments)
    assert (status, err) == (0, "")
    (ours,) = predict(path, drawn / "val2017", score=0.0)[:1]
    image_id = json.loads((drawn / "annotations/instances_val2017.json").read_text())["images"][0]["id"]
    rows = [row for row in detections(tmp_path / "run") if row["image_id"] == image_id]
    assert len(rows) == len(ours.scores) > 10
    np.testing.assert_allclose([row["score"] for row in rows], ours.scores, atol=1e-4)
    message = error_of(*arguments, "--cfg-options", "model.test_cfg.max_per_img=3")
    assert "boxes.pt has its output rule inside, which differs in max_boxes" in message


def test_predict(cli, drawn, exported, trained, tmp_path):
    images = drawn / "val2017"
    status, out, err = cli("predict", images, "--model", exported, "--score", 0.01, "--batch-size", 2)
    assert (status, err) == (0, "")
    assert out.splitlines()[0].endswith("fp32 in torchscript")
    expected = cli("predict", images, "--model", trained / "epoch_1.pth", "--score", 0.01)[1]
    assert len(out.splitlines()) == len(expected.splitlines()) == 4
    status, out, _ = cli("predict", images, "--model", SSD, "--weights", exported, "--threads", 1)
    assert status == 0


def test_an_exported_descriptor(cli, error_of, tmp_path, monkeypatch):
    path = export(create_model("hardnet_descriptor", pretrained="homography"), tmp_path / "patches.pt")
    strip = np.random.default_rng(0).integers(0, 256, (5 * 65, 65), np.uint8)
    Image.fromarray(strip).save(tmp_path / "ref.png")
    for name, descriptor in (("file", path), ("network", "hardnet_descriptor")):
        status, _, _ = cli(
            *("describe", tmp_path / "ref.png", tmp_path / f"{name}.npz", "--descriptor", descriptor),
            *("--device", "cpu:0"),
        )
        assert status == 0
    ours, theirs = (np.load(tmp_path / f"{name}.npz")["descriptors"] for name in ("file", "network"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for command in (
        ("describe", tmp_path / "ref.png", tmp_path / "half.npz"),
        ("match", tmp_path / "ref.png", tmp_path / "ref.png"),
    ):
        message = error_of(*command, "--descriptor", path, "--bf16")
        assert "patches.pt holds fp32: PyTorch computes in the precision of the file" in message
    monkeypatch.setattr(
        "hardnet_suite.cli.describe.choose_device", lambda device: None
    )  # a machine with a GPU
    message = error_of(
        *("describe", tmp_path / "ref.png", tmp_path / "gpu.npz", "--descriptor", path, "--device", "cuda:0")
    )
    assert "patches.pt is an exported file, which runs on the CPU" in message
    other = tmp_path / "other.npz"
    assert "not of hardnet8_descriptor" in error_of(
        "describe", tmp_path / "ref.png", other, "--descriptor", "hardnet8_descriptor", "--weights", path
    )
