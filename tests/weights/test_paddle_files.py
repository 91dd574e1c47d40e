"""Paddle's files of parameters, which are pickles: their arrays are read, and nothing in them is run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from contextlib import suppress

import hostile_weights as hostile
import numpy as np
import pytest
import torch

from hardnet_suite.errors import UserError
from hardnet_suite.weights import read_checkpoint, save_weights, state_dict_of
from hardnet_suite.weights.file import BadFileError, WeightsFile

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "by.columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big.endian": np.arange(3, dtype=">f4"),
    "empty": np.zeros((0, 2), np.float16),
    "count": np.array(7),
}
NAMES = {"StructuredToParameterName@@": {"a.weight": "linear_0.w_0"}}


class Named:
    """A parameter as Paddle pickles its tensors: the tuple of its name and its array."""

    def __init__(self, name, array):
        self.name, self.array = name, array

    def __reduce__(self):
        return tuple, ((self.name, self.array),)


class Calls:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def written(folder, content, protocol=4):
    path = folder / "file.pdparams"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
@pytest.mark.parametrize("named", [False, True])
def test_arrays_become_tensors(tmp_path, protocol, kind, named):
    arrays = {key: Named(key, value) for key, value in ARRAYS.items()} if named else ARRAYS
    read = read_checkpoint(written(tmp_path, kind(arrays | NAMES), protocol))
    assert read.keys() == ARRAYS.keys()
    for key, value in ARRAYS.items():
        assert torch.equal(read[key], torch.from_numpy(value.astype(value.dtype.newbyteorder("="))))
        assert read[key].dtype == torch.from_numpy(value.astype(value.dtype.newbyteorder("="))).dtype


def test_bfloat16_comes_as_its_bits(tmp_path):
    values = {"fc.weight": torch.randn(3, 2).bfloat16(), "one": torch.tensor(0.5).bfloat16()}
    bits = {key: value.view(torch.uint16).numpy() for key, value in values.items()}
    read = read_checkpoint(written(tmp_path, bits | {"big.endian": bits["fc.weight"].astype(">u2")}))
    assert all(torch.equal(read[key], value) for key, value in values.items())
    assert torch.equal(read["big.endian"], values["fc.weight"])


def test_more_behind_the_pickle(tmp_path):
    path = written(tmp_path, ARRAYS)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="corrupt or cut short: there is more behind its pickle"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "arguments",
    [
        (b"1234", np.dtype("f4"), (2,), "C"),
        (b"1234", np.dtype("f4"), (1,), "K"),
        ("1234", np.dtype("f4"), (1,), "C"),
        (b"", np.dtype("f4"), (-1,), "C"),
        (b"1234", np.dtype("O"), (1,), "C"),
    ],
)
def test_buffers_that_are_no_arrays_of_numbers(tmp_path, arguments):
    from numpy._core.numeric import _frombuffer

    with pytest.raises(UserError, match=r"could run code|cannot be read safely"):
        read_checkpoint(written(tmp_path, {"a": Calls(_frombuffer, *arguments)}, 5))


def test_metadata_have_no_place(tmp_path, recwarn):
    path, state = tmp_path / "file.pdparams", {"fc.weight": torch.rand(3, 2)}
    with pytest.warns(UserWarning, match=r"file\.pdparams: .*not its metadata: model, classes"):
        save_weights(state, path, metadata={"model": "hardnet39ds", "classes": '["a"]'})
    assert torch.equal(read_checkpoint(path)["fc.weight"], state["fc.weight"].half())
    for metadata in (None, {}):
        save_weights(state, path, metadata=metadata)
    save_weights(state, tmp_path / "file.safetensors", metadata={"model": "hardnet39ds"})
    assert not recwarn.list


def test_what_is_saved_is_what_pickle_reads(tmp_path):
    state = {"fc.weight": torch.rand(3, 2).t(), "half": torch.rand(2).bfloat16()}
    save_weights(state, tmp_path / "file.pdparams", half=False)
    arrays = pickle.loads((tmp_path / "file.pdparams").read_bytes())
    assert all(type(value) is np.ndarray for value in arrays.values())
    again = read_checkpoint(tmp_path / "file.pdparams")
    assert all(torch.equal(again[key], value.float()) for key, value in state.items())


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (eval, ("1 + 1",), "eval"),
        (os.system, ("touch ran",), "system"),
        (getattr, (dict, "update"), "getattr"),
        (bytearray, (10,), "bytearray"),
        (np.load, ("file",), "numpy"),
    ],
)
def test_code_is_refused(tmp_path, monkeypatch, protocol, function, arguments, name):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, ARRAYS | {"x": Calls(function, *arguments)}, protocol)
    with pytest.raises(UserError, match=r"refused|cannot be read safely") as caught:
        read_checkpoint(path)
    if name != "numpy":
        assert name in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"a": np.array([object()])},  # an array of objects
        {"a": np.array(["text"])},
        {1: np.ones(2)},
        {("a", "b"): np.ones(2)},
        {"a": Calls(bytes, 10)},
        {"a": Calls(tuple, "text")},
        {"a": {1, 2}},
        [np.ones(2)],
        {"a": "no array"},
        {},
        b"",
        b"\x80\x04",
        b"PK\3\4",
        pickle.dumps(ARRAYS)[:-20],
    ],
)
def test_anything_else_is_one_clear_error(tmp_path, content):
    with pytest.raises(UserError, match=r"file\.pdparams: ") as caught:
        read_checkpoint(written(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(hostile.BOMBS))
def test_bombs(tmp_path, name):
    with zipfile.ZipFile(io.BytesIO(hostile.BOMBS[name])) as archive:
        pickles = [archive.read(entry) for entry in archive.namelist() if entry.endswith(".pkl")]
    for pickled in pickles:
        with suppress(UserError):
            read_checkpoint(written(tmp_path, pickled))


def test_one_array_under_many_names_is_one_tensor(tmp_path):
    array = np.ones(1 << 20, np.float32)
    read = read_checkpoint(written(tmp_path, {str(number): array for number in range(10_000)}))
    assert len({value.data_ptr() for value in read.values()}) == 1


def zipped(path, *names, content=None):
    content = io.BytesIO()
    torch.save({"a": torch.ones(2)}, content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content.getvalue())
    return content.getvalue()


def test_the_file_in_a_zip(tmp_path):
    """As pytorchcv's weights come."""
    import hashlib

    path = tmp_path / "hardnet39ds-0881-ea47fc93.pth.zip"
    inside = zipped(path, "hardnet39ds-0881-ea47fc93.pth")
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(2))
    assert WeightsFile.read(path).sha1 == hashlib.sha1(inside).hexdigest()
    for names, listed in (((), ""), (("a.pth", "folder/b.pth"), r" \(a.pth, folder/b.pth\)")):
        zipped(path, *names)
        with pytest.raises(UserError, match=f": expected one file in the archive, got {len(names)}{listed}$"):
            read_checkpoint(path)
    zipped(path, "folder/a.pth", "__MACOSX/folder/._a.pth", "folder/.DS_Store", "._a.pth")
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(2))
    path.write_bytes(b"PK no archive")
    with pytest.raises(BadFileError, match="corrupt or cut short"):
        _ = WeightsFile.read(path).sha1
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.pth", bytes(200 << 20))
    with pytest.raises(UserError, match="it declares 200 MiB in"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["a.pdparams", "folder/a.PDPARAMS", "a.safetensors", "a.pth"])
def test_the_file_in_a_zip_is_read_by_its_name(tmp_path, name):
    metadata = {} if name.lower().endswith(".pdparams") else {"model": "hardnet39ds"}
    save_weights({"a": torch.ones(2)}, tmp_path / name, metadata=metadata, half=False)
    with zipfile.ZipFile(tmp_path / "file.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / name, name)
    file = WeightsFile.read(tmp_path / "file.zip")
    assert torch.equal(state_dict_of(file.content)["a"], torch.ones(2))
    assert file.metadata == metadata


@pytest.mark.parametrize("name", ["a.pdparams", "a.pth"])
def test_code_in_a_zip_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
        archive.writestr(name, pickle.dumps(ARRAYS | {"x": Calls(os.system, "touch ran")}, 4))
    with pytest.raises(UserError, match=r"refused, .*system"):
        read_checkpoint(tmp_path / "file.zip")
    assert not (tmp_path / "ran").exists()
