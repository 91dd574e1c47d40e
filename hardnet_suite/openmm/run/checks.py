"""Checks of the numbers of a config, and of weights, which must be finite on all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.optimizers import require_clipping
from hardnet_suite.weights.tables import non_finite

_MOST = 10**9  # epochs or iterations
# the numbers that set how long a run is, and how often it validates and logs: (least, most)
_INTEGERS = {
    "randomness.seed": (0, 2**32 - 1),
    "train_cfg.max_epochs": (1, _MOST),
    "train_cfg.max_iters": (1, _MOST),
    "train_cfg.val_interval": (1, _MOST),
    "optim_wrapper.accumulative_counts": (1, _MOST),
    "default_hooks.logger.interval": (1, _MOST),
}
_LARGEST_RATE = 1e6  # of learning


def require_numbers(cfg: Config) -> None:
    """Checks the numbers of a config that mmengine would meet in the middle of a run, or loop over.

    Raises:
        UserError: one is out of range.
    """
    for key, (least, most) in _INTEGERS.items():
        value = _entry(cfg, key)
        if value is not None:
            require_integer(value, least, most, key)
    rate = _entry(cfg, "optim_wrapper.optimizer.lr")
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (is_number and 0 <= rate <= _LARGEST_RATE):  # False for NaN
        raise UserError(f"optim_wrapper.optimizer.lr is {_shortened(rate)}, expected 0 to {_LARGEST_RATE:g}")
    if isinstance(wrapper := cfg.get("optim_wrapper"), Mapping):
        require_clipping(wrapper)


def require_integer(value: Any, least: int, most: int, where: str) -> None:
    """Checks one number.

    Raises:
        UserError: it is not an integer from ``least`` to ``most``.
    """
    if type(value) is not int or value < least:
        raise UserError(f"{where} is {_shortened(value)}, expected an integer of at least {least}")
    if value > most:
        raise UserError(f"{where} is {_shortened(value)}, expected an integer of at most {most}")


def _shortened(value: Any) -> str:
    """A value as a message shows it, however many digits it has."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} characters)"


def _entry(cfg: Config, key: str) -> Any:
    """The value of a dotted key; None where it is missing."""
    value: Any = cfg
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Config | dict) else None
    return value


def require_finite_weights(tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Checks weights before they are saved or scored, on all ranks together.

    Args:
        tensors: a state dict.
        where: what holds them, as the subject of the message.

    Raises:
        UserError: a tensor holds NaN or infinity, on this rank or another.
    """
    names = non_finite(tensors)
    if any_rank(bool(names)):
        first = f", {names[0]} for one" if names else " on another rank"
        raise UserError(
            f"{where}: {counted(len(names), 'weight')} hold{'s' * (len(names) == 1)} NaN or infinity{first}: "
            "the training has diverged; "
            "use an earlier checkpoint, and train with a lower learning rate or clipped gradients"
        )


def require_candidates(model: nn.Module) -> None:
    """Checks that a model of queries, as mmdet's DETR, has as many candidates as it keeps per image.

    Their heads take the best with ``topk``, which would fail in the first validation.

    Raises:
        UserError: it has fewer.
    """
    head, queries = getattr(model, "bbox_head", None), getattr(model, "num_queries", None)
    options = getattr(head, "test_cfg", None)
    kept = options.get("max_per_img") if isinstance(options, Mapping) else None
    if type(kept) is not int or type(queries) is not int:
        return
    loss, classes = getattr(head, "loss_cls", None), getattr(head, "num_classes", 1)
    per_query = classes if getattr(loss, "use_sigmoid", False) else 1  # one for each class, or the best one
    if kept > queries * per_query:
        of = f" of {counted(classes, 'class')} each" if per_query > 1 else ""
        raise UserError(
            f"model.test_cfg.max_per_img is {kept}, but model.num_queries={queries}{of} give no more than "
            f"{queries * per_query} boxes: set max_per_img to {queries * per_query}, or raise num_queries"
        )


def any_rank(condition: bool) -> bool:
    """Whether the condition holds on any rank; all of them must ask."""
    if get_world_size() == 1:
        return condition
    flag = torch.tensor([int(condition)], device=get_device())
    all_reduce(flag, "max")
    return bool(flag)
