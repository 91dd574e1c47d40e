"""Randomness as a function of (seed, epoch, index), so that a run can resume at any iteration.

An image gets the same augmentation in a given epoch for any number of workers, ranks or restarts.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, FUNCTIONS
from torch.utils.data import BatchSampler, Dataset, Sampler

from hardnet_suite.errors import UserError

Key = tuple[int, int]  # (epoch, index)
_LOOKED_AT = 1000  # images of a data set that a fingerprint looks at


def seed_all(*numbers: int) -> None:
    """Seeds the generators of Python, NumPy and torch in this process.

    Args:
        numbers: Non-negative integers, which together form the seed.
    """
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))


def uniform_rows(numbers: Sequence[int], indices: np.ndarray, count: int) -> np.ndarray:
    """Random numbers of many samples at once, those of each a function of its index alone.

    They are the splitmix64 generator's (Steele et al., OOPSLA 2014), evaluated at all positions at once.

    Args:
        numbers: Non-negative integers, which together form the seed.
        indices: (N,) indices of the samples, at least 0.
        count: How many numbers per sample.

    Returns:
        (N, count) float64 in [0, 1).
    """
    with np.errstate(over="ignore"):
        start = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
        rows = _mixed(start + _GOLDEN * np.asarray(indices).astype(np.uint64))
        words = _mixed(rows[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    return (words >> np.uint64(11)) * 2.0**-53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(words: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words that changes half of the bits with any one of them."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class _Wrapper:
    """Wraps a part of a data loader, whose attributes are read and set as without the wrapper.

    Hooks change such parts: mmdet's ``PipelineSwitchHook`` gives the data set of a loader another pipeline.
    What a wrapper itself keeps, it sets in ``__init__`` by ``vars(self)``.

    Args:
        wrapped: The part.
    """

    _role: str  # of the part, in errors
    _settable: tuple[str, ...] = ()  # attributes of the wrapper itself that may be set

    def __init__(self, wrapped: Any):
        vars(self).update(wrapped=wrapped)

    def __getattr__(self, name: str):
        if name.startswith("__") or "wrapped" not in vars(self):  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __setattr__(self, name: str, value) -> None:
        if name in self._settable:
            super().__setattr__(name, value)
        elif hasattr(self.wrapped, name):
            setattr(self.wrapped, name, value)
        else:
            kind = type(self.wrapped).__name__
            raise UserError(
                f"a hook sets {name} of the training {self._role}, but the {kind} has none: it would have "
                "no effect"
            )

    def __len__(self) -> int:
        return len(self.wrapped)


class SeededDataset(_Wrapper):
    """Wraps a data set: indexed by (epoch, index), it seeds all generators before it loads the sample.

    Args:
        dataset: The data set. Its attributes are those of the wrapper, also where they are set.
        seed: Seed of the run.
    """

    _role = "data"
    _settable = ("seed",)

    def __init__(self, dataset, seed: int):
        super().__init__(dataset)
        vars(self).update(seed=seed)

    def __getitem__(self, key: Key):
        epoch, index = key
        seed_all(self.seed, epoch, index)
        return self.wrapped[index]


def fingerprint(dataset: Any) -> str:
    """Tells sets of images apart, in hex: by their number, order, names without folders, and labels.

    Looks at no more than some thousand images, at equal distances. What a data set itself calls its
    ``fingerprint`` counts as well, for those without names; of a wrapper which images it selects
    (``indices`` of torch's ``Subset``, ``repeat_indices`` of mmengine's ``ClassBalancedDataset``).

    Args:
        dataset: A data set of any kind, with wrappers around it.
    """
    hashed = hashlib.blake2b(f"{len(dataset)}".encode(), digest_size=16)
    pending: list[tuple[Any, ...]] = [(dataset,)]  # each with the wrappers around it
    while pending:
        path = pending.pop()
        each = path[-1]
        hashed.update(f"|{getattr(each, 'fingerprint', '')}".encode())
        several = getattr(each, "datasets", None)
        inner = [getattr(each, "dataset", None), *(several if isinstance(several, list | tuple) else ())]
        inner = [part for part in inner if _is_dataset(part) and all(part is not outer for outer in path)]
        pending += [(*path, part) for part in inner]
        for key in ("indices", "repeat_indices"):
            with contextlib.suppress(TypeError, KeyError):  # not a sequence of integers
                selected = getattr(each, key, None)
                chosen = [operator.index(index) for index in selected[:: _step(selected)]]
                hashed.update(f"|{key} {len(selected)} {chosen}".encode())
        if not inner and hasattr(each, "get_data_info"):
            for index in range(0, len(each), _step(each)):
                info = each.get_data_info(index)
                info = info if isinstance(info, Mapping) else {}
                name = os.path.basename(str(info.get("img_path") or info.get("name")))
                hashed.update(f"|{name} {info.get('label')}".encode(errors="surrogateescape"))
    return hashed.hexdigest()


def _step(images: Any) -> int:
    """The distance of those that are looked at."""
    return -(-len(images) // _LOOKED_AT) or 1


def _is_dataset(part: Any) -> bool:
    """Whether an attribute of a wrapper is a data set, and not its name or an array."""
    kept = ("get_data_info", "dataset", "datasets", "fingerprint")
    return (
        not isinstance(part, type)
        and hasattr(part, "__len__")
        and (isinstance(part, Dataset) or any(hasattr(part, key) for key in kept))
    )


class SeededBatches(SeededDataset):
    """Wraps a data set that loads a batch at once, ``load_batch(seed, epoch, indices)``.

    The data loader then gets whole batches: its ``collate_fn`` is ``whole_batch``.
    """

    def __getitem__(self, key: Key):
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]):
        epochs, indices = np.array(keys, np.int64).T
        return self.wrapped.load_batch(self.seed, int(epochs[0]), indices)


@FUNCTIONS.register_module()
def whole_batch(batch):
    """The ``collate_fn`` of a data set that loads whole batches."""
    return batch


@DATA_SAMPLERS.register_module()
class WholeBatchSampler(DefaultSampler):
    """A ``DefaultSampler`` that leaves out what would not fill a batch of all ranks.

    ``DefaultSampler`` repeats images until the ranks have equally many, so that the number of whole batches
    depends on the number of ranks.

    Args:
        dataset: The data set.
        batch_size: Number of samples per batch and rank.
        options: Further options of ``DefaultSampler``.
    """

    def __init__(self, dataset, batch_size: int, **options):
        super().__init__(dataset, **{**options, "round_up": False})
        whole = batch_size * self.world_size
        self.total_size = len(dataset) // whole * whole
        self.num_samples = self.total_size // self.world_size


def dropping_sampler(config: dict | None, batch_size: int) -> dict | None:
    """Makes a ``DefaultSampler`` a ``WholeBatchSampler``, for a loader that drops incomplete batches."""
    kinds = ("DefaultSampler", "mmengine.DefaultSampler", DefaultSampler)
    if config is None or config.get("type") not in kinds:
        return config
    return {**config, "type": "WholeBatchSampler", "batch_size": batch_size}


def no_epochs(sampler: Sampler) -> UserError:
    """The error about a sampler that an epoch-based training cannot have."""
    return UserError(
        f"train_dataloader.sampler is {type(sampler).__name__}, which has no epochs: use "
        'dict(_delete_=True, type="DefaultSampler", shuffle=True)'
    )


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(_Wrapper):
    """Yields batches of (``epoch``, index), starting at batch ``start`` of the epoch.

    Other attributes are those of the batch sampler in it, also where hooks set them. ``sampler``,
    ``batch_size`` and ``drop_last`` stay: a run that resumes within an epoch counts its batches.

    Args:
        sampler: Sampler of indices, with the attribute ``epoch``.
        batch_size: Number of samples per batch.
        drop_last: Whether an incomplete last batch is dropped.
        inner: Config of a batch sampler to use instead of torch's ``BatchSampler``.

    Raises:
        UserError: The sampler has no epochs.
    """

    _role = "batches"
    _settable = ("epoch", "start")

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False, inner: dict | None = None):
        if not hasattr(sampler, "epoch"):
            raise no_epochs(sampler)
        if inner is None:
            batches = BatchSampler(sampler, batch_size, drop_last)
        else:
            batches = DATA_SAMPLERS.build(inner, default_args={"sampler": sampler, "batch_size": batch_size})
        super().__init__(batches)
        vars(self).update(sampler=sampler, batch_size=batch_size, epoch=0, start=0)

    def __setattr__(self, name: str, value) -> None:
        if name in ("sampler", "batch_size", "drop_last"):
            raise UserError(
                f"a hook sets {name} of the training batches, which ResumableEpochLoop counts to resume "
                'within an epoch: use train_cfg.type="EpochBasedTrainLoop"'
            )
        super().__setattr__(name, value)

    @property
    def is_same_on_any_ranks(self) -> bool:
        """Whether the batches of all ranks together are the same images on any number of ranks."""
        if type(self.wrapped) is BatchSampler:
            return isinstance(self.sampler, DefaultSampler)
        return bool(getattr(self.wrapped, "is_same_on_any_ranks", False))

    def __iter__(self) -> Iterator[list[Key]]:
        for number, batch in enumerate(self.wrapped):
            if number >= self.start:
                yield [(self.epoch, index) for index in batch]
