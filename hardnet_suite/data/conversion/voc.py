"""Images with boxes as a PASCAL VOC data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from hardnet_suite.data.boxes import Box, BoxData, BoxImage, ConversionReport, summary
from hardnet_suite.data.conversion.places import put_once, unique_stems, unusual_splits
from hardnet_suite.data.conversion.tree import write_tree
from hardnet_suite.data.files import normal_name
from hardnet_suite.data.report import Finding
from hardnet_suite.data.voc.lists import candidates, without_column
from hardnet_suite.data.xml_files import is_xml_text
from hardnet_suite.errors import UserError

_DIGITS = 2  # decimals of a pixel, as many as COCO's own boxes have


def write_voc(
    data: BoxData, target: str | Path, *, classes: Sequence[str] | None = None, link: bool = False
) -> ConversionReport:
    """Writes Annotations/, ImageSets/Main/ and JPEGImages/; arguments and errors as of ``write_coco``.

    VOC counts pixels from 1 and its boxes hold both ends: xmin = x + 1, xmax = x + width, rounded to 0.01
    pixels; integers are written as such, which many readers need. A box of one pixel or less in width or
    height is dropped, and told: as VOC it has no extent.
    """
    chosen, left_out = data.choose_classes(classes)
    for name in chosen:
        if not is_xml_text(name):
            raise UserError(f"the class {name!r} cannot be stored as VOC's XML: rename it")
    findings = [*data.findings, *left_out]
    splits = {
        split: [_extended(image, chosen, findings) for image in images]
        for split, images in data.splits.items()
    }
    places, stems = unique_stems((image for images in splits.values() for image in images), ".xml")
    for name in places:
        if not is_xml_text(PurePosixPath(name).name):
            raise UserError(f"the name {name!r} cannot be stored as VOC's XML: rename the image")
    texts: dict[str, str | bytes] = {
        f"ImageSets/Main/{split}.txt": "".join(f"{line}\n" for line in _lines(images, stems))
        for split, images in splits.items()
    }
    for images in splits.values():
        for image in images:
            put_once(texts, f"Annotations/{stems[image.name]}.xml", _xml(image), image.path)
    brought = {f"JPEGImages/{name}": path for name, path in places.items()}
    findings += unusual_splits(splits, "VOC data sets")
    write_tree(data, Path(target), texts, brought, link=link)
    counts = {split: summary(images, chosen) for split, images in splits.items()}
    return ConversionReport(chosen, counts, tuple(findings))


def _lines(images: Sequence[BoxImage], stems: Mapping[str, str]) -> list[str]:
    """The list of a split: names without suffix, but where these could be others with a column of flags."""
    lines = [stems[image.name] for image in images]
    others = without_column(lines)
    if others is None:
        return lines
    known = {*map(normal_name, stems.values())}  # as readers compare names
    is_read_in_two_ways = all(any(entry.stem in known for entry in candidates(other)) for other in others)
    return [image.name for image in images] if is_read_in_two_ways else lines


def _extended(image: BoxImage, classes: Sequence[str], findings: list[Finding]) -> BoxImage:
    boxes = []
    for box in image.boxes:
        if box.name not in classes:
            continue
        ends = _ends(box)
        # what readers take for fractions of the image
        looks_normalised = max(ends) <= 1.5 and any(end % 1 for end in ends)
        if ends[2] <= ends[0] or ends[3] <= ends[1] or looks_normalised:
            where = f"{image.name}, {box.name} {[*box.bbox]}"
            findings.append(Finding("warning", "box dropped", where, "VOC cannot store a box of one pixel"))
            continue
        boxes.append(box)
    return replace(image, boxes=tuple(boxes))


def _ends(box: Box) -> tuple[float, float, float, float]:
    x, y, width, height = box.bbox
    left, top, right, bottom = (round(float(end), _DIGITS) for end in (x + 1, y + 1, x + width, y + height))
    return left, top, right, bottom


def _xml(image: BoxImage) -> str:
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, tag: str, value: object) -> None:
        ElementTree.SubElement(parent, tag).text = str(value)

    add(root, "filename", PurePosixPath(image.name).name)
    size = ElementTree.SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (*image.size, 3), strict=True):
        add(size, tag, value)
    for box in image.boxes:
        item = ElementTree.SubElement(root, "object")
        add(item, "name", box.name)
        add(item, "difficult", int(box.difficult))
        ends = ElementTree.SubElement(item, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), _ends(box), strict=True):
            add(ends, tag, int(value) if value.is_integer() else value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
