"""Draws the picture of matches of docs/descriptor.md: the drawn street, and the same tilted and darker.

python docs/images/draw_matches.py [--weights FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from hardnet_suite import match_images
from hardnet_suite.data.images import read_rgb
from hardnet_suite.visualization.canvas import save_image

FOLDER = Path(__file__).resolve().parent
STREET = FOLDER.parents[1] / "hardnet_suite/data/samples/street.jpg"


def tilted(image: np.ndarray) -> np.ndarray:
    """The image through a homography, with a gamma of 1.6."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * [width, height]
    places = np.array([[0.16, 0.02], [0.93, 0.16], [0.86, 0.80], [0.04, 0.97]]) * [width, height]
    homography = cv2.getPerspectiveTransform(corners.astype(np.float32), places.astype(np.float32))
    other = cv2.warpPerspective(image, homography, (width, height), borderValue=(235, 233, 226))
    return np.rint(255 * (other / 255) ** 1.6).astype(np.uint8)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", help="of the patch descriptor (default: those in the package)")
    street = read_rgb(STREET)
    matches = match_images(street, tilted(street), weights=parser.parse_args().weights, top_k=800)
    save_image(FOLDER / "matches.png", np.array(matches.draw()))
    print(matches.summary())
