"""Files with their answers inside: NaN and infinity of the network are seen in them, in every engine."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import small_network
from torch import nn

from hardnet_suite.deploy import export, open_session
from hardnet_suite.deploy.formats import FORMATS
from hardnet_suite.deploy.graph import Graph
from hardnet_suite.deploy.outputs import flatten, input_answers
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError
from hardnet_suite.inference import Placement, to_input

ROOT = Path(__file__).parents[2]
SIZES = {"hardnet39ds": (64, 64), "fchardnet70": (64, 96), "centernet_hardnet68": (64, 96)}
SIZES |= {"ssd512_hardnet68": None}
BOTH = {"preprocess": True, "postprocess": True}
USUAL = ("onnx", "openvino", "torchscript")
NOT_FINITE = "the network's output holds NaN or infinity"


class Spoilt(nn.Module):
    """Replaces one number of the last output for bright images; those of dark ones stay as they are."""

    def __init__(self, network: nn.Module, value: float, places: tuple[int, ...]):
        super().__init__()
        self.network, self.value = network, value
        self.register_buffer(
            "is_first", torch.zeros(places).index_put((torch.tensor(0),) * len(places), torch.tensor(1.0))
        )

    def forward(self, x):
        out = self.network(x)
        maps = flatten(out)
        excess = (x.mean((1, 2, 3)) * 1000).exp()  # 0 or infinity
        excess = excess - excess if math.isnan(self.value) else excess * np.sign(self.value)
        excess = excess.view(-1, *[1] * (maps[-1].ndim - 1))
        last = torch.where(self.is_first > 0, maps[-1] + excess, maps[-1])
        if isinstance(out, torch.Tensor):
            return last
        name, value = [*out.items()][-1]
        return out | {name: last if isinstance(value, torch.Tensor) else [*value[:-1], last]}


@pytest.fixture
def written(monkeypatch):
    """A function that writes a file of a network that ``spoil`` has changed, without comparing it."""

    def write(network: nn.Module, spoil, path: Path, name: str, precision: str = "fp32", **rule) -> Path:
        form = FORMATS[name]
        for package in (*form.packages, *form.writers):
            pytest.importorskip(package)
        network.usage = replace(network.usage, postprocess=replace(network.usage.postprocess, **rule))
        exporting = "hardnet_suite.deploy.exporting"
        monkeypatch.setattr(f"{exporting}.Graph", lambda own, *of: Graph(spoil(own), *of))
        monkeypatch.setattr(f"{exporting}.require_agreement", lambda *_, **__: None)
        options = {"dynamic": "batch"} if "batch" in form.dynamic else {}
        size = SIZES[network.usage.name]
        return export(network, path, format=name, size=size, precision=precision, **BOTH, **options)

    return write


def pixels_of(record: ExportRecord) -> tuple[torch.Tensor, torch.Tensor]:
    """A dark and a bright image."""
    torch.manual_seed(0)
    noise = torch.randint(0, 40, (1, 3, *record.input_shape[2:]), dtype=torch.uint8)
    return noise, 255 - noise


def places_of(network: nn.Module, record_size: tuple[int, int]) -> tuple[int, ...]:
    with torch.inference_mode():
        inputs = to_input(torch.zeros(1, 3, *record_size, dtype=torch.uint8), network.usage.preprocess)
        return tuple(flatten(network(inputs))[-1].shape[1:])


@pytest.mark.parametrize(
    ("format", "name", "value"),
    [
        pytest.param(
            format,
            name,
            value,
            marks=()
            if format in USUAL and (name == "hardnet39ds" or math.isnan(value))
            else pytest.mark.slow,
        )
        for format in FORMATS
        for name in SIZES
        for value in (float("inf"), -float("inf"), float("nan"))
        if format not in ("tensorrt-onnx", "ncnn")
    ],
)
def test_one_number_that_is_not_finite(written, format, name, value, tmp_path):
    if name == "ssd512_hardnet68" and not FORMATS[format].suppression:
        pytest.skip("no suppression inside")
    network = small_network(name)
    size = SIZES[name] or (network.arch.size, network.arch.size)
    path = tmp_path / f"network{FORMATS[format].suffixes[0]}"
    written(network, lambda own: Spoilt(own, value, places_of(own, size)), path, format)
    session = open_session(path, trusted=True, threads=1)
    dark, bright = pixels_of(session.record)
    places = [Placement(size, size)]
    with torch.inference_mode():
        session.answers(dark, places)
        with pytest.raises(UserError, match=NOT_FINITE):
            session.answers(bright, places)
    if session.record.input_shape[0] == "N":
        both, darks = torch.cat([dark, bright]), torch.cat([dark, dark])
        with pytest.raises(UserError, match=NOT_FINITE):
            session.answers(both, places * 2)
        found, expected = (session.run(each.numpy()) for each in (both, darks))
        for values, wanted in zip(found, expected, strict=True):  # the other image is as it would be
            rows = [
                np.sort(each[0], 0) if "boxes" in session.record.outputs else each[0]
                for each in (values, wanted)
            ]
            np.testing.assert_allclose(*rows, rtol=1e-4, atol=1e-4)  # boxes of equal scores in any order
        found = [torch.from_numpy(values) for values in found]
        with pytest.raises(UserError, match=NOT_FINITE):
            input_answers(session.record.outputs, found, network.num_classes)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_one_weight_that_is_not_finite_in_ncnn(written, value, tmp_path):
    """Its exponential function ends before infinity, and answers of classifiers alone are inside."""

    def spoil(network):
        last = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
        with torch.no_grad():
            last.bias[0] = value
        return network

    network = small_network("hardnet39ds")
    session = open_session(written(network, spoil, tmp_path / "network.param", "ncnn"), threads=1)
    with pytest.raises(UserError, match=NOT_FINITE):
        session.answers(pixels_of(session.record)[0], [Placement((64, 64), (64, 64))])


class Scaled(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x):
        out = self.network(x)
        return out * 6e4 if isinstance(out, torch.Tensor) else out | {"hm": out["hm"] * 6e4}


@pytest.mark.parametrize("name", ["hardnet39ds", "fchardnet70", "centernet_hardnet68"])
@pytest.mark.parametrize("format", ["torchscript", "torch-export"])  # ONNX Runtime computes in float32 here
def test_overflow_of_half_precision(written, format, name, tmp_path):
    network = small_network(name)
    path = tmp_path / f"network{FORMATS[format].suffixes[0]}"
    written(network, Scaled, path, format, precision="fp16")
    session = open_session(path, trusted=True, threads=1)
    _, bright = pixels_of(session.record)
    with pytest.raises(UserError, match=NOT_FINITE):
        session.answers(bright, [Placement(SIZES[name], SIZES[name])])


@pytest.mark.parametrize("count", [1, 3])
def test_masks_hold_a_value_that_is_no_class(written, count, tmp_path):
    network = small_network("fchardnet70", num_classes=count)
    path = tmp_path / "network.onnx"
    written(network, lambda own: Spoilt(own, float("nan"), (count, *SIZES["fchardnet70"])), path, "onnx")
    session = open_session(path, threads=1)
    dark, bright = pixels_of(session.record)
    (mask,) = session.run(torch.cat([dark, bright]).numpy())
    assert {*np.unique(mask[0])} <= ({0, 255} if count == 1 else {0, 1, 2})
    assert {*np.unique(mask[1])} == {254 if count == 1 else 255}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("centernet_hardnet68", {"flip": True}),
        ("fchardnet70", {"window": (32, 64), "stride": (32, 32)}),
    ],
)
def test_every_run_of_the_network_counts(written, name, rule, tmp_path):
    """The mirror image, or the last window, alone."""
    network = small_network(name)

    class Last(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            out = self.network(x)
            first = flatten(out)[0]
            is_last = torch.arange(x.shape[0]) == x.shape[0] - 1
            excess = torch.where(is_last, (x[:, :, 0, 0].mean(1) * 1000).exp(), 0).view(-1, 1, 1, 1)
            return first + excess if isinstance(out, torch.Tensor) else out | {"hm": first + excess}

    path = written(network, Last, tmp_path / "network.pt", "torchscript", **rule)
    session = open_session(path, threads=1)
    dark, bright = pixels_of(session.record)
    mixed = dark.clone()
    if name == "fchardnet70":
        mixed[:, :, 32, 32] = bright[:, :, 32, 32]  # where the last window begins
    else:
        mixed[:, :, 0, -1] = bright[:, :, 0, -1]  # where the mirror image begins
    places = [Placement(SIZES[name], SIZES[name])]
    session.answers(dark, places)
    with pytest.raises(UserError, match=NOT_FINITE):
        session.answers(mixed, places)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hardnet39ds", float("nan")),
        ("hardnet39ds", -float("inf")),
        ("fchardnet70", float("inf")),
        ("centernet_hardnet68", float("inf")),
    ],
)
def test_the_program_without_pytorch_says_so(written, name, value, tmp_path):
    network = small_network(name)
    rule = replace(network.usage.preprocess, resize="stretch", size=SIZES[name], resize_to=None)
    network.usage = replace(network.usage, preprocess=rule)
    size = SIZES[name]
    path = tmp_path / "network.onnx"
    written(network, lambda own: Spoilt(own, value, places_of(own, size)), path, "onnx")
    for each, status in zip(pixels_of(open_session(path).record), (0, 1), strict=True):
        image = tmp_path / f"image_{status}.png"
        Image.fromarray(each[0].permute(1, 2, 0).numpy()).save(image)
        command = [sys.executable, ROOT / "docs/predict_onnx.py", path, image]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert (result.returncode, NOT_FINITE in result.stderr) == (status, bool(status)), result.stderr
