"""A COCO data set as images with boxes: its annotation files, and the images that they name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from hardnet_suite.data.boxes import (
    OUTLINES,
    Box,
    BoxData,
    BoxImage,
    clip_box,
    images_beside,
    shared_images,
    split_name,
    told_left_out,
    upright_sizes,
)
from hardnet_suite.data.coco.entries import DROPPED
from hardnet_suite.data.coco.files import missing_images, wrong_size
from hardnet_suite.data.coco.hints import missing_image_cure
from hardnet_suite.data.coco.reader import read_coco
from hardnet_suite.data.coco.records import CocoBox, CocoFile, CocoImage
from hardnet_suite.data.files import is_file
from hardnet_suite.data.report import Finding, example
from hardnet_suite.errors import UserError

FORMAT = "COCO"
NO_ANNOTATIONS = "no annotations"  # the findings of files of test sets
_INSTANCES = "instances_"
_IMAGE_INFO = "image_info_"  # of COCO's splits without annotations
_OTHER_TASKS = ("captions_", "panoptic_", "person_keypoints_", "stuff_", _IMAGE_INFO)  # of COCO
_UNLABELLED = re.compile(r"un-?label", re.IGNORECASE)
_YEAR = re.compile(r"(19|20)\d\d$")
_START = 65536  # bytes in which a COCO file usually shows its keys
_LONGEST = 300  # characters of a finding; a polygon in the place of a box would fill pages
_PART = 1 << 24  # bytes that are read at once


def annotation_files(source: Path, splits: Sequence[str] | None = None) -> dict[str, Path]:
    """Split -> annotation file of a COCO data set; empty where there is none.

    ``source`` is a JSON file, or a folder with annotations/instances_SPLIT.json (a year at the end is no part
    of the split's name), or with SPLIT/*.json as Roboflow writes it, or with SPLIT.json or any one file.
    Beside instances_SPLIT.json, COCO's other files (captions, keypoints, panoptic, stuff, image_info) are
    left out.

    Args:
        source: see above.
        splits: which of them; None: all.

    Raises:
        UserError: two files are of one split, or a split is not there.
    """
    files = _files_by_split(source)
    if missing := [name for name in splits or () if files and name not in files]:
        raise UserError(f"no split {missing[0]} in {source} (there are: {', '.join(files)})")
    chosen = {name: files[name] for name in splits or files if name in files}
    for split, paths in chosen.items():
        if len(paths) > 1:
            raise UserError(
                f"{paths[0]} and {paths[1]} are both of the split {split}: give the path of one of them"
            )
    return {split: path for split, (path,) in chosen.items()}


def is_coco(folder: Path) -> bool:
    """Whether a folder has annotation files, see ``annotation_files``."""
    return bool(_files_by_split(folder))


def _files_by_split(source: Path) -> dict[str, list[Path]]:
    if source.is_file():
        return {_split_of(source): [source]}
    files: dict[str, list[Path]] = {}
    folders = [source / "annotations", *_subfolders(source), source]
    for folder in filter(Path.is_dir, folders):
        paths = sorted(folder.glob("*.json"))
        has_instances = any(map(_is_instances, paths))
        for path in paths:
            if (has_instances and path.name.startswith(_OTHER_TASKS)) or not _looks_like_coco(path):
                continue
            files.setdefault(_split_of(path), []).append(path)
        if files and folder == source / "annotations":
            break
    order = {name: number for number, name in enumerate(("train", "val", "test"))}
    return dict(sorted(files.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def read_coco_folder(source: str | Path, *, splits: Sequence[str] | None = None) -> BoxData:
    """The images and boxes of a COCO data set, with polygons as outlines.

    Other masks, and images that no annotation file names, are left out, and told.

    Args:
        source: see ``annotation_files``.
        splits: which of them; None: all.

    Raises:
        UserError: no such files, they cannot be used, images are missing or of another size than stated.
    """
    source = Path(source)
    files = annotation_files(source, splits)
    if not files:
        raise UserError(
            f"{source} has no COCO annotations: expected annotations/instances_train.json or alike"
        )
    findings: list[Finding] = []
    around = {path.parent: None for path in files.values()} if source.is_dir() and splits is None else {}
    aside = [path.name for folder in around for path in sorted(folder.glob(f"{_IMAGE_INFO}*.json"))]
    if left_out := [name for name in aside if name not in {path.name for path in files.values()}]:
        problem = f"left out: {', '.join(left_out)}, without annotations"
        findings.append(Finding("warning", "splits", source.name, problem))
    read: dict[str, list[BoxImage]] = {}
    contents: dict[Path, CocoFile] = {}
    folders: set[Path] = set()
    for split, path in files.items():
        folder = _image_folder(path, split, source if source.is_dir() else path.parent)
        content = contents[path] = read_coco(path, image_folder=folder).require()
        _note_findings(content, findings)
        read[split] = _images(content, folder, path, findings)
        folders |= {path.parent, *(image.path.parent for image in read[split])}
    read = _with_unique_names(read)
    findings += shared_images(read)
    if splits is None and _is_whole(source):
        named = [image.path for images in read.values() for image in images]
        beside = images_beside(named, {path.parent for path in named})
        findings += told_left_out(beside, "that no annotation file names")
    classes = dict.fromkeys(name for content in contents.values() for name in content.category_ids)
    category_ids, lost = _kept_ids(contents)
    return BoxData(
        source,
        FORMAT,
        tuple(classes),
        read,
        tuple(findings),
        frozenset(folders),
        category_ids=category_ids,
        lost_ids=tuple(lost),
    )


def _is_whole(source: Path) -> bool:
    """Whether the images beside those of a data set are of no other split of it."""
    if source.is_dir():
        return True
    return not any(path != source and _looks_like_coco(path) for path in source.parent.glob("*.json"))


def _kept_ids(contents: Mapping[Path, CocoFile]) -> tuple[dict[str, int], list[Finding]]:
    """The ids of the categories where all files agree on them, and what to tell of ids that are not kept."""
    fate = "they are numbered from 1 in COCO files: results with these ids do not fit the source"
    lost = []
    for path, content in contents.items():
        if (
            text := next((image.id for image in content.images if isinstance(image.id, str)), None)
        ) is not None:
            problem = f"{text!r} is no integer, as pycocotools and others need; {fate}"
            lost.append(Finding("warning", "image ids", path.name, problem))
    ids: dict[str, int | str] = {}
    names: dict[int | str, str] = {}
    for path, content in contents.items():
        for name, key in content.category_ids.items():
            if isinstance(key, str):
                problem = f"{key!r}, that of {name}, is no integer"
            elif ids.setdefault(name, key) != key:
                problem = f"{name} has {ids[name]} in one file and {key} in another"
            elif names.setdefault(key, name) != name:
                problem = f"{key} is that of {names[key]} in one file and of {name} in another"
            else:
                continue
            return {}, [*lost, Finding("warning", "category ids", path.name, f"{problem}; {fate}")]
    return ids, lost


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and split_name(path.name))


def _is_instances(path: Path) -> bool:
    return path.name.startswith(_INSTANCES)


def _split_of(path: Path) -> str:
    """The split that a file's name tells, else its folder's, else "train"."""
    name = path.name.removesuffix(".json")
    stem = _YEAR.sub("", name.removeprefix(_INSTANCES).removeprefix(_IMAGE_INFO)).strip("_-")
    own = split_name(stem) or split_name(path.parent.name)
    if own is None and (_is_instances(path) or name.startswith(_IMAGE_INFO)):
        own = stem
    if own is None and _UNLABELLED.search(stem):
        own = "unlabeled"
    return own or next(filter(None, map(split_name, re.split(r"[._-]", stem))), "train")


def _looks_like_coco(path: Path) -> bool:
    """Whether a JSON file shows two of COCO's keys; beyond its beginning and end where these show one."""
    keys = {b'"images"', b'"annotations"', b'"categories"'}
    try:
        with path.open("rb") as file:
            start = file.read(_START)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _START))
            text = start + file.read(_START)
            shown = {key for key in keys if key in text}
            if not shown or not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return False
            file.seek(0)
            end = b""  # of the part before, for a key that is cut
            while len(shown) < 2 and (part := file.read(_PART)):
                shown |= {key for key in keys if key in end + part}
                end = part[-20:]
    except OSError:
        return False
    return len(shown) > 1


def _image_folder(path: Path, split: str, root: Path) -> Path:
    """The folder that the file names of an annotation file are relative to.

    Raises:
        UserError: the images are in none of the usual places.
    """
    images = [image for image in read_coco(path).images if image.file_name is not None][:20]
    stem = path.stem.removeprefix(_INSTANCES)
    tops = dict.fromkeys((root, path.parent, path.parent.parent))
    inner = (
        "images",
        f"images/{stem}",
        stem,
        split,
        f"{split}/images",
        f"images/{split}",
        "",
        "valid",
        "data",
    )
    for top in tops:
        for name in inner:
            folder = top / name
            if folder.is_dir() and images and any(_exists(folder, image) for image in images):
                return folder
    if not images:
        raise UserError(f'{path} names no image: none of its "images" has a file_name')
    places = dict.fromkeys((stem, split, "images", f"images/{split}"))
    raise UserError(
        f"{path}: no image {images[0].file_name} in {root}, nor in its folders {' or '.join(places)}"
    )


def _exists(folder: Path, image: CocoImage) -> bool:
    return is_file(folder / image.file_name) or is_file(folder / image.file_name.replace("\\", "/"))


def _note_findings(content: CocoFile, findings: list[Finding]) -> None:
    """Adds one finding per kind, of which a file may have thousands."""
    groups: dict[str, list[Finding]] = {}
    for finding in content.findings:
        groups.setdefault(finding.kind, []).append(finding)
    for kind, group in groups.items():
        dropped = kind in DROPPED
        what = f"{kind}, " if dropped else ""
        start = f"{len(group)} {'boxes' if dropped else 'times'}, {what}e.g. " if len(group) > 1 else what
        text = start + example(group[0], _LONGEST - len(start))
        findings.append(
            Finding("warning", "box dropped" if dropped else kind, Path(content.source).name, text)
        )


def _images(content: CocoFile, folder: Path, path: Path, findings: list[Finding]) -> list[BoxImage]:
    missing = missing_images(content.images, folder)
    if missing:
        name = missing[0].file_name
        more = f" (and {len(missing) - 1} more of {len(content.images)})" if len(missing) > 1 else ""
        cure = missing_image_cure(name, folder, in_config=False)
        raise UserError(f"{path}: no image {folder / name}{more}: {cure}")
    unnamed = next((image for image in content.images if image.file_name is None), None)
    if unnamed is not None:
        raise UserError(f"{path}: image {unnamed.id} has no file_name")
    places = [Path(os.path.normpath(folder / image.file_name)) for image in content.images]
    sizes = upright_sizes(places)
    polygons = sum(isinstance(box.segmentation, list) for box in content.boxes)
    encoded = sum(box.segmentation is not None for box in content.boxes) - polygons
    for kind, count in ((OUTLINES, polygons), ("masks left out", encoded)):
        if count:
            problem = f"{count} of {len(content.boxes)} objects have them; their boxes are used"
            findings.append(Finding("warning", kind, path.name, problem))
    if not content.annotations:
        problem = f"its {len(content.images)} images have no boxes (is it a test set?)"
        findings.append(Finding("warning", NO_ANNOTATIONS, path.name, problem))
    images = []
    has_texts = any(isinstance(image.id, str) for image in content.images)
    for image, place in zip(content.images, places, strict=True):
        if wrong := wrong_size(image, folder):
            raise UserError(f"{path}: {wrong.where}: {wrong.what}")
        boxes = [_box(box, sizes[place], path, findings) for box in content.boxes_of_image[image.id]]
        name = PurePosixPath(os.path.relpath(place, folder).replace(os.sep, "/")).as_posix()
        number = None if has_texts else image.id
        file = path if content.annotations else None
        images.append(BoxImage(place, name, sizes[place], tuple(filter(None, boxes)), file, id=number))
    return images


def _box(box: CocoBox, size: tuple[int, int], path: Path, findings: list[Finding]) -> Box | None:
    x, y, width, height = box.bbox
    bbox, area = box.bbox, None if box.area == width * height else box.area
    if x < 0 or y < 0 or x + width > size[0] or y + height > size[1]:
        bbox, changes = clip_box((x, y, x + width, y + height), size)
        where = f"{path.name}, annotation {box.id}, {box.category}"
        findings += [Finding("warning", kind, where, what) for kind, what in changes]
        area = None if changes else area
    polygons = box.segmentation if isinstance(box.segmentation, list) else ()
    outline = tuple(tuple(polygon.tolist()) for polygon in polygons)
    return None if bbox is None else Box(box.category, bbox, box.iscrowd, outline, area=area)


def _with_unique_names(splits: dict[str, list[BoxImage]]) -> dict[str, list[BoxImage]]:
    """The images, each below its split where two splits have different images of one name."""
    places: dict[str, Path] = {}
    clash = any(
        places.setdefault(image.name, image.path) != image.path or image.name.startswith("..")
        for images in splits.values()
        for image in images
    )
    if not clash:
        return splits
    return {
        split: [replace(image, name=f"{split}/{image.name.replace('../', '')}") for image in images]
        for split, images in splits.items()
    }
