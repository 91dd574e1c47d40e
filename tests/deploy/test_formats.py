"""Every kind of network in every format: numbers, and answers that equal ``inference.answers``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import SMALL, small_network
from tiny_networks import tiny

from hardnet_suite.deploy import export, formats
from hardnet_suite.deploy.agreement import TOLERANCES, equal_boxes
from hardnet_suite.deploy.formats import FORMATS, find_format, single_input
from hardnet_suite.deploy.formats.tensorrt_onnx import trtexec, unsupported
from hardnet_suite.deploy.outputs import answer_names, flatten, input_answers, output_names, unflatten
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.errors import UserError
from hardnet_suite.inference import Guesses, Mask, Placement, answers, to_input

SUFFIXES = {name: format.suffixes[0] for name, format in FORMATS.items()}
SIZES = {"hardnet39ds": (64, 96), "hardnet68": (64, 96), "hardnet85": (64, 64), "ssd512_hardnet68": None}
SIZES |= {"centernet_hardnet68": (128, 160), "fchardnet70": (96, 128), "hardnet_descriptor": None}
BOTH = {"preprocess": True, "postprocess": True}


def opened(network, path: Path, name: str, **options):
    """A file, its record and a function that runs it."""
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    export(network, path, format=name, **options)
    record = ExportRecord.from_json(FORMATS[name].read_metadata(path))
    return record, FORMATS[name].open(path, record=record, precision=None, threads=1)


def images(record: ExportRecord, count: int, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Pixels as the file's input rule makes them."""
    sides = size or record.input_shape[2:]
    return torch.randint(0, 256, (count, 3, *sides), dtype=torch.uint8)


def require_same(run, record: ExportRecord, network, pixels: torch.Tensor) -> None:
    inputs = to_input(pixels, record.usage.preprocess)
    given = pixels if "preprocess" in record.includes else inputs
    found = [torch.from_numpy(values) for values in run({record.input_name: given.contiguous().numpy()})]
    rule = record.usage.postprocess
    with torch.inference_mode():
        if "postprocess" not in record.includes or rule is None:
            for values, wanted in zip(found, flatten(network(inputs)), strict=True):
                torch.testing.assert_close(values, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())
            return
        size = tuple(pixels.shape[2:])
        places = [Placement(size, size)] * len(pixels)
        expected = answers(network, inputs, places, arch=network.arch, rule=rule)
    for answer, wanted in zip(
        input_answers(record.outputs, found, record.num_classes), expected, strict=True
    ):
        if isinstance(wanted, Mask):
            assert answer.mask.dtype == torch.uint8
            assert answer.mask.shape == wanted.mask.shape
            assert (answer.mask != wanted.mask).float().mean() < 1e-3
        elif isinstance(wanted, Guesses):
            torch.testing.assert_close(answer.scores, wanted.scores, rtol=1e-3, atol=1e-5)
            assert answer.labels[0] == wanted.labels[0]
        else:  # rounding decides the order of equal scores
            torch.testing.assert_close(answer.scores, wanted.scores, rtol=1e-3, atol=1e-4)
            equal, total = equal_boxes(answer, wanted, replace(rule, max_boxes=10**6), TOLERANCES["fp32"])
            assert total >= len(wanted.scores) > 0
            assert equal >= 0.98 * total


@pytest.mark.parametrize("format", ["onnx", "openvino", "torchscript", "torch-export"])
def test_files_do_not_name_folders_of_this_machine(format, tmp_path):
    opened(small_network("hardnet39ds"), path := tmp_path / f"a{SUFFIXES[format]}", format, size=64)
    package = Path(formats.__file__).parents[2]
    for file in FORMATS[format].parts(path):
        content = file.read_bytes()
        for folder in (package, Path(torch.__file__).parent, tmp_path):
            assert str(folder).encode() not in content


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("format", ["torchscript", "torch-export"])
def test_every_network_in_pytorchs_formats(format, name, inside, tmp_path):
    network = small_network(name)
    path = tmp_path / f"network{SUFFIXES[format]}"
    options = {"size": SIZES.get(name)} | (BOTH if inside else {})
    record, run = opened(network, path, format, **options)
    assert record.arch == SMALL[name]
    assert record.outputs == (answer_names(network.arch) if inside else output_names(network.arch))
    count = 3 if record.input_shape[0] == "N" else 1
    require_same(run, record, network, images(record, count))


@pytest.mark.parametrize("name", ["hardnet39ds", "ssd512_hardnet68", "centernet_hardnet68", "fchardnet70"])
def test_onnx_with_everything_inside(name, tmp_path):
    network = small_network(name)
    record, run = opened(network, tmp_path / "network.onnx", "onnx", size=SIZES[name], **BOTH)
    require_same(run, record, network, images(record, 1))


@pytest.mark.parametrize("name", ["ssd512_hardnet68", "hardnet_descriptor"])
def test_openvino(name, tmp_path):
    network = small_network(name)
    record, run = opened(network, tmp_path / "network.xml", "openvino", dynamic="batch", **BOTH)
    assert {file.name for file in tmp_path.iterdir()} == {"network.xml", "network.bin"}
    for count in (1, 3):
        require_same(run, record, network, images(record, count))
    first, kept = (images(record, 1).numpy() for _ in range(2))
    outputs = run(first)
    before = [values.copy() for values in outputs]
    run(kept)
    assert all(np.array_equal(*pair) for pair in zip(outputs, before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("dynamic", ["none", "batch", "size"])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("format", ["torchscript", "torch-export", "onnx", "openvino", "tensorrt-onnx"])
def test_every_network_in_every_format(format, name, dynamic, inside, tmp_path):
    network = small_network(name)
    is_fixed = any(word in name for word in ("ssd", "rfb", "descriptor"))
    if dynamic == "size" and is_fixed:
        pytest.skip("its size is fixed")
    path = tmp_path / f"network{SUFFIXES[format]}"
    options = {"dynamic": dynamic, "size": None if dynamic == "size" else SIZES.get(name)}
    if dynamic == "size":  # about as large as those that the statistics are of: other scores are all 1
        options["images"] = list(np.random.default_rng(0).integers(0, 256, (3, 160, 192, 3), np.uint8))
    record, run = opened(network, path, format, **options, **(BOTH if inside else {}))
    for size in [(192, 160), (256, 320)] if dynamic == "size" else [None]:
        for count in [1] if dynamic == "none" else [1, 3]:
            require_same(run, record, network, images(record, count, size))


@pytest.mark.parametrize("name", ["hardnet68", "fchardnet70", "centernet_hardnet68"])
@pytest.mark.parametrize("inside", [False, True])
def test_free_sizes(name, inside, tmp_path):
    network = small_network(name)
    options = BOTH if inside else {}
    record, run = opened(network, tmp_path / "network.pt", "torchscript", dynamic="size", **options)
    assert record.input_shape == ("N", 3, "H", "W")
    for count, size in ((1, (160, 128)), (2, (192, 320))):
        require_same(run, record, network, images(record, count, size))


def test_a_free_size_that_torch_export_cannot_have_is_one_error(tmp_path):
    """A pool that rounds up decides by the size which windows lie inside."""
    network = tiny("hardnet68")
    assert network.arch.first_pool_ceil
    with pytest.raises(UserError, match=r"torch\.export cannot express hardnet68: Constraints violated"):
        export(network, tmp_path / "network.pt2", dynamic="size")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("ssd512_hardnet68", {"class_agnostic": True}),
        ("ssd512_hardnet68", {"max_before_nms": 50}),
        ("ssd512_hardnet68", {"iou_threshold": None}),
        ("ssd512_hardnet68", {"clip": False, "max_boxes": 7, "iou_offset": 0}),
        ("centernet_hardnet68", {"flip": True, "score_threshold": 0.15}),
        ("centernet_hardnet68", {"clip": False, "max_boxes": 5}),
        ("fchardnet70", {"window": (64, 96), "stride": (48, 64)}),
    ],
)
def test_output_rules_inside(name, rule, tmp_path):
    network = small_network(name)
    network.usage = replace(network.usage, postprocess=replace(network.usage.postprocess, **rule))
    record, run = opened(network, tmp_path / "network.pt", "torchscript", size=SIZES[name], **BOTH)
    require_same(run, record, network, images(record, 1))


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_sliding_windows_of_a_free_batch(format, tmp_path):
    network = small_network("fchardnet70")
    rule = replace(network.usage.postprocess, window=(64, 96), stride=(48, 64))
    network.usage = replace(network.usage, postprocess=rule)
    path = tmp_path / f"network{SUFFIXES[format]}"
    record, run = opened(network, path, format, size=SIZES["fchardnet70"], dynamic="batch", **BOTH)
    for count in (1, 2, 3):
        require_same(run, record, network, images(record, count))


def test_without_boxes_all_rows_are_unused_and_nothing_can_be_compared(tmp_path, monkeypatch):
    network = small_network("ssd512_hardnet68")
    rule = replace(network.usage.postprocess, score_threshold=1.0)
    network.usage = replace(network.usage, postprocess=rule)
    with pytest.raises(UserError, match="on these images PyTorch finds no boxes"):
        export(network, tmp_path / "network.pt", **BOTH)
    assert not (tmp_path / "network.pt").exists()
    monkeypatch.setattr("hardnet_suite.deploy.exporting.require_agreement", lambda *_, **__: None)
    record, run = opened(network, tmp_path / "network.pt", "torchscript", **BOTH)
    boxes, scores, labels = run(images(record, 1).numpy())
    assert (labels == -1).all()
    assert (scores == -1).all()
    assert not boxes.any()


def test_one_class_becomes_a_mask_of_one(tmp_path):
    network = small_network("fchardnet70", num_classes=1)
    record, run = opened(network, tmp_path / "network.pt", "torchscript", size=(96, 96), **BOTH)
    require_same(run, record, network, images(record, 1))
    (mask,) = run(images(record, 1).numpy())
    assert {*np.unique(mask)} <= {0, 255}


def test_padding_of_the_input_rule_is_inside(tmp_path):
    """A mask has the size of the pixels, not that of the padded input."""
    network = small_network("fchardnet70")
    rule = replace(network.usage.preprocess, input_divisor=32, input_size=(128, 128), input_value=0.5)
    network.usage = replace(network.usage, preprocess=rule)
    record, run = opened(network, tmp_path / "network.pt", "torchscript", size=(70, 150), **BOTH)
    assert record.input_shape == (1, 3, 70, 150)
    require_same(run, record, network, images(record, 1))
    record, _ = opened(network, tmp_path / "outside.pt", "torchscript", size=(70, 150))
    assert record.input_shape == (1, 3, 128, 160)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["hardnet39ds", "fchardnet70", "hardnet_descriptor"])
def test_half_precision_has_float32_in_and_out(name, precision, tmp_path):
    network = small_network(name)
    path = tmp_path / "network.pt"
    record, run = opened(network, path, "torchscript", size=SIZES[name], precision=precision)
    inputs = to_input(images(record, 1), record.usage.preprocess)
    (out,) = run(inputs.contiguous().numpy())
    assert out.dtype == np.float32
    assert record.precision == precision
    with torch.inference_mode():
        expected = network(inputs).numpy()
    assert 1e-7 < np.abs(out - expected).max() < 0.1 * np.abs(expected).max()
    single = tmp_path / "single.pt"
    export(network, single, size=SIZES[name])
    assert path.stat().st_size < single.stat().st_size


def test_openvino_stores_halves(tmp_path):
    network = small_network("hardnet68")
    record, run = opened(network, tmp_path / "network.xml", "openvino", size=64, precision="fp16")
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert (tmp_path / "network.bin").stat().st_size < 3 * weights
    assert run(np.zeros((1, 3, 64, 64), np.float32))[0].dtype == np.float32
    assert record.precision == "fp16"


def test_tensorrt_reads_the_operators(tmp_path):
    onnx = pytest.importorskip("onnx")
    network = small_network("ssd512_hardnet68")
    path = tmp_path / "network.onnx"
    record, run = opened(network, path, "tensorrt-onnx", dynamic="batch", **BOTH)
    require_same(run, record, network, images(record, 2))
    model = onnx.load(path)
    assert list(unsupported(model)) == []
    assert trtexec("a b.onnx", record) == (
        "trtexec '--onnx=a b.onnx' '--saveEngine=a b.engine' --minShapes=pixels:1x3x64x64 "
        "--optShapes=pixels:1x3x64x64 --maxShapes=pixels:16x3x64x64"
    )
    model.graph.node[0].op_type = "Unique"
    model.opset_import[0].version = 24
    assert list(unsupported(model)) == [
        "opset 24, expected 9 to 20",
        "the operator Unique",
        "8-bit numbers in Unique: they may only be cast",
    ]


def test_what_tensorrt_does_not_read_is_not_written(tmp_path, monkeypatch):
    from hardnet_suite.deploy.formats import tensorrt_onnx

    monkeypatch.setattr(tensorrt_onnx, "OPERATORS", tensorrt_onnx.OPERATORS - {"Conv"})
    with pytest.raises(UserError, match=r"TensorRT does not support .*: the operator Conv"):
        export(small_network("hardnet_descriptor"), tmp_path / "network.onnx", format="tensorrt-onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_files_of_other_programs_have_no_record(name, tmp_path):
    format = FORMATS[name]
    for content in (b"", b"\0" * 100, b"PK\x03\x04" + b"x" * 50, b"<xml/>", b"<net><rt_info/></net>"):
        path = tmp_path / f"file{SUFFIXES[name]}"
        path.write_bytes(content)
        assert format.read_metadata(path) is None
    torch.save({"a": torch.zeros(2)}, path)
    assert format.read_metadata(path) is None
    assert format.read_metadata(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["onnx", "torchscript", "torch-export", "openvino"])
def test_a_damaged_file_is_one_error(name, tmp_path):
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    network = small_network("hardnet_descriptor")
    path = tmp_path / f"network{SUFFIXES[name]}"
    export(network, path, format=name)
    record = ExportRecord.from_json(FORMATS[name].read_metadata(path))
    broken = FORMATS[name].parts(path)[-1]
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 3])
    with pytest.raises(UserError, match="network"):
        FORMATS[name].open(path, record=record, precision=None, threads=None)


@pytest.mark.parametrize(
    ("name", "precision"), [("onnx", "bf16"), ("torchscript", "fp16"), ("openvino", "int4")]
)
def test_a_precision_that_the_engine_lacks(name, precision, tmp_path):
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    network = small_network("hardnet_descriptor")
    path = tmp_path / f"network{SUFFIXES[name]}"
    export(network, path, format=name)
    record = ExportRecord.from_json(FORMATS[name].read_metadata(path))
    with pytest.raises(UserError, match="comput"):
        FORMATS[name].open(path, record=record, precision=precision, threads=None)


def test_inputs_by_name():
    array = np.zeros(3)
    assert single_input(array, "images") is array
    assert single_input({"images": array}, "images") is array
    with pytest.raises(UserError, match="expected the input 'images', got 'pixels'"):
        single_input({"pixels": array}, "images")


@pytest.mark.parametrize("name", SMALL)
def test_outputs_flatten_and_unflatten(name):
    network = small_network(name)
    side = network.patch if hasattr(network, "patch") else getattr(network.arch, "size", 128)
    channels = 1 if hasattr(network, "patch") else 3
    with torch.inference_mode():
        out = network(torch.rand(1, channels, side, side))
    names = output_names(network.arch)
    tensors = flatten(out)
    assert len(names) == len(tensors)
    again = unflatten(names, tensors)
    torch.testing.assert_close(again, out, rtol=0, atol=0)
    with pytest.raises(UserError, match="outputs"):
        unflatten(names, tensors[:-1])


def test_formats_are_found_by_name_and_suffix():
    assert find_format(None, "a.ONNX").name == "onnx"
    assert find_format("TensorRT_ONNX", "a.onnx").name == "tensorrt-onnx"
    assert find_format("torch-export", "a.pt2").engine == "torch"
    assert formats.FORMATS["openvino"].parts("x/a.b.xml") == (Path("x/a.b.xml"), Path("x/a.b.bin"))
    with pytest.raises(UserError, match=r"the name of a file in format openvino must end in \.xml"):
        find_format("openvino", "a.onnx")
