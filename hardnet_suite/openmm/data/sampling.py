"""Random numbers as a function of (seed, epoch, index), so that a run can be resumed anywhere.

Whatever the number of workers, ranks or restarts: an image of an epoch always meets the same augmentation.
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
    """Seeds Python's, NumPy's and torch's generators of this process from a tuple of whole numbers ≥ 0."""
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))


class SeededDataset:
    """A data set asked for (epoch, index), which seeds the generators before each sample is made."""

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
    """Batches of (epoch, index), from batch ``start`` of the epoch on.

    inner: a batch sampler's config in place of plain batches of ``sampler``.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False, inner: dict | None = None):
        self.sampler, self.start = sampler, 0
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
