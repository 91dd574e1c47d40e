"""The options of a prediction as types, so that editors complete them wherever they are passed on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch


class RunOptions(TypedDict, total=False):
    """What each call may choose; see ``predict``."""

    top: int
    score: float
    channels: str
    batch_size: int
    failed: list[tuple[str, str]] | None


class PredictOptions(RunOptions, total=False):
    """``RunOptions`` and those of ``load_model``."""

    weights: str | Path | None
    classes: Sequence[str] | None
    device: str | torch.device | None
    bf16: bool
