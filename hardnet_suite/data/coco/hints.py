"""What is likely behind annotations that do not fit their images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

from hardnet_suite.data.coco.records import CocoBox, CocoImage
from hardnet_suite.data.files import is_file, is_path
from hardnet_suite.data.report import Finding

_SHARE = 0.1  # of the boxes must leave their images before corners are suspected


def missing_image_cure(file_name: str, folder: Path, *, in_config: bool = True) -> str:
    """What to do about an image that does not exist, by how its name is spelt; a clause in the imperative.

    Args:
        file_name: as in the annotations.
        folder: the folder that it is relative to.
        in_config: whether a config names the folder, as its data_prefix.
    """
    if not is_path(file_name):
        return "correct file_name, which is longer than any path"
    if "\\" in file_name:
        parts = PureWindowsPath(file_name).parts
        endings = (os.path.join(*parts[start:]) for start in range(len(parts)))
        ending = next((ending for ending in endings if is_file(folder / ending)), None)
        if ending is not None:
            return f"write file_name as {ending!r}, with / in place of \\"
    parts = Path(file_name).parts
    for start in range(1, len(parts)):
        ending = os.path.join(*parts[start:])
        if is_file(folder / ending):
            twice = os.path.join(*parts[:start])
            if not in_config:
                return f"there is {ending}: take {twice!r} out of file_name"
            return f"data_prefix and file_name both contain {twice!r}: shorten one"
    parent, name = os.path.split(file_name)
    try:
        names = sorted(os.listdir(folder / parent))
    except (OSError, ValueError):
        names = []
    same = [other for other in names if other.lower() == name.lower()]
    if same:
        return f"the folder has {same[0]!r}, which differs in capitals: rename one"
    stem = os.path.splitext(name)[0].lower()
    same = [other for other in names if os.path.splitext(other)[0].lower() == stem]
    if same:
        return f"the folder has {same[0]!r}, of another suffix: correct file_name"
    return f"add the files, or correct {'data_prefix or ' if in_config else ''}file_name"


def suspect_corners(images: Iterable[CocoImage], boxes: Sequence[CocoBox]) -> list[Finding]:
    """A warning if the boxes are likely (x1, y1, x2, y2): many leave their images as (x, y, width, height),
    and as corners every one fits.

    Args:
        images: the images of a file.
        boxes: its usable boxes.
    """
    sizes = {image.id: (image.width, image.height) for image in images if image.width and image.height}
    leaving = measured = 0
    for box in boxes:
        if box.image_id not in sizes:
            continue
        (width, height), (x, y, third, fourth) = sizes[box.image_id], box.bbox
        if not (0 <= x < third <= width + 1 and 0 <= y < fourth <= height + 1):
            return []
        measured += 1
        leaving += x + third > width + 1 or y + fourth > height + 1
    if not measured or leaving < _SHARE * measured:
        return []
    problem = (
        f"of {measured}, {leaving} leave their images, but all fit as corners (x1, y1, x2, y2); COCO's are "
        "(x, y, width, height)"
    )
    return [Finding("warning", "boxes like corners", "all boxes", problem)]
