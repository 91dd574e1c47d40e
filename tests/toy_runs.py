"""A linear model on a few numbers: runs of the suite's runner that take a fraction of a second."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from torch import nn

import hardnet_suite.openmm  # noqa: F401  (registers the loop and the hooks)

RATES: list[float] = []  # of every iteration since the last run began


@DATASETS.register_module()
class ToyNumbers:
    """Samples of two numbers, eight by default."""

    def __init__(self, classes=("a", "b"), length: int = 8):
        self.metainfo = {"classes": tuple(classes)}
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        return {"inputs": torch.tensor([1.0, index / 8])}


@MODELS.register_module()
class ToyModel(BaseModel):
    """``spoil``: which of "loss", "gradient" and "buffer" becomes ``value``, in iteration ``spoil_at``."""

    def __init__(
        self, spoil: str = "", spoil_at: int = -1, value: float = float("nan"), width: int = 3, **options
    ):
        super().__init__(**options)
        self.layer, self.norm = nn.Linear(2, width), nn.BatchNorm1d(width)
        self.register_buffer("seen", torch.zeros(2))
        self.spoil, self.spoil_at, self.value, self.count = spoil, spoil_at, value, 0

    def forward(self, inputs, data_samples=None, mode: str = "tensor"):
        out = self.norm(self.layer(torch.stack(inputs)))
        if mode != "loss":
            return out
        good, bad = out.square().mean(), (out - 1).square().mean()
        if self.count == self.spoil_at:
            if self.spoil == "loss":
                bad = bad * self.value
            elif self.spoil == "gradient":
                self.layer.weight.register_hook(lambda gradient: gradient * self.value)
            elif self.spoil == "buffer":
                self.seen.fill_(self.value)
        self.count += 1
        return {"loss_good": good, "loss_bad": bad, "accuracy": torch.tensor(1.0)}


@HOOKS.register_module()
class RecordRates(Hook):
    def before_train(self, runner) -> None:
        RATES.clear()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        RATES.append(runner.optim_wrapper.param_groups[0]["lr"])


def toy_config(schedule: list | None = None, *, epochs: int = 2, lr: float = 0.1, **changes) -> Config:
    """4 iterations per epoch."""
    return Config(
        {
            "model": {"type": "ToyModel"},
            "train_dataloader": {
                "batch_size": 2,
                "num_workers": 0,
                "dataset": {"type": "ToyNumbers"},
                "sampler": {"type": "DefaultSampler", "shuffle": True},
            },
            "train_cfg": {"type": "ResumableEpochLoop", "max_epochs": epochs},
            "optim_wrapper": {
                "type": "OptimWrapper",
                "optimizer": {"type": "SGD", "lr": lr, "momentum": 0.9, "weight_decay": 0.01},
            },
            "param_scheduler": schedule or [],
            "default_hooks": {
                "checkpoint": {"type": "ResumableCheckpointHook", "interval": 1, "max_keep_ckpts": 2},
                "logger": {"type": "LoggerHook", "interval": 1},
            },
            "custom_hooks": [{"type": "RecordRates"}],
            "visualizer": {"type": "Visualizer", "vis_backends": [{"type": "LocalVisBackend"}]},
            "randomness": {"seed": 0},
            "log_level": "WARNING",
            "default_scope": "mmengine",
            **changes,
        }
    )


def assert_identical(a, b, where: str = "") -> None:
    """Compares nested containers of tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_identical(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_identical(*pair, f"{where}[{index}]")
    else:
        assert a == b, where
