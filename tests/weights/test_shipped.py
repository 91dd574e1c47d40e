"""The weights that come with the package."""

from __future__ import annotations

import hashlib

import pytest
import safetensors.torch
import torch

from hardnet_suite import create_model
from hardnet_suite.data.segmentation import LABEL_SETS
from hardnet_suite.errors import UserError
from hardnet_suite.weights import (
    ROWS,
    fetch,
    find,
    open_weights,
    places,
    read_checkpoint,
    save_weights,
    state_dict_of,
)

SHIPPED = [row for row in ROWS if row.shipped]


def test_there_are_some():
    there = {(row.model, row.tag) for row in SHIPPED}
    assert there == {
        ("ssd320_hardnet39ds", "bccd"),
        ("centernet_hardnet39ds", "bccd"),
        ("ssd224_hardnet29", "symbols"),
        ("fchardnet70", "camvid"),
        ("fchardnet70", "camvid_trainval"),
        ("hardnet39ds", "tiny_imagenet10"),
        ("hardnet39ds", "tiny_imagenet10_128"),
        ("hardnet39dsa", "tiny_imagenet10"),
        ("hardnet_descriptor", "homography"),
    }
    assert sum((places.SHIPPED / row.shipped).stat().st_size for row in SHIPPED) <= 60e6
    assert {path.name for path in places.SHIPPED.iterdir()} == {row.shipped for row in SHIPPED}


@pytest.mark.parametrize("row", SHIPPED, ids=lambda row: row.tag)
def test_the_file_is_the_rows(row):
    path = fetch(row)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == row.sha256
    assert path.stat().st_size <= 16e6
    tensors = safetensors.torch.load_file(path)
    assert {value.dtype for value in tensors.values()} == {torch.float16}


@pytest.mark.parametrize("row", SHIPPED, ids=lambda row: f"{row.model}-{row.tag}")
def test_the_file_says_what_it_is(row):
    with safetensors.safe_open(fetch(row), "pt") as file:
        metadata = file.metadata()
    assert (metadata["model"], metadata["config"]) == (row.model, row.source)
    assert metadata["trained_on"]
    commercial = "MIT" in metadata["licence"]
    assert commercial == (row.licence == "MIT")
    assert commercial or "non-commercial" in metadata["licence"] or "CC BY-NC" in metadata["licence"]


@pytest.mark.parametrize("row", SHIPPED, ids=lambda row: row.tag)
def test_the_model_of_its_tag(row, recwarn):
    model = create_model(row.model, pretrained=row.tag)
    assert model.num_classes == len(row.classes)
    assert not [warning for warning in recwarn if "not in the weights" in str(warning.message)]
    tensors = safetensors.torch.load_file(fetch(row))
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, tensors[key].float()), key


@pytest.mark.parametrize("row", SHIPPED, ids=lambda row: row.tag)
def test_row_file_and_label_set_name_the_same_classes(row):
    weights = open_weights(fetch(row), row.model)
    assert (weights.classes or ()) == row.classes
    if row.tag.startswith("camvid"):
        camvid = LABEL_SETS["camvid"]
        assert (weights.classes, weights.palette) == (camvid.classes, camvid.palette)


def test_other_classes_and_features():
    with pytest.warns(UserWarning, match=r"12 of the model not in the weights \(cls\.0"):
        model = create_model("ssd320_hardnet39ds", pretrained="bccd", num_classes=7)
    assert model.num_classes == 7
    trunk = create_model("ssd320_hardnet39ds", pretrained="bccd", features_only=True)
    assert torch.equal(trunk.stem[0].conv.weight, model.trunk.stem[0].conv.weight)


def test_a_damaged_package_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "SHIPPED", tmp_path)
    row = find("ssd320_hardnet39ds", "bccd")
    with pytest.raises(UserError, match=r"no such file; reinstall the package"):
        fetch(row)
    (tmp_path / row.shipped).write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="wrong contents: sha256 begins"):
        fetch(row)


def test_saving(tmp_path):
    state = {
        "a": torch.tensor([1.0, 1 / 3]),
        "b.num_batches_tracked": torch.tensor(7),
        "c": torch.tensor([3]),
    }
    path = tmp_path / "new" / "w.safetensors"
    digest = save_weights(state, path, metadata={"licence": "MIT"})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    back = safetensors.torch.load_file(path)
    assert back.keys() == {"a", "c"}
    assert torch.equal(back["a"], state["a"].half())
    assert back["c"].dtype == torch.int64
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"licence": "MIT"}
    with pytest.raises(ValueError, match="a holds values that half precision cannot: up to 100000"):
        save_weights({"a": torch.tensor([1e5])}, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("name", ["w.pth", "w.PTH", "w.safetensors", "w.SafeTensors", "w.PDPARAMS"])
def test_the_end_of_the_name_says_what_is_written(tmp_path, name):
    save_weights({"a": torch.arange(3.0)}, tmp_path / name)
    assert torch.equal(state_dict_of(read_checkpoint(tmp_path / name))["a"], torch.arange(3.0))


@pytest.mark.parametrize("name", ["w", "w.pt", "w.ckpt", "w.pkl", "w.pth.tar", "w.onnx", "pth"])
def test_names_that_say_nothing_of_the_format(tmp_path, name):
    with pytest.raises(UserError, match=r"must end in \.safetensors or \.pth or \.pdparams"):
        save_weights({"a": torch.ones(1)}, tmp_path / name)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pdparams"])
def test_tensors_that_share_memory(tmp_path, suffix):
    zero, rows = torch.tensor(0), torch.arange(6.0)
    state = {
        "a.num_batches_tracked": zero,
        "b.num_batches_tracked": zero,
        "one": rows,
        "same": rows,
        "part": rows[2:4],
    }
    save_weights(state, tmp_path / f"w{suffix}", half=False)
    back = state_dict_of(read_checkpoint(tmp_path / f"w{suffix}"))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("metadata", [None, {}, {key: 'ä "\\\n\x7f😀' + key for key in "qwertyuiopasdf"}])
def test_equal_weights_are_equal_files(tmp_path, metadata):
    state = {"b": torch.ones(3, dtype=torch.float16), "a.weight": torch.zeros(2, 0), "é": torch.arange(5)}
    path = tmp_path / "w.safetensors"
    assert len({save_weights(state, path, metadata=metadata, half=False) for _ in range(8)}) == 1
    read = safetensors.torch.load_file(path)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], value) for key, value in state.items())
    with safetensors.safe_open(path, "pt") as file:
        assert (file.metadata() or {}) == (metadata or {})
