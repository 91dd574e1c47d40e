"""COCO's panoptic annotations: one reader, for training, scoring, checks and drawings.

An annotation file (``images``, ``annotations``, ``categories``) has one annotation per image: the file of its
label image, whose pixels store ids of segments (R + 256 · G + 256² · B, 0: void, which counts neither way),
and ``segments_info`` with the category of each id. The rules:

- Ids of images and categories, and the names of images, are read as ``data.coco.reader`` reads them, and
  labels are resolved by the name of the category.
- Each category says by ``isthing`` (0 or 1) whether it has instances (things) or not (stuff).
- The ids in a label image and those of its ``segments_info`` are the same.
- A segment of ``iscrowd`` is a region that is no example and counts neither way.
- What breaks a rule is an error: nothing is dropped. ``bbox`` and ``area`` are not read; masks have both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardnet_suite.data.coco.entries import duplicates, read_categories, read_images, repeated_files
from hardnet_suite.data.coco.files import missing_images
from hardnet_suite.data.coco.layout import check_layout, read_json
from hardnet_suite.data.coco.records import CocoImage
from hardnet_suite.data.coco.values import as_flag, as_id, match_id
from hardnet_suite.data.files import is_file
from hardnet_suite.data.images import image_size
from hardnet_suite.data.report import Finding, Report, counted, first_of
from hardnet_suite.data.segmentation.label_images import read_segments
from hardnet_suite.data.segmentation.preflight import misalignment
from hardnet_suite.errors import UserError

VOID = 0  # the id of pixels that are of no segment
_LARGEST_ID = 256**3 - 1


class PanopticCategory(NamedTuple):
    """A category; ``isthing``: it has instances."""

    id: int | str
    name: str
    isthing: bool


class PanopticSegment(NamedTuple):
    """A segment of an image: its id in the label image, the name of its category, whether it is a crowd."""

    id: int
    category: str
    iscrowd: bool


@dataclass(frozen=True)
class PanopticFile:
    """What a panoptic annotation file holds.

    Attributes:
        source: the path, or what errors call the content.
        images: in the order of the file.
        categories: in the order of the file.
        label_names: id of each image -> the name of its label image.
        segments: id of each image -> its segments.
        annotated: whether the file has annotations.
        findings: everything that is wrong; nothing of the file can be used then.
    """

    source: str
    images: tuple[CocoImage, ...]
    categories: tuple[PanopticCategory, ...]
    label_names: dict[int | str, str]
    segments: dict[int | str, tuple[PanopticSegment, ...]]
    annotated: bool
    findings: tuple[Finding, ...]

    @cached_property
    def category_ids(self) -> dict[str, int | str]:
        """Name of each category -> its id."""
        return {category.name: category.id for category in self.categories}

    def require(self) -> PanopticFile:
        """The file itself, if it can be used.

        Raises:
            UserError: it cannot be used.
        """
        if self.findings:
            raise UserError(first_of(self.source, self.findings))
        return self

    def require_annotated(self) -> PanopticFile:
        """The file itself, if it can be used and has a segment that is no crowd.

        Raises:
            UserError: otherwise.
        """
        if not self.annotated:
            raise UserError(
                f"{self.source} has no 'annotations' (is it a test set?): panoptic annotations need images, "
                "annotations and categories"
            )
        self.require()
        if all(segment.iscrowd for segments in self.segments.values() for segment in segments):
            raise UserError(
                f"{self.source} holds no segment that is not a crowd: there is nothing to train on or to "
                "score against"
            )
        return self

    def require_classes(self, things: Sequence[str], stuff: Sequence[str]) -> PanopticFile:
        """The file itself, if it has a category of each name and its categories are told apart so.

        Raises:
            UserError: it cannot be used, a name is missing, or is of the other kind.
        """
        self.require()
        kinds = {category.name: category.isthing for category in self.categories}
        for names, isthing in ((things, True), (stuff, False)):
            option = "thing_classes" if isthing else "stuff_classes"
            missing = [name for name in names if name not in kinds]
            if missing:
                also = ", ".join(repr(name) for name in kinds if name not in {*things, *stuff})
                first = ", ".join(map(repr, missing[:3]))
                raise UserError(
                    f"{self.source} has {len(kinds)} categories and lacks {first} of the config's "
                    f"{option}" + (f" (it has {also} beside)" if also else "")
                )
            other = [name for name in names if kinds[name] != isthing]
            if other:
                raise UserError(
                    f"{self.source}: the category {other[0]!r} has isthing={int(not isthing)}, but is among "
                    f"the config's {option}"
                )
        return self


@dataclass(frozen=True, kw_only=True)
class PanopticReport(Report):
    """What a panoptic data set holds, and what is wrong with it.

    Attributes:
        annotation_file: its path.
        images: number of images.
        per_class: class name -> number of segments, without crowds.
        crowds: number of crowd segments.
        void: fraction of the pixels that are void; None where the label images were not read.
    """

    annotation_file: Path
    images: int
    per_class: dict[str, int]
    crowds: int
    void: float | None

    def summary(self) -> dict[str, str]:
        used = Counter({name: count for name, count in self.per_class.items() if count})
        rows = {
            "annotation file": str(self.annotation_file),
            "images": str(self.images),
            "segments": str(sum(self.per_class.values())),
            "crowd segments": str(self.crowds),
            "classes with segments": f"{len(used)} of {len(self.per_class)}",
            "most frequent": ", ".join(f"{name} {count}" for name, count in used.most_common(5)) or "none",
        }
        return rows if self.void is None else rows | {"void": f"{self.void:.1%} of the pixels"}


# real path -> (time and size of the file), records
_cache: dict[str, tuple[tuple[int, int], PanopticFile]] = {}


def read_panoptic(source: str | Path) -> PanopticFile:
    """The records of a panoptic annotation file; a file is parsed once per process, until it changes.

    Raises:
        UserError: the file is missing or unreadable, or holds no such annotations.
    """
    path = os.path.realpath(source)
    try:
        status = os.stat(path)
    except OSError:
        return _parse(read_json(source), str(source))  # which raises the error
    stamp = status.st_mtime_ns, status.st_size
    if path not in _cache or _cache[path][0] != stamp:
        _cache[path] = stamp, _parse(read_json(source), str(source))
    return _cache[path][1]


def _parse(content: Any, source: str) -> PanopticFile:
    check_layout(content, source, labelled=False)
    entries = content.get("annotations")
    images, findings, _ = read_images(content["images"])
    kept, incomplete = read_categories(content["categories"])
    findings += [
        *incomplete,
        *duplicates("image id", (image.id for image in images)),
        *repeated_files(images),
    ]
    findings += duplicates("category id", (category.id for category in kept))
    findings += duplicates("category name", (category.name for category in kept))
    categories = []
    kinds = {as_id(entry.get("id")): entry.get("isthing") for entry in content["categories"]}
    for category in kept:
        flag = None if kinds[category.id] is None else as_flag(kinds[category.id])
        if flag is None:
            where = f"category {category.id}"
            problem = f"has isthing {kinds[category.id]!r}, expected 1 (it has instances) or 0 (stuff)"
            findings.append(Finding("error", "invalid isthing", where, problem))
        categories.append(PanopticCategory(category.id, category.name, bool(flag)))
    reader = _AnnotationReader(images, categories)
    for index, entry in enumerate(entries or ()):
        reader.read(index, entry)
    findings += reader.findings
    for image in images if entries is not None else ():
        if image.id not in reader.label_names:
            problem = "has no annotation: expected one per image"
            findings.append(Finding("error", "image without annotation", f"image {image.id}", problem))
    return PanopticFile(
        source,
        tuple(images),
        tuple(categories),
        reader.label_names,
        reader.segments,
        entries is not None,
        tuple(findings),
    )


class _AnnotationReader:
    """Reads the annotations of the images; collects the findings."""

    def __init__(self, images: Sequence[CocoImage], categories: Sequence[PanopticCategory]):
        self.image_texts = {str(image.id): image.id for image in images}
        self.category_texts = {str(category.id): category.id for category in categories}
        self.names = {category.id: category.name for category in categories}
        self.label_names: dict[int | str, str] = {}
        self.segments: dict[int | str, tuple[PanopticSegment, ...]] = {}
        self.findings: list[Finding] = []

    def read(self, index: int, entry: dict) -> None:
        given = entry.get("image_id")
        where = f"the annotation number {index}" if given is None else f"the annotation of image {given}"
        image_id, name, infos = (
            match_id(given, self.image_texts),
            entry.get("file_name"),
            entry.get("segments_info"),
        )
        if image_id is None:
            self._error("unknown image", where, f"has image_id {given!r}, which is not among the images")
            return
        if image_id in self.label_names:
            self._error("duplicate annotation", where, "occurs twice: expected one per image")
            return
        if not isinstance(name, str) or not name:
            self._error("incomplete annotation", where, "lacks a valid file_name, that of its label image")
            name = ""
        self.label_names[image_id] = name
        if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
            self._error("incomplete annotation", where, "lacks a valid segments_info, a list of objects")
            infos = []
        segments = [segment for info in infos if (segment := self._segment(info, where)) is not None]
        repeated = [key for key, count in Counter(segment.id for segment in segments).items() if count > 1]
        if repeated:
            self._error("duplicate segment", where, f"has the segment id {repeated[0]} twice")
        self.segments[image_id] = tuple(segments)

    def _segment(self, info: dict, where: str) -> PanopticSegment | None:
        key, crowd = as_id(info.get("id")), as_flag(info.get("iscrowd"))
        category_id = match_id(info.get("category_id"), self.category_texts)
        if not isinstance(key, int) or not VOID < key <= _LARGEST_ID:
            problem = f"has the segment id {info.get('id')!r}, expected an integer from 1 to {_LARGEST_ID}"
        elif category_id is None:
            problem = f"has category_id {info.get('category_id')!r} of segment {key}, which is not a category"
        elif crowd is None:
            problem = f"has iscrowd {info.get('iscrowd')!r} of segment {key}, expected 0 or 1"
        else:
            return PanopticSegment(key, self.names[category_id], crowd)
        self._error("invalid segment", where, problem)
        return None

    def _error(self, kind: str, where: str, problem: str) -> None:
        self.findings.append(Finding("error", kind, where, problem))


def read_label_image(path: str | Path, ids: Iterable[int]) -> np.ndarray:
    """The label image of an annotation, (H, W) int32 ids of segments; ``VOID`` where there is none.

    Args:
        path: the file.
        ids: those of its ``segments_info``.

    Raises:
        UserError: the file is missing, broken or not RGB, or has other ids.
    """
    pixels = read_segments(path)
    stored, listed = set(np.unique(pixels).tolist()) - {VOID}, set(ids)
    if unlisted := stored - listed:
        raise UserError(
            f"the label image {path} has pixels of segment {min(unlisted)}, which segments_info does not list"
        )
    if absent := listed - stored:
        raise UserError(
            f"the label image {path} has no pixel of segment {min(absent)}, which segments_info lists"
        )
    return pixels


def segment_colors(segments: np.ndarray) -> np.ndarray:
    """Ids of segments, (H, W), as the colours that store them, (H, W, 3) uint8."""
    return np.stack([segments >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)


def check_panoptic(
    content: PanopticFile,
    image_folder: Path,
    label_folder: Path,
    classes: Sequence[str],
    *,
    read: bool = True,
) -> PanopticReport:
    """Everything in a panoptic data set that would stop or spoil a training.

    Args:
        content: the annotation file.
        image_folder: the folder of the images.
        label_folder: the folder of the label images.
        classes: the classes to train.
        read: decode every image and label image; False looks only whether they are there.
    """
    missing = frozenset(missing_images(content.images, image_folder))
    findings = [
        *content.findings,
        *(
            Finding(
                "error", "missing image", f"image {image.id}", f"no file {image_folder / image.file_name}"
            )
            for image in content.images
            if image in missing
        ),
    ]
    pixels = voids = 0
    readable = [image for image in content.images if image.file_name is not None and image not in missing]
    if content.annotated:
        with ThreadPoolExecutor(4) as pool:
            looks = pool.map(lambda image: _look(content, image, image_folder, label_folder, read), readable)
            for image, (size, void, problem) in zip(readable, looks, strict=True):
                pixels, voids = pixels + size, voids + void
                if problem:
                    findings.append(Finding("error", "unusable image", f"image {image.id}", problem))
    segments = [segment for several in content.segments.values() for segment in several]
    counts = Counter(segment.category for segment in segments if not segment.iscrowd)
    names = set(content.category_ids)
    for name in classes:
        if name not in names:
            problem = "is to be trained, but no category of the file has this name"
            findings.append(Finding("error", "missing class", f"class {name}", problem))
        elif not counts[name]:
            findings.append(Finding("warning", "class without segments", f"class {name}", "has no segment"))
    for name in sorted(names - set(classes)):
        problem = f"is not to be trained: {counted(counts[name], 'segment')} void"
        findings.append(Finding("warning", "extra class", f"class {name}", problem))
    return PanopticReport(
        annotation_file=Path(content.source),
        images=len(content.images),
        per_class={category.name: counts[category.name] for category in content.categories},
        crowds=sum(segment.iscrowd for segment in segments),
        void=voids / pixels if pixels else None,
        findings=tuple(findings),
    )


def _look(
    content: PanopticFile, image: CocoImage, image_folder: Path, label_folder: Path, read: bool
) -> tuple[int, int, str | None]:
    """(pixels, void pixels, what is wrong) of an image and its label image."""
    name = content.label_names.get(image.id)
    if not name:  # told of the annotations
        return 0, 0, None
    path, label = image_folder / image.file_name, label_folder / name
    try:
        if not is_file(label):
            return 0, 0, f"no label image {label}"
        if problem := misalignment(path, label):
            return 0, 0, problem
        if not read:
            return 0, 0, None
        image_size(path)
        ids = [segment.id for segment in content.segments.get(image.id, ())]
        segments = read_label_image(label, ids)
        return segments.size, int(np.count_nonzero(segments == VOID)), None
    except UserError as error:
        return 0, 0, str(error)
