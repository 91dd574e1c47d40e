"""``export --precision int8``."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.cli import main

MODEL = ["export", "--model", "hardnet39ds", "--weights", "tiny_imagenet10"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for index in range(3):
        small = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "int8 is calibrated on images"),
        (
            ["--precision", "int8", "--format", "torchscript", "--out", "net.pt"],
            "the format torchscript has no precision 'int8': choose from fp32, fp16, bf16",
        ),
        (["--precision", "int8", "--calibration", "none"], "none"),
        (["--precision", "int8", "--calibration", "EMPTY"], "no images in"),
        *(
            (["--precision", "int8", "--calibration", "IMAGES", "--max-drop", drop], "from 0 to 100")
            for drop in ("-1", "101", "nan")
        ),
        (
            ["--precision", "int8", "--calibration", "IMAGES", "--keep-float", "trunk.stem.", "head"],
            "no layer of the network begins with 'head'; there are trunk.stem.",
        ),
        (
            ["--precision", "int8", "--calibration", "IMAGES", "--format", "torchscript", "--out", "net.pt"],
            "the format torchscript has no precision 'int8': choose from fp32, fp16, bf16",
        ),
        (["--precision", "int8", "--calibration", "IMAGES", "--calibration-images", "0"], "at least 1"),
        (["--max-drop", "1"], "--max-drop is for --precision int8"),
        (["--calibration", "IMAGES"], "--calibration is for --precision int8"),
        (["--keep-float", "fc"], "--keep-float is for --precision int8"),
        (["--preset", "mixed"], "--preset is for --precision int8"),
    ],
)
def test_one_line_says_what_is_wrong(images, tmp_path, monkeypatch, capsys, options, message):
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    empty = images / "empty"
    empty.mkdir(exist_ok=True)
    options = [{"IMAGES": str(images), "EMPTY": str(empty)}.get(each, each) for each in options]
    assert main([*MODEL, "--out", "net.onnx", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_drop_is_printed(images, tmp_path, capsys):
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    path = tmp_path / "net.onnx"
    options = ["--precision", "int8", "--calibration", str(images), "--max-drop", "100"]
    assert main([*MODEL, "--out", str(path), *options]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    where = rf"\d+ images of {re.escape(str(images))}; "
    assert re.search(rf"of 100 best classes differ from PyTorch's in float32 on {where}", line)
    assert path.stat().st_size < 6e6  # a quarter, and the graph
