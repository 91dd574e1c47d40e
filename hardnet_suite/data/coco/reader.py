"""The one reading of a COCO annotation file, for training, scoring, checks and drawings.

The rules:

- An id is an integer or a string; 1.0 is read as 1, booleans are refused. A reference that differs from the
  id only in type ("1" for 1) is matched, with a warning; so no two ids may differ only in type.
- Labels are resolved by the name of the category. Two categories of one name are an error, unless only one
  of them has annotations: the other is ignored, with a warning.
- A box that is unusable (invalid, empty, outside its image, of an unknown image or category) is an error in
  ``findings`` and is dropped everywhere, in training as in scoring.
- ``area``: width · height where it is missing, no number, or not above 0, with a warning.
- ``iscrowd``: 0, 1, false, true, or these as strings; missing is 0.
- ``ignore``: as ``iscrowd``, and such a box is treated as a crowd region, with a warning: training takes no
  example from it, and in scoring it counts neither way.
- ``segmentation``: a malformed mask is an error and is dropped; its box remains.
- Nothing can be used where ids are missing or not unique, every box is unusable, or all boxes are normalised:
  ``CocoFile.require`` raises.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hardnet_suite.data.coco.layout import check_layout, read_json
from hardnet_suite.data.coco.masks import read_mask
from hardnet_suite.data.coco.values import as_flag, as_id, is_box, is_number, match_id
from hardnet_suite.data.report import Finding
from hardnet_suite.errors import UserError

# the kinds of findings whose boxes are dropped
DROPPED = frozenset(
    {
        "incomplete annotation",
        "unknown image",
        "unknown category",
        "invalid box",
        "empty box",
        "box outside the image",
    }
)
_NORMALIZED = 1.5  # boxes whose numbers are all below it are not in pixels


class CocoImage(NamedTuple):
    """An image; ``file_name``, ``width`` and ``height`` are None where the file states none."""

    id: int | str
    file_name: str | None
    width: int | None
    height: int | None


class CocoCategory(NamedTuple):
    """A category."""

    id: int | str
    name: str


class CocoBox(NamedTuple):
    """A usable box.

    Attributes:
        id: of the annotation; None if it has none.
        image_id: id of its image.
        category: name of its category.
        bbox: (x, y, width, height) in pixels; width and height are above 0.
        area: above 0.
        iscrowd: it is a region that is no example and counts neither way.
        segmentation: its mask, see ``masks.read_mask``; None without one.
    """

    id: int | str | None
    image_id: int | str
    category: str
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: bool
    segmentation: Any


@dataclass(frozen=True)
class CocoFile:
    """What a COCO annotation file holds.

    Attributes:
        source: the path, or what errors call the content.
        images: in the order of the file.
        categories: in the order of the file; of each name one.
        boxes: the usable boxes, in the order of the file.
        annotations: the number of entries, unusable ones included; None: the file has no annotations.
        findings: everything that is wrong or odd.
        fatal: those of the findings with which nothing of the file can be used.
    """

    source: str
    images: tuple[CocoImage, ...]
    categories: tuple[CocoCategory, ...]
    boxes: tuple[CocoBox, ...]
    annotations: int | None
    findings: tuple[Finding, ...]
    fatal: tuple[Finding, ...]

    @cached_property
    def boxes_of_image(self) -> Mapping[int | str, Sequence[CocoBox]]:
        """Image id -> its boxes."""
        groups: defaultdict[int | str, list[CocoBox]] = defaultdict(list)
        for box in self.boxes:
            groups[box.image_id].append(box)
        return {image.id: tuple(groups[image.id]) for image in self.images}

    @cached_property
    def category_ids(self) -> Mapping[str, int | str]:
        """Name of each category -> its id."""
        return {category.name: category.id for category in self.categories}

    def require(self) -> CocoFile:
        """The file itself, if it can be used.

        Raises:
            UserError: it cannot be used.
        """
        if self.fatal:
            first = self.fatal[0]
            message = f"{self.source}: {first.where} {first.what}"
            if len(self.fatal) > 1:
                message += f" (and {len(self.fatal) - 1} more: `hardnet-suite check-data` shows all)"
            raise UserError(message)
        return self

    def require_boxes(self) -> CocoFile:
        """The file itself, if it holds a usable box.

        Raises:
            UserError: it cannot be used, or has no box that is not a crowd region.
        """
        if self.annotations is None:
            raise UserError(
                f"{self.source} has no 'annotations' (is it a test set?): "
                "COCO annotations need images, annotations and categories"
            )
        self.require()
        if not self.annotations:
            raise UserError(
                f"{self.source} holds no box: there is nothing to train on or to score against "
                "(is it a test set?)"
            )
        if all(box.iscrowd for box in self.boxes):
            raise UserError(
                f"{self.source} holds no box but crowd regions ('iscrowd' or 'ignore' is 1): "
                "there is nothing to train on or to score against"
            )
        return self

    def require_classes(self, classes: Sequence[str]) -> CocoFile:
        """The file itself, if it has a category of each name.

        Raises:
            UserError: it cannot be used, or a name is missing.
        """
        self.require()
        missing = [name for name in classes if name not in self.category_ids]
        if missing:
            extra = [category.name for category in self.categories if category.name not in classes]
            also = f" (it has {', '.join(map(repr, extra[:3]))} beside)" if extra else ""
            raise UserError(
                f"{self.source} has {len(self.categories)} classes and lacks "
                f"{', '.join(map(repr, missing[:3]))} of the config's {len(classes)}{also}; "
                "set the data set's metainfo.classes and num_classes"
            )
        return self


_cache: dict[str, tuple[tuple[int, int], CocoFile]] = {}


def read_coco(source: str | Path | Mapping[str, Any] | CocoFile, name: str | None = None) -> CocoFile:
    """The records of a COCO annotation file; a file is parsed once per process, until it changes.

    Args:
        source: a path, the content of a file, or records, which are returned as they are.
        name: what errors call the content.

    Raises:
        UserError: the file is missing or unreadable, or holds no COCO annotations.
    """
    if isinstance(source, CocoFile):
        return source
    if isinstance(source, Mapping):
        return _parse(dict(source), name or "the annotations")
    path = os.path.realpath(source)
    try:
        status = os.stat(path)
        stamp = status.st_mtime_ns, status.st_size
    except OSError:
        stamp = None
    if stamp is None or path not in _cache or _cache[path][0] != stamp:
        _cache.pop(path, None)
        content = _parse(read_json(source), str(source))
        if stamp is None:
            return content
        _cache[path] = stamp, content
    content = _cache[path][1]
    if content.source == str(source):
        return content
    return CocoFile(str(source), *(getattr(content, key) for key in _FIELDS))  # another name of the file


_FIELDS = ("images", "categories", "boxes", "annotations", "findings", "fatal")


def _parse(content: Any, source: str) -> CocoFile:
    check_layout(content, source, labelled=False)
    entries = content.get("annotations")
    # every id has its place here, so that no two may differ in type alone
    images, image_errors, bad_images = _read_images(content["images"])
    categories, bad_categories = _read_categories(content["categories"])
    annotation_ids = [key for entry in entries or () if (key := as_id(entry.get("id"))) is not None]
    duplicates = [
        *_duplicates("image id", (image.id for image in images)),
        *_duplicates("annotation id", annotation_ids),
        *_duplicates("category id", (category.id for category in categories)),
    ]
    reader = _Boxes(images, categories)
    boxes = [box for index, entry in enumerate(entries or ()) if (box := reader.read(index, entry))]
    names, ambiguous, unused = _unique_names(categories, reader.seen)
    whole = [] if entries is None else _check_whole(entries, boxes, reader.findings)
    fatal = [*bad_images, *bad_categories, *duplicates, *ambiguous, *reader.fatal, *whole]
    findings = [*image_errors, *bad_categories, *duplicates, *ambiguous, *unused, *reader.findings, *whole]
    count = None if entries is None else len(entries)
    return CocoFile(source, *map(tuple, (images, names, boxes)), count, tuple(findings), tuple(fatal))


def _read_images(entries: list[dict]) -> tuple[list[CocoImage], list[Finding], list[Finding]]:
    images, findings, fatal = [], [], []
    for index, entry in enumerate(entries):
        key, file_name = as_id(entry.get("id")), entry.get("file_name")
        sides = [entry.get(side) for side in ("width", "height")]
        known = [is_number(side) and side > 0 for side in sides]
        named = isinstance(file_name, str) and bool(file_name)
        complete = zip(("id", "file_name", "width", "height"), (key is not None, named, *known), strict=True)
        lacking = [name for name, present in complete if not present]
        if lacking:
            where = f"image {entry.get('id', f'number {index}')}"
            finding = Finding("error", "incomplete image", where, f"lacks a valid {', '.join(lacking)}")
            findings.append(finding)
            if key is None:
                fatal.append(finding)
                continue
        width, height = sides if all(known) else (None, None)
        images.append(CocoImage(key, file_name if named else None, width, height))
    return images, findings, fatal


def _read_categories(entries: list[dict]) -> tuple[list[CocoCategory], list[Finding]]:
    categories, findings = [], []
    for index, entry in enumerate(entries):
        key, name = as_id(entry.get("id")), entry.get("name")
        valid = {"id": key is not None, "name": isinstance(name, str) and bool(name)}
        if all(valid.values()):
            categories.append(CocoCategory(key, name))
        else:
            lacking = " or ".join(part for part, present in valid.items() if not present)
            where = f"category {entry.get('id', f'number {index}')}"
            findings.append(Finding("error", "incomplete category", where, f"lacks a valid {lacking}"))
    return categories, findings


def _duplicates(kind: str, values: Iterable[int | str]) -> list[Finding]:
    values = list(values)
    counts = Counter(map(str, values))
    spelt: defaultdict[str, dict[str, None]] = defaultdict(dict)
    if len(counts) < len(values):
        for value in values:
            spelt[str(value)][repr(value)] = None
    findings = []
    for text, count in counts.items():
        if count == 1:
            continue
        problem = f"occurs {count} times in the file: ids must be unique"
        if len(spelt[text]) > 1:
            problem = f"occurs as {' and as '.join(spelt[text])}: write one type, each id once"
        findings.append(Finding("error", f"duplicate {kind}", f"{kind} {text}", problem))
    return findings


def _unique_names(categories: list[CocoCategory], used: Counter):
    """The categories, of each name one; the findings where that cannot be chosen; those where it was."""
    groups: defaultdict[str, list[CocoCategory]] = defaultdict(list)
    for category in categories:
        groups[category.name].append(category)
    dropped, ambiguous, unused = set(), [], []
    for name, group in groups.items():
        keys = list(dict.fromkeys(category.id for category in group))
        with_boxes = [key for key in keys if used[key]]
        if len(keys) == 1:
            continue
        where, ids = f"category name {name}", " and ".join(map(repr, keys))
        if len(with_boxes) == 1:
            dropped.update(key for key in keys if key not in with_boxes)
            problem = f"belongs to the ids {ids}; only {with_boxes[0]!r} has annotations, the rest is ignored"
            unused.append(Finding("warning", "unused category", where, problem))
        else:
            problem = f"belongs to the ids {ids}: give every category a name of its own, or merge them"
            ambiguous.append(Finding("error", "duplicate category name", where, problem))
    return [category for category in categories if category.id not in dropped], ambiguous, unused


def _check_whole(entries: list[dict], boxes: list[CocoBox], findings: list[Finding]) -> list[Finding]:
    if entries and not boxes:
        first = next(finding for finding in findings if finding.kind in DROPPED)
        problem = f"none can be used; the first: {first.where} is of the kind '{first.kind}'"
        if first.kind == "incomplete annotation":
            problem += f", it {first.what}"
        return [Finding("error", "no usable box", f"of its {len(entries)} annotations", problem)]
    if boxes and all(-0.5 <= value <= _NORMALIZED for box in boxes for value in box.bbox):
        problem = "of the file are between 0 and 1, so normalised; COCO's are (x, y, width, height) in pixels"
        return [Finding("error", "normalised boxes", "all boxes", problem)]
    return []


class _Boxes:
    """Reads annotations; collects the findings, and how often each category id is used."""

    def __init__(self, images: list[CocoImage], categories: list[CocoCategory]):
        self.images = {image.id: image for image in images}
        self.names = {category.id: category.name for category in categories}
        self.image_texts = {str(key): key for key in self.images}
        self.category_texts = {str(key): key for key in self.names}
        self.findings: list[Finding] = []
        self.fatal: list[Finding] = []
        self.seen: Counter = Counter()

    def read(self, index: int, entry: dict) -> CocoBox | None:
        """The box of an annotation; None if it is unusable."""
        before = len(self.findings)
        key, image_id, category_id = (as_id(entry.get(part)) for part in ("id", "image_id", "category_id"))
        named = f"annotation {entry.get('id', f'number {index}')}"
        where = f"{named} of image {entry.get('image_id')}"
        valid = {
            "id": key is not None or entry.get("id") is None,
            "image_id": image_id is not None,
            "category_id": category_id is not None,
            "bbox": entry.get("bbox") is not None,
        }
        lacking = [part for part, present in valid.items() if not present]
        if lacking:
            self._error("incomplete annotation", named, f"lacks a valid {', '.join(lacking)}")
        image_key = self._match("image_id", entry, where, self.image_texts)
        category_key = self._match("category_id", entry, where, self.category_texts)
        self.seen[category_key] += 1
        image = self.images.get(image_key)
        if entry.get("bbox") is not None:
            self._check_box(entry["bbox"], image, where)
        crowd = self._flag("iscrowd", entry, where)
        if self._flag("ignore", entry, where):
            problem = "is marked 'ignore', and treated as a crowd region: no example, and counts neither way"
            self._warn("ignored box", where, problem)
            crowd = True
        if any(finding.kind in DROPPED for finding in self.findings[before:]):
            return None
        x, y, w, h = map(float, entry["bbox"])
        area, mask = self._area(entry, w * h, where), self._mask(entry, image, where)
        return CocoBox(key, image_key, self.names[category_key], (x, y, w, h), area, crowd, mask)

    def _match(self, part: str, entry: dict, where: str, texts: Mapping[str, int | str]) -> int | str | None:
        given = as_id(entry.get(part))
        if given is None:
            return None
        key = match_id(given, texts)
        if key is None:
            kind, problem = "unknown image", "the file has no image with this id"
            if part == "category_id":
                kind, problem = "unknown category", f"category_id {given} is not among the categories"
            self._error(kind, where, problem)
        elif type(key) is not type(given):
            problem = f"{part} {given!r} is read as {key!r}, as the id is written where it is defined"
            self._warn("id of another type", where, problem)
        return key

    def _check_box(self, box: Any, image: CocoImage | None, where: str) -> None:
        if not is_box(box):
            self._error("invalid box", where, f"{box} is not four finite numbers (x, y, width, height)")
            return
        x, y, w, h = box
        if w <= 0 or h <= 0:
            self._error("empty box", where, f"{box} has no width or no height")
            return
        if w < 1 or h < 1:
            self._warn("tiny box", where, f"{box} is narrower than one pixel")
        if image is None or image.width is None:
            return
        problem = f"{box} (x, y, width, height) in an image of {image.width}×{image.height}"
        if x >= image.width or y >= image.height or x + w <= 0 or y + h <= 0:
            self._error("box outside the image", where, problem)
        elif min(x, y) < -1 or x + w > image.width + 1 or y + h > image.height + 1:
            self._warn("box partly outside the image", where, problem)

    def _flag(self, part: str, entry: dict, where: str) -> bool:
        flag = as_flag(entry.get(part))
        if flag is None:
            self._error(f"invalid {part}", where, f"has {part} {entry[part]!r}, expected 0 or 1")
            self.fatal.append(self.findings[-1])
        return bool(flag)

    def _area(self, entry: dict, computed: float, where: str) -> float:
        area = entry.get("area")
        if is_number(area) and not isinstance(area, bool) and area > 0:
            return float(area)
        kind = "empty area" if is_number(area) else "missing area"
        self._warn(kind, where, f"has area {area!r}, read as width · height = {computed:g}")
        return computed

    def _mask(self, entry: dict, image: CocoImage | None, where: str):
        size = None if image is None or image.width is None else (image.height, image.width)
        try:
            return read_mask(entry.get("segmentation"), size)
        except ValueError as error:
            self._error("invalid mask", where, f"has {error}; its mask is dropped")
            return None

    def _error(self, kind: str, where: str, problem: str) -> None:
        self.findings.append(Finding("error", kind, where, problem))

    def _warn(self, kind: str, where: str, problem: str) -> None:
        self.findings.append(Finding("warning", kind, where, problem))
