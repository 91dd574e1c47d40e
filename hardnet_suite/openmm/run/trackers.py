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


def add_trackers(cfg: Config, names: Sequence[str], run: str) -> None:
    """Adds mmengine's visualization backends to a config that has none of their kind, in place.

    Args:
        cfg: the config.
        names: "tensorboard", "wandb", "mlflow".
        run: what trackers call the run.
    """
    visualizer = cfg.get("visualizer") or {
        "type": "Visualizer",
        "vis_backends": [{"type": "LocalVisBackend"}],
    }
    backends = list(visualizer.get("vis_backends") or [])
    for name in dict.fromkeys(names):
        if not any(backend.get("type") == _BACKENDS[name] for backend in backends):
            backends.append({"type": _BACKENDS[name], **_options(name, Path(cfg.filename or run).stem, run)})
    cfg.visualizer = {**visualizer, "vis_backends": backends}


def _options(name: str, config: str, run: str) -> dict[str, Any]:
    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT") or "hardnet-suite"
        return {"init_kwargs": {"project": project, "name": os.environ.get("WANDB_NAME") or run}}
    if name == "mlflow":
        address = os.environ.get("MLFLOW_TRACKING_URI")
        return {"exp_name": os.environ.get("MLFLOW_EXPERIMENT_NAME") or config, "run_name": run} | (
            {"tracking_uri": address} if address else {}
        )
    return {}
