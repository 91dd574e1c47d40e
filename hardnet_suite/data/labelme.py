"""The one reading of LabelMe's JSON files, one per image, as boxes or as label masks.

The rules:

- Every JSON file of the folder and its subfolders that has ``shapes`` and ``imagePath`` belongs to the image
  that it names, relative to itself, or else to one of its own name beside it. An image without such a file
  has not been annotated, and is left out, which is told. The folders train, val and test are splits;
  without these all is train.
- A rectangle is its box. Of a polygon, circle or mask the bounding box is used, which is told; a polygon is
  also the outline of its box. Those of one label and one group_id are one object, but a rectangle, rotated or
  not, is one of its own. Points and lines have no area: they are dropped, and told.
- The points of a mask are its first and last pixel; where its PNG image is one pixel smaller, they end behind
  the last. An image of any other size is told, and the points are used.
- A shape with the flag ``difficult``, or as X-AnyLabeling writes it, counts neither way.
- Coordinates are pixels of the upright image. A stated size that differs from it is an error.
- In masks, later shapes cover earlier ones, what no shape covers is the class background, and shapes
  called ``__ignore__`` are 255.
"""

from __future__ import annotations

import base64
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from hardnet_suite.data.boxes import (
    OUTLINES,
    Box,
    BoxData,
    BoxImage,
    BoxTuple,
    clip_box,
    images_beside,
    outline_bounds,
    shared_images,
    size_conflict,
    split_name,
    target_name,
    told_left_out,
)
from hardnet_suite.data.classes import is_class_name
from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.coco.values import as_flag, as_id
from hardnet_suite.data.files import is_file, is_path, read_bytes
from hardnet_suite.data.images import IMAGE_SUFFIXES, header_sizes, walk_files
from hardnet_suite.data.masks import IGNORED, IGNORED_CLASS, MaskData, MaskImage
from hardnet_suite.data.report import Finding, counted
from hardnet_suite.data.xml_files import number
from hardnet_suite.errors import UserError
from hardnet_suite.numeric import is_number

FORMAT = "LabelMe"
BACKGROUND = "background"
_BACKGROUNDS = frozenset({"background", "_background_", "__background__"})
_WITHOUT_AREA = frozenset({"point", "points", "line", "linestrip"})
_ROTATED = ("rotation", "oriented_rectangle")  # rectangles, by their corners
_LOOKED_AT = 20  # JSON files


@dataclass(frozen=True)
class _Shape:
    """A shape with an area: its class, kind, points in pixels, and the object that it is part of."""

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]
    group: int | str | None = None
    difficult: bool = False

    @property
    def corners(self) -> BoxTuple:
        """(x1, y1, x2, y2)."""
        if self.kind == "circle":
            (x, y), edge = self.points
            radius = math.dist((x, y), edge)
            return x - radius, y - radius, x + radius, y + radius
        xs, ys = zip(*self.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True)
class _LabelledFile:
    file: Path
    image: Path
    size: tuple[int, int]
    shapes: tuple[_Shape, ...]


def is_labelme(folder: Path) -> bool:
    """Whether one of the first JSON files of a folder is LabelMe's."""
    return any(map(_is_labelme_file, walk_files(folder, (".json",))[:_LOOKED_AT]))


def read_labelme(source: str | Path) -> BoxData:
    """The images and boxes of a folder of LabelMe's files, by the rules of this module.

    Raises:
        UserError: there are none, or a file cannot be used.
    """
    source = Path(source)
    findings: list[Finding] = []
    splits: dict[str, list[BoxImage]] = {}
    outlined = boxed = 0
    for split, annotation in _read(source, findings):
        boxes = []
        for parts in _objects(annotation.shapes):
            bbox, changes = clip_box(outline_bounds(part.corners for part in parts), annotation.size)
            where = f"{annotation.file.name}, {parts[0].name}"
            findings += [Finding("warning", kind, where, what) for kind, what in changes]
            outline = _outline(parts)
            outlined += bool(outline)
            boxed += not outline and parts[0].kind != "rectangle"
            if bbox is not None:
                boxes.append(Box(parts[0].name, bbox, any(part.difficult for part in parts), outline))
        name = target_name(annotation.image, source, split)
        image = BoxImage(annotation.image, name, annotation.size, tuple(boxes), annotation.file)
        splits.setdefault(split, []).append(image)
    for kind, count in ((OUTLINES, outlined), ("circles and masks", boxed)):
        if count:
            problem = f"{counted(count, 'object')}; bounding boxes are used"
            findings.append(Finding("warning", kind, "the data set", problem))
    findings += shared_images(splits)
    images = [image for members in splits.values() for image in members]
    folders = {folder for image in images for folder in (image.path.parent, image.annotation.parent)}
    return BoxData(source, FORMAT, None, splits, tuple(findings), frozenset(folders))


def read_labelme_masks(source: str | Path) -> MaskData:
    """The images and label masks of a folder of LabelMe's files, by the rules of this module.

    Raises:
        UserError: there are none, a file cannot be used, or there are more than 255 classes.
    """
    source = Path(source)
    findings: list[Finding] = []
    read = list(_read(source, findings))
    names = {shape.name for _, annotation in read for shape in annotation.shapes}
    classes = (BACKGROUND, *sorted(names - _BACKGROUNDS - {IGNORED_CLASS}))
    labels = {name: index for index, name in enumerate(classes)} | {IGNORED_CLASS: IGNORED}
    labels |= dict.fromkeys(_BACKGROUNDS, 0)
    splits: dict[str, list[MaskImage]] = {}
    for split, annotation in read:
        name = target_name(annotation.image, source, split)
        mask = _drawn(annotation, labels, findings)
        splits.setdefault(split, []).append(MaskImage(annotation.image, name, mask))
    findings += shared_images(splits)
    folders = {folder for _, item in read for folder in (item.image.parent, item.file.parent)}
    return MaskData(source, FORMAT, classes, None, splits, tuple(findings), frozenset(folders))


def _objects(shapes: tuple[_Shape, ...]) -> list[list[_Shape]]:
    """The shapes of each object; rectangles, rotated or not, are objects of their own."""
    objects: dict[object, list[_Shape]] = {}
    for index, shape in enumerate(shapes):
        alone = shape.group is None or shape.kind in ("rectangle", *_ROTATED)
        objects.setdefault(index if alone else (shape.name, shape.group), []).append(shape)
    return list(objects.values())


def _outline(parts: list[_Shape]) -> tuple[tuple[float, ...], ...]:
    if any(part.kind in ("rectangle", "circle", "mask") for part in parts):
        return ()
    return tuple(tuple(value for point in part.points for value in point) for part in parts)


def _is_labelme_file(path: Path) -> bool:
    try:
        content = read_bytes(path)
    except OSError:
        return False
    return b'"shapes"' in content and b'"imagePath"' in content


def _read(source: Path, findings: list[Finding]) -> Iterator[tuple[str, _LabelledFile]]:
    files = [path for path in walk_files(source, (".json",)) if _is_labelme_file(path)]
    if not files:
        raise UserError(f"{source} has no JSON file of LabelMe, with shapes and imagePath")
    known: dict[Path, Path] = {}
    named: list[Path] = []
    unnamed: list[Path] = []
    for path in files:
        annotation = _read_file(path, findings)
        other = known.setdefault(annotation.image, path)
        if other != path:
            raise UserError(f"{other} and {path} both annotate {annotation.image}: remove one of them")
        top = path.relative_to(source).parts[0] if path.parent != source else ""
        split = split_name(top)
        (unnamed if split is None else named).append(path)
        yield split or "train", annotation
    if named and unnamed:
        problem = f"{counted(len(unnamed), 'file')} in no folder train, val or test; read as train"
        findings.append(Finding("warning", "split", str(unnamed[0]), problem))
    left = images_beside(known, {image.parent for image in known})
    findings += told_left_out(left, "not annotated", "images without annotation file")


def _read_file(path: Path, findings: list[Finding]) -> _LabelledFile:
    content = read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise UserError(f"{path} has no list of shapes: expected LabelMe's JSON")
    image = _image_of(path, content.get("imagePath"))
    size = header_sizes(image)[1]
    if stated := size_conflict((_side(content, "imageWidth"), _side(content, "imageHeight")), size):
        raise UserError(
            "{}: the file says {}, but {} is {}×{} (upright): use the image that was annotated".format(
                path, stated, image, *size
            )
        )
    read = (_read_shape(shape, path, findings) for shape in shapes)
    return _LabelledFile(path, image, size, tuple(shape for shape in read if shape))


def _side(content: dict, key: str) -> float | None:
    """A stated side of the image, perhaps as text; None for what is no number."""
    value = content.get(key)
    return number(value) if isinstance(value, str) else value if is_number(value) else None


def _image_of(path: Path, named: Any) -> Path:
    if isinstance(named, str) and named:
        for text in (named, named.replace("\\", "/"), PureWindowsPath(named).name):
            if is_path(text) and is_file(path.parent / text):
                return Path(os.path.normpath(path.parent / text))
    beside = [
        file
        for file in sorted(path.parent.iterdir())
        if file.stem == path.stem and file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if len(beside) == 1:
        return beside[0]
    raise UserError(f"{path}: no image {named!r} beside it (image data inside of the file are not read)")


def _read_shape(shape: dict, path: Path, findings: list[Finding]) -> _Shape | None:
    """A shape with an area; None for others, which are told."""
    name, points, kind = shape.get("label"), shape.get("points"), shape.get("shape_type")
    where = f"{path.name}, {str(name)[:60]}"
    if kind in (None, ""):
        kind = "polygon"

    def tell(what: str, problem: str) -> None:
        findings.append(Finding("warning", what, where, problem))

    def drop(problem: str) -> None:
        tell("shape dropped", problem)

    if not is_class_name(name):
        return drop("it has no class name, or one with control characters")
    if isinstance(kind, str) and kind in _WITHOUT_AREA:
        return drop(f"a {kind} has no area")
    if kind not in ("polygon", "rectangle", "circle", "mask", *_ROTATED):
        return drop(f"shapes of the kind {str(kind)[:30]!r} are unknown")
    valid = isinstance(points, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(is_number, point)) for point in points
    )
    count = 2 if kind in ("rectangle", "circle", "mask") else None
    if not valid or (len(points) < 3 if count is None else len(points) not in (count, 4)):
        return drop(f"its points are not those of a {kind}")
    if kind == "circle" and len(points) != 2:
        return drop("its points are not those of a circle")
    flags = shape.get("flags")
    marks = (shape.get("difficult"), flags.get("difficult") if isinstance(flags, dict) else None)
    if (wrong := next((mark for mark in marks if as_flag(mark) is None), None)) is not None:
        tell("difficult", f"difficult is {str(wrong)[:60]!r}, read as not difficult; write false or true")
    group = as_id(shape.get("group_id"))
    if group is None and shape.get("group_id") not in (None, ""):
        tell("group", f"group_id is {str(shape['group_id'])[:60]!r}, no number or text; the shape is alone")
    corners = tuple((float(x), float(y)) for x, y in points)
    if kind == "mask":
        corners = _mask_corners(corners, shape.get("mask"), tell)
    return _Shape(name, kind, corners, group, difficult=any(map(as_flag, marks)))


def _mask_corners(
    points: tuple[tuple[float, float], ...], image: Any, tell: Callable[[str, str], None]
) -> tuple[tuple[float, float], ...]:
    """The first corner of a mask, and the one behind its last pixel."""
    (left, *_, right), (top, *_, bottom) = (sorted(values) for values in zip(*points, strict=True))
    width, height = right - left, bottom - top
    stated = None if image is None else _png_size(image)
    if stated != (round(width), round(height)):
        width, height = width + 1, height + 1
        if image is not None and stated != (round(width), round(height)):
            size = "is no PNG image" if stated is None else "is of {}×{} pixels".format(*stated)
            tell("mask", f"its mask {size}, its points span {width:g}×{height:g}; these are used")
    return (left, top), (left + width, top + height)


def _png_size(text: Any) -> tuple[int, int] | None:
    """(width, height) of a PNG image in base64, from its header; None where it is none."""
    try:
        start = base64.b64decode(text[:64] if isinstance(text, str) else "")
    except ValueError:
        return None
    if start[:8] != b"\x89PNG\r\n\x1a\n" or len(start) < 24:
        return None
    width, height = struct.unpack(">II", start[16:24])
    return width, height


def _drawn(annotation: _LabelledFile, labels: dict[str, int], findings: list[Finding]) -> np.ndarray:
    """The label mask of an image, (H, W) uint8; shapes that are cut or have no pixel are told."""
    mask = Image.new("L", annotation.size, 0)
    pen = ImageDraw.Draw(mask)
    for shape in annotation.shapes:
        label = labels[shape.name]
        if shape.kind == "mask":
            raise UserError(f"{annotation.file}: shapes of the kind mask are boxes here: convert to coco")
        if shape.kind == "circle":
            pen.ellipse(shape.corners, fill=label)
        elif shape.kind == "rectangle":
            pen.rectangle(shape.corners, fill=label)
        else:
            pen.polygon(shape.points, fill=label)
        where = f"{annotation.file.name}, {shape.name}"
        if not _is_drawn(mask, shape.corners, label):
            problem = "it has no pixel in the image of {}×{}".format(*annotation.size)
            findings.append(Finding("warning", "shape dropped", where, problem))
            continue
        _, changes = clip_box(shape.corners, annotation.size)
        findings += [
            Finding("warning", "shape cut", where, what) for kind, what in changes if kind == "box cut"
        ]
    return np.asarray(mask)


def _is_drawn(mask: Image.Image, corners: BoxTuple, label: int) -> bool:
    """Whether a shape that was just drawn has a pixel in the image, as one just beyond an edge may."""
    left, top, right, bottom = corners
    width, height = mask.size
    if right < -1 or bottom < -1 or left > width or top > height:
        return False
    first = min(max(0, math.floor(left)), width - 1), min(max(0, math.floor(top)), height - 1)
    behind = max(1, min(width, math.ceil(right) + 1)), max(1, min(height, math.ceil(bottom) + 1))
    return mask.crop((*first, *behind)).histogram()[label] > 0
