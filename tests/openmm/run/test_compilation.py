"""``compile``: compiled networks in training, plain ones everywhere else."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn
from toy_runs import assert_identical, toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import compilation
from hardnet_suite.openmm.run.compilation import compile_networks, compile_options, require_compiler
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.weights import open_weights


@MODELS.register_module()
class CompiledToy(MODELS.get("ToyModel")):
    """A toy model whose layers are a part that is compiled."""

    def __init__(self, **options):
        super().__init__(**options)
        self.network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, inputs, data_samples=None, mode: str = "tensor"):
        return super().forward(list(self.network(torch.stack(inputs))), data_samples, mode)


def counting_backend():
    calls = []

    def backend(graph, inputs):
        def run(*values):
            calls.append(1)
            return graph.forward(*values)

        return run

    return backend, calls


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def state_of(toy_train, name, epoch):
    path = toy_train.folder(name) / f"epoch_{epoch}.pth"
    return open_weights(path, known=False).content["state_dict"]


def toy(**changes):
    cfg = toy_config(**changes)
    cfg.model.type = "CompiledToy"
    return cfg


def test_a_compiled_run_is_the_plain_one_with_plain_keys(toy_train, monkeypatch):
    """The same weights after two epochs, and each of the two resumes the other."""
    backend, calls = counting_backend()
    torch._dynamo.register_backend(backend, name="counting")
    compiled = {"compile": {"backend": "counting"}}
    plain, _ = toy_train(toy(), "plain")
    run, _ = toy_train(toy(**compiled), "compiled")
    assert len(calls) >= run.iter == 8
    states = [state_of(toy_train, name, 2) for name in ("plain", "compiled")]
    assert_identical(*states)
    assert plain.model.state_dict().keys() == run.model.state_dict().keys()
    for name, other in (("plain", compiled), ("compiled", {})):
        before = len(calls)
        again, _ = toy_train(toy(epochs=3, **other), name, resume=True)
        assert again.iter == 12
        assert (len(calls) > before) == bool(other)
    states = [state_of(toy_train, name, 3) for name in ("plain", "compiled")]
    assert_identical(*states)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("demo_ssd224_shapes", ["backbone", "neck", "bbox_head"]),
        ("centernet_hardnet68", ["backbone", "neck", "bbox_head"]),
        ("fchardnet70_camvid", ["backbone", "decode_head"]),
        ("hardnet39ds_tiny_imagenet10", ["network"]),
    ],
)
def test_the_networks_of_every_task(name, parts):
    cfg = load_config(name)
    cfg.model.init_cfg = None
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        model = MODELS.build(cfg.model)
    keys = list(model.state_dict())
    calls = []
    assert compile_networks(model, {"backend": "eager"}) == parts
    assert list(model.state_dict()) == keys
    part = getattr(model, parts[0])
    part.forward._compiled = lambda images: calls.append(len(images))
    images = torch.rand(2, 3, 64, 64)
    part.train()(images)
    assert calls == [2]
    with torch.inference_mode():
        part.eval()(images)
        copied = deepcopy(model)
        getattr(copied, parts[0]).train()(images)  # as for averaged weights
    assert calls == [2]


@pytest.mark.parametrize("cascade", [False, True])
def test_heads_that_are_called_by_their_forward(cascade):
    """mmseg's do so in ``loss``; in a cascade of heads, each of them is a module of its own."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, values):
            return self.linear(values)

    model = nn.Module()
    model.decode_head = nn.ModuleList([Head(), Head()]) if cascade else Head()
    heads = model.decode_head if cascade else [model.decode_head]
    keys, values = list(model.state_dict()), torch.rand(2, 3)
    expected = [head(values) for head in heads]
    backend, calls = counting_backend()
    assert compile_networks(model, {"backend": backend}) == ["decode_head"]
    assert list(model.state_dict()) == keys
    for head, result in zip(heads, expected, strict=True):
        before = len(calls)
        assert torch.equal(head.train().forward(values), result)
        assert len(calls) == before + 1
    made = len(calls)
    for copied in (deepcopy(model), deepcopy(deepcopy(model))):
        for head in copied.decode_head if cascade else [copied.decode_head]:
            nn.init.zeros_(head.linear.weight)
            assert torch.equal(head(values), head.linear.bias.expand(2, 3))  # its own weights
    assert len(calls) == made
    for head, result in zip(heads, expected, strict=True):
        assert torch.equal(head.eval()(values), result)
    assert len(calls) == made


def test_graphs_of_a_whole_network_have_no_break():
    """Compiled with ``fullgraph``: a break would be an error."""
    from hardnet_suite import create_model

    network = create_model("hardnet39ds", num_classes=3).train()
    images = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    expected = network(images)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(images), expected)


def test_options_of_a_config():
    assert compile_options(Config({})) is None
    assert compile_options(Config({"compile": False})) is None
    assert compile_options(Config({"compile": True})) == {}
    assert compile_options(Config({"compile": {"mode": "max-autotune"}})) == {"mode": "max-autotune"}
    for value, message in (
        ("yes", "compile is 'yes', expected True, or a dict"),
        (1.5, "expected True"),
        ({"fast": True}, "fast"),
    ):
        with pytest.raises(UserError, match=message):
            compile_options(Config({"compile": value}))


def test_a_machine_without_a_compiler(toy_train, monkeypatch):
    def fail(*_, **__):
        def call(*_):
            raise RuntimeError("No working C++ compiler found\nand more lines")

        return call

    monkeypatch.setattr(compilation.torch, "compile", fail)
    message = (
        "torch.compile does not work on this machine: No working C.. compiler found; leave out --compile"
    )
    with pytest.raises(UserError, match=message):
        toy_train(toy(compile=True))
    assert not list(toy_train.folder().glob("*.pth"))


def test_a_backend_that_is_not_there():
    with pytest.raises(UserError, match=r"does not work on this machine: .*nonsense"):
        require_compiler({"backend": "nonsense"})
