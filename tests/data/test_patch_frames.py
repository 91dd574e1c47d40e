"""Frames of patches, their way through homographies, and the pixels that are cut."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardnet_suite.data.hpatches import read_strip
from hardnet_suite.data.images import read_grey
from hardnet_suite.data.patch_frames import (
    MEASUREMENT_REGION,
    cut_patches,
    frame_corners,
    frames_inside,
    frames_of_keypoints,
    project_points,
    warp_frames,
)
from hardnet_suite.inference import resize_patches

HOMOGRAPHY = np.array([[0.9, 0.2, 12.0], [-0.15, 1.1, 30.0], [2e-4, -1e-4, 1.0]])


def smooth(x, y):
    return 128 + 60 * np.sin(x / 11 + y / 23) + 50 * np.cos(y / 13 - x / 31)


def smooth_image(width=400, height=300):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return smooth(x, y).round().astype(np.uint8)


def cells(frame, side):
    """(side, side) x and y of the centres of a patch's pixels."""
    u = (2 * np.arange(side) + 1) / side - 1
    across, down = np.meshgrid(u, u)
    x, y = np.tensordot(frame[:, :2], np.stack([across, down]), 1) + frame[:, 2, None, None]
    return x, y


def upright(x, y, half):
    return np.array([[[half, 0, x], [0, half, y]]], float)


def test_the_region_is_twelve_sigma_of_opencv_sift():
    """A Gaussian blob of deviation s is found at about s, and the size is its double."""
    x, y = np.meshgrid(np.arange(200), np.arange(200))
    deviation = 8
    blob = 255 * np.exp(-((x - 100) ** 2 + (y - 100) ** 2) / (2 * deviation**2))
    keypoints = cv2.SIFT_create().detect(blob.astype(np.uint8), None)
    size = max(keypoints, key=lambda keypoint: keypoint.response).size
    assert size / 2 == pytest.approx(deviation, rel=0.15)
    (frame,) = frames_of_keypoints([[100, 100]], [size], [-1])
    assert 2 * frame[0, 0] == pytest.approx(12 * size / 2)
    assert MEASUREMENT_REGION == 6


def test_an_odd_patch_of_half_its_side_is_the_crop():
    image = np.random.default_rng(0).integers(0, 256, (120, 160), dtype=np.uint8)
    frames = np.concatenate([upright(80, 60, 32.5), upright(32, 40, 32.5), upright(127, 87, 32.5)])
    patches = cut_patches(image, frames)
    np.testing.assert_array_equal(patches[0], image[28:93, 48:113])
    np.testing.assert_array_equal(patches[1], image[8:73, 0:65])
    np.testing.assert_array_equal(patches[2], image[55:120, 95:160])


def test_an_even_patch_lies_between_the_pixels():
    image = np.random.default_rng(0).integers(0, 256, (120, 160), dtype=np.uint8)
    np.testing.assert_array_equal(cut_patches(image, upright(79.5, 59.5, 16), 32)[0], image[44:76, 64:96])


@pytest.mark.parametrize("angle", [0, 30, 90, 135, 200, 359])
@pytest.mark.parametrize("size", [4, 10, 20, 31])
def test_pixels_are_those_of_the_function_at_their_centres(angle, size):
    frames = frames_of_keypoints([[200.25, 150.7], [180, 140]], [size, size / 1.3], [angle, angle / 2])
    for frame, patch in zip(frames, cut_patches(smooth_image(), frames), strict=True):
        np.testing.assert_allclose(patch, smooth(*cells(frame, 65)), atol=3)
        assert np.abs(patch - smooth(*cells(frame, 65))).mean() < 0.6


@pytest.mark.parametrize("half", [60, 90, 140])
@pytest.mark.parametrize("side", [16, 32, 33])
def test_large_regions_are_averages_over_the_pixels(half, side):
    """Against the mean of the image over every pixel of the patch, from 16 × 16 samples of each."""
    frame = np.array([[half, -0.3 * half, 200], [0.2 * half, half * 0.9, 150]])
    fine = smooth(*cells(frame, side * 16)).reshape(side, 16, side, 16).mean((1, 3))
    margin = 100
    x, y = np.meshgrid(np.arange(600) - margin, np.arange(500) - margin)
    shift = np.array([[0, 0, margin], [0, 0, margin]])
    patch = cut_patches(smooth(x, y).round().astype(np.uint8), (frame + shift)[None], side)[0]
    assert np.abs(patch - fine)[1:-1, 1:-1].mean() < 3


@pytest.mark.parametrize("stretch", [1, 3, 8])
def test_fine_detail_does_not_alias(stretch):
    """A checkerboard of single pixels is grey from afar, whatever the shape of the frame."""
    board = (np.indices((400, 400)).sum(0) % 2 * 255).astype(np.uint8)
    frame = np.array([[[20.0 * stretch, 0, 200], [0, 80, 200]]])
    patch = cut_patches(board, frame, 16 if stretch > 1 else 10)[0].astype(float)
    assert np.abs(patch - 127.5).max() < 20


def test_the_angle_is_clockwise_on_the_screen():
    """The patch's x axis points along the angle: at 90° down the image."""
    image = np.zeros((100, 100), np.uint8)
    image[50:, :] = 255  # bright below
    patch = cut_patches(image, frames_of_keypoints([[50, 50]], [6], [90]))[0]
    assert patch[:, -10:].min() > 240  # bright to the right
    assert patch[:, :10].max() < 15


def test_sift_turns_the_gradient_to_the_right():
    """The angle of OpenCV's SIFT is the gradient's, so that patches of turned images are alike."""
    image = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (301, 301), np.uint8), (0, 0), 5)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    turned = cv2.warpAffine(
        image, cv2.getRotationMatrix2D((150, 150), 37, 1), (301, 301), flags=cv2.INTER_CUBIC
    )
    strips = []
    for each in (image, turned):
        keypoints = cv2.SIFT_create(contrastThreshold=0.01).detect(each, None)
        near = [k for k in keypoints if np.hypot(k.pt[0] - 150, k.pt[1] - 150) < 90 and k.size < 20]
        frames = frames_of_keypoints([k.pt for k in near], [k.size for k in near], [k.angle for k in near])
        strips.append(cut_patches(each, frames, 32).reshape(len(near), -1).astype(float))
    distances = np.abs(strips[0][:, None] - strips[1][None]).mean(2)
    assert len(distances) > 20
    assert np.median(distances.min(1)) < 6


def test_the_angle_of_a_detector_without_orientation_is_upright():
    frames = frames_of_keypoints([[5, 6]], [4], [-1])
    np.testing.assert_array_equal(frames, upright(5, 6, 12))
    np.testing.assert_allclose(
        frames_of_keypoints([[5, 6]], [4], [-1.5])[0, 0, 1], 12 * np.sin(np.radians(1.5))
    )


@pytest.mark.parametrize("angle", [0, 30, 90, 211])
def test_frames_equal_kornia(angle):
    kornia = pytest.importorskip("kornia")
    frames = frames_of_keypoints([[40, 50.5], [70, 20]], [5, 9], [angle, 10])
    lafs = kornia.feature.laf_from_center_scale_ori(
        torch.tensor([[[40, 50.5], [70, 20]]], dtype=torch.float64),
        12 * torch.tensor([5, 9], dtype=torch.float64).view(1, 2, 1, 1) / 2 / 2,
        -torch.tensor([angle, 10], dtype=torch.float64).view(1, 2, 1),
    )
    np.testing.assert_allclose(frames, lafs[0].numpy(), atol=1e-6)


def test_patches_equal_kornia():
    kornia = pytest.importorskip("kornia")
    image = smooth_image()
    frames = np.concatenate(
        [
            frames_of_keypoints([[200, 150], [120.5, 99.25], [210, 130]], [9, 7, 20], [0, 40, 300]),
            [[[20, 8, 200], [-3, 25, 150.0]]],
        ]
    )
    theirs = kornia.feature.extract_patches_from_pyramid(
        torch.from_numpy(image)[None, None].double(), torch.from_numpy(frames)[None], 32
    )
    np.testing.assert_allclose(cut_patches(image, frames, 32), theirs[0, :, 0].numpy(), atol=4)


def test_a_mirrored_frame_gives_a_mirrored_patch():
    image = np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8)
    frames = np.concatenate([upright(50, 50, 10), [[[-10, 0, 50], [0, 10, 50.0]]]])
    patch, mirrored = cut_patches(image, frames, 21)
    np.testing.assert_array_equal(mirrored, patch[:, ::-1])


def test_the_border_is_a_mirror():
    image = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    wide = np.pad(image, 60, mode="reflect")
    centers = [(0, 0), (49, 39), (3, 37), (49, 2), (25, 0), (-20, 10), (60, 45)]
    frames = np.concatenate([upright(x, y, 32.5) for x, y in centers])
    for (x, y), patch in zip(centers, cut_patches(image, frames), strict=True):
        np.testing.assert_array_equal(patch, wide[y + 60 - 32 : y + 60 + 33, x + 60 - 32 : x + 60 + 33])


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 2), (3, 500)])
def test_tiny_images(shape):
    image = np.full(shape, 77, np.uint8)
    assert (cut_patches(image, upright(0, 0, 50)) == 77).all()


def test_an_image_wider_than_opencv_warps():
    image = np.tile(np.arange(40000, dtype=np.uint16).astype(np.uint8), (70, 1))
    patch = cut_patches(image, np.concatenate([upright(39900, 35, 32.5), upright(39990, 35, 32.5)]))
    np.testing.assert_array_equal(patch[0, 0], image[0, 39868:39933])
    np.testing.assert_array_equal(patch[1, 0, :42], image[0, 39958:])


def test_pixels_equal_opencv_warp():
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.integers(0, 256, (300, 300), np.uint8), (0, 0), 2)
    frame = np.array([[25, -11, 140.3], [9, 28, 160.9]])
    matrix = frame * 2 / 65
    matrix[:, 2] = frame[:, 2] + frame[:, :2] @ np.full(2, 1 / 65 - 1)
    reference = cv2.warpAffine(image, matrix, (65, 65), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    assert np.abs(cut_patches(image, frame[None])[0].astype(int) - reference).mean() < 1


def test_patches_show_the_same_in_both_images():
    image = smooth_image()
    other = cv2.warpPerspective(image, HOMOGRAPHY, (500, 450), flags=cv2.INTER_CUBIC)
    frames = frames_of_keypoints([[150, 120], [200, 150], [260, 180]], [6, 8, 5], [20, 140, 300])
    there = cut_patches(other, warp_frames(frames, HOMOGRAPHY))
    assert np.abs(cut_patches(image, frames).astype(int) - there).mean() < 2


@settings(max_examples=50, deadline=None)
@given(
    x=st.integers(0, 4000).map(lambda tenths: tenths / 10),
    y=st.integers(0, 3000).map(lambda tenths: tenths / 10),
    size=st.integers(1, 50),
    angle=st.integers(0, 360),
)
def test_frames_come_back(x, y, size, angle):
    frames = frames_of_keypoints([[x, y]], [size], [angle])
    back = warp_frames(warp_frames(frames, HOMOGRAPHY), np.linalg.inv(HOMOGRAPHY))
    np.testing.assert_allclose(back, frames, rtol=1e-6, atol=1e-6)


def test_warped_frames_are_derivatives():
    (frame,) = frames_of_keypoints([[150, 120]], [6], [20])
    (warped,) = warp_frames(frame[None], HOMOGRAPHY)
    for axis in (0, 1):
        tip, _ = project_points(frame[:, 2] + 1e-5 * frame[:, axis], HOMOGRAPHY)
        np.testing.assert_allclose((tip - warped[:, 2]) / 1e-5, warped[:, axis], rtol=1e-4)


def test_the_sign_and_scale_of_a_homography_do_not_matter():
    frames = frames_of_keypoints([[150, 120], [0, 0]], [6, 7], [20, 0])
    expected = warp_frames(frames, HOMOGRAPHY)
    for scale in (-1, 1e-6, 1e6):
        np.testing.assert_allclose(warp_frames(frames, scale * HOMOGRAPHY), expected, rtol=1e-9)


def test_beyond_the_horizon():
    horizon = np.array([[1, 0, 0], [0, 1, 0], [0, 0.01, -1]])  # at y = 100: the ground is below it
    points, visible = project_points([[50, 50], [50, 100], [50, 150]], horizon)
    np.testing.assert_array_equal(visible, np.linalg.det(horizon) * np.array([-0.5, 0, 0.5]) > 0)
    assert np.isnan(points[~visible]).all()
    assert np.isfinite(points[visible]).all()
    frames = frames_of_keypoints([[50, 50], [50, 100], [50, 150]], [6, 6, 6], [0, 0, 0])
    with pytest.raises(ValueError, match="2 of 3 frames lie beyond the horizon"):
        warp_frames(frames, horizon)
    with pytest.raises(ValueError, match="1 of 1 frames"):
        warp_frames(frames[1:2], horizon)


def test_a_mirror_is_a_homography():
    frames = frames_of_keypoints([[10, 20], [30, 5]], [6, 6], [0, 30])
    mirrored = warp_frames(frames, np.diag([-1, 1, 1]))
    np.testing.assert_allclose(mirrored[:, 0], -frames[:, 0])
    np.testing.assert_allclose(mirrored[:, 1], frames[:, 1])


@pytest.mark.parametrize(
    ("homography", "message"),
    [
        (np.zeros((3, 3)), "invertible"),
        (np.ones((3, 3)), "invertible"),
        (np.diag([1, 0, 1]), "invertible"),
        ([[1, 2, 3], [2, 4, 6], [0, 0, 1]], "invertible"),
        (np.full((3, 3), np.nan), "finite"),
        (np.diag([1, np.inf, 1]), "finite"),
        (np.eye(2), r"\(3, 3\)"),
        (np.eye(3)[None], r"\(3, 3\)"),
    ],
)
def test_no_homography(homography, message):
    with pytest.raises(ValueError, match=message):
        warp_frames(upright(1, 1, 5), homography)
    with pytest.raises(ValueError, match=message):
        project_points([[1, 1]], homography)


@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
def test_a_homography_between_images_of_unlike_sizes_is_invertible(scale):
    warp_frames(upright(10, 20, 5), np.diag([scale, scale, 1]) @ HOMOGRAPHY)
    warp_frames(upright(10, 20, 5), HOMOGRAPHY @ np.diag([scale, scale, 1]))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 3)), r"\(N, 2, 3\)"),
        (np.zeros((1, 3, 3)), r"\(N, 2, 3\)"),
        (upright(50, 50, 0), "has no area"),
        (np.array([[[3, 3, 50], [3, 3, 50]]]), "has no area"),
        (np.array([[[5, 0, 50], [0, 1e-9, 50]]]), "has no area"),
        (upright(np.nan, 50, 3), "frame 0 of 1 is not finite"),
        (np.concatenate([upright(5, 5, 3), upright(5, 5, np.inf)]), "frame 1 of 2 is not finite"),
        (upright(-100, 50, 20), "outside the image of 90×80"),
        (upright(50, 200, 20), "outside the image of 90×80"),
        (np.concatenate([upright(5, 5, 3), upright(112, 50, 20)]), "frame 1 of 2 lies outside"),
    ],
)
def test_frames_that_show_nothing(frames, message):
    with pytest.raises(ValueError, match=message):
        cut_patches(np.zeros((80, 90), np.uint8), frames)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9, 3), np.uint8),
        np.zeros((9, 9)),
        np.zeros((0, 9), np.uint8),
        np.zeros((9, 9), np.uint16),
    ],
)
def test_images_that_are_not_grey(image):
    with pytest.raises(ValueError, match="expected a grey image"):
        cut_patches(image, upright(4, 4, 3))


@pytest.mark.parametrize("side", [0, -1, 5000])
def test_sides_out_of_range(side):
    with pytest.raises(ValueError, match="expected side"):
        cut_patches(np.zeros((9, 9), np.uint8), upright(4, 4, 3), side)


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (([[1, 2]], [0], [0]), "positive sizes"),
        (([[1, 2]], [-3], [0]), "positive sizes"),
        (([[1, np.nan]], [3], [0]), "finite"),
        (([[1, 2]], [3], [np.inf]), "finite"),
        (([[1, 2, 3]], [3], [0]), r"\(N, 2\)"),
        (([[1, 2]], [3, 4], [0, 0]), r"\(N,\)"),
    ],
)
def test_keypoints_that_are_none(keypoints, message):
    with pytest.raises(ValueError, match=message):
        frames_of_keypoints(*keypoints)


@pytest.mark.parametrize("region", [0, -1, np.nan, np.inf])
def test_regions_out_of_range(region):
    with pytest.raises(ValueError, match="positive region"):
        frames_of_keypoints([[1, 2]], [3], [0], region)


def test_no_frames():
    frames = frames_of_keypoints(np.zeros((0, 2)), [], [])
    assert frames.shape == (0, 2, 3)
    assert warp_frames(frames, HOMOGRAPHY).shape == (0, 2, 3)
    assert cut_patches(np.zeros((9, 9), np.uint8), frames).shape == (0, 65, 65)
    assert frames_inside(frames, 9, 9).shape == (0,)


def test_inside():
    frames = np.concatenate([upright(9.5, 9.5, 10), upright(9.5, 9.5, 10.1), upright(9, 9.5, 10)])
    np.testing.assert_array_equal(frames_inside(frames, 20, 20), [True, False, False])
    np.testing.assert_array_equal(frame_corners(upright(5, 6, 2))[0], [[3, 4], [7, 4], [7, 8], [3, 8]])


def test_real_images_show_the_same(shared):
    folder = shared / "data" / "homography" / "graf"
    first, second = (read_grey(folder / f"{number}.png") for number in (1, 2))
    homography = np.loadtxt(folder / "H_1_2")
    keypoints = sorted(cv2.SIFT_create().detect(first, None), key=lambda k: -k.response)[:300]
    frames = frames_of_keypoints(
        [k.pt for k in keypoints], [k.size for k in keypoints], [k.angle for k in keypoints]
    )
    warped = warp_frames(frames, homography)
    inside = frames_inside(frames, *first.shape[::-1]) & frames_inside(warped, *second.shape[::-1])
    a = cut_patches(first, frames[inside]).reshape(inside.sum(), -1)
    b = cut_patches(second, warped[inside]).reshape(inside.sum(), -1)
    same = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    other = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, np.roll(b, 1, 0), strict=True)]
    assert np.median(same) > 0.9 > 0.4 > np.median(other)


def test_the_patches_of_hpatches_are_found_in_their_image(shared):
    """Its strip of graf, cut by VLFeat: at five sizes (10 σ), with the x axis along SIFT's angle."""
    image = read_grey(shared / "data" / "homography" / "graf" / "1.png")
    keypoints = [point for point in cv2.SIFT_create().detect(image, None) if point.size > 4]
    xy, size, angle = (np.array([getattr(k, name) for k in keypoints]) for name in ("pt", "size", "angle"))

    def normalized(patches):
        small = resize_patches(torch.from_numpy(patches)).flatten(1)
        return torch.nn.functional.normalize(small - small.mean(1, keepdim=True))

    strip = normalized(read_strip(shared / "data" / "hpatches" / "ref.png"))

    def found(region, turn=0):
        patches = normalized(cut_patches(image, frames_of_keypoints(xy, size, angle + turn, region)))
        return ((patches @ strip.T).amax(0) > 0.9).sum().item()

    there = found(5)
    assert there > 150
    assert max(found(2.5), found(10)) < 0.7 * there
    assert max(found(5, 90), found(5, 180), found(5, 270)) < there / 4
