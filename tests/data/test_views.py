"""Random views of photographs."""

import cv2
import numpy as np
import pytest

from hardnet_suite.data.patch_frames import project_points
from hardnet_suite.data.views import change_light, random_homography, warp_image


def smooth_image(width=300, height=200):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return (128 + 60 * np.sin(x / 17) + 50 * np.cos(y / 13 + x / 40)).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "share"), [((640, 480), 0.4), ((480, 640), 0.4), ((32, 32), 0.4), ((5000, 300), 0.2)]
)
def test_views_show_much_of_the_image(size, share):
    width, height = size
    x, y = np.meshgrid(np.linspace(0, width - 1, 20), np.linspace(0, height - 1, 20))
    shares, zooms = [], []
    for seed in range(50):
        homography = random_homography(width, height, np.random.default_rng(seed))
        there, visible = project_points(np.stack([x, y], -1), homography)
        assert visible.all()  # the horizon is outside
        assert np.linalg.det(homography) > 0
        shares.append(((there > 0) & (there < [width, height])).all(-1).mean())
        zooms.append(np.linalg.det(homography[:2, :2]))
    assert np.min(shares) > 0.05
    assert np.median(shares) > share
    assert np.min(zooms) < 0.6 < 1.6 < np.max(zooms)


def test_a_warp_is_that_of_its_homography():
    image = smooth_image()
    homography = random_homography(300, 200, np.random.default_rng(3))
    reference = cv2.warpPerspective(image, homography, (300, 200), flags=cv2.INTER_CUBIC)
    inside = cv2.warpPerspective(np.full_like(image, 255), homography, (300, 200)) == 255
    assert inside.mean() > 0.2
    assert np.abs(warp_image(image, homography)[inside].astype(int) - reference[inside]).mean() < 2
    np.testing.assert_array_equal(warp_image(image, np.eye(3))[5:-5, 5:-5].shape, (190, 290))
    assert np.abs(warp_image(image, np.eye(3)).astype(int) - image).max() <= 2


def test_a_smaller_view_does_not_alias():
    board = (np.indices((200, 200)).sum(0) % 2 * 255).astype(np.uint8)
    small = warp_image(board, np.diag([0.5, 0.5, 1.0]))[10:90, 10:90].astype(float)
    assert np.abs(small - 127.5).max() < 20


def test_light_changes_and_stays_light():
    image = smooth_image()
    differences = []
    for seed in range(60):
        changed = change_light(image, np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        np.testing.assert_array_equal(changed, change_light(image, np.random.default_rng(seed)))
        differences.append(np.abs(changed.astype(int) - image).mean())
    assert min(differences) == 0  # some stay as they are
    assert np.median(differences) > 4
    assert max(differences) > 25


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (16, 16)])
def test_tiny_images(shape):
    image = np.full(shape, 90, np.uint8)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        homography = random_homography(shape[1], shape[0], rng)
        assert change_light(warp_image(image, homography), rng).shape == shape
