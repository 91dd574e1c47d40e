from __future__ import annotations

import cv2
import numpy as np
import pytest

from hardnet_suite.matching.sift import sift_descriptors

NOISE = np.random.default_rng(0).integers(0, 256, (6, 65, 65), np.uint8)
PATCHES = np.array([cv2.GaussianBlur(patch, (0, 0), 3) for patch in NOISE])


def test_the_descriptor_is_opencvs_of_the_middle_keypoint():
    descriptors = sift_descriptors(PATCHES, root=False)
    assert (descriptors.shape, descriptors.dtype) == ((6, 128), np.float32)
    for patch, descriptor in zip(PATCHES, descriptors, strict=True):
        keypoint = cv2.KeyPoint(32.5, 32.5, 65 / 5.303)
        np.testing.assert_array_equal(cv2.SIFT_create().compute(patch, [keypoint])[1][0], descriptor)


def test_roots():
    plain, root = sift_descriptors(PATCHES, root=False), sift_descriptors(PATCHES)
    np.testing.assert_allclose(np.linalg.norm(root, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(root**2, plain / plain.sum(1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("side", [1, 32, 65])
def test_other_sizes_constant_patches_and_none(side):
    constant = np.full((2, side, side), 90, np.uint8)
    assert not sift_descriptors(constant).any()
    assert sift_descriptors(constant[:0]).shape == (0, 128)


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (PATCHES[0], "square patches"),
        (PATCHES[:, :60], "square patches"),
        (PATCHES[:, :0, :0], "square patches"),
        (PATCHES / 255, "uint8"),
    ],
)
def test_bad_patches(patches, message):
    with pytest.raises(ValueError, match=message):
        sift_descriptors(patches)
