"""Randomness as a function of (seed, epoch, index), so that a run can resume at any iteration.

An image gets the same augmentation in a given epoch for any number of workers, ranks or restarts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

Key = tuple[int, int]  # (epoch, index)


def seed_all(*numbers: int) -> None:
    """Seeds the generators of Python, NumPy and torch in this process.

    Args:
        numbers: Non-negative integers, which together form the seed.
    """
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))


class SeededDataset:
    """Wraps a data set: indexed by (epoch, index), it seeds all generators before it loads the sample.

    Args:
        dataset: The data set.
        seed: Seed of the run.
    """

    def __init__(self, dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key):
        epoch, index = key
        seed_all(self.seed, epoch, index)
        return self.dataset[index]

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(index)

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler:
    """Yields batches of (epoch, index), starting at batch ``start`` of the epoch.

    Args:
        sampler: Sampler of indices, with the attribute ``epoch``.
        batch_size: Number of samples per batch.
        drop_last: Whether an incomplete last batch is dropped.
        inner: Config of a batch sampler to use instead of torch's ``BatchSampler``.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False, inner: dict | None = None):
        self.sampler, self.batch_size, self.start = sampler, batch_size, 0
        if inner is None:
            self.batches = BatchSampler(sampler, batch_size, drop_last)
        else:
            self.batches = DATA_SAMPLERS.build(
                inner, default_args={"sampler": sampler, "batch_size": batch_size}
            )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.sampler.epoch
        for number, batch in enumerate(self.batches):
            if number >= self.start:
                yield [(epoch, index) for index in batch]
