"""The programs of docs that run exported files without PyTorch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_networks import TINY, as_trained, tiny

from hardnet_suite import create_model, load_model, predict
from hardnet_suite.deploy import export
from hardnet_suite.networks import Pad, build_network

ROOT = Path(__file__).parents[2]
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "hardnet_suite"]))  # None: cannot be imported
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0])
"""

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def noise(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def cells() -> np.ndarray:
    """Red discs on a light ground: the detector of blood cells finds them."""
    y, x = np.mgrid[:320, :320]
    image = np.full((320, 320, 3), (225, 215, 220), np.uint8)
    for row, column in ((60, 80), (150, 200), (240, 90), (250, 250)):
        image[(y - row) ** 2 + (x - column) ** 2 < 30**2] = (190, 120, 130)
    return image


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    network = create_model("ssd320_hardnet39ds", num_classes=3, pretrained="bccd")
    return export(
        network,
        tmp_path_factory.mktemp("cells") / "cells.onnx",
        preprocess=True,
        postprocess=True,
        images=cells(),
    )


def run_alone(
    path: Path, image: Image.Image, folder: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    image.save(folder / "image.png")
    command = [sys.executable, "-c", ALONE, ROOT / "docs/predict_onnx.py", path, folder / "image.png"]
    command += arguments
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def run_python(path: Path, image: Image.Image, folder: Path) -> list[list[str]]:
    """The words of each printed line."""
    result = run_alone(path, image, folder)
    assert result.returncode == 0, result.stderr
    return [line.split() for line in result.stdout.splitlines()]


def test_the_program_tells_how_it_is_called():
    command = [sys.executable, ROOT / "docs/predict_onnx.py", "cells.onnx"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (
        1,
        "usage: python predict_onnx.py FILE.onnx IMAGE [MASK.png]\n",
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Classifiers of ten classes, each exported once: (rule, options of ``export``) -> the file."""
    files: dict[str, Path] = {}

    def of(rule: dict, **options) -> Path:
        key = repr((rule, options))
        if key not in files:
            network = create_model("hardnet39ds", num_classes=10, pretrained="tiny_imagenet10")
            usage = network.usage
            network.usage = replace(usage, preprocess=replace(usage.preprocess, **rule))
            path = tmp_path_factory.mktemp("classes") / "tiny.onnx"
            files[key] = export(network, path, postprocess=True, images=np.asarray(noise(80, 64)), **options)
        return files[key]

    return of


def require_same_classes(path: Path, image: Image.Image, folder: Path) -> None:
    rows = run_python(path, image, folder)
    (expected,) = predict(load_model(path), folder / "image.png")
    names = expected.names if load_model(path).network.usage.classes else map(str, expected.labels)
    assert [" ".join(row[:-1]) for row in rows] == [*names]
    np.testing.assert_allclose([float(row[-1]) for row in rows], expected.scores, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"preprocess": True}, {"batch": 2}])
def test_classes_without_pytorch(classifier, tmp_path, options):
    require_same_classes(classifier({}, **options), noise(90, 70), tmp_path)


@pytest.mark.parametrize(
    ("width", "height"), [(61, 90), (90, 61), (51, 40), (64, 64), (67, 99)], ids=lambda side: f"{side}"
)
def test_a_crop_without_resizing_lies_where_it_does_in_python(classifier, tmp_path, width, height):
    path = classifier({"resize_to": None, "size": 64})
    require_same_classes(path, noise(width, height), tmp_path)


def transparent(kind: str) -> Image.Image:
    image = noise(90, 70)
    if kind == "P":
        image = image.quantize(16)
        image.info["transparency"] = 3
        return image
    image = image.convert(kind)
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 90).astype(np.uint8), (70, 1))))
    return image


@pytest.mark.parametrize("kind", ["RGB", "L", "P", "16"])
def test_transparent_and_deep_images_without_pytorch(classifier, tmp_path, kind):
    if kind == "16":
        image = Image.fromarray(np.asarray(noise(90, 70).convert("L")).astype(np.uint16) * 257 // 2)
    else:
        image = transparent(kind)
    require_same_classes(classifier({}), image, tmp_path)


def test_one_channel_without_pytorch(tmp_path):
    network = build_network("hardnet39ds", arch=TINY["hardnet39ds"], in_chans=1)
    as_trained(network, (8, 1, 64, 64))
    rule = replace(network.usage.preprocess, channels="grey", mean=(0.5,), std=(0.1,), size=64, resize_to=64)
    network.usage = replace(network.usage, preprocess=rule)
    path = export(network, tmp_path / "grey.onnx", postprocess=True, images=np.asarray(noise(80, 64)))
    require_same_classes(path, noise(90, 70), tmp_path)


def broken_pixels(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ((Path.unlink, "image.png"), "cannot read image.png: "),
        ((broken_pixels, "image.png"), "cannot read image.png: "),
        ((lambda path: Image.new("F", (70, 70)).save(path, "TIFF"), "image.png"), "save it with 8 bits"),
        (
            (lambda path: Image.new("I;16", (70, 70)).save(path, transparency=0), "image.png"),
            "save it with 8 bits",
        ),
        ((Path.unlink, "file.onnx"), "cannot open file.onnx: "),
        ((broken_pixels, "file.onnx"), "cannot open file.onnx: "),
    ],
)
def test_what_cannot_be_read_is_one_line(classifier, tmp_path, spoil, message):
    noise(90, 70).save(tmp_path / "image.png")
    shutil.copy(classifier({}), tmp_path / "file.onnx")
    change, name = spoil
    change(tmp_path / name)
    command = [sys.executable, ROOT / "docs/predict_onnx.py", "file.onnx", "image.png"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_boxes_without_pytorch(detector, tmp_path):
    image = Image.fromarray(cells())
    (expected,) = predict(detector, image)
    rows = run_python(detector, image, tmp_path)
    assert len(rows) == len(expected.boxes) > 0
    assert [row[0] for row in rows] == list(expected.names)
    np.testing.assert_allclose([[float(word) for word in row[2:]] for row in rows], expected.boxes, atol=0.1)


def test_a_mask_without_pytorch(tmp_path):
    network = create_model("fchardnet70", num_classes=11, pretrained="camvid")
    image = noise(96, 64)
    path = export(
        network, tmp_path / "street.onnx", size=(64, 96), postprocess=True, images=np.asarray(image)
    )
    assert run_python(path, image, tmp_path) == [["mask:", "image_mask.png"]]
    (expected,) = predict(path, image)
    assert (np.asarray(Image.open(tmp_path / "image_mask.png")) == expected.mask).mean() > 0.999
    (tmp_path / "image_mask.png").write_text("mine")
    for arguments, message in (
        ([], "image_mask.png exists: name another file for the mask"),
        (["image_mask.png"], "image_mask.png exists: name another file for the mask"),
        (["mask.jpg"], "mask.jpg: expected a name that ends in .png"),
        (["none/mask.png"], "cannot write none/mask.png: No such file or directory"),
    ):
        result = run_alone(path, image, tmp_path, *arguments)
        assert (result.returncode, result.stdout, result.stderr) == (1, "", f"{message}\n")
    assert (tmp_path / "image_mask.png").read_text() == "mine"
    assert run_alone(path, image, tmp_path, "mask.PNG").stdout == "mask: mask.PNG\n"
    assert (np.asarray(Image.open(tmp_path / "mask.PNG")) == expected.mask).mean() > 0.999


def test_no_mask_is_promised_where_there_is_none(classifier, tmp_path):
    result = run_alone(classifier({}), noise(90, 70), tmp_path, "mask.png")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "mask.png: only segmentation networks write a mask\n"


@pytest.mark.parametrize(
    ("name", "rule", "options", "message"),
    [
        ("hardnet68", {"resize": "fit", "size": (64, 96), "pad": Pad(to=(64, 96))}, {}, "without padding"),
        (
            "hardnet68",
            {"resize": "stretch", "size": (60, 90), "pad": Pad(to=(64, 96))},
            {},
            "without padding",
        ),
        ("hardnet68", {"resize": "stretch", "size": (60, 90), "input_divisor": 32}, {}, "without padding"),
        ("fchardnet70", {"resize": "keep"}, {}, "without padding"),
        ("fchardnet70", {"resize": "short", "size": (64, 96), "resize_to": 64}, {}, "without padding"),
        ("hardnet68", {}, {"postprocess": False}, "--with postprocess"),
        ("hardnet_descriptor", {}, {}, "expected a classifier, detector or"),
    ],
)
def test_what_it_cannot_prepare_is_refused(tmp_path, name, rule, options, message):
    network = tiny(name)
    preprocess = network.usage.preprocess
    if rule:
        preprocess = replace(preprocess, **{"resize_to": None} | rule)
    network.usage = replace(network.usage, preprocess=preprocess)
    image = noise(96, 64)
    path = export(network, tmp_path / "net.onnx", images=np.asarray(image), **{"postprocess": True} | options)
    result = run_alone(path, image, tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or find_spec("openvino") is None:
        pytest.skip("no C++ compiler, or no OpenVINO")
    import openvino

    folder = Path(openvino.__file__).parent
    libraries = [*folder.glob("libs/libopenvino.so*")]
    if not (folder / "include/openvino/openvino.hpp").is_file() or not libraries:
        pytest.skip("OpenVINO without its headers")
    path = tmp_path_factory.mktemp("program") / "predict"
    flags = ["-std=c++17", "-O1", f"-I{folder}/include", f"-Wl,-rpath,{folder}/libs"]
    subprocess.run(
        [compiler, *flags, ROOT / "docs/predict_openvino.cpp", libraries[0], "-o", path], check=True
    )
    return path


def run_program(program: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *files], capture_output=True, text=True)


def test_boxes_in_cpp(program, detector, tmp_path):
    image = Image.fromarray(cells())
    image.save(tmp_path / "image.ppm")
    result = run_program(program, detector, tmp_path / "image.ppm")
    assert (result.returncode, result.stderr) == (0, "")
    rows = np.loadtxt(result.stdout.splitlines(), ndmin=2)
    (expected,) = predict(detector, image)
    assert len(expected.boxes) > 0
    np.testing.assert_array_equal(rows[:, 0], expected.labels)
    np.testing.assert_allclose(rows[:, 1], expected.scores, atol=1e-4)  # also where the CPU has bfloat16
    np.testing.assert_allclose(rows[:, 2:], expected.boxes, atol=0.05)
    head = b"P6\n320 320\n255\n"
    content = (tmp_path / "image.ppm").read_bytes()
    assert content.startswith(head)
    for comments in (b"P6\n# of GIMP\n320 320\n255\n", b"P6#a\n#\n 320#w\n #h\n320\n# most 1\n255\n"):
        (tmp_path / "comments.ppm").write_bytes(comments + content.removeprefix(head))
        assert run_program(program, detector, tmp_path / "comments.ppm").stdout == result.stdout


def test_what_the_cpp_program_cannot_take_is_one_line(program, detector, tmp_path):
    image, small, cut = (tmp_path / f"{name}.ppm" for name in ("image", "small", "cut"))
    Image.fromarray(cells()).save(image)
    noise(64, 64).save(small)
    cut.write_bytes(image.read_bytes()[:-1])
    network = create_model("ssd320_hardnet39ds", num_classes=3, pretrained="bccd")
    options = {"images": cells(), "postprocess": True}
    bare = export(network, tmp_path / "bare.onnx", **options)
    pair = export(network, tmp_path / "pair.onnx", batch=2, preprocess=True, **options)
    detectors = "expected a detector for one image of fixed size, exported --with preprocess postprocess"
    pixels = "expected a binary PPM of the size that the file takes"
    for files, message in (
        ((detector, small), f"{small}: {pixels}"),
        ((detector, cut), f"{cut}: {pixels}"),
        ((detector, detector), f"{detector}: {pixels}"),
        ((detector, tmp_path / "none.ppm"), f"cannot open {tmp_path / 'none.ppm'}"),
        ((tmp_path / "none.onnx", image), f"cannot open {tmp_path / 'none.onnx'}"),
        ((image, image), f"cannot open {image}: it is not a network that OpenVINO reads"),
        ((bare, image), f"{bare}: {detectors}"),
        ((pair, image), f"{pair}: {detectors}"),
    ):
        result = run_program(program, *files)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.splitlines()[-1] == message  # TensorFlow's reader has a log of its own
        assert len(result.stderr.splitlines()) == 1 or files == (image, image)
