"""The classifier as an mmengine model: its input, its loss, torchvision's transforms, its data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from PIL import Image
from reference import assert_parity
from torch.nn import functional as F

import hardnet_suite.openmm
from hardnet_suite.errors import UserError
from hardnet_suite.networks import PREPROCESS
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.weights import convert_official
from hardnet_suite.weights.convert import from_target

assert hardnet_suite.openmm


def classifier(classes=3, arch="hardnet39ds", **options):
    cfg = load_config("hardnet39ds_imagenet")
    torch.manual_seed(0)
    return MODELS.build({**cfg.model, "arch": arch, "num_classes": classes, **options})


def batch(count=4, size=64, classes=3):
    generator = torch.Generator().manual_seed(0)
    return {
        "inputs": torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8),
        "labels": torch.arange(count) % classes,
        "names": [str(index) for index in range(count)],
    }


def test_the_official_weights_give_the_official_logits(golden):
    model = classifier(1000).eval()
    weights = convert_official("hardnet39ds", golden.state_dict("hardnet39ds"), target="mmengine")
    model.load_state_dict(weights, strict=True)
    assert from_target("hardnet39ds", weights, "mmengine").keys() == model.network.state_dict().keys()
    with torch.inference_mode():
        found = model(golden.input("hardnet39ds"), None, None)
    assert_parity(found, golden.outputs("hardnet39ds")["out"])


def test_input_is_normalised_as_published():
    data = batch(size=64)
    found = classifier().data_preprocessor(data)["inputs"]
    assert torch.allclose(found, PREPROCESS["hardnet39ds"].normalize(data["inputs"]), atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_predictions(smoothing):
    model = classifier(label_smoothing=smoothing).eval()
    data = model.data_preprocessor(batch(), training=True)
    logits = model.network(data["inputs"])
    loss = model(**data, mode="loss")["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(logits, data["labels"], label_smoothing=smoothing))
    found = model(**data, mode="predict")
    torch.testing.assert_close(torch.stack([one["scores"] for one in found]), logits)
    assert [int(one["label"]) for one in found] == [0, 1, 2, 0]
    assert [one["name"] for one in found] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_mixing_gives_shares_in_training_only(way):
    mean, std = [0.0] * 3, [1.0] * 3
    options = {"type": "ClassificationPreprocessor", "mean": mean, "std": std, "num_classes": 3, way: 1.0}
    preprocess = MODELS.build(options)
    data = batch()
    torch.manual_seed(1)
    mixed = preprocess(data, training=True)
    assert mixed["labels"].shape == (4, 3)
    torch.testing.assert_close(mixed["labels"].sum(1), torch.ones(4))
    assert not torch.equal(mixed["inputs"], data["inputs"].float())
    share = mixed["labels"][1, 1]  # the second image is mixed with the first
    if way == "cutmix":  # each pixel is of one image or the other, as many as the label says
        same = (mixed["inputs"] == data["inputs"].float()).all(dim=1).float().mean(dim=(1, 2))
        torch.testing.assert_close(same[1], share, atol=0.01, rtol=0)
    assert 0 < share < 1
    plain = preprocess(data, training=False)
    assert torch.equal(plain["inputs"], data["inputs"].float())
    assert torch.equal(plain["labels"], data["labels"])


def test_batches_that_are_not_mixed_have_shares_too():
    options = {"mean": [0.0] * 3, "std": [1.0] * 3, "num_classes": 3, "mixup": 1.0, "mix_probability": 0.0}
    found = MODELS.build({"type": "ClassificationPreprocessor", **options})(batch(), training=True)
    assert torch.equal(found["labels"], F.one_hot(torch.tensor([0, 1, 2, 0]), 3).float())


def test_the_test_pipeline_is_torchvisions():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    image = Image.fromarray(pixels)
    results = {"img": image, "label": 7, "name": "a.jpg"}
    for step in load_config("hardnet68_imagenet").test_pipeline:
        results = TRANSFORMS.build(step)(results)
    published = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(256), torchvision.transforms.CenterCrop(224)]
    )
    assert results["inputs"].dtype == torch.uint8
    assert np.array_equal(results["inputs"].permute(1, 2, 0).numpy(), np.asarray(published(image)))
    assert (results["labels"], results["names"]) == (7, "a.jpg")


def test_data_of_a_folder_and_of_torchvision(tmp_path):
    for name, color in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "train" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8), color).save(tmp_path / f"train/{name}/{index}.png")
    common = {"type": "ClassificationDataset", "pipeline": [{"type": "PackClass"}]}
    folder = DATASETS.build({**common, "data_root": str(tmp_path), "folder": "train", "hold_out": 1})
    assert len(folder) == 4
    assert folder.metainfo["classes"] == ("cat", "dog")
    assert [item["labels"] for item in folder] == [0, 0, 1, 1]
    assert folder[3]["inputs"][:, 0, 0].tolist() == [0, 0, 255]
    options = {"data_root": str(tmp_path / "train"), "torchvision": {"name": "ImageFolder"}}
    other = DATASETS.build({**common, **options, "hold_out": 1, "held_out": True})
    assert [item["labels"] for item in other] == [0, 1]
    assert other[1]["inputs"][:, 0, 0].tolist() == [0, 0, 255]
    with pytest.raises(UserError, match="needs folder, csv, torchvision or shards"):
        DATASETS.build(common)


def test_images_of_rare_classes_are_repeated(tmp_path):
    for name, count in (("cat", 1), ("dog", 4)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{name}/{index}.png")
    inner = {"type": "ClassificationDataset", "pipeline": [{"type": "PackClass"}], "data_root": str(tmp_path)}
    balanced = {"type": "ClassBalancedDataset", "oversample_thr": 0.8, "dataset": {**inner, "folder": "."}}
    assert [item["labels"] for item in DATASETS.build(balanced)] == [0, 0, 1, 1, 1, 1]


def test_a_part_of_imagenet_keeps_imagenets_labels(shared):
    cfg = load_config("hardnet68_imagenet")
    dataset = {**cfg.val_dataloader.dataset, "data_root": str(shared / "data/imagenet_mini")}
    found = DATASETS.build(dataset)
    assert len(found) == 50
    assert len(found.metainfo["classes"]) == 1000
    ids = (shared / "data/imagenet_mini/wnids.txt").read_text().split()
    for index in (0, 20, 49):
        item = found.get_data_info(index)
        assert item["label"] == ids.index(item["name"].split("/")[-2])
    assert found[0]["inputs"].shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metainfo": {"classes": ("a",)}}, "no option 'metainfo'; set classes="),
        ({"filter_cfg": {"a": 1}}, "no option 'filter_cfg'; known options: pipeline"),
        ({"ann_file": "a.txt"}, "no option 'ann_file'"),
        ({"classes": "cat"}, "classes is the string 'cat'"),
        ({"hold_out": -1}, "hold_out=-1, expected"),
        ({"hold_out": True}, "hold_out=True, expected"),
        ({"held_out": True}, "held_out=True with hold_out=0"),
        ({"torchvision": {"name": "ImageFolder"}}, "one of folder, csv"),
    ],
)
def test_options_without_an_effect_are_refused(tmp_path, options, message):
    (tmp_path / "train/cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "train/cat/0.png")
    given = {"type": "ClassificationDataset", "data_root": str(tmp_path), "folder": "train", "pipeline": []}
    with pytest.raises(UserError, match=message):
        DATASETS.build(given | options)
