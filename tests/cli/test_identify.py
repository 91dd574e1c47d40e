"""``identify``, ``models --verify``, and ``convert-weights`` between programs."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import warnings
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision

import hardnet_suite.weights as weights_room
from hardnet_suite import create_model, load_model, predict
from hardnet_suite.deploy import export
from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS, build_network, default_usage
from hardnet_suite.weights import (
    ROWS,
    download,
    fill,
    find,
    open_weights,
    registry,
    save_weights,
    to_official,
)
from hardnet_suite.weights.convert import in_target
from hardnet_suite.weights.places import SHIPPED
from hardnet_suite.weights.row import Address


def official(name, **options):
    return to_official(name, build_network(name, **options).state_dict())


def trunk_of(name):
    """Random weights of a trunk."""
    state = build_network(name).state_dict()
    return {key: value for key, value in state.items() if key.startswith("trunk.")}


def answers_of(cli, tmp_path, *arguments):
    status, out, err = cli("identify", *arguments, "--json", tmp_path / "answers.json")
    assert (status, err) == (0, "")
    answers = json.loads((tmp_path / "answers.json").read_text())
    for value in answers.values():
        for line in value if isinstance(value, list) else [value]:
            assert str(line) in out or str(line) == answers["written_by"]
    return answers


@pytest.fixture
def small(tmp_path):
    """hardnet68 with three classes, as pytorchcv writes it."""
    path = tmp_path / "small.pth"
    torch.save(
        in_target("hardnet68", build_network("hardnet68", num_classes=3).state_dict(), "pytorchcv"), path
    )
    return path


def test_a_file_of_pytorchcv(cli, tmp_path, small):
    answers = answers_of(cli, tmp_path, small)
    assert answers["model"] == "hardnet68"
    assert answers["layout"] == "pytorchcv (pytorchcv)"
    assert (answers["classes"], answers["input channels"], answers["stem stride"]) == (3, 3, 4)
    assert answers["activation"] == "relu6; relu in blocks"
    assert answers["source"] == "https://github.com/osmr/pytorchcv"
    assert answers["licence"] == "unknown; that of the program is MIT"
    assert answers["use"][0] == f'create_model("hardnet68", pretrained="{small}")'
    assert answers["sha256"] == hashlib.sha256(small.read_bytes()).hexdigest()
    assert "but" not in answers


@pytest.mark.parametrize(("name", "channels", "usual"), [("hardnet39ds", 4, 3), ("hardnet_descriptor", 3, 1)])
def test_no_input_rule_is_told_for_another_number_of_channels(cli, tmp_path, name, channels, usual):
    torch.save(build_network(name, in_chans=channels).state_dict(), tmp_path / "a.pth")
    assert answers_of(cli, tmp_path, tmp_path / "a.pth")["input"] == (
        f"unknown: the network takes {channels} channels, and the rule of the published model makes {usual}"
    )


@pytest.mark.parametrize("classes", [3, 1000])
@pytest.mark.parametrize("named", [True, False])
def test_a_classifier_without_the_bias_of_its_last_layer_is_no_trunk(error_of, tmp_path, classes, named):
    state = official("hardnet39ds", num_classes=classes)
    torch.save({key: state[key] for key in [*state][:-1]}, tmp_path / "a.pth")
    model = ["--model", "hardnet39ds"] if named else []
    assert "but 1 missing (fc.bias)" in error_of("identify", tmp_path / "a.pth", *model)
    assert "but 1 missing (fc.bias)" in error_of(
        "convert-weights", tmp_path / "a.pth", tmp_path / "b.safetensors", *model
    )


def test_the_architecture_travels_with_a_converted_file(cli, tmp_path, small, error_of):
    own, back = tmp_path / "own.safetensors", tmp_path / "back.pth"
    assert cli("convert-weights", small, own)[0] == 0
    assert create_model("hardnet68", pretrained=own).arch.block_act == "relu"
    assert open_weights(own).metadata["origin"] == "https://github.com/osmr/pytorchcv"
    assert cli("convert-weights", own, back, "--to", "pytorchcv")[0] == 0
    before = torch.load(small)
    after = torch.load(back)["state_dict"]
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    for target in ("official", "mmengine"):
        message = error_of("convert-weights", own, tmp_path / "x.pth", "--to", target)
        assert "activation in blocks relu, but" in message
        assert "has activation in blocks relu6: it would compute other answers" in message
    # and the other way: weights for ReLU6 are none for pytorchcv's ReLU
    torch.save(official("hardnet68"), tmp_path / "official.pth")
    message = error_of("convert-weights", tmp_path / "official.pth", tmp_path / "x.pth", "--to", "pytorchcv")
    assert "activation in blocks relu6, but" in message


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68ds"])
def test_networks_that_compute_alike_are_converted_to_each_program(cli, tmp_path, name):
    state = official(name)
    torch.save(state, tmp_path / "official.pth")
    steps = [("pytorchcv", "a.pth"), ("paddleclas", "b.pdparams"), ("official", "c.pth")]
    source = tmp_path / "official.pth"
    for target, file in steps:
        status, _, err = cli("convert-weights", source, tmp_path / file, "--to", target)
        assert (status, err) == (0, "")
        source = tmp_path / file
    again = torch.load(source)["state_dict"]
    assert again.keys() == {key for key in state if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, state[key]) for key, value in again.items())


def test_suffixes_are_those_of_the_programs(error_of, tmp_path, small):
    assert "must end in .pdparams" in error_of(
        "convert-weights", small, tmp_path / "x.pth", "--to", "paddleclas"
    )
    assert "must end in .safetensors or .pth" in error_of("convert-weights", small, tmp_path / "x.pdparams")


def test_what_the_keys_do_not_tell_is_asked_for(cli, tmp_path, error_of):
    """sithu31296's FC-HarDNet has ReLU6, under the authors' keys."""
    source, own = tmp_path / "street.pth", tmp_path / "own.safetensors"
    torch.save(official("fchardnet70"), source)
    answers = answers_of(cli, tmp_path, source)
    assert (answers["layout"], answers["activation"]) == ("official (the authors' programs)", "relu")
    assert "give --from semantic-segmentation" in answers["but"][0]
    answers = answers_of(cli, tmp_path, source, "--from", "semantic-segmentation")
    assert answers["activation"] == "relu6"
    assert answers["input"].startswith("rgb, (pixels / 255 − (0.485, 0.456, 0.406))")  # the authors': BGR
    assert answers["use"] == [
        f"hardnet-suite convert-weights {source} mine.safetensors --from semantic-segmentation"
    ]
    assert cli("convert-weights", source, own, "--from", "semantic-segmentation")[0] == 0
    network = create_model("fchardnet70", pretrained=own)
    assert network.arch.trunk.act == "relu6"
    assert network.usage.preprocess.channels == "rgb"
    assert create_model("fchardnet70", pretrained=source).usage.preprocess.channels == "bgr"
    assert create_model("fchardnet70", pretrained=source).arch == ARCHS["fchardnet70"]
    assert "has no fchardnet70" in error_of("identify", source, "--from", "pytorchcv")


def test_the_wrong_program(error_of, small):
    assert "its keys are those of pytorchcv, not of PaddleClas" in error_of(
        "identify", small, "--from", "paddleclas"
    )


def _of_autosam(trunk):
    marks = ("decoder.up1.conv1.", "decoder.final.conv1.")
    return {f"backbone.{key}": value for key, value in trunk.items()} | {
        f"{mark}weight": torch.ones(3, 2) for mark in marks
    }


def _of_nobody(trunk):
    return {f"encoder.{key}": value for key, value in trunk.items()} | {"head.weight": torch.ones(3, 2)}


@pytest.mark.parametrize(
    ("program", "said", "inside", "reason"),
    [
        ("official", "pytorchcv", dict, "those of the authors' programs, not of pytorchcv"),
        ("official", "paddleclas", dict, "those of the authors' programs, not of PaddleClas"),
        ("pytorchcv", "official", dict, "those of pytorchcv, not of the authors' programs"),
        ("official", "pytorchcv", _of_autosam, "those of the authors' programs, not of pytorchcv"),
        ("official", "pytorchcv", _of_nobody, "those of the authors' programs, not of pytorchcv"),
        ("official", "official", dict, ""),
        ("pytorchcv", "pytorchcv", dict, ""),
        ("official", "official", _of_autosam, ""),
        ("network", "pytorchcv", dict, ""),  # our keys are anybody's
    ],
)
def test_the_wrong_program_of_a_trunk(cli, error_of, tmp_path, program, said, inside, reason):
    trunk = inside(in_target("hardnet39ds", trunk_of("hardnet39ds"), program))
    torch.save(trunk, tmp_path / "trunk.pth")
    arguments = [tmp_path / "trunk.pth", tmp_path / "own.pth", "--model", "hardnet39ds", "--from", said]
    if reason:
        assert f"its keys are {reason}" in error_of("convert-weights", *arguments)
    else:
        assert cli("convert-weights", *arguments)[0] == 0
    assert (tmp_path / "own.pth").exists() == (not reason)


@pytest.mark.parametrize(
    ("name", "options", "can_predict"),
    [
        ("hardnet39ds", {"num_classes": 2}, True),
        ("hardnet39ds", {"num_classes": 1}, False),
        ("hardnet39ds", {"num_classes": 2, "in_chans": 1}, False),
        ("ssd224_hardnet29", {"num_classes": 1}, True),
        ("hardnet_descriptor", {}, False),
    ],
)
def test_predict_is_named_where_it_takes_the_file(cli, tmp_path, name, options, can_predict):
    torch.save(build_network(name, **options).state_dict(), tmp_path / "file.pth")
    uses = answers_of(cli, tmp_path, tmp_path / "file.pth")["use"]
    assert (f"hardnet-suite predict IMAGES --model {tmp_path / 'file.pth'}" in uses) == can_predict
    if can_predict:
        load_model(tmp_path / "file.pth")
    else:
        with pytest.raises(UserError, match=r"one class|input rule makes 3|describes patches"):
            load_model(tmp_path / "file.pth")


@pytest.mark.parametrize("name", ["a b.pth", "it's.pth", 'say "a".pth', "$HOME;x.pth", "plain.pth"])
def test_commands_and_calls_quote_the_files_name(cli, tmp_path, name):
    torch.save(build_network("hardnet39ds", num_classes=2).state_dict(), tmp_path / name)
    call, predict, convert = answers_of(cli, tmp_path, tmp_path / name)["use"]
    assert eval(call, {"create_model": lambda _, pretrained: pretrained}) == str(tmp_path / name)
    assert shlex.split(predict)[-1] == shlex.split(convert)[2] == str(tmp_path / name)
    assert ("'" in predict) == (name != "plain.pth")


def test_commands_and_calls_take_the_file_from_the_folder_where_they_are_shown(cli, tmp_path, monkeypatch):
    """In that folder there are another file of its name, and one of the name that it is converted to."""
    theirs, mine = (build_network("hardnet39ds", num_classes=2).state_dict() for _ in range(2))
    for folder, state in (("theirs", theirs), ("mine", mine)):
        (tmp_path / folder).mkdir()
        torch.save(state, tmp_path / folder / "a.pth")
    (tmp_path / "mine/mine.safetensors").touch()
    monkeypatch.chdir(tmp_path / "mine")
    call, predict, convert = answers_of(cli, tmp_path, "../theirs/a.pth")["use"]
    assert torch.equal(
        eval(call, {"create_model": create_model}).state_dict()["fc.weight"], theirs["fc.weight"]
    )
    assert shlex.split(predict)[-1] == "../theirs/a.pth"
    assert cli(*shlex.split(convert)[1:])[0] == 0
    assert torch.equal(open_weights("mine1.safetensors").tensors["fc.weight"], theirs["fc.weight"])


@pytest.mark.parametrize("name", ["hardnet39ds", "published", "-x.pth", "~x.pth"])
def test_a_file_whose_name_means_something_else_is_named_as_a_path(cli, tmp_path, monkeypatch, name):
    """A model, a tag, an option, the home folder of a user."""
    monkeypatch.chdir(tmp_path)
    state = build_network("hardnet39ds", num_classes=2).state_dict()
    torch.save(state, name)
    call, predict, convert = answers_of(cli, tmp_path, f"./{name}")["use"]
    assert torch.equal(
        eval(call, {"create_model": create_model}).state_dict()["fc.weight"], state["fc.weight"]
    )
    assert shlex.split(predict)[-1] == shlex.split(convert)[2] == f"./{name}"
    assert cli(*shlex.split(convert)[1:])[0] == 0


def test_a_file_of_paddle_says_nothing_of_its_writer(cli, error_of, tmp_path):
    source, target = tmp_path / "own.pth", tmp_path / "file.pdparams"
    torch.save(build_network("hardnet39ds", num_classes=2).state_dict(), source)
    assert cli("convert-weights", source, target, "--to", "paddleclas")[0] == 0
    before = target.read_bytes()
    message = error_of("convert-weights", source, target, "--to", "paddleclas")
    assert f"{target} exists, and nothing in a .pdparams says who wrote it" in message
    assert target.read_bytes() == before


SHIPPED_TINY = "hardnet39ds_tiny_imagenet10_128.safetensors"


def test_a_file_of_paddle_has_no_place_for_records(cli, error_of, tmp_path):
    """What is lost is named, and nothing is made up in its place on the way back."""
    target, back, once_more = (tmp_path / name for name in ("a.pdparams", "b.safetensors", "c.pdparams"))
    status, _, err = cli("convert-weights", SHIPPED / SHIPPED_TINY, target, "--to", "paddleclas")
    assert status == 0
    assert err == (
        f"warning: {target}: a .pdparams holds tensors alone, not the source's classes, input rule, licence; "
        "`predict` needs them again, of a config (--model CONFIG --weights FILE)\n"
    )
    assert cli("convert-weights", target, back)[::2] == (0, "")
    for path in (target, back):
        answers = answers_of(cli, tmp_path, path)
        assert (answers["source"], answers["licence"]) == ("unknown", "unknown")
        assert answers["input"].startswith("unknown: how images become inputs is not in the file")
        assert not any("predict" in use for use in answers["use"])
        with pytest.raises(UserError, match="how images become inputs is not in the file"):
            load_model(path)
        with pytest.warns(UserWarning, match="how images become inputs is not in the file"):
            create_model("hardnet39ds", pretrained=path)
    assert "origin" not in open_weights(back).metadata
    assert cli("convert-weights", back, once_more, "--to", "paddleclas")[::2] == (
        0,
        "",
    )  # nothing more is lost


def test_a_config_states_what_a_file_of_paddle_lacks(cli, tmp_path, recwarn):
    path = tmp_path / "a.pdparams"
    assert cli("convert-weights", SHIPPED / SHIPPED_TINY, path, "--to", "paddleclas")[0] == 0
    model = load_model("hardnet39ds_tiny_imagenet10_128", weights=path)
    assert model.preprocess == load_model(SHIPPED / SHIPPED_TINY).preprocess
    assert not [warning for warning in recwarn if "how images become inputs" in str(warning.message)]


@pytest.mark.parametrize(
    ("name", "target"), [("hardnet39ds", "paddleclas"), ("fchardnet70_paddleseg", "paddleseg")]
)
def test_a_file_of_paddle_of_the_published_classes(cli, tmp_path, name, target):
    """It may be the published one, but nothing says so."""
    source, file = tmp_path / "own.safetensors", tmp_path / "file.pdparams"
    state = build_network(name).state_dict()
    save_weights(state, source, metadata={"model": name})
    assert cli("convert-weights", source, file, "--to", target)[::2] == (0, "")
    answers = answers_of(cli, tmp_path, file)
    assert answers["input"].endswith("(as published)")
    assert (answers["source"], answers["licence"]) == ("unknown", "unknown")
    load_model(file)
    file.unlink()
    rule = replace(default_usage(name).preprocess, mean=(1.0, 2.0, 3.0)).to_dict()
    metadata = {"model": name, "licence": "L", "preprocess": json.dumps(rule)}
    save_weights(state, source, metadata=metadata)
    assert (
        "not the source's input rule, licence; `predict`"
        in cli("convert-weights", source, file, "--to", target)[2]
    )
    file.unlink()
    save_weights(state, source, metadata={"model": name, "input_rule": "unknown"})
    status, out, err = cli("convert-weights", source, file, "--to", target)
    assert status == 0
    assert "how images become inputs is not in the file" in out
    assert "the source's mark that its input rule is unknown; `predict`" in err
    file.unlink()
    save_weights(state, source, metadata={"model": name, "licence": "L"})
    assert cli("convert-weights", source, file, "--to", target)[2].endswith("the source's licence\n")


def test_paddleseg_of_other_classes_has_no_input_rule(cli, tmp_path):
    state = build_network("fchardnet70_paddleseg", num_classes=5).state_dict()
    for model in ("fchardnet70_paddleseg", "fchardnet70"):
        save_weights(in_target("fchardnet70_paddleseg", state, "paddleseg"), tmp_path / "a.pdparams")
        weights = open_weights(tmp_path / "a.pdparams", model)
        assert (weights.preprocess, weights.input_is_unknown) == (None, True)
        assert cli("convert-weights", tmp_path / "a.pdparams", tmp_path / "b.pth", "--model", model)[0] == 0
        again = open_weights(tmp_path / "b.pth")
        assert (again.preprocess, again.input_is_unknown) == (None, True)


@pytest.mark.parametrize("layout", ["network", "official", "pytorchcv", "paddleclas"])
def test_a_pdparams_says_as_little_in_every_layout(cli, tmp_path, layout):
    for classes, is_unknown in ((5, True), (1000, False)):
        path = tmp_path / f"{classes}.pdparams"
        state = build_network("hardnet39ds", num_classes=classes).state_dict()
        save_weights(in_target("hardnet39ds", state, layout), path)
        weights = open_weights(path)
        assert (weights.layout, weights.preprocess, weights.input_is_unknown) == (layout, None, is_unknown)
        answers = answers_of(cli, tmp_path, path)
        assert answers["input"].startswith("unknown: ") == is_unknown
        assert (answers["source"], answers["licence"].partition(";")[0]) == ("unknown", "unknown")
        assert any("predict" in use for use in answers["use"]) != is_unknown


@pytest.mark.parametrize("target", ["network", "official", "pytorchcv", "mmengine"])
def test_other_layouts_keep_what_the_source_says(cli, tmp_path, target):
    file, back = tmp_path / "file.pth", tmp_path / "back.safetensors"
    assert cli("convert-weights", SHIPPED / SHIPPED_TINY, file, "--to", target)[::2] == (0, "")
    assert cli("convert-weights", file, back)[::2] == (0, "")
    shipped = open_weights(SHIPPED / SHIPPED_TINY)
    for path in (file, back):
        weights = open_weights(path)
        assert weights.records() == shipped.records()
        assert weights.metadata["licence"] == shipped.metadata["licence"]


def test_a_converted_file_is_of_no_program(cli, tmp_path):
    """The layout is what the user asked for: it says nothing of who trained the network."""
    own, file, back = (tmp_path / name for name in ("own.pth", "file.pth", "back.pth"))
    torch.save(build_network("hardnet39ds", num_classes=2).state_dict(), own)
    assert cli("convert-weights", own, file, "--to", "pytorchcv")[0] == 0
    assert cli("convert-weights", file, back)[0] == 0
    assert "origin" not in open_weights(back).metadata
    for path in (file, back):
        answers = answers_of(cli, tmp_path, path)
        assert (answers["source"], answers["licence"]) == ("unknown", "unknown")


def test_a_program_that_metadata_does_not_have(tmp_path, error_of):
    state = build_network("hardnet39ds", num_classes=2).state_dict()
    save_weights(state, tmp_path / "file.safetensors", metadata={"computes_as": "nobody"})
    assert "computes_as, is unknown: 'nobody'" in error_of("identify", tmp_path / "file.safetensors")


def test_a_tag_that_the_registry_does_not_have(cli, tmp_path):
    state = build_network("hardnet39ds", num_classes=2).state_dict()
    save_weights(state, tmp_path / "file.safetensors", metadata={"tag": "nobody's", "licence": "L"})
    answers = answers_of(cli, tmp_path, tmp_path / "file.safetensors")
    assert answers["licence"] == "L"
    assert "weights" not in answers


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("output.fc.bias"), "not the weights of any model"),
        (lambda state: state.update(more=torch.ones(2)), "not the weights of any model"),
        (
            lambda state: state.update({"features.stage1.unit1.conv.conv.weight": torch.ones(2)}),
            "not the weights of any model",
        ),
    ],
)
def test_files_that_do_not_fit(error_of, tmp_path, small, change, reason):
    state = torch.load(small)
    change(state)
    torch.save(state, small)
    assert reason in error_of("identify", small)


def _resnet():
    return torchvision.models.resnet18().state_dict()


def _of_another_width():
    return build_network("hardnet39ds", arch=replace(ARCHS["hardnet39ds"], growth_mul=1.7)).state_dict()


def _trunk_of_another_width():
    return {key: value for key, value in _of_another_width().items() if key.startswith("trunk.")}


def _numbered():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).state_dict()


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (["model", "ema"], "the tensors under ema, not those under model"),
        (
            ["state_dict", "state_dict_ema", "ema"],
            "the tensors under state_dict_ema, not those under state_dict or ema",
        ),
        (["ema_state_dict", "state_dict"], "the tensors under state_dict, not those under ema_state_dict"),
        (["state_dict"], None),
    ],
)
def test_which_of_several_tables_is_taken(cli, tmp_path, names, answer):
    states = {name: build_network("hardnet39ds", num_classes=2).state_dict() for name in names}
    torch.save(states | {"params": {"lr": 0.1}, "epoch": 3}, tmp_path / "file.pth")
    answers = answers_of(cli, tmp_path, tmp_path / "file.pth")
    assert answers.get("taken") == answer
    taken = states[answer.split()[3].rstrip(",") if answer else names[0]]
    assert torch.equal(open_weights(tmp_path / "file.pth").tensors["fc.weight"], taken["fc.weight"])


@pytest.mark.parametrize("command", ["identify", "convert-weights"])
@pytest.mark.parametrize("make", [_resnet, _of_another_width, _trunk_of_another_width, _numbered])
@pytest.mark.parametrize("model", ["hardnet39ds", "hardnet68"])
def test_a_file_of_another_network_is_none_of_the_model_that_was_named(
    tmp_path, error_of, command, make, model
):
    torch.save(make(), tmp_path / "file.pth")
    more = [tmp_path / "own.safetensors"] if command == "convert-weights" else []
    message = error_of(command, tmp_path / "file.pth", *more, "--model", model)
    assert f"these are not the weights of {model}" in message
    assert not (tmp_path / "own.safetensors").exists()


def test_a_trunk_without_some_of_its_tensors(cli, tmp_path):
    whole = official("hardnet39ds")
    state = {key.removeprefix("base."): whole[key] for key in whole if key.startswith(("base.0.", "base.1."))}
    torch.save(state, tmp_path / "file.pth")
    answers = answers_of(cli, tmp_path, tmp_path / "file.pth", "--model", "hardnet39ds")
    assert re.match(r"the trunk, without \d{3} of its tensors: trunk\.", answers["part"])


@pytest.mark.parametrize("command", ["identify", "convert-weights"])
@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        ("fc.weight", lambda value: value.to(torch.int8), "fc.weight is torch.int8): quantised"),
        ("fc.bias", lambda value: value.to(torch.int32), "fc.bias is torch.int32): quantised"),
        ("fc.bias", lambda value: value.fill_(float("nan")), "1 weight holds NaN or infinity, fc.bias"),
        ("trunk.stem.0.conv.weight", lambda value: value.fill_(float("inf")), "NaN or infinity"),
        ("fc.bias", lambda value: value.double() + 1e300, "float32 cannot: fc.bias up to 1e+300"),
        (
            "trunk.stem.0.conv.weight",
            lambda value: value.double() + 1e39,
            "float32 cannot: trunk.stem.0.conv",
        ),
        ("trunk.stem.1.norm.running_var", lambda value: value - 10, "negative variance, trunk.stem.1.norm"),
    ],
)
@pytest.mark.parametrize("part", ["whole", "trunk"])
def test_numbers_that_no_network_has(tmp_path, error_of, command, key, change, reason, part):
    state = build_network("hardnet39ds", num_classes=3).state_dict()
    state[key] = change(state[key])
    if part == "trunk":
        if not key.startswith("trunk."):
            pytest.skip("not in the trunk")
        state = {key: value for key, value in state.items() if key.startswith("trunk.")}
    torch.save(state, tmp_path / "file.pth")
    more = [tmp_path / "own.safetensors"] if command == "convert-weights" else []
    message = error_of(command, tmp_path / "file.pth", *more, "--model", "hardnet39ds")
    assert reason in message
    assert str(tmp_path / "file.pth") in message
    assert not (tmp_path / "own.safetensors").exists()


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A classifier with ReLU as an ONNX graph, and the graph of its trunk."""
    network = build_network(
        "hardnet39ds", num_classes=2, arch=replace(ARCHS["hardnet39ds"], act="relu")
    ).eval()
    folder = tmp_path_factory.mktemp("graphs")
    for name, module in (("whole.onnx", network), ("trunk.onnx", network.trunk)):
        example = (torch.rand(1, 3, 64, 64),)
        torch.onnx.export(module, example, folder / name, dynamo=True, external_data=False, verbose=False)
    return folder


@pytest.mark.parametrize("command", ["identify", "convert-weights"])
@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("whole.onnx", "hardnet68"),
        ("whole.onnx", "fchardnet70"),
        ("trunk.onnx", "hardnet39ds"),
        ("trunk.onnx", None),
    ],
)
def test_graphs_that_are_not_the_whole_network(tmp_path, error_of, graph, command, name, model):
    more = [tmp_path / "own.safetensors"] if command == "convert-weights" else []
    more += ["--model", model] if model else []
    message = error_of(command, graph / name, *more)
    assert f"these are not the weights of {model or 'any model of this suite'}" in message
    assert not (tmp_path / "own.safetensors").exists()


def test_a_graph_where_weights_are_expected_names_the_command_that_reads_it(graph, error_of, tmp_path):
    with pytest.raises(UserError, match="convert-weights reads a classifier's weights out of other graphs"):
        create_model("hardnet39ds", pretrained=graph / "whole.onnx")


def test_the_commands_for_a_trunk_in_an_unknown_network_keep_its_head_out(cli, tmp_path, monkeypatch):
    state = {f"encoder.{key}": value for key, value in official("hardnet39ds", num_classes=2).items()}
    torch.save(state | {"dec.conv.weight": torch.ones(2, 3, 1, 1)}, tmp_path / "unet.pth")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="left out are"):
        answers = answers_of(cli, tmp_path, "unet.pth")
    assert answers["part"] == "the trunk of a larger network"
    assert answers["use"][1] == "hardnet-suite convert-weights unet.pth trunk.safetensors"
    assert cli(*answers["use"][1].split()[1:])[0] == 0
    assert answers_of(cli, tmp_path, "trunk.safetensors")["part"] == "the trunk"
    with pytest.raises(UserError, match="only its trunk"):
        open_weights("trunk.safetensors").require_whole()
    with pytest.warns(UserWarning, match="nothing has trained its own last layer"):
        create_model("hardnet39ds", pretrained="unet.pth")


@pytest.mark.parametrize("program", ["official", "network", "paddleclas"])
@pytest.mark.parametrize("command", ["identify", "convert-weights"])
def test_a_file_that_says_its_program_is_read_as_no_other(cli, tmp_path, small, error_of, command, program):
    own = tmp_path / "own.safetensors"
    assert cli("convert-weights", small, own)[0] == 0
    more = [tmp_path / "wrong.safetensors"] if command == "convert-weights" else []
    message = error_of(command, own, *more, "--from", program)
    assert f"its metadata says that it computes as 'pytorchcv', not as '{program}'" in message
    assert cli("identify", own, "--from", "pytorchcv")[0] == 0


def test_the_licence_of_a_program_is_that_of_its_own_authors(cli, tmp_path):
    torch.save(
        in_target("hardnet_mseg", build_network("hardnet_mseg").state_dict(), "official"), tmp_path / "a.pth"
    )
    assert (
        answers_of(cli, tmp_path, tmp_path / "a.pth")["licence"]
        == "unknown; that of the program is Apache-2.0"
    )


@pytest.mark.parametrize("classes", [7, 1000])
def test_what_a_name_says_needs_the_published_number_of_classes(cli, tmp_path, classes):
    path = tmp_path / find("hardnet68", "paddleclas").file
    state = in_target("hardnet68", build_network("hardnet68", num_classes=classes).state_dict(), "paddleclas")
    save_weights(state, path, half=False)
    answers = answers_of(cli, tmp_path, path)
    if classes == 7:
        assert (answers["source"], answers["licence"]) == ("unknown", "unknown")
        assert answers["input"].startswith("unknown: ")
        assert "weights" not in answers
    else:
        assert answers["licence"] == "Apache-2.0"
        assert answers["weights"].endswith("(by the file's name: no hash of it is known)")


@pytest.mark.parametrize("dropped", ["4.", "12."])
def test_a_trunk_with_a_hole_is_recommended_to_no_network(cli, tmp_path, dropped):
    whole = official("hardnet68")
    state = {
        key.removeprefix("base."): value
        for key, value in whole.items()
        if not key.startswith(f"base.{dropped}")
    }
    state = {key: value for key, value in state.items() if not key.startswith("16.")}
    torch.save(state, tmp_path / "file.pth")
    answers = answers_of(cli, tmp_path, tmp_path / "file.pth", "--model", "hardnet68")
    assert not [use for use in answers["use"] if use.startswith("create_model")]
    assert "the trunk, without" in answers["part"]
    _, out, _ = cli("convert-weights", tmp_path / "file.pth", tmp_path / "own.pth", "--model", "hardnet68")
    assert "tensors of the trunk: trunk." in out


@pytest.mark.parametrize(
    ("name", "said", "count"),
    [("fchardnet70", {}, 1), ("fchardnet70", {"model": "fchardnet70_stride2"}, 0), ("fchardnet68", {}, 0)],
)
def test_predict_names_the_models_with_the_same_keys(tmp_path, name, said, count):
    path = tmp_path / "twin.pth"
    torch.save({"state_dict": build_network(name, num_classes=3).state_dict(), "meta": said}, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_model(path)
        load_model(said.get("model", name), weights=path)  # named: no doubt
    told = [str(each.message) for each in caught if "keys are also those" in str(each.message)]
    assert len(told) == count
    twins = "fchardnet70_stride2 and fchardnet70_paddleseg, which compute otherwise"
    assert all(twins in line for line in told)


@pytest.mark.parametrize(("classes", "status"), [(1000, 0), (5, 1)])
@pytest.mark.parametrize("folder", ["cache", "own"])
def test_a_file_of_other_classes_is_not_that_of_a_row(
    cli, cache, tmp_path, monkeypatch, classes, status, folder
):
    """No hash of it is known: its name is all that says whose it is."""
    row = find("hardnet39ds", "paddleclas")
    if folder == "own":
        monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    path = (cache if folder == "cache" else tmp_path) / row.file
    state = build_network("hardnet39ds", num_classes=classes).state_dict()
    save_weights(in_target("hardnet39ds", state, "paddleclas"), path)
    found, out, _ = cli("models", "hardnet39ds", "--verify")
    assert found == status
    reason = "it has 5 classes, the paddleclas weights have 1000"
    assert (f"{path}: a wrong file: {reason}" in out) == (status == 1)
    monkeypatch.setattr(
        download, "unknown_hosts", lambda urls, wait: dict.fromkeys(map(download.host_of, urls), "no network")
    )
    if status:
        with pytest.raises(UserError, match=reason):
            create_model("hardnet39ds", pretrained="paddleclas")
    else:
        assert create_model("hardnet39ds", pretrained="paddleclas").num_classes == classes


def test_models_with_the_same_keys_are_named(cli, tmp_path):
    torch.save(build_network("fchardnet70_stride2").state_dict(), tmp_path / "file.pth")
    answers = answers_of(cli, tmp_path, tmp_path / "file.pth")
    assert answers["model"] == "fchardnet70"
    assert "the keys are also those of fchardnet70_stride2 and fchardnet70_paddleseg" in answers["but"][0]
    answers = answers_of(cli, tmp_path, tmp_path / "file.pth", "--model", "fchardnet70_stride2")
    assert (answers["model"], answers["stem stride"]) == ("fchardnet70_stride2", 2)
    assert not [line for line in answers.get("but", []) if "stride2" in line]


@pytest.mark.parametrize("kind", ["sha256_prefix", "git_blob", "sha1"])
def test_a_published_file_is_told_by_any_of_its_hashes(cli, tmp_path, small, monkeypatch, kind):
    data = small.read_bytes()
    blob = b"blob %d\0" % len(data) + data
    hashes = {
        "sha256_prefix": hashlib.sha256(data).hexdigest()[:8],
        "git_blob": hashlib.sha1(blob).hexdigest(),
        "sha1": hashlib.sha1(data).hexdigest(),
    }
    for value, told in ((hashes[kind], True), ("0" * 40, False)):
        address = Address("https://host/another.pth", **{kind: value})
        row = replace(find("hardnet68"), urls=(address,), tag="published", licence="L", metric="top-1 1.0")
        for module in (registry, weights_room):
            monkeypatch.setattr(module, "ROWS", (row,), raising=False)
        answers = answers_of(cli, tmp_path, small)
        assert (answers["licence"] == "L") == told
        assert answers.get("weights") == ("tag published: top-1 1.0" if told else None)


def test_weights_of_the_package(cli, tmp_path):
    row = find("hardnet39ds", "tiny_imagenet10")
    path = tmp_path / row.shipped
    path.write_bytes((SHIPPED / row.shipped).read_bytes())
    answers = answers_of(cli, tmp_path, path)
    assert answers["source"] == row.source
    assert "non-commercial research" in answers["licence"]
    assert answers["classes"] == 10


def test_verify_says_what_each_file_is(cli, cache):
    status, out, err = cli("models", "--verify")
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == len(ROWS)
    for row in ROWS:
        (line,) = (line for line in out.splitlines() if line.startswith(f"{row.model} {row.tag}: "))
        assert "as the registry has it (sha256)" in line if row.shipped else "not on this machine" in line
        assert row.pinned or f"no hash is known: {row.no_hash}" in line


def test_verify_of_files_in_the_cache(cli, cache, monkeypatch):
    state = in_target("hardnet39ds", build_network("hardnet39ds").state_dict(), "pytorchcv")
    inside = cache.parent / "inside.pth"
    torch.save(state, inside)
    name, sha1 = "ds-0881.pth.zip", hashlib.sha1(inside.read_bytes()).hexdigest()
    with zipfile.ZipFile(cache / name, "w") as archive:
        archive.write(inside, "ds.pth")
    pinned = replace(
        find("hardnet39ds", "pytorchcv"), urls=(Address(f"https://host/{name}", sha1=sha1),), tag="zip"
    )
    blob = replace(pinned, urls=(Address(f"https://host/{name}", git_blob="0" * 40),), tag="blob")
    other = replace(pinned, urls=(Address(f"https://host/{name}", sha1="0" * 40),), tag="other")
    unpinned = replace(pinned, urls=(Address(f"https://host/{name}"),), tag="none", no_hash="nobody has one")
    another = replace(unpinned, model="hardnet68", tag="another")
    monkeypatch.setattr(registry, "ROWS", (pinned, unpinned))
    status, out, _ = cli("models", "--verify")
    path = cache / name
    assert status == 0
    weights = open_weights(pinned)
    assert (weights.form, weights.model) == ("pytorchcv", "hardnet39ds")
    assert out.splitlines() == [
        f"hardnet39ds zip: {path}: as the registry has it (sha1)",
        f"hardnet39ds none: {path}: weights of hardnet39ds; no hash is known: nobody has one",
    ]
    monkeypatch.setattr(registry, "ROWS", (blob, other, another))
    status, out, _ = cli("models", "--verify")
    assert status == 1
    lines = out.splitlines()
    assert f"hardnet39ds blob: {path}: wrong contents: git blob sha1 begins" in lines[0]
    assert f"hardnet39ds other: {path}: wrong contents: sha1 begins {sha1[:16]}, not 0000" in lines[1]
    assert f"hardnet68 another: {path}: a wrong file: these are not the weights of hardnet68" in lines[2]
    (cache / name).write_bytes(b"")
    assert "an empty file" in cli("models", "--verify")[1]


def test_a_descriptor_under_names_that_are_ours_and_the_authors(cli, tmp_path):
    torch.save(build_network("hardnet_descriptor").state_dict(), tmp_path / "file.pth")
    answers = answers_of(cli, tmp_path, tmp_path / "file.pth")
    assert answers["model"] == "hardnet_descriptor"
    assert answers["layout"] == "network (this suite), also official (the authors' programs)"
    assert answers["source"] == "unknown"
    assert not {"activation", "classes"} & answers.keys()


def test_a_trunk_inside_another_network(cli, tmp_path):
    trunk = {key: value for key, value in official("hardnet85").items() if ".19.3." not in key}
    state = {f"backbone.{key}": value for key, value in trunk.items()}
    marks = ("decoder.up1.conv1.weight", "decoder.final.conv1.weight")
    torch.save(state | dict.fromkeys(marks, torch.ones(2)), tmp_path / "sam.pth")
    answers = answers_of(cli, tmp_path, tmp_path / "sam.pth")
    assert answers["model"] == "hardnet85"
    assert answers["part"] == "the trunk of a U-Net or prompt encoder of AutoSAM"
    assert answers["beside it"] == "2 tensors of decoder"
    assert answers["source"] == "https://github.com/talshaharabany/AutoSAM"
    path = tmp_path / "sam.pth"
    assert answers["use"][0] == f'create_model("hardnet85", features_only=True, pretrained="{path}")'
    status, out, _ = cli("convert-weights", tmp_path / "sam.pth", tmp_path / "trunk.safetensors")
    assert status == 0
    assert "tensors of hardnet85 (a part of it)" in out
    create_model("hardnet85", features_only=True, pretrained=tmp_path / "trunk.safetensors")
    answers = answers_of(cli, tmp_path, tmp_path / "trunk.safetensors")  # it says whose it is
    assert (answers["model"], answers["part"]) == ("hardnet85", "the trunk")
    assert answers["source"] == "https://github.com/talshaharabany/AutoSAM"


@pytest.mark.parametrize(
    ("name", "layout", "program", "source"),
    [
        ("hardnet68", "pytorchcv", "pytorchcv", "https://github.com/osmr/pytorchcv"),
        ("hardnet39ds", "official", "the authors' programs", "unknown"),
        ("fchardnet70", "mmseg", "mmsegmentation, with this suite's models", "unknown"),
        ("hardnet68ds", "network", "this suite", "unknown"),
        ("centernet_hardnet85", "paddledetection", "PaddleDetection", "unknown"),
    ],
)
def test_the_layout_and_the_program_of_a_trunk_alone(cli, tmp_path, name, layout, program, source):
    suffix = ".pdparams" if layout.startswith("paddle") else ".pth"
    path, own = tmp_path / f"file{suffix}", tmp_path / "own.safetensors"
    save_weights(in_target(name, trunk_of(name), layout), path, half=False)
    answers = answers_of(cli, tmp_path, path, "--model", name)
    assert (answers["part"], answers["layout"]) == ("the trunk", f"{layout} ({program})")
    assert answers["source"] == source
    status, out, _ = cli("convert-weights", path, own, "--model", name)
    assert (status, f"{name} (a part of it), {layout} to network" in out) == (0, True)
    assert answers_of(cli, tmp_path, own)["source"] == source
    assert open_weights(own).metadata.get("origin", "unknown") == source
    assert open_weights(own).arch == open_weights(path, name).arch


def test_a_trunk_under_keys_that_do_not_tell_its_program(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(in_target("fchardnet70", trunk_of("fchardnet70"), "official"), "street.pth")
    answers = answers_of(cli, tmp_path, "street.pth", "--model", "fchardnet70")
    assert "give --from semantic-segmentation" in answers["but"][0]
    more = ("--model", "fchardnet70", "--from", "semantic-segmentation")
    answers = answers_of(cli, tmp_path, "street.pth", *more)
    assert answers["layout"] == "semantic-segmentation (sithu31296/semantic-segmentation)"
    (use,) = answers["use"]  # create_model would take it for the authors'
    assert cli(*shlex.split(use)[1:])[0] == 0
    weights = open_weights("trunk.safetensors")
    assert (weights.arch.trunk.act, weights.metadata["computes_as"]) == ("relu6", "semantic-segmentation")


@pytest.mark.parametrize("name", ["mine.safetensors", "trunk.safetensors", "mine1.safetensors"])
@pytest.mark.parametrize("part", ["whole", "trunk"])
def test_the_command_of_identify_writes_to_a_new_name(cli, tmp_path, monkeypatch, name, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(b"of somebody")
    state = trunk_of("hardnet39ds") if part == "trunk" else build_network("hardnet39ds").state_dict()
    save_weights(state, name, metadata={"model": "hardnet39ds"}, half=False)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    convert = answers_of(cli, tmp_path, name)["use"][-1]
    assert cli(*shlex.split(convert)[1:])[0] == 0
    assert all(path.read_bytes() == content for path, content in before.items())


UNUSED = ("ra4_conv1.conv.weight", "conv6.conv.weight", "hardnet.base.16.3.weight", "hardnet.base.16.3.bias")


@pytest.mark.parametrize("outer", ["", "module.", "net."])
def test_what_a_program_never_uses_is_named_and_dropped(cli, tmp_path, outer):
    state = official("hardnet_mseg") | dict.fromkeys(UNUSED, torch.ones(2, 2))
    torch.save({f"{outer}{key}": value for key, value in state.items()}, tmp_path / "file.pth")
    answers = answers_of(cli, tmp_path, tmp_path / "file.pth")
    assert (answers["model"], answers["part"]) == ("hardnet_mseg", "the whole network")
    assert answers["never used"] == f"4 tensors: {', '.join(UNUSED)}"
    status, out, _ = cli("convert-weights", tmp_path / "file.pth", tmp_path / "own.safetensors")
    assert status == 0
    assert f"dropped: 4 tensors never used by its program: {', '.join(UNUSED)}\n" in out
    assert "strict=False" not in out
    answers = answers_of(cli, tmp_path, tmp_path / "own.safetensors")
    assert "never used" not in answers
    status, out, _ = cli(
        "convert-weights", tmp_path / "own.safetensors", tmp_path / "back.pth", "--to", "official"
    )
    assert (status, "dropped" in out) == (0, False)
    assert "which the file will lack (ra4_conv1.*, ra4_conv2.*," in out
    assert "load it with strict=False" in out
    report = fill(build_network("hardnet_mseg"), open_weights(tmp_path / "file.pth"))
    assert report.unexpected == UNUSED


@pytest.mark.parametrize(
    ("prefix", "start", "marks"),
    [
        ("backbone.", "base.", ("decoder.up1.conv1.weight", "decoder.final.conv1.weight")),  # of AutoSAM
        ("hardnet.", "base.", ("rfb2_1.a.weight", "rfb3_1.a.weight", "rfb4_1.a.weight", "agg1.a.weight")),
        ("encoder.", "base.", ("decoder.conv.weight",)),
        ("encoder.", "", ("decoder.conv.weight",)),
    ],
)
def test_the_unread_classifier_of_a_trunk_in_another_network_is_named(cli, tmp_path, prefix, start, marks):
    state = {prefix + key.replace("base.", start): value for key, value in official("hardnet39ds").items()}
    torch.save(state | dict.fromkeys(marks, torch.ones(2, 2)), tmp_path / "file.pth")
    last = [key for key in state if state[key].shape[:1] == (1000,)]
    assert len(last) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = answers_of(cli, tmp_path, tmp_path / "file.pth")
    assert answers["never used"] == f"2 tensors: {', '.join(last)}"
    status, out, _ = cli("convert-weights", tmp_path / "file.pth", tmp_path / "own.safetensors")
    assert status == 0
    dropped = f"dropped: {len(marks) + 2} tensors not of the trunk: "
    assert dropped + ", ".join([*marks, *last][:4]) in out
    assert open_weights(tmp_path / "own.safetensors").tensors.keys() == trunk_of("hardnet39ds").keys()


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_what_is_beside_a_numbered_trunk_is_named(cli, tmp_path, prefix):
    state = {key.removeprefix("base."): value for key, value in official("hardnet39ds").items()}
    more = {"99.weight": torch.ones(2)}
    torch.save({prefix + key: value for key, value in (state | more).items()}, tmp_path / "file.pth")
    command = (
        "convert-weights",
        tmp_path / "file.pth",
        tmp_path / "own.safetensors",
        "--model",
        "hardnet39ds",
    )
    status, out, _ = cli(*command)
    assert status == 0
    assert f"dropped: 1 tensor not of the trunk: {prefix}99.weight" in out


@pytest.mark.parametrize("outer", ["", "detector."])
def test_the_calls_that_identify_names_take_the_file(cli, tmp_path, monkeypatch, outer):
    """The trunk of FairMOT ends before the last convolution that a trunk of ours has."""
    state = in_target("centernet_hardnet85", trunk_of("centernet_hardnet85"), "paddledetection")
    state = {f"{outer}backbone.{key}": value for key, value in state.items()}
    beside = (f"{outer}neck.last_proj.conv.weight", f"{outer}neck.denseBlocksUp.0.weight", "reid.fc.weight")
    save_weights(state | dict.fromkeys(beside, torch.ones(2, 2)), tmp_path / "mot.pdparams", half=False)
    monkeypatch.chdir(tmp_path)
    assert cli("convert-weights", "mot.pdparams", "trunk.safetensors")[0] == 0
    for name in ("mot.pdparams", "trunk.safetensors"):
        answers = answers_of(cli, tmp_path, name)
        assert (answers["model"], answers["activation"]) == ("centernet_hardnet85", "relu6")
        call = answers["use"][0]
        assert call == f'create_model("centernet_hardnet85", features_only="block", pretrained="{name}")'
        network = eval(call, {"create_model": create_model})
        assert network.arch.pool == "average_inside"
        stem = next(value for key, value in state.items() if key.endswith("base.0.conv.weight"))
        assert torch.equal(network.state_dict()["stem.0.conv.weight"], stem)


def test_the_graph_of_a_model_zoo(cli, tmp_path, monkeypatch):
    """A graph that the suite's own exporter writes holds the weights as others do."""
    network = build_network("hardnet39ds", num_classes=3).eval()
    path = tmp_path / "zoo.onnx"
    torch.onnx.export(
        network, (torch.rand(1, 3, 64, 64),), path, dynamo=True, external_data=False, verbose=False
    )
    answers = answers_of(cli, tmp_path, path)
    assert (answers["model"], answers["classes"], answers["activation"]) == ("hardnet39ds", 3, "relu6")
    assert "their statistics are lost" in answers["but"][0]
    assert "weights" not in answers
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    row = find("hardnet39ds", "stm32ai")
    pinned = replace(row, urls=(replace(row.urls[0], sha256_prefix=sha256),))
    for module in (registry, weights_room):
        monkeypatch.setattr(module, "ROWS", (pinned,))
    answers = answers_of(cli, tmp_path, path)
    assert answers["weights"] == "tag stm32ai: ImageNet top-1 74.38"
    assert (answers["source"], answers["licence"]) == (row.source, "Apache-2.0")
    status, out, _ = cli("convert-weights", path, tmp_path / "own.safetensors")
    assert status == 0
    assert open_weights(tmp_path / "own.safetensors").metadata["tag"] == "stm32ai"
    again = tmp_path / "again.pth"
    assert cli("convert-weights", tmp_path / "own.safetensors", again, "--to", "official")[0] == 0
    for file in (tmp_path / "own.safetensors", again):  # the rule of the published weights is not the graph's
        answers = answers_of(cli, tmp_path, file)
        assert answers["input"].startswith("unknown: how images become inputs is not in the file")
        assert not any("predict" in use for use in answers["use"])
        with pytest.raises(UserError, match=f"{file.name}: how images become inputs is not in the file"):
            load_model(file)
        with pytest.warns(UserWarning, match=r"until network\.usage = .* the rule of the published weights"):
            create_model("hardnet39ds", pretrained=file)
    assert "batch norms are folded into convolutions" in out
    converted = create_model("hardnet39ds", pretrained=tmp_path / "own.safetensors").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(converted(images), network(images), rtol=1e-4, atol=1e-4)


CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An exported classifier with an input rule and classes of its own: the file, and the network."""
    path = tmp_path_factory.mktemp("exported") / "e.onnx"
    network = create_model("hardnet39ds", num_classes=3).eval()
    rule = replace(network.usage.preprocess, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), scale=1.0, size=64)
    network.usage = replace(network.usage, preprocess=rule, classes=CLASSES)
    return export(network, path, size=64), network


def test_an_exported_graph_says_its_rules_and_classes(cli, tmp_path, exported):
    (path, network), target = exported, tmp_path / "own.safetensors"
    answers = answers_of(cli, tmp_path, path)
    assert answers["input"] == "rgb, (pixels − (1, 2, 3)) / (4, 5, 6)"
    assert answers["use"][0] == f"hardnet-suite predict IMAGES --model {path}"
    status, out, _ = cli("convert-weights", path, target)
    assert (status, "how images become inputs" in out) == (0, False)
    weights = open_weights(target)
    assert (weights.preprocess, weights.classes) == (network.usage.preprocess, CLASSES)
    assert answers_of(cli, tmp_path, target)["input"] == answers["input"]
    image = np.random.default_rng(0).integers(0, 256, (80, 70, 3), np.uint8)
    (theirs,), (ours,) = (predict(str(file), [image]) for file in (path, target))
    assert ours.names == theirs.names
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "{}", "the metadata of an exported file are damaged"),
        (lambda text: text.replace('"scale": 1.0', '"scale": "x"'), "the metadata of an exported file are"),
        (
            lambda text: text.replace('"name": "hardnet39ds"', '"name": "hardnet68ds"'),
            "of another network, a",
        ),
        (lambda text: text.replace('"act": "relu6"', '"act": "relu"'), "of another network, a hardnet39ds"),
    ],
)
def test_a_record_that_is_damaged_or_of_another_network_is_not_used(cli, tmp_path, exported, change, message):
    path, target = tmp_path / "e.onnx", tmp_path / "own.safetensors"
    import onnx

    graph = onnx.load(exported[0])
    (entry,) = (entry for entry in graph.metadata_props if entry.key == "hardnet_suite")
    values = json.loads(entry.value)
    del values["sha256"]  # so that a change counts as meant
    text = json.dumps(values)
    entry.value = change(text)
    assert entry.value != text
    onnx.save(graph, path)
    answers = answers_of(cli, tmp_path, path)
    assert answers["input"].startswith("unknown: ")
    assert message in answers["but"][-1]
    assert not any("predict" in use for use in answers["use"])
    status, out, _ = cli("convert-weights", path, target)
    assert (status, message in out) == (0, True)
    assert open_weights(target).input_is_unknown


def test_an_exported_graph_whose_weights_cannot_be_read_is_for_predict(cli, tmp_path):
    network = create_model("hardnet39ds", num_classes=3).eval()
    export(network, tmp_path / "e.onnx", size=64, preprocess=True)
    for command in (["identify", "e.onnx"], ["convert-weights", "e.onnx", "own.safetensors"]):
        paths = [tmp_path / name if "." in name else name for name in command]
        status, _, err = cli(*paths)
        assert (status, "it is an exported hardnet39ds, which predict takes as it is" in err) == (2, True)


def test_a_graph_with_another_activation_has_no_use(cli, tmp_path):
    """It loads nowhere: a converted file could not say what its blocks compute."""
    network = create_model("hardnet39ds", num_classes=3, arch=replace(ARCHS["hardnet39ds"], act="relu"))
    path = tmp_path / "relu.onnx"
    example = (torch.rand(1, 3, 64, 64),)
    torch.onnx.export(network.eval(), example, path, dynamo=True, external_data=False, verbose=False)
    answers = answers_of(cli, tmp_path, path)
    assert answers["activation"] == "relu"
    (use,) = answers["use"]
    assert use.startswith("none: ")
    assert use.endswith("which a converted file could not say")
    status, _, err = cli("convert-weights", path, tmp_path / "own.safetensors")
    assert (status, use.removeprefix("none: ") in err) == (2, True)
    assert not (tmp_path / "own.safetensors").exists()
