from __future__ import annotations

import pytest
import torch

from hardnet_suite import create_model
from hardnet_suite.cli import export as command
from hardnet_suite.cli import main
from hardnet_suite.deploy.formats import FORMATS


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "patches.pth"
    torch.manual_seed(0)
    torch.save(create_model("hardnet_descriptor_ps").state_dict(), path)
    return path


@pytest.mark.parametrize("by_name", [False, True])
def test_a_file_of_weights_is_exported(weights, tmp_path, capsys, by_name):
    path = tmp_path / "out.pt"
    model = ["hardnet_descriptor_ps", "--weights", str(weights)] if by_name else [str(weights)]
    assert main(["export", "--model", *model, "--out", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"weights: {weights}\ninput: patches N×1×32×32\noutputs: descriptors\n")
    assert f"\n{path} agrees with PyTorch on " in out
    network = create_model("hardnet_descriptor_ps", pretrained=weights).eval()
    patches = torch.rand(3, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(torch.jit.load(path)(patches), network(patches), rtol=1e-3, atol=1e-5)


def test_a_shipped_model_is_exported(tmp_path, capsys):
    path = tmp_path / "tiny.pt"
    options = ["--dynamic", "batch", "--with", "preprocess", "postprocess"]
    model = ["--model", "hardnet39ds", "--weights", "tiny_imagenet10"]
    assert main(["export", *model, "--out", str(path), *options]) == 0
    assert "input: pixels N×3×64×64\noutputs: probabilities\n" in capsys.readouterr().out


def test_the_least_size_of_a_free_one_is_said(tmp_path, capsys):
    options = ["--out", str(tmp_path / "street.pt"), "--dynamic", "size"]
    assert main(["export", "--model", "fchardnet70", "--weights", "camvid", *options]) == 0
    assert "input: images N×3×H×W, H and W of at least 128\noutputs: logits\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "hardnet_no", "--out", "out.onnx"], "hardnet_no is not a model, config"),
        (["--model", "no_such_file.pth", "--out", "out.onnx"], "no_such_file.pth"),
        (
            ["--model", "FILE", "--out", "out.bin"],
            "the name must end in one of .onnx (onnx)",
        ),
        (["--model", "FILE", "--out", "out.pt", "--weights", "liberty"], "liberty"),
        (["--model", "FILE", "--out", "out.pt", "--format", "onnx"], "must end in .onnx"),
        (["--model", "FILE", "--out", "out.pt", "--size", "32", "32", "3"], "expected height and width"),
        (["--model", "FILE", "--out", "out.pt", "--size", "64"], "takes inputs of 32×32 alone, got 64×64"),
        (["--model", "FILE", "--out", "out.pt", "--images", "none"], "none"),
        (
            ["--model", "FILE", "--out", "out.pt", "--batch", "0"],
            "batch must be an integer of at least 1, got 0",
        ),
        (["--model", "FILE", "--out", "out.pt", "--batch", "-2"], "batch must be an integer of at least 1"),
        (["--model", "FILE", "--out", "out.pt", "--dynamic", "size"], "takes inputs of 32×32 alone: dynamic"),
        (
            ["--model", "ssd320_hardnet39ds", "--weights", "bccd", "--out", "out.pt", "--dynamic", "size"],
            "alone: dynamic size is impossible",
        ),
    ],
)
def test_one_line_says_what_is_wrong(weights, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *(str(weights) if each == "FILE" else each for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "batch must be an integer of at least 1, got 0"),
        (["--batch", "-3"], "batch must be an integer of at least 1, got -3"),
        (["--size", "0"], "the size 0×0 is out of range"),
        (["--size", "64", "-1"], "the size 64×-1 is out of range"),
        (["--size", "64", "64", "3"], "expected height and width, got 3 numbers"),
        (["--batch", "2", "--dynamic", "batch"], "batch 2 fixes the number of images"),
        (["--size", "64", "--dynamic", "size"], "size fixes what dynamic size leaves free"),
    ],
)
def test_options_are_read_before_weights(weights, tmp_path, monkeypatch, error_of, options, message):
    def load(args):
        raise AssertionError("loaded")

    monkeypatch.setattr(command, "_load", load)
    assert message in error_of("export", "--model", weights, "--out", tmp_path / "out.pt", *options)


def test_each_suffix_is_listed_once(weights, tmp_path, error_of):
    error = error_of("export", "--model", weights, "--out", tmp_path / "x.foo")
    for form in FORMATS.values():
        for suffix in form.suffixes:
            assert error.count(f" {suffix} (") == 1


def test_a_file_that_disagrees_is_exit_status_1(weights, tmp_path, monkeypatch, capsys):
    from hardnet_suite.deploy.formats import torchscript

    def write(network, example, path, **options):
        with torch.no_grad():
            network.network.features[0].weight[0] += 0.1
        write_as_usual(network, example, path, **options)

    write_as_usual = torchscript.write
    monkeypatch.setattr(torchscript, "write", write)
    assert main(["export", "--model", str(weights), "--out", str(tmp_path / "out.pt")]) == 1
    assert "the outputs differ from PyTorch's" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
