"""Ranks: a process that was not started as its launcher starts processes is one line."""

from __future__ import annotations

import socket

import pytest

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import launch
from hardnet_suite.openmm.run.launch import require_launched, start_ranks

TORCHRUN = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "1",
}


@pytest.fixture(params=["cpu", "cuda"])
def device(request, monkeypatch) -> str:
    monkeypatch.setattr(launch, "get_device", lambda: request.param)
    return request.param


def message_of(launcher: str, environment: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        require_launched(launcher, environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_process_of_torchrun(device):
    require_launched("pytorch", TORCHRUN)
    require_launched("none", {})
    require_launched("none", TORCHRUN | {"WORLD_SIZE": "1"})
    require_launched("none", {"WORLD_SIZE": "4"})  # set by a cluster, for another program


def test_without_torchrun(device):
    message = message_of("pytorch", {})
    assert "expects a process started by torchrun: torchrun --nproc-per-node N " in message
    assert "RANK, " in message
    assert "MASTER_PORT not set" in message


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_a_variable_that_is_missing_or_wrong(device, name):
    assert f"({name} not set)" in message_of("pytorch", {**TORCHRUN, name: ""})
    if name != "MASTER_ADDR":
        assert f"({name}=x not a number)" in message_of("pytorch", {**TORCHRUN, name: "x"})


def test_torchrun_without_the_option(device):
    assert "torchrun started 2 processes" in (message := message_of("none", TORCHRUN))
    assert message.endswith("add --launcher pytorch")


def test_other_launchers(device):
    assert "expected none, pytorch, slurm, mpi" in message_of("horovod", TORCHRUN)
    expected = {"cpu": "needs GPUs", "cuda": "SLURM_PROCID, SLURM_NTASKS, SLURM_NODELIST not set"}
    assert expected[device] in message_of("slurm", TORCHRUN)
    if device == "cuda":
        require_launched("slurm", {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_NODELIST": "node[1-2]"})
        assert "started by Open MPI: mpirun" in message_of("mpi", {})


def test_a_port_that_is_taken(monkeypatch):
    monkeypatch.setattr(launch, "get_device", lambda: "cpu")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in (TORCHRUN | {"MASTER_PORT": port}).items():
            if name != "TORCHELASTIC_RUN_ID":  # torchrun's ranks share its own store
                monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=rf"the ranks cannot meet at 127\.0\.0\.1:{port}.*free port"):
            start_ranks("pytorch", {})
