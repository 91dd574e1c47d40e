"""The one reading of CVAT's export "Segmentation mask 1.1": colour masks, their colours in labelmap.txt.

The rules:

- ``labelmap.txt`` has a line ``name:red,green,blue::`` per class, in the order of the labels; lines that
  begin with # are comments. A color that is not listed is an error, as are transparent pixels. Pixels of
  ``__ignore__`` are 255.
- The masks are SegmentationClass/NAME.png; the images are in JPEGImages/ or images/, or beside labelmap.txt.
- The lists in ImageSets/Segmentation are the splits, "default" is train; without lists all is train. An
  image without a mask is left out, as are images and masks that no list names; each is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from hardnet_suite.data.boxes import shared_images, told_left_out
from hardnet_suite.data.classes import class_names
from hardnet_suite.data.cvat import subset_split
from hardnet_suite.data.files import by_stem, normal_name, read_text
from hardnet_suite.data.images import IMAGE_SUFFIXES, header_sizes, walk_files
from hardnet_suite.data.masks import IGNORED, IGNORED_CLASS, MaskData, MaskImage
from hardnet_suite.data.report import Finding
from hardnet_suite.data.segmentation.label_images import read_colors
from hardnet_suite.errors import UserError

FORMAT = "CVAT"
_MASKS = "SegmentationClass"


def is_cvat(folder: Path) -> bool:
    """Whether a folder is such an export."""
    return (folder / "labelmap.txt").is_file() and (folder / _MASKS).is_dir()


def read_cvat(source: str | Path) -> MaskData:
    """The images and label masks of an export, by the rules of this module.

    Raises:
        UserError: files are missing or broken, or a color is not in labelmap.txt.
    """
    source = Path(source)
    if not is_cvat(source):
        raise UserError(f"{source} has no labelmap.txt and {_MASKS}/: expected CVAT's Segmentation mask 1.1")
    colors = _labelmap(source / "labelmap.txt")
    names = tuple(name for name in colors.values() if name != IGNORED_CLASS)
    masks = by_stem(walk_files(source / _MASKS, (".png",)), source / _MASKS)
    images = _images(source)
    findings: list[Finding] = []
    splits: dict[str, list[MaskImage]] = {}
    entries = [*_entries(source, masks)]
    for split, name in entries:
        if name not in masks:
            findings.append(Finding("warning", "image without mask", name, f"is in {split}; left out"))
            continue
        if name not in images:
            raise UserError(
                f"no image {name} in {source}/JPEGImages, {source}/images or {source}: export with images, "
                "or copy them there"
            )
        mask, image = _only(masks[name], name, "masks"), _only(images[name], name, "images")
        labels = _labels(mask, colors)
        size = header_sizes(image)[1]
        if size != labels.shape[::-1]:
            raise UserError(
                "{} is {}×{}, but its image {} is {}×{}".format(mask, *labels.shape[::-1], image, *size)
            )
        splits.setdefault(split, []).append(MaskImage(image, f"{name}{image.suffix}", labels))
    if not splits:
        raise UserError(f"{source}/{_MASKS} holds no mask")
    named = {name for _, name in entries}
    left = [path for name, paths in masks.items() if name not in named for path in paths]
    findings += told_left_out(left, "that no list names", "masks left out")
    left = [path for name, paths in images.items() if name not in named for path in paths]
    findings += told_left_out(left, "that no list names" if left and _lists(source) else "without a mask")
    findings += shared_images(splits)
    paths = chain(*masks.values(), *images.values())
    folders = {source, source / _MASKS, *(path.parent for path in paths)}
    palette = tuple(color for color, name in colors.items() if name != IGNORED_CLASS)
    return MaskData(source, FORMAT, names, palette, splits, tuple(findings), frozenset(folders))


def _labelmap(path: Path) -> dict[tuple[int, int, int], str]:
    """Color -> class, in the order of the file."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; save it as UTF-8 text") from None
    colors: dict[tuple[int, int, int], str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            color = tuple(int(value) for value in rest.split(":")[0].split(","))
        except ValueError:
            color = ()
        if len(color) != 3 or not all(0 <= value <= 255 for value in color):
            raise UserError(f"{path}, line {number}: expected name:red,green,blue::, got {line[:60]!r}")
        if color in colors:
            raise UserError(f"{path}: {colors[color]} and {name} have one color: give each its own")
        colors[color] = name.strip()
    class_names(list(colors.values()), str(path))
    count = len(colors) - (IGNORED_CLASS in colors.values())
    if not 1 <= count <= 255:
        raise UserError(f"{path} has {count} classes, expected 1 to 255")
    return colors


def _only(paths: Sequence[Path], name: str, kind: str) -> Path:
    """The file of a name, which stands for one."""
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        raise UserError(f"{name} stands for several {kind} in {paths[0].parent}, {names}: keep one of them")
    return paths[0]


def _images(source: Path) -> dict[str, list[Path]]:
    """Path without suffix -> images."""
    for folder in (source / "JPEGImages", source / "images"):
        if folder.is_dir():
            return by_stem(walk_files(folder, IMAGE_SUFFIXES), folder)
    own = [path for path in sorted(source.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    return by_stem(own, source)


def _lists(source: Path) -> list[Path]:
    return sorted((source / "ImageSets" / "Segmentation").glob("*.txt"))


def _entries(source: Path, masks: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(split, name) of each image."""
    lists = _lists(source)
    seen = set()  # the lists "default" and "train" are one split
    for path in lists:
        split = subset_split(path.stem) or "train"
        try:
            lines = read_text(path).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}; save it as UTF-8 text") from None
        for name in map(normal_name, filter(None, map(str.strip, lines))):
            if (split, name) not in seen:
                seen.add((split, name))
                yield split, name
    if not lists:
        yield from (("train", name) for name in masks)


def _labels(path: Path, colors: dict[tuple[int, int, int], str]) -> np.ndarray:
    """(H, W) uint8 class indices of a colour mask."""
    pixels = read_colors(path).astype(np.uint32)
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    classes = [name for name in colors.values() if name != IGNORED_CLASS]
    known = {
        (red << 16) | (green << 8) | blue: IGNORED if name == IGNORED_CLASS else classes.index(name)
        for (red, green, blue), name in colors.items()
    }
    values, inverse = np.unique(codes, return_inverse=True)
    for value in values.tolist():
        if value not in known:
            color = value >> 16, (value >> 8) & 255, value & 255
            raise UserError(f"{path} has the color {color}, which labelmap.txt does not list")
    table = np.array([known[value] for value in values.tolist()], np.uint8)
    return table[inverse].reshape(codes.shape)
