"""The machine's limits, and where a timing stands under them."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch

from hardnet_suite.deploy import roofline
from hardnet_suite.deploy.benchmark import Timing
from hardnet_suite.deploy.roofline import Roofline, measure_roofline
from hardnet_suite.deploy.runners import Setting

MACHINE = Roofline(copy=8e9, triad=10e9, rates={"fp32": 1e11, "bf16": 4e11})


def timing(macs: int, elements: int, seconds: float, precision: str = "fp32") -> Timing:
    setting = Setting(precision=precision)
    return Timing("a", setting, 8, 8, 1, (seconds,), parameters=0, macs=macs, cio=elements)


def test_a_pass_bound_by_arithmetic():
    standing = MACHINE.standing(timing(5_000_000_000, 10_000_000, 0.1))
    assert standing.rate == 5e10
    assert standing.rate_share == pytest.approx(0.5)
    assert standing.intensity == pytest.approx(5e9 / 4e7)
    assert standing.bandwidth_share == pytest.approx(4e7 / 10e9 / 0.1)
    assert standing.floor == pytest.approx(0.05)


def test_a_pass_bound_by_traffic():
    standing = MACHINE.standing(timing(1_000_000, 100_000_000, 0.1, "bf16"))
    assert standing.floor == pytest.approx(2e8 / 10e9)
    assert standing.bandwidth_share == pytest.approx(0.2)


def test_a_precision_that_was_not_measured():
    assert MACHINE.standing(timing(1, 1, 1.0, "fp16")) is None


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
@pytest.mark.parametrize("other", ["cpu", "cuda", "cuda:1"])
def test_another_device_has_other_limits(device, other):
    machine = replace(MACHINE, device=device)
    made = timing(1 << 20, 1 << 10, 0.1)
    made = replace(made, setting=Setting(device=other))
    assert (machine.standing(made) is None) == (device != other)


def test_int8_with_bfloat16_stands_under_the_rate_of_int8():
    machine = Roofline(copy=8e9, triad=10e9, rates={"int8": 8e11})
    both = [machine.standing(timing(1 << 30, 1 << 20, 0.1, each)) for each in ("int8", "int8+bf16")]
    assert both[0] == both[1]
    assert both[0].intensity == 1 << 10


def test_the_device_itself_is_waited_for(monkeypatch):
    waited, asked = [], []

    def product(precision, side, device):
        asked.append(device)
        return lambda: None

    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(roofline, "_product", product)
    monkeypatch.setattr(roofline, "_streams", lambda count, device: {"copy": time.time, "triad": time.time})
    assert measure_roofline("cuda:1", ["fp32", "bf16"], rounds=2).device == "cuda:1"
    assert {*waited} == {torch.device("cuda:1")}
    assert {*asked} == {"cuda:1"}


@pytest.mark.parametrize("option", ["elements", "side"])
def test_sizes_of_nothing(option):
    with pytest.raises(ValueError, match=f"{option} must be an integer of at least 1, got 0"):
        measure_roofline("cpu", **{option: 0})


def test_tiny_measurement():
    precisions = ["fp32", "bf16", "int8", "int8+bf16"]
    limits = measure_roofline("cpu", precisions, rounds=1, elements=1 << 12, side=32)
    assert limits.bandwidth == max(limits.copy, limits.triad) > 0
    assert {"fp32", "bf16"} <= set(limits.rates) <= {"fp32", "bf16", "int8"}
    assert all(rate > 0 for rate in limits.rates.values())
    assert json.loads(json.dumps(limits.to_dict()))["bandwidth"] == limits.bandwidth
