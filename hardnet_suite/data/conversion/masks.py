"""Images with label masks as folders of images and label images."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from hardnet_suite.data.classes import require_lines
from hardnet_suite.data.conversion.places import places_by_split, unusual_splits
from hardnet_suite.data.conversion.tree import write_tree
from hardnet_suite.data.images import exif_orientation
from hardnet_suite.data.masks import MaskData, MaskReport
from hardnet_suite.data.segmentation.label_images import label_image
from hardnet_suite.data.segmentation.labels import ONE_CLASS_AND_IGNORED, LabelSet
from hardnet_suite.errors import UserError

_BACK = {6: 8, 8: 6}  # EXIF orientation -> that which undoes it, where it is another


def write_masks(data: MaskData, target: str | Path, *, link: bool = False) -> MaskReport:
    """Writes ``target``/images/SPLIT, labels/SPLIT and classes.txt, from which a segmentor can be trained.

    Label images are PNGs of mode P that hold class indices, in the colors of the data set, or else VOC's. A
    single class is 1, as everywhere in label images. They have the EXIF orientation of their image, by which
    readers that turn both, and readers that turn neither, find them aligned.

    Args:
        data: the images and masks.
        target: the folder to write to.
        link: create symbolic links to the images instead of copies.

    Raises:
        UserError: as of ``write_tree``; there are more than 255 classes, two images share a name, or
            classes.txt cannot hold the name of a class.
    """
    if len(data.classes) > 255:
        raise UserError(f"{data.source} has {len(data.classes)} classes, a label image holds up to 255")
    require_lines(data.classes, "classes.txt")
    contents: dict[str, str | bytes] = {"classes.txt": "".join(f"{name}\n" for name in data.classes)}
    images: dict[str, Path] = {}
    palette = tuple(data.palette or map(voc_color, range(len(data.classes))))
    stored = ONE_CLASS_AND_IGNORED if len(data.classes) == 1 else {}
    labels = LabelSet(str(data.source), data.classes, palette, stored)
    unusual = unusual_splits(data.splits, "folders of label images")
    for image, place, label in places_by_split(
        data.splits, images="images/{}", labels="labels/{}", suffix=".png"
    ):
        images[place] = image.path
        contents[label] = png(label_image(image.labels, labels), exif_orientation(image.path))
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


def png(image: Image.Image, orientation: int = 1) -> bytes:
    """An upright image as a PNG file, stored in an EXIF orientation."""
    exif = Image.Exif()
    if orientation != 1:
        exif[ExifTags.Base.Orientation] = _BACK.get(orientation, orientation)
        image.info["exif"] = exif.tobytes()
        image = ImageOps.exif_transpose(image)
        exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()
