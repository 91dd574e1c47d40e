"""The one reading of a COCO annotation file, for training, scoring, checks and drawings.

The rules:

- An id is an integer or a string; 1.0 is read as 1, booleans are refused. A reference that differs from the
  id only in type ("1" for 1) is matched, with a warning; so no two ids may differ only in type.
- Labels are resolved by the name of the category. Two categories of one name are an error, unless only one
  of them has annotations, or none has and one is in the other, a group as Roboflow writes it: the other is
  ignored, with a warning.
- A box that is unusable (invalid, empty, outside its image) is an error in ``findings`` and is dropped
  everywhere, in training as in scoring.
- ``width`` and ``height`` are integers from 1; 64.0 is read as 64.
- Where an image states no width and height, those of its file are used, if the folder is known.
- Backslashes in a file name are read as / if such a file exists, with a warning.
- ``area``: width · height where it is missing, no number, not above 0, or larger than the box rounded
  outwards, with a warning.
- ``iscrowd``: 0, 1, false, true, or these as strings; missing is 0.
- ``ignore``: as ``iscrowd``, and such a box is treated as a crowd region, with a warning: training takes no
  example from it, and in scoring it counts neither way.
- ``segmentation``: a mask that is malformed, or does not meet its box, is an error and is dropped; its box
  remains.
- Nothing can be used where ids or file names are missing or not unique, an id refers to nothing, every box is
  unusable, or half of the boxes or more are normalised (fewer are a warning): ``CocoFile.require`` raises.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardnet_suite.data.coco.entries import (
    DROPPED,
    BoxReader,
    duplicates,
    read_categories,
    read_images,
    repeated_files,
    unique_names,
)
from hardnet_suite.data.coco.files import with_sizes, with_slashes
from hardnet_suite.data.coco.layout import check_layout, read_json
from hardnet_suite.data.coco.records import CocoBox, CocoFile, CocoImage
from hardnet_suite.data.coco.values import as_id, is_normalized
from hardnet_suite.data.report import Finding

# real path, folder of the images -> (time and size of the file), records
_cache: dict[tuple[str, str | None], tuple[tuple[int, int], CocoFile]] = {}


def read_coco(
    source: str | Path | Mapping[str, Any] | CocoFile,
    name: str | None = None,
    *,
    image_folder: str | Path | None = None,
) -> CocoFile:
    """The records of a COCO annotation file; a file is parsed once per process, until it changes.

    Args:
        source: a path, the content of a file, or records, which are returned as they are.
        name: what errors call the content.
        image_folder: the folder of the images. Where an image has no stated size, that of its file is read,
            and its boxes are checked against it. None: such boxes are not checked.

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
    key = path, None
    if stamp is None or key not in _cache or _cache[key][0] != stamp:
        for known in [known for known in _cache if known[0] == path]:
            del _cache[known]
        content = _parse(read_json(source), str(source))
        if stamp is None:
            return content
        _cache[key] = stamp, content
    if image_folder is not None and any(map(_needs_folder, _cache[key][1].images)):
        key = path, str(image_folder)
        if key not in _cache:
            content = _parse(read_json(source), str(source), image_folder)
            if any(map(_needs_folder, content.images)):  # a file that may be added yet
                return content
            _cache[key] = stamp, content
    content = _cache[key][1]
    if content.source == str(source):
        return content
    return replace(content, source=str(source))  # another path of the file


def _needs_folder(image: CocoImage) -> bool:
    return image.width is None or "\\" in (image.file_name or "")


def _parse(content: Any, source: str, image_folder: str | Path | None = None) -> CocoFile:
    check_layout(content, source, labelled=False)
    entries = content.get("annotations")
    images, image_errors, bad_images = read_images(content["images"])
    if image_folder is not None:
        images, spelt_otherwise = with_slashes(images, image_folder)
        image_errors += spelt_otherwise
        images = with_sizes(images, image_folder)
    categories, bad_categories = read_categories(content["categories"])
    annotation_ids = [key for entry in entries or () if (key := as_id(entry.get("id"))) is not None]
    repeated = [
        *duplicates("image id", (image.id for image in images)),
        *repeated_files(images),
        *duplicates("annotation id", annotation_ids),
        *duplicates("category id", (category.id for category in categories)),
    ]
    reader = BoxReader(images, categories)
    boxes = [box for index, entry in enumerate(entries or ()) if (box := reader.read(index, entry))]
    names, ambiguous, unused = unique_names(categories, reader.seen)
    whole = [] if entries is None else _check_whole(entries, boxes, reader.findings)
    wrong = [finding for finding in whole if finding.level == "error"]
    fatal = [*bad_images, *bad_categories, *repeated, *ambiguous, *reader.fatal, *wrong]
    findings = [*image_errors, *bad_categories, *repeated, *ambiguous, *unused, *reader.findings, *whole]
    count = None if entries is None else len(entries)
    return CocoFile(source, *map(tuple, (images, names, boxes)), count, tuple(findings), tuple(fatal))


def _check_whole(entries: list[dict], boxes: list[CocoBox], findings: list[Finding]) -> list[Finding]:
    if entries and not boxes:
        first = next(finding for finding in findings if finding.kind in DROPPED)
        problem = f"none can be used; the first: {first.where} is of the kind '{first.kind}'"
        if first.kind == "incomplete annotation":
            problem += f", it {first.what}"
        return [Finding("error", "no usable box", f"of its {len(entries)} annotations", problem)]
    normalized = sum(is_normalized(box.bbox) for box in boxes)
    if not normalized:
        return []
    where = "all boxes" if normalized == len(boxes) else f"{normalized} of the {len(boxes)} boxes"
    problem = "of the file are between 0 and 1, so normalised; COCO's are (x, y, width, height) in pixels"
    # a few may be true boxes of a pixel in the corner of an image
    level = "error" if 2 * normalized >= len(boxes) else "warning"
    return [Finding(level, "normalised boxes", where, problem)]
