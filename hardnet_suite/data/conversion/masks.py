"""Images with label masks as folders of images and label images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from hardnet_suite.data.conversion.places import places_by_split, unusual_splits
from hardnet_suite.data.conversion.tree import write_tree
from hardnet_suite.data.masks import MaskData, MaskReport
from hardnet_suite.errors import UserError


def write_masks(data: MaskData, target: str | Path, *, link: bool = False) -> MaskReport:
    """Writes ``target``/images/SPLIT, labels/SPLIT and classes.txt, from which a segmentor can be trained.

    Label images are PNGs of mode P that hold class indices, in the colors of the data set, or else VOC's.

    Args:
        data: the images and masks.
        target: the folder to write to.
        link: create symbolic links to the images instead of copies.

    Raises:
        UserError: as of ``write_tree``; there are more than 255 classes, or two images share a name.
    """
    if len(data.classes) > 255:
        raise UserError(f"{data.source} has {len(data.classes)} classes, a label image holds up to 255")
    contents: dict[str, str | bytes] = {"classes.txt": "".join(f"{name}\n" for name in data.classes)}
    images: dict[str, Path] = {}
    palette = data.palette or [voc_color(index) for index in range(len(data.classes))]
    unusual = unusual_splits(data.splits, "folders of label images")
    for image, place, label in places_by_split(
        data.splits, images="images/{}", labels="labels/{}", suffix=".png"
    ):
        images[place] = image.path
        contents[label] = png(image.labels, palette)
    write_tree(data, Path(target), contents, images, link=link)
    return MaskReport.of(replace(data, findings=(*data.findings, *unusual)))


def voc_color(index: int) -> tuple[int, int, int]:
    """VOC's color of a class; those of 0 to 255 differ."""
    red = green = blue = 0
    for place in range(8):
        bits = index >> 3 * place
        red |= (bits & 1) << 7 - place
        green |= (bits >> 1 & 1) << 7 - place
        blue |= (bits >> 2 & 1) << 7 - place
    return red, green, blue


def png(pixels: np.ndarray, palette: Sequence[Sequence[int]] | None = None) -> bytes:
    """A PNG of (H, W) or (H, W, 3) uint8; with a palette, of its indices."""
    image = Image.fromarray(pixels)
    if palette is not None:
        colors = np.zeros((256, 3), np.uint8)  # all 256: for fewer, PNG takes fewer bits, and cuts 255
        colors[: len(palette)] = palette
        image.putpalette(colors.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
