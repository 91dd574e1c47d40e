"""Exported files predict what the checkpoints predict that they were made of."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from deploy.exported import lively
from PIL import Image
from tiny_networks import tiny

from hardnet_suite import create_model, load_model, predict
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.deploy import export
from hardnet_suite.deploy.session import Session
from hardnet_suite.errors import UserError
from hardnet_suite.networks import DetectionPostprocess, SegmentationPostprocess, Usage
from hardnet_suite.networks.hardnet import least_side

SHIPPED = {
    "hardnet39ds": ("tiny_imagenet10", "tiny_imagenet10/train/*/*"),
    "ssd320_hardnet39ds": ("bccd", "bccd/JPEGImages/*"),
    "fchardnet70": ("camvid", "camvid/val/*"),
}


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def same(ours, theirs) -> None:
    """Two predictions of one image are equal but for rounding."""
    assert (ours.name, ours.size, ours.classes, ours.palette) == (
        theirs.name,
        theirs.size,
        theirs.classes,
        theirs.palette,
    )
    if theirs.mask is not None:
        assert ours.mask.shape == theirs.mask.shape
        assert (ours.mask == theirs.mask).mean() > 0.9995
        return
    assert len(ours.scores) == len(theirs.scores) > 0
    if theirs.boxes is None:
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        return
    free = np.ones(len(theirs.boxes), bool)  # boxes of equal scores may change places
    for box, score, label in zip(ours.boxes, ours.scores, ours.labels, strict=True):
        equal = free & (theirs.labels == label) & (np.abs(theirs.scores - score) < 1e-3)
        equal &= np.abs(theirs.boxes - box).max(1) < 0.1
        assert equal.any(), (box, score, label)
        free[np.flatnonzero(equal)[0]] = False


def sources(folder: Path, pattern: str, count: int) -> list[str]:
    paths = sorted(folder.glob(f"data/{pattern}"))
    assert paths
    return [str(path) for path in paths[:: max(1, len(paths) // count)]][:count]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Exports of the shipped weights, each written once."""
    folder, written = tmp_path_factory.mktemp("exported"), {}

    def of(name: str, suffix: str = ".pt", **options) -> Path:
        key = f"{name}_{len(written)}" if (known := str((name, suffix, options))) not in written else None
        if key is not None:
            model = load_model(name, weights=SHIPPED[name][0])
            written[known] = export(model, folder / f"{key}{suffix}", images=noise(96, 64), **options)
        return written[known]

    return of


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hardnet39ds", {"batch": 2}),
        ("hardnet39ds", {"dynamic": "batch", "preprocess": True, "postprocess": True}),
        ("ssd320_hardnet39ds", {}),
        ("ssd320_hardnet39ds", {"batch": 3, "preprocess": True}),
        ("fchardnet70", {}),
        ("fchardnet70", {"size": (360, 480), "batch": 2, "preprocess": True, "postprocess": True}),
    ],
)
def test_real_images(files, shared, name, options):
    model, path = load_model(name, weights=SHIPPED[name][0]), files(name, **options)
    images = sources(shared, SHIPPED[name][1], 3)  # a number that no batch divides
    expected = predict(model, images, score=0.05 if model.task == "detection" else None)
    for batch_size in (1, 2):
        found = predict(
            path, images, batch_size=batch_size, score=0.05 if model.task == "detection" else None
        )
        for ours, theirs in zip(found, expected, strict=True):
            same(ours, theirs)


def test_suppression_inside(files, shared):
    """Its IoU is that of the input's pixels: for images of the input's size that is the image's."""
    paths = sources(shared, SHIPPED["ssd320_hardnet39ds"][1], 2)
    images = [Image.open(path).convert("RGB").resize((320, 320)) for path in paths]
    expected = predict("ssd320_hardnet39ds", images, weights="bccd", score=0.05)
    path = files("ssd320_hardnet39ds", preprocess=True, postprocess=True)
    for ours, theirs in zip(predict(path, images, score=0.05), expected, strict=True):
        same(ours, theirs)


def test_onnx(files, shared):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = files("hardnet39ds", ".onnx", batch=2)
    images = sources(shared, SHIPPED["hardnet39ds"][1], 5)
    model = load_model(path)
    assert isinstance(model.network, Session)
    assert model.network.engine == "onnxruntime"
    for ours, theirs in zip(
        predict(model, images, batch_size=4),
        predict("hardnet39ds", images, weights="tiny_imagenet10"),
        strict=True,
    ):
        same(ours, theirs)


def spread_scores(network):
    """Makes the heat map of random weights differ from place to place, so that boxes have a rank."""
    with torch.no_grad():
        network.hm[-1].weight.mul_(400)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_centernet_and_its_mirror_image(tmp_path, flip, finished):
    network = lively("centernet_hardnet68", 3)
    spread_scores(network)
    rule = replace(network.usage.postprocess, flip=flip, max_boxes=7)
    usage = replace(network.usage, postprocess=rule, classes=("a", "b", "c"))
    network.usage = usage if finished else replace(usage, postprocess=replace(rule, flip=False))
    path = export(network, tmp_path / "boxes.pt", size=(64, 96), postprocess=finished)
    ours = replace(load_model(path), postprocess=rule)
    network.usage = replace(usage, preprocess=ours.preprocess)
    images = [noise(96, 64, seed=1), noise(120, 50, seed=2)]
    for found, expected in zip(predict(ours, images), predict(network, images, score=0.0), strict=True):
        kept = expected.scores >= 0.3
        assert len(found.scores) == kept.sum()
    for found, expected in zip(
        predict(ours, images, score=0.0, batch_size=2), predict(network, images, score=0.0), strict=True
    ):
        same(found, expected)


def test_centernet_of_any_size(tmp_path):
    network = lively("centernet_hardnet68", 2)
    path = export(network, tmp_path / "boxes.pt", dynamic="size", images=noise(170, 150))
    images = [noise(170, 150), noise(196, 164), noise(170, 150, seed=4)]
    for ours, theirs in zip(
        predict(path, images, score=0.0, batch_size=3), predict(network, images, score=0.0), strict=True
    ):
        same(ours, theirs)


def test_images_that_a_file_of_any_size_does_not_take_are_skipped(tmp_path):
    network = create_model("fchardnet70", num_classes=11, pretrained="camvid").eval()
    path = export(network, tmp_path / "masks.pt", dynamic="size", images=noise(160, 160))
    folder = tmp_path / "images"
    folder.mkdir()
    least = 2 * least_side(network.arch.trunk)
    sizes = {"a.png": (150, 140), "b.png": (least - 1, 300), "c.png": (300, 1), "d.png": (least, least + 2)}
    for name, size in sizes.items():
        Image.fromarray(noise(*size)).save(folder / name)
    failed = []
    with pytest.warns(UserWarning, match=f"takes inputs of at least {least}×{least} pixels"):
        found = predict(path, folder, failed=failed, batch_size=3)
    assert [Path(each.name).name for each in found] == ["a.png", "d.png"]
    assert [Path(name).name for name, _ in failed] == ["b.png", "c.png"]
    for ours, theirs in zip(found, predict(network, [folder / "a.png", folder / "d.png"]), strict=True):
        same(ours, theirs)
    message = rf"b\.png: .*takes inputs of at least {least}×{least} pixels, got 300×{least - 1}"
    with pytest.raises(UserError, match=message):
        predict(path, folder / "b.png")


@pytest.mark.parametrize("window", [None, (160, 160)])
def test_images_that_preprocessing_inside_would_have_to_pad_are_skipped(tmp_path, window):
    network = tiny("fchardnet70")
    usage = network.usage
    network.usage = replace(
        usage,
        preprocess=replace(usage.preprocess, input_size=(160, 160)),
        postprocess=replace(usage.postprocess, window=window, stride=window),
    )
    path = export(network, tmp_path / "masks.pt", dynamic="size", preprocess=True, images=noise(160, 160))
    for name, side in (("small", 100), ("large", 240)):
        Image.fromarray(noise(side, side)).save(tmp_path / f"{name}.png")
    failed = []
    with pytest.warns(UserWarning, match=r"small\.png: .*they are padded"):
        (ours,) = predict(path, [tmp_path / "small.png", tmp_path / "large.png"], failed=failed)
    assert [Path(name).name for name, _ in failed] == ["small.png"]
    same(ours, predict(network, tmp_path / "large.png")[0])


@pytest.mark.parametrize("finished", [False, True])
def test_sliding_windows(files, tmp_path, finished):
    """Outside, each window is an input of the file's size; inside, the file slides itself."""
    network = create_model("fchardnet70", num_classes=11, pretrained="camvid").eval()
    rule = SegmentationPostprocess(window=(64, 96), stride=(40, 60))
    usage = network.usage
    network.usage = replace(usage, postprocess=rule)
    path = export(
        network,
        tmp_path / "windows.pt",
        size=(100, 150) if finished else (64, 96),
        postprocess=finished,
        images=noise(150, 100),
    )
    model = load_model(path)
    if not finished:  # images keep their size, and the windows have the file's
        model = replace(model, preprocess=usage.preprocess)
    network.usage = replace(usage, postprocess=rule, preprocess=model.preprocess)
    images = [noise(150, 100), noise(96 if not finished else 150, 70 if not finished else 100, seed=3)]
    for ours, theirs in zip(predict(model, images, batch_size=2), predict(network, images), strict=True):
        same(ours, theirs)


def test_images_of_several_sizes(files):
    path = files("fchardnet70")
    images = [noise(196, 164), noise(196, 164, seed=1), noise(170, 164), noise(128, 128), noise(133, 200)]
    expected = predict("fchardnet70", images, weights="camvid")
    for ours, theirs in zip(predict(path, images, batch_size=4), expected, strict=True):
        same(ours, theirs)


def test_a_fixed_size_is_told(files):
    path = files("fchardnet70", size=(360, 480), batch=2, preprocess=True, postprocess=True)
    model = load_model(path)
    wrong = replace(model, preprocess=load_model("fchardnet70", weights="camvid").preprocess)
    with pytest.raises(
        UserError, match=r"takes inputs of 360×480 pixels, got 64×96: export it with --size 64 96"
    ):
        predict(wrong, noise(96, 64))


def test_an_output_rule_inside_is_not_replaced(files):
    path = files("ssd320_hardnet39ds", preprocess=True, postprocess=True)
    model = load_model(path)
    rule = replace(model.postprocess, iou_threshold=0.2)
    with pytest.raises(UserError, match="has its output rule inside, which differs in iou_threshold"):
        predict(replace(model, postprocess=rule), noise(64, 64))
    assert isinstance(rule, DetectionPostprocess)


def test_an_input_rule_inside_is_undone_for_another_one(files):
    """The normalisation inside is exact for pixels: inputs of another rule are refused, not rounded."""
    path = files("ssd320_hardnet39ds", batch=3, preprocess=True)
    model = load_model(path)
    image = noise(320, 320)
    (theirs,) = predict("ssd320_hardnet39ds", image, weights="bccd", score=0.0)
    whole = replace(model.preprocess, mean=tuple(value + 1 for value in model.preprocess.mean))
    found = predict(replace(model, preprocess=whole), image // 2 + 60, score=0.0)  # still pixels of 8 bits
    assert found[0].scores.tolist() != theirs.scores.tolist()
    odd = replace(model.preprocess, mean=tuple(value + 0.5 for value in model.preprocess.mean))
    with pytest.raises(UserError, match="export it without --with preprocess"):
        predict(replace(model, preprocess=odd), image)


def test_a_stream_and_the_network_itself(files):
    path = files("ssd320_hardnet39ds")
    model = load_model(path)
    images = (noise(80, 60, seed=seed) for seed in range(5))
    stream = predict(model, images, stream=True, batch_size=2, score=0.0)
    first = next(stream)
    assert 1 + sum(1 for _ in stream) == 5
    (again,) = predict(model.network, noise(80, 60), score=0.0)  # a network, as any other
    assert again.to_dict()["scores"] == first.to_dict()["scores"]
    with pytest.raises(UserError, match="bf16 is chosen when a file is opened"):
        predict(model.network, noise(80, 60), bf16=True)
    with pytest.raises(ValueError, match="this model is loaded"):
        predict(model, noise(80, 60), bf16=True)


def test_as_the_weights_of_a_name_and_of_a_config(files, tmp_path):
    path, image = files("ssd320_hardnet39ds"), noise(90, 70)
    (expected,) = predict(path, image, score=0.0)
    for model in ("ssd320_hardnet39ds", "ssd320_hardnet39ds_bccd"):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".* differ")  # the rules are those of the config
            (found,) = predict(model, image, weights=path, score=0.0)
        same(found, expected)
    with pytest.raises(UserError, match=r"\.pt: this is ssd320_hardnet39ds, not hardnet68"):
        load_model("hardnet68", weights=path)
    with pytest.raises(UserError, match="is a file of weights already"):
        load_model(path, weights="bccd")
    base = OWN_CONFIGS / "ssd320_hardnet39ds_bccd.py"
    (tmp_path / "mine.py").write_text(f"_base_ = '{base}'\nmodel = dict(bbox_head=dict(num_classes=5))\n")
    with pytest.raises(UserError, match=r"has 3 classes, but .*mine\.py has num_classes=5"):
        load_model(tmp_path / "mine.py", weights=path)
    lines = "test_dataloader = dict(dataset=dict(metainfo=dict(classes=('WBC', 'RBC', 'Platelets'))))\n"
    (tmp_path / "order.py").write_text(f"_base_ = '{base}'\n{lines}")
    with pytest.raises(UserError, match="the same classes in another order"):
        load_model(tmp_path / "order.py", weights=path)
    (tmp_path / "rule.py").write_text(f"_base_ = '{base}'\nmodel = dict(test_cfg=dict(max_per_img=3))\n")
    with pytest.warns(UserWarning, match="the config's max_boxes differ"):
        (few,) = predict(tmp_path / "rule.py", image, weights=path, score=0.0)
    assert len(few.boxes) == 3


def test_class_names(files):
    path = files("ssd320_hardnet39ds")
    renamed = load_model(path, classes=["red", "white", "platelet"])
    assert renamed.classes == ("red", "white", "platelet")
    with pytest.raises(UserError, match="the same classes in another order"):
        load_model(path, classes=["WBC", "RBC", "Platelets"])
    with pytest.raises(UserError, match="2 class names are given, but the weights have 3 classes"):
        load_model(path, classes=["a", "b"])


def test_palettes_travel(tmp_path):
    network = lively("fchardnet70", 2)
    palette = ((1, 2, 3), (200, 100, 0))
    network.usage = replace(network.usage, classes=("sea", "land"), palette=palette)
    assert isinstance(network.usage, Usage)
    model = load_model(export(network, tmp_path / "map.pt", size=64))
    assert (model.classes, model.palette) == (("sea", "land"), palette)


def test_one_class(tmp_path):
    network = lively("fchardnet70", 1)
    rule = replace(network.usage.postprocess, threshold=0.4)
    network.usage = replace(network.usage, postprocess=rule, classes=("road",))
    with torch.no_grad():
        network.classifier.bias -= network(
            network.usage.preprocess.normalize(torch.rand(1, 3, 64, 64) * 255)
        ).mean()
    for finished in (False, True):
        path = export(network, tmp_path / f"{finished}.pt", size=64, postprocess=finished)
        model = load_model(path)
        network.usage = replace(network.usage, preprocess=model.preprocess)
        image = noise(64, 64)
        (ours,), (theirs,) = predict(model, image), predict(network, image)
        same(ours, theirs)
        assert set(np.unique(theirs.mask)) == {0, 255}


def test_devices_and_precisions(files):
    path = files("hardnet39ds", batch=2)
    assert load_model(path, device="cpu").device == torch.device("cpu")
    with pytest.raises(
        UserError, match=r"cannot compute on the device cuda: .* runs in torchscript, on the CPU"
    ):
        load_model(path, device="cuda")
    with pytest.raises(UserError, match="cannot compute on the device nonsense"):
        load_model(path, device="nonsense")
    with pytest.raises(UserError, match="holds fp32: PyTorch computes in the precision of the file"):
        load_model(path, bf16=True)


def test_half_precision_has_an_effect(files):
    single, half = files("hardnet39ds", batch=2), files("hardnet39ds", batch=2, precision="bf16")
    model = load_model(half, bf16=True)
    assert "bf16 in torchscript" in model.weights
    (ours,), (theirs,) = predict(model, noise(64, 64), top=10), predict(single, noise(64, 64), top=10)
    assert ours.scores.tolist() != theirs.scores.tolist()
    order = np.argsort(ours.labels), np.argsort(theirs.labels)
    np.testing.assert_allclose(ours.scores[order[0]], theirs.scores[order[1]], atol=0.05)
    assert load_model(half).network.precision == "bf16"


def test_what_cannot_predict(tmp_path):
    with pytest.raises(UserError, match=r"none\.onnx: no such file"):
        load_model(tmp_path / "none.onnx")
    path = export(create_model("hardnet_descriptor", pretrained="homography"), tmp_path / "patches.pt")
    with pytest.raises(UserError, match="describes patches and predicts nothing"):
        load_model(path)
    (tmp_path / "foreign.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(UserError, match="does not say which model it is"):
        load_model(tmp_path / "foreign.onnx")
