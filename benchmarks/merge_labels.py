"""Label images of CamVid's classes from coarser ones of other street photographs, with the help of a network.

    python benchmarks/merge_labels.py PHOTOGRAPHS/images --labels PHOTOGRAPHS/labels \
        --teacher teacher.onnx --out data/labelmefacade/labels_camvid

The label images have colors for buildings, windows, doors, cars, roads, pavement, vegetation and sky, as
those of LabelMeFacade, and nothing for poles, signs, fences, people and cyclists. What the teacher predicts
is joined to them by these rules, in this order:

- Pixels without a label get the class of which the teacher is sure.
- Road and Pavement count where the teacher thinks likewise: the labels call squares and lanes pavement.
- Sky, Tree and Car do not count where the teacher rules them out: some labels say tree all over a road.
- Vegetation where the teacher sees sky is Sky: the label images draw around whole trees.
- Along the outlines of the label images, pixels on which the teacher disagrees do not count.
- Pixels that the teacher suspects to be of a class that the label images lack do not count, and get that
  class where it is sure.

The teacher is an ONNX file, (1, 3, H, W) RGB of 0 to 255 -> (1, 11, H, W) logits or log probabilities of the
classes of CamVid; photographs are scaled to its size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from street_labels import CAMVID, require_new, write_labels
from torch.nn import functional
from torchvision.transforms import v2

from hardnet_suite.data.images import read_rgb
from hardnet_suite.data.segmentation.labels import IGNORE
from hardnet_suite.data.segmentation.pairs import require_pairs
from hardnet_suite.errors import UserError

# color -> class, None: no label
COLORS = {
    (0, 0, 0): None,
    (128, 0, 0): "Building",
    (128, 0, 128): "Car",
    (128, 128, 0): "Building",  # doors
    (128, 128, 128): "Pavement",
    (128, 64, 0): "Road",
    (0, 128, 128): "Sky",
    (0, 128, 0): "Tree",
    (0, 0, 128): "Building",  # windows
}
LACKING = ("Pole", "SignSymbol", "Fence", "Pedestrian", "Bicyclist")
SURE, SUSPECTED = 0.7, 0.25
GROUND, SKY = 0.6, 0.6
RULED_OUT = 0.05
OUTLINE = 3  # pixels on either side


def labels_of_colors(colors: np.ndarray) -> np.ndarray:
    """Train labels of CamVid's classes.

    Args:
        colors: (H, W, 3) uint8, keys of ``COLORS``.

    Returns:
        (H, W) uint8, ``IGNORE`` where there is no label.

    Raises:
        ValueError: another color.
    """
    numbers = colors.astype(np.int32) @ (1 << 16, 1 << 8, 1)
    labels = np.full(numbers.shape, IGNORE, np.uint8)
    known = np.zeros(numbers.shape, bool)
    for color, name in COLORS.items():
        here = numbers == np.dot(color, (1 << 16, 1 << 8, 1))
        known |= here
        if name is not None:
            labels[here] = CAMVID.classes.index(name)
    if not known.all():
        raise ValueError(f"the color {tuple(map(int, colors[~known][0]))} is none of LabelMeFacade's")
    return labels


def outlines(labels: np.ndarray, reach: int = OUTLINE) -> np.ndarray:
    """Where another label is at most ``reach`` pixels away, in a square. (H, W) integers -> (H, W) bool."""
    values = torch.from_numpy(labels.astype(np.float32))[None, None]
    window = {"kernel_size": 2 * reach + 1, "stride": 1, "padding": reach}
    highest = functional.max_pool2d(values, **window)
    lowest = -functional.max_pool2d(-values, **window)
    return (highest != lowest)[0, 0].numpy()


def merge(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Label images joined with what the teacher predicts, by the rules above.

    Args:
        labels: (H, W) uint8, train labels of CamVid's classes or ``IGNORE``.
        probabilities: (11, H, W), which sum to 1 over the classes.

    Returns:
        (H, W) uint8, train labels or ``IGNORE``.
    """
    index = CAMVID.classes.index
    likeliest, probability = probabilities.argmax(0).astype(np.uint8), probabilities.max(0)
    merged = labels.copy()
    unlabelled = labels == IGNORE
    merged[unlabelled & (probability >= SURE)] = likeliest[unlabelled & (probability >= SURE)]
    for name in ("Road", "Pavement"):
        merged[(labels == index(name)) & (probabilities[index(name)] < GROUND)] = IGNORE
    for name in ("Sky", "Tree", "Car"):
        merged[(labels == index(name)) & (probabilities[index(name)] < RULED_OUT)] = IGNORE
    merged[(labels == index("Tree")) & (probabilities[index("Sky")] >= SKY)] = index("Sky")
    merged[outlines(labels) & (merged != likeliest)] = IGNORE
    lacking = [index(name) for name in LACKING]
    merged[probabilities[lacking].sum(0) >= SUSPECTED] = IGNORE
    sure = np.isin(likeliest, lacking) & (probability >= SURE)
    merged[sure] = likeliest[sure]
    return merged


class Teacher:
    """An ONNX file as a function: (H, W, 3) uint8 RGB -> (11, H, W) probabilities."""

    def __init__(self, path: Path):
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes
            raise UserError(f"--teacher {path}: {str(error).splitlines()[0]}") from error
        self.input = self.session.get_inputs()[0]
        self.size = self.input.shape[2:]
        output = self.session.get_outputs()[0].shape
        if not all(isinstance(side, int) for side in self.size) or output[1:2] != [len(CAMVID.classes)]:
            raise UserError(
                f"--teacher {path}: expected (1, 3, H, W) of fixed size -> (1, {len(CAMVID.classes)}, H, W), "
                f"got {self.input.shape} -> {output}"
            )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        image = v2.functional.resize(image, list(self.size), antialias=True)
        (logits,) = self.session.run(None, {self.input.name: image.numpy()})
        whole = functional.interpolate(torch.from_numpy(logits), pixels.shape[:2], mode="bilinear")
        return whole.softmax(1)[0].numpy()


def merge_pair(image: Path, label: Path, teacher: Teacher) -> np.ndarray:
    """``merge`` of the files of a photograph. Returns (H, W) uint8 train labels."""
    pixels, colors = read_rgb(image), read_rgb(label)  # the colors have 16 bits, exact multiples
    if pixels.shape != colors.shape:
        raise UserError(f"{label}: {colors.shape[:2]} pixels, those of {image} are {pixels.shape[:2]}")
    try:
        labels = labels_of_colors(colors)
    except ValueError as error:
        raise UserError(f"{label}: {error}") from None
    return merge(labels, teacher(pixels))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of the photographs")
    parser.add_argument("--labels", type=Path, required=True, help="folder of their label images, in colors")
    parser.add_argument("--teacher", type=Path, required=True, help="ONNX file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the label images that are written")
    args = parser.parse_args(arguments)
    require_new(args.out)
    teacher = Teacher(args.teacher)
    pairs = require_pairs(args.images, args.labels, CAMVID)
    merged = ((label.relative_to(args.labels), merge_pair(image, label, teacher)) for image, label in pairs)
    write_labels(args.out, merged, len(pairs))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
