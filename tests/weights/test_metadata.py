"""What a weights file says about itself is checked before it is used: types, ranges, counts, characters."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.networks import PREPROCESS
from hardnet_suite.networks.postprocess import SegmentationPostprocess
from hardnet_suite.prediction import load_model
from hardnet_suite.weights import open_weights
from hardnet_suite.weights.places import SHIPPED

CLASSES = ["ant", "bee", "cat"]
RULE = PREPROCESS["hardnet39ds"].to_dict()
DEEP = "[" * 200_000
NAN = float("nan")


@pytest.fixture(scope="module")
def state():
    return create_model("hardnet39ds", num_classes=3).state_dict()


def opened(state, path, metadata):
    safetensors.torch.save_file(state, path, metadata=metadata)
    return open_weights(path)


def changed(**values) -> str:
    return json.dumps(RULE | values)


BAD = {
    "classes": [
        "5", "true", "null", '"abc"', '{"a": 1}', "[]", "[1, 2, 3]", '[["a"], ["b"], ["c"]]', '["a", "b"]',
        '["a", "a", "b"]', '["", "a", "b"]', '["a\\u001b[2J", "b", "c"]', '["a\\nb", "b", "c"]',
        '["\\ud800", "b", "c"]', '["a\\u009b", "b", "c"]', "{", DEEP,
    ],
    "palette": ["5", "[[1, 2, 3]]", *(f"[[1, {p}, 2], [1, 2, 3], [1, 2, 3]]" for p in ('"x"', 256, .5))],
    "postprocess": ["5", '{"task": "x"}', '{"task": "classification", "threshold": 1}', "[", "null"],
    "model": ["hardnet68"],
    "num_classes": ["7", "abc", "", "3.0", "null"],
    "in_chans": ["1", "abc", ""],
    "preprocess": [
        "5", '"x"', "[1]", "null", "{}", "{", DEEP, changed(foo=1),
        *(changed(size=value) for value in (-1, 0, 10**9, 1e30, True, "a", [1], [1, 2, 3], [0, 0])),
        *(changed(resize_to=value) for value in (0, 10**6, 10**12, True, "a")),
        *(changed(resize=value) for value in ("x", 5, None)),
        *(changed(channels=value) for value in ("xyz", 5, None)),
        *(changed(interpolation=value) for value in ("lanczos", 5)),
        *(changed(mean=value) for value in ([1], "abc", [NAN] * 3, [10**400] * 3, [True] * 3, 5, None)),
        *(changed(std=value) for value in ([0, 0, 0], [1, 1, -1], [1], "abc", [1, 1, NAN], [True] * 3)),
        *(changed(scale=value) for value in (0, -1, NAN, float("inf"), "a", True, 10**400, None)),
        *(changed(antialias=value) for value in ("a", 2, None)),
        *(changed(pad=value) for value in (5, {"to": [10**9] * 2}, {"multiple": 0}, {"to": 5})),
        *(changed(input_divisor=value) for value in (0, -3, 10**9, "a", 1.5)),
        *(changed(input_size=value) for value in (5, [1], [0, 1], "ab")),
        *(changed(factor=value) for value in ([0, 0], [1e9, 1e9], [1], "ab", [NAN, 1], 2)),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in BAD.items() for value in values], ids=str
)
def test_what_cannot_be_meant_is_one_line(state, tmp_path, key, value):
    with pytest.raises(UserError, match=r"w\.safetensors: (in )?its metadata") as caught:
        opened(state, tmp_path / "w.safetensors", {key: value})
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()


def test_good_metadata_are_read(state, tmp_path):
    metadata = {"classes": json.dumps(CLASSES), "preprocess": changed(size=[48, 64]), "model": "hardnet39ds"}
    weights = opened(state, tmp_path / "w.safetensors", metadata | {"note": "x"})
    assert weights.classes == tuple(CLASSES)
    assert weights.preprocess.height_width == (48, 64)


@pytest.mark.parametrize(
    "value",
    [
        5,
        True,
        1.5,
        b"ab",
        {"a": 1},
        [1, 2],
        [None],
        [[1]] * 3,
        ["a"],
        ["a\x1b[2J", "b", "c"],
        ["a", "a", "b"],
    ],
)
@pytest.mark.parametrize("where", ["meta", "dataset_meta"])
def test_class_names_in_a_runs_checkpoint(state, tmp_path, value, where):
    meta = {"classes": value, "palette": [[1, 2, 3]]}
    meta = meta if where == "meta" else {"dataset_meta": meta}
    torch.save({"state_dict": state, "meta": meta}, tmp_path / "epoch_1.pth")
    with pytest.raises(UserError, match=r"epoch_1\.pth: its metadata") as caught:
        open_weights(tmp_path / "epoch_1.pth")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [{"type": "x"}, ["hardnet68"], 5, None, "another"])
def test_what_other_programs_call_a_model_is_no_contradiction(state, tmp_path, value):
    torch.save({"state_dict": state, "meta": {"model": value}}, tmp_path / "w.pth")
    assert open_weights(tmp_path / "w.pth").model == "hardnet39ds"


def test_the_output_rule_of_another_task_is_refused(tmp_path):
    state = safetensors.torch.load_file(SHIPPED / "hardnet39ds_tiny_imagenet10.safetensors")
    path = tmp_path / "w.safetensors"
    rule = SegmentationPostprocess().to_dict()
    safetensors.torch.save_file(state, path, metadata={"postprocess": json.dumps(rule)})
    with pytest.raises(UserError, match="rule for segmentation, but hardnet39ds is for classification"):
        load_model(path)
