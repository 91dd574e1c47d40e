"""One VOC annotation file: its <filename>, <size> and objects, and the boxes on the image they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from hardnet_suite.data.boxes import Box, size_conflict
from hardnet_suite.data.classes import is_class_name
from hardnet_suite.data.coco.values import as_flag
from hardnet_suite.data.images import image_size, stored_size
from hardnet_suite.data.report import Finding
from hardnet_suite.data.xml_files import number, read_xml
from hardnet_suite.errors import UserError

_ENDS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """An <object> as the file states it: ``ends`` is (xmin, ymin, xmax, ymax), None where not a number."""

    name: str
    ends: tuple[float | None, ...]
    difficult: str
    has_box: bool


@dataclass(frozen=True)
class Annotation:
    """The content of an annotation file; ``size`` is (width, height), None for a side that is not stated."""

    path: Path
    filename: str
    size: tuple[int | None, int | None]
    objects: tuple[VocObject, ...]


def read_annotation(path: Path) -> Annotation:
    """Reads a VOC annotation file, in any namespace and any encoding that it declares.

    Raises:
        UserError: the file cannot be read or decoded, is not VOC's XML, or declares a document type.
    """
    root = read_xml(path)
    if root.tag != "annotation":
        raise UserError(f"{path}: expected VOC's <annotation>, got <{root.tag}>; convert it to VOC's format")
    _require_read_boxes(root, path)
    width, height = (_side(root.findtext(f"size/{side}")) for side in ("width", "height"))
    objects = tuple(
        VocObject(
            name=(element.findtext("name") or "").strip(),
            ends=tuple(number(element.findtext(f"bndbox/{end}")) for end in _ENDS),
            difficult=(element.findtext("difficult") or "").strip(),
            has_box=element.find("bndbox") is not None,
        )
        for element in root.findall("object")
    )
    return Annotation(path, (root.findtext("filename") or "").strip(), (width, height), objects)


def _side(text: str | None) -> int | None:
    """A side of an image as <size> states it; None for a text that no image can have, such as 0."""
    side = number(text)
    return int(side) if side is not None and side >= 1 else None


def _require_read_boxes(root: ElementTree.Element, path: Path) -> None:
    """UserError where a box lies elsewhere than VOC puts it, so that reading would lose it."""
    read = root.findall("object")
    for element in read:
        name = (element.findtext("name") or "").strip()
        if len(element.findall("bndbox")) > 1:
            raise UserError(f"{path}: the object {name!r} has several <bndbox>; write one <object> for each")
        for tag in ("name", "difficult", *(f"bndbox/{end}" for end in _ENDS)):
            values = element.findall(tag)
            if len(values) > 1 or any(len(value) for value in values):
                fault = "several" if len(values) > 1 else "elements in its"
                raise UserError(f"{path}: the object {name!r} has {fault} <{tag}>; keep one value")
    own = sum(element.find("bndbox") is not None for element in read)
    parts = sum(len(part.findall("bndbox")) for part in root.iter("part"))  # of a person: VOC's layout task
    boxes = sum(element.tag.lower() == "bndbox" for element in root.iter())
    if boxes > own + parts:
        raise UserError(
            f"{path} has {boxes - own - parts} <bndbox> that are not in an <object> directly below "
            "<annotation>, where VOC has them; convert it to VOC's format"
        )


def boxes_on_image(
    annotation: Annotation, image: Path, findings: list[Finding]
) -> tuple[tuple[int, int], list[Box]]:
    """The boxes of an annotation, in pixels of its image.

    Boxes refer to the upright image (EXIF orientation applied), which is what annotation tools show. VOC
    counts pixels from 1 and its boxes hold both ends, so x = xmin − 1 and width = xmax − x. Swapped corners
    are put in order, a box partly outside the image is cut, and one without extent, class name or place in
    the image is dropped; each is added to ``findings``.

    Args:
        annotation: as ``read_annotation`` returns it.
        image: path of the image.
        findings: the list to append to.

    Returns:
        (width, height) of the upright image, and its boxes.

    Raises:
        UserError: the image cannot be decoded, <size> contradicts it, boxes were drawn on the image as
            stored, or coordinates are fractions of the image.
    """
    size = image_size(image)
    _check_size(annotation, image, size)
    boxes = []
    for item in annotation.objects:
        where = f"{annotation.path.name}, {item.name or 'object'} {list(item.ends)}"
        bbox, changes = _bbox(item, size, annotation.path)
        findings += [Finding("warning", kind, where, what) for kind, what in changes]
        if bbox is not None:
            difficult = as_flag(item.difficult or None)
            if difficult is None:
                problem = f"difficult is {item.difficult[:60]!r}, read as not difficult; write 0 or 1"
                findings.append(Finding("warning", "difficult", where, problem))
            boxes.append(Box(item.name, bbox, bool(difficult)))
    return size, boxes


def _check_size(annotation: Annotation, image: Path, size: tuple[int, int]) -> None:
    stored = stored_size(image)
    upright = "{}×{}".format(*size)
    rotated = "{} is stored as {}×{} and displayed as {} (EXIF orientation)".format(image, *stored, upright)
    cure = "annotate the image as displayed, or save it without EXIF orientation"
    conflict = size_conflict(annotation.size, size)
    if annotation.size == (None, None):
        rightmost, lowest = (
            max((item.ends[axis] for item in annotation.objects if item.ends[axis] is not None), default=0)
            for axis in (2, 3)
        )
        if stored != size and (rightmost > size[0] or lowest > size[1]):
            raise UserError(
                f"{annotation.path}: boxes reach to ({rightmost}, {lowest}), but {rotated}; were they "
                f"drawn on the image as stored? {cure}"
            )
    elif conflict is not None:
        stated = f"{annotation.path}: <size> is {conflict}"
        if size_conflict(annotation.size, stored) is None:
            raise UserError(
                f"{stated}, but {rotated}: boxes must refer to the displayed image; {cure} (or correct "
                "<size> if the boxes fit the displayed image)"
            )
        raise UserError(
            f"{stated}, but {image} is {upright}: use the image that the boxes were drawn on, or correct "
            "<size> if the boxes fit this one"
        )


def _bbox(
    item: VocObject, size: tuple[int, int], path: Path
) -> tuple[tuple[float, float, float, float] | None, list[tuple[str, str]]]:
    """(x, y, width, height) or None, and what was changed as (kind, message)."""
    if not item.name:
        return None, [("box dropped", "has no class name")]
    if not is_class_name(item.name):
        return None, [("box dropped", "its class name contains control characters")]
    if not item.has_box:
        return None, [("box dropped", "has no <bndbox>; rotated boxes and polygons are not supported")]
    if None in item.ends:
        return None, [("box dropped", "a coordinate is missing or not a number")]
    # fractions may overshoot the image a little; as pixels these would be boxes of less than one
    if all(-0.5 <= end <= 1.5 for end in item.ends) and any(end % 1 for end in item.ends):
        raise UserError(
            f"{path}, {item.name} {list(item.ends)}: expected coordinates in pixels, got fractions of the "
            "image; multiply them by its width and height"
        )
    xmin, ymin, xmax, ymax = item.ends
    if xmax == xmin or ymax == ymin:
        return None, [("box dropped", "it has no width or no height")]
    changes = []
    if xmax < xmin or ymax < ymin:
        changes.append(("corners swapped", "its minimum is beyond its maximum; the two are swapped"))
        xmin, xmax, ymin, ymax = *sorted((xmin, xmax)), *sorted((ymin, ymax))
    width, height = size
    x1, y1, x2, y2 = max(0, xmin - 1), max(0, ymin - 1), min(width, xmax), min(height, ymax)
    if x2 <= x1 or y2 <= y1:
        return None, [*changes, ("box dropped", f"it lies outside the image of {width}×{height}")]
    if xmin < 0 or ymin < 0 or xmax > width or ymax > height:  # some tools write 0 for the edge
        changes.append(("box cut", f"it leaves the image of {width}×{height}"))
    return (x1, y1, x2 - x1, y2 - y1), changes
