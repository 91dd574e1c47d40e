"""Pairs of drawn images with a known homography, and small patch descriptors that match them."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import nn

from hardnet_suite.data.shapes import draw_scene
from hardnet_suite.networks import DescriptorArch, build_network

Layers = tuple[tuple[int, int], ...]

# turned by 20 degrees, reduced by a tenth, and tilted
HOMOGRAPHY = np.array([[0.846, -0.308, 60.0], [0.308, 0.846, -30.0], [2e-4, -1e-4, 1.0]])


def small_descriptor(seed: int = 0, layers: Layers = ((8, 1), (16, 2), (16, 2))) -> nn.Module:
    """Random but orthogonal filters of a small network: enough to match drawn images."""
    arch = DescriptorArch(layers=layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_network("hardnet_descriptor", arch=arch).eval()


@cache
def _pair() -> tuple[np.ndarray, np.ndarray]:
    import cv2

    tiles = [np.array(draw_scene(0, index, size=160).image) for index in range(4)]
    image = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
    other = cv2.warpPerspective(image, HOMOGRAPHY, (320, 320), flags=cv2.INTER_AREA)
    return image, other


def drawn_pair() -> tuple[np.ndarray, np.ndarray]:
    """(320, 320, 3) uint8 RGB: four scenes, and the same through ``HOMOGRAPHY``."""
    image, other = _pair()
    return image.copy(), other.copy()


def corner_error(matrix: np.ndarray) -> float:
    """Mean distance in pixels of the corners of the drawn image from where ``HOMOGRAPHY`` takes them."""
    corners = np.array([[0, 0, 1], [319, 0, 1], [319, 319, 1], [0, 319, 1]]).T
    places = [(h @ corners)[:2] / (h @ corners)[2] for h in (matrix, HOMOGRAPHY)]
    return float(np.linalg.norm(places[0] - places[1], axis=0).mean())


def save_pair(folder) -> tuple[str, str]:
    """The drawn pair as files a.png and b.png."""
    paths = [str(folder / name) for name in ("a.png", "b.png")]
    for path, image in zip(paths, drawn_pair(), strict=True):
        Image.fromarray(image).save(path)
    return paths[0], paths[1]
