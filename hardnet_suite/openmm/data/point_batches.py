"""Which points of a set of patches make up a batch, whose other pairs are each pair's negatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from hardnet_suite.errors import UserError

_GROUP = 16  # points of a group, at most


@DATA_SAMPLERS.register_module()
class DifferentPoints:
    """Yields batches of different points of a ``PatchPairsDataset``: none is a negative of itself.

    All points are passed through in random order, again and again. Shares of a batch can be groups of up to
    16 points that are hard to tell apart. With several ranks, the points of one iteration differ over all of
    them, while a pair's negatives are those of its own rank.

    Args:
        sampler: A ``DefaultSampler``, for its seed, epoch and rank.
        batch_size: Number of pairs per batch and rank.
        pairs: Number of pairs per epoch, of all ranks; an incomplete batch is left out.
        lookalikes: Share of each batch, 0 to 1, in groups of points that look alike: the leaves of a tree
            that splits all points by the grey levels of small versions of their patches, another tree in
            each epoch. They come from all images.
        neighbours: Share of each batch in groups of points with consecutive ids: of one image in sets of
            ``make-patches``.

    Raises:
        UserError: There are fewer points than pairs in a batch, ``pairs`` is not enough for one, or the
            shares are out of range.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        pairs: int,
        lookalikes: float = 0.0,
        neighbours: float = 0.0,
    ):
        self.sampler, self.batch_size, self.pairs = sampler, batch_size, pairs
        self.lookalikes, self.neighbours = lookalikes, neighbours
        self.points = len(sampler.dataset)
        self.whole = batch_size * sampler.world_size  # of all ranks
        if self.points < self.whole:
            raise UserError(
                f"{self.points} points with two patches are too few for a batch of {self.whole} different "
                "ones: set a smaller train_dataloader.batch_size"
            )
        if type(pairs) is not int or pairs < self.whole:
            raise UserError(
                f"pairs={pairs!r} per epoch, expected an integer of at least the batch, {self.whole}"
            )
        for name, share in (("lookalikes", lookalikes), ("neighbours", neighbours)):
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise UserError(f"{name}={share!r}, expected a share of the batch, 0 to 1")
        if lookalikes + neighbours > 1:
            raise UserError(
                f"lookalikes={lookalikes} and neighbours={neighbours} are more than a whole batch"
            )

    @property
    def is_same_on_any_ranks(self) -> bool:
        """Whether the pairs of all ranks together are the same on any number of ranks: no groups."""
        return not self.lookalikes and not self.neighbours

    def __len__(self) -> int:
        return self.pairs // self.whole

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.sampler.seed, self.sampler.epoch))
        streams = [
            (_Stream(groups, random), round(share * self.batch_size))
            for groups, share in (
                (self._lookalikes(random) if self.lookalikes else [], self.lookalikes),
                (self._neighbours(random) if self.neighbours else [], self.neighbours),
            )
            if share
        ]
        singles = _Stream(np.arange(self.points)[:, None], random)
        first = self.sampler.rank * self.batch_size
        for number in range(len(self)):
            points = np.zeros(0, np.int64)
            for rank in range(self.sampler.world_size):
                end = (rank + 1) * self.batch_size
                for groups, count in streams:
                    points = _different(points, groups.take(count))[:end]
                while len(points) < end:
                    points = _different(points, singles.take(end - len(points)))
            # one more draw of each point in every batch
            yield (number * self.points + points[first : first + self.batch_size]).tolist()

    def _lookalikes(self, random: np.random.Generator) -> list[np.ndarray]:
        return lookalike_groups(self.sampler.dataset.thumbnails, random)

    def _neighbours(self, random: np.random.Generator) -> list[np.ndarray]:
        cuts = np.arange(random.integers(1, _GROUP + 1), self.points, _GROUP)
        return np.split(np.arange(self.points), cuts)


class _Stream:
    """Groups of points in random order, again and again."""

    def __init__(self, groups: Sequence[np.ndarray], random: np.random.Generator):
        self._groups, self._random = groups, random
        self._sizes = np.array([len(group) for group in groups])
        self._order, self._at = np.zeros(0, np.int64), 0

    def take(self, count: int) -> np.ndarray:
        """The points of the next groups, about ``count``: the last group is cut off there."""
        parts, missing = [], count
        while missing > 0:
            if self._at == len(self._order):
                self._order, self._at = self._random.permutation(len(self._groups)), 0
            sizes = self._sizes[self._order[self._at : self._at + missing]]
            used = int(np.searchsorted(np.cumsum(sizes), missing)) + 1
            chosen = self._order[self._at : self._at + used]
            parts += [self._groups[index] for index in chosen]
            self._at += len(chosen)
            missing = count - sum(map(len, parts))
        return np.concatenate(parts)[:count] if parts else np.zeros(0, np.int64)


def _different(points: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Both, in order, without the points that occurred before."""
    both = np.concatenate([points, more])
    _, first = np.unique(both, return_index=True)
    return both[np.sort(first)]


def lookalike_groups(features: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """Groups of similar rows: the leaves of a tree that halves them by random directions.

    A direction is the difference of two random rows of the node, along which the rows are likely to spread.

    Args:
        features: (N, D) floating point.
        random: the source of the directions.

    Returns:
        Groups of row numbers, 1 to 16 in each; every row is in one of them.
    """
    count = len(features)
    order, node = np.arange(count), np.zeros(count, np.int64)  # node of each row of ``order``, ascending
    while True:
        starts = np.flatnonzero(np.r_[True, node[1:] != node[:-1]])
        sizes = np.diff(np.r_[starts, count])
        if sizes.max() <= _GROUP:
            return np.split(order, starts[1:])
        ends = [
            order[starts + np.floor(random.random(len(starts)) * sizes).astype(np.int64)] for _ in range(2)
        ]
        directions = (features[ends[0]] - features[ends[1]]).repeat(sizes, 0)
        along = np.einsum("nd,nd->n", features[order], directions)
        chosen = np.lexsort((along, node))
        order = order[chosen]
        place = np.arange(count) - starts.repeat(sizes)
        node = 2 * node + (place >= (sizes // 2).repeat(sizes))
