"""Random views of photographs: homographies as of a plane seen from elsewhere, and photometric change."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

# of a view's homography; each is drawn uniformly from ± the value, or from 0 to it
ROTATION = 40.0  # degrees, in the image plane
ZOOM = 0.7  # log2 of the scale
TILT = 60.0  # degrees from the plane's normal: foreshortening by up to 1 / cos
PERSPECTIVE = 0.25  # change of scale from one side of the image to the other, as a fraction
_SUPERSAMPLE = 2  # per axis, of the views: zooming out averages


def random_homography(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A homography of a plane as a camera sees it from elsewhere, for an image of that size.

    The view is rotated, tilted about a random axis, scaled, and in perspective; a random point near the
    middle of the image stays in the middle.

    Returns:
        (3, 3) float64, maps pixels of the image to pixels of a view of the same size.
    """
    turn, axis = np.radians(rng.uniform(-ROTATION, ROTATION)), rng.uniform(0, np.pi)
    # uniform in the angle: most views are tilted a little
    shortened = math.cos(math.radians(rng.uniform(0, TILT)))
    scale = 2 ** rng.uniform(-ZOOM, ZOOM) / math.sqrt(shortened)
    tilt = _rotation(axis) @ np.diag([1.0, shortened]) @ _rotation(-axis)
    size = np.array([width, height], np.float64)
    middle = (size - 1) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = scale * _rotation(turn) @ tilt
    direction = rng.uniform(0, 2 * np.pi)
    strength = rng.uniform(0, PERSPECTIVE)
    matrix[2, :2] = strength * np.array([np.cos(direction), np.sin(direction)]) / size
    kept = middle + rng.uniform(-0.15, 0.15, 2) * size
    return _translation(middle) @ matrix @ _translation(-kept)


def warp_image(image: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """An image as its homography shows it, of the same size; what lies beyond its border is its reflection.

    Args:
        image: (H, W) uint8.
        homography: (3, 3), maps pixels of the image to pixels of the result.

    Returns:
        (H, W) uint8. Each pixel is the mean of 2×2 samples, so that a view at half the scale does not alias.
    """
    import cv2

    height, width = image.shape
    n = _SUPERSAMPLE
    finer = np.array([[n, 0, (n - 1) / 2], [0, n, (n - 1) / 2], [0, 0, 1.0]])
    fine = cv2.warpPerspective(
        image,
        finer @ homography,
        (n * width, n * height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def change_light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image of the same scene in another light, from another camera.

    In this order, each at random: shadows, gamma, contrast and brightness, blur (of the lens or of motion),
    noise, and the compression of a JPEG file. Two of them on average; some images stay as they are.

    Args:
        image: (H, W) uint8.
        rng: of the choices.

    Returns:
        (H, W) uint8.
    """
    values = image.astype(np.float32) / 255
    for change, probability in _CHANGES:
        if rng.random() < probability:
            values = change(values, rng)
    pixels = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return _jpeg(pixels, rng) if rng.random() < 0.4 else pixels


def _shadow(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One to three polygons are darker, with soft edges."""
    import cv2

    height, width = values.shape
    for _ in range(rng.integers(1, 4)):
        corners = rng.uniform(-0.2, 1.2, (int(rng.integers(3, 6)), 2)) * [width, height]
        mask = np.zeros((height, width), np.float32)
        cv2.fillPoly(mask, [cv2.convexHull(corners.round().astype(np.int32))], 1.0)
        mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 0.02 * max(width, height) + 1))
        values = values * (1 - mask * np.float32(rng.uniform(0.2, 0.7)))
    return values


def _gamma(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return values ** np.float32(2 ** rng.uniform(-1, 1))


def _contrast(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mean = values.mean()
    return (values - mean) * np.float32(rng.uniform(0.4, 1.4)) + mean + np.float32(rng.uniform(-0.2, 0.2))


def _blur(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    if rng.random() < 0.6:
        return cv2.GaussianBlur(values, (0, 0), rng.uniform(0.4, 1.6))
    length = int(rng.integers(3, 8))
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    along = middle * np.array([np.cos(angle := rng.uniform(0, np.pi)), np.sin(angle)])
    ends = [tuple(map(int, (middle + sign * along).round())) for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0)
    return cv2.filter2D(values, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)


def _noise(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(values.shape, np.float32)
    return values + noise * np.float32(10 ** rng.uniform(-2.5, -1.5))


_CHANGES: tuple[tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], float], ...] = (
    (_shadow, 0.25),
    (_gamma, 0.5),
    (_contrast, 0.5),
    (_blur, 0.35),
    (_noise, 0.35),
)


def _jpeg(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    quality = int(rng.integers(20, 90))
    _, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _translation(by: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = by
    return matrix
