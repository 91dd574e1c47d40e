"""Draws the picture of patches of docs/descriptor.md: the drawn street, turned, tilted and in another light.

python docs/images/draw_patches.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from hardnet_suite.cli import main
from hardnet_suite.data.hpatches import read_sequence_strips
from hardnet_suite.visualization.canvas import save_image

FOLDER = Path(__file__).resolve().parent
STREET = FOLDER.parents[1] / "hardnet_suite/data/samples/street.jpg"
POINTS, GAP = 14, 3
ROWS = (("ref",), ("e1", "e3", "e5"), ("h1", "h3", "h5"), ("t1", "t3", "t5"))


def sheet(strips: dict[str, np.ndarray]) -> np.ndarray:
    """A column per point, a row per strip; more space between the levels."""
    side = strips["ref"].shape[-1]
    blocks = []
    for names in ROWS:
        for name in names:
            row = np.full((side + GAP, POINTS * (side + GAP)), 255, np.uint8)
            for number, patch in enumerate(strips[name][:POINTS]):
                left = number * (side + GAP)
                row[:side, left : left + side] = patch
            blocks.append(row)
        blocks.append(np.full((2 * GAP, row.shape[1]), 255, np.uint8))
    return np.concatenate(blocks[:-1])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        (images / STREET.name).write_bytes(STREET.read_bytes())
        out = Path(folder) / "patches"
        main(["make-patches", "--warp", str(images), "--only", "hpatches", "--out", str(out), "--seed", "0"])
        (sequence,) = (out / "hpatches").iterdir()
        grey = sheet(read_sequence_strips(sequence))
    save_image(FOLDER / "patches.png", np.repeat(grey[..., None], 3, axis=2))
