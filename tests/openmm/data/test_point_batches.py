"""Batches of points: no point twice, all points alike, hard ones together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.point_batches import DifferentPoints, lookalike_groups


class Points:
    """A data set of points on a line, which look like their neighbours there."""

    def __init__(self, count: int):
        self.thumbnails = np.random.default_rng(0).permutation(count).astype(np.float32)[:, None]

    def __len__(self) -> int:
        return len(self.thumbnails)


class Sampler:
    """What ``DifferentPoints`` reads of mmengine's ``DefaultSampler``."""

    def __init__(self, points: int, rank: int = 0, world_size: int = 1, seed: int = 0, epoch: int = 0):
        self.dataset, self.rank, self.world_size = Points(points), rank, world_size
        self.seed, self.epoch = seed, epoch


@pytest.mark.parametrize(("points", "batch", "pairs"), [(10, 4, 23), (8, 8, 40), (9, 2, 100)])
def test_batches_hold_different_points(points, batch, pairs):
    batches = DifferentPoints(Sampler(points), batch, pairs)
    drawn = list(batches)
    assert len(drawn) == len(batches) == pairs // batch
    assert all(len({index % points for index in indices}) == batch for indices in drawn)
    everything = [index for indices in drawn for index in indices]
    assert len(set(everything)) == len(everything)  # another draw of a point each time
    counts = Counter(index % points for index in everything)
    assert max(counts.values()) <= len(everything) / points + 2
    assert min(counts[point] for point in range(points)) >= len(everything) // points - 2


def test_order_depends_on_seed_and_epoch():
    first = list(DifferentPoints(Sampler(10), 4, 40))
    assert list(DifferentPoints(Sampler(10), 4, 40)) == first
    for other in (Sampler(10, seed=1), Sampler(10, epoch=1)):
        assert list(DifferentPoints(other, 4, 40)) != first


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_batches_of_one(ranks):
    one = list(DifferentPoints(Sampler(13), 2 * ranks, 60))
    parts = [list(DifferentPoints(Sampler(13, rank, ranks), 2, 60)) for rank in range(ranks)]
    for whole, *shares in zip(one, *parts, strict=True):
        assert sorted(whole) == sorted(index for share in shares for index in share)


@pytest.mark.parametrize(
    ("points", "batch", "pairs", "message"),
    [
        (3, 4, 8, "3 points with two patches are too few for a batch of 4"),
        (8, 4, 3, "pairs=3 per epoch"),
        (8, 4, 4.0, "pairs=4.0"),
        (8, 4, True, "pairs=True"),
    ],
)
def test_too_few_points_or_pairs(points, batch, pairs, message):
    with pytest.raises(UserError, match=message):
        DifferentPoints(Sampler(points), batch, pairs)


@given(
    st.integers(20, 300),
    st.integers(2, 20),
    st.integers(1, 3),
    st.sampled_from([(0.5, 0), (0, 0.5), (0.3, 0.7), (1, 0), (0, 0)]),
)
@settings(max_examples=40, deadline=None)
def test_groups_or_not_points_differ_over_all_ranks(points, batch, ranks, shares):
    if batch * ranks > points:
        return
    pairs = 5 * batch * ranks
    lookalikes, neighbours = shares
    parts = [
        list(DifferentPoints(Sampler(points, rank, ranks), batch, pairs, lookalikes, neighbours))
        for rank in range(ranks)
    ]
    for shares_of_ranks in zip(*parts, strict=True):
        assert all(len(share) == batch for share in shares_of_ranks)
        together = [index % points for share in shares_of_ranks for index in share]
        assert len(set(together)) == len(together)


def spread(batches: DifferentPoints, place: np.ndarray) -> float:
    """Median distance of a batch's points from their nearest neighbour in the batch."""
    gaps = []
    for indices in batches:
        values = np.sort(place[np.array(indices) % len(place)])
        gaps += np.minimum(np.diff(values, prepend=-np.inf), np.diff(values, append=np.inf)).tolist()
    return float(np.median(gaps))


def test_groups_bring_together_what_is_hard_to_tell_apart():
    sampler = Sampler(4000)
    looks, ids = sampler.dataset.thumbnails[:, 0], np.arange(4000.0)
    plain = DifferentPoints(sampler, 64, 640)
    alike = DifferentPoints(sampler, 64, 640, lookalikes=1.0)
    near = DifferentPoints(sampler, 64, 640, neighbours=1.0)
    assert spread(alike, looks) < 3 < 10 < spread(plain, looks)
    assert spread(near, ids) == 1 < 10 < spread(plain, ids)
    assert spread(alike, ids) > 10
    assert spread(near, looks) > 10


@pytest.mark.parametrize("count", [1, 16, 17, 100, 1000])
def test_every_row_is_in_one_group(count):
    features = np.random.default_rng(1).random((count, 5), np.float32)
    features[: count // 2] = 0.5  # equal ones, too
    groups = lookalike_groups(features, np.random.default_rng(0))
    assert sorted(np.concatenate(groups).tolist()) == list(range(count))
    assert max(map(len, groups)) <= 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lookalikes": 1.5}, "lookalikes=1.5"),
        ({"neighbours": -0.1}, "neighbours=-0.1"),
        ({"neighbours": True}, "neighbours=True"),
        ({"lookalikes": float("nan")}, "lookalikes=nan"),
        ({"lookalikes": 0.6, "neighbours": 0.6}, "more than a whole batch"),
    ],
)
def test_shares_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        DifferentPoints(Sampler(100), 8, 80, **options)
