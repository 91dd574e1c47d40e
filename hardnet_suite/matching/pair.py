"""Two images: their matches, and the geometry that verifies them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from hardnet_suite.data.patch_frames import checked_homography
from hardnet_suite.matching.keynet import KeyNetDetector
from hardnet_suite.matching.keypoints import Features, HardNetDetector, Keypoints
from hardnet_suite.matching.nearest import mutual_matches
from hardnet_suite.numeric import is_count, is_number
from hardnet_suite.visualization.matches import draw_matches

KINDS = ("homography", "fundamental", "none")
RATIO = 0.9
THRESHOLD = 3.0
# twice the smallest sample that defines the geometry: any 4 matches agree with some homography
FEWEST_INLIERS = {"homography": 8, "fundamental": 16}
_SAMPLE = {"homography": 4, "fundamental": 8}
_CONFIDENCE, _ITERATIONS = 0.9999, 10_000
_LINE = 0.5  # pixels, RMS


@dataclass(frozen=True, eq=False)
class Geometry:
    """What maps one image to the other.

    Attributes:
        kind: "homography" or "fundamental".
        matrix: (3, 3) float64. Homography: x_b ~ H x_a, H[2, 2] = 1. Fundamental: x_bᵀ F x_a = 0.
        inliers: (M,) bool, of the matches.
    """

    kind: str
    matrix: np.ndarray
    inliers: np.ndarray

    @property
    def count(self) -> int:
        """How many matches are inliers."""
        return int(np.count_nonzero(self.inliers))


@dataclass(frozen=True, eq=False)
class Matches:
    """The matches of two images.

    Attributes:
        a: features of the first image.
        b: features of the second image.
        pairs: (M, 2) int64 [index in a, index in b] of keypoints, each at most once.
        distances: (M,) float32 between their descriptors, 0 to 2.
        kind: the geometry that was asked for: "homography", "fundamental" or "none".
        geometry: None where none was asked for, or none was found.
    """

    a: Features
    b: Features
    pairs: np.ndarray
    distances: np.ndarray
    kind: str
    geometry: Geometry | None

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def keypoints_a(self) -> Keypoints:
        """All keypoints of the first image."""
        return self.a.keypoints

    @property
    def keypoints_b(self) -> Keypoints:
        """All keypoints of the second image."""
        return self.b.keypoints

    @cached_property
    def points_a(self) -> np.ndarray:
        """(M, 2) float32 matched points of the first image."""
        return self.a.keypoints.xy[self.pairs[:, 0]]

    @cached_property
    def points_b(self) -> np.ndarray:
        """(M, 2) float32 matched points of the second image."""
        return self.b.keypoints.xy[self.pairs[:, 1]]

    @property
    def inliers(self) -> np.ndarray | None:
        """(M,) bool; None without geometry."""
        return None if self.geometry is None else self.geometry.inliers

    @property
    def matrix(self) -> np.ndarray | None:
        """(3, 3) float64; None without geometry."""
        return None if self.geometry is None else self.geometry.matrix

    def draw(self, *, outliers: bool = False) -> Image.Image:
        """The images beside each other with lines between matches: the inliers, or all without geometry.

        Args:
            outliers: also the matches that the geometry rejects, in white.
        """
        shown = self.inliers if self.inliers is not None else np.ones(len(self), bool)
        outline = self.matrix if self.geometry is not None and self.kind == "homography" else None
        drawing = draw_matches(
            self.a.image,
            self.b.image,
            self.points_a,
            self.points_b,
            shown=shown,
            rejected=~shown if outliers else None,
            homography=outline,
            caption=self.summary(),
        )
        return Image.fromarray(drawing)

    def summary(self) -> str:
        """In a line: how many matches, inliers of which geometry."""
        words = _count(len(self), "match", "matches")
        if self.kind == "none":
            return words
        if self.geometry is None:
            return f"{words}, no {_NAMES[self.kind]}"
        return f"{_count(self.geometry.count, 'inlier')} of {words} ({_NAMES[self.kind]})"

    def to_dict(self) -> dict[str, Any]:
        """Keypoints, matches and geometry, as JSON has them.

        Images, descriptors, and the responses and affine shapes of keypoints are left out.
        """
        return {
            "images": [
                {
                    "name": features.name,
                    "width": features.size[0],
                    "height": features.size[1],
                    "keypoints": features.keypoints.xy.tolist(),
                    "sizes": features.keypoints.size.tolist(),
                    "angles": features.keypoints.angle.tolist(),
                }
                for features in (self.a, self.b)
            ],
            "matches": self.pairs.tolist(),
            "distances": self.distances.tolist(),
            "geometry": self.kind,
            "matrix": None if self.matrix is None else self.matrix.tolist(),
            "inliers": None if self.inliers is None else self.inliers.tolist(),
        }


_NAMES = {"homography": "homography", "fundamental": "fundamental matrix"}


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def match_images(
    a: Any,
    b: Any,
    *,
    model: nn.Module | str | Path = "hardnet_descriptor",
    weights: str | Path | None = None,
    geometry: str = "homography",
    ratio: float | None = RATIO,
    threshold: float | None = None,
    min_inliers: int | None = None,
    top_k: int | None = 2048,
    upright: bool = False,
    detector: KeyNetDetector | None = None,
    channels: str = "rgb",
    device: str | None = None,
    bf16: bool = False,
) -> Matches:
    """Matches two images: keypoints, HardNet, mutual nearest neighbours with ratio test, geometry.

    For many images, keep a ``HardNetDetector``: its ``features`` of each image once, then ``match_features``.

    Args:
        a: an image: a path, address, array, tensor, PIL image, bytes or open file, as for ``predict``.
        b: the other image.
        model: as for ``HardNetDetector``.
        weights: as for ``load_descriptor``.
        geometry: as for ``match_features``.
        ratio: as for ``match_features``.
        threshold: as for ``match_features``.
        min_inliers: as for ``match_features``.
        top_k: the most keypoints per image, the strongest; None: all.
        upright: as for ``HardNetDetector``.
        detector: as for ``HardNetDetector``.
        channels: order of the channels in arrays and tensors: "rgb", or "bgr" as OpenCV reads images.
        device: "cpu", "cuda", …; None: a GPU where there is one.
        bf16: computes descriptors in bfloat16.

    Returns:
        The matches. Images without keypoints, such as constant ones, have none.

    Raises:
        UserError: an image cannot be read, or the weights are unavailable.
        ValueError: a value out of range.
    """
    _check(geometry, ratio, threshold, min_inliers)
    describer = HardNetDetector(
        model,
        weights=weights,
        top_k=top_k,
        upright=upright,
        detector=detector,
        channels=channels,
        device=device,
        bf16=bf16,
    )
    return match_features(
        describer.features(a),
        describer.features(b),
        geometry=geometry,
        ratio=ratio,
        threshold=threshold,
        min_inliers=min_inliers,
    )


def match_features(
    a: Features,
    b: Features,
    *,
    geometry: str = "homography",
    ratio: float | None = RATIO,
    threshold: float | None = None,
    min_inliers: int | None = None,
) -> Matches:
    """Matches the features of two images of one detector.

    Args:
        a: of ``HardNetDetector.features``.
        b: of the other image.
        geometry: what verifies the matches: "homography" for planar scenes and turned cameras, "fundamental"
            for others, or "none".
        ratio: as for ``mutual_matches``.
        threshold: largest error of an inlier in pixels: its distance from its place in image b (homography),
            or its Sampson distance, which is that of both points together from the nearest pair that fits, to
            first order (fundamental). Default: 3.
        min_inliers: with inliers at fewer places, no geometry is found: keypoints at one place, such as those
            of SIFT with several orientations, count once. Default: 8 for a homography, 16 for a fundamental
            matrix.

    Raises:
        ValueError: a value out of range, or features of detectors with other weights, ``region`` or
            ``upright``, whose descriptors cannot be compared.
    """
    _check(geometry, ratio, threshold, min_inliers)
    if a.description is not None and b.description is not None:
        a.description.check_same(b.description)
    pairs, distances = mutual_matches(a.descriptors, b.descriptors, ratio)
    estimate = None
    if geometry != "none":
        points_a, points_b = a.keypoints.xy[pairs[:, 0]], b.keypoints.xy[pairs[:, 1]]
        estimate = estimate_geometry(
            points_a,
            points_b,
            geometry,
            threshold=THRESHOLD if threshold is None else threshold,
            min_inliers=min_inliers,
        )
    return Matches(a, b, pairs, distances, geometry, estimate)


def estimate_geometry(
    points_a: np.ndarray,
    points_b: np.ndarray,
    kind: str = "homography",
    *,
    threshold: float = THRESHOLD,
    min_inliers: int | None = None,
) -> Geometry | None:
    """Homography or fundamental matrix of matched points, by MAGSAC++ (USAC of OpenCV); deterministic.

    Args:
        points_a: (M, 2) in image a.
        points_b: (M, 2) in image b.
        kind: "homography" or "fundamental".
        threshold: as for ``match_features``.
        min_inliers: as for ``match_features``.

    Returns:
        None with matches or inliers at fewer than ``min_inliers`` places, or where no matrix fits: all points
        alike, on one line, or a homography that is singular or folds the inliers over the horizon.

    Raises:
        ValueError: other shapes, NaN, or a value out of range.
    """
    if kind not in _SAMPLE:
        raise ValueError(f"expected kind 'homography' or 'fundamental', got {kind!r}")
    _check(kind, None, threshold, min_inliers)
    points_a, points_b = (np.asarray(points, np.float64) for points in (points_a, points_b))
    if points_a.ndim != 2 or points_a.shape[1] != 2 or points_a.shape != points_b.shape:
        raise ValueError(f"expected matched points (M, 2), got {points_a.shape} and {points_b.shape}")
    if not (np.isfinite(points_a).all() and np.isfinite(points_b).all()):
        raise ValueError("points hold NaN or infinite values")
    fewest = min_inliers or FEWEST_INLIERS[kind]
    if count_places(points_a, points_b) < fewest:
        return None
    import cv2

    find = cv2.findHomography if kind == "homography" else cv2.findFundamentalMat
    options = {"confidence": _CONFIDENCE, "maxIters": _ITERATIONS}
    try:
        matrix, mask = find(points_a, points_b, cv2.USAC_MAGSAC, threshold, **options)
    except cv2.error:  # no sample defines a matrix
        return None
    if matrix is None or mask is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return None
    inliers = mask.ravel().astype(bool)
    if count_places(points_a[inliers], points_b[inliers]) < fewest:
        return None
    if any(_are_on_a_line(points[inliers]) for points in (points_a, points_b)):
        return None
    if kind == "homography" and not _is_plausible(matrix, points_a[inliers]):
        return None
    return Geometry(kind, matrix, inliers)


def count_places(points_a: np.ndarray, points_b: np.ndarray) -> int:
    """How many matches are independent: the distinct points of the image that has fewer of them."""
    return min(len(np.unique(points, axis=0)) for points in (points_a, points_b))


def _is_plausible(homography: np.ndarray, points: np.ndarray) -> bool:
    """Whether a homography is invertible, and the points lie on one side of its horizon."""
    try:
        checked_homography(homography)
    except ValueError:
        return False
    depths = points @ homography[2, :2] + homography[2, 2]
    return bool(np.all(depths > 0) or np.all(depths < 0))


def _are_on_a_line(points: np.ndarray) -> bool:
    """Whether all points lie within a pixel or so of one line."""
    deviation = np.linalg.svd(points - points.mean(0), compute_uv=False)[1] / np.sqrt(len(points))
    return bool(deviation < _LINE)


def _check(kind: str, ratio: float | None, threshold: float | None, min_inliers: int | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"expected a geometry of {', '.join(KINDS)}, got {kind!r}")
    if ratio is not None and not (is_number(ratio) and 0 < ratio <= 1):
        raise ValueError(f"expected a ratio in (0, 1], or None, got {ratio!r}")
    if threshold is not None and not (is_number(threshold) and threshold > 0):
        raise ValueError(f"expected a positive threshold in pixels, got {threshold!r}")
    for name, value in (("threshold", threshold), ("min_inliers", min_inliers)):
        if value is not None and kind == "none":
            raise ValueError(f"{name} is for a geometry, got geometry='none'")
    if min_inliers is not None and not is_count(min_inliers, least=_SAMPLE[kind]):
        raise ValueError(
            f"expected min_inliers of at least {_SAMPLE[kind]} for a {kind}, an integer, got {min_inliers!r}"
        )
