"""Images and label images of CamVid's classes from the pairs of images that image translation is trained on.

    python benchmarks/split_pairs.py cityscapes/train --out data/cityscapes_pairs/train

A pair is one file: on the left the photograph, on the right, as wide, its labels in Cityscapes' colors, as
pix2pix has them (https://github.com/phillipi/pix2pix). Such files are JPEG, whose colors are not exact: a
pixel has the label of the nearest color, or none where that is far away or where hardly a neighbour shares
it. Poles are as wide as a pixel there, and their hue is that of what is behind them: they are told by their
brightness. ``OUT/images`` and ``OUT/labels`` get PNG files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from street_labels import CAMVID, require_new, write_labels
from torch.nn import functional

from hardnet_suite.data.images import IMAGE_SUFFIXES, header_sizes, read_rgb, walk_files
from hardnet_suite.data.segmentation.labels import IGNORE, LABEL_SETS
from hardnet_suite.errors import UserError
from hardnet_suite.names import first_repeated
from hardnet_suite.visualization.canvas import save_image

# class of Cityscapes -> of CamVid
CLASSES = {
    "road": "Road",
    "sidewalk": "Pavement",
    "building": "Building",
    "wall": "Building",
    "fence": "Fence",
    "pole": "Pole",
    "traffic light": "SignSymbol",
    "traffic sign": "SignSymbol",
    "vegetation": "Tree",
    "terrain": "Tree",  # grass, which CamVid joins with its trees
    "sky": "Sky",
    "person": "Pedestrian",
    "rider": "Bicyclist",
    "car": "Car",
    "truck": "Car",
    "bus": "Car",
    "train": "Car",
    "motorcycle": "Bicyclist",
    "bicycle": "Bicyclist",
}
CITYSCAPES = LABEL_SETS["cityscapes"]
# color -> class of CamVid, None: no label; with the colors of what Cityscapes does not score
COLORS: dict[tuple[int, int, int], str | None] = {
    color: CLASSES[name] for name, color in zip(CITYSCAPES.classes, CITYSCAPES.palette, strict=True)
} | {
    (0, 0, 0): None,  # the car of the camera, and what is not labelled
    (111, 74, 0): None,  # dynamic
    (81, 0, 81): None,  # ground
    (250, 170, 160): None,  # parking
    (230, 150, 140): None,  # rail track
    (180, 165, 180): "Fence",  # guard rail
    (150, 100, 100): None,  # bridge
    (150, 120, 90): None,  # tunnel
    (0, 0, 90): "Car",  # caravan
    (0, 0, 110): "Car",  # trailer
}
POLE, POLE_LUMA = CAMVID.classes.index("Pole"), 153.0  # of its color, which has no chroma
FARTHEST = 30  # from a color, in grey levels
MOST_UNKNOWN = 0.25  # share of pixels that are farther; of labels at most 0.19, of photographs 0.33 and more
NEIGHBOURS = 3  # of 8, at least, have the label too
MOST_HUE, HUE = 0.7, 12.0  # of a pole's pixel: share of the hue around, and distance from that, at most
UPRIGHT = 4  # of the 7×3 pixels around a pole's, at least, are of poles


def labels_of_colors(colors: np.ndarray) -> np.ndarray:
    """Train labels of CamVid's classes.

    Args:
        colors: (H, W, 3) uint8, about the keys of ``COLORS``.

    Returns:
        (H, W) uint8, ``IGNORE`` where there is no label.

    Raises:
        ValueError: most of the colors are far from all of ``COLORS``.
    """
    palette = torch.tensor([*COLORS], dtype=torch.float32)
    classes = torch.tensor(
        [IGNORE if name is None else CAMVID.classes.index(name) for name in COLORS.values()]
    )
    pixels = torch.from_numpy(colors).float()
    distance, nearest = torch.cdist(pixels.reshape(-1, 3), palette).min(1)
    if (distance > FARTHEST).float().mean() > MOST_UNKNOWN:
        raise ValueError("the right half has other colors than Cityscapes")
    labels = classes[nearest]
    labels[distance > FARTHEST] = IGNORE
    labels = labels.reshape(colors.shape[:2])
    shared = torch.zeros(labels.shape)
    for label in labels.unique().tolist():
        here = (labels == label).float()
        shared += here * (window_sum(here, 3, 3) - 1)
    labels[shared < NEIGHBOURS] = IGNORE
    labels[poles(pixels, labels)] = POLE
    return labels.numpy().astype(np.uint8)


def poles(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Pixels without a label that are of a pole.

    They are about as bright as its color, and their hue lies between none and that of the class around.

    Args:
        pixels: (H, W, 3) RGB, 0 to 255.
        labels: (H, W) int64, what is known of them.

    Returns:
        (H, W) bool.
    """
    luma, chroma = luma_chroma(pixels)
    counts = torch.stack(
        [window_sum((labels == label).float(), 7, 7) for label in range(len(CAMVID.classes))]
    )
    counts[POLE] = 0
    most, around = counts.max(0)
    likely = torch.zeros(labels.shape, dtype=torch.bool)
    for color, name in COLORS.items():
        if name in (None, "Pole"):
            continue
        behind, tint = luma_chroma(torch.tensor(color).float())
        here = (around == CAMVID.classes.index(name)) & (most > 0) & (labels == IGNORE)
        share = (chroma @ tint / tint.square().sum().clamp(min=1)).clamp(0, MOST_HUE)
        off = (chroma - share[..., None] * tint).norm(dim=-1)
        from_pole = (luma - POLE_LUMA).abs()
        likely |= here & (from_pole < (luma - behind).abs()) & (from_pole < FARTHEST) & (off < HUE)
    return likely & (window_sum((likely | (labels == POLE)).float(), 7, 3) >= UPRIGHT)


def window_sum(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(H, W) -> (H, W), the sums over windows around each pixel, of odd sides."""
    padding = (height // 2, width // 2)
    return functional.avg_pool2d(values[None, None], (height, width), 1, padding, divisor_override=1)[0, 0]


def luma_chroma(colors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., 3) RGB -> JPEG's luma (...) and chroma (..., 2)."""
    luma = colors @ torch.tensor([0.299, 0.587, 0.114])
    return luma, torch.stack([(colors[..., 2] - luma) * 0.564, (colors[..., 0] - luma) * 0.713], -1)


def split(path: Path, image: Path) -> np.ndarray:
    """Writes the photograph of a pair; returns the labels, (H, W) uint8."""
    pair = read_rgb(path)
    left, right = (np.ascontiguousarray(half) for half in np.split(pair, 2, axis=1))
    try:
        labels = labels_of_colors(right)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    save_image(image, left)
    return labels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path, help="folder of the pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder of images and label images")
    args = parser.parse_args(arguments)
    require_new(args.out)
    if args.out.resolve().is_relative_to(args.pairs.resolve()):
        raise UserError(f"--out {args.out}: expected a folder outside of {args.pairs}")
    paths = walk_files(args.pairs, IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"{args.pairs}: no images")
    names = [path.relative_to(args.pairs).with_suffix(".png") for path in paths]
    if (twice := first_repeated(str(name).casefold() for name in names)) is not None:
        raise UserError(f"{args.pairs}: two images would become {twice}")
    for path in paths:
        width = header_sizes(path)[1][0]
        if width % 2:
            raise UserError(f"{path}: expected two images side by side, got a width of {width}")
    labels = (
        (name, split(path, args.out / "images" / name)) for path, name in zip(paths, names, strict=True)
    )
    write_labels(args.out / "labels", labels, len(paths))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
