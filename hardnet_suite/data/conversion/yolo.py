"""Images with boxes as a YOLO data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hardnet_suite.data.boxes import Box, BoxData, BoxImage, ConversionReport, summary
from hardnet_suite.data.conversion.places import places_by_split, unusual_splits
from hardnet_suite.data.conversion.target import mark
from hardnet_suite.data.conversion.tree import write_tree
from hardnet_suite.data.report import Finding
from hardnet_suite.errors import UserError

_DIGITS = 10  # after the point; an error below 1e-5 pixels in the largest image


def write_yolo(
    data: BoxData, target: str | Path, *, classes: Sequence[str] | None = None, link: bool = False
) -> ConversionReport:
    """Writes ``target``/data.yaml, images/SPLIT and labels/SPLIT; arguments and errors as of ``write_coco``.

    Fractions have ten decimals. YOLO has no objects that count neither way, and its readers keep one of equal
    rows: those are dropped, and told.
    Names of classes with white space around them, which readers strip, are an error.
    """
    chosen, left_out = data.choose_classes(classes)
    for name in chosen:
        if name != name.strip():
            raise UserError(
                f"the class {name!a} would be read from YOLO's data.yaml without its spaces: rename it"
            )
    numbers = {name: number for number, name in enumerate(chosen)}
    findings = [*data.findings, *left_out]
    boxes = (box for image in data.images for box in image.boxes)
    count = sum(box.difficult for box in boxes if box.name in numbers)
    if count:
        problem = f"{count} that count neither way (difficult or crowd), which YOLO cannot say"
        findings.append(Finding("warning", "boxes dropped", "the data set", problem))
    splits = {
        split: [_with_rows(image, numbers, findings) for image in images]
        for split, images in data.splits.items()
    }
    texts = {"data.yaml": _yaml(data, chosen)}
    images: dict[str, Path] = {}
    findings += unusual_splits(splits, "YOLO data sets")
    for image, place, label in places_by_split(splits, images="images/{}", labels="labels/{}", suffix=".txt"):
        images[place] = image.path
        texts[label] = "".join(_row(box, image.size, numbers) for box in image.boxes)
    write_tree(data, Path(target), texts, images, link=link)
    counts = {split: summary(members, chosen) for split, members in splits.items()}
    return ConversionReport(chosen, counts, tuple(findings))


def _with_rows(image: BoxImage, numbers: Mapping[str, int], findings: list[Finding]) -> BoxImage:
    """The image with those of its boxes that become a row."""
    boxes: dict[str, Box] = {}
    for box in image.boxes:
        if box.difficult or box.name not in numbers:
            continue
        row = _row(box, image.size, numbers)
        if row in boxes:
            where = f"{image.name}, {box.name} {[*box.bbox]}"
            findings.append(Finding("warning", "box dropped", where, "repeats another box"))
        boxes.setdefault(row, box)
    return replace(image, boxes=tuple(boxes.values()))


def _row(box: Box, size: tuple[int, int], numbers: Mapping[str, int]) -> str:
    (x, y, width, height), (columns, rows) = box.bbox, size
    values = (x + width / 2) / columns, (y + height / 2) / rows, width / columns, height / rows
    return " ".join([str(numbers[box.name]), *(f"{value:.{_DIGITS}f}" for value in values)]) + "\n"


def _yaml(data: BoxData, classes: Sequence[str]) -> str:
    import yaml

    content = {split: f"images/{split}" for split in data.splits}
    content |= {"nc": len(classes), "names": dict(enumerate(classes))}
    return f"# {mark(data.format)}\n" + yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
