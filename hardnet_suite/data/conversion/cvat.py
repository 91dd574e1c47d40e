"""Images with boxes or outlines as CVAT's XML, and images with label masks as CVAT's colour masks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from hardnet_suite.data.boxes import Box, BoxData, ConversionReport, summary
from hardnet_suite.data.classes import require_lines
from hardnet_suite.data.conversion.masks import png, voc_color
from hardnet_suite.data.conversion.outlines import findings_with_outlines
from hardnet_suite.data.conversion.places import put_once, unique_stems
from hardnet_suite.data.conversion.tree import write_tree
from hardnet_suite.data.cvat import subset_split
from hardnet_suite.data.masks import IGNORED, IGNORED_CLASS, MaskData, MaskReport
from hardnet_suite.data.xml_files import is_xml_text
from hardnet_suite.errors import UserError

_Color = tuple[int, int, int]
_VOID = (224, 224, 192)  # VOC's color of pixels that do not count


def write_cvat(
    data: BoxData, target: str | Path, *, classes: Sequence[str] | None = None, link: bool = False
) -> ConversionReport:
    """Writes ``target``/annotations.xml ("CVAT for images 1.1") and images/SPLIT.

    Arguments are those of ``write_coco``.
    An object with an outline is a polygon, or several of one group; any other is a box. Objects that count
    neither way have the attribute ``difficult``. Coordinates keep every digit.

    Raises:
        UserError: as of ``write_coco``; XML cannot hold a name, or two images share one; a split has a name
            that is read as another, such as "default".
    """
    chosen, left_out = data.choose_classes(classes)
    for name in chosen:
        if not is_xml_text(name):
            raise UserError(f"the class {name!r} cannot be stored as CVAT's XML: rename it")
    images: dict[str, Path] = {}
    root = _head(chosen, data.splits)
    group = 0
    _require_splits(data.splits)
    for split, members in data.splits.items():
        if not is_xml_text(split):
            raise UserError(f"the split {split!r} cannot be stored as CVAT's XML: rename it")
        for image in members:
            name = image.name.removeprefix(f"{split}/")
            if not is_xml_text(name):
                raise UserError(f"the name {name!r} cannot be stored as CVAT's XML: rename the image")
            place = f"images/{split}/{name}"
            if place in images:
                raise UserError(f"{images[place]} and {image.path} would share {place}: rename one of them")
            width, height = image.size
            entry = ElementTree.SubElement(
                root,
                "image",
                id=str(len(images)),
                name=name,
                subset=split,
                width=str(width),
                height=str(height),
            )
            images[place] = image.path
            for box in image.boxes:
                if box.name in chosen:
                    group += len(box.outline) > 1
                    entry.extend(_shapes(box, group))
    ElementTree.indent(root)
    text = '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
    write_tree(data, Path(target), {"annotations.xml": text}, images, link=link)
    counts = {split: summary(members, chosen) for split, members in data.splits.items()}
    return ConversionReport(chosen, counts, (*findings_with_outlines(data), *left_out))


def _require_splits(splits: Iterable[str]) -> None:
    for split in splits:
        if (read := subset_split(split) or "train") != split:
            raise UserError(f"the split {split!r} would be read from CVAT's files as {read}: rename it")


def _head(classes: Sequence[str], splits: Iterable[str]) -> ElementTree.Element:
    """The root with its labels and subsets, those of a project, as tasks have no subsets."""
    root = ElementTree.Element("annotations")
    _add(root, "version", "1.1")
    project = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "project")
    _add(project, "name", "hardnet-suite")
    subsets = ElementTree.SubElement(project, "subsets")
    for split in splits:
        _add(subsets, "subset", split)
    labels = ElementTree.SubElement(project, "labels")
    for name in classes:
        label = ElementTree.SubElement(labels, "label")
        _add(label, "name", name)
        attribute = ElementTree.SubElement(ElementTree.SubElement(label, "attributes"), "attribute")
        for tag, value in (
            ("name", "difficult"),
            ("mutable", "False"),
            ("input_type", "checkbox"),
            ("default_value", "false"),
            ("values", "false"),
        ):
            _add(attribute, tag, value)
    return root


def _add(parent: ElementTree.Element, tag: str, value: object) -> None:
    ElementTree.SubElement(parent, tag).text = str(value)


def _shapes(box: Box, group: int) -> Iterator[ElementTree.Element]:
    common = {"label": box.name, "source": "manual", "occluded": "0"}
    x, y, width, height = box.bbox
    corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), (x, y, x + width, y + height), strict=True))
    for points in box.outline or (None,):
        if points is None:
            shape = ElementTree.Element("box", common | {tag: _text(end) for tag, end in corners.items()})
        else:
            pairs = zip(points[::2], points[1::2], strict=True)
            shape = ElementTree.Element(
                "polygon", common | {"points": ";".join(f"{_text(x)},{_text(y)}" for x, y in pairs)}
            )
        shape.set("z_order", "0")
        if len(box.outline) > 1:
            shape.set("group_id", str(group))
        ElementTree.SubElement(shape, "attribute", name="difficult").text = str(box.difficult).lower()
        yield shape


def _text(value: float) -> str:
    value = float(value)
    return str(int(value)) if value.is_integer() else repr(value)


def write_cvat_masks(data: MaskData, target: str | Path, *, link: bool = False) -> MaskReport:
    """Writes CVAT's "Segmentation mask 1.1": labelmap.txt, JPEGImages/, SegmentationClass/, lists of splits.

    The colors are those of the data set where each class has its own, else VOC's. Pixels that do not count
    are of the class ``__ignore__``.

    Args:
        data: the images and masks.
        target: the folder to write to.
        link: create symbolic links to the images instead of copies.

    Raises:
        UserError: as of ``write_tree``; labelmap.txt or a list cannot hold a name, or two images share one; a
            split has a name that is read as another, such as "default".
    """
    require_lines(data.classes, "CVAT's labelmap.txt")
    for name in data.classes:
        if ":" in name or name.startswith("#"):
            raise UserError(f"the class {name!r} cannot stand in CVAT's labelmap.txt: rename it")
    if IGNORED_CLASS in data.classes:
        raise UserError(f"{IGNORED_CLASS} is what pixels that do not count are called: rename the class")
    if len(data.classes) > IGNORED:
        raise UserError(f"{data.source} has {len(data.classes)} classes, expected 1 to {IGNORED}")
    _require_splits(data.splits)
    colors = _colors(data)
    images = [image for members in data.splits.values() for image in members]
    places, stems = unique_stems(images, ".png")
    ignored = any((image.labels == IGNORED).any() for image in images)
    listed = [*zip(data.classes, colors, strict=True), *([(IGNORED_CLASS, _ignored_color(colors))] * ignored)]
    lines = ["# label:color_rgb:parts:actions", *(f"{name}:{r},{g},{b}::" for name, (r, g, b) in listed)]
    contents: dict[str, str | bytes] = {"labelmap.txt": "\n".join(lines) + "\n"}
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    table[IGNORED] = listed[-1][1] if ignored else 0
    for split, members in data.splits.items():
        names = "".join(f"{stems[image.name]}\n" for image in members)
        contents[f"ImageSets/Segmentation/{split}.txt"] = names
        for image in members:
            mask = png(Image.fromarray(table[image.labels]))
            put_once(contents, f"SegmentationClass/{stems[image.name]}.png", mask, image.path)
    brought = {f"JPEGImages/{name}": path for name, path in places.items()}
    write_tree(data, Path(target), contents, brought, link=link)
    return MaskReport.of(data)


def _colors(data: MaskData) -> list[_Color]:
    """One color per class, all different."""
    own = [tuple(color) for color in data.palette or ()][: len(data.classes)]
    if len({*own}) == len(data.classes):
        return own
    return [voc_color(index) for index in range(len(data.classes))]


def _ignored_color(colors: Collection[_Color]) -> _Color:
    return next(color for color in (_VOID, *map(voc_color, range(256))) if color not in colors)
