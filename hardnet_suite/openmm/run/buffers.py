"""Running statistics, gathered by each rank from its own images: averaged, saved and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor

from hardnet_suite.errors import UserError

RANK_BUFFERS = "rank_buffers"  # of a checkpoint: one dict per rank, key -> tensor
_TRAINED = "0"  # what the keys of the model in training begin with


@HOOKS.register_module()
class AverageBuffersHook(Hook):
    """Averages floating-point buffers over the ranks at the end of an epoch and before a validation.

    These are the running statistics of the model and those of averaged weights (``EMAHook``), which
    mmengine's ``SyncBuffersHook`` leaves as each rank has them. A no-op with a single rank.
    """

    priority = "NORMAL"

    def after_train_epoch(self, runner) -> None:
        average_buffers(runner)

    def before_val_epoch(self, runner) -> None:
        average_buffers(runner)


def average_buffers(runner) -> None:
    """Averages the floating-point buffers over the ranks, in place; all ranks must call it."""
    if get_world_size() == 1:
        return
    buffers = list(_buffers_of(runner).values())
    if not buffers:
        return
    # in double precision, in which averaging what is equal on all ranks changes no bit
    flat = torch.cat([buffer.detach().reshape(-1).to(get_device(), torch.double) for buffer in buffers])
    all_reduce(flat, "mean")
    for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(mean.reshape(buffer.shape))


@contextmanager
def averaged_buffers(runner) -> Iterator[list[dict[str, Tensor]] | None]:
    """Within, the buffers are averaged over the ranks; afterwards each rank has its own again.

    Yields:
        The buffers of all ranks, in the order of the ranks; None if they are equal, as with a single rank.
    """
    if get_world_size() == 1:
        yield None
        return
    own = {key: buffer.detach().clone() for key, buffer in _buffers_of(runner).items()}
    ranks = all_gather_object({key: buffer.cpu() for key, buffer in own.items()})
    is_equal = all(torch.equal(ranks[0][key], other[key]) for other in ranks for key in own)
    average_buffers(runner)
    try:
        yield None if is_equal else ranks
    finally:
        _restore(runner, own)


def restore_buffers(runner, ranks: list[dict[str, Tensor]] | None) -> None:
    """Gives a resumed rank its own buffers, from ``RANK_BUFFERS`` of a checkpoint.

    With another number of ranks, or without that entry, the averages stay, which the state dict holds; so do
    those of averaged weights that begin on resuming, of which no rank had buffers.

    Raises:
        UserError: the entry is not one dict of buffers per rank, in their shapes, finite.
    """
    if ranks is None or get_world_size() == 1:
        return
    if not isinstance(ranks, list) or not all(isinstance(values, dict) for values in ranks):
        raise UserError("cannot resume: the checkpoint's rank_buffers are damaged")
    if len(ranks) != get_world_size():
        return
    own = ranks[get_rank()]
    models = {_model_of(key) for values in ranks for key in values if isinstance(key, str)}
    for key, buffer in _buffers_of(runner).items():
        if _model_of(key) not in {*models, _TRAINED}:
            continue
        value = own.get(key)
        is_tensor = isinstance(value, Tensor) and value.dtype == buffer.dtype
        if not is_tensor or value.shape != buffer.shape or not torch.isfinite(value).all():
            raise UserError(f"cannot resume: the checkpoint's rank_buffers are damaged ({key})")
    _restore(runner, own)


def _restore(runner, values: dict[str, Tensor]) -> None:
    for key, buffer in _buffers_of(runner).items():
        if key in values:
            buffer.copy_(values[key])


def _model_of(key: str) -> str:
    """Which model a buffer is of, by its key."""
    return key.partition(".")[0]


def _buffers_of(runner) -> dict[str, Tensor]:
    """The floating-point buffers of the model and of the models with averaged weights."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    averaged = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
    return {
        f"{number}.{name}": buffer
        for number, module in enumerate([model, *averaged])
        for name, buffer in module.named_buffers()
        if buffer.is_floating_point()
    }
