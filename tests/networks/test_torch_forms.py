"""Every network as torch's other forms of a program: traced, scripted, exported, compiled.

The networks are those of the table with fewer channels, or the smallest of their kind.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from small_networks import SMALL
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

from hardnet_suite.networks import (
    ARCHS,
    CenterNetArch,
    DescriptorArch,
    FCHarDNetArch,
    HarDNetArch,
    HarDNetClassifier,
    HarDNetTrunk,
    MSEGArch,
    SSDArch,
    build_network,
    list_models,
)
from hardnet_suite.networks.arch import Field

TRUNKS = [name for name in list_models() if not isinstance(ARCHS[name], DescriptorArch)]
NETWORKS = [
    (name, tap)
    for name in list_models()
    for tap in (False, "transition", "block")
    if name in TRUNKS or not tap
]
# other decoders, and other steps of the stem
SEGMENTATION = [(name, False) for name in ("fchardnet68", "fchardnet70_paddleseg", "hardnet_mseg")]
KINDS = (
    [(name, False) for name in SMALL] + SEGMENTATION + [("hardnet68", "transition"), ("fchardnet70", "block")]
)
EXPECTED = r"expected (input|patches) of "
ONE_SIZE = (SSDArch, DescriptorArch)

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
all_networks = pytest.mark.parametrize(("name", "tap"), NETWORKS)
each_kind = pytest.mark.parametrize(("name", "tap"), KINDS)


def slow_but(*fast: str):
    """``each_kind``, in the default suite only the kinds of these names."""
    slow = pytest.mark.slow
    cases = [pytest.param(name, tap, marks=() if name in fast and not tap else slow) for name, tap in KINDS]
    return pytest.mark.parametrize(("name", "tap"), cases)


def thin(full, width: int = 8):
    """A row of the table with the same layers and few channels; an SSD's has less and smaller maps, too."""
    if isinstance(full, DescriptorArch):
        layers = tuple((8, stride) for _, stride in full.layers)
        return replace(full, layers=layers, length=16, pca_from=full.pca_from and 24)
    if isinstance(full, HarDNetArch):
        stages = tuple(replace(stage, growth=4, channels=width) for stage in full.stages)
        stem_down = (8,) * len(full.stem_down)
        return replace(full, stem=(4, 8), stem_down=stem_down, stages=stages, width_multiple=2, num_classes=5)
    wide = isinstance(full, SSDArch) and full.fields is not None  # receptive field blocks take 16 channels
    full = replace(full, trunk=thin(full.trunk, 16 if wide else 8), num_classes=5)
    if isinstance(full, FCHarDNetArch):
        return replace(full, last_channels=min(full.last_channels, 12))
    if isinstance(full, MSEGArch):
        return replace(full, channels=8)
    if isinstance(full, CenterNetArch):
        steps = [replace(step, channels=8, growth=4, shortcut=min(step.shortcut, 3)) for step in full.steps]
        last = replace(full.last, channels=8, growth=4)
        return replace(full, last=last, steps=tuple(steps), least_width=8)
    width = full.trunk.stages[-1].channels
    *first, last = [
        replace(extra, out=width) if isinstance(extra, Field) else replace(extra, mid=4, out=8)
        for extra in full.extras
    ]
    extras = (*first, replace(last, kernel=3))  # the last maps have one pixel each
    bridge = full.bridge and replace(full.bridge, mid=8, out=width)
    return replace(full, size=64, bridge=bridge, extras=extras, fields=full.fields and (width, width))


def network_of(name: str, tap: bool | str, arch=None) -> nn.Module:
    """A thin one in float64 and eval mode, with random statistics of its batch norms."""
    torch.manual_seed(0)
    arch = thin(ARCHS[name]) if arch is None else arch
    network = build_network(name, arch=arch, features_only=tap).double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return network


def free_sizes(network: nn.Module) -> bool:
    return isinstance(network, HarDNetTrunk) or not isinstance(network.arch, ONE_SIZE)


def images(network: nn.Module, count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    if not free_sizes(network):
        height = width = getattr(network, "patch", None) or network.arch.size
    generator = torch.Generator().manual_seed(height * count)
    channels = network.trunk.in_chans if hasattr(network, "trunk") else network.in_chans
    return torch.rand(count, channels, height, width, generator=generator, dtype=torch.float64)


def flat(out) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    parts = [out[key] for key in sorted(out)] if isinstance(out, dict) else out
    return [tensor for part in parts for tensor in flat(part)]


def assert_same(form, network: nn.Module, x: Tensor, **tolerances) -> None:
    """The outputs of a form are those of the network, to the last bit unless told otherwise."""
    with torch.no_grad():
        ours, theirs = flat(network(x)), flat(form(x))
    assert any(expected.any() for expected in ours)
    for expected, out in zip(ours, theirs, strict=True):
        torch.testing.assert_close(out, expected, **(tolerances or {"rtol": 0, "atol": 0}))


def assert_same_for_all_sizes(form, network: nn.Module, **tolerances) -> None:
    unit = largest_stride(network)
    sizes = ((2, 2 * unit, 3 * unit), (1, 3 * unit, 2 * unit), (3, 4 * unit, 5 * unit))
    for count, *sides in sizes:
        x = images(network, count, *(sides if free_sizes(network) else ()))
        assert_same(form, network, x, **tolerances)


def largest_stride(network: nn.Module) -> int:
    """At least 32. Sides of twice that make last maps of more than one row, which torch would specialise."""
    trunk = getattr(network, "trunk", network)
    return max(32, *trunk.strides) if isinstance(trunk, HarDNetTrunk) else 32


def refused(network: nn.Module) -> list[Tensor]:
    """Inputs that the network refuses: other channels, too small, no multiple, no batch."""
    good = images(network)
    bad = [good[:, :1].expand(-1, 4, -1, -1), good[0]]
    if not free_sizes(network):
        bad += [good[..., :-1], good[..., :-1, :], torch.cat([good, good], 2), torch.cat([good, good], 3)]
    else:
        bad.append(good[..., :1, :])
        if not isinstance(network, HarDNetTrunk) and isinstance(network.arch, CenterNetArch):
            bad += [good[..., :48], good[..., :48, :]]
    return bad


def assert_refuses(
    form, network: nn.Module, errors: type[Exception] | tuple, match: str | None = None
) -> None:
    for x in refused(network):
        with pytest.raises(ValueError, match=EXPECTED):
            network(x)
        with pytest.raises(errors, match=match):
            form(x)


def assert_trains(form: nn.Module, network: nn.Module, **tolerances) -> None:
    """In training mode, with the same drop-outs: outputs, gradients and statistics of the batch norms."""
    x, results = images(network, 4), []
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for call in (network, form):
        module = getattr(call, "_orig_mod", call)  # of torch.compile, which trains the network itself
        module.load_state_dict(before)
        module.train().zero_grad()
        torch.manual_seed(1)
        out = flat(call(x))
        sum(each.square().mean() for each in out).backward()
        gradients = {key: parameter.grad.clone() for key, parameter in module.named_parameters()}
        state = {key: value.clone() for key, value in module.state_dict().items()}
        results.append(([each.detach() for each in out], gradients, state))
    torch.testing.assert_close(*reversed(results), **(tolerances or {"rtol": 0, "atol": 0}))


# ---------------------------------------------------------------- torch.fx


@all_networks
def test_symbolic_traces(name, tap):
    network = network_of(name, tap)
    for gradients in (True, False):  # without them the descriptor computes large batches in chunks
        with torch.set_grad_enabled(gradients):
            traced = fx.symbolic_trace(network)
        traced.graph.eliminate_dead_code()  # which must leave the checks
        traced.recompile()
        assert_same_for_all_sizes(traced, network)
        assert_refuses(traced, network, ValueError, EXPECTED)


@each_kind
def test_symbolic_traces_train(name, tap):
    network = network_of(name, tap, SMALL.get(name))
    assert_trains(fx.symbolic_trace(network.train()), network)


def test_a_symbolic_trace_of_many_patches_and_of_none():
    network = network_of("hardnet_descriptor", False, SMALL["hardnet_descriptor"])
    traced = fx.symbolic_trace(network)
    for count in (0, network.chunk + 1):
        x = torch.rand(count, 1, 32, 32, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(traced(x), network(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", TRUNKS)
def test_torchvisions_feature_extractor(name):
    """Every map that ``feature_info`` names, of whole networks; the check of the input stays."""
    network = network_of(name, False)
    trunk = network.trunk
    prefix = "trunk."
    nodes = [
        prefix + ("stem" if feature.stage < 0 else f"stages.{feature.stage}.transition")
        for feature in trunk.features
        if trunk.tap == "transition" or feature.stage < len(trunk.stages) - 1
    ]
    if isinstance(network, HarDNetClassifier):
        assert nodes == network.feature_info.module_name()
    extractor = create_feature_extractor(network, nodes)
    kept = {}
    hooks = [
        network.get_submodule(node).register_forward_hook(
            lambda _, __, out, node=node: kept.update({node: out})
        )
        for node in nodes
    ]
    for sizes in ((2, 64, 96), (1, 96, 64)):
        x = images(network, *sizes)
        with torch.no_grad():
            maps = extractor(x)
            network(x)
        torch.testing.assert_close(maps, kept, rtol=0, atol=0)
    for hook in hooks:
        hook.remove()
    assert_refuses(extractor, network, ValueError, "expected input ")


# ---------------------------------------------------------------- TorchScript


@all_networks
def test_scripts(name, tap, tmp_path):
    network = network_of(name, tap)
    scripted = torch.jit.script(network)
    torch.jit.save(scripted, tmp_path / "network.pt")
    for form in (scripted, torch.jit.load(tmp_path / "network.pt")):
        assert_same_for_all_sizes(form, network)
        assert_refuses(form, network, torch.jit.Error, EXPECTED)


@each_kind
def test_scripts_train(name, tap):
    network = network_of(name, tap, SMALL.get(name))
    assert_trains(torch.jit.script(network), network)


def test_a_script_returns_what_the_network_does():
    for name in ("ssd512_hardnet68", "centernet_hardnet68"):
        network = network_of(name, False, SMALL[name])
        x = images(network)
        out, scripted = network(x), torch.jit.script(network)(x)
        assert out.keys() == scripted.keys()
        assert [type(value) for value in out.values()] == [type(value) for value in scripted.values()]


@pytest.mark.parametrize(("classes", "pool"), [(0, "avg"), (0, ""), (3, "avg")])
@pytest.mark.parametrize("form", [torch.jit.script, fx.symbolic_trace], ids=["script", "fx"])
def test_classifiers_with_other_heads(form, classes, pool):
    network = network_of("hardnet68", False, SMALL["hardnet68"])
    network.reset_classifier(classes, pool)
    network.double()
    assert_same_for_all_sizes(form(network), network)


SCRIPTED_BEFORE = """
import torch
from torch import nn

from hardnet_suite import create_model

layer = nn.Identity()
layer.number = 3
torch.jit.script(nn.Sequential(layer))
network = create_model("hardnet39ds", num_classes=0, global_pool="").eval()
assert torch.jit.script(network)(torch.rand(1, 3, 64, 64)).shape == (1, network.num_features, 2, 2)
"""


def test_scripts_do_not_depend_on_those_before():
    """TorchScript makes another type of a class for a module with other attributes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPTED_BEFORE], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@all_networks
def test_traces(name, tap):
    """A trace has the mode and the choices of its recording, but any size and batch, and the checks."""
    network = network_of(name, tap)
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # which tell of values that are frozen
        traced = torch.jit.trace(network, images(network), strict=False, check_trace=False)
    assert_same_for_all_sizes(traced, network)
    assert_refuses(traced, network, torch.jit.Error, EXPECTED)


@slow_but("hardnet68", "hardnet_descriptor")
def test_torchs_onnx_exporter_of_traces(name, tap, tmp_path):
    """ONNX has no errors: the check of the input, which other forms have inside, is of the example alone."""
    runtime = pytest.importorskip("onnxruntime")
    network = network_of(name, tap, SMALL.get(name) if not tap else None).float()
    free = {0: "n", 2: "h", 3: "w"} if free_sizes(network) else {0: "n"}
    options = {"input_names": ["images"], "dynamic_axes": {"images": free}, "dynamo": False}
    unit = largest_stride(network)
    torch.onnx.export(
        network, (images(network, 2, 2 * unit, 3 * unit).float(),), tmp_path / "net.onnx", **options
    )
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for count, height, width in ((2, 2 * unit, 3 * unit), (3, 4 * unit, 2 * unit)):
        x = images(network, count, height, width).float()
        with torch.no_grad():
            out = network(x)
        expected = flat(list(out.values()) if isinstance(out, dict) else out)
        for found, wanted in zip(session.run(None, {"images": x.numpy()}), expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=1e-4)
    for wrong in refused(network):
        with pytest.raises(ValueError, match=EXPECTED):
            torch.onnx.export(network, (wrong.float(),), tmp_path / "no.onnx", **options)


def test_a_traced_ssd_returns_tuples_in_a_dict():
    network = network_of("ssd512_hardnet68", False, SMALL["ssd512_hardnet68"])
    x = images(network)
    out = torch.jit.trace(network, x, strict=False)(x)
    assert {key: type(maps) for key, maps in out.items()} == {"cls": tuple, "box": tuple}
    assert {key: type(maps) for key, maps in network(x).items()} == {"cls": list, "box": list}


# ---------------------------------------------------------------- torch.export


def exported(network: nn.Module, named: bool) -> nn.Module:
    """With free N, H and W, named or found by torch; where the network takes one size, with a free N."""
    unit = largest_stride(network)
    dynamic = torch.export.Dim.DYNAMIC
    sizes = {0: torch.export.Dim("n") if named else dynamic}
    if free_sizes(network):
        sizes |= {2: dynamic, 3: dynamic}
        if named:
            step = 32 if isinstance(getattr(network, "arch", None), CenterNetArch) else 1
            height, width = (torch.export.Dim(side, min=1 if step > 1 else 2 * unit) for side in "hw")
            sizes |= {2: step * height, 3: step * width}
    x = images(network, 2, 2 * unit, 3 * unit)
    return torch.export.export(network, (x,), dynamic_shapes=(sizes,)).module()


@pytest.mark.parametrize("named", [False, True])
@each_kind
def test_exports(name, tap, named):
    network = network_of(name, tap, SMALL.get(name))
    form = exported(network, named)
    assert_same_for_all_sizes(form, network)
    assert_refuses(form, network, (AssertionError, RuntimeError))


@pytest.mark.parametrize("name", [name for name, _ in SEGMENTATION])
@pytest.mark.parametrize("form", ["fx", "script", "trace", "export"])
def test_odd_sizes(form, name):
    """Cuts and paddings that depend on whether a side is odd stay free in every form."""
    network = network_of(name, False)
    capture = {
        "fx": fx.symbolic_trace,
        "script": torch.jit.script,
        "trace": lambda network: torch.jit.trace(network, images(network), check_trace=False),
        "export": lambda network: exported(network, named=False),
    }
    captured = capture[form](network)
    for height, width in ((65, 97), (94, 67), (128, 64)):
        assert_same(captured, network, images(network, 2, height, width))


@pytest.mark.slow
@all_networks
def test_every_network_exports(name, tap):
    network = network_of(name, tap)
    form = exported(network, named=False)
    assert_same_for_all_sizes(form, network)
    assert_refuses(form, network, (AssertionError, RuntimeError))
    if largest_stride(network) == 64 and free_sizes(network):
        with pytest.raises(AssertionError, match="Guard failed"):
            form(images(network, 2, 64, 96))  # one row in the last map


# ---------------------------------------------------------------- torch.compile


# ahead-of-time tracing decomposes the bilinear enlargement, which rounds by a unit in the last place;
# HarDNet-MSEG multiplies three enlarged maps
DECOMPOSED = {"rtol": 1e-13, "atol": 1e-13}


def compiled(network: nn.Module, backend: str) -> nn.Module:
    torch.compiler.reset()
    return torch.compile(network, backend=backend, dynamic=True, fullgraph=True)


@slow_but(*SMALL)
def test_compiles_to_one_graph(name, tap):
    """The operations that torch captures; other sizes need no further graph."""
    network = network_of(name, tap, SMALL.get(name))
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    form = compiled(network, backend)
    assert_same_for_all_sizes(form, network)
    assert len(graphs) == 2  # torch makes one of its own for a batch of one
    torch.compiler.reset()
    assert_refuses(torch.compile(network, backend="eager"), network, ValueError, EXPECTED)


@slow_but("hardnet39ds", "hardnet_descriptor")
def test_compiled_networks_train(name, tap):
    network = network_of(name, tap, SMALL.get(name))
    form = compiled(network, "aot_eager")
    assert_trains(form, network, rtol=1e-9, atol=1e-12)  # sums in another order


@pytest.mark.slow
@all_networks
def test_every_network_compiles(name, tap):
    network = network_of(name, tap)
    assert_same_for_all_sizes(compiled(network, "aot_eager"), network, **DECOMPOSED)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@each_kind
def test_inductor(name, tap):
    """Fused kernels round and sum in another order: a few units in the last place of float64 a layer."""
    network = network_of(name, tap, SMALL.get(name))
    assert_same_for_all_sizes(compiled(network, "inductor"), network, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_networks_of_the_published_width(name):
    full = ARCHS[name]
    if isinstance(full, SSDArch):
        full = replace(full, size=64, extras=thin(full).extras)
    network = network_of(name, False, full)
    x = images(network)
    forms = (
        fx.symbolic_trace(network),
        torch.jit.script(network),
        torch.jit.trace(network, x, strict=False, check_trace=False),
        torch.export.export(network, (x,)).module(),
    )
    for form in forms:
        assert_same(form, network, x)
    assert_same(compiled(network, "aot_eager"), network, x, **DECOMPOSED)


# ---------------------------------------------------------------- recomputed blocks


def test_recomputed_blocks_are_refused_where_a_form_cannot_have_them():
    """Without training the option changes nothing, and every form has the trunk's outputs."""
    network = HarDNetTrunk(SMALL["hardnet68"], with_cp=True).double().eval()
    x = images(network)
    scripted, traced = torch.jit.script(network), fx.symbolic_trace(network)
    assert_same(scripted, network, x)
    assert_same(traced, network, x)
    with pytest.raises(torch.jit.Error, match="with_cp=True is not for TorchScript"):
        scripted.train()(x)
    with pytest.raises(fx.proxy.TraceError):
        fx.symbolic_trace(network.train())


def test_recomputed_blocks_compile():
    """The statistics of the batch norms count each batch once."""
    network = HarDNetTrunk(SMALL["hardnet68"], with_cp=True).double()
    assert_trains(compiled(network, "aot_eager"), network, rtol=1e-9, atol=1e-12)
