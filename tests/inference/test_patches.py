"""Patches as the patch descriptor takes them."""

import cv2
import numpy as np
import pytest
import torch

from hardnet_suite.inference import resize_patches
from hardnet_suite.inference.patches import _area_weights


@pytest.mark.parametrize("size", [33, 41, 63, 64, 65, 96, 128])
def test_larger_patches_equal_opencv_area(size):
    patches = np.random.default_rng(size).integers(0, 256, (4, size, size), dtype=np.uint8)
    reference = [
        cv2.resize(patch.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA) for patch in patches
    ]
    resized = resize_patches(torch.from_numpy(patches))
    assert resized.shape == (4, 1, 32, 32)
    assert resized.dtype == torch.float32
    torch.testing.assert_close(
        resized[:, 0] * 255, torch.from_numpy(np.stack(reference)), rtol=1e-4, atol=1e-3
    )


def test_same_size_changes_the_unit_alone():
    patches = torch.arange(1024, dtype=torch.int64).view(1, 32, 32) % 256
    torch.testing.assert_close(resize_patches(patches)[0, 0], patches[0] / 255)
    torch.testing.assert_close(resize_patches(patches[:, None] / 255)[0, 0], patches[0] / 255)


@pytest.mark.parametrize("size", [1, 2, 16, 31])
def test_smaller_patches_keep_their_range(size):
    patches = torch.rand(3, 1, size, size)
    resized = resize_patches(patches)
    assert resized.shape == (3, 1, 32, 32)
    assert resized.min() >= patches.min() - 1e-6
    assert resized.max() <= patches.max() + 1e-6


@pytest.mark.parametrize("shape", [(32, 32), (2, 3, 32, 32), (2, 32, 31), (2, 1, 65, 64), (1, 2, 1, 32, 32)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected square patches"):
        resize_patches(torch.zeros(shape))


def test_no_patches():
    assert resize_patches(torch.zeros(0, 65, 65, dtype=torch.uint8)).shape == (0, 1, 32, 32)


@pytest.mark.parametrize("size", [20, 32, 47])
def test_gradients_after_inference_mode(size):
    _area_weights.cache_clear()
    with torch.inference_mode():
        resize_patches(torch.rand(1, 1, size, size))
    patches = torch.rand(2, 1, size, size, requires_grad=True)
    resize_patches(patches).sum().backward()
    torch.testing.assert_close(patches.grad.sum(), torch.tensor(2 * 32.0 * 32))
