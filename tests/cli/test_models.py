"""``models``: its figures are those of the networks, and it starts without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from hardnet_suite.cli.models import FIGURES
from hardnet_suite.networks import build_network, count_parameters, list_models, multiply_adds


def test_every_model_has_a_row():
    assert list(FIGURES) == list_models()


@pytest.mark.parametrize("name", list_models())
def test_figures_are_measured_on_the_network(name):
    (height, width), parameters, macs = FIGURES[name]
    with torch.device("meta"):
        network = build_network(name)
    channels = next(network.parameters()).shape[1]
    assert count_parameters(network) == parameters
    assert multiply_adds(network, (1, channels, height, width)) == macs


def test_the_command_imports_neither_torch_nor_numpy():
    code = (
        "import sys\n"
        "from hardnet_suite.cli import main\n"
        "status = main(['models'])\n"
        "assert status == 0, status\n"
        "heavy = {'torch', 'numpy', 'safetensors', 'mmengine'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in FIGURES)
