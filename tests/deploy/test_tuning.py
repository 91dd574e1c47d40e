"""The choice of the fastest form, with real networks and invented times."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle

import numpy as np
import pytest
import torch
from tiny_networks import tiny
from torch import nn

from hardnet_suite import predict
from hardnet_suite.data.report import counted
from hardnet_suite.deploy import Choice, DisagreementError, Quantization, deploy, transformed, tuning
from hardnet_suite.deploy.formats import FORMATS
from hardnet_suite.deploy.steps import STEPS
from hardnet_suite.deploy.tuning import PLAIN, Form, forms
from hardnet_suite.errors import UserError
from hardnet_suite.networks import HarDNetArch, Stage, build_network

TINY = HarDNetArch(
    stem=(8, 12), stages=(Stage(8, 4, 24, downsample=True), Stage(8, 2, 32)), num_classes=5, dropout=0.0
)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return build_network("hardnet68", arch=TINY).eval()


@pytest.fixture
def fastest(monkeypatch):
    """Makes one form the fastest, by its name."""

    def choose(name: str) -> None:
        def fake(functions, *, rounds, synchronize):
            assert rounds == 5
            for function in functions.values():
                function()
            return {key: [0.5 if name in key else 1.0] * rounds for key in functions}

        monkeypatch.setattr(tuning, "interleaved", fake)

    return choose


def test_the_fastest_form_is_chosen_and_computes_the_same(network, fastest):
    fastest("fp32: fuse + channels_last")
    deployed = deploy(network, size=64)
    choice = deployed.choice
    assert str(choice.form).startswith("fp32: fuse + channels_last")
    assert (choice.model, choice.target, choice.shape) == ("hardnet68", "cpu", (1, 3, 64, 64))
    assert {PLAIN, *forms(network, "cpu")} == {*choice.seconds, *choice.dropped}
    assert choice.ratios[PLAIN] == 1
    assert choice.ratios[choice.form] == 0.5
    assert (deployed.arch, deployed.usage, deployed.num_classes) == (TINY, network.usage, 5)
    x = torch.randn(2, 3, 45, 64)
    with torch.inference_mode():
        torch.testing.assert_close(deployed(x), network(x), rtol=1e-3, atol=1e-4)
    lines = str(choice).splitlines()
    assert lines[0].startswith(
        f"hardnet68 for cpu, input 1×3×64×64, {counted(torch.get_num_threads(), 'thread')}: fp32"
    )
    assert lines[2].split()[0] == "*"
    assert any("fp32: as it is" in line for line in lines)


def test_where_nothing_is_faster_the_plain_form_stays(network, fastest):
    fastest("as it is")
    assert deploy(network, size=32).choice.form == PLAIN


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_given_precision_is_kept(network, fastest, precision):
    fastest(precision)
    choice = deploy(network, size=32, precision=precision, batch=2).choice
    assert {form.precision for form in choice.seconds} <= {precision, "fp32"}
    assert choice.form.precision == precision
    assert choice.shape == (2, 3, 32, 32)


def test_the_plain_network_is_no_answer_to_another_precision(network, fastest):
    fastest("fp32: as it is")
    assert deploy(network, size=64, precision="bf16").choice.form.precision == "bf16"
    assert deploy(network, size=64, precision="fp32").choice.form == PLAIN


def test_what_is_returned_works_outside_of_the_inference_mode(network, fastest):
    fastest("fp32: fuse + channels_last")
    deployed = deploy(network, size=64)
    assert str(deployed.choice.form) == "fp32: fuse + channels_last"
    deployed(torch.randn(1, 3, 64, 64)).sum().backward()
    deployed.load_state_dict(deployed.state_dict())


@pytest.mark.parametrize("name", ["hardnet68", "fchardnet70", "centernet_hardnet68", "ssd512_hardnet68"])
def test_a_packed_network_predicts(name):
    network = tiny(name)
    packed = transformed(network, ("fuse", "merge", "pack"), torch.rand(1, 3, 64, 64))
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (ours,), (theirs,) = (predict(model, image, score=0.0) for model in (packed, network))
    if name == "fchardnet70":
        assert (ours.mask == theirs.mask).mean() > 0.999
    else:
        assert ours.labels.tolist() == theirs.labels.tolist()
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)


def test_forms_that_fail_or_differ_are_dropped(network, fastest, monkeypatch):
    fastest("fuse")

    def broken(network, _):
        changed = STEPS["channels_last"](network, _)
        changed.fc.bias.data += 10
        return changed

    def failing(network, _):
        raise RuntimeError("no such instruction\nhere")

    first, second = Form(("fuse", "broken")), Form(("failing",))
    monkeypatch.setitem(STEPS, "broken", broken)
    monkeypatch.setitem(STEPS, "failing", failing)
    monkeypatch.setattr(tuning, "forms", lambda *_, **__: [Form(("fuse",)), first, second])
    choice = deploy(network, size=32).choice
    assert choice.form == Form(("fuse",))
    assert "differs by" in choice.dropped[first]
    assert choice.dropped[second] == "no such instruction"
    assert "no such instruction" in str(choice)
    monkeypatch.setattr(tuning, "forms", lambda *_, **__: [second])
    with pytest.raises(UserError, match=r"no form for cpu works here .*no such instruction"):
        deploy(network, size=32)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("hardnet39ds", {"fuse", "channels_last", "pack", "bf16"}),
        ("fchardnet70", {"fuse", "merge", "channels_last", "pack", "bf16"}),
        ("centernet_hardnet68", {"fuse", "merge", "separate", "channels_last", "pack", "bf16"}),
    ],
)
def test_forms_are_of_the_steps_that_change_something(name, steps):
    with torch.device("meta"):
        network = build_network(name)
    tried = forms(network, "cpu")
    assert {step for form in tried for step in form.steps} <= steps
    assert {step for form in tried for step in form.steps} >= steps - {"pack"}
    assert len({*map(str, tried)}) == len(tried)
    assert any("compile" in form.steps for form in forms(network, "cpu", compile=True))
    assert {form.precision for form in forms(network, "openvino")} == {"fp32", "bf16"}
    assert {form.precision for form in forms(network, "onnx")} == {"fp32"}
    assert {form.precision for form in forms(network, "cuda")} == {"fp32", "bf16", "fp16"}
    assert all({*form.steps} <= {*STEPS} for target in ("cuda", "onnx") for form in forms(network, target))


def test_the_engine_of_onnx(network, fastest):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("hardnet_suite.deploy.session")
    fastest("split")
    session = deploy(network, "onnx", size=64)
    assert session.choice.form.steps == ("fuse", "split")
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(session(x), network(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda session: pickle.loads(pickle.dumps(session))]
)
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_copies_of_an_engine_keep_its_choice_and_file(network, fastest, target, copied):
    pytest.importorskip({"onnx": "onnxruntime"}.get(target, target), exc_type=ImportError)
    fastest("fp32: fuse + split")
    session = deploy(network, target, size=64, precision="fp32")
    path, choice = session.path, session.choice
    assert sorted(path.parent.iterdir()) == sorted(FORMATS[target].parts(path))
    x = torch.randn(1, 3, 64, 64)
    expected = session(x)
    other = copied(session)
    assert other.choice == choice
    keeps = other.folder is not None
    del session
    gc.collect()
    torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
    assert path.exists() == keeps
    del other
    gc.collect()
    assert not path.parent.exists()


@pytest.fixture
def textures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(6)]


def of_size(network: nn.Module, side: int) -> nn.Module:
    """A classifier whose input rule makes squares of that side."""
    rule = dataclasses.replace(network.usage.preprocess, size=(side, side), resize_to=None)
    network.usage = dataclasses.replace(network.usage, preprocess=rule)
    return network


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("hardnet68", 64, "hardnet68 makes 224×224, not 64×64: leave out the size"),
        ("fchardnet70", None, "keeps the size of images: take another target, or a rule that makes one size"),
        ("fchardnet70", 64, "keeps the size of images: take another target, or a rule that makes one size"),
    ],
)
def test_openvinos_integers_have_the_size_of_the_rule(textures, monkeypatch, name, size, message):
    for package in ("openvino", "nncf"):
        pytest.importorskip(package, exc_type=ImportError)
    monkeypatch.setattr(tuning, "transformed", lambda *_: pytest.fail("the network is transformed"))
    settings = Quantization(textures, max_drop=100)
    with pytest.raises(UserError, match=message) as caught:
        deploy(tiny(name), "openvino", size=size, precision="int8", quantization=settings)
    assert str(caught.value).count("the input rule") == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("precision", [None, "int8"])
def test_int8_is_among_the_forms_where_images_are_given(fastest, textures, target, precision):
    for package in {"onnx": ("onnxruntime",), "openvino": ("openvino", "nncf")}[target]:
        pytest.importorskip(package, exc_type=ImportError)
    fastest("int8")
    network = of_size(tiny("hardnet68"), 64)
    session = deploy(
        network, target, size=64, precision=precision, quantization=Quantization(textures, max_drop=100)
    )
    assert (session.precision, session.record.precision) == ("int8", "int8")
    assert session.choice.form == Form(("fuse",), "int8")
    timed = {form.precision for form in session.choice.seconds}
    assert timed >= {"fp32", "int8"}
    assert timed <= {"fp32", "int8"} | ({"int8+bf16"} if target == "openvino" else set()) | (
        {"bf16"} if precision is None else set()
    )
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert 0 < (session(x) - network(x)).abs().max() < network(x).abs().max()


def test_the_rest_in_bfloat16_is_held_to_the_bound_too(fastest, textures, monkeypatch):
    for package in ("openvino", "nncf"):
        pytest.importorskip(package, exc_type=ImportError)
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("no bfloat16 on this processor")
    fastest("int8+bf16")
    network, settings = of_size(tiny("hardnet68"), 64), Quantization(textures, max_drop=100)
    monkeypatch.setattr(tuning, "forms", lambda *_, **__: [Form(("fuse",)), Form(("fuse",), "int8+bf16")])
    session = deploy(network, "openvino", size=64, quantization=settings)
    assert (session.precision, session.record.precision) == ("int8+bf16", "int8")

    def disagree(*_, **__):
        raise DisagreementError("too far")

    monkeypatch.setattr(tuning, "require_agreement", disagree)
    choice = deploy(network, "openvino", size=64, quantization=settings).choice
    assert choice.form == Form(("fuse",))
    assert choice.dropped == {Form(("fuse",), "int8+bf16"): "too far"}


def test_what_the_processor_lacks_is_dropped_alone(network, fastest, monkeypatch):
    pytest.importorskip("openvino", exc_type=ImportError)
    from hardnet_suite.deploy import session

    def on_an_older_one(path, *, precision):
        if precision == "bf16":
            raise UserError("OpenVINO has no bf16 on this processor")
        return opened(path, precision=precision)

    opened = session.open_session
    monkeypatch.setattr(session, "open_session", on_an_older_one)
    fastest("fp32")
    choice = deploy(network, "openvino", size=64).choice
    assert choice.form.precision == "fp32"
    assert {*choice.dropped.values()} == {"OpenVINO has no bf16 on this processor"}


def test_int8_beyond_its_bound_is_dropped(fastest, textures, monkeypatch):
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    fastest("int8")
    network = tiny("fchardnet70")
    settings = Quantization(textures, max_drop=0)
    choice = deploy(network, "onnx", size=96, quantization=settings).choice
    assert choice.form.precision == "fp32"
    assert {form.precision for form in choice.dropped} == {"int8"}
    assert all("pixels equal PyTorch's, expected 100 %" in reason for reason in choice.dropped.values())
    with pytest.raises(UserError, match=r"fchardnet70: no form for onnx works here .*expected 100 %"):
        deploy(network, "onnx", size=96, precision="int8", quantization=settings)


@pytest.mark.parametrize("name", ["hardnet68", "fchardnet70", "centernet_hardnet68"])
def test_forms_in_int8(name):
    with torch.device("meta"):
        network = build_network(name)
    plain, keeping = (
        {form.steps for form in forms(network, "openvino", quantization=each) if form.precision == "int8"}
        for each in (Quantization("images"), Quantization("images", keep=("trunk.stem.",)))
    )
    assert not any("split" in steps for steps in plain)
    assert ("fuse",) in plain
    assert keeping == {("fuse",)}  # rewritten decoders have other names
    assert any("merge" in steps for steps in plain) == (name != "hardnet68")


def test_int8_needs_images_and_an_engine(network, textures):
    quantization = Quantization(textures)
    for target, options, message in (
        ("openvino", {"precision": "int8"}, "give quantization=Quantization"),
        ("cpu", {"precision": "int8"}, "give quantization=Quantization"),
        ("cpu", {"quantization": quantization}, "the target cpu has no int8: choose from onnx, openvino"),
        ("onnx", {"precision": "fp32", "quantization": quantization}, "for the precision int8, got fp32"),
        ("onnx", {"quantization": Quantization([])}, "no images to run the file on"),
    ):
        with pytest.raises(UserError, match=message):
            deploy(network, target, size=32, **options)


def test_steps_in_order(network):
    x = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        changed = transformed(network, ("fuse", "pad8", "split", "channels_last"), x)
        torch.testing.assert_close(changed(x), network(x), rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="unknown step 'fused'; did you mean fuse"):
        transformed(network, ("fused",), x)


def test_bad_input(network):
    for options, message in (
        ({"target": "cpus"}, "unknown target 'cpus'; did you mean cpu"),
        ({"target": None}, "unknown target None; known: cpu, cuda"),
        ({"target": 5}, "unknown target 5; known: cpu, cuda"),
        ({"target": "tensorrt"}, "trtexec"),
        ({"precision": "int4"}, "unknown precision 'int4'; known: fp32, bf16, fp16, int8"),
        ({"precision": "fp16"}, "no form of the target cpu computes in fp16"),
        ({"rounds": 0}, "must be integers of at least 1, got 0 and 1"),
        ({"size": 4}, "expected input of at least"),
    ):
        with pytest.raises(UserError, match=message):
            deploy(network, **options)
    with pytest.raises(UserError, match="Conv2d"):
        deploy(nn.Conv2d(3, 3, 1))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="CUDA device"):
            deploy(network, "cuda")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Choice("a", "cpu", (1,), 1, PLAIN).target = "cuda"


@pytest.mark.parametrize("size", [None, 64, (96, 64)])
@pytest.mark.parametrize("target", ["onnx", "openvino", "cpu"])
@pytest.mark.parametrize("keeps", [True, False])
def test_the_answers_for_images_are_the_models(fastest, target, size, keeps):
    """Whatever size was timed, and also where the rule keeps the size of images."""
    fastest("fp32: fuse")
    torch.manual_seed(0)
    network = tiny("fchardnet70") if keeps else tiny("hardnet39ds")
    if not keeps:
        network = of_size(network, 96)
    deployed = deploy(network, target, size=size, precision="fp32")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, np.uint8) for shape in ((128, 96, 3), (96, 160, 3))]
    for given, expected in zip(predict(deployed, images), predict(network, images), strict=True):
        if keeps:
            assert given.mask.shape == expected.mask.shape
            assert (given.mask == expected.mask).mean() > 0.999
        else:
            assert given.labels[:3].tolist() == expected.labels[:3].tolist()
            np.testing.assert_allclose(given.scores, expected.scores, atol=1e-4)
