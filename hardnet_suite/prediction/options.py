"""The options of a prediction as types, so that editors complete them wherever they are passed on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypedDict

import numpy as np
import torch
from PIL import Image

from hardnet_suite.precision import Precision

_Bytes: TypeAlias = bytes | bytearray | memoryview | BinaryIO
# what predict takes: a path, pattern, address or camera; an image, a batch, a file; or several of these
Images: TypeAlias = (
    str
    | Path
    | int
    | Image.Image
    | np.ndarray
    | torch.Tensor
    | _Bytes
    | Sequence["Images"]
    | Iterator["Images"]
)


class RunOptions(TypedDict, total=False):
    """What each call may choose; see ``predict``."""

    top: int | None
    score: float | None
    channels: str
    batch_size: int
    workers: int | None
    failed: list[tuple[str, str]] | None


class PredictOptions(RunOptions, total=False):
    """``RunOptions`` and those of ``load_model``."""

    weights: str | Path | None
    classes: Sequence[str] | None
    device: str | torch.device | None
    bf16: bool
    precision: Precision | None
