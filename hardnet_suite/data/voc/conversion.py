"""PASCAL VOC data sets as COCO: boxes from XML files to one annotation file per split."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.files import sha256
from hardnet_suite.data.images import image_size
from hardnet_suite.data.report import Finding, escaped
from hardnet_suite.data.voc.annotation import Box, boxes_on_image, read_annotation
from hardnet_suite.data.voc.lists import Entry, VocFolder
from hardnet_suite.data.voc.target import MARK, Target
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.failures import explain
from hardnet_suite.outputs import whole_file, write_file


@dataclass(frozen=True)
class _Image:
    """An image with its annotation file (None: a background image), (width, height) and boxes."""

    path: Path
    annotation: Path | None
    size: tuple[int, int]
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Split:
    """The number of images and boxes in one split, and of boxes per class."""

    images: int
    boxes: int
    per_class: dict[str, int]


@dataclass(frozen=True)
class ConversionReport:
    """The splits that a conversion wrote; ``findings`` names each box that it dropped or changed."""

    classes: tuple[str, ...]
    splits: dict[str, Split]
    findings: tuple[Finding, ...]

    def table(self) -> str:
        """Plain text: one row per split, then every finding."""
        width = max(5, *map(len, self.splits))
        lines = ["  ".join(["split".ljust(width), "images", " boxes", *self.classes])]
        for name, split in self.splits.items():
            counts = [f"{split.per_class[label]:>{len(label)}}" for label in self.classes]
            lines.append("  ".join([name.ljust(width), f"{split.images:>6}", f"{split.boxes:>6}", *counts]))
        for finding in self.findings:
            lines.append(f"{finding.kind}: {finding.where}: {finding.what}".replace("\n", "\\n"))
        return escaped("\n".join(lines))


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
    Every image in an annotation file has its "sha256", by which a later conversion knows what it may replace.
    Nothing is written before everything has been read. Nothing of ``source`` changes: an image whose place in
    ``target`` leads to that very image is left alone. ``boxes_on_image`` states how boxes are read.

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
            a name, there is nothing to convert, ``target`` has a file of that name that no conversion wrote,
            or writing there would change the source.
        ValueError: ``difficult`` is neither of the two.
    """
    if difficult not in ("ignore", "keep"):
        raise ValueError(f"difficult must be 'ignore' or 'keep', got {difficult!r}")
    repeated = [name for name, count in Counter(classes or ()).items() if count > 1]
    if repeated:
        raise UserError(f"repeated in the classes: {', '.join(repeated)}; name each class once")
    if classes is not None:
        classes = class_names(list(classes), "the list of classes")
    source, target = Path(source), Path(target)
    folder = VocFolder(source)
    findings: list[Finding] = []
    images: dict[Path, _Image] = {}
    read = {
        split: _read_split(folder, split, entries, images, findings)
        for split, entries in folder.read_lists(splits).items()
    }
    findings += _shared_images(read)
    counts = Counter(box.name for split in read.values() for image in split for box in image.boxes)
    chosen = tuple(sorted(counts) if classes is None else classes)
    if not chosen or not counts.keys() & {*chosen}:
        raise UserError(f"{source} has no box of {'any class' if classes is None else ', '.join(chosen)}")
    for name in sorted(counts.keys() - {*chosen}):
        message = f"is not among the chosen classes, boxes dropped: {counts[name]}"
        findings.append(Finding("warning", "class left out", name, message))

    contents = {split: _coco(split_images, chosen, difficult) for split, split_images in read.items()}
    named = _by_name(images)
    place = Target(target, _folders(folder, images.values()))
    due = place.images_to_write([f"instances_{split}.json" for split in contents], named, link)
    digests = {name: sha256(path) for name, path in named.items() if name not in due}
    try:
        for name, path in due.items():
            digests[name] = _bring(path, place.images / name, link)
        for split, content in contents.items():
            for entry in content["images"]:
                entry["sha256"] = digests[entry["file_name"]]
            write_file(place.annotations / f"instances_{split}.json", json.dumps(content))
    except WriteError as error:
        raise UserError(explain(error)) from None
    return ConversionReport(
        chosen, {split: _summary(content) for split, content in contents.items()}, (*findings,)
    )


def _read_split(
    folder: VocFolder, split: str, entries: list[Entry], known: dict[Path, _Image], findings: list[Finding]
) -> list[_Image]:
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
        if annotation is None:
            message = f"no {folder.annotation_folder / entry.stem}.xml; kept as an image without boxes"
            findings.append(Finding("warning", "image without annotation file", path.name, message))
            known[path] = _Image(path, None, image_size(path), ())
        else:
            size, boxes = boxes_on_image(annotation, path, findings)
            known[path] = _Image(path, file, size, (*boxes,))
    for path, count in counts.items():
        if count > 1:
            message = f"appears {count} times in {split}; used once"
            findings.append(Finding("warning", "image named twice", path.stem, message))
    return [known[path] for path in counts]


def _shared_images(read: dict[str, list[_Image]]) -> list[Finding]:
    """A warning for every image that is in several splits."""
    splits: dict[Path, list[str]] = {}
    for split, images in read.items():
        for image in images:
            splits.setdefault(image.path, []).append(split)
    return [
        Finding("warning", "image in several splits", path.name, f"is in {' and '.join(names)}")
        for path, names in splits.items()
        if len(names) > 1
    ]


def _coco(images: list[_Image], classes: tuple[str, ...], difficult: str) -> dict[str, Any]:
    entries, annotations = [], []
    for image_id, image in enumerate(images, 1):
        width, height = image.size
        entries.append({"id": image_id, "file_name": image.path.name, "width": width, "height": height})
        for box in image.boxes:
            if box.name in classes:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": classes.index(box.name) + 1,
                        "bbox": [*box.bbox],
                        "area": box.bbox[2] * box.bbox[3],
                        "iscrowd": int(box.difficult and difficult == "ignore"),
                    }
                )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    info = {"description": MARK}
    return {"info": info, "images": entries, "annotations": annotations, "categories": categories}


def _summary(content: dict[str, Any]) -> Split:
    counts = Counter(entry["category_id"] for entry in content["annotations"])
    per_class = {category["name"]: counts[category["id"]] for category in content["categories"]}
    return Split(len(content["images"]), len(content["annotations"]), per_class)


def _folders(folder: VocFolder, images: Iterable[_Image]) -> set[Path]:
    """The folders of a VOC data set, and those of its files, which links may have led to."""
    files = {file for image in images for file in (image.path, image.annotation) if file}
    return {folder.annotation_folder, folder.image_folder, folder.list_folder} | {
        each.parent for each in files
    }


def _by_name(images: dict[Path, _Image]) -> dict[str, Path]:
    """File name -> image; the lists may name images of several folders, which become one."""
    paths: dict[str, Path] = {}
    for path in images:
        first = paths.setdefault(path.name, path)
        if first != path:
            raise UserError(f"two images have one name, {first} and {path}: rename one of them")
    return paths


def _bring(path: Path, target: Path, link: bool) -> str:
    """Copies or links an image; returns the SHA-256 of what was brought."""
    with whole_file(target) as temporary:
        if link:
            temporary.symlink_to(path.resolve())
        else:
            shutil.copyfile(path, temporary)
        return sha256(temporary)
