"""Which tensors of a checkpoint are the network's, and which are none that a network can have."""

from __future__ import annotations

import pytest
import torch

from hardnet_suite.errors import UserError
from hardnet_suite.networks import build_network
from hardnet_suite.weights import fill, open_weights, state_dict_of
from hardnet_suite.weights.tables import require_sound, tables_of

ONE, OTHER = {"a.weight": torch.ones(2)}, {"a.weight": torch.zeros(2)}


@pytest.mark.parametrize(
    ("checkpoint", "taken", "choices"),
    [
        ({"module": ONE}, ONE, []),  # DeepSpeed
        ({"params": {"lr": 0.1}, "net": ONE}, ONE, []),
        ({"ema": {"decay": 0.999}, "model": ONE}, ONE, []),
        ({"ema": {"decay": torch.tensor(0.999)}, "model": ONE}, ONE, []),
        ({"ema": {"module": ONE, "updates": 4}, "model": OTHER}, ONE, ["ema", "model"]),
        ({"model": OTHER, "ema": {"state_dict": ONE}}, ONE, ["ema", "model"]),
        ({"state_dict": {"net": ONE, "params": {}}, "model": {}}, ONE, []),
        ({"ema_state_dict": OTHER, "module": ONE}, ONE, ["module", "ema_state_dict"]),
    ],
)
def test_wrappers_without_tensors_hide_none_that_has_them(checkpoint, taken, choices):
    assert torch.equal(state_dict_of(checkpoint)["a.weight"], taken["a.weight"])
    assert tables_of(checkpoint) == choices


@pytest.mark.parametrize("checkpoint", [{"module": {"lr": 0.1}}, {"ema": {"decay": 0.9}, "model": {}}, {}])
def test_no_tensors_under_any_wrapper(checkpoint):
    with pytest.raises(UserError, match="no state dict in this checkpoint"):
        state_dict_of(checkpoint)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_counters_of_one_number_are_scalars(tmp_path, shape):
    network = build_network("hardnet39ds", num_classes=2)
    state = {
        key: torch.full(shape, 7) if key.endswith("num_batches_tracked") else value
        for key, value in network.state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    fill(network, open_weights(tmp_path / "w.pth"))
    assert network.trunk.stem[0].norm.num_batches_tracked == 7


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.ones(2, device="meta"), "1 tensors are on the meta device, .* no values .a.weight for one."),
        (torch.ones(2).to(torch.float8_e4m3fn), "a.weight is torch.float8_e4m3fn.: quantised or sparse"),
        (torch.ones(2).to(torch.float8_e5m2), "a.weight is torch.float8_e5m2.: quantised or sparse"),
        (torch.ones(2, dtype=torch.complex64), "a.weight is torch.complex64.: quantised or sparse"),
        (torch.ones(2).to_sparse(), "a.weight is sparse torch.float32.: quantised or sparse"),
    ],
)
def test_tensors_that_no_network_can_have(value, reason):
    with pytest.raises(UserError, match=reason):
        require_sound({"a.weight": value})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floats_are_sound(dtype):
    require_sound({"a.weight": torch.ones(2, dtype=dtype)})


def test_tensors_without_values_are_refused_on_reading():
    with pytest.raises(UserError, match="on the meta device"):
        state_dict_of({"model": {"a": torch.ones(1), "b.num_batches_tracked": torch.ones((), device="meta")}})
