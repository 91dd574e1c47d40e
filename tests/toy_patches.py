"""Drawn sets of patches: smooth noise, the patches of a point shifted and noisy."""

from __future__ import annotations

import cv2
import numpy as np

from hardnet_suite.data.patches import PatchSet


def toy_patches(
    name: str = "toy", points: int = 24, per_point: int = 3, *, side: int = 64, seed: int = 0
) -> PatchSet:
    """A set whose points have ids 0, 7, 14 … and the same number of patches each."""
    random = np.random.default_rng(seed)
    patches = []
    for _ in range(points):
        image = cv2.resize(random.integers(0, 256, (20, 20), dtype=np.uint8), (side + 8, side + 8))
        for _ in range(per_point):
            left, top = random.integers(0, 9, 2)
            crop = image[top : top + side, left : left + side] + random.normal(0, 8, (side, side))
            patches.append(np.clip(crop, 0, 255).astype(np.uint8))
    return PatchSet(name, np.stack(patches), 7 * np.repeat(np.arange(points), per_point), None)
