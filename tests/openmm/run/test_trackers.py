"""Visualization backends that an option adds to a config."""

from __future__ import annotations

import pytest
from mmengine.config import Config

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.openmm.run.trackers import add_trackers

LOCAL, BOARD = {"type": "LocalVisBackend"}, {"type": "TensorboardVisBackend"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def backends(names, visualizer=None):
    cfg = Config({"work_dir": "/runs/my_run"} | ({} if visualizer is None else {"visualizer": visualizer}))
    add_trackers(cfg, names)
    return [dict(backend) for backend in cfg.visualizer.vis_backends]


def test_a_config_without_a_visualizer_keeps_the_local_files():
    assert backends(["tensorboard"]) == [LOCAL, BOARD]


def test_what_is_there_stays_and_is_not_doubled():
    visualizer = {"type": "DetLocalVisualizer", "vis_backends": [LOCAL, BOARD]}
    assert backends(["tensorboard", "tensorboard"], visualizer) == [LOCAL, BOARD]
    assert [one["type"] for one in backends(["wandb", "mlflow", "wandb"], visualizer)] == [
        *("LocalVisBackend", "TensorboardVisBackend", "WandbVisBackend", "MLflowVisBackend"),
    ]


def test_runs_have_names_and_the_environment_counts(monkeypatch):
    wandb, mlflow = backends(["wandb", "mlflow"])[1:]
    assert wandb["init_kwargs"] == {"project": "hardnet-suite", "name": "my_run"}
    assert mlflow == {
        "type": "MLflowVisBackend",
        "exp_name": "my_run",
        "run_name": "my_run",
        "tracking_uri": "sqlite:///mlflow.db",
    }
    monkeypatch.setenv("WANDB_PROJECT", "cells")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    wandb, mlflow = backends(["wandb", "mlflow"])[1:]
    assert wandb["init_kwargs"]["project"] == "cells"
    assert mlflow["tracking_uri"] == "http://localhost:5000"
