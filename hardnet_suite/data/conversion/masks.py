"""Images with label masks as folders of images and label images."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

from PIL import Image

from hardnet_suite.data.conversion.tree import write_tree
from hardnet_suite.data.masks import MaskData, MaskReport
from hardnet_suite.errors import UserError


def write_masks(data: MaskData, target: str | Path, *, link: bool = False) -> MaskReport:
    """Writes ``target``/images/SPLIT, labels/SPLIT and classes.txt, from which a segmentor can be trained.

    Label images are PNGs of 8 bits that hold class indices, in the colors of the data set where it has some.

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
    for split, members in data.splits.items():
        for image in members:
            name = image.name.removeprefix(f"{split}/")
            place = f"images/{split}/{name}"
            label = f"labels/{split}/{PurePosixPath(name).with_suffix('.png')}"
            if label in contents:
                raise UserError(f"{image.path} and another image would share {label}: rename one of them")
            images[place] = image.path
            contents[label] = _png(image.labels, data.palette)
    write_tree(data, Path(target), contents, images, link=link)
    return MaskReport.of(data)


def _png(labels, palette: tuple[tuple[int, int, int], ...] | None) -> bytes:
    image = Image.fromarray(labels)
    if palette is not None:
        image.putpalette([value for color in palette for value in color])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
