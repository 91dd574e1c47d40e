"""Drawn scenes and views of them through homographies, to search among."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from hardnet_suite.data.shapes import draw_scene
from hardnet_suite.data.views import random_homography, warp_image

SIDE = 200


@cache
def drawn_scenes(count: int = 6) -> tuple[np.ndarray, ...]:
    """(SIDE, SIDE, 3) uint8 RGB each."""
    return tuple(np.array(draw_scene(3, index, size=SIDE).image) for index in range(count))


@cache
def drawn_views(count: int = 6, seed: int = 0) -> tuple[np.ndarray, ...]:
    """(SIDE, SIDE) uint8 grey, a view of each scene."""
    rng = np.random.default_rng(seed)
    grey = [np.array(Image.fromarray(scene).convert("L")) for scene in drawn_scenes(count)]
    return tuple(warp_image(image, random_homography(SIDE, SIDE, rng)) for image in grey)


def save_collection(folder: Path) -> Path:
    """The scenes as scene_0.png, …."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(drawn_scenes()):
        Image.fromarray(scene).save(folder / f"scene_{number}.png")
    return folder
