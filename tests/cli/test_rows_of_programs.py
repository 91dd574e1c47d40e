"""Rows for files of other programs: what a tag, a file and a hash give is what the program computes."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace

import pytest
import torch
from weights import foreign_programs as foreign

import hardnet_suite.weights as weights_room
from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS, build_network, default_usage
from hardnet_suite.weights import fetch, find, open_weights, registry, to_official
from hardnet_suite.weights.convert import in_target
from hardnet_suite.weights.layouts import FOREIGN

STREETS = ("fchardnet70", "semantic-segmentation")


def put(folder, row, state):
    """Writes a state dict as the row's file, in the program's format."""
    path = folder / row.file
    if path.suffix == ".pdparams":
        names = {key: f"conv2d_{index}.w_0" for index, key in enumerate(state)}
        arrays = {key: value.numpy() for key, value in state.items()}
        path.write_bytes(pickle.dumps(arrays | {"StructuredToParameterName@@": names}, protocol=4))
    else:
        torch.save(state, path)
    return path


def pin(monkeypatch, row, path):
    """Gives a row the hash of a file, and a registry of this row alone."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    pinned = replace(row, urls=tuple(replace(each, sha256_prefix=sha256) for each in row.urls), no_hash="")
    for module in (registry, weights_room):
        monkeypatch.setattr(module, "ROWS", (pinned,))
    return pinned


@pytest.fixture(scope="module")
def streets():
    """sithu31296's FC-HarDNet, and its weights in single precision."""
    program = foreign.semantic_segmentation().double().eval()
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in foreign.formula_weights(program.state_dict()).items()
    }
    program.load_state_dict(state)
    return program.float(), state


def assert_streets(network, program):
    """The network computes as the program, from the program's input."""
    assert network.arch == replace(
        ARCHS["fchardnet70"], trunk=replace(ARCHS["fchardnet70"].trunk, act="relu6")
    )
    rule = network.usage.preprocess
    assert (rule.channels, rule.scale, rule.mean, rule.std) == (
        "rgb",
        255.0,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = program(images)
        torch.testing.assert_close(
            network.eval()(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )


def test_a_tag_says_what_keys_do_not(cache, streets):
    """sithu31296's FC-HarDNet has the authors' keys, ReLU6 and RGB images."""
    program, state = streets
    path = put(cache, find(*STREETS), state)
    network = create_model("fchardnet70", pretrained="semantic-segmentation")
    assert_streets(network, program)
    assert network.usage.classes == default_usage("fchardnet70").classes
    # by its path alone the file is the authors', as its keys say
    assert create_model("fchardnet70", pretrained=path).arch.trunk.act == "relu"
    trunk = create_model("fchardnet70", features_only="block", pretrained="semantic-segmentation")
    assert (trunk.arch.act, trunk.preprocess.channels) == ("relu6", "rgb")
    said = create_model("fchardnet70", arch=ARCHS["fchardnet70"], pretrained="semantic-segmentation")
    assert said.arch.trunk.act == "relu"  # the caller's word counts


def test_a_hash_says_what_keys_do_not(tmp_path, monkeypatch, streets):
    program, state = streets
    row = find(*STREETS)
    path = put(tmp_path, row, state)
    pinned = pin(monkeypatch, row, path)
    weights = open_weights(path)
    assert (weights.row, weights.form) == (pinned, "semantic-segmentation")
    assert_streets(create_model("fchardnet70", pretrained=path), program)
    torch.save(state, tmp_path / "another.pth")
    changed = {key: value + 1 for key, value in state.items()}
    torch.save(changed, path)
    assert open_weights(path).form == "official"


@pytest.mark.parametrize("how", ["row", "hash"])
def test_another_program_than_the_rows_is_an_error(cache, monkeypatch, streets, how):
    row = find(*STREETS)
    path = put(cache, row, streets[1])
    pinned = pin(monkeypatch, row, path)
    message = "weights 'semantic-segmentation' of fchardnet70, of sithu31296/semantic-segmentation: .*authors"
    with pytest.raises(UserError, match=message):
        open_weights(pinned if how == "row" else path, layout="official")
    assert open_weights(pinned if how == "row" else path, layout="semantic-segmentation").row == pinned


def test_identify_names_the_tag(cli, tmp_path, monkeypatch, streets):
    row = find(*STREETS)
    path = put(tmp_path, row, streets[1])
    words = f"tag semantic-segmentation: {row.metric}"
    status, out, _ = cli("identify", path)  # the name alone does not say how the network computes
    assert status == 0
    assert words not in out
    assert "give --from semantic-segmentation" in out
    _, out, _ = cli("identify", path, "--from", "semantic-segmentation")
    assert words in out
    assert row.source in out
    pin(monkeypatch, row, path)
    _, out, _ = cli("identify", path)
    assert words in out
    assert "relu6" in out
    assert f'create_model("fchardnet70", pretrained="{path}")' in out
    assert "--from" not in out
    status, _, _ = cli("convert-weights", path, tmp_path / "own.safetensors")
    assert status == 0
    converted = open_weights(tmp_path / "own.safetensors")
    assert converted.arch.trunk.act == "relu6"
    assert (converted.metadata["tag"], converted.metadata["licence"]) == (row.tag, "MIT")


WHOLE = {"fchardnet70_paddleseg": "paddleseg", "hardnet_mseg": "official"}


@pytest.mark.parametrize(("model", "layout"), WHOLE.items())
def test_whole_networks_of_programs(cli, cache, model, layout):
    torch.manual_seed(0)
    own = build_network(model).state_dict()
    row = find(model)
    state = to_official(model, own) if layout == "official" else in_target(model, own, layout)
    path = put(cache, row, state)
    network = create_model(model, pretrained=True)
    assert network.arch == ARCHS[model]
    assert network.usage.preprocess == default_usage(model).preprocess
    assert network.usage.classes == default_usage(model).classes
    again = network.state_dict()
    assert all(torch.equal(again[key], own[key]) for key in own if "num_batches" not in key)
    _, out, _ = cli("identify", path)
    assert f"tag published: {row.metric}" in out
    assert row.licence in out
    status, out, _ = cli("models", model, "--verify")
    assert status == 0
    assert f"{path}: weights of {model}; no hash is known: {row.no_hash}" in out


@pytest.mark.parametrize("model", WHOLE)
def test_a_wrong_file_under_the_name_of_a_row(cli, cache, model):
    row = find(model)
    put(cache, row, in_target("hardnet39ds", build_network("hardnet39ds").state_dict(), "paddleclas"))
    status, out, _ = cli("models", model, "--verify")
    assert status == 1
    assert f"a wrong file: these are not the weights of {model}" in out


@pytest.fixture(scope="module")
def tracker():
    """PaddleDetection's trunk, and the file of FairMOT that it is in."""
    program = foreign.paddledetection().eval()
    state = {key: value.float() for key, value in foreign.formula_weights(program.state_dict()).items()}
    program.load_state_dict(state)
    beside = {f"neck.{name}.conv.weight": torch.ones(2, 2) for name in ("last_proj", "denseBlocksUp.0")}
    whole = {f"backbone.{key}": value for key, value in state.items()} | beside
    return program, {key: torch.from_numpy(value) for key, value in foreign.paddle_arrays(whole).items()}


def test_the_trunk_of_a_tracker(cli, cache, tracker):
    program, state = tracker
    row = find("centernet_hardnet85", "fairmot")
    path = put(cache, row, state)
    trunk = create_model("centernet_hardnet85", features_only="block", pretrained="fairmot").eval()
    assert (trunk.arch.act, trunk.arch.pool) == ("relu6", "average_inside")
    assert (trunk.preprocess.channels, trunk.preprocess.scale) == ("rgb", 255.0)
    images = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        maps, expected = trunk(images), program(images)[1:]  # from stride 4
        for one, other in zip(maps[-len(expected) :], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    with pytest.warns(UserWarning, match="of the model not in the weights"):
        detector = create_model("centernet_hardnet85", pretrained="fairmot")
    assert detector.arch.trunk.pool == "average_inside"
    _, out, _ = cli("identify", path)
    assert f"tag fairmot: {row.metric}" in out
    status, out, _ = cli("models", "centernet_hardnet85", "--verify")
    assert status == 0
    assert f"{path}: weights of centernet_hardnet85; no hash is known" in out
    del state["neck.last_proj.conv.weight"]
    put(cache, row, state)
    status, out, _ = cli("models", "centernet_hardnet85", "--verify")
    assert status == 1
    assert f"{path}: a wrong file: these are not" in out


def test_a_graph_is_to_be_converted(cli, cache, monkeypatch):
    row = find("hardnet39ds", "stm32ai")
    path = cache / row.file
    path.write_bytes(b"a graph")
    status, out, _ = cli("models", "hardnet39ds", "--verify")
    assert status == 1
    assert f"{path}: wrong contents: sha256 begins" in out
    pinned = pin(monkeypatch, row, path)
    assert fetch(pinned) == path
    for options in ({}, {"features_only": True}):
        with pytest.raises(UserError) as caught:
            create_model("hardnet39ds", pretrained="stm32ai", **options)
        message = str(caught.value)
        assert message.startswith(f"{path}: a graph, not a file of weights: ")
        assert f"`hardnet-suite convert-weights {path} hardnet39ds_pt_224.safetensors`" in message
        assert "\n" not in message
    status, out, _ = cli("models", "hardnet39ds", "--verify")
    assert (status, out.strip()) == (0, f"hardnet39ds stm32ai: {path}: as the registry has it (sha256)")


def test_layouts_of_rows_are_those_of_their_files():
    """A row of a layout that keys do not tell is read in it; the others are read by their keys, too."""
    told = {row.layout for row in registry.ROWS if row.layout and FOREIGN[row.layout].told}
    assert told == {"pytorchcv", "paddleclas", "paddleseg", "paddledetection", "onnx"}
