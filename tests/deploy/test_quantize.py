import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import SIDES, tiny
from torch import nn

from hardnet_suite.deploy import DisagreementError, Quantization, agreement, quantize
from hardnet_suite.deploy.exporting import export_file
from hardnet_suite.deploy.formats import FORMATS
from hardnet_suite.deploy.quantize import QUANTIZERS
from hardnet_suite.deploy.session import open_in_precision, open_session
from hardnet_suite.errors import UserError
from hardnet_suite.inference import Guesses
from hardnet_suite.networks import ARCHS, SSDArch, build_network

pytest.importorskip("onnxruntime", exc_type=ImportError)
KINDS = ["hardnet68", "hardnet39ds", "fchardnet70", "ssd512_hardnet68", "centernet_hardnet68"]


def require(format: str) -> None:
    if format not in FORMATS:
        pytest.skip(f"no format {format}")
    for package in {"openvino": ("openvino", "nncf")}.get(format, ()):
        pytest.importorskip(package, exc_type=ImportError)


@pytest.fixture(scope="module")
def textures() -> list[np.ndarray]:
    """Images of the kind that the tiny networks' statistics are of."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(12)]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", KINDS)
def test_networks_of_each_kind(name, format, textures, tmp_path):
    require(format)
    path = tmp_path / f"net{FORMATS[format].suffixes[0]}"
    network = tiny(name)
    settings = Quantization(textures, max_drop=100)
    export = export_file(network, path, size=SIDES[name], precision="int8", quantization=settings)
    assert export.record.precision == "int8"
    assert 0 < export.agreement.values < 1  # neither the same nor something else
    session = open_session(path)
    assert session.precision == "int8"
    assert session.record == export.record


def integer_nodes(path: Path) -> int:
    """The number of tensors that a file rounds to integers."""
    if path.suffix == ".xml":
        return path.read_text().count('type="FakeQuantize"')
    import onnx

    return sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["ssd512_hardnet68", "rfb512_hardnet68", "centernet_hardnet68"])
def test_decoding_stays_in_float(name, format, textures, tmp_path):
    require(format)
    network, suffix = tiny(name), FORMATS[format].suffixes[0]
    drops = []
    for inside, path in ((), tmp_path / f"raw{suffix}"), (("postprocess",), tmp_path / f"boxes{suffix}"):
        export = export_file(
            network,
            path,
            size=SIDES[name],
            precision="int8",
            includes=inside,
            quantization=Quantization(textures, max_drop=100),
        )
        drops.append(export.agreement.drop or 0)
    assert integer_nodes(tmp_path / f"boxes{suffix}") == integer_nodes(tmp_path / f"raw{suffix}") > 10
    assert drops[1] <= drops[0] + 5


def test_nodes_behind_the_last_layers():
    sources = {"in": [], "conv": ["in"], "cat": ["conv", "in"], "box": ["cat"], "cls": ["cat"]}
    sources |= {"flat": ["box"], "all": ["flat", "cls", "priors"], "priors": [], "mean": ["conv"]}
    order = ["in", "conv", "cat", "box", "cls", "flat", "priors", "all", "mean"]
    layers = {node: [f"{node}.weight"] if node in ("conv", "box", "cls") else [] for node in order}
    assert quantize._decoding(layers, sources) == ["flat", "priors", "all", "mean"]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_centernets_outputs_have_more_than_256_values(format, textures, tmp_path):
    """Neighbours of the same value on the heat map would both be peaks, so that an object is found twice."""
    require(format)
    network, path = tiny("centernet_hardnet68"), tmp_path / f"net{FORMATS[format].suffixes[0]}"
    settings = Quantization(textures, max_drop=100)
    side = 2 * SIDES["centernet_hardnet68"]
    export_file(network, path, size=side, precision="int8", quantization=settings)
    with torch.no_grad():
        outputs = open_session(path)(torch.rand(1, 3, side, side))
    for name, values in outputs.items():
        assert len(values.unique()) > min(256, values.numel() // 2), name


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_presets_and_kept_layers_have_an_effect(format, textures, tmp_path):
    require(format)
    network = tiny("hardnet68")
    images = torch.rand(2, 3, 64, 64)
    outputs = {}
    for words, options in {
        "mixed": {},
        "performance": {"preset": "performance"},
        "kept": {"keep": ("trunk.stem.", "fc")},
        "all kept": {"keep": ("trunk.", "fc.")},
    }.items():
        path = tmp_path / f"{words}{FORMATS[format].suffixes[0]}"
        settings = Quantization(textures, max_drop=100, **options)
        export_file(network, path, size=64, precision="int8", quantization=settings)
        outputs[words] = open_session(path)(images)
    assert len({tuple(each.flatten().tolist()) for each in outputs.values()}) == 4
    with torch.inference_mode():
        expected = network(images)
    errors = {words: (each - expected).abs().max() for words, each in outputs.items()}
    assert errors["all kept"] < errors["mixed"]


@pytest.mark.parametrize("format", QUANTIZERS)
def test_a_file_in_int8_computes_in_int8_and_says_so(format, textures, tmp_path):
    path = tmp_path / f"net{FORMATS[format].suffixes[0]}"
    export_file(
        tiny("hardnet68"), path, size=64, precision="int8", quantization=Quantization(textures, max_drop=100)
    )
    assert open_session(path).precision == "int8"
    for precision in ("fp32", "fp16", "nonsense"):
        with pytest.raises(UserError, match=rf"net\.(xml|onnx).*(not in {precision}|holds int8)"):
            open_session(path, precision=precision)
    with pytest.raises(UserError, match=r"not in fp32|holds int8"):
        open_in_precision(path, "float32")
    try:  # where the processor has bfloat16
        session = open_session(path, precision="bf16")
    except UserError as error:
        assert format == "onnx" or "no int8+bf16 on this processor" in str(error)  # noqa: PT017
    else:
        assert (format, session.precision) == ("openvino", "int8+bf16")
    session, choice = open_in_precision(path, "auto")
    assert session.precision == choice.precision
    assert session.precision.startswith("int8")


def test_a_larger_drop_keeps_the_former_file(textures, tmp_path):
    path = tmp_path / "net.onnx"
    network = tiny("fchardnet70")
    export_file(network, path, size=96)
    before = path.read_bytes()
    with pytest.raises(DisagreementError, match="% of pixels equal PyTorch's, expected 100 %"):
        export_file(network, path, size=96, precision="int8", quantization=Quantization(textures, max_drop=0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_descriptors_are_held_to_their_neighbours(textures, tmp_path, monkeypatch):
    network = tiny("hardnet_descriptor")
    path = tmp_path / "net.onnx"
    export = export_file(network, path, precision="int8", quantization=Quantization(textures))
    assert export.agreement.unit == "nearest patches"
    assert 0.9 <= export.agreement.answers <= 1

    def noise(source, target, inputs, record, keep, preset):
        with torch.no_grad():
            broken = tiny("hardnet_descriptor")
            broken.features[0].weight.copy_(torch.randn_like(broken.features[0].weight))
        export_file(broken, target)

    monkeypatch.setitem(quantize.QUANTIZERS, "onnx", noise)
    before = path.read_bytes()
    with pytest.raises(DisagreementError, match="% of nearest patches equal PyTorch's, expected 90 %"):
        export_file(network, path, precision="int8", quantization=Quantization(textures))
    assert path.read_bytes() == before


def test_images_are_spread_over_the_source(tmp_path, textures, monkeypatch):
    seen = []

    def keep(source, target, inputs, record, keep, preset):
        seen.extend(inputs)
        raise UserError("enough")

    monkeypatch.setitem(quantize.QUANTIZERS, "onnx", keep)
    network = tiny("hardnet68")
    settings = Quantization([np.full((64, 64, 3), value, np.uint8) for value in range(10)], count=5)
    with pytest.raises(UserError, match="enough"):
        export_file(
            network,
            tmp_path / "net.onnx",
            size=64,
            includes=("preprocess",),
            precision="int8",
            quantization=settings,
        )
    assert [int(each.max()) for each in seen] == [0, 2, 4, 6, 8]


def test_settings_that_make_no_sense(tmp_path, textures):
    network = tiny("hardnet68")
    with pytest.raises(UserError, match="needs images to calibrate on, got None"):
        Quantization(None)
    with pytest.raises(UserError, match="int8 needs a quantization"):
        export_file(network, tmp_path / "net.onnx", precision="int8")
    with pytest.raises(UserError, match="for the precision int8, got fp32"):
        export_file(network, tmp_path / "net.onnx", quantization=Quantization(textures))
    with pytest.raises(UserError, match="has no precision 'int8'"):
        export_file(
            network, tmp_path / "net.pt", precision="int8", quantization=Quantization(textures), size=64
        )
    with pytest.raises(UserError, match=r"no layer of the network begins with 'head'; there are trunk\."):
        export_file(
            network,
            tmp_path / "net.onnx",
            precision="int8",
            size=64,
            quantization=Quantization(textures, keep=("head",)),
        )
    with pytest.raises(UserError, match="no such"):
        export_file(
            network,
            tmp_path / "net.onnx",
            precision="int8",
            size=64,
            quantization=Quantization(Path("missing")),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"preset": "fast"}, {"count": 0}, {"count": 1.5}, {"max_drop": -1}, {"max_drop": 101}]
)
def test_bad_settings(options):
    with pytest.raises(UserError, match=r"expected|must be"):
        Quantization("images", **options)


@pytest.mark.parametrize(
    "images",
    [
        iter([]),
        (each for each in "ab"),
        [iter([])],
        0,
        "0",
        "camera:1",
        ["a.png", "camera:1"],
        "http://a/b.mp4",
    ],
)
def test_images_that_are_there_only_once(images):
    with pytest.raises(UserError, match="images to calibrate on are read several times: expected a list"):
        Quantization(images)


def test_open_files_are_read_again(textures, tmp_path):
    files = []
    for each in textures:
        files.append(io.BytesIO())
        Image.fromarray(each).save(files[-1], "png")
    made = {}
    for name, images in {"files": files, "arrays": textures}.items():
        settings = Quantization(images, max_drop=100)
        made[name] = export_file(
            tiny("hardnet68"), tmp_path / f"{name}.onnx", size=64, precision="int8", quantization=settings
        )
    assert made["files"].agreement == made["arrays"].agreement
    assert made["files"].agreement.images == len(textures)


@pytest.mark.parametrize("name", sorted(ARCHS))
def test_layers_in_float_are_layers(name):
    arch = ARCHS[name]
    with torch.device("meta"):
        network = build_network(name)
    names = [key for key, _ in network.named_parameters()]
    layers = quantize.layers_in_float(arch)
    assert all(any(key.startswith(layer) for key in names) for layer in layers)
    # RFB Net has a receptive field block in place of L2Norm
    assert ("neck.norm." in layers) == (isinstance(arch, SSDArch) and arch.fields is None)


def test_convolutions_that_read_shares_stay_in_float():
    """Exactly those layers of CenterNet's blocks that link to the block's input, beside its last ones."""
    with torch.device("meta"):
        network = build_network("centernet_hardnet68")
    reading = {
        f"{name}.layers.{index}."
        for name, block in network.decoder.named_modules(prefix="decoder")
        if hasattr(block, "links")
        for index, links in enumerate(block.links)
        if 0 in links
    }
    assert {*quantize.layers_in_float(network.arch)} == reading | {"hm.2.", "wh.2."}
    assert len(reading) > 10


@pytest.mark.parametrize("keep", ["fc", ("",), (3,)])
def test_layers_to_keep_are_names(textures, keep):
    with pytest.raises(UserError, match="keep must be a tuple of beginnings of names"):
        Quantization(textures, keep=keep)


def test_classes_that_are_all_unlikely_are_told_apart():
    expected = Guesses(torch.arange(1000), torch.linspace(0.0011, 0.0009, 1000))
    tolerance = Quantization([]).tolerance
    counted = [
        agreement._equal(Guesses(torch.tensor([label]), torch.tensor([0.001])), expected, None, tolerance)
        for label in (0, 10, 999)
    ]
    assert counted == [(1, 1), (1, 1), (0, 1)]


@pytest.mark.parametrize("inside", [False, True])
def test_boxes_that_never_score_are_nothing_to_compare(textures, tmp_path, inside):
    network = tiny("ssd512_hardnet68")
    for layer in network.cls:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)  # each class is as likely as the background
    usage = network.usage
    network.usage = replace(usage, postprocess=replace(usage.postprocess, score_threshold=0.9))
    path = tmp_path / "net.xml"
    with pytest.raises(DisagreementError, match="nothing to compare: on these images PyTorch finds no boxes"):
        export_file(
            network,
            path,
            precision="int8",
            includes=("postprocess",) if inside else (),
            quantization=Quantization(textures),
        )
    assert not path.exists()


@pytest.mark.parametrize("dynamic", ["batch", "size"])
def test_openvino_has_no_free_dimensions_in_integers(dynamic, textures, tmp_path):
    """Its engine is less accurate then; a fixed batch of several images is not."""
    network, settings = tiny("hardnet68"), Quantization(textures, max_drop=100)
    options = {"precision": "int8", "quantization": settings}
    with pytest.raises(UserError, match=f"openvino and int8 has no dynamic {dynamic}"):
        export_file(network, tmp_path / "net.xml", dynamic=dynamic, **options)
    assert list(tmp_path.iterdir()) == []
    exported = export_file(network, tmp_path / "net.xml", size=64, batch=2, **options)
    assert exported.record.input_shape == (2, 3, 64, 64)


@pytest.mark.parametrize(("format", "shape"), [("openvino", (1, 1, 32, 32)), ("onnx", ("N", 1, 32, 32))])
def test_patches_of_a_free_number_where_the_format_has_it(format, shape, textures, tmp_path):
    network = build_network("hardnet_descriptor").eval()
    path = tmp_path / f"net{FORMATS[format].suffixes[0]}"
    patches = [texture[:32, :32, 0] for texture in textures]
    settings = Quantization(patches, max_drop=100)
    exported = export_file(network, path, format=format, precision="int8", quantization=settings)
    assert tuple(exported.record.input_shape) == shape


@pytest.mark.parametrize("name", ["hardnet68", "fchardnet70"])
def test_a_misspelt_layer_is_told_before_the_graph_is_written(name, textures, tmp_path, monkeypatch):
    def write(*args, **options):
        raise AssertionError("the graph was written")

    monkeypatch.setattr("hardnet_suite.deploy.formats.onnx.write", write)
    settings = Quantization(textures, keep=("trunk.stemm",))
    with pytest.raises(UserError, match=r"no layer of the network begins with 'trunk\.stemm'"):
        export_file(tiny(name), tmp_path / "net.onnx", size=64, precision="int8", quantization=settings)
