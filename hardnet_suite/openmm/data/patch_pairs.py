"""Pairs of patches for mmengine: those to train a descriptor on, and those to score it with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from mmengine.registry import DATASETS
from torch import Tensor
from torch.nn import functional as F

from hardnet_suite.data.patches import PatchSet
from hardnet_suite.errors import UserError
from hardnet_suite.inference import resize_patches
from hardnet_suite.openmm.data.parts.descriptor import patch_sets, scored_pairs
from hardnet_suite.openmm.data.patch_changes import (
    JITTER_NUMBERS,
    PHOTOMETRIC_NUMBERS,
    PatchChanges,
    change_grey_levels,
    flipped,
    jittered,
)
from hardnet_suite.openmm.data.sampling import uniform_rows

_PER_PATCH = JITTER_NUMBERS + PHOTOMETRIC_NUMBERS
_AT_ONCE = 4096  # patches


@DATASETS.register_module()
class PatchPairsDataset:
    """Pairs of patches that show one point, with their augmentation; the negatives come from the batch.

    An index stands for a point and a draw: ``index % len(dataset)`` is the point, and each index draws two
    different patches of it. A pair is a function of seed, epoch and index.

    Args:
        data_root: Folder that the sets lie in.
        sets: Folder of a set of patches (Brown et al.'s layout, or what ``make-patches`` writes), or several
            of them; the points of all sets are drawn alike.
        flips: Whether both patches of a pair are flipped and rotated by a multiple of 90°, in the same way.
        jitter: Options of ``Jitter``, the small rotation and crop of each patch by itself; True: the original
            program's; None: none.
        photometric: Options of ``Photometric``, the changes of grey levels of each patch; None: none.
        side: Height and width of the network's input in pixels.

    Raises:
        UserError: The sets cannot be read, two hold the same patches, no point has two patches, or an option
            is unknown or out of range.
    """

    def __init__(
        self,
        data_root: str = "",
        sets: str | Sequence[str] = "",
        flips: bool = True,
        jitter: bool | Mapping | None = True,
        photometric: Mapping | None = None,
        side: int = 32,
    ):
        self.changes = PatchChanges.of_options(flips, jitter, photometric)
        self.side = side
        self.sets = patch_sets({"data_root": data_root, "sets": sets})
        self.metainfo = {"sets": [patch_set.name for patch_set in self.sets]}
        parts = [_points_of(patch_set) for patch_set in self.sets]
        self._set_of = np.repeat(np.arange(len(parts)), [len(starts) for _, starts, _ in parts])
        self._order = [order for order, _, _ in parts]
        self._starts, self._counts = (np.concatenate([part[k] for part in parts]) for k in (1, 2))
        if not len(self):
            names = ", ".join(patch_set.name for patch_set in self.sets)
            raise UserError(f"no point of {names} has two patches, which a pair needs")

    @property
    def fingerprint(self) -> str:
        """The points of all sets."""
        hashed = hashlib.sha256()
        for patch_set in self.sets:
            hashed.update(f"{patch_set.patches.shape}".encode() + patch_set.point_ids.tobytes())
        return hashed.hexdigest()

    def __len__(self) -> int:
        """The number of points with two patches or more."""
        return len(self._counts)

    @cached_property
    def thumbnails(self) -> np.ndarray:
        """(points, 64) float32: a patch of each point in 8×8 pixels, minus its mean, of unit length."""
        parts = []
        for number, patch_set in enumerate(self.sets):
            first = self._order[number][self._starts[self._set_of == number]]
            for start in range(0, len(first), _AT_ONCE):
                patches = torch.from_numpy(patch_set.patches[first[start : start + _AT_ONCE]])
                parts.append(resize_patches(patches, 8).flatten(1))
        values = torch.cat(parts)
        return F.normalize(values - values.mean(1, keepdim=True)).numpy()

    def load_batch(self, seed: int, epoch: int, indices: np.ndarray) -> dict[str, Tensor]:
        """``inputs``: (N, 2, side, side) float32 in [0, 1]: the pairs of these indices."""
        points = indices % len(self)
        random = uniform_rows((seed, epoch), indices, 3 + 2 * _PER_PATCH)
        counts = self._counts[points]
        first = np.floor(random[:, 0] * counts).astype(np.int64)
        second = (first + 1 + np.floor(random[:, 1] * (counts - 1)).astype(np.int64)) % counts
        places = self._starts[points][:, None] + np.stack([first, second], 1)
        ways = np.floor(8 * random[:, 2]).astype(np.int64)
        per_patch = random[:, 3:].reshape(len(points), 2, _PER_PATCH)
        out = torch.empty(len(points), 2, self.side, self.side)
        for number, patch_set in enumerate(self.sets):
            chosen = np.flatnonzero(self._set_of[points] == number)
            if len(chosen):
                patches = patch_set.patches[self._order[number][places[chosen]]]
                patches = self._changed(patches, per_patch[chosen], ways[chosen])
                small = resize_patches(torch.from_numpy(patches.reshape(-1, *patches.shape[2:])), self.side)
                out[torch.from_numpy(chosen)] = small.view(-1, 2, self.side, self.side)
        return {"inputs": out}

    def _changed(self, pairs: np.ndarray, random: np.ndarray, ways: np.ndarray) -> np.ndarray:
        """Augments pairs (N, 2, S, S) uint8 by random numbers (N, 2, K) and the ways to flip (N,)."""
        patches, random = pairs.reshape(-1, *pairs.shape[2:]), random.reshape(-1, random.shape[-1])
        if self.changes.jitter is not None:
            patches = jittered(patches, self.changes.jitter, random[:, :JITTER_NUMBERS])
        if self.changes.photometric is not None:
            patches = change_grey_levels(patches, self.changes.photometric, random[:, JITTER_NUMBERS:])
        pairs = patches.reshape(pairs.shape)
        return flipped(pairs, ways) if self.changes.flips else pairs


def _points_of(patch_set: PatchSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The patches in the order of their points; of each point with two or more the first and how many."""
    order = np.argsort(patch_set.point_ids, kind="stable")
    _, starts, counts = np.unique(patch_set.point_ids[order], return_index=True, return_counts=True)
    enough = counts >= 2
    return order, starts[enough], counts[enough]


@DATASETS.register_module()
class PatchVerificationDataset:
    """Pairs of patches to tell whether they show one point.

    Args:
        data_root: Folder that the sets lie in.
        sets: Folder of a set of patches, or several of them, which are scored apart.
        pairs: For a set that comes without pairs: how many are drawn, half of them of one point; an odd
            number is rounded up. A small set has pairs that are drawn several times. Default: 20,000.
        side: Height and width of the network's input in pixels.

    Raises:
        UserError: The sets cannot be read, two hold the same patches, one has pairs of one kind alone, or
            ``pairs`` is given and each comes with its own.
    """

    def __init__(
        self,
        data_root: str = "",
        sets: str | Sequence[str] = "",
        pairs: int | None = None,
        side: int = 32,
    ):
        self.side = side
        self.sets = patch_sets({"data_root": data_root, "sets": sets})
        self.metainfo = {"sets": [patch_set.name for patch_set in self.sets]}
        each = scored_pairs(self.sets, pairs)
        self._set_of = np.repeat(np.arange(len(each)), [len(part) for part in each])
        self._pairs = np.concatenate(each)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict:
        """``inputs``: (N, 2, side, side) float32; ``labels``: (N,), 1 for pairs of one point, 0 for others;
        ``names``: (number of the set, first, second patch) of each pair."""
        indices = np.asarray(indices)
        sets, pairs = self._set_of[indices], self._pairs[indices]
        out = torch.empty(len(pairs), 2, self.side, self.side)
        for number in np.unique(sets):
            chosen = np.flatnonzero(sets == number)
            patches = self.sets[number].patches[pairs[chosen, :2]]
            small = resize_patches(torch.from_numpy(patches.reshape(-1, *patches.shape[2:])), self.side)
            out[torch.from_numpy(chosen)] = small.view(-1, 2, self.side, self.side)
        names = [(int(number), *map(int, pair[:2])) for number, pair in zip(sets, pairs, strict=True)]
        return {"inputs": out, "labels": torch.from_numpy(pairs[:, 2].copy()), "names": names}
