"""A look over a set of patches for what would stop or spoil the training of a descriptor."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from hardnet_suite.data.report import Finding, Report

if TYPE_CHECKING:
    from hardnet_suite.data.patches import PatchSet


@dataclass(frozen=True, kw_only=True)
class PatchReport(Report):
    """What sets of patches hold and what was found wrong with them.

    Attributes:
        names: Of the sets.
        side: Sides of the patches in pixels, least and largest.
        patches: Number of patches.
        points: Number of points.
        pairs: Number of pairs to score; None where the set is for training.
    """

    LEFT_OUT: ClassVar[frozenset[str]] = frozenset({"point with one patch"})

    names: tuple[str, ...]
    side: tuple[int, int]
    patches: int
    points: int
    pairs: int | None

    def summary(self) -> dict[str, str]:
        least, most = self.side
        rows = {
            "patches of": ", ".join(self.names),
            "patches": f"{self.patches:,} of {least}×{least} pixels",
            "points": f"{self.points:,}",
        }
        if least != most:
            rows["patches"] = f"{self.patches:,} of {least}×{least} to {most}×{most} pixels"
        if self.pairs is not None:
            rows["pairs"] = f"{self.pairs:,}"
        return rows


class _Patch(NamedTuple):
    patch_set: PatchSet
    index: int
    point: int


def check_patches(sets: tuple[PatchSet, ...], *, pairs: int | None = None, read: bool = True) -> PatchReport:
    """Looks through sets of patches.

    Args:
        sets: At least one.
        pairs: Number of pairs to score; None for training data, whose points need two patches each.
        read: Looks at the pixels: constant patches, and equal ones of different points, of all sets together.
    """
    findings, points = [], 0
    seen: dict[bytes, _Patch] = {}
    for patch_set in sets:
        name, ids = patch_set.name, np.asarray(patch_set.point_ids)
        values, counts = np.unique(ids, return_counts=True)
        points += len(values)
        if pairs is None and (single := int((counts == 1).sum())):
            first = int(values[counts == 1][0])
            what = f"{single:,} of {len(values):,} points, point {first} for one, make no pair"
            findings.append(Finding("warning", "point with one patch", name, what))
        if read:
            findings += _look_at_pixels(patch_set, seen)
    sides = [patch_set.patches.shape[-1] for patch_set in sets]
    return PatchReport(
        findings=tuple(findings),
        names=tuple(patch_set.name for patch_set in sets),
        side=(min(sides), max(sides)),
        patches=sum(len(patch_set.patches) for patch_set in sets),
        points=points,
        pairs=pairs,
    )


def _look_at_pixels(patch_set: PatchSet, seen: dict[bytes, _Patch]) -> list[Finding]:
    """Findings of a set's patches, which are added to those that were seen before: digest -> patch."""
    findings = []
    for index, (pixels, point) in enumerate(
        zip(patch_set.patches, patch_set.point_ids.tolist(), strict=True)
    ):
        where = f"{patch_set.name}, patch {index}"
        if pixels.min() == pixels.max():
            what = f"all pixels are {int(pixels.flat[0])}: it has no descriptor of its own"
            findings.append(Finding("warning", "constant patch", where, what))
            continue
        digest = hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=16).digest()
        patch = _Patch(patch_set, index, point)
        other = seen.setdefault(digest, patch)
        if (other.patch_set, other.point) != (patch_set, point):
            place = "" if other.patch_set is patch_set else f" of {other.patch_set.name}"
            what = f"equals patch {other.index} of point {other.point}{place}, but is of point {point}"
            findings.append(Finding("warning", "equal patches of different points", where, what))
    return findings
