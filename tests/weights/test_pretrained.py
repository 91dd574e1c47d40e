from __future__ import annotations

from dataclasses import replace

import pytest
import safetensors.torch
import torch

from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.networks import build_network
from hardnet_suite.weights import (
    convert_official,
    find,
    load_pretrained,
    load_weights,
    split_official,
    to_official,
)
from hardnet_suite.weights.convert import in_target, openmm_target
from hardnet_suite.weights.file import WeightsFile
from hardnet_suite.weights.row import Address


@pytest.fixture(scope="module")
def official(golden):
    """Official keys and shapes; each tensor is filled with a number of its own, so that mix-ups show."""

    def make(name: str) -> dict[str, torch.Tensor]:
        entries = golden.entries[name]["state_dict"]
        return {
            key: torch.full(shape, i, dtype=torch.float32 if shape else torch.int64)
            for i, (key, shape) in enumerate(entries, 1)
        }

    return make


@pytest.fixture
def official_file(official, tmp_path):
    """Writes the official file of a model, whole or as far as asked for, and says where it lies."""

    def make(name: str, keep=lambda key: True, rename=lambda key: key, **extra):
        tensors = {rename(key): value for key, value in official(name).items() if keep(key)}
        path = tmp_path / f"{name}.pth"
        torch.save(tensors | extra, path)
        return path

    return make


def bare(key: str) -> str:
    return key.removeprefix("base.")


def assert_holds(network, tensors):
    """Every entry of ``tensors`` is in the network, bit for bit."""
    own = network.state_dict()
    assert tensors.keys() <= own.keys()
    for key, value in tensors.items():
        torch.testing.assert_close(own[key], value, rtol=0, atol=0)


def message_of(call, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def snapshot(network) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def test_an_official_file(official, official_file, recwarn):
    network = create_model("hardnet68", pretrained=official_file("hardnet68"))
    expected = convert_official("hardnet68", official("hardnet68"))
    assert expected.keys() == network.state_dict().keys()
    assert_holds(network, expected)
    assert not [one for one in recwarn if one.category is UserWarning]  # others may come from elsewhere


def test_an_official_file_in_its_wrappings(official, tmp_path):
    path = tmp_path / "wrapped.pth"
    wrapped = {f"module.{key}": value for key, value in official("hardnet39ds").items()}
    torch.save({"epoch": 90, "state_dict": wrapped}, path)
    network = create_model("hardnet39ds", pretrained=str(path))
    assert_holds(network, convert_official("hardnet39ds", official("hardnet39ds")))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_our_own_keys(tmp_path, suffix):
    torch.manual_seed(0)
    source = create_model("hardnet39ds", num_classes=5)
    path = tmp_path / f"own{suffix}"
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save(source.state_dict(), path)
    network = create_model("hardnet39ds", num_classes=5, pretrained=path)
    assert_holds(network, source.state_dict())


def test_the_published_weights_lie_in_a_folder(official, official_file, tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    path = tmp_path / find("hardnet39ds").file
    official_file("hardnet39ds").rename(path)
    expected = convert_official("hardnet39ds", official("hardnet39ds"))
    for source in (True, "published"):
        with pytest.warns(UserWarning, match=f"{path}: it has none of the hashes of the published weights"):
            assert_holds(create_model("hardnet39ds", pretrained=source), expected)
    row = replace(
        find("hardnet39ds"),
        urls=(Address(f"https://host/{path.name}", git_blob=WeightsFile.read(path).git_blob),),
    )
    monkeypatch.setattr("hardnet_suite.weights.registry.ROWS", (row,))
    recwarn.clear()
    create_model("hardnet39ds", pretrained=True)
    assert not recwarn


def test_another_number_of_classes_keeps_a_fresh_classifier(official, official_file):
    network = build_network("hardnet39ds", num_classes=7)
    before = snapshot(network)
    report = load_pretrained(network, "hardnet39ds", official_file("hardnet39ds"))
    expected = convert_official("hardnet39ds", official("hardnet39ds"))
    assert_holds(network, {key: value for key, value in expected.items() if not key.startswith("fc.")})
    assert_holds(network, {"fc.weight": before["fc.weight"], "fc.bias": before["fc.bias"]})
    assert report.taken == len(expected) - 2
    assert report.missing == ("fc.weight", "fc.bias")
    assert report.unexpected == ()


def test_another_number_of_classes_is_said_aloud(official_file):
    with pytest.warns(UserWarning, match=r"hardnet39ds: .*2 of the model not in the weights \(fc.weight"):
        create_model("hardnet39ds", num_classes=7, pretrained=official_file("hardnet39ds"))


@pytest.mark.parametrize(
    ("weight", "bias"),
    [((1024, 1000), (1000,)), ((7, 1024), (1000,)), ((1000, 512), (1000,)), ((1000,), (7,))],
)
@pytest.mark.parametrize("classes", [None, 7, 1024])
def test_a_last_layer_of_another_shape_is_no_other_number_of_classes(tmp_path, weight, bias, classes):
    state = create_model("hardnet39ds").state_dict()
    state |= {"fc.weight": torch.ones(weight), "fc.bias": torch.ones(bias)}
    torch.save(state, tmp_path / "file.pth")
    message = message_of(create_model, "hardnet39ds", num_classes=classes, pretrained=tmp_path / "file.pth")
    assert "of another shape (fc." in message


def test_no_classes_at_all(official_file, recwarn):
    network = build_network("hardnet39ds", num_classes=0)
    report = load_pretrained(network, "hardnet39ds", official_file("hardnet39ds"))
    assert report.missing == ()
    assert report.unexpected == ("fc.weight", "fc.bias")
    assert report.taken == len(network.state_dict())


def test_another_number_of_classes_excuses_nothing_else(official_file):
    path = official_file("hardnet39ds", keep=lambda key: not key.startswith("base.0."))
    network = build_network("hardnet39ds", num_classes=7)
    before = snapshot(network)
    message = message_of(load_pretrained, network, "hardnet39ds", path)
    assert "missing (trunk.stem.0" in message
    assert "fc." not in message
    assert_holds(network, before)


def test_a_detector_of_another_number_of_classes(official, official_file):
    network = build_network("ssd512_hardnet68", num_classes=3)
    before = snapshot(network)
    report = load_pretrained(network, "ssd512_hardnet68", official_file("ssd512_hardnet68"))
    assert set(report.missing) == {key for key in before if key.startswith("cls.")}
    assert_holds(network, {key: before[key] for key in report.missing})
    expected = convert_official("ssd512_hardnet68", official("ssd512_hardnet68"))
    assert_holds(network, {key: value for key, value in expected.items() if key not in report.missing})


@pytest.mark.parametrize(("name", "source"), [("hardnet68ds", "hardnet39ds"), ("hardnet39ds", "hardnet68ds")])
def test_another_models_file(official_file, name, source):
    network = build_network(name)
    before = snapshot(network)
    message = message_of(load_pretrained, network, name, official_file(source))
    assert "do not fit HarDNet" in message
    assert "check the model's name" in message
    assert_holds(network, before)


def test_a_classifiers_file_is_no_detectors(official_file):
    message = message_of(create_model, "ssd320_hardnet39ds", pretrained=official_file("hardnet39ds"))
    assert "do not fit SSD" in message


def test_a_file_of_something_else(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"layer1.weight": torch.zeros(3)}, path)
    assert "no key in common" in message_of(create_model, "hardnet39ds", pretrained=path)
    trunk = {"features_only": True, "pretrained": path}
    assert "no key in common" in message_of(create_model, "hardnet39ds", **trunk)


def test_no_file(tmp_path):
    assert "no such file" in message_of(create_model, "hardnet39ds", pretrained=tmp_path / "none.pth")


def test_a_model_without_published_weights():
    with pytest.raises(ValueError, match=r"no weights tagged 'published' .*allowed tags: symbols"):
        create_model("ssd224_hardnet29", pretrained=True)
    with pytest.raises(ValueError, match=r"no weights tagged 'published' .*allowed tags: bccd"):
        create_model("ssd320_hardnet39ds", pretrained=True)


def test_the_base_and_bridge_of_68(official, official_file):
    """As hardnet68_base_bridge.pth: the published detector's ``base``, its keys beginning with a number."""
    path = official_file("ssd512_hardnet68", keep=lambda key: key.startswith("base."), rename=bare)
    network = build_network("ssd512_hardnet68")
    before = snapshot(network)
    report = load_pretrained(network, "ssd512_hardnet68", path)

    whole = convert_official("ssd512_hardnet68", official("ssd512_hardnet68"))
    base = {key: v for key, v in whole.items() if key.startswith(("trunk.", "neck.bridge."))}
    assert_holds(network, base)
    assert_holds(network, {key: before[key] for key in before.keys() - base.keys()})
    assert report.taken == len(base)
    assert set(report.missing) == before.keys() - base.keys()
    assert report.unexpected == ()
    with pytest.warns(UserWarning, match="of the model not in the weights"):
        create_model("ssd512_hardnet68", pretrained=path)


def test_the_base_of_85_with_later_layers(official, official_file):
    """As hardnet85_base.pth: the trunk, and layers beyond it that the detector has not."""
    extra = {"16.layers.0.conv.weight": torch.zeros(256, 720, 3, 3), "18.norm.bias": torch.zeros(1280)}
    path = official_file("ssd512_hardnet85", keep=lambda key: key.startswith("base."), rename=bare, **extra)
    network = build_network("ssd512_hardnet85")
    report = load_pretrained(network, "ssd512_hardnet85", path)
    whole = convert_official("ssd512_hardnet85", official("ssd512_hardnet85"))
    trunk = {key: value for key, value in whole.items() if key.startswith("trunk.")}
    assert_holds(network, trunk)
    assert report.taken == len(trunk)
    assert report.unexpected == tuple(extra)
    assert all(key.startswith(("neck.", "cls.", "box.")) for key in report.missing)
    assert "2 of the weights not used (16.layers.0.conv.weight, 18.norm.bias)" in str(report)


@pytest.mark.parametrize("rename", [bare, lambda key: key], ids=["bare", "base."])
@pytest.mark.parametrize(
    "name", ["ssd512_hardnet68", "centernet_hardnet68", "centernet_hardnet85", "fchardnet70"]
)
def test_a_trunk_alone(official, official_file, name, rename):
    """As the published base files, and with ``base.`` before every key, as a state dict that was cut down."""
    path = official_file(name, keep=lambda key: key.startswith("base."), rename=rename)
    network = build_network(name)
    report = load_pretrained(network, name, path)
    whole = convert_official(name, official(name))
    assert_holds(network, {key: value for key, value in whole.items() if key.startswith("trunk.")})
    assert report.unexpected == ()
    assert not any(key.startswith("trunk.") for key in report.missing)


def test_a_classifier_without_its_last_layer(official, official_file):
    path = official_file("hardnet39ds", keep=lambda key: not key.startswith("base.14."))
    report = load_pretrained(build_network("hardnet39ds"), "hardnet39ds", path)
    assert report.missing == ("fc.weight", "fc.bias")


@pytest.mark.parametrize("name", ["ssd512_hardnet68", "hardnet39ds"])
def test_a_part_of_a_trunk_under_its_official_names_is_no_trunk(official_file, name):
    path = official_file(name, keep=lambda key: key.startswith("base.") and not key.startswith("base.1."))
    assert "missing (trunk.stem.1" in message_of(load_pretrained, build_network(name), name, path)


@pytest.mark.parametrize(("name", "classes"), [("hardnet39ds", 3), ("ssd224_hardnet29", 4)])
def test_the_number_of_classes_is_the_files(tmp_path, name, classes, recwarn):
    """As a tag's, so is a file's; whatever names its keys bear."""
    source = create_model(name, num_classes=classes)
    state = source.state_dict()
    target = openmm_target(name)
    forms = {"own": state, "official": to_official(name, state), target: in_target(name, state, target)}
    for form, tensors in forms.items():
        torch.save({"state_dict": tensors}, tmp_path / f"{form}.pth")
        network = create_model(name, pretrained=tmp_path / f"{form}.pth")
        assert network.num_classes == classes
        assert_holds(network, state)
    assert not [one for one in recwarn if one.category is UserWarning]
    with pytest.warns(UserWarning, match="of the model not in the weights"):
        assert create_model(name, num_classes=9, pretrained=tmp_path / "own.pth").num_classes == 9


def test_a_compiled_models_file(tmp_path):
    source = create_model("hardnet39ds", num_classes=3)
    torch.save({f"_orig_mod.{key}": v for key, v in source.state_dict().items()}, tmp_path / "compiled.pth")
    assert_holds(create_model("hardnet39ds", pretrained=tmp_path / "compiled.pth"), source.state_dict())


def test_what_is_neither_a_tag_nor_a_path():
    message = message_of(create_model, "hardnet39ds", pretrained="camvid")
    tags = "published, pytorchcv, stm32ai, paddleclas, tiny"
    assert f"no weights camvid: neither a file nor a tag; tags of hardnet39ds: {tags}" in message
    address = "https://host/hardnet39ds.pth"
    assert f"{address} is an address: download" in message_of(create_model, "hardnet39ds", pretrained=address)
    with pytest.raises(ValueError, match="pretrained=2 must be True, False, a tag or a path"):
        create_model("hardnet39ds", pretrained=2)


def test_a_base_by_its_tag(official_file, tmp_path, monkeypatch):
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    path = official_file("ssd512_hardnet68", keep=lambda key: key.startswith("base."), rename=bare)
    path.rename(tmp_path / find("ssd512_hardnet68", "base").file)
    network = build_network("ssd512_hardnet68")
    report = load_pretrained(network, "ssd512_hardnet68", "base")
    assert report.taken > 300
    assert all(key.startswith(("neck.", "cls.", "box.")) for key in report.missing)


def test_a_base_by_hand(official):
    """split_official and load_weights, as the OpenMMLab door uses them."""
    extra = {"99.weight": torch.zeros(1)}
    tensors = {bare(key): v for key, v in official("hardnet39ds").items() if not key.startswith("base.14.")}
    converted, left = split_official("hardnet39ds", tensors | extra)
    network = build_network("hardnet39ds")
    report = load_weights(network, converted, strict=False)
    assert left == ["99.weight"]
    assert report.missing == ("fc.weight", "fc.bias")
    assert_holds(network, converted)


@pytest.mark.parametrize(
    ("name", "source"), [("ssd512_hardnet68", "hardnet68"), ("ssd320_hardnet39ds", "hardnet39ds")]
)
def test_a_classifiers_file_into_a_detectors_trunk(official, official_file, name, source):
    trunk = build_network(name, features_only=True)
    report = load_pretrained(trunk, name, official_file(source))
    assert report.missing == ()
    assert report.taken == len(trunk.state_dict())
    assert {"base.14.3.weight", "base.16.3.weight"} & {*report.unexpected}  # the classifier itself
    whole = convert_official(source, official(source))
    assert_holds(trunk, {key: whole[f"trunk.{key}"] for key in trunk.state_dict()})


def test_a_trunk_of_a_few_stages(official, official_file):
    path = official_file("hardnet39ds")
    trunk = create_model("hardnet39ds", features_only="block", out_indices=(1, 2), pretrained=path)
    whole = convert_official("hardnet39ds", official("hardnet39ds"))
    assert_holds(trunk, {key: whole[f"trunk.{key}"] for key in trunk.state_dict()})


def test_a_trunks_own_file(tmp_path):
    torch.manual_seed(0)
    source = create_model("hardnet39ds", features_only=True)
    path = tmp_path / "trunk.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    trunk = create_model("hardnet39ds", features_only=True, pretrained=path)
    assert_holds(trunk, source.state_dict())


def test_a_trunk_must_be_whole(official_file):
    path = official_file("hardnet39ds", keep=lambda key: not key.startswith("base.0."))
    message = message_of(create_model, "hardnet39ds", features_only=True, pretrained=path)
    assert "missing (stem.0.conv.weight" in message


def test_another_models_file_into_a_trunk(official_file):
    message = message_of(
        create_model, "hardnet68ds", features_only=True, pretrained=official_file("hardnet39ds")
    )
    assert "of another shape" in message
