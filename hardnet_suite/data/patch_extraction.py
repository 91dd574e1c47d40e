"""Patches of keypoints in images of known geometry, as HPatches and Brown's sets have them.

The steps are those of HPatches (Balntas, Lenc, Vedaldi, Mikolajczyk, CVPR 2017, arXiv 1704.05939, section 3,
and docs/extraction.md of its benchmark): keypoints of the first image, whose overlapping detections are
reduced to one at random; a random change of each frame, the noise of a detector; the way through the
homography; and a patch for each frame that lies within its image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hardnet_suite.data import hpatches, patches
from hardnet_suite.data.homography import HomographySequence
from hardnet_suite.data.images import read_grey
from hardnet_suite.data.patch_frames import (
    MEASUREMENT_REGION,
    create_sift,
    cut_patches,
    frame_corners,
    frames_inside,
    frames_of_keypoints,
    project_points,
    require_region,
    warp_frames,
)
from hardnet_suite.data.views import change_light, random_homography, warp_image
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.outputs import temporary_folder

DETECTORS = ("sift", "orb")
MIN_SIZE = 2.5
"""Least size of a keypoint in pixels: smaller ones have regions of fewer than 15 pixels, all blur at 65."""
_ORB_SIZE = 1 / 4  # ORB's size is that of its descriptor's patch, 31 pixels at the finest scale
_ORB_SIDE = 64  # pixels: ORB finds nothing within 31 of the border, and fails on a pyramid of empty levels
_MOST_PAIRS = 100_000
_OVERLAP = 0.5
_LEAST_WIDTH = 5  # pixels of a region in a view


@dataclass(frozen=True)
class FrameJitter:
    """Ranges of the random change of a frame, each drawn uniformly from ± the value.

    Attributes:
        rotation: degrees.
        translation: of x and y in half sides of the frame.
        scale: log2 of the factor.
        anisotropy: log2 of the ratio of the axes.
    """

    rotation: float
    translation: float
    scale: float
    anisotropy: float


JITTERS = {
    "e": FrameJitter(10, 0.15, 0.15, 0.2),
    "h": FrameJitter(20, 0.3, 0.3, 0.4),
    "t": FrameJitter(30, 0.45, 0.5, 0.45),
}
"""The ranges of easy, hard and tough patches.

HPatches documents what its ranges lead to, not the ranges: a median overlap of a frame's ellipse before and
after of about 0.85 for easy and 0.72 for hard (hpatches-benchmark, docs/extraction.md). With these it is
0.83, 0.69 and 0.57, slightly harder.
"""


@dataclass
class Counts:
    """What became of the keypoints of some images.

    Attributes:
        images: first images of sequences, or photographs.
        keypoints: found.
        small: dropped, below the least size.
        duplicates: dropped, of overlapping detections.
        outside: dropped, whose region leaves the first image, or all others.
        flat: dropped, of a single grey value in too many images.
        unused: left out, beyond the number of keypoints per image.
        points: kept.
        patches: of the training set.
        strips: rows of the strips: points that lie within all images.
    """

    images: int = 0
    keypoints: int = 0
    small: int = 0
    duplicates: int = 0
    outside: int = 0
    flat: int = 0
    unused: int = 0
    points: int = 0
    patches: int = 0
    strips: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in asdict(self)))


@dataclass(frozen=True)
class Extraction:
    """How patches are made.

    Attributes:
        detectors: of ``DETECTORS``.
        patches_per_image: most points per first image; of more, as many of each octave of sizes.
        region: side of a patch's region in sizes of the keypoint.
        min_size: least size of a keypoint in pixels.
        seed: of all randomness. An image's patches depend on it and on the place of the image in the list.
        training: whether the training set is written.
        strips: whether HPatches strips are written.
    """

    detectors: tuple[str, ...] = ("sift",)
    patches_per_image: int = 1000
    region: float = MEASUREMENT_REGION
    min_size: float = MIN_SIZE
    seed: int = 0
    training: bool = True
    strips: bool = True

    def __post_init__(self):
        unknown = sorted(set(self.detectors) - set(DETECTORS))
        if unknown or not self.detectors:
            raise ValueError(f"unknown detector {', '.join(unknown)}, expected {' or '.join(DETECTORS)}")
        if self.patches_per_image < 1:
            raise ValueError(f"patches_per_image={self.patches_per_image}: expected at least 1")
        require_region(self.region)
        if not 0 < self.min_size < float("inf"):
            raise ValueError(f"min_size={self.min_size}: expected a positive number of pixels")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: expected at least 0")
        if not (self.training or self.strips):
            raise ValueError("expected a training set, strips, or both")


@dataclass(frozen=True)
class View:
    """Another image of what the first shows.

    Attributes:
        image: (H, W) uint8.
        homography: (3, 3), maps the first image to this one.
    """

    image: np.ndarray
    homography: np.ndarray


@dataclass(frozen=True)
class Source:
    """A first image and its views, opened when they are needed.

    Attributes:
        name: of the strips' folder.
        open: gives the first image (H, W) uint8, and an iterator of its views.
    """

    name: str
    open: Callable[[np.random.Generator], tuple[np.ndarray, Iterator[View]]]


def sources_of_sequences(sequences: Iterable[HomographySequence]) -> list[Source]:
    """The images of sequences.

    Raises:
        UserError: two sequences have an image in common.
    """
    return _sources((each.name, each.images, partial(_open_sequence, each)) for each in sequences)


def sources_of_photographs(images: Iterable[str | Path], views: int) -> list[Source]:
    """Photographs with ``views`` random views of each.

    Raises:
        UserError: an image is given twice.
    """
    return _sources((Path(path).stem, [path], partial(_open_photograph, path, views)) for path in images)


def _sources(described: Iterable[tuple[str, Sequence[str | Path], Callable]]) -> list[Source]:
    """Sources of different names.

    Args:
        described: name, files of the images, and ``Source.open`` of each. A file belongs to one source alone:
            else the points of an image would be different points in each.
    """
    taken: set[str] = set()
    owners: dict[str, tuple[int, str | Path]] = {}
    sources = []
    for stem, files, opener in described:
        for file in files:
            owner, other = owners.setdefault(os.path.realpath(file), (len(sources), file))
            if owner != len(sources):
                same = "is given twice" if str(other) == str(file) else f"and {other} are the same file"
                raise UserError(f"{file} {same}: each image gives its points once")
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        sources.append(Source(name, opener))
    return sources


def _open_sequence(
    sequence: HomographySequence, rng: np.random.Generator
) -> tuple[np.ndarray, Iterator[View]]:
    views = zip(sequence.images[1:], sequence.homographies, strict=True)
    return read_grey(sequence.images[0]), (View(read_grey(path), matrix) for path, matrix in views)


def _open_photograph(
    path: str | Path, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, Iterator[View]]:
    image = read_grey(path)

    def views() -> Iterator[View]:
        for _ in range(count):
            homography = random_homography(image.shape[1], image.shape[0], rng)
            yield View(change_light(warp_image(image, homography), rng), homography)

    return image, views()


def detect_keypoints(
    image: np.ndarray, detectors: Sequence[str] = ("sift",)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints of OpenCV's detectors, with sizes of one meaning.

    Args:
        image: (H, W) uint8.
        detectors: of ``DETECTORS``.

    Returns:
        (N, 2) centres, (N,) sizes (2 σ) and (N,) angles in degrees, as ``frames_of_keypoints`` takes them. A
        quarter of the size that ORB gives stands for 2 σ, so that the regions of the finest corners are 46
        pixels wide.
    """
    import cv2

    keypoints = []
    for name in detectors:
        if name == "orb" and min(image.shape) < _ORB_SIDE:
            continue
        detector = create_sift() if name == "sift" else cv2.ORB_create(nfeatures=5000)
        factor = 1 if name == "sift" else _ORB_SIZE
        keypoints += [(*point.pt, factor * point.size, point.angle) for point in detector.detect(image, None)]
    rows = np.array(keypoints, np.float64).reshape(-1, 4)
    return rows[:, :2], rows[:, 2], rows[:, 3]


def distinct_keypoints(
    xy: np.ndarray, size: np.ndarray, rng: np.random.Generator, region: float = MEASUREMENT_REGION
) -> np.ndarray:
    """One at random of keypoints that overlap, as HPatches has it.

    Two keypoints overlap if the circles within their regions do: more than half of the area that they cover
    is common.

    Args:
        xy: (N, 2) centres.
        size: (N,) diameters.
        rng: of the choice.
        region: side of the regions in sizes.

    Returns:
        (M,) indices of the keypoints that are kept, in random order.
    """
    order = rng.permutation(len(xy))
    xy, radius = xy[order], region * size[order] / 2
    alive = np.ones(len(order), bool)
    for number in range(len(order)):
        if not alive[number]:
            continue
        rest = number + 1 + np.flatnonzero(alive[number + 1 :])
        ratio = radius[rest] / radius[number]
        near = np.abs(xy[rest] - xy[number]).max(1) < radius[number] + radius[rest]
        rest = rest[near & (ratio > 0.7) & (ratio < 1.43)]  # √½: the smaller circle within the larger one
        distance = np.linalg.norm(xy[rest] - xy[number], axis=1)
        alive[rest[_circle_overlap(distance, radius[number], radius[rest]) > _OVERLAP]] = False
    return order[alive]


def _circle_overlap(distance: np.ndarray, a: float, b: np.ndarray) -> np.ndarray:
    """Intersection over union of circles of radii ``a`` and ``b`` at a distance."""
    distance = np.maximum(distance, 1e-12)
    cosine_a = ((distance**2 + a**2 - b**2) / (2 * distance * a)).clip(-1, 1)
    cosine_b = ((distance**2 + b**2 - a**2) / (2 * distance * b)).clip(-1, 1)
    root = (a + b - distance) * (distance + a - b) * (distance - a + b) * (distance + a + b)
    lens = a**2 * np.arccos(cosine_a) + b**2 * np.arccos(cosine_b) - np.sqrt(root.clip(0)) / 2
    lens = np.where(distance <= np.abs(a - b), np.pi * np.minimum(a, b) ** 2, lens)
    lens = np.where(distance >= a + b, 0, lens)
    return lens / (np.pi * (a**2 + b**2) - lens)


def jitter_frames(frames: np.ndarray, jitter: FrameJitter, rng: np.random.Generator) -> np.ndarray:
    """Frames as a detector finds them again, with its errors.

    Args:
        frames: (N, 2, 3) of square regions.
        jitter: ranges of the errors.
        rng: of the errors.

    Returns:
        (N, 2, 3): scaled, stretched along its axes, rotated and shifted.
    """
    count = len(frames)

    def uniform(limit: float, *shape: int) -> np.ndarray:
        return rng.uniform(-limit, limit, (count, *shape))

    angle, shift = np.radians(uniform(jitter.rotation)), uniform(jitter.translation, 2)
    scale, ratio = 2 ** uniform(jitter.scale), 2 ** uniform(jitter.anisotropy)
    cosine, sine = np.cos(angle), np.sin(angle)
    change = np.empty((count, 2, 2))
    change[:, 0, 0], change[:, 0, 1] = cosine, -sine
    change[:, 1, 0], change[:, 1, 1] = sine, cosine
    change *= np.stack([scale * np.sqrt(ratio), scale / np.sqrt(ratio)], 1)[:, None]
    jittered = frames.copy()
    jittered[:, :, 2] += (frames[:, :, :2] @ shift[:, :, None])[:, :, 0]
    jittered[:, :, :2] = frames[:, :, :2] @ change
    return jittered


def _balanced(octaves: np.ndarray, limit: int) -> np.ndarray:
    """Indices of at most ``limit``, as many of each octave as there are; the first of each."""
    rank = np.empty(len(octaves), int)  # within the octave
    for octave in np.unique(octaves):
        members = np.flatnonzero(octaves == octave)
        rank[members] = np.arange(len(members))
    return np.sort(np.argsort(rank, kind="stable")[:limit])


@dataclass(frozen=True)
class SourcePatches:
    """The patches of a source.

    Attributes:
        training: (N, 64, 64) uint8.
        points: (N,) int64, 0, 1, …: the point of each patch of ``training``; each has at least two.
        strips: name -> (M, 65, 65) uint8; empty if no point lies within all images.
        counts: of the keypoints.
    """

    training: np.ndarray
    points: np.ndarray
    strips: dict[str, np.ndarray]
    counts: Counts


def extract(source: Source, options: Extraction, index: int = 0) -> SourcePatches:
    """The patches of one source.

    The training set has the patch of the first image and one per view, with a jitter of a random level, for
    points whose patches lie within the first image and at least one view. The strips have all levels of all
    views, for points whose patches all do.

    Args:
        source: of the images.
        options: how.
        index: of the source in its list, part of the seed.

    Raises:
        UserError: an image cannot be read.
    """
    rng = np.random.default_rng((options.seed, index))
    image, views = source.open(rng)
    frames, counts = _first_frames(image, options, rng)
    everything = np.arange(len(frames))
    parts = [_Sighting.of(image, everything, frames, patches.SIDE)] if options.training else []
    strips = {"ref": _Sighting.of(image, everything, frames, hpatches.SIDE)} if options.strips else {}
    for number, view in enumerate(views if len(frames) else (), 1):
        levels = [jitter_frames(frames, jitter, rng) for jitter in JITTERS.values()]
        chosen = np.stack(levels)[rng.integers(len(levels), size=len(frames)), everything]
        if options.training:
            parts.append(_in_view(chosen, view, image.shape, patches.SIDE))
        if options.strips:
            seen = [_in_view(jittered, view, image.shape, hpatches.SIDE) for jittered in levels]
            strips |= {f"{name}{number}": part for name, part in zip(JITTERS, seen, strict=True)}
    none = np.zeros(0, np.int64)
    points = np.concatenate([none, *(part.points for part in parts)])
    paired = np.bincount(points, minlength=len(frames)) >= 2
    complete = np.full(len(frames), len(strips) > 1)  # within all images, at all levels
    for part in strips.values():
        complete &= np.isin(everything, part.points)
    of_patch = points[paired[points]]
    kept = complete | paired
    flat = np.isin(everything, np.concatenate([part.flat for part in (*parts, *strips.values())]))
    counts.outside += int(np.count_nonzero(~kept & ~flat))
    counts.flat = int(np.count_nonzero(~kept & flat))
    counts.points = int(np.count_nonzero(kept))
    counts.patches, counts.strips = len(of_patch), int(np.count_nonzero(complete))
    no_patches = np.zeros((0, patches.SIDE, patches.SIDE), np.uint8)
    return SourcePatches(
        np.concatenate([no_patches, *(part.patches[paired[part.points]] for part in parts)]),
        (np.cumsum(paired) - 1)[of_patch],
        {name: strips[name].patches[complete[strips[name].points]] for name in sorted(strips, key=_place)}
        if counts.strips
        else {},
        counts,
    )


@dataclass(frozen=True)
class _Sighting:
    """The patches of points in an image.

    Attributes:
        points: (M,) their numbers.
        patches: (M, side, side) uint8, none of a single grey value.
        flat: the numbers of points whose patches are, and which were left out: they have no descriptor.
    """

    points: np.ndarray
    patches: np.ndarray
    flat: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, points: np.ndarray, frames: np.ndarray, side: int) -> _Sighting:
        """Cuts the patches of (M, 2, 3) frames from a (H, W) uint8 image."""
        cut = cut_patches(image, frames, side)
        varied = cut.min((1, 2)) < cut.max((1, 2))
        return cls(points[varied], cut[varied], points[~varied])


def _place(name: str) -> tuple[bool, str, int]:
    """Where a strip comes in the order of ``STRIPS``."""
    return (False, "", 0) if name == "ref" else (True, name[0], int(name[1:]))


def _first_frames(
    image: np.ndarray, options: Extraction, rng: np.random.Generator
) -> tuple[np.ndarray, Counts]:
    """(N, 2, 3) frames of the keypoints of a first image, and what became of the others."""
    xy, size, angle = detect_keypoints(image, options.detectors)
    large = size >= options.min_size
    xy, size, angle = xy[large], size[large], angle[large]
    frames = frames_of_keypoints(xy, size, angle, options.region)
    inside = frames_inside(frames, *image.shape[::-1])
    xy, size, frames = xy[inside], size[inside], frames[inside]
    distinct = distinct_keypoints(xy, size, rng, options.region)
    kept = distinct[_balanced(np.floor(np.log2(size[distinct])), options.patches_per_image)]
    counts = Counts(
        images=1,
        keypoints=len(large),
        small=int(np.count_nonzero(~large)),
        duplicates=len(xy) - len(distinct),
        outside=int(np.count_nonzero(~inside)),
        unused=len(distinct) - len(kept),
    )
    return frames[kept], counts


def _in_view(frames: np.ndarray, view: View, shape: tuple[int, int], side: int) -> _Sighting:
    """Those of (N, 2, 3) frames in the first image, of shape (H, W), that lie within it and the view."""
    points = np.concatenate([frame_corners(frames), frames[:, None, :, 2]], 1)
    visible = frames_inside(frames, *shape[::-1]) & project_points(points, view.homography)[1].all(1)
    there = warp_frames(frames[visible], view.homography)
    shows = frames_inside(there, *view.image.shape[::-1])
    shows &= 2 * np.linalg.svd(there[:, :, :2], compute_uv=False)[:, 1] >= _LEAST_WIDTH
    return _Sighting.of(view.image, np.flatnonzero(visible)[shows], there[shows], side)


def write_patches(
    out: str | Path,
    sources: Sequence[Source],
    options: Extraction,
    report: Callable[[Source, Counts], None] | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> Counts:
    """Writes the patches of all sources.

    The folder gets ``hpatches/NAME/ref.png, e1.png, …`` for each source, ``brown/`` in Brown's layout, with
    pairs to be scored, and ``make-patches.json``, which tells how they were made. An interrupted run leaves
    nothing.

    Args:
        out: the folder; new, or empty.
        sources: of the images.
        options: how.
        report: called after each source with what became of its keypoints.
        made_from: where the sources come from, as values of JSON; an entry of ``make-patches.json``.

    Returns:
        What became of all keypoints.

    Raises:
        UserError: the folder has contents, an image cannot be read, or there is not a single patch.
    """
    out = Path(out)
    if out.is_dir():
        if any(out.iterdir()):
            raise UserError(f"{out} is not empty: choose a new or empty folder")
    elif out.exists():
        raise UserError(f"{out} exists and is no folder: choose a new or empty folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return _write_patches(out, sources, options, report, made_from)
    except WriteError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot write patches to {out}: {error.strerror or error}; choose another folder"
        ) from None


def _write_patches(
    out: Path,
    sources: Sequence[Source],
    options: Extraction,
    report: Callable[[Source, Counts], None] | None,
    made_from: Mapping[str, Any] | None,
) -> Counts:
    total = Counts()
    with temporary_folder(out) as folder:
        writer, first = patches.BrownWriter(folder / "brown"), 0
        for index, source in enumerate(sources):
            made = extract(source, options, index)
            if options.training:
                writer.add(made.training, made.points + first)
                first = int(made.points.max(initial=-1)) + 1 + first
            if made.strips:
                hpatches.write_strips(folder / "hpatches" / source.name, made.strips)
            total += made.counts
            if report is not None:
                report(source, made.counts)
        if not total.points:
            raise UserError(f"no patches: {_reason(total, options.min_size)}")
        if total.patches:
            if first > 1:
                count = min(_MOST_PAIRS, 2 * total.patches)
                writer.pairs = patches.random_pairs(writer.point_ids, count, options.seed)
            writer.close()
        record = {
            "made_from": dict(made_from or {}),
            "options": asdict(options),
            "counts": asdict(total),
            "sources": [each.name for each in sources],
        }
        (folder / "make-patches.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        folder.replace(out)
    return total


def _reason(total: Counts, min_size: float) -> str:
    """Why not a single point was kept."""
    images = "the image" if total.images == 1 else f"{total.images} images"
    if not total.keypoints:
        return f"no keypoints were found in {images}"
    large = total.keypoints - total.small
    if not large:
        return f"no keypoint in {images} has the least size of {min_size:g} pixels"
    flat = f", or {total.flat} have no contrast there" if total.flat else ""
    return (
        f"none of {large} keypoints in {images} lies, with its region, within the first image and a view"
        f"{flat}: check the sizes of the images, and the homographies"
    )
