"""SIFT and RootSIFT of patches, by OpenCV: the baselines of the patch benchmarks."""

from __future__ import annotations

import numpy as np

SIDE_IN_SIZES = 5.303
"""Side of a patch in sizes of the keypoint in its middle, as HPatches has it for its SIFT baseline."""


def sift_descriptors(patches: np.ndarray, root: bool = True) -> np.ndarray:
    """One descriptor of each whole patch: of an upright keypoint in its middle, as HPatches computes SIFT.

    Args:
        patches: (N, h, h) uint8, grey; 65×65 pixels in HPatches. They are not resized.
        root: RootSIFT (Arandjelović and Zisserman, CVPR 2012): SIFT divided by its sum, then the square
            roots, of unit length; else SIFT as OpenCV has it, integers 0…255.

    Returns:
        (N, 128) float32; zeros for constant patches.

    Raises:
        ValueError: patches of another shape or type.
    """
    import cv2

    patches = np.asarray(patches)
    if patches.ndim != 3 or patches.shape[1] != patches.shape[2] or not patches.shape[1]:
        raise ValueError(f"expected square patches (N, h, h), got {patches.shape}")
    if patches.dtype != np.uint8:
        raise ValueError(f"expected uint8 patches, got {patches.dtype}")
    sift = cv2.SIFT_create()
    side = patches.shape[1]
    keypoint = cv2.KeyPoint(x=side / 2, y=side / 2, size=side / SIDE_IN_SIZES)
    descriptors = np.empty((len(patches), 128), np.float32)
    for row, patch in zip(descriptors, patches, strict=True):
        row[:] = sift.compute(np.ascontiguousarray(patch), [keypoint])[1][0]
    return root_sift(descriptors) if root else descriptors


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """RootSIFT of OpenCV's SIFT descriptors (N, 128): of unit length; zeros stay zeros."""
    sums = descriptors.sum(1, keepdims=True)
    return np.sqrt(descriptors / np.where(sums > 0, sums, 1))
