from __future__ import annotations

import socket

import pytest
import torch

from hardnet_suite.prediction.ranks import Ranks


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed training")
@pytest.mark.parametrize("length", [0, 10, 10_000_000])
def test_values_of_any_length(monkeypatch, length):
    """The store itself refuses values of 8 MiB."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    surroundings = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for key, value in surroundings.items():
        monkeypatch.setenv(key, value)
    ranks = Ranks()
    value = ["é" * length, {"a": None}]
    ranks.tell("entries", value)
    assert ranks.hear("entries") == value
