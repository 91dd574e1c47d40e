"""Short runs of the toy model."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from toy_runs import RATES

from hardnet_suite.openmm.run.runner import prepare
from hardnet_suite.openmm.run.train import train


@pytest.fixture
def toy_train(tmp_path):
    """Trains a toy config in a work dir of that name; returns the runner and every iteration's rate."""

    def run(cfg: Config, name: str = "work", *, bf16: bool = False, **options):
        runner = train(prepare(cfg, work_dir=tmp_path / name, bf16=bf16), **options)
        return runner, list(RATES)

    run.folder = lambda name="work": Path(tmp_path, name)
    return run
