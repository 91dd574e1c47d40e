"""NumPy's numbers in a pickled checkpoint, as the published segmentation files have; and nothing more."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import pickletools

import numpy as np
import pytest
import torch

from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.weights import read_checkpoint


def save_pickle(path, content, *, module: str | None = None) -> None:
    """A file as torch.save writes it, with the module of NumPy's ``scalar`` renamed, if asked."""

    class Module:
        @staticmethod
        def dumps(*args, **options):
            return renamed(pickle.dumps(*args, **options))

        class Pickler(pickle._Pickler):  # the one in Python, whose globals can be redirected
            def save_global(self, obj, name=None):
                if module and getattr(obj, "__name__", "") == "scalar":
                    self.write(pickle.GLOBAL + f"{module}\nscalar\n".encode())
                    self.memoize(obj)
                else:
                    super().save_global(obj, name)

            dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def renamed(data: bytes) -> bytes:
        return data

    for kind in (type(len), type(save_pickle)):
        Module.Pickler.dispatch[kind] = Module.Pickler.save_global
    torch.save(content, path, pickle_module=Module, pickle_protocol=2)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.bool_])
def test_numbers_under_either_path(tmp_path, module, kind):
    path = tmp_path / "model.pkl"
    save_pickle(path, {"model_state": {"a": torch.ones(2)}, "best_iou": kind(1)}, module=module)
    held = {str(argument) for _, argument, _ in pickletools.genops(_pickle_of(path)) if argument}
    assert f"{module} scalar" in held
    checkpoint = read_checkpoint(path)
    assert checkpoint["best_iou"] == kind(1)
    assert type(checkpoint["best_iou"]) is kind


def _pickle_of(path) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return archive.read(name)


def test_an_official_segmentation_checkpoint(golden, tmp_path):
    """The published form: the training state with ``model_state``, ``module.`` and a NumPy ``best_iou``."""
    weights = golden.state_dict("fchardnet70")
    path = tmp_path / "hardnet70_cityscapes_model.pkl"
    state = {
        "epoch": 90000,
        "model_state": {f"module.{key}": value for key, value in weights.items()},
        "best_iou": np.float64(0.777),
    }
    save_pickle(path, state, module="numpy.core.multiarray")
    network = create_model("fchardnet70", pretrained=path).eval()
    with torch.inference_mode():
        out = network(golden.input("fchardnet70"))
    torch.testing.assert_close(out, golden.outputs("fchardnet70")["out"], rtol=1e-4, atol=1e-4)


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    "extra", [Evil(), np.array([object()], dtype=object), print, np.random.default_rng(0)]
)
def test_anything_else_is_refused_with_the_reason(tmp_path, capsys, extra):
    path = tmp_path / "model.pkl"
    torch.save({"model_state": {"a": torch.ones(2)}, "extra": extra}, path)
    with pytest.raises(UserError, match=r"could run code|cannot be read safely"):
        read_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", ["b1", "u1", "i2", "i8", "f2", "f4", "f8"])
def test_arrays_of_numbers_in_any_byte_order(tmp_path, order, code):
    path = tmp_path / "model.pkl"
    rows = np.arange(6).reshape(2, 3).astype(np.dtype(code).newbyteorder(order))
    content = {"a": torch.ones(2), "rows": rows, "columns": np.asfortranarray(rows), "one": rows[1, 2]}
    torch.save(content, path)
    read = read_checkpoint(path)
    for key in ("rows", "columns", "one"):
        np.testing.assert_array_equal(read[key], content[key])
        assert read[key].dtype.newbyteorder("=") == content[key].dtype.newbyteorder("=")
    torch.save(read, tmp_path / "again.pkl")  # in NumPy's own form
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "again.pkl")["rows"], rows)


@pytest.mark.parametrize("kind", ["U3", "S3", "O", "M8[s]", "c8", [("a", "f4")]])
def test_arrays_of_other_things_are_refused(tmp_path, kind):
    path = tmp_path / "model.pkl"
    torch.save({"a": torch.ones(2), "x": np.zeros(2, kind)}, path)
    with pytest.raises(UserError, match=r"could run code \(it asks for numpy\.dtype\)"):
        read_checkpoint(path)


def test_the_allowance_ends_with_the_reading(tmp_path):
    path = tmp_path / "model.pkl"
    torch.serialization.add_safe_globals([np.dtype])  # as others may have done
    before = {*torch.serialization.get_safe_globals()}
    save_pickle(path, {"model_state": {"a": torch.ones(2)}, "best_iou": np.float64(1)})
    read_checkpoint(path)
    assert {*torch.serialization.get_safe_globals()} == before


def test_what_the_process_allows_is_not_used(tmp_path):
    """NumPy's own functions, allowed by others for their files, do not read ours."""
    reconstruct = np._core.multiarray._reconstruct
    path = tmp_path / "model.pkl"
    torch.save({"a": torch.ones(2), "x": np.array([None], dtype=object)}, path)
    with torch.serialization.safe_globals([np.dtype, np.ndarray, reconstruct, type(np.dtype("O"))]):
        torch.load(path, weights_only=True)
        with pytest.raises(UserError, match="could run code"):
            read_checkpoint(path)
        torch.load(path, weights_only=True)


def test_hyper_parameters_beside_the_tensors(tmp_path):
    """As Lightning's ``save_hyperparameters`` keeps them: folders, and the arguments of a command."""
    arguments = argparse.Namespace(lr=0.1, data=tmp_path / "images")
    paths = {kind.__name__: kind("a", "b.txt") for kind in (pathlib.PurePosixPath, pathlib.PureWindowsPath)}
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": {"ns": arguments, **paths}}, path)
    read = read_checkpoint(path)["hyper_parameters"]
    assert vars(read["ns"]) == {"lr": 0.1, "data": str(tmp_path / "images")}
    assert (read["PurePosixPath"], read["PureWindowsPath"]) == ("a/b.txt", "a\\b.txt")


class Odd:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "odd",
    [
        Odd(pathlib.PosixPath, b"bytes"),
        Odd(pathlib.Path.cwd),
        Odd(argparse.ArgumentParser),
        Odd(pathlib.Path, "a"),
    ],
)
def test_nothing_else_of_these_modules_is_read(tmp_path, odd):
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": odd}, tmp_path / "w.ckpt")
    with pytest.raises(UserError, match=r"could run code|cannot be read"):
        read_checkpoint(tmp_path / "w.ckpt")
