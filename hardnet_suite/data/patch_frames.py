"""Patch frames: where a patch lies in an image, through which homography it goes, and its pixels.

A frame is a local affine frame as in Kornia, (2, 3) = [A | c] in pixels of the image: it maps the square
[-1, 1]² onto the region that the patch shows, so that half the side of an upright square region is A[0, 0].
Pixel centres have integer coordinates (x, y), as in OpenCV and Kornia.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hardnet_suite.numeric import is_number

CvFeature2D = Any  # cv2.Feature2D, without an import of OpenCV

MEASUREMENT_REGION = 6.0
_REGIONS = (0.5, 100)  # sizes of the keypoint


def require_region(region: Any) -> None:
    """ValueError for what is no side of a patch's region in sizes of its keypoint, 0.5 to 100."""
    least, most = _REGIONS
    if not is_number(region) or not least <= region <= most:
        raise ValueError(f"region={region}: expected {least} to {most} sizes of the keypoint")


"""Side of the region that a patch shows, in sizes (diameters) of its keypoint: 12 σ of a SIFT keypoint.

The size of OpenCV's SIFT keypoints is 2 σ, and SIFT's own descriptor has 4×4 cells of 3 σ each, which makes
12 σ. The same is "12 × scale / 2" as half the side where a keypoint's scale is σ (hloc, LightGlue's
DoGHardNet) and a LAF scale of 6 σ (Kornia's SIFT). HPatches magnifies σ five times to each side: 10 σ.

A descriptor is only as good as the agreement of this region with that of its training patches. The same
number means different regions elsewhere: ``mrSize=6`` of kornia_moons and ``mag_factor=12`` of
extract_patches are 24 σ of the same keypoint.
"""

SIFT_CONTRAST = 0.04
"""Least contrast of SIFT's keypoints, OpenCV's default."""

_MOST_SAMPLES = 8  # per pixel of a patch and axis
_LARGEST_SIDE = 4096  # pixels of a patch, far below OpenCV's limit even with all samples


def create_sift(contrast: float = SIFT_CONTRAST) -> CvFeature2D:
    """OpenCV's SIFT as keypoints are detected everywhere here, for training patches and for matching alike.

    OpenCV's default doubles the image in a way that shifts all keypoints by a quarter of a pixel; this one
    places them where they are.

    Args:
        contrast: least contrast, ``contrastThreshold``.
    """
    import cv2

    return cv2.SIFT_create(contrastThreshold=contrast, enable_precise_upscale=True)


def frames_of_keypoints(
    xy: np.ndarray, size: np.ndarray, angle: np.ndarray, region: float = MEASUREMENT_REGION
) -> np.ndarray:
    """The square frames around keypoints as OpenCV describes them.

    Args:
        xy: (N, 2) centres in pixels.
        size: (N,) diameters in pixels, ``cv2.KeyPoint.size``.
        angle: (N,) degrees, ``cv2.KeyPoint.angle``: clockwise on the screen; -1, of detectors without
            orientation, is upright.
        region: side of the frame in sizes of the keypoint.

    Returns:
        (N, 2, 3) float64; the patch's x axis points along the angle.

    Raises:
        ValueError: other shapes, values that are not finite, or a size or region that is not positive.
    """
    xy, size, angle = (np.asarray(values, np.float64) for values in (xy, size, angle))
    if xy.ndim != 2 or xy.shape[1] != 2 or not size.shape == angle.shape == xy.shape[:1]:
        raise ValueError(
            f"expected xy (N, 2), size (N,) and angle (N,), got {xy.shape}, {size.shape} and {angle.shape}"
        )
    if not all(np.isfinite(values).all() for values in (xy, size, angle)):
        raise ValueError("expected finite keypoints, got NaN or infinity")
    if (size <= 0).any():
        raise ValueError(f"expected positive sizes of keypoints, got {size.min():g}")
    if not (math.isfinite(region) and region > 0):
        raise ValueError(f"expected a positive region, got {region}")
    radians = np.radians(np.where(angle == -1, 0, angle))
    cosine, sine, half = np.cos(radians), np.sin(radians), region * size / 2
    frames = np.empty((len(xy), 2, 3))
    frames[:, 0, 0], frames[:, 0, 1] = half * cosine, -half * sine
    frames[:, 1, 0], frames[:, 1, 1] = half * sine, half * cosine
    frames[:, :, 2] = xy
    return frames


def frame_corners(frames: np.ndarray) -> np.ndarray:
    """(N, 2, 3) frames -> (N, 4, 2) corners of their regions, in the order of a walk around."""
    square = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]], np.float64)
    return square @ np.swapaxes(_checked_frames(frames), 1, 2)


def frames_inside(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """(N,) bool: whether the whole region of a frame lies on the pixels of an image of this size."""
    corners = frame_corners(frames)
    return ((corners >= -0.5) & (corners <= np.array([width, height]) - 0.5)).all((1, 2))


def project_points(points: np.ndarray, homography: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points through a homography.

    Args:
        points: (..., 2) x, y.
        homography: (3, 3), invertible.

    Returns:
        (..., 2) projected points, and (...) bool: whether a point is on the visible side of the horizon, the
        line that maps to infinity. If the points lie on both sides, that is the side that is not mirrored.
        Points of the other side, and those on the horizon, are NaN.

    Raises:
        ValueError: as ``checked_homography``.
    """
    homography = checked_homography(homography)
    homogeneous = np.asarray(points, np.float64) @ homography[:, :2].T + homography[:, 2]
    depth = homogeneous[..., 2]
    smallest = 1e-9 * (np.abs(points) @ np.abs(homography[2, :2]) + abs(homography[2, 2]))
    visible = np.abs(depth) > smallest
    if (depth[visible] > 0).any() and (depth[visible] < 0).any():
        visible &= depth * np.linalg.det(homography) > 0  # of the Jacobian's determinant, det(H) / depth³
    projected = np.full((*homogeneous.shape[:-1], 2), np.nan)
    projected[visible] = homogeneous[visible, :2] / depth[visible, None]
    return projected, visible


def warp_frames(frames: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """Frames in another view of a plane: the local affine approximation of the homography at each centre.

    Args:
        frames: (N, 2, 3) in image 1.
        homography: (3, 3), maps image 1 to the other image: x' ~ H x.

    Returns:
        (N, 2, 3) float64 frames in the other image.

    Raises:
        ValueError: other shapes, NaN, a homography that is not invertible, or a centre at or beyond the
            horizon of the homography (``project_points`` tells which).
    """
    frames, homography = _checked_frames(frames), checked_homography(homography)
    centers, visible = project_points(frames[:, :, 2], homography)
    if not visible.all():
        raise ValueError(f"{np.count_nonzero(~visible)} of {len(frames)} frames lie beyond the horizon")
    depths = frames[:, :, 2] @ homography[2, :2] + homography[2, 2]
    # d(x'/w)/dx = (H - x' h₃ᵀ) / w
    jacobians = homography[None, :2, :2] - centers[:, :, None] * homography[None, 2:, :2]
    jacobians /= depths[:, None, None]
    return np.concatenate([jacobians @ frames[:, :, :2], centers[:, :, None]], 2)


def checked_homography(homography: np.ndarray) -> np.ndarray:
    """A homography as float64.

    Raises:
        ValueError: another shape, NaN or infinity, or a matrix that is not invertible.
    """
    matrix = np.asarray(homography, np.float64)
    if matrix.shape != (3, 3):
        raise ValueError(f"expected a homography (3, 3), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("expected a finite homography, got NaN or infinity")
    # rows and columns have different units: balanced before the condition is judged
    balanced = matrix.copy()
    for _ in range(3):
        for axis in (0, 1):
            norms = np.linalg.norm(balanced, axis=axis, keepdims=True)
            balanced /= np.where(norms > 0, norms, 1)
    if not np.linalg.cond(balanced) < 1e12:
        raise ValueError("expected an invertible homography, got a singular matrix")
    return matrix


def cut_patches(image: np.ndarray, frames: np.ndarray, side: int = 65) -> np.ndarray:
    """The patches of frames: the only place that samples patches from an image.

    Pixel (i, j) of a patch is the image at c + A (u_j, u_i) with u_k = (2 k + 1) / side - 1, as in Kornia:
    the pixels tile the region. Where they are larger than those of the image, each is the average of up to 8
    samples per axis of a level of the Gaussian pyramid whose pixels are at most a quarter as large, so that
    no detail aliases; smaller ones are interpolated bilinearly. Beyond its border the image is reflected
    (``BORDER_REFLECT_101``: dcb|abcd|cba).

    Args:
        image: (H, W) uint8, grey.
        frames: (N, 2, 3). Mirrored ones give mirrored patches.
        side: height and width of the patches in pixels.

    Returns:
        (N, side, side) uint8.

    Raises:
        ValueError: other shapes or types, NaN, a frame without area, or one wholly outside the image.
    """
    image, frames = np.asarray(image), _checked_frames(frames)
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"expected a grey image (H, W) uint8, got {image.shape} {image.dtype}")
    if not 1 <= side <= _LARGEST_SIDE:
        raise ValueError(f"expected side 1 to {_LARGEST_SIDE}, got {side}")
    height, width = image.shape
    areas = np.abs(np.linalg.det(frames[:, :, :2]))
    flat = areas <= 1e-9 * np.square(frames[:, :, :2]).sum((1, 2))
    if flat.any():
        raise ValueError(f"frame {flat.argmax()} of {len(frames)} has no area")
    corners = frame_corners(frames)
    low, high = corners.min(1), corners.max(1)
    outside = ((high < -0.5) | (low > np.array([width, height]) - 0.5)).any(1)
    if outside.any():
        raise ValueError(
            f"frame {outside.argmax()} of {len(frames)} lies outside the image of {width}×{height} pixels"
        )
    return _cut(image, frames, side)


def _cut(image: np.ndarray, frames: np.ndarray, side: int) -> np.ndarray:
    import cv2

    steps = 2 * np.linalg.norm(frames[:, :, :2], axis=1) / side  # (N, 2) pixels per pixel of the patch
    # pixels of the level at most a quarter as large as those of the patch, unless there are too many of them
    wanted = np.maximum(np.floor(np.log2(steps.min(1))) - 2, np.ceil(np.log2(steps.max(1) / _MOST_SAMPLES)))
    coarsest = max(0, math.ceil(math.log2(min(image.shape))))
    levels = wanted.clip(0, coarsest).astype(int)
    pyramid = [np.ascontiguousarray(image)]  # pixel x of level k is pixel 2ᵏ x of the image
    for _ in range(levels.max(initial=0)):
        pyramid.append(cv2.pyrDown(pyramid[-1]))
    sizes = np.array([level.shape[::-1] for level in pyramid])[levels]

    scale = 2.0**levels
    samples = np.ceil(steps / scale[:, None] - 1e-9).clip(1, _MOST_SAMPLES)  # per pixel, along x and y
    shapes = samples * side
    affine = np.empty(frames.shape)
    affine[:, :, :2] = frames[:, :, :2] * (2 / shapes)[:, None] / scale[:, None, None]
    # sample (0, 0) lies half a sample within the corner (-1, -1)
    corner = (frames[:, :, :2] @ (1 / shapes - 1)[:, :, None])[:, :, 0]
    affine[:, :, 2] = (frames[:, :, 2] + corner) / scale[:, None]
    low, high = _windows(affine, shapes, sizes)
    affine[:, :, 2] -= low

    patches = np.empty((len(frames), side, side), np.uint8)
    rows = zip(
        patches,
        levels.tolist(),
        affine,
        shapes.astype(int).tolist(),
        low.tolist(),
        high.tolist(),
        strict=True,
    )
    for patch, level, matrix, shape, (left, top), (right, bottom) in rows:
        cut = cv2.warpAffine(
            pyramid[level][top:bottom, left:right],
            matrix,
            shape,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        if shape != [side, side]:
            cut = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA)
        patch[:] = cut
    return patches


def _windows(affine: np.ndarray, shapes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The parts of images that samples see, (N, 2) first and last + 1 x, y.

    OpenCV warps no image beyond 32767 pixels. Where samples lie beyond a border, the part reaches as far from
    it as they do: it has all that they see in the mirror, and nothing is reflected elsewhere.
    """
    ends = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]])
    seen = (ends * np.insert(shapes - 1, 2, 1, 1)[:, None]) @ np.swapaxes(affine, 1, 2)  # (N, 4, 2)
    low = np.floor(seen.min(1)).astype(int) - 1
    high = np.ceil(seen.max(1)).astype(int) + 2
    reach = np.maximum(np.maximum(-low, high - sizes), 0)
    reach += 2 * (reach > 0)
    low = np.where(reach > 0, np.minimum(low, sizes - reach), low)
    high = np.where(reach > 0, np.maximum(high, reach), high)
    return low.clip(0, sizes), high.clip(0, sizes)


def _checked_frames(frames: np.ndarray) -> np.ndarray:
    frames = np.asarray(frames, np.float64)
    if frames.ndim != 3 or frames.shape[1:] != (2, 3):
        raise ValueError(f"expected frames (N, 2, 3), got {frames.shape}")
    if not np.isfinite(frames).all():
        broken = ~np.isfinite(frames).all((1, 2))
        raise ValueError(f"frame {broken.argmax()} of {len(frames)} is not finite")
    return frames
