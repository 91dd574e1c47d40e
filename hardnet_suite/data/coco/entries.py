"""The entries of a COCO annotation file, one by one: each becomes a record, or a finding says why not."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from hardnet_suite.data.classes import is_class_name
from hardnet_suite.data.coco.masks import read_mask, require_mask_of_box
from hardnet_suite.data.coco.records import CocoBox, CocoCategory, CocoImage
from hardnet_suite.data.coco.values import (
    LARGEST_NUMBER,
    as_flag,
    as_id,
    as_side,
    is_box,
    match_id,
)
from hardnet_suite.data.report import Finding
from hardnet_suite.numeric import is_number

_SLACK = 2  # pixels by which a box may be smaller than its mask, as rounded
_OF_ROBOFLOW = frozenset({"none"})  # supercategory of its groups, one of which a class may be called like
NO_AREA = "has no area"  # of an annotation: what many files leave out
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


def read_images(entries: list[dict]) -> tuple[list[CocoImage], list[Finding], list[Finding]]:
    """The images that have an id, every finding, and those of images without an id."""
    images, findings, fatal = [], [], []
    for index, entry in enumerate(entries):
        key, file_name = as_id(entry.get("id")), entry.get("file_name")
        sides = [as_side(entry.get(side)) for side in ("width", "height")]
        known = [side is not None for side in sides]
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


def read_categories(entries: list[dict]) -> tuple[list[CocoCategory], list[Finding]]:
    """The complete categories, and findings of the others."""
    categories, findings = [], []
    for index, entry in enumerate(entries):
        key, name = as_id(entry.get("id")), entry.get("name")
        valid = {"id": key is not None, "name": is_class_name(name)}
        if all(valid.values()):
            group = entry.get("supercategory")
            categories.append(CocoCategory(key, name, group if isinstance(group, str) else None))
        else:
            lacking = " or ".join(part for part, present in valid.items() if not present)
            where = f"category {entry.get('id', f'number {index}')}"
            findings.append(Finding("error", "incomplete category", where, f"lacks a valid {lacking}"))
    return categories, findings


def repeated_files(images: list[CocoImage]) -> list[Finding]:
    """Findings of files that two images name: each would lack the boxes of the other."""
    groups: defaultdict[str, list[int | str]] = defaultdict(list)
    for image in images:
        if image.file_name is not None:
            groups[os.path.normpath(image.file_name.replace("\\", "/"))].append(image.id)
    return [
        Finding(
            "error",
            "duplicate file name",
            f"file_name {name}",
            f"belongs to the images {' and '.join(map(repr, keys[:3]))}: merge them, or correct one",
        )
        for name, keys in groups.items()
        if len(set(map(str, keys))) > 1
    ]


def duplicates(kind: str, values: Iterable[int | str]) -> list[Finding]:
    """Findings of ids that occur twice, or that differ in type alone, so that no reference is ambiguous."""
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


def unique_names(categories: list[CocoCategory], used: Counter):
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
        why = "has annotations"
        if not with_boxes and all(category.supercategory in _OF_ROBOFLOW | {name} for category in group):
            with_boxes = [category.id for category in group if category.supercategory == name]
            why = "is in the supercategory of that name"
        if len(with_boxes) == 1:
            dropped.update(key for key in keys if key not in with_boxes)
            problem = f"belongs to the ids {ids}; only {with_boxes[0]!r} {why}, the rest is ignored"
            unused.append(Finding("warning", "unused category", where, problem))
        else:
            problem = f"belongs to the ids {ids}: give every category a name of its own, or merge them"
            ambiguous.append(Finding("error", "duplicate category name", where, problem))
    return [category for category in categories if category.id not in dropped], ambiguous, unused


def _largest(image: CocoImage | None) -> float:
    """The number beyond which a coordinate in an image is an error: ten times its larger side."""
    if image is None or image.width is None:
        return LARGEST_NUMBER
    return 10 * max(image.width, image.height)


class BoxReader:
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
            if {"image_id", "category_id"} & {*lacking}:  # whose it is cannot be known
                self.fatal.append(self.findings[-1])
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
        if len(self.findings) > before and any(f.kind in DROPPED for f in self.findings[before:]):
            return None
        x, y, w, h = map(float, entry["bbox"])
        area = self._area(entry, (w, h), where)
        mask = self._mask(entry, (x, y, w, h), image, where)
        return CocoBox(key, image_key, self.names[category_key], (x, y, w, h), area, crowd, mask)

    def _match(self, part: str, entry: dict, where: str, texts: Mapping[str, int | str]) -> int | str | None:
        given = as_id(entry.get(part))
        if given is None:
            return None
        key = match_id(given, texts)
        if key is None:
            plural = "images" if part == "image_id" else "categories"
            problem = f"has {part} {given!r}, which is not among the {plural}: correct it, or add the entry"
            self._error(f"unknown {part.removesuffix('_id')}", where, problem)
            self.fatal.append(self.findings[-1])
        elif type(key) is not type(given):
            problem = f"{part} {given!r} is read as {key!r}, as the id is written where it is defined"
            self._warn("id of another type", where, problem)
        return key

    def _check_box(self, box: Any, image: CocoImage | None, where: str) -> None:
        if not is_box(box):
            self._error("invalid box", where, f"{box} is not four finite numbers (x, y, width, height)")
            return
        x, y, w, h = box
        if max(map(abs, box)) > _largest(image):
            self._error("invalid box", where, f"{box} lies far beyond any image")
            return
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

    def _area(self, entry: dict, size: tuple[float, float], where: str) -> float:
        """The stated area, unless a mask in the box, rounded outwards, cannot have it."""
        area, computed = entry.get("area"), size[0] * size[1]
        if is_number(area) and 0 < area <= (size[0] + _SLACK) * (size[1] + _SLACK):
            return float(area)
        kind = "missing area"
        if is_number(area):
            kind = "empty area" if area <= 0 else "area beyond the box"
        stated = NO_AREA if area is None else f"has area {area!r}"
        self._warn(kind, where, f"{stated}, read as width · height = {computed:g}")
        return computed

    def _mask(self, entry: dict, box: tuple, image: CocoImage | None, where: str):
        size = None if image is None or image.width is None else (image.height, image.width)
        try:
            mask = read_mask(entry.get("segmentation"), size)
            if mask is not None:
                require_mask_of_box(mask, box, _largest(image))
            return mask
        except ValueError as error:
            self._error("invalid mask", where, f"has {error}; its mask is dropped")
            return None

    def _error(self, kind: str, where: str, problem: str) -> None:
        self.findings.append(Finding("error", kind, where, problem))

    def _warn(self, kind: str, where: str, problem: str) -> None:
        self.findings.append(Finding("warning", kind, where, problem))
