"""Times of functions side by side, with fake functions and a fake clock."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardnet_suite.timing import interleaved, median_ratio, percentile, synchronizer


class Machine:
    """A clock that its functions advance, and the order in which they ran."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def function(self, name: str, seconds: float):
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


def test_functions_take_turns_and_every_other_round_is_backwards():
    machine = Machine()
    functions = {name: machine.function(name, cost) for name, cost in (("a", 1), ("b", 2), ("c", 4))}
    rounds = []
    seconds = interleaved(functions, rounds=3, warmup=2, clock=lambda: machine.now, on_round=rounds.append)
    assert "".join(machine.order) == "aabbcc" + "abc" + "cba" + "abc"
    assert seconds == {"a": [1] * 3, "b": [2] * 3, "c": [4] * 3}
    assert rounds == [1, 2, 3]


def test_passes_of_a_turn_are_timed_apart():
    machine = Machine()
    functions = {"a": machine.function("a", 1), "b": machine.function("b", 2)}
    seconds = interleaved(functions, rounds=2, passes=2, warmup=0, clock=lambda: machine.now)
    assert "".join(machine.order) == "aabb" + "bbaa"
    assert seconds == {"a": [1] * 4, "b": [2] * 4}


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3", torch.device("cuda", 1)])
def test_a_gpu_is_waited_for_by_its_number(device, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    synchronizer(device)()
    assert waited == [torch.device(device)]
    assert synchronizer("cpu") is synchronizer(torch.device("cpu")) is None


def test_what_a_call_leaves_running_counts():
    machine = Machine()
    functions = {"a": machine.function("a", 1)}
    wait = machine.function("wait", 10)
    assert interleaved(functions, rounds=2, synchronize=wait, clock=lambda: machine.now) == {"a": [11, 11]}
    assert machine.order == ["a", "wait", "a", "wait", "a", "wait"]  # the warm-up is over before the first


@pytest.mark.parametrize(("option", "value"), [("rounds", 0), ("passes", 0), ("warmup", -1), ("rounds", -3)])
def test_counts_out_of_range(option, value):
    with pytest.raises(ValueError, match=f"expected {option} of at least .*, got {value}"):
        interleaved({}, **{"rounds": 1, option: value})


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(1, 0.95, 1), (2, 0.5, 1), (2, 0.95, 2), (19, 0.95, 19), (20, 0.95, 19), (100, 0.95, 95), (7, 1, 7)],
)
def test_percentiles_are_nearest_ranks(count, share, expected):
    assert percentile(range(count, 0, -1), share) == expected


@given(st.lists(st.integers(0, 99), min_size=1), st.sampled_from([0.01, 0.5, 0.95, 1]))
def test_a_percentile_is_one_of_the_values_and_covers_its_share(values, share):
    value = percentile(values, share)
    assert value in values
    assert sum(other <= value for other in values) >= share * len(values) - 1e-6
    assert sum(other < value for other in values) < share * len(values)


def test_ratios_compare_calls_of_one_round():
    """A disturbance that meets both sides cancels."""
    reference = [1.0, 1.0, 9.0, 1.0]
    assert median_ratio([2 * value for value in reference], reference) == 2
    assert median_ratio([3.0, 0.5, 9.0], [1.0, 1.0, 9.0]) == 1
    with pytest.raises(ValueError, match="zip"):
        median_ratio([1.0], [])
