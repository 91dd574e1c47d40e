"""The one reading of CVAT's export "CVAT for images 1.1": the boxes and polygons of an annotations.xml.

The rules:

- Classes are the labels of ``<meta>``, in their order, and then those that objects name beyond them.
- The images are in images/SUBSET/, images/ or beside the XML file. A ``subset`` is a split, without one or in
  "default" an image is of the split that its first folder names, else of train. All images that the file
  names are read; one without objects is a background image. Others beside them are left out, which is told.
- A box is its box. Of a polygon, ellipse, rotated box or mask the bounding box is used, which is told; a
  polygon is also the outline of its box. Those of one label and one group are one object, but a box, rotated
  or not, is one of its own. Points, polylines, cuboids, skeletons and tags are dropped, and told.
- Coordinates are pixels of the upright image. A stated size that differs from it is an error.
- An object with the attribute ``difficult``, ``iscrowd`` or ``is_crowd`` counts neither way
  where its value is true, yes or 1; one that is neither that nor false, no, 0 or empty is told.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

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
    upright_sizes,
)
from hardnet_suite.data.classes import is_class_name
from hardnet_suite.data.coco.values import as_flag
from hardnet_suite.data.files import is_file, is_path
from hardnet_suite.data.report import Finding, counted
from hardnet_suite.data.xml_files import number, read_xml
from hardnet_suite.errors import UserError
from hardnet_suite.names import first_repeated

FORMAT = "CVAT"
FILE = "annotations.xml"
_START = 4096  # bytes in which the file shows its root
_MARKS = frozenset({"difficult", "iscrowd", "is_crowd"})
_OTHER = frozenset({"points", "polyline", "cuboid", "skeleton", "tag"})


@dataclass(frozen=True)
class _Area:
    """A shape with an area.

    Attributes:
        name: its class.
        corners: (x1, y1, x2, y2).
        polygon: its points, of a polygon or a rotated box; else empty.
        is_box: it is a box, rotated or not.
        group: its number, "" or "0" without one.
        difficult: it counts neither way.
    """

    name: str
    corners: BoxTuple
    polygon: tuple[float, ...]
    is_box: bool
    group: str
    difficult: bool


def is_cvat_xml(path: Path) -> bool:
    """Whether a file begins like such an export."""
    try:
        with path.open("rb") as file:
            return b"<annotations" in file.read(_START)
    except OSError:
        return False


def subset_split(subset: str) -> str | None:
    """The split that a subset of CVAT is; None for "default", as CVAT calls that of images without one."""
    return None if subset.lower() in ("", "default") else split_name(subset) or subset


def read_cvat_boxes(source: str | Path) -> BoxData:
    """The images and boxes of an export, by the rules of this module.

    Args:
        source: its folder, or its XML file.

    Raises:
        UserError: the file is missing or not such an export, or an image is missing or of another size.
    """
    source = Path(source)
    file = source / FILE if source.is_dir() else source
    root = read_xml(file)
    if root.tag != "annotations":
        raise UserError(f"{file}: expected CVAT's <annotations>, got <{root.tag}>")
    if root.find("track") is not None:
        raise UserError(f'{file} has tracks of a video: export it as "CVAT for images 1.1"')
    entries = root.findall("image")
    if not entries:
        raise UserError(f"{file} names no image")
    places = [_place(entry, file) for entry in entries]
    twice = first_repeated(path for _, path in places)
    if twice is not None:
        raise UserError(f"{file} names {twice} twice: keep one <image>")
    sizes = upright_sizes([path for _, path in places])
    findings: list[Finding] = []
    tally: Counter[str] = Counter()
    labels = (label for label in root.iterfind("meta//label") if not label.findtext("parent"))
    classes = dict.fromkeys(filter(is_class_name, (label.findtext("name") for label in labels)))
    splits: dict[str, list[BoxImage]] = {}
    for entry, (split, path) in zip(entries, places, strict=True):
        if stated := size_conflict((number(entry.get("width")), number(entry.get("height"))), sizes[path]):
            raise UserError(
                "{}: the file says {}, but {} is {}×{} (upright): use the image that was annotated".format(
                    file, stated, path, *sizes[path]
                )
            )
        boxes = [*_boxes(entry, sizes[path], findings, tally)]
        classes |= dict.fromkeys(box.name for box in boxes)
        name = target_name(path, file.parent, split)
        splits.setdefault(split, []).append(BoxImage(path, name, sizes[path], tuple(boxes), file))
    for kind in (OUTLINES, "ellipses, rotated boxes and masks"):
        if tally[kind]:
            problem = f"{counted(tally[kind], 'object')}; bounding boxes are used"
            findings.append(Finding("warning", kind, "the data set", problem))
    findings += shared_images(splits)
    beside = images_beside((path for _, path in places), {path.parent for _, path in places})
    findings += told_left_out(beside, f"that {file.name} does not name")
    folders = frozenset({file.parent, *(path.parent for _, path in places)})
    return BoxData(source, FORMAT, tuple(classes) or None, splits, tuple(findings), folders)


def _place(entry: ElementTree.Element, file: Path) -> tuple[str, Path]:
    """The split of an image, and its file."""
    name, subset = entry.get("name") or "", entry.get("subset") or ""
    for text in dict.fromkeys((name, name.replace("\\", "/"))):
        for folder in dict.fromkeys((f"images/{subset}", "images/default", "images", subset, ".")):
            path = Path(os.path.normpath(file.parent / folder / text))
            if name and is_path(str(path)) and is_file(path):
                return subset_split(subset) or split_name(text.split("/")[0]) or "train", path
    inner = f"images/{subset}" if subset else "images"
    raise UserError(
        f"{file}: no image {name[:200]!r} in {file.parent / inner}: export with images, or copy them there"
    )


def _boxes(
    entry: ElementTree.Element, size: tuple[int, int], findings: list[Finding], tally: Counter[str]
) -> Iterator[Box]:
    image = (entry.get("name") or "")[:60]
    objects: dict[object, list[_Area]] = {}
    for index, element in enumerate(entry):
        part = _area_of(element, f"{image}, {(element.get('label') or element.tag)[:60]}", findings)
        if part is not None:
            alone = part.is_box or part.group in ("", "0")
            objects.setdefault(index if alone else (part.name, part.group), []).append(part)
    for parts in objects.values():
        bbox, changes = clip_box(outline_bounds(part.corners for part in parts), size)
        name = parts[0].name
        findings += [Finding("warning", kind, f"{image}, {name}", what) for kind, what in changes]
        outline = tuple(part.polygon for part in parts) if all(part.polygon for part in parts) else ()
        if outline or not parts[0].is_box:
            tally[OUTLINES if outline else "ellipses, rotated boxes and masks"] += 1
        if bbox is not None:
            yield Box(name, bbox, any(part.difficult for part in parts), outline)


def _area_of(element: ElementTree.Element, where: str, findings: list[Finding]) -> _Area | None:
    """A shape with an area; None for others, which are told."""

    def drop(problem: str) -> None:
        findings.append(Finding("warning", "shape dropped", where, problem))

    kind, name = element.tag, element.get("label")
    if kind in _OTHER:
        return drop(f"a shape of the kind {kind} has no box")
    if kind not in ("box", "polygon", "ellipse", "mask"):
        return drop(f"shapes of the kind {kind[:30]!r} are unknown")
    if not is_class_name(name):
        return drop("it has no class name, or one with control characters")
    polygon: tuple[float, ...] = ()
    angle = number(element.get("rotation", "0"))
    try:
        if angle is None:
            raise ValueError
        if kind == "polygon":
            polygon = _points(element.get("points") or "")
            corners = outline_bounds([polygon])
        elif kind == "mask":
            left, top, width, height = _numbers(element, "left", "top", "width", "height")
            corners = left, top, left + width, top + height
        elif kind == "ellipse":
            x, y, rx, ry = _numbers(element, "cx", "cy", "rx", "ry")
            corners = x - rx, y - ry, x + rx, y + ry
        else:
            corners = _numbers(element, "xtl", "ytl", "xbr", "ybr")
    except ValueError:
        return drop(f"its coordinates are not those of a {kind}")
    if angle % 360 and kind == "box":
        polygon = _rotated(corners, angle)
        corners = outline_bounds([polygon])
    elif angle % 360 and kind == "ellipse":
        corners = _rotated_ellipse(corners, angle)
    attributes = (a for a in element.findall("attribute") if (a.get("name") or "").lower() in _MARKS)
    marks = [(attribute.text or "").strip() or None for attribute in attributes]
    if (wrong := next((mark for mark in marks if as_flag(mark) is None), None)) is not None:
        problem = f"difficult is {wrong[:60]!r}, read as not difficult; write false or true"
        findings.append(Finding("warning", "difficult", where, problem))
    difficult = any(map(as_flag, marks))
    return _Area(name, corners, polygon, kind == "box", element.get("group_id") or "", difficult)


def _numbers(element: ElementTree.Element, *names: str) -> tuple[float, ...]:
    values = tuple(number(element.get(name)) for name in names)
    if None in values:
        raise ValueError
    return values


def _points(text: str) -> tuple[float, ...]:
    """(x1, y1, x2, y2 …) of "x1,y1;x2,y2;…"."""
    pairs = [[number(value) for value in pair.split(",")] for pair in text.split(";")]
    if len(pairs) < 3 or any(len(pair) != 2 or None in pair for pair in pairs):
        raise ValueError
    return tuple(float(value) for pair in pairs for value in pair)


def _rotated(corners: BoxTuple, degrees: float) -> tuple[float, ...]:
    """The corners of a box that is turned clockwise around its centre."""
    x1, y1, x2, y2 = corners
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    ends = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    return tuple(
        value
        for a, b in ends
        for value in (x + (a - x) * cos - (b - y) * sin, y + (a - x) * sin + (b - y) * cos)
    )


def _rotated_ellipse(corners: BoxTuple, degrees: float) -> BoxTuple:
    """The bounding box of an ellipse in a box that is turned around its centre."""
    x1, y1, x2, y2 = corners
    x, y, rx, ry = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    width, height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return x - width, y - height, x + width, y + height
