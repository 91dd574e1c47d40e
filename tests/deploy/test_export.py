from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from deploy.exported import a_record
from tiny_networks import as_trained, tiny
from torch import nn

from hardnet_suite import create_model, load_model
from hardnet_suite.deploy import deploy, export, formats, fuse_batch_norms
from hardnet_suite.deploy.benchmark import benchmark
from hardnet_suite.deploy.formats import torchscript
from hardnet_suite.deploy.record import sealed
from hardnet_suite.deploy.session import open_session, read_record
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.networks import ARCHS, Pad, PatchDescriptor, build_network

ROOT = Path(__file__).parents[2]


def trained(name: str) -> nn.Module:
    """A network with running statistics as of a trained one."""
    torch.manual_seed(0)
    network = build_network(name)
    is_descriptor = isinstance(network, PatchDescriptor)
    return as_trained(network, (16, network.in_chans, 32, 32) if is_descriptor else (16, 3, 64, 64))


@pytest.fixture(scope="module")
def descriptor() -> nn.Module:
    return trained("hardnet_descriptor")


@pytest.mark.parametrize("name", ["hardnet_descriptor", "hardnet_descriptor_ps", "hardnet39ds"])
def test_folded_batch_norms_change_nothing(name):
    network = trained(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = fuse_batch_norms(network)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
    images = torch.rand(3, 1, 32, 32) if "descriptor" in name else torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), network(images), rtol=1e-4, atol=1e-5)
        if "descriptor" in name:
            whole = torch.rand(1, 1, 40, 44) * 255
            torch.testing.assert_close(fused.dense(whole), network.dense(whole), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not fused.training


def test_a_batch_norm_that_follows_no_convolution_is_kept():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    fused = fuse_batch_norms(network)
    assert [type(layer) for layer in fused] == [type(layer) for layer in network]


def test_torchscript_runs_without_the_package(descriptor, tmp_path):
    path = export(descriptor.train(), tmp_path / "deep" / "descriptor.pt")
    assert descriptor.training
    descriptor.eval()
    patches = torch.rand(5, 1, 32, 32)
    np.save(tmp_path / "patches.npy", patches.numpy())
    code = (
        "import sys, torch, numpy\n"
        "out = torch.jit.load(sys.argv[1])(torch.from_numpy(numpy.load(sys.argv[2])))\n"
        "assert 'hardnet_suite' not in sys.modules\n"
        "numpy.save(sys.argv[3], out.detach().numpy())\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "patches.npy", tmp_path / "out.npy"],
        check=True,
        cwd=tmp_path,
    )
    with torch.inference_mode():
        expected = descriptor(patches).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-3, atol=1e-5)


def test_onnx_takes_any_number_of_patches(descriptor, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = export(descriptor, tmp_path / "descriptor.onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[1:], returned.name) == ("patches", [1, 32, 32], "descriptors")
    assert [file.name for file in tmp_path.iterdir()] == ["descriptor.onnx"]
    for patches in (
        torch.rand(1, 1, 32, 32),
        torch.rand(7, 1, 32, 32) * 255,
        torch.full((3, 1, 32, 32), 0.3),
    ):
        (out,) = session.run(None, {"patches": patches.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(out, descriptor(patches).numpy(), rtol=1e-3, atol=1e-5)


def test_half_precision_is_exported_in_float32(descriptor, tmp_path):
    path = export(fuse_batch_norms(descriptor).half(), tmp_path / "descriptor.pt")
    assert torch.jit.load(path)(torch.rand(2, 1, 32, 32)).dtype == torch.float32


def test_a_file_that_disagrees_is_not_kept(descriptor, tmp_path, monkeypatch):
    def write(network, example, path, **options):
        with torch.no_grad():
            network.network.features[0].weight[0] += 0.1
        write_as_usual(network, example, path, **options)

    write_as_usual = torchscript.write
    monkeypatch.setattr(torchscript, "write", write)
    with pytest.raises(UserError, match="the outputs differ from PyTorch's by"):
        export(descriptor, tmp_path / "descriptor.pt")
    assert not list(tmp_path.iterdir())


def test_an_earlier_export_is_replaced_and_nothing_else(descriptor, tmp_path):
    path = tmp_path / "descriptor.pt"
    export(descriptor, path)
    assert export(descriptor, path) == path
    torch.save({"weights": torch.zeros(3)}, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists, and no earlier export wrote it"):
        export(descriptor, path)
    assert path.read_bytes() == before


FULL_DISK = """
import resource, sys
from hardnet_suite.deploy import export
from hardnet_suite.errors import WriteError
from hardnet_suite.networks import build_network

network = build_network("hardnet_descriptor")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for path in sys.argv[1:]:
    try:
        export(network, path)
    except WriteError as error:
        print(error.filename, error.strerror)
"""


def test_a_full_disk_does_not_end_the_process(tmp_path):
    paths = [str(tmp_path / name) for name in ("net.pt", "net.pt2")]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{path} File too large" for path in paths]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["write", "open"])
def test_a_package_without_its_dependencies_names_what_is_missing(descriptor, tmp_path, monkeypatch, step):
    def imports(*_, **__):
        raise ModuleNotFoundError("No module named 'torchao'", name="torchao")

    path = tmp_path / "descriptor.pt"
    message = "the format torchscript needs torchao, which one of its packages imports and which is not"
    if step == "open":
        export(descriptor, path)
    monkeypatch.setattr(torchscript, step, imports)
    with pytest.raises(UserError, match=message):
        open_session(path) if step == "open" else export(descriptor, path)


@pytest.mark.parametrize("foreign", ["descriptor.xml", "descriptor.bin"])
def test_neither_file_of_openvino_may_be_another(descriptor, tmp_path, foreign):
    pytest.importorskip("openvino", exc_type=ImportError)
    (tmp_path / foreign).write_bytes(b"<mine/>")
    with pytest.raises(UserError, match=rf"{foreign} exists, and no earlier export wrote it"):
        export(descriptor, tmp_path / "descriptor.xml")
    assert [each.name for each in tmp_path.iterdir()] == [foreign]
    assert (tmp_path / foreign).read_bytes() == b"<mine/>"


def test_an_interrupted_export_is_repeated(tmp_path, monkeypatch):
    pytest.importorskip("openvino", exc_type=ImportError)
    network, path = tiny("hardnet_descriptor"), tmp_path / "net.xml"
    os_replace, replaced = os.replace, []

    def interrupt(source, target) -> None:
        if replaced:
            raise KeyboardInterrupt
        replaced.append(target)
        os_replace(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(network, path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="is missing, which belongs to it"):
        open_session(path)
    open_session(export(network, path))


@pytest.mark.parametrize("name", ["net.param", "NET.PARAM"])
def test_weights_of_another_export_stay(descriptor, tmp_path, name):
    """OpenVINO's and ncnn's files of one name share that of the weights."""
    pytest.importorskip("openvino", exc_type=ImportError)
    path, other = tmp_path / Path(name).with_suffix(".xml"), tmp_path / name
    export(descriptor, path)
    weights = path.with_suffix(".bin")
    weights.unlink()

    def write_ncnn(content: bytes) -> None:
        weights.write_bytes(content)
        other.write_text("7767517\n")
        record = sealed(a_record(), other, beside=(".bin",)).to_json()
        other.write_text(f"7767517\n# hardnet_suite {record}\n")

    write_ncnn(b"of ncnn")
    for _ in range(2):  # beside an earlier export, and without
        with pytest.raises(UserError, match=rf"\.bin holds the weights of \S*{name}, another export: choose"):
            export(descriptor, path)
        assert weights.read_bytes() == b"of ncnn"
        path.unlink(missing_ok=True)
    weights.unlink()  # nothing is lost any more
    export(descriptor, path)
    assert export(descriptor, path) == path


def test_features_are_not_exported(tmp_path):
    features = build_network("hardnet39ds", num_classes=0).eval()
    for write in (partial(export, path=tmp_path / "net.pt"), partial(deploy, target="cpu")):
        with pytest.raises(UserError, match="hardnet39ds has num_classes=0: it returns features"):
            write(features)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "format", "message"),
    [
        ("descriptor.bin", None, r"must end in one of .onnx \(onnx\), .pt \(torchscript\)"),
        ("descriptor.pt", "caffe", "unknown format 'caffe'; known: onnx, torchscript"),
    ],
)
def test_bad_formats(descriptor, tmp_path, file, format, message):
    with pytest.raises(UserError, match=message):
        export(descriptor, tmp_path / file, format=format)


def test_without_onnx(descriptor, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hardnet-suite\[deploy\]'"):
        export(descriptor, tmp_path / "descriptor.onnx")


@pytest.mark.slow
def test_the_cpp_program(descriptor, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    torch_folder = Path(torch.__file__).parent
    if compiler is None or not (torch_folder / "include" / "torch" / "script.h").is_file():
        pytest.skip("no C++ compiler, or torch without its headers")
    libraries = [
        name for name in ("torch", "torch_cpu", "c10") if (torch_folder / f"lib/lib{name}.so").is_file()
    ]
    subprocess.run(
        [
            compiler, "-std=c++20", "-O1", ROOT / "docs" / "descriptor.cpp", "-o", tmp_path / "describe",
            f"-I{torch_folder}/include", f"-I{torch_folder}/include/torch/csrc/api/include",
            f"-L{torch_folder}/lib", f"-Wl,-rpath,{torch_folder}/lib", "-Wl,--no-as-needed",
            *(f"-l{name}" for name in libraries),
        ],
        check=True,
    )  # fmt: skip
    path = export(descriptor, tmp_path / "descriptor.pt")
    patches = torch.randint(0, 256, (5, 1, 32, 32), dtype=torch.uint8)
    patches[0] = 7
    patches.numpy().tofile(tmp_path / "patches.raw")
    command = [tmp_path / "describe", path, tmp_path / "patches.raw"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    with torch.inference_mode():
        expected = descriptor(patches).numpy()
    np.testing.assert_allclose(np.loadtxt(printed.splitlines()), expected, rtol=1e-3, atol=1e-4)
    (tmp_path / "short.raw").write_bytes(b"123")
    broken = subprocess.run(
        [*command[:2], tmp_path / "short.raw"], capture_output=True, text=True, check=False
    )
    assert broken.returncode == 1
    assert "32" in broken.stderr
    other = export(tiny("hardnet68"), tmp_path / "other.pt", size=32)
    network = build_network("hardnet_descriptor", arch=replace(ARCHS["hardnet_descriptor"], patch=64))
    large = export(network.eval(), tmp_path / "large.pt", size=64)
    for file, message in (
        (tmp_path / "none.pt", f"cannot open {tmp_path / 'none.pt'}"),
        (tmp_path, f"cannot open {tmp_path}"),
        (
            tmp_path / "patches.raw",
            f"cannot open {tmp_path / 'patches.raw'}: it is not a network that libtorch reads",
        ),
        (other, f"{other}: expected a descriptor exported to TorchScript"),
        (large, f"{large}: the network fails on patches of 32x32 bytes"),
    ):
        refused = subprocess.run([command[0], file, command[2]], capture_output=True, text=True, check=False)
        assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", f"{message}\n")


def renamed(*classes: str) -> nn.Module:
    network = tiny("hardnet68")
    network.usage = replace(network.usage, classes=classes)
    return network


@pytest.mark.parametrize(
    "classes",
    [
        ("a\nb", "c", "d", "e", "f"),
        ("a", "a", "b", "c", "d"),
        ("goldfish", "n01443537", "b", "c", "d"),
        ("a", "b"),
        ("", "b", "c", "d", "e"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_class_names_that_no_file_may_have(classes, suffix, tmp_path):
    with pytest.raises(UserError, match=r"cannot export this hardnet68: .*class"):
        export(renamed(*classes), tmp_path / f"net{suffix}", size=64)
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_class_names_that_predict_prints(tmp_path):
    path = export(renamed("n01443537", "n02099601", "b", "c", "d"), tmp_path / "net.pt", size=64)
    assert read_record(path).usage.classes == ("goldfish", "golden retriever", "b", "c", "d")


@pytest.mark.parametrize("inside", [False, True])
def test_more_classes_than_a_mask_holds(inside, tmp_path):
    network = build_network("fchardnet70", num_classes=256).eval()
    with pytest.raises(UserError, match="masks of 8 bits hold up to 255 classes, got 256"):
        export(network, tmp_path / "net.pt", size=64, postprocess=inside)


def test_a_path_behind_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WriteError, match=r"file.net\.pt"):
        export(tiny("hardnet68"), tmp_path / "file" / "net.pt", size=64)
    assert (tmp_path / "file").read_text() == "mine"


SIZES = [-1, 0, "64", 1.5, (64,), (64, 64, 64), (64, -2), (64.0, 64), 10**6, True, object()]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "call",
    [
        lambda network, size, path: export(network, path, size=size),
        lambda network, size, path: deploy(network, size=size),
        lambda network, size, path: benchmark(network, size=size),
    ],
)
def test_sizes_that_are_none(call, size, tmp_path):
    with pytest.raises(UserError, match="size"):
        call(tiny("hardnet68"), size, tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_whole_model(tmp_path):
    trunk = create_model("hardnet68", features_only=True)
    for call in (deploy, lambda model: export(model, tmp_path / "net.pt")):
        with pytest.raises(UserError, match="is no whole model"):
            call(trunk)
        with pytest.raises(UserError, match="this int is no model"):
            call(3)
    path = export(tiny("hardnet68"), tmp_path / "net.pt", size=64)
    with pytest.raises(UserError, match="is an exported file: give its model, hardnet68 or"):
        benchmark(load_model(path))
    session = open_session(path)
    for values in (np.zeros((1, 3, 64, 64), np.float32), [[0.0]]):
        with pytest.raises(TypeError, match="expected a tensor"):
            session(values)
    for threads in (0, -1, 1.5, "2", True, 1025, 99_999):
        with pytest.raises(UserError, match="threads must be an integer from 1 to 1024"):
            open_session(path, threads=threads)


def test_the_home_folder_is_that_of_all_paths(descriptor, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert export(descriptor, "~/net.pt") == tmp_path / "net.pt"
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
    assert open_session("~/net.pt").record.usage.name == "hardnet_descriptor"


@pytest.mark.parametrize("name", ["hardnet68", "fchardnet70"])
def test_weights_are_written_in_the_usual_layout(name, tmp_path, monkeypatch):
    """``load_model`` has them channels last, which LiteRT and ExecuTorch cannot write."""
    written = []
    write = torchscript.write

    def look(network, example, path, **options):
        written.extend(parameter for parameter in network.parameters() if parameter.ndim == 4)
        write(network, example, path, **options)

    monkeypatch.setattr(torchscript, "write", look)
    network = tiny(name).to(memory_format=torch.channels_last)
    export(network, tmp_path / "net.pt", size=64)
    assert written
    assert all(parameter.is_contiguous() for parameter in written)


def test_the_callers_autocast_is_not_in_the_file(tmp_path):
    network = tiny("hardnet39ds")
    images = torch.rand(2, 3, 224, 224)
    with torch.autocast("cpu", torch.bfloat16):
        path = export(network, tmp_path / "a.pt", postprocess=True, batch=2)
    session = open_session(path)
    with torch.no_grad():
        expected = network(images).softmax(1)
    torch.testing.assert_close(session(images).softmax(1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
@pytest.mark.parametrize(
    "state", [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"device": torch.device("meta")}], ids=str
)
def test_the_callers_defaults_are_not_in_the_file(tmp_path, state, suffix):
    network, images = tiny("hardnet39ds"), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(state.get("dtype", usual))
    try:
        with state.get("device", nullcontext()):
            path = export(network, tmp_path / f"a{suffix}", size=64)
        assert torch.get_default_dtype() == state.get("dtype", usual)
    finally:
        torch.set_default_dtype(usual)
    torch.testing.assert_close(open_session(path)(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        partial(torch.compile, backend="eager"),
        lambda network: torch.nn.DataParallel(torch.compile(network, backend="eager")),
        lambda network: torch.compile(torch.nn.DataParallel(network), backend="eager"),
    ],
)
def test_a_wrapped_network_is_exported_as_the_one_within(tmp_path, wrap):
    network = tiny("hardnet39ds")
    paths = [export(each, tmp_path / f"{each is network}.pt", size=64) for each in (network, wrap(network))]
    plain, wrapped = map(open_session, paths)
    assert wrapped.network_digest == plain.network_digest
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(wrapped(images), plain(images))


def test_a_network_without_weights_is_not_exported(tmp_path):
    with pytest.raises(UserError, match="this hardnet39ds is on the meta device: it has no weights"):
        export(tiny("hardnet39ds").to("meta"), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_exports_in_several_threads(tmp_path, suffix):
    """torch.export keeps state of the process, and warnings are kept quiet meanwhile."""
    network, filters = tiny("hardnet39ds"), list(warnings.filters)
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda number: export(network, tmp_path / f"{number}{suffix}"), range(3)))
        sessions = list(pool.map(open_session, paths))
    images = torch.rand(1, 3, 224, 224)
    for session in sessions[1:]:
        assert torch.equal(session(images), sessions[0](images))
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("size", [64, (64, 128)])
def test_a_letterbox_of_another_size_is_one(tmp_path, size):
    network = tiny("centernet_hardnet68")
    box = replace(
        network.usage.preprocess, resize="fit", size=(128, 128), pad=Pad(to=(128, 128), center=True)
    )
    network.usage = replace(network.usage, preprocess=box)
    sides = (size, size) if isinstance(size, int) else size
    rule = open_session(export(network, tmp_path / "a.pt", size=size)).record.usage.preprocess
    assert rule == replace(box, size=sides, pad=Pad(to=sides, center=True))


@pytest.mark.parametrize("change", [{"resize": "short", "size": (96, 96)}, {"resize": "keep", "size": None}])
def test_other_padding_has_one_size(tmp_path, change):
    network = tiny("centernet_hardnet68")
    rule = replace(network.usage.preprocess, pad=Pad(to=(128, 128)), **change)
    network.usage = replace(network.usage, preprocess=rule)
    with pytest.raises(UserError, match="pads images to 128×128, and does not tell how they fill 64×64"):
        export(network, tmp_path / "a.pt", size=64)


@pytest.mark.parametrize("normalize", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_are_computed_are_told(tmp_path, normalize):
    network = tiny("hardnet39ds")
    normalize(next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d)))
    with pytest.raises(UserError, match=r"weight of trunk.* is computed from other tensors"):
        export(network, tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("a.XML", {}, "OpenVINO knows its files by their names in lower case"),
        ("a.onnx", {"dynamic": True}, "dynamic must be one of"),
        ("a.onnx", {"format": 3}, "unknown format 3"),
    ],
)
def test_more_bad_options(descriptor, tmp_path, file, options, message):
    with pytest.raises(UserError, match=message):
        export(descriptor, tmp_path / file, **options)
