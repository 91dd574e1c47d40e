"""The image files of a COCO annotation file: which are missing, and the sizes of the others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from hardnet_suite.data.coco.records import CocoImage
from hardnet_suite.data.files import folder_entries, is_file
from hardnet_suite.data.images import header_sizes
from hardnet_suite.data.report import Finding
from hardnet_suite.errors import UserError


def missing_images(images: Iterable[CocoImage], folder: str | Path) -> list[CocoImage]:
    """The images whose file does not exist; each folder is listed once.

    Asking a network drive for each of 100 000 files would take minutes.
    """
    named = [image for image in images if image.file_name is not None]
    listed = _list_files(Path(folder), {os.path.dirname(image.file_name) for image in named})
    # names may be spelt otherwise than listed ("a//1.jpg", capitals on some systems): hence the question
    return [
        image
        for image in named
        if image.file_name not in listed and not is_file(Path(folder, image.file_name))
    ]


def with_slashes(images: Sequence[CocoImage], folder: str | Path) -> tuple[list[CocoImage], list[Finding]]:
    """The images, Windows' backslashes in names replaced by / where that file exists; the findings."""
    renamed, findings = [], []
    for image in images:
        if "\\" in (image.file_name or "") and not is_file(Path(folder, image.file_name)):
            name = os.path.normpath(image.file_name.replace("\\", "/"))
            if is_file(Path(folder, name)):
                problem = f"file_name {image.file_name!r} is read as {name!r}"
                findings.append(Finding("warning", "backslash in file name", f"image {image.id}", problem))
                image = image._replace(file_name=name)
        renamed.append(image)
    return renamed, findings


def with_sizes(images: Sequence[CocoImage], folder: str | Path) -> list[CocoImage]:
    """The images, those of no stated size with the size of their file, if it is an image."""
    unknown = [image for image in images if image.width is None and image.file_name is not None]

    def read(image: CocoImage) -> CocoImage:
        try:
            width, height = _sizes(Path(folder, image.file_name))[1]
        except (UserError, OSError, ValueError):  # told by the check of the files
            return image
        return image._replace(width=width, height=height)

    with ThreadPoolExecutor(8) as pool:
        known = dict(zip(unknown, pool.map(read, unknown), strict=True))
    return [known.get(image, image) for image in images]


def wrong_sizes(images: Sequence[CocoImage], folder: str | Path) -> list[Finding]:
    """The images of another size than stated, see ``wrong_size``.

    Raises:
        UserError: a file that is not an image.
    """
    with ThreadPoolExecutor(8) as pool:
        return list(filter(None, pool.map(lambda image: wrong_size(image, folder), images)))


def wrong_size(image: CocoImage, folder: str | Path) -> Finding | None:
    """A finding if the stated size of an image is not that of the upright image; reads its header.

    Args:
        image: the image; None is returned for one without a file name.
        folder: the folder of the files.

    Raises:
        UserError: the file is not an image.
    """
    if image.file_name is None:
        return None
    path, stated = Path(folder, image.file_name), (image.width, image.height)
    stored, upright = _sizes(path)
    if image.width is None or stated == upright:
        return None
    problem = "{}: the file says {}×{}, the image is {}×{}".format(path, *stated, *upright)
    if stated == stored:
        problem += (
            " once it is turned upright by its EXIF orientation; store it upright, or write its boxes and "
            "its size for the upright image"
        )
    else:
        problem += "; correct width and height, or the file"
    return Finding("error", "image size differs", f"image {image.id}", problem)


def _sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return header_sizes(path)  # which raises the error
    return _sizes_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2**18)  # a training reads the headers twice: for what it requires and for its log
def _sizes_of(path: Path, time: int, length: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return header_sizes(path)


def _list_files(folder: Path, parts: Iterable[str]) -> set[str]:
    files = set()
    for part in parts:
        with contextlib.suppress(OSError, ValueError):
            entries = folder_entries(os.path.join(folder, part))
            files.update(os.path.join(part, entry.name) for entry in entries if entry.is_file())
    return files
