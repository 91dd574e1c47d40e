"""``models`` and ``convert-weights``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import pytest
import safetensors
import torch

from hardnet_suite import create_model
from hardnet_suite.data.report import counted
from hardnet_suite.networks import build_network, default_usage, list_models
from hardnet_suite.weights import (
    ROWS,
    fetch,
    find,
    open_weights,
    read_checkpoint,
    save_weights,
    state_dict_of,
    to_official,
)
from hardnet_suite.weights.convert import alike, in_target, openmm_target


def test_models_lists_all_with_where_their_weights_are(cli, cache):
    (cache / find("hardnet85").file).touch()
    status, out, err = cli("models")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    names = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert names == list_models()
    assert len(lines) == 1 + len(ROWS) + len({*names} - {row.model for row in ROWS})
    (line,) = (line for line in lines if line.startswith("hardnet85"))
    assert "36.67 M" in line
    assert "9.07 G" in line
    assert str(cache / "hardnet85-a28faa00.pth") in line
    assert "in the package" in out
    assert "to download" in out
    _, out, _ = cli("models", "fchardnet")
    names = {line.split()[0] for line in out.splitlines()[1:] if line[0] != " "}
    sizes = ("68", "70", "70_detail", "70_paddleseg", "70_stride2", "70a", "76", "84")
    assert names == {f"fchardnet{size}" for size in sizes}


def test_models_of_no_such_name(error_of):
    assert "no model whose name contains 'vgg'" in error_of("models", "vgg")


def wrapped(state, how):
    if how == "plain":
        return state
    if how == "state_dict":
        return {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}
    return {"best_iou": 0.5, "model_state": state}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        # these have the tensors of fchardnet70
        *((name, "plain") for name in list_models() if name not in alike("fchardnet70")[1:]),
        ("hardnet39ds", "state_dict"),
        ("hardnet_descriptor", "state_dict"),
        ("fchardnet70", "model_state"),
    ],
)
def test_there_and_back_is_exact(cli, tmp_path, name, how):
    official = to_official(name, create_model(name).state_dict())
    source = tmp_path / "official.pth"
    torch.save(wrapped(official, how), source)
    # the descriptor is part of no OpenMMLab model
    target = "network" if "_descriptor" in name else openmm_target(name)
    steps = [source, *(tmp_path / name for name in ("own.safetensors", "open.pth", "again.pth"))]
    for before, after, form in zip(steps, steps[1:], ("network", target, "official"), strict=False):
        status, out, err = cli("convert-weights", before, after, "--to", form)
        assert (status, err) == (0, "")
        assert f"{len(official)} tensors of {name}" in out
    again = state_dict_of(read_checkpoint(steps[-1]))
    assert again.keys() == official.keys()
    assert all(torch.equal(value, official[key]) for key, value in again.items())
    create_model(name, pretrained=steps[1])


def test_what_the_file_says_of_itself(cli, tmp_path):
    torch.save(
        to_official("hardnet39ds", create_model("hardnet39ds").state_dict()),
        tmp_path / "hardnet39ds-0e6c6fa9.pth",
    )
    source, target = tmp_path / "hardnet39ds-0e6c6fa9.pth", tmp_path / "new/own.safetensors"
    status, out, _ = cli("convert-weights", source, target, "--half")
    assert status == 0
    with safetensors.safe_open(target, "pt") as file:
        metadata = file.metadata()
        assert f"{counted(len(file.keys()), 'tensor')} of hardnet39ds" in out  # counters are not written
    assert metadata["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert metadata["source"] == source.name
    assert (metadata["model"], metadata["form"], metadata["num_classes"]) == (
        "hardnet39ds",
        "network",
        "1000",
    )
    assert metadata["licence"].startswith("MIT by the file's name, though its SHA-256 is not the published")
    assert "tag" not in metadata
    assert target.stat().st_size < 0.6 * source.stat().st_size


def metadata_of(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


def test_where_a_file_comes_from_is_kept(cli, tmp_path):
    shipped = fetch(find("fchardnet70", "camvid"))
    steps = [shipped, tmp_path / "a.safetensors", tmp_path / "b.pth", tmp_path / "c.safetensors"]
    for before, after, form in zip(steps, steps[1:], ("network", "official", "network"), strict=False):
        assert cli("convert-weights", before, after, "--to", form)[0] == 0
    for path in steps[1::2]:
        metadata = metadata_of(path)
        assert metadata["licence"] == metadata_of(shipped)["licence"]
        assert metadata["trained_on"].startswith("CamVid")
        assert metadata["tag"] == "camvid"
        assert json.loads(metadata["classes"])[-1] == "Bicyclist"
    official = to_official("ssd512_hardnet68", create_model("ssd512_hardnet68").state_dict())
    for name, licence in (("SSD512_HarDNet68_COCO.pth", "MIT"), ("mine.pth", "unknown")):
        torch.save(official, tmp_path / name)
        assert cli("convert-weights", tmp_path / name, tmp_path / "own.safetensors")[0] == 0
        assert metadata_of(tmp_path / "own.safetensors")["licence"] == licence


RULES = {  # what a run changes: in the input rule, in the output rule
    "hardnet39ds": ({"size": 160, "resize_to": 180}, {}),
    "ssd224_hardnet29": ({"size": (96, 160)}, {"score_threshold": 0.25, "max_boxes": 7}),
    "centernet_hardnet68": ({"resize": "factor", "factor": (0.5, 0.75)}, {"flip": True, "max_boxes": 9}),
    "fchardnet70": ({"input_divisor": 32}, {"window": (64, 96), "stride": (40, 48)}),
}


@pytest.mark.parametrize("name", RULES)
def test_the_records_of_a_run_survive_the_conversion(cli, tmp_path, name):
    usual = default_usage(name)
    preprocess, postprocess = (
        replace(rule, **changes)
        for rule, changes in zip((usual.preprocess, usual.postprocess), RULES[name], strict=True)
    )
    preprocess = replace(preprocess, mean=(0.25, 0.5, 0.75), std=(1.5, 2.5, 3.5))
    classes, palette = ("cat", "zwölf", "a, b"), ((1, 2, 3), (255, 0, 7), (9, 8, 0))
    state = create_model(name, num_classes=3).state_dict()
    run = {
        "meta": {
            "epoch": 3,
            "model": name,
            "dataset_meta": {"classes": classes, "palette": [*map(list, palette)]},
            "preprocess": preprocess.to_dict(),
            "postprocess": postprocess.to_dict(),
        },
        "state_dict": in_target(name, state, openmm_target(name)),
        "optimizer": {"state": {}, "param_groups": []},
    }
    steps = [tmp_path / file for file in ("epoch_3.pth", "small.safetensors", "again.pth")]
    torch.save(run, steps[0])
    for before, after in pairwise(steps):
        status, _, err = cli("convert-weights", before, after)
        assert (status, err) == (0, "")
    for path in steps:
        weights = open_weights(path)
        assert (weights.model, weights.num_classes, weights.in_chans) == (name, 3, 3)
        assert (weights.classes, weights.palette) == (classes, palette)
        assert (weights.preprocess, weights.postprocess) == (preprocess, postprocess)
        assert weights.tensors.keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in weights.tensors.items())


@pytest.mark.parametrize("command", ["identify", "convert-weights"])
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("centernet_hardnet85", "paddledetection"),
        ("fchardnet70", "network"),
    ],
)
def test_a_trunk_alone_without_a_name_is_called_one(error_of, tmp_path, command, name, layout):
    state = {
        key: value for key, value in build_network(name).state_dict().items() if key.startswith("trunk.")
    }
    source = tmp_path / ("a.pdparams" if layout.startswith("paddle") else "a.pth")
    save_weights(in_target(name, state, layout), source, half=False)
    more = [tmp_path / "own.safetensors"] if command == "convert-weights" else []
    message = error_of(command, source, *more)
    assert (
        f"these are not the weights of any model of this suite (a trunk alone, as that of {name}" in message
    )
    assert message.endswith("; for a file of a trunk alone give its --model\n")
    assert "--model" not in error_of(command, source, *more, "--model", "fchardnet84")


def test_a_bare_trunk_needs_its_models_name(cli, error_of, tmp_path):
    official = to_official("ssd224_hardnet29", create_model("ssd224_hardnet29").state_dict())
    base = {key.removeprefix("base."): value for key, value in official.items() if key.startswith("base.")}
    torch.save(base, tmp_path / "base.pth")
    message = error_of("convert-weights", tmp_path / "base.pth", tmp_path / "own.safetensors")
    assert "for a file of a trunk alone give its --model" in message
    arguments = (tmp_path / "base.pth", tmp_path / "own.safetensors", "--model", "ssd224_hardnet29")
    status, out, _ = cli("convert-weights", *arguments)
    assert status == 0
    assert f"{len(base)} tensors of ssd224_hardnet29 (a part of it)" in out
    assert all(key.startswith("trunk.") for key in read_checkpoint(tmp_path / "own.safetensors"))


def test_what_cannot_be_converted(error_of, tmp_path):
    source = tmp_path / "a.pth"
    torch.save(create_model("hardnet39ds").state_dict(), source)
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    (tmp_path / "page.pth").write_text("<html>404</html>")
    target = tmp_path / "b.safetensors"
    for arguments, words in (
        ((source, target, "--to", "mmdet"), "--to mmdet: 'hardnet39ds' has no mmdet model"),
        ((source, target, "--model", "hardnet68"), "not the weights of hardnet68"),
        ((source, target, "--model", "vgg"), "no model vgg; there are"),
        ((source, tmp_path / "b.onnx"), "must end in .safetensors or .pth"),
        ((source, source), "is the source itself"),
        ((tmp_path / "foreign.pth", target), "not the weights of any model"),
        ((tmp_path / "page.pth", target), "a web page (HTML), not weights"),
        ((tmp_path / "none.pth", target), "no such file"),
        ((source, source / "b.pth"), "cannot write"),
    ):
        assert words in error_of("convert-weights", *arguments)
    assert not target.exists()
