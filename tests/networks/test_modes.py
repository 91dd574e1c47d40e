"""Eval mode for a while: every module has its own mode again, whoever else uses it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from hardnet_suite.networks import eval_mode
from hardnet_suite.networks.modes import _modes, _uses


def _network() -> nn.Sequential:
    """In training mode, with a frozen batch norm."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Dropout()))
    network[1].eval()
    return network


def _states(network: nn.Module) -> list[bool]:
    return [module.training for module in network.modules()]


@pytest.mark.parametrize("wrap", [lambda network: network, torch.compile], ids=["network", "compiled"])
def test_each_module_has_its_own_mode_again(wrap):
    network = wrap(_network())
    before = _states(network)
    with eval_mode(network):
        assert not any(_states(network))
    assert _states(network) == before
    network.eval()
    with eval_mode(network):
        pass
    assert not any(_states(network))


def test_an_error_inside_restores_the_modes():
    network = _network()
    before = _states(network)
    with pytest.raises(ZeroDivisionError), eval_mode(network):
        1 / 0  # noqa: B018
    assert _states(network) == before
    assert not _modes
    assert not _uses


def test_the_last_to_leave_restores_the_modes():
    network = _network()
    before = _states(network)
    first, second, part = eval_mode(network), eval_mode(network), eval_mode(network[2])
    first.__enter__()
    second.__enter__()
    part.__enter__()
    first.__exit__(None, None, None)
    assert not any(_states(network))
    second.__exit__(None, None, None)
    assert not any(_states(network[2]))
    assert network.training
    part.__exit__(None, None, None)
    assert _states(network) == before


def test_threads_that_share_a_network():
    network = _network()
    before, together = _states(network), threading.Barrier(4)

    def use(_: int) -> int:
        together.wait()
        wrong = 0
        for _ in range(300):
            with eval_mode(network):
                wrong += any(_states(network))
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(use, range(4))) == [0] * 4
    assert _states(network) == before
