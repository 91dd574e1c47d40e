"""Files of other programs, made from independent readings of these: names, values, and the same answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from weights import foreign_programs as foreign

from hardnet_suite import create_model
from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS, build_network
from hardnet_suite.weights import fill, identify, open_weights, to_official
from hardnet_suite.weights.convert import from_target, in_target, require_same_network
from hardnet_suite.weights.layouts import FOREIGN, LAYOUTS, keys_of

CLASSIFIERS = ["hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85"]


def filled(program):
    """A reading with formula weights in double precision, and these."""
    state = foreign.formula_weights(program.state_dict())
    program.double().load_state_dict(state)
    return program.eval(), state


def images(side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, side, side, generator=generator, dtype=torch.float64) * 4 - 2


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for layout in LAYOUTS for name in ARCHS if LAYOUTS[layout].has(name)]
)
def test_keys_are_one_to_one(name, layout):
    theirs = keys_of(name, LAYOUTS[layout])
    assert theirs
    assert len({*theirs.values()}) == len(theirs)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_pytorchcv_computes_the_same(name, tmp_path):
    program, state = filled(foreign.pytorchcv(name, classes=10))
    torch.save(state, tmp_path / "file.pth")
    weights = open_weights(tmp_path / "file.pth")
    assert (weights.model, weights.form, weights.num_classes) == (name, "pytorchcv", 10)
    network = create_model(name, pretrained=tmp_path / "file.pth").double().eval()
    network.load_state_dict(weights.tensors)  # in double precision
    with torch.no_grad():
        expected = program(images())
        torch.testing.assert_close(network(images()), expected, rtol=1e-9, atol=1e-9)
        own = build_network(name, num_classes=10).double().eval()
        own.load_state_dict(weights.tensors)
        assert torch.allclose(own(images()), expected) == name.endswith("ds")  # ReLU in blocks of 68 and 85
    assert same(in_target(name, weights.tensors, "pytorchcv"), state)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_paddleclas_computes_the_same(name):
    program, state = filled(foreign.paddleclas(name, classes=10))
    linear = next(key for key, value in state.items() if value.ndim == 2)
    arrays = foreign.paddle_arrays(state, (linear,))
    assert arrays[linear].shape == (program.base[-1][-1].in_features, 10)
    found = identify({key: torch.from_numpy(value) for key, value in arrays.items()})
    assert (found.model, found.form, found.num_classes, found.arch) == (name, "paddleclas", 10, None)
    network = build_network(name, num_classes=10).double().eval()
    network.load_state_dict(found.tensors, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(network(images()), program(images()), rtol=1e-9, atol=1e-9)
    back = in_target(name, network.state_dict(), "paddleclas")
    assert same(back, {key: torch.from_numpy(value) for key, value in arrays.items()})


def test_paddledetection_trunk_computes_the_same():
    program, state = filled(foreign.paddledetection())
    name, layout = "centernet_hardnet85", FOREIGN["paddledetection"]
    arrays = {key: torch.from_numpy(value) for key, value in foreign.paddle_arrays(state).items()}
    tensors = from_target(name, arrays, layout.name)
    options = {"features_only": "block", "out_indices": (1, 2, 3)}
    trunk = build_network(name, arch=layout.arch_of(name), **options).double().eval()
    official = build_network(name, **options).double().eval()
    for network in (trunk, official):
        own = {key.removeprefix("trunk."): value for key, value in tensors.items()}
        assert own.keys() == {key for key in network.state_dict() if "num_batches" not in key}
        network.load_state_dict(own, strict=False)
    with torch.no_grad():
        expected = program(images(70))[1:]  # odd sides: pools round up, and windows reach over the border
        for ours, theirs in zip(trunk(images(70)), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(official(images(70))[0], expected[0])  # ReLU, and padding counts
    assert same(in_target(name, tensors, layout.name), arrays)
