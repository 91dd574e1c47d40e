"""PASCAL VOC data sets: boxes from XML files, per split, and their conversion to COCO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hardnet_suite.data.boxes import (
    BoxData,
    BoxImage,
    ConversionReport,
    require_distinct,
    shared_images,
    told_left_out,
)
from hardnet_suite.data.classes import class_names
from hardnet_suite.data.conversion.coco import write_coco
from hardnet_suite.data.images import image_size
from hardnet_suite.data.report import Finding
from hardnet_suite.data.voc.annotation import boxes_on_image, read_annotation
from hardnet_suite.data.voc.lists import Entry, VocFolder
from hardnet_suite.errors import UserError

FORMAT = "PASCAL VOC"


def convert_voc(
    source: str | Path,
    target: str | Path,
    *,
    splits: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    difficult: Literal["ignore", "keep"] = "ignore",
    link: bool = False,
) -> ConversionReport:
    """Converts a VOC folder (Annotations/, ImageSets/Main/, JPEGImages/) to COCO.

    Writes one ``target``/annotations/instances_SPLIT.json per split, and the images to ``target``/images.
    Every image in an annotation file has its "sha256", and so has ``info`` that of the annotations, by which
    a later conversion knows what it may replace. Nothing is written before everything has been read. Nothing
    of ``source`` changes: an image whose place in ``target`` leads to that very image is left alone.
    ``boxes_on_image`` states how boxes are read.

    Args:
        source: the VOC folder.
        target: the folder to write to.
        splits: names of lists in ImageSets/Main; None takes those of train, val and test that exist.
        classes: class names in the order of their category ids, boxes of others are dropped; None takes all,
            in alphabetical order.
        difficult: "ignore" marks VOC's difficult objects as ``iscrowd``, which count neither as detected nor
            as missed; "keep" treats them like all others.
        link: create symbolic links to the images instead of copies.

    Returns:
        The classes, the counts per split, and what was dropped or changed.

    Raises:
        UserError: a file or folder is missing, broken or not writable, a class is repeated, two images share
            a name, there is nothing to convert, ``target`` has a file of that name that no conversion wrote
            or that was edited since, or writing there would change the source.
        ValueError: ``difficult`` is neither of the two.
    """
    require_distinct(classes or ())
    if classes is not None:
        classes = class_names(list(classes), "the list of classes")
    data = read_voc(source, splits=splits, difficult=difficult)
    return write_coco(data, target, classes=classes, link=link)


def read_voc(
    source: str | Path,
    *,
    splits: Sequence[str] | None = None,
    difficult: Literal["ignore", "keep"] = "ignore",
) -> BoxData:
    """The images and boxes of a VOC folder; arguments and errors as of ``convert_voc``.

    Images that no list names are left out, which is told.
    """
    if difficult not in ("ignore", "keep"):
        raise ValueError(f"difficult must be 'ignore' or 'keep', got {difficult!r}")
    folder = VocFolder(Path(source))
    findings: list[Finding] = []
    images: dict[Path, BoxImage] = {}
    read = {
        split: _read_split(folder, split, entries, images, findings, difficult == "keep")
        for split, entries in folder.read_lists(splits).items()
    }
    if splits is None and (others := folder.other_lists()):
        problem = f"left out: {', '.join(others)}; --splits chooses them"
        findings.append(Finding("warning", "splits", str(folder.list_folder), problem))
    findings += shared_images(read)
    findings += told_left_out(
        folder.images_beside(read, images), f"that no list in {folder.list_folder} names"
    )
    return BoxData(Path(source), FORMAT, None, read, tuple(findings), _folders(folder, images.values()))


def _read_split(
    folder: VocFolder,
    split: str,
    entries: list[Entry],
    known: dict[Path, BoxImage],
    findings: list[Finding],
    keep_difficult: bool,
) -> list[BoxImage]:
    """The images of one split, each once; ``known`` holds those of the splits read before."""
    counts: Counter[Path] = Counter()
    for entry in entries:
        file = folder.annotation(entry)
        annotation = read_annotation(file) if file else None
        path = folder.image(entry, annotation.filename if annotation else "")
        counts[path] += 1
        if path in known:
            other = known[path].annotation
            if file != other:
                raise UserError(f"{other} and {file} both describe {path}: correct the <filename> of one")
            continue
        name = path.relative_to(folder.image_folder).as_posix()
        if annotation is None:
            message = f"no {folder.annotation_folder / entry.stem}.xml; kept as an image without boxes"
            findings.append(Finding("warning", "image without annotation file", path.name, message))
            known[path] = BoxImage(path, name, image_size(path))
        else:
            size, boxes = boxes_on_image(annotation, path, findings)
            if keep_difficult:
                boxes = [replace(box, difficult=False) for box in boxes]
            known[path] = BoxImage(path, name, size, (*boxes,), file)
    for path, count in counts.items():
        if count > 1:
            message = f"appears {count} times in {split}; used once"
            findings.append(Finding("warning", "image named twice", path.stem, message))
    return [known[path] for path in counts]


def _folders(folder: VocFolder, images: Iterable[BoxImage]) -> frozenset[Path]:
    """The folders of a VOC data set, and those of its files, which links may have led to."""
    files = {file for image in images for file in (image.path, image.annotation) if file}
    own = {folder.annotation_folder, folder.image_folder, folder.list_folder}
    return frozenset(own | {each.parent for each in files})
