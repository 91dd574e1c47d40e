"""Matches of two images: side by side, with lines between matched points."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from hardnet_suite.visualization.canvas import PAPER, Color, as_image, captioned

_GAP = 8  # pixels between the images
_LONGEST = 1000  # pixels of an image's longer side; larger ones are reduced, together
_SHORTEST = 360  # smaller ones are enlarged
_FINE = 2  # lines are drawn at this scale, then reduced
_FADED = 0.35  # how much of their colour the images lose, so that the lines stand out
_REJECTED = (255, 255, 255, 255)
_EDGE = (20, 22, 26, 255)  # around what is drawn, on images of any brightness
_LINES = 100


def draw_matches(
    image_a: np.ndarray,
    image_b: np.ndarray,
    points_a: np.ndarray,
    points_b: np.ndarray,
    *,
    shown: np.ndarray | None = None,
    rejected: np.ndarray | None = None,
    homography: np.ndarray | None = None,
    caption: str = "",
    lines: int = _LINES,
) -> np.ndarray:
    """Two images beside each other, with matched points in colours by their place in the first image.

    Args:
        image_a: (H, W, 3) uint8.
        image_b: (H', W', 3) uint8.
        points_a: (M, 2) x, y in pixels of ``image_a``.
        points_b: (M, 2) in pixels of ``image_b``.
        shown: (M,) bool, the matches in colour; None: all.
        rejected: (M,) bool, matches in white with crosses at their ends, under the others; None: none.
        homography: (3, 3), maps image a to b: the outline of a is drawn in b.
        caption: a line below.
        lines: the most lines in colour, spread over the image; all points are marked.

    Returns:
        (H'', W'', 3) uint8.

    Raises:
        ValueError: images, points or masks of other shapes.
    """
    image_a, image_b = as_image(image_a), as_image(image_b)
    points_a, points_b = (np.asarray(points, np.float64) for points in (points_a, points_b))
    if points_a.shape != points_b.shape or points_a.ndim != 2 or points_a.shape[1] != 2:
        raise ValueError(f"expected matched points (M, 2), got {points_a.shape} and {points_b.shape}")
    count = len(points_a)
    shown = np.ones(count, bool) if shown is None else np.asarray(shown, bool)
    rejected = np.zeros(count, bool) if rejected is None else np.asarray(rejected, bool)
    if not shown.shape == rejected.shape == (count,):
        raise ValueError(f"expected masks of {count} matches, got {shown.shape} and {rejected.shape}")

    sides = [side for image in (image_a, image_b) for side in image.shape[:2]]
    scale = min(1.0, _LONGEST / max(sides)) if max(sides) > _SHORTEST else _SHORTEST / max(sides)
    left, right = (_faded(image, scale) for image in (image_a, image_b))
    height = max(left.shape[0], right.shape[0])
    sheet = np.full((height, left.shape[1] + _GAP + right.shape[1], 3), PAPER, np.uint8)
    tops = [(height - part.shape[0]) // 2 for part in (left, right)]
    sheet[tops[0] : tops[0] + left.shape[0], : left.shape[1]] = left
    sheet[tops[1] : tops[1] + right.shape[0], left.shape[1] + _GAP :] = right

    def placed(points: np.ndarray, left_edge: int, top: int) -> np.ndarray:
        return _FINE * ((points + 0.5) * scale + [left_edge, top])  # pixel centres are integers

    starts = placed(points_a, 0, tops[0])
    ends = placed(points_b, left.shape[1] + _GAP, tops[1])
    size = (_FINE * sheet.shape[1], _FINE * height)
    layer = Image.new("RGBA", size)
    draw = ImageDraw.Draw(layer)
    for start, end in zip(starts[rejected], ends[rejected], strict=True):
        arm = 2.5 * _FINE
        crosses = [
            [x - arm, y - sign * arm, x + arm, y + sign * arm] for x, y in (start, end) for sign in (1, -1)
        ]
        for fill, width in ((_EDGE, 3.0), (_REJECTED, 1.5)):
            for line in ([*start, *end], *crosses):
                draw.line(line, fill, round(width * _FINE))
    if homography is not None:
        _draw_outline(layer, image_a, homography, placed, left.shape[1] + _GAP, tops[1])
    colors = _colors(points_a, image_a.shape[1], image_a.shape[0])
    drawn = np.flatnonzero(shown)
    spread = _spread(points_a[drawn], lines)
    for index in drawn[spread]:
        draw.line([*starts[index], *ends[index]], (*colors[index], 190), round(1.4 * _FINE))
    radius = 2.2 * _FINE
    for index in drawn:
        for x, y in (starts[index], ends[index]):
            for grown, fill in ((radius + _FINE * 0.8, _EDGE), (radius, (*colors[index], 255))):
                draw.ellipse([x - grown, y - grown, x + grown, y + grown], fill)
    layer = layer.resize((sheet.shape[1], height), Image.Resampling.BOX)
    result = Image.fromarray(sheet)
    result.paste(layer, (0, 0), layer)
    picture = np.array(result)
    return captioned(picture, [caption]) if caption else picture


def _draw_outline(
    layer: Image.Image, image: np.ndarray, homography: np.ndarray, placed, left_edge: int, top: int
) -> None:
    """The border of image a where the homography takes it, cut at the edges of image b."""
    height, width = image.shape[:2]
    corners = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    steps = np.linspace(0, 1, 33)[:-1, None]
    border = np.concatenate(
        [a + steps * (b - a) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]
    )
    homogeneous = border @ homography[:, :2].T + homography[:, 2]
    depths = homogeneous[:, 2]
    if not (np.all(depths > 0) or np.all(depths < 0)):
        return  # part of image a lies beyond the horizon
    path = placed(homogeneous[:, :2] / depths[:, None], left_edge, top)
    path = np.clip(path, -4 * max(layer.size), 4 * max(layer.size))
    outline = Image.new("RGBA", layer.size)
    draw = ImageDraw.Draw(outline)
    ring = [tuple(point) for point in (*path, path[0])]
    draw.line(ring, (20, 22, 26, 200), 4 * _FINE, joint="curve")
    draw.line(ring, (255, 255, 255, 255), 2 * _FINE, joint="curve")
    start = _FINE * left_edge
    layer.alpha_composite(outline.crop((start, 0, *layer.size)), (start, 0))


def _faded(image: np.ndarray, scale: float) -> np.ndarray:
    picture = Image.fromarray(image)
    if scale != 1:
        size = tuple(max(1, round(scale * side)) for side in picture.size)
        picture = picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    grey = picture.convert("L").convert("RGB")
    return np.array(Image.blend(picture, grey, _FADED))


def _colors(points: np.ndarray, width: int, height: int) -> list[Color]:
    """Hues around the centre of the image, so that lines that belong together look alike."""
    centered = points / [width, height] - 0.5
    hues = np.arctan2(centered[:, 1], centered[:, 0]) / (2 * np.pi)
    colors = [colorsys.hsv_to_rgb(hue % 1, 0.85, 1.0) for hue in hues]
    return [tuple(round(255 * channel) for channel in color) for color in colors]


def _spread(points: np.ndarray, count: int) -> Sequence[int]:
    """Indices of at most ``count`` points, each the farthest from those before it."""
    if len(points) <= count:
        return range(len(points))
    if count < 1:
        return []
    chosen = [0]
    distances = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < count:
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen
