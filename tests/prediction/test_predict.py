"""One call for every task: the same answers as the OpenMMLab models and the published rules."""

from __future__ import annotations

import copy
import io
import json
import pickle
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import hardnet_suite.openmm
from hardnet_suite import create_model, predict
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.data.images import open_rgb
from hardnet_suite.deploy import fuse_batch_norms, pack
from hardnet_suite.errors import UserError
from hardnet_suite.inference.precision import PrecisionChoice
from hardnet_suite.networks import PREPROCESS
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.prediction import LoadedModel, load_model
from hardnet_suite.prediction.model import model_of_network
from hardnet_suite.weights import fetch, find, save_weights

assert hardnet_suite.openmm


def noise(width, height, seed=0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def saved(tmp_path):
    """A network of that name with random weights and lively statistics, and the file of its state dict."""

    def make(name, num_classes=None, **options):
        torch.manual_seed(0)
        network = create_model(name, num_classes=num_classes).train()
        size = PREPROCESS[name].size or 64
        with torch.no_grad():
            for _ in range(2):
                network(torch.randn(2, 3, size, size))
        path = tmp_path / f"{name}.pth"
        torch.save(network.state_dict(), path)
        return network.eval(), path

    return make


def test_classification_is_the_published_rule(saved):
    network, path = saved("hardnet39ds")
    image = Image.fromarray(noise(300, 260))
    (found,) = predict(path, image)
    transforms = torchvision.transforms
    rule = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.inference_mode():
        shares, labels = network(rule(image)[None])[0].softmax(0).topk(5)
    assert found.labels.tolist() == labels.tolist()
    np.testing.assert_allclose(found.scores, shares, rtol=1e-4)
    assert (found.task, found.size, found.boxes, found.mask) == ("classification", (300, 260), None, None)
    assert len(found.classes) == 1000
    assert found.names[0] == found.classes[found.labels[0]]
    assert [len(one.labels) for one in predict(path, [image] * 2, top=3)] == [3, 3]


def test_segmentation_is_mmsegs(saved, tmp_path):
    from mmengine.registry import MODELS, DefaultScope, init_default_scope
    from mmseg.apis import inference_model

    network, path = saved("fchardnet70", 11)
    image = noise(97, 70)
    Image.fromarray(image).save(tmp_path / "a.png")
    cfg = load_config("fchardnet70_camvid")
    with DefaultScope.overwrite_default_scope("mmseg"):
        segmentor = MODELS.build(cfg.model).eval()
        from hardnet_suite.weights.convert import in_target

        segmentor.load_state_dict(in_target("fchardnet70", network.state_dict(), "mmseg"))
        segmentor.cfg = cfg
        theirs = inference_model(segmentor, str(tmp_path / "a.png")).pred_sem_seg.data[0].numpy()
    init_default_scope("mmengine")
    (found,) = predict(path, tmp_path / "a.png", classes=[str(k) for k in range(11)])
    assert found.mask.dtype == np.uint8
    assert (found.mask == theirs).mean() > 0.999
    shares = np.bincount(found.mask.ravel(), minlength=11) / found.mask.size
    assert found.labels.tolist() == sorted(np.flatnonzero(shares), key=lambda k: -shares[k])
    np.testing.assert_allclose(found.scores, shares[found.labels])


@pytest.mark.parametrize(
    ("name", "config", "size", "count"),
    [
        ("ssd320_hardnet39ds", "ssd320_hardnet39ds_bccd", (320, 320), 30),
        ("ssd320_hardnet39ds", "ssd320_hardnet39ds_bccd", (150, 90), 12),  # two ways to round while enlarging
        ("centernet_hardnet68", "centernet_hardnet68", (150, 90), 30),
    ],
)
def test_detection_is_mmdets(saved, tmp_path, name, config, size, count):
    from mmdet.apis import inference_detector
    from mmengine.registry import MODELS, DefaultScope, init_default_scope

    from hardnet_suite.weights.convert import in_target

    if name.startswith("ssd"):  # random weights would give probabilities of 1 everywhere
        network, path = create_model(name, pretrained="bccd").eval(), fetch(find(name, "bccd"))
    else:
        network, path = saved(name, 3)
    Image.fromarray(noise(*size)).save(tmp_path / "a.png")
    cfg = load_config(config)
    cfg.model.init_cfg = None
    cfg.model.bbox_head.num_classes = 3
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(cfg.model).eval()
        detector.load_state_dict(in_target(name, network.state_dict(), "mmdet"))
        detector.cfg, detector.dataset_meta = cfg, {}
        theirs = inference_detector(detector, str(tmp_path / "a.png")).pred_instances
    init_default_scope("mmengine")
    least = float(theirs.scores[count - 1 : count + 1].mean())
    (found,) = predict(path, tmp_path / "a.png", score=least)
    assert len(found.boxes) == count
    kept = theirs[theirs.scores >= least]
    assert found.labels.tolist() == kept.labels.tolist()
    np.testing.assert_allclose(found.scores, kept.scores, rtol=0, atol=4e-3)
    np.testing.assert_allclose(found.boxes, kept.bboxes, rtol=0, atol=0.5)


def test_shipped_weights_by_their_tag_and_by_their_file():
    image = noise(200, 160)
    (found,) = predict("ssd320_hardnet39ds", image, weights="bccd", score=0.01)
    assert found.classes == ("RBC", "WBC", "Platelets")
    (again,) = predict(fetch(find("ssd320_hardnet39ds", "bccd")), image, score=0.01)
    assert again.classes == found.classes
    np.testing.assert_array_equal(again.boxes, found.boxes)
    (config,) = predict("configs/ssd320_hardnet39ds_bccd.py", image, score=0.01)
    np.testing.assert_array_equal(config.boxes, found.boxes)


def test_batches_give_what_single_images_give(saved):
    _, path = saved("hardnet39ds", 4)
    model = load_model(path, classes=list("abcd"))
    images = [noise(80 + 10 * k, 70, seed=k) for k in range(5)]
    single, batched = predict(model, images), predict(model, images, batch_size=3)
    for one, other in zip(single, batched, strict=True):
        assert one.name == other.name
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)
    assert [one.size[0] for one in batched] == [80, 90, 100, 110, 120]
    half = predict(load_model(path, bf16=True), images)
    assert half[0].scores.tolist() != single[0].scores.tolist()
    np.testing.assert_allclose(half[0].scores, single[0].scores, atol=0.02)


@pytest.mark.parametrize(
    ("name", "chosen"), [("hardnet39ds", "float32"), ("hardnet39ds", "bf16"), ("fchardnet70", "bf16")]
)
def test_the_faster_precision(saved, name, chosen, monkeypatch):
    network, path = saved(name, 4)
    asked = []

    def faster(runs, timed, *, device):
        asked.append((list(runs), timed, device))
        for run in runs.values():
            run()
        return PrecisionChoice(chosen, timed, {"float32": 2.0, "bf16": 1.0})

    monkeypatch.setattr("hardnet_suite.prediction.model.faster_precision", faster)
    model, image = load_model(path, precision="auto", device="cpu"), noise(96, 64)
    side = 224 if name == "hardnet39ds" else 512
    assert asked == [(["float32", "bf16"], f"a pass of 1×3×{side}×{side}", "cpu")]
    assert (model.bf16, model.choice.precision) == (chosen == "bf16", chosen)
    (found,) = predict(model, image)
    (expected,) = predict(path, image, precision=chosen, device="cpu")
    assert found.to_dict() == expected.to_dict()
    assert load_model(path, precision=chosen).choice is None
    network.train()
    next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
    parts = [module.training for module in network.modules()]
    (again,) = predict(network, image, precision="auto")
    assert [module.training for module in network.modules()] == parts
    assert again.to_dict() == predict(network, image, precision=chosen)[0].to_dict()


def test_precisions_that_cannot_be(saved):
    path = saved("hardnet39ds", 4)[1]
    with pytest.raises(UserError, match="unknown precision 'float23'; did you mean float32"):
        load_model(path, precision="float23")
    with pytest.raises(UserError, match="bf16 and the precision float32 exclude each other"):
        predict(path, noise(64, 64), bf16=True, precision="float32")


def test_images_of_several_sizes_in_one_batch(saved):
    _, path = saved("fchardnet70", 3)
    sizes = [(96, 64), (96, 64), (70, 64), (1, 1), (33, 200)]
    found = predict(path, [noise(*size) for size in sizes], batch_size=4)
    assert [one.mask.shape[::-1] for one in found] == sizes


def test_a_stream_holds_one_image_at_a_time(saved, tmp_path, monkeypatch):
    _, path = saved("hardnet39ds", 4)
    for index in range(7):
        Image.fromarray(noise(80, 80, seed=index)).save(tmp_path / f"{index}.png")
    opened, most = [], 0

    def open_and_count(source):
        nonlocal most
        image = open_rgb(source)
        opened.append(weakref.ref(image))
        most = max(most, sum(one() is not None for one in opened))
        return image

    monkeypatch.setattr("hardnet_suite.data.sources.open_rgb", open_and_count)
    stream = predict(load_model(path), f"{tmp_path}/*.png", batch_size=2, stream=True, workers=0)
    assert sum(1 for _ in stream) == 7
    assert most == 1  # of an image that is prepared, the input alone is kept


def test_bad_images_are_skipped_unless_there_is_no_other(saved, tmp_path):
    _, path = saved("hardnet39ds", 4)
    for name in ("a", "c"):
        Image.fromarray(noise(64, 64)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    failed = []
    with pytest.warns(UserWarning, match=r"skipped: cannot read the image .*b\.png"):
        found = predict(path, tmp_path / "[abc].png", failed=failed)
    assert [one.name[-5:] for one in found] == ["a.png", "c.png"]
    assert [name[-5:] for name, _ in failed] == ["b.png"]
    with pytest.raises(UserError, match=r"b\.png"):
        predict(path, tmp_path / "b.png")


@pytest.mark.parametrize("name", ["hardnet39ds", "ssd224_hardnet29", "fchardnet70"])
def test_answers_as_json_and_images(saved, tmp_path, name):
    _, path = saved(name, 3)
    found = predict(path, noise(120, 90), score=0.05)[0]
    row = json.loads(json.dumps(found.to_dict()))
    assert row["size"] == [120, 90]
    assert row["labels"] == found.labels.tolist()
    assert len(row["names"]) == len(row["scores"]) == len(row["labels"])
    drawn = found.draw()
    assert drawn.mode == "RGB"
    assert drawn.size[0] >= 120
    saved_to = found.save(tmp_path / "out")
    assert saved_to.name == "image.jpg"
    (line,) = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    line = json.loads(line)
    if found.mask is not None:
        runs = row["mask"]["runs"]
        again = np.repeat([label for label, _ in runs], [count for _, count in runs])
        assert np.array_equal(again.reshape(row["mask"]["size"]), found.mask)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / line["mask"])), found.mask)
    elif found.boxes is not None:
        assert len(row["boxes"]) == len(row["labels"]) > 0
        assert found.boxes.min() >= 0
        assert (found.boxes[:, 2:] <= [120, 90]).all()
    found.save(tmp_path / "out", "again")
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 2


def test_what_cannot_be_a_model(saved, tmp_path):
    _, path = saved("hardnet39ds", 3)
    image = noise(64, 64)
    (tmp_path / "foreign.py").write_text("arch = 'resnet50'\nmodel = dict()\n")
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    torch.save(create_model("hardnet_descriptor_ps").state_dict(), tmp_path / "patches.pth")
    for model, options, words in (
        ("resnet50", {}, "is not a model, config .*, file of weights or run's folder; models: centernet"),
        (tmp_path / "foreign.pth", {}, "foreign.pth: these are not the weights of any model"),
        (tmp_path / "foreign.py", {}, "has arch='resnet50', expected one of the suite's"),
        (tmp_path / "none.py", {}, "no config"),
        ("hardnet68", {"weights": path}, "hardnet39ds.pth: these are not the weights of hardnet68"),
        (
            "hardnet68",
            {"weights": "camvid"},
            "no weights camvid: neither a file nor a tag; tags of hardnet68",
        ),
        ("ssd320_hardnet39ds", {}, "has no published weights; available: bccd"),
        ("hardnet_descriptor", {}, "hardnet_descriptor describes patches and predicts nothing"),
        (tmp_path / "patches.pth", {}, "hardnet_descriptor_ps describes patches and predicts nothing"),
        (path, {"weights": "published"}, "is a file of weights already"),
        (path, {"classes": ["a", "b"]}, "2 class names are given, but the weights have 3 classes"),
    ):
        with pytest.raises(UserError, match=words):
            predict(model, image, **options)
    for options in ({"top": 0}, {"batch_size": 0}, {"score": 1.5}):
        with pytest.raises(ValueError, match=r"expected an? (integer|number)"):
            predict(path, image, **options)


def test_a_config_and_weights_of_another_number_of_classes(saved, tmp_path):
    _, path = saved("hardnet39ds", 3)
    base = OWN_CONFIGS / "hardnet39ds_tiny_imagenet10.py"
    (tmp_path / "mine.py").write_text(
        f"_base_ = '{base}'\nmodel = dict(num_classes=6, data_preprocessor=dict(num_classes=6))\n"
    )
    with pytest.raises(UserError, match=r"has 3 classes, but .*mine\.py has num_classes=6"):
        load_model(tmp_path / "mine.py", weights=path)


def test_devices_that_are_not_there(saved):
    _, path = saved("hardnet39ds", 3)
    for device in ("nonsense", "cuda:99", "mps"):
        with pytest.raises(UserError, match=f"cannot compute on the device {device}: "):
            load_model(path, device=device)


@pytest.mark.parametrize(
    ("name", "tag", "count", "first"),
    [
        ("fchardnet70", "camvid", 11, "Sky"),
        ("ssd320_hardnet39ds", "bccd", 3, "RBC"),
        ("hardnet39ds", "tiny_imagenet10", 10, "goldfish"),
    ],
)
def test_a_network_of_create_model_predicts_as_its_weights_do(name, tag, count, first):
    network = create_model(name, num_classes=count, pretrained=tag)
    image = noise(90, 70)
    (ours,) = predict(network, image, score=0.01)
    (theirs,) = predict(name, image, weights=tag, score=0.01)
    assert ours.to_dict() == theirs.to_dict()
    assert (ours.classes[0], ours.palette) == (first, theirs.palette)
    assert network.training  # as it was


def test_predicting_leaves_a_network_as_it_was():
    network = create_model("hardnet39ds", num_classes=2)
    network.trunk.eval()  # frozen, inside of a network in training mode
    modes = [module.training for module in network.modules()]
    predict(network, noise(64, 64))
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_dtypes_and_wrapped_ones(dtype):
    network = create_model("hardnet39ds", num_classes=10, pretrained="tiny_imagenet10")
    (expected,) = predict(network, noise(64, 64), top=10)
    (wrapped,) = predict(torch.nn.DataParallel(network), noise(64, 64), top=10)
    assert wrapped.to_dict() == expected.to_dict()
    (compiled,) = predict(torch.compile(network, backend="eager"), noise(64, 64), top=10)
    assert compiled.to_dict() == expected.to_dict()
    with pytest.raises(UserError, match="this hardnet39ds is on the meta device: it has no weights"):
        predict(copy.deepcopy(network).to("meta"), noise(64, 64))
    (other,) = predict(network.to(dtype), noise(64, 64), top=10)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-4
    order = np.argsort(expected.labels), np.argsort(other.labels)
    np.testing.assert_allclose(other.scores[order[1]], expected.scores[order[0]], atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_precision_is_for_networks_in_float32(dtype):
    network = create_model("hardnet39ds", num_classes=10, pretrained="tiny_imagenet10").to(dtype)
    assert model_of_network(network).bf16 == (dtype == torch.bfloat16)
    for precision in ("float32", "bf16", "auto"):
        if (precision, dtype) == ("bf16", torch.bfloat16):
            before = predict(network, noise(64, 64), top=10)[0].to_dict()
            assert predict(network, noise(64, 64), top=10, precision=precision)[0].to_dict() == before
            continue
        with pytest.raises(UserError, match=f"was cast to or packed in {str(dtype)[6:]}: "):
            predict(network, noise(64, 64), precision=precision)
    packed = pack(fuse_batch_norms(network.float()), torch.zeros(1, 3, 64, 64))
    with pytest.raises(UserError, match="was cast to or packed in float32: "):
        predict(packed, noise(64, 64), bf16=True)


def test_a_new_last_layer_has_no_names():
    network = create_model("hardnet39ds", num_classes=10, pretrained="tiny_imagenet10")
    network.reset_classifier(10)
    assert predict(network, noise(64, 64))[0].classes[0] == "class 0"
    network.reset_classifier(3)
    assert predict(network, noise(64, 64))[0].classes[2] == "class 2"
    network.reset_classifier(0)
    with pytest.raises(UserError, match="num_classes=0: it returns features"):
        predict(network, noise(64, 64))


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68ds"])
def test_a_classifier_with_one_class_says_nothing_of_an_image(tmp_path, name):
    network = create_model(name, num_classes=1)
    torch.save(network.state_dict(), tmp_path / "one.pth")
    with pytest.raises(UserError, match=r"^a classifier with one class answers it for every image"):
        predict(network, noise(64, 64))
    with pytest.raises(UserError, match=r"one\.pth: a classifier with one class answers it for every image"):
        load_model(tmp_path / "one.pth")


def test_names_of_the_weights_are_not_permuted():
    cells = {"weights": "bccd", "score": 0.0}
    with pytest.raises(UserError, match="the same classes in another order: class 0 is 'WBC'"):
        predict("ssd320_hardnet39ds", noise(64, 64), classes=["WBC", "RBC", "Platelets"], **cells)
    with pytest.raises(UserError, match="is the string 'abc', expected a list of names"):
        predict("ssd320_hardnet39ds", noise(64, 64), classes="abc", **cells)
    (renamed,) = predict("ssd320_hardnet39ds", noise(64, 64), classes=["red", "white", "platelet"], **cells)
    assert renamed.classes == ("red", "white", "platelet")


def test_a_network_without_weights_has_the_usual_names_and_a_part_cannot_predict():
    assert predict(create_model("hardnet39ds"), noise(64, 64))[0].classes[258] == "Samoyed"
    assert predict(create_model("hardnet39ds", num_classes=2), noise(64, 64))[0].classes[1] == "class 1"
    named = predict(create_model("hardnet39ds", num_classes=2), noise(64, 64), classes=["cat", "dog"])
    assert named[0].classes == ("cat", "dog")
    for part in (create_model("hardnet39ds", features_only=True), torch.nn.Conv2d(3, 3, 1)):
        with pytest.raises(UserError, match="expected a whole network of create_model"):
            predict(part, noise(64, 64))
    with pytest.raises(UserError, match="takes 1 channels, but its input rule makes 3"):
        predict(create_model("hardnet39ds", in_chans=1), noise(64, 64))
    with pytest.raises(UserError, match="describes patches"):
        predict(create_model("hardnet_descriptor"), noise(64, 64))
    with pytest.raises(ValueError, match="this model is loaded"):
        predict(create_model("hardnet39ds"), noise(64, 64), weights="published")


def test_predictions_can_be_pickled(saved, tmp_path):
    _, path = saved("hardnet39ds", 3)
    noise_path = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)).save(noise_path)
    (found,) = predict(path, noise_path)
    again = pickle.loads(pickle.dumps(found))
    assert again.to_dict() == found.to_dict()
    assert again.draw().tobytes() == found.draw().tobytes()


def test_the_well_known_article(shared, golden, tmp_path, monkeypatch):
    """dog.jpg by the published rule, here with the reference weights in place of the published ones."""
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    torch.save(golden.state_dict("hardnet68"), tmp_path / find("hardnet68").file)
    (found,) = predict("hardnet68", shared / "data/imagenet_mini/dog.jpg")
    assert len(found.labels) == 5
    assert found.classes[258] == "Samoyed"
    assert np.all(np.diff(found.scores) <= 0)


def test_an_image_is_never_drawn_over(saved, tmp_path):
    _, path = saved("hardnet39ds", 4)
    image = tmp_path / "dog.jpg"
    Image.fromarray(noise(40, 30)).save(image)
    before = image.read_bytes()
    (found,) = predict(path, image)
    assert [found.save(tmp_path).name, found.save(tmp_path).name] == ["dog_2.jpg", "dog_2.jpg"]
    with pytest.raises(UserError, match=r"dog\.jpg is the image itself"):
        found.save(tmp_path, "dog")
    assert found.save(tmp_path, "dog_2").name == "dog_2.jpg"
    assert image.read_bytes() == before
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["drawing"] for row in rows] == ["dog_2.jpg"]


def test_a_file_brings_its_classes_and_its_input_along(saved, tmp_path):
    network, _ = saved("hardnet39ds", 2)
    rule = replace(PREPROCESS["hardnet39ds"], resize_to=64, size=64)
    meta = {"dataset_meta": {"classes": ("cat", "dog")}, "input": rule.to_dict()}
    torch.save({"state_dict": network.state_dict(), "meta": meta}, tmp_path / "run.pth")
    model = load_model(tmp_path / "run.pth")
    assert (model.classes, model.preprocess) == (("cat", "dog"), rule)
    meta = {"classes": json.dumps(["cat, tabby", "dog"]), "input": json.dumps(rule.to_dict())}
    save_weights(network.state_dict(), tmp_path / "own.safetensors", metadata=meta)
    model = load_model(tmp_path / "own.safetensors")
    assert (model.classes, model.preprocess) == (("cat, tabby", "dog"), rule)
    save_weights(network.state_dict(), tmp_path / "bad.safetensors", metadata={"input": "[1]"})
    with pytest.raises(UserError, match=r"bad\.safetensors: in its metadata, not an input rule: \[1\]"):
        load_model(tmp_path / "bad.safetensors")


def test_a_copy_of_weights_in_the_package_keeps_its_classes(tmp_path):
    copy = tmp_path / "cells.safetensors"
    copy.write_bytes(fetch(find("ssd320_hardnet39ds", "bccd")).read_bytes())
    assert load_model(copy).classes == ("RBC", "WBC", "Platelets")


def test_options_of_the_model_beside_a_loaded_one(saved):
    model = load_model(saved("hardnet39ds", 4)[1])
    precisions = ({"bf16": True}, {"precision": "auto"}, {"precision": "float32"})
    others = ({"device": "cpu"}, {"classes": list("abcd")}, {"classes": []}, {"weights": "published"})
    for options in (*precisions, *others):
        with pytest.raises(ValueError, match="this model is loaded"):
            predict(model, noise(64, 64), **options)
    with pytest.raises(ValueError, match="stream=True"):
        predict(model, ["camera:0"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": ""}, "the weights are ''"),
        ({"device": ""}, "cannot compute on the device"),
        ({"classes": []}, r"classes is \[\], expected a non-empty list"),
    ],
)
def test_what_is_empty_is_not_the_default(options, message):
    options = {"weights": "tiny_imagenet10"} | options
    with pytest.raises(UserError, match=message):
        load_model("hardnet39ds", **options)


def test_a_config_by_its_name(saved, tmp_path):
    _, path = saved("hardnet39ds", 10)
    model = load_model("hardnet39ds_tiny_imagenet10", weights=path)
    assert (model.preprocess.resize_to, model.preprocess.size) == (64, 64)
    (tmp_path / "mine.py").write_text(
        f"_base_ = {str(OWN_CONFIGS / 'hardnet39ds_tiny_imagenet10.py')!r}\n"
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='torchvision/FiveCrop', size=64)]))\n"
    )
    with pytest.raises(UserError, match="test pipeline's torchvision/FiveCrop cannot be expressed"):
        load_model(tmp_path / "mine.py", weights=path)


def test_one_bad_part_does_not_end_the_rest(saved, tmp_path):
    _, path = saved("hardnet39ds", 4)
    for name in ("a", "c"):
        Image.fromarray(noise(64, 64)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    failed = []
    with pytest.warns(UserWarning, match="skipped"):
        found = predict(path, tmp_path, failed=failed)
    assert [one.name[-5:] for one in found] == ["a.png", "c.png"]
    with pytest.warns(UserWarning, match="skipped"):
        found = predict(path, [f"{tmp_path}/x*", tmp_path / "none.mp4", tmp_path / "a.png"], failed=failed)
    assert [one.name[-5:] for one in found] == ["a.png"]
    assert [reason.split(" ")[0] for _, reason in failed] == ["cannot", "no", "no"]


def test_a_loaded_model_is_called(tmp_path):
    model = hardnet_suite.load_model("ssd320_hardnet39ds", weights="bccd")
    assert isinstance(model, LoadedModel)
    image = noise(120, 90)
    options = {"score": 0.01, "batch_size": 2, "channels": "bgr"}
    ours = [one.to_dict() for one in model([image, image[::2]], **options)]
    assert ours == [one.to_dict() for one in predict(model, [image, image[::2]], **options)]
    assert ours == [
        one.to_dict() for one in predict("ssd320_hardnet39ds", [image, image[::2]], weights="bccd", **options)
    ]
    assert next(model(iter([image]), stream=True, **options)).to_dict()["boxes"] == ours[0]["boxes"]
    assert "detection of 3 classes (RBC, WBC, Platelets), cpu; weights: " in repr(model)
    assert "the weights 'bccd' of ssd320_hardnet39ds>" in repr(model)
    assert "\n" not in repr(model)
    with pytest.raises(TypeError, match="unexpected keyword argument 'threshold'"):
        model(image, threshold=0.5)
    with pytest.raises(ValueError, match="are for load_model"):
        predict(model, image, weights="bccd")


def test_the_repr_of_many_classes_and_of_a_network(saved):
    _, path = saved("hardnet39ds")
    text = repr(load_model(path, bf16=True))
    assert "classification of 1000 classes (" in text
    assert ", …), cpu, bfloat16; weights: " in text
    assert text.endswith(f"{path}>")
    assert len(text) < 200 + len(str(path))


@pytest.mark.parametrize("kind", ["tensor", "float", "batch", "list", "bytes", "file", "bgr"])
def test_every_form_of_an_image_gives_one_answer(tmp_path, kind):
    """Lossless files, arrays and tensors hold the same pixels."""
    model = load_model("fchardnet70", weights="camvid")
    values = noise(64, 64)
    Image.fromarray(values).save(tmp_path / "a.png")
    (expected,) = model(tmp_path / "a.png")
    tensor = torch.from_numpy(values.copy()).permute(2, 0, 1)
    source = {
        "tensor": tensor,
        "float": tensor / 255,
        "batch": torch.stack([tensor, tensor]),
        "list": [tensor, tmp_path / "a.png"],
        "bytes": (tmp_path / "a.png").read_bytes(),
        "file": io.BytesIO((tmp_path / "a.png").read_bytes()),
        "bgr": np.ascontiguousarray(values[..., ::-1]),
    }[kind]
    found = model(source, channels="bgr" if kind == "bgr" else "rgb", batch_size=2)
    assert len(found) == (2 if kind in ("batch", "list") else 1)
    for one in found:
        assert np.array_equal(one.mask, expected.mask)
        assert one.draw().tobytes() == expected.draw().tobytes()


def test_swapped_arguments_are_told(tmp_path):
    model = load_model("ssd320_hardnet39ds", weights="bccd")
    image = noise(64, 64)
    Image.fromarray(image).save(tmp_path / "a.png")
    for arguments in (
        (tmp_path / "a.png", model),
        (image, model),
        (str(tmp_path / "a.png"), model.network),
        (torch.zeros(3, 8, 8), model),
        (image, "ssd320_hardnet39ds"),
        ([image], "ssd320_hardnet39ds"),
    ):
        with pytest.raises(UserError, match=r"swapped: expected predict\(model, images\), got .* as images"):
            predict(*arguments)
    for name in ("a.png", "clip.mp4"):
        with pytest.raises(UserError, match=r"is an image or video, expected a model first: predict\(model"):
            predict(tmp_path / name, "ssd320_hardnet39ds")
    with pytest.raises(UserError, match="expected a model's name, a config or a file of weights, got a list"):
        predict([tmp_path / "a.png"], tmp_path / "a.png")


@pytest.fixture(scope="module")
def answers_of_all():
    """One network of each task, with weights that give several answers."""
    image = noise(64, 96)
    made = {
        name: create_model(name, num_classes=4).eval()
        for name in ("hardnet39ds", "ssd320_hardnet39ds", "fchardnet70")
    }
    return {name: (network, image, predict(network, image, score=0)[0]) for name, network in made.items()}


@pytest.mark.parametrize("name", ["hardnet39ds", "ssd320_hardnet39ds", "fchardnet70"])
def test_top_and_score_choose_among_the_items_of_every_task(answers_of_all, name):
    network, image, every = answers_of_all[name]
    assert list(every.scores) == sorted(every.scores, reverse=True)
    for top in (1, 2, np.int64(3)):
        (first,) = predict(network, image, score=0, top=top)
        assert list(first.labels) == list(every.labels[:top])
        assert len(first) == min(top, len(every))
        assert len(first.to_dict()["names"]) == len(first)
    least = float(every.scores[min(1, len(every) - 1)])
    (good,) = predict(network, image, score=least)
    assert list(good.scores) == [score for score in every.scores if score >= least]
    (nothing,) = predict(network, image, score=1)
    assert [score for score in nothing.scores if score < 1] == []
    nothing.draw()
    nothing.draw(legend=False)
    if every.mask is not None:
        assert np.array_equal(nothing.mask, every.mask)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("score", "0.5", "score='0.5': expected a number from 0 to 1"),
        ("score", 30, "score=30: expected a number from 0 to 1"),
        ("score", float("nan"), "score=nan: expected"),
        ("score", True, "score=True: expected"),
        ("top", 0, "top=0: expected an integer of at least 1"),
        ("top", 2.5, r"top=2\.5: expected an integer"),
        ("top", "3", "top='3': expected an integer"),
        ("top", True, "top=True: expected an integer"),
        ("batch_size", 0, "batch_size=0: expected an integer"),
        ("batch_size", None, "batch_size=None: expected an integer"),
        ("channels", "rbg", "expected channels 'rgb' or 'bgr', got 'rbg'"),
        ("channels", 3, "expected channels 'rgb' or 'bgr', got 3"),
    ],
)
def test_an_option_out_of_range_alone_is_named(answers_of_all, option, value, message):
    network, image, _ = answers_of_all["hardnet39ds"]
    with pytest.raises(ValueError, match=f"^{message}"):
        predict(network, image, **{option: value})


def test_the_order_of_channels_in_either_case(answers_of_all):
    network, image, _ = answers_of_all["hardnet39ds"]
    values = np.array(image)
    for channels in ("BGR", "Bgr", "bgr"):
        (swapped,) = predict(network, values[..., ::-1], channels=channels)
        assert list(swapped.scores) == list(predict(network, values)[0].scores)


@pytest.mark.parametrize("wrap", [lambda network: network, torch.nn.DataParallel, model_of_network])
def test_a_network_is_told_where_it_goes(answers_of_all, wrap):
    with pytest.raises(UserError, match=r"predict\(model, images\) takes it as it is"):
        load_model(wrap(answers_of_all["hardnet39ds"][0]))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 8, 8, device="meta"),
        torch.zeros(3, 8, 8, device="meta", dtype=torch.uint8),
        torch.zeros(3, 8, 8).to_sparse(),
        torch.zeros(2, 3, 8, 8).to_sparse(),
    ],
)
def test_tensors_without_dense_values(answers_of_all, tensor):
    with pytest.raises(ValueError, match="expected a dense tensor with values, got one"):
        predict(answers_of_all["hardnet39ds"][0], tensor)


@pytest.mark.parametrize("name", ["hardnet39ds", "ssd320_hardnet39ds", "fchardnet70"])
def test_random_weights_are_told(name):
    network = create_model(name, num_classes=3)
    with pytest.warns(UserWarning, match=f"this {name} has random weights"):
        predict(network, noise(64, 64))
    next(buffer for key, buffer in network.named_buffers() if key.endswith("running_mean")).add_(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(network, noise(64, 64))
