"""Timings of models: what is counted, in which order they run, and what is refused. No time is asserted."""

from __future__ import annotations

import csv
import json
import re
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_networks import tiny
from torch import nn

import hardnet_suite
from hardnet_suite import create_model
from hardnet_suite.deploy import benchmark as module
from hardnet_suite.deploy import export, peers, runners
from hardnet_suite.deploy.benchmark import (
    PROTOCOLS,
    Comparison,
    Timing,
    benchmark,
    best_of_each,
    compare,
    label,
)
from hardnet_suite.deploy.formats import Format
from hardnet_suite.deploy.peers import PEERS, peers_of, published
from hardnet_suite.deploy.runners import EngineForm, Setting
from hardnet_suite.deploy.steps import STEPS, transformed
from hardnet_suite.errors import UserError
from hardnet_suite.matching import load_descriptor
from hardnet_suite.weights import WeightsSource, find
from hardnet_suite.weights.places import SHIPPED

QUICK = {"rounds": 1, "passes": 1, "warmup": 0, "memory": False, "device": "cpu"}


def timing(*seconds: float, model: str = "a", **changes) -> Timing:
    values = {"height": 8, "width": 8, "batch": 2, "parameters": 10, "macs": 600, "cio": 90}
    return Timing(model, changes.pop("setting", Setting()), seconds=seconds, **(values | changes))


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images):
        return self.layers(images)


@pytest.fixture
def order(monkeypatch) -> list[tuple[str, str]]:
    """(model, engine) of each pass in turn; nothing is computed in them."""
    ran: list[tuple[str, str]] = []

    def prepare(network, inputs, setting, folder):
        return EngineForm(setting, network=network)

    def make_pass(prepared, inputs):
        return lambda: ran.append((type(prepared.network).__name__, prepared.setting.engine))

    monkeypatch.setattr(module, "prepare", prepare)
    monkeypatch.setattr(module, "make_pass", make_pass)
    return ran


def test_statistics_of_made_seconds():
    made = timing(*[0.010] * 18, 0.030, 0.050)
    assert (made.median, made.minimum, made.p95) == (0.010, 0.010, 0.030)
    assert made.throughput == pytest.approx(2 / 0.010)
    assert made.bytes_moved == 4 * 100
    assert timing(1.0, setting=Setting(precision="bf16")).bytes_moved == 2 * 100
    assert timing(2.0, 9.0, 3.0).ratio_to(timing(1.0, 9.0, 1.0)) == 2


def test_best_of_each_is_by_the_median():
    slow, fast = timing(3.0, 0.1, 3.0), timing(2.0, 2.0, 2.0, setting=Setting("fused"))
    other = timing(9.0, model="b")
    assert best_of_each([slow, other, fast]) == {"a": fast, "b": other}


def test_models_and_settings_take_turns(order):
    class Other(Tiny):
        pass

    comparison = compare(
        [Tiny().eval(), Other().eval()],
        **QUICK | {"rounds": 2, "passes": 2, "warmup": 1},
        engines=["eager", "fused"],
        sizes=[16],
    )
    forward = [("Tiny", "eager"), ("Tiny", "fused"), ("Other", "eager"), ("Other", "fused")]
    twice = [each for each in forward for _ in range(2)]
    assert order == [*forward, *forward, *twice, *reversed(twice)]  # tried, warmed up, then the rounds
    assert [(each.model, each.setting.engine) for each in comparison.timings] == forward
    assert {len(each.seconds) for each in comparison.timings} == {4}


def test_the_device_itself_is_waited_for(order, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(module, "_settled_device", lambda device: device)
    monkeypatch.setattr(module, "machine", lambda device, threads: {})
    network = create_model("hardnet39ds").eval()
    compare([network], **QUICK | {"device": "cuda:1"}, engines=["eager", "onnxruntime"], sizes=[64])
    assert len(waited) > 4  # of the passes, and of the copies of inputs
    assert {*waited} == {torch.device("cuda:1")}


def test_a_graph_is_captured_on_its_device(monkeypatch):
    entered: list[tuple[str, object]] = []

    @contextmanager
    def on(kind, value):
        entered.append((kind, value))
        yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, made in {
        "device": lambda device: on("device", device),
        "Stream": lambda: stream,
        "stream": lambda value: on("stream", value),
        "current_stream": lambda: stream,
        "CUDAGraph": lambda: SimpleNamespace(replay="replay"),
        "graph": lambda graph, stream: on("graph", stream),
    }.items():
        monkeypatch.setattr(torch.cuda, name, made)
    inputs = SimpleNamespace(device=torch.device("cuda:1"))
    assert runners._graph_pass(lambda images: entered.append(("pass", images)), inputs) == "replay"
    passes = [("pass", inputs)] * 3
    assert entered == [
        *[("device", inputs.device), ("stream", stream), *passes],
        *[("graph", stream), passes[0]],
    ]


def test_each_size_and_batch_is_a_group(order):
    comparison = compare([Tiny().eval()], **QUICK, sizes=[16, (8, 24)], batches=[1, 3])
    groups = dict(comparison.groups())
    assert list(groups) == [(16, 16, 1), (16, 16, 3), (8, 24, 1), (8, 24, 3)]
    counted = {key: group[0].macs for key, group in groups.items()}
    assert counted[16, 16, 1] == 4 * 3 * 9 * 14 * 14
    assert counted[8, 24, 3] == 3 * 4 * 3 * 9 * 6 * 22
    assert groups[8, 24, 1][0].cio == 3 * 8 * 24 + 4 * 6 * 22


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["hardnet39ds", "mobilenet_v2"], {(224, 224, 1): 2}),
        (["hardnet39ds", "ssd224_hardnet29", "hardnet_descriptor"], {(224, 224, 1): 2, (32, 32, 1): 1}),
        (["resnet50", "ssd300_vgg16"], {(224, 224, 1): 1, (300, 300, 1): 1}),
        (["fchardnet70", "lraspp_mobilenet_v3_large"], {(1024, 2048, 1): 2}),
        (["ssd320_hardnet39ds", "ssd300_vgg16", "resnet50"], {(320, 320, 1): 2, (224, 224, 1): 1}),
        (["centernet_hardnet68"], {(512, 512, 1): 1}),
    ],
)
def test_usual_sizes(models, expected):
    groups = module._groups([module._subject(name) for name in models], None, [1])
    assert {key: len(group) for key, group in groups.items()} == expected


def test_models_of_one_name_are_told_apart():
    networks = [create_model("hardnet39ds", num_classes=count) for count in (10, 1000)]
    comparison = compare(["hardnet39ds", *networks], **QUICK, sizes=[64, (64, 64)], batches=[1, 1])
    rows = {each.model: each.parameters for each in comparison.timings}
    assert rows == {
        "hardnet39ds": 3_488_228,
        "hardnet39ds (2)": 2_473_478,
        "hardnet39ds (3)": 3_488_228,
    }
    assert len(comparison.timings) == len(best_of_each(comparison.timings)) == 3


def test_files_are_told_apart_by_as_many_folders_as_that_takes():
    def subject(name, path):
        weights = None if path is None else WeightsSource(Path(path), "0" * 64)
        return module.Subject(name, lambda: None, (1, 1), 3, weights=weights)

    def names(*paths):
        subjects = [subject("a", path) for path in paths]
        module._name_files(subjects)
        module._number_equal_names(subjects)
        return [each.name for each in subjects]

    assert names(None, "/x/best.pth") == ["a", "a (best.pth)"]
    assert names("/x/1/best.pth", "/y/1/best.pth", "/x/1/../1/best.pth", None) == [
        *("a (x/1/best.pth)", "a (y/1/best.pth)", "a (x/1/best.pth) (2)", "a")
    ]
    assert names("/best.pth", "/x/best.pth") == ["a (//best.pth)", "a (x/best.pth)"]


def test_a_loaded_model_is_its_file():
    row = find("hardnet39ds", "tiny_imagenet10")
    model = hardnet_suite.load_model("hardnet39ds", weights=row.tag)
    descriptor = load_descriptor("hardnet_descriptor")
    timings = compare([model, descriptor], **QUICK, sizes=[(32, 32)]).timings
    assert [each.weights.row.tag for each in timings] == [row.tag, "homography"]
    assert timings[0].model == f"hardnet39ds ({row.shipped})"
    assert timings[0].to_dict()["weights"] == {
        "path": str(SHIPPED / row.shipped),
        "sha256": row.sha256,
        "tag": row.tag,
    }


def test_a_real_run_measures_and_counts():
    network = create_model("hardnet39ds").eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    comparison = compare(
        [network], **QUICK, engines=["eager", "fused"], sizes=[64], channels_last=[False, True]
    )
    assert not comparison.failures
    assert [label(each.setting) for each in comparison.timings] == [
        "eager fp32",
        "eager fp32 nhwc",
        "fused fp32",
        "fused fp32 nhwc",
    ]
    for each in comparison.timings:
        assert (each.model, each.parameters, each.macs) == ("hardnet39ds", 3_488_228, 35_999_304)
        assert each.minimum > 0
        assert each.input_seconds > 0
        assert each.peak_memory is None
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_json_has_everything():
    comparison = compare([Tiny().eval()], **QUICK | {"passes": 2}, sizes=[16])
    content = json.loads(comparison.to_json(roofline={"copy": 1.0}))
    assert content["hardnet-suite benchmark"] == 1
    assert content["roofline"] == {"copy": 1.0}
    assert {"cpu", "threads", "load", "versions"} <= set(content["machine"])
    (row,) = content["timings"]
    assert set(row) == {
        *(
            "model",
            "weights",
            "engine",
            "precision",
            "channels_last",
            "device",
            "threads",
            "height",
            "width",
            "batch",
        ),
        *("parameters", "macs", "cio", "peak_memory", "input_ms", "median_ms", "min_ms", "p95_ms"),
        *("images_per_second", "ms"),
    }
    assert len(row["ms"]) == 2
    assert content["failures"] == []


def test_what_an_engine_cannot_run_does_not_end_the_others(monkeypatch):
    prepare = module.prepare

    def fragile(network, inputs, setting, folder):
        if setting.engine == "fused":
            raise RuntimeError("no kernel for this\nand a stack trace")
        return prepare(network, inputs, setting, folder)

    monkeypatch.setattr(module, "prepare", fragile)
    said: list[str] = []
    comparison = compare([Tiny().eval()], **QUICK, engines=["fused", "eager"], sizes=[16], say=said.append)
    assert [each.setting.engine for each in comparison.timings] == ["eager"]
    (failure,) = comparison.failures
    assert (failure.model, failure.setting.engine, failure.reason) == ("Tiny", "fused", "no kernel for this")
    assert "fused fp32 cannot run Tiny: no kernel for this" in said
    assert json.loads(comparison.to_json())["failures"][0]["reason"] == "no kernel for this"
    with pytest.raises(UserError, match="Tiny does not run in fused: no kernel for this"):
        benchmark(Tiny().eval(), **QUICK, engine="fused", size=16)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("engine", runners.PYTORCH)
def test_forms_are_made_by_the_steps_of_deploy(engine, precision, monkeypatch, tmp_path):
    """There is one table of transforms: what changes there changes here."""
    made = []
    for step in STEPS:
        monkeypatch.setitem(STEPS, step, lambda network, _, step=step: made.append(step) or network)
    images = torch.rand(1, 3, 16, 16)
    form = runners.prepare(Tiny().eval(), images, Setting(engine, precision), tmp_path)
    if engine not in ("compile", "cudagraphs") and precision == "fp32":
        runners.make_pass(form, images)()
    casts = () if precision == "fp32" else (precision,)
    steps = [step for step in runners.PYTORCH[engine] if step != "pack" or precision == "fp32"]
    assert made == [*steps, *casts]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("engine", ["eager", "fused", "split", "onnxruntime"])
def test_networks_of_another_precision_run_in_that_of_the_setting(engine, dtype):
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    network = create_model("hardnet39ds").eval().to(dtype)
    comparison = compare([network], **QUICK, engines=[engine], sizes=[64])
    assert not comparison.failures
    assert next(network.parameters()).dtype == dtype


def test_the_public_function_is_one_timing():
    made = hardnet_suite.benchmark(Tiny().eval(), **QUICK, size=(16, 24), batch=2)
    assert isinstance(made, hardnet_suite.Timing)
    assert (made.height, made.width, made.batch, len(made.seconds)) == (16, 24, 2, 1)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnet5", {}, "unknown model 'resnet5'; did you mean resnet50"),
        ("nothing_like_it", {}, "known: centernet_hardnet39ds.*of other packages: resnet50"),
        ("hardnet68", {"engine": "onyxruntime"}, "unknown engine 'onyxruntime'; .*known: eager, fused"),
        (
            "hardnet68",
            {"precision": "fp8"},
            "unknown precision 'fp8'; known: fp32, bf16, fp16, int8, int8\\+bf16",
        ),
        ("hardnet68", {"size": 16}, "hardnet68 at 16×16: it takes 32×32 pixels or more"),
        ("hardnet68", {"size": 0}, "the size 0×0 is out of range"),
        ("hardnet68", {"size": (1 << 20, 1 << 20)}, "is out of range"),
        ("fchardnet70", {"size": 48}, "fchardnet70 at 48×48: it takes 64×64 pixels or more"),
        ("centernet_hardnet68", {"size": 500}, "both sides must be multiples of 32"),
        ("ssd512_hardnet68", {"size": 300}, "ssd512_hardnet68 at 300×300: it takes 512×512 pixels alone"),
        ("hardnet_descriptor", {"size": 64}, "it takes 32×32 pixels alone"),
        ("mobilenet_v2", {"batch": 0}, "batch 0: expected an integer from 1 to"),
        ("mobilenet_v2", {"rounds": 0}, "rounds 0: expected"),
        ("mobilenet_v2", {"passes": -1}, "passes -1: expected"),
        ("mobilenet_v2", {"warmup": -1}, "warmup -1: expected"),
        ("mobilenet_v2", {"threads": 0}, "threads 0: expected"),
        ("mobilenet_v2", {"device": "cuda:99"}, "cannot compute on the device cuda:99"),
        ("mobilenet_v2", {"engine": "cudagraphs"}, "the engine cudagraphs needs a CUDA device"),
        (3, {}, "expected a model's name or a network, got a int"),
    ],
)
def test_what_is_refused_before_anything_is_timed(model, options, message, monkeypatch):
    monkeypatch.setattr(module, "interleaved", lambda *args, **options: pytest.fail("timed"))
    with pytest.raises(UserError, match=message):
        benchmark(model, **QUICK | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"engines": ("eager", "fused")},
            r"got engines=\('eager', 'fused'\): use compare instead",
        ),
        ({"engine": "fused", "engines": ("eager",)}, "one setting, got engines="),
        ({"precisions": ["fp32"]}, "one setting, got precisions="),
        ({"sizes": [16, 32]}, "one setting, got sizes="),
        ({"batches": (2, 4)}, "one setting, got batches="),
        (
            {"channels_last": (True, False)},
            r"channels_last=\(True, False\): expected one bool; compare",
        ),
        ({"engine": ("eager", "fused")}, r"engine=\('eager', 'fused'\): expected one str"),
        ({"precision": ["fp32", "bf16"]}, r"precision=\['fp32', 'bf16'\]: expected one str"),
        ({"batch": (2, 4)}, r"batch \(2, 4\): expected an integer"),
        ({"size": [(16, 16), (32, 32)]}, "out of range"),
    ],
)
def test_one_timing_is_of_one_setting(options, message, monkeypatch):
    monkeypatch.setattr(module, "interleaved", lambda *args, **options: pytest.fail("timed"))
    with pytest.raises(UserError, match=message):
        benchmark(Tiny().eval(), **QUICK | options)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_layout_of_one_timing(channels_last):
    made = benchmark(Tiny().eval(), **QUICK, size=16, channels_last=channels_last)
    assert made.setting.channels_last == channels_last


@pytest.mark.parametrize(
    "options",
    [{"engines": "eager"}, {"precisions": "fp32"}, {"channels_last": True}, {"sizes": 16}, {"batches": 2}],
)
def test_one_value_in_place_of_a_sequence(options):
    ((name, value),) = options.items()
    message = re.escape(f"{name}={value!r}: expected a sequence, such as [{value!r}]")
    with pytest.raises(UserError, match=message):
        compare([Tiny().eval()], **QUICK | options)
    with pytest.raises(UserError, match="models='hardnet68': expected a sequence"):
        compare("hardnet68", **QUICK)


def test_nothing_to_time():
    with pytest.raises(UserError, match="no model to time"):
        compare([], **QUICK)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="hgnetv2_b4 is a network of timm: pip install timm"):
        benchmark("hgnetv2_b4", **QUICK)
    assert peers_of("classification") == []


class Levels(Tiny):
    """Returns maps as a detector does."""

    def forward(self, images):
        maps = super().forward(images)
        return {"cls": [maps, maps[:, :2]], "box": maps + 1}


class FakeFormat:
    """A format of another engine, as ``deploy.formats`` describes them; its file is a pickled network."""

    name, engine, suffixes, packages, precisions = "fake", "fakeruntime", (".fake",), (), ("fp32", "fp16")
    halves, network_precision = True, Format.network_precision

    def __init__(self):
        self.written, self.opened = [], []

    def require_packages(self, *, to_write):
        assert to_write

    def write(self, network, example, path, *, record, dynamic):
        with torch.no_grad():
            assert len(network(example)) == len(record.outputs)
        self.written.append((record, dynamic, example.dtype))
        path.write_bytes(b"")

    def open(self, path, *, record, precision, threads):
        assert path.exists()
        self.opened.append((record.precision, precision, threads))
        return lambda array: [array]


@pytest.mark.parametrize(
    ("precision", "in_file", "name"),
    [("fp32", "fp32", "FakeRuntime"), ("fp16", "fp16", "fake"), ("bf16", "fp32", "fake-runtime")],
)
def test_other_engines_run_through_the_writers_of_export(monkeypatch, precision, in_file, name):
    """The engine computes in the precision that is asked for, also where its files have float32 alone."""
    fake = FakeFormat()
    monkeypatch.setattr(runners, "FORMATS", {"fake": fake})
    options = QUICK | {"engine": name, "precision": precision, "threads": 1, "size": 64}
    made = benchmark(Levels().eval(), **options)
    assert made.setting == Setting("fakeruntime", precision, False, "cpu", 1)
    (record, dynamic, dtype) = fake.written[0]
    assert record.outputs == ("output_0", "output_1", "output_2")
    assert (record.input_shape, record.precision, dynamic) == ((1, 3, 64, 64), in_file, "none")
    assert dtype == torch.float32  # the numbers inside are of the file's precision
    assert fake.opened == [(in_file, precision, 1)]


class Residual(nn.Module):
    """Adds maps, as networks of other packages do."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = (nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8))

    def forward(self, images):
        x = self.stem(images).relu()
        return (x + self.conv(x)).relu()


@pytest.fixture(params=["onnxruntime", "openvino"])
def integer_engine(request) -> str:
    for package in {"onnxruntime": ("onnxruntime",), "openvino": ("openvino", "nncf")}[request.param]:
        pytest.importorskip(package, exc_type=ImportError)
    return request.param


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_graph_that_is_timed_is_that_of_an_export(engine, precision, tmp_path):
    pytest.importorskip(engine, exc_type=ImportError)
    network, images = tiny("fchardnet70"), torch.rand(1, 3, 96, 96)
    timed = runners.prepare(network, images, Setting(engine, precision), tmp_path)
    suffix = timed.file.suffix
    in_file = timed.record.precision
    exported = export(network, tmp_path / f"exported{suffix}", size=96, precision=in_file)
    (timed_types, export_types) = (_types(file, engine) for file in (timed.file, exported))
    assert timed_types == export_types
    is_half = engine == "onnxruntime" and precision == "fp16"
    assert timed_types == {"float16" if is_half else "float32"}


def _types(file: Path, engine: str) -> set[str]:
    """Types of the maps that convolutions write."""
    if engine == "openvino":
        import openvino

        nodes = openvino.Core().read_model(file).get_ordered_ops()
        convolutions = [node for node in nodes if "Convolution" in node.get_type_name()]
        return {str(node.get_output_element_type(0).to_dtype()) for node in convolutions}
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(file))
    maps = {name for node in model.graph.node if node.op_type == "Conv" for name in node.output}
    return {
        onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
        for value in model.graph.value_info
        if value.name in maps
    }


def test_int8_is_timed_and_counted(integer_engine):
    options = QUICK | {"engines": [integer_engine], "precisions": ["fp32", "int8"], "sizes": [32]}
    comparison = compare([create_model("hardnet39ds").eval()], **options)
    assert not comparison.failures
    exact, integer = comparison.timings
    assert label(integer.setting) == f"{integer_engine} int8"
    assert 4 * integer.bytes_moved == exact.bytes_moved
    assert json.loads(comparison.to_json())["timings"][1]["precision"] == "int8"


def test_what_stays_in_float_may_be_bfloat16(integer_engine):
    options = QUICK | {"engines": [integer_engine], "precisions": ["int8", "int8+bf16"], "sizes": [32]}
    comparison = compare([create_model("hardnet39ds").eval()], **options)
    reasons = [each.reason for each in comparison.failures]
    if integer_engine == "openvino":
        assert all("no int8+bf16 on this processor" in reason for reason in reasons)
        assert {each.bytes_moved for each in comparison.timings} == {comparison.timings[0].bytes_moved}
    else:
        assert [each.setting.precision for each in comparison.timings] == ["int8"]
        assert "holds int8: ONNX Runtime computes in the precision of the file" in reasons[0]


def _operators(file: Path, engine: str) -> list[tuple[str, set[str]]]:
    """(type, types of what it reads) of each operation in a file."""
    if engine == "openvino":
        import openvino

        return [
            (node.get_type_name(), {value.get_node().get_type_name() for value in node.input_values()})
            for node in openvino.Core().read_model(file).get_ordered_ops()
        ]
    import onnx

    nodes = onnx.load(file).graph.node
    made = {name: node.op_type for node in nodes for name in node.output}
    return [(node.op_type, {made.get(name, "") for name in node.input}) for node in nodes]


def test_additions_of_peers_are_integers_too(integer_engine, tmp_path):
    """No peer is slowed down: what stays in float in the suite's networks need not in others."""
    torch.manual_seed(0)
    setting = Setting(integer_engine, "int8")
    form = runners.prepare(Residual().eval(), torch.rand(1, 3, 16, 16), setting, tmp_path)
    quantized = {"onnxruntime": "DequantizeLinear", "openvino": "FakeQuantize"}[integer_engine]
    operators = _operators(form.file, integer_engine)
    assert ("Add", {quantized}) in operators
    inside = [reads for kind, reads in operators if kind in ("Conv", "Convolution")]
    assert len(inside) == 2
    assert all(quantized in reads for reads in inside)


def test_a_network_in_int8_is_nearly_the_same(integer_engine, tmp_path):
    network = create_model("hardnet39ds").eval()
    images = torch.rand(2, 3, 64, 64)
    form = runners.prepare(network, images, Setting(integer_engine, "int8"), tmp_path)
    (found,) = runners.make_pass(form, images)()
    with torch.inference_mode():
        expected = network(images).numpy()
    assert 0 < abs(found - expected).max() < 0.2 * abs(expected).max()


def test_int8_where_there_is_none(integer_engine):
    options = QUICK | {"precisions": ["int8"], "sizes": [32]}
    comparison = compare([Tiny().eval()], **options, engines=["eager", integer_engine])
    assert [each.setting.engine for each in comparison.timings] == [integer_engine]
    (failure,) = comparison.failures
    assert failure.reason == "eager has no int8; the engines that have: onnxruntime, openvino"


@pytest.mark.parametrize("precisions", [["int8"], ["fp32", "int8"]])
def test_int8_in_no_engine_at_all(precisions):
    with pytest.raises(UserError, match="no int8 in fused, eager; the engines that have: onnxruntime, openv"):
        compare([Tiny().eval()], **QUICK, engines=["fused", "eager"], precisions=precisions)


def test_int8_without_its_package(monkeypatch):
    from hardnet_suite.deploy import formats

    pytest.importorskip("openvino", exc_type=ImportError)
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "nncf" else name)
    with pytest.raises(UserError, match="needs nncf: pip install 'hardnet-suite"):
        compare([Tiny().eval()], **QUICK, engines=["openvino"], precisions=["int8"])


def test_a_missing_engine_says_how_to_get_it(monkeypatch):
    fake = FakeFormat()

    def require_packages(*, to_write):
        raise UserError("the format fake needs fakeruntime: pip install 'hardnet-suite[deploy]'")

    fake.require_packages = require_packages
    monkeypatch.setattr(runners, "FORMATS", {"fake": fake})
    with pytest.raises(UserError, match="pip install 'hardnet-suite"):
        benchmark("mobilenet_v2", **QUICK, engine="fakeruntime")


def randomize(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.copy_(0.1 * torch.randn(norm.num_features, generator=generator))
            norm.running_var.copy_(0.5 + torch.rand(norm.num_features, generator=generator))
    return network.eval().double()


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "lraspp_mobilenet_v3_large"])
def test_peers_are_fused_too(name):
    """No peer is slowed down: its batch norms are folded as those of the suite's networks."""
    network = randomize(PEERS[name].build())
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    folded = transformed(network, ("fuse",), images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["hgnetv2_b4", "repvit_m1_1", "kornia_hardnet", "ssdlite320_mobilenet_v3_large"]
)
def test_peers_of_other_packages_run(name):
    pytest.importorskip(PEERS[name].package)
    network = PEERS[name].build().eval()
    side = 32 if name == "kornia_hardnet" else 64
    with torch.inference_mode():
        output = network(torch.rand(1, PEERS[name].in_chans, side, side))
    assert all(tensor.isfinite().all() for tensor in runners._tensors(output))


def test_networks_by_name_have_the_statistics_of_a_batch():
    """A network that begins with a variance of 1 everywhere lets its activations vanish."""
    network = module._subject("hardnet39ds").network
    assert not network.training
    variances = [m.running_var for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any((variance == 1).all() for variance in variances)
    assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_published_figures_are_those_of_their_sources():
    with (Path(peers.__file__).parent / "published.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {*PEERS} - {"kornia_hardnet"}
    for row in rows:
        package, weights = row["source"].split()[:2]
        if package == "torchvision":
            kind = {"detection": ".detection", "segmentation": ".segmentation"}.get(
                PEERS[row["model"]].task, ""
            )
            enum, tag = weights.split(".")
            preset = getattr(import_module(f"torchvision.models{kind}"), enum)[tag]
            values = [value for group in preset.meta["_metrics"].values() for value in group.values()]
            assert float(row["value"]) in values, row
            sizes = vars(preset.transforms())
            if PEERS[row["model"]].task != "detection":  # whose networks resize by themselves
                assert [int(row["height"])] == sizes.get("crop_size", sizes["resize_size"])
        assert row["height"] == row["width"]
        if package == "timm" or PEERS[row["model"]].task == "detection":
            assert (int(row["height"]), int(row["width"])) == PEERS[row["model"]].size
    assert published("hardnet68")[:3] == ("ImageNet top-1", 76.5, (224, 224))
    assert published("ssd512_hardnet85")[:3] == ("COCO mAP", 35.1, (512, 512))
    assert published("centernet_hardnet85")[:3] == ("COCO mAP", 44.3, (512, 512))
    assert published("fchardnet70")[:3] == ("Cityscapes mIoU", 77.7, (1024, 2048))
    assert published(find("hardnet68", "paddleclas"))[:3] == ("ImageNet top-1", 75.5, (224, 224))
    assert published(find("hardnet39ds", "tiny_imagenet10")) is None
    assert published("ssd224_hardnet29") is None
    assert published("kornia_hardnet") is None


def test_protocols_are_the_authors():
    assert {name: (each.size, each.passes) for name, each in PROTOCOLS.items()} == {
        "paper-1024": ((1024, 1024), 300),
        "nano-320": ((320, 320), 500),
    }


def test_an_empty_comparison_is_json_too():
    assert json.loads(Comparison().to_json())["timings"] == []


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", "cpu"),
        ("cpu:0", "cpu"),
        (torch.device("cpu", 1), "cpu"),
        ("cuda", "cuda"),
        (torch.device("cuda", 1), "cuda:1"),
    ],
)
def test_devices_are_compared_in_one_form(device, expected):
    assert Setting(device=device).device == expected


@pytest.mark.parametrize("device", ["cpu:0", torch.device("cpu")])
def test_every_form_of_the_cpu_is_packed(device, monkeypatch, tmp_path):
    steps = []
    monkeypatch.setattr(runners, "transformed", lambda network, names, inputs: steps.append(names) or network)
    setting = Setting("packed", device=device)
    network, inputs = nn.Conv2d(3, 2, 3), torch.zeros(1, 3, 8, 8)
    runners.make_pass(runners.prepare(network, inputs, setting, tmp_path), inputs)()
    assert steps[-1] == ["pack"]
