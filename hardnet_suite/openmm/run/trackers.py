"""Where the scalars and images of a run go beside its folder: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

_BACKENDS = {
    "tensorboard": "TensorboardVisBackend",
    "wandb": "WandbVisBackend",
    "mlflow": "MLflowVisBackend",
}


def add_trackers(cfg: Config, names: Sequence[str]) -> None:
    """Adds mmengine's visualization backends to a config that has none of their kind, in place.

    The environment variables of the trackers count: ``WANDB_PROJECT``, ``WANDB_NAME``,
    ``MLFLOW_TRACKING_URI`` (default: ``mlflow.db`` in the current folder) and ``MLFLOW_EXPERIMENT_NAME``.

    Args:
        cfg: as ``prepare`` returns it.
        names: "tensorboard", "wandb", "mlflow".
    """
    visualizer = cfg.get("visualizer") or {
        "type": "Visualizer",
        "vis_backends": [{"type": "LocalVisBackend"}],
    }
    backends = list(visualizer.get("vis_backends") or [])
    for name in dict.fromkeys(names):
        if not any(backend.get("type") == _BACKENDS[name] for backend in backends):
            backends.append({"type": _BACKENDS[name], **_options(name, cfg)})
    cfg.visualizer = {**visualizer, "vis_backends": backends}


def _options(name: str, cfg: Config) -> dict[str, Any]:
    folder, environment = Path(cfg.work_dir).resolve(), os.environ
    if name == "wandb":
        project = environment.get("WANDB_PROJECT") or "hardnet-suite"
        return {"init_kwargs": {"project": project, "name": environment.get("WANDB_NAME") or folder.name}}
    if name == "mlflow":
        # without an address, mmengine's is a folder of files, which MLflow has given up; this is MLflow's own
        return {
            "exp_name": environment.get("MLFLOW_EXPERIMENT_NAME") or Path(cfg.filename or folder).stem,
            "run_name": folder.name,
            "tracking_uri": environment.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db",
        }
    return {}
