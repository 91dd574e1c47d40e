"""Images with boxes, whatever format they were read from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.files import copies_across, real_path
from hardnet_suite.data.images import IMAGE_SUFFIXES, header_sizes, walk_files
from hardnet_suite.data.masks import MaskImage
from hardnet_suite.data.report import Finding, counted, escaped
from hardnet_suite.errors import UserError

BoxTuple = tuple[float, float, float, float]
OUTLINES = "polygons"  # the findings that a target with outlines has no need to tell
_MOST_COLUMNS = 10  # classes of a table that has a column for each
_SLACK = 0.5  # pixels beyond the edge that rounding explains
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Box:
    """A valid object.

    Attributes:
        name: its class.
        bbox: (x, y, width, height) in pixels of the upright image, counted from 0.
        difficult: it counts neither as detected nor as missed: VOC's difficult, COCO's iscrowd.
        outline: the polygons (x1, y1, x2, y2 …) that ``bbox`` encloses, in pixels and as the source has
            them, so that they may leave the image; empty where it has none.
        area: of its mask in pixels, as COCO's files state it; None: that of ``bbox``.
    """

    name: str
    bbox: BoxTuple
    difficult: bool = False
    outline: tuple[tuple[float, ...], ...] = ()
    area: float | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class BoxImage:
    """An image and its boxes.

    Attributes:
        path: the file.
        name: its path below the folder of images in a converted data set, with "/".
        size: (width, height) in pixels of the upright image.
        boxes: its objects; empty for a background image.
        annotation: the file that they were read from; None where there is none, or one without annotations.
        id: its id in a COCO file; None where that has no integers for ids, or in other formats.
    """

    path: Path
    name: str
    size: tuple[int, int]
    boxes: tuple[Box, ...] = ()
    annotation: Path | None = None
    id: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class BoxData:
    """What a reader made of a data set.

    Attributes:
        source: the folder or file.
        format: its format, as messages call it.
        classes: the names in the data set's own order; None: it has none, and classes are sorted by name.
        splits: name -> images.
        findings: what was dropped, changed, or is odd.
        folders: every folder that holds files of the data set.
        category_ids: class -> its id in all of the COCO files; empty where they have no such ids, or in other
            formats.
        lost_ids: what to tell where ids of a COCO data set are not kept in COCO files.
    """

    source: Path
    format: str
    classes: tuple[str, ...] | None
    splits: Mapping[str, Sequence[BoxImage]]
    findings: tuple[Finding, ...]
    folders: frozenset[Path]
    category_ids: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    lost_ids: tuple[Finding, ...] = field(default=(), kw_only=True)

    @property
    def images(self) -> list[BoxImage]:
        """The images of all splits; one that is in two, where its boxes may differ, is there twice."""
        return [image for images in self.splits.values() for image in images]

    @property
    def counts(self) -> Counter[str]:
        """Class -> number of its boxes in all splits."""
        return count_boxes(self.images)

    def choose_classes(self, classes: Sequence[str] | None = None) -> tuple[tuple[str, ...], list[Finding]]:
        """The classes to write, and a finding for each whose boxes are dropped.

        Args:
            classes: the names in the order of their labels; None: all.

        Raises:
            UserError: a name is given twice, or no box is left.
        """
        if classes is not None:
            require_distinct(classes)
            classes = class_names(list(classes), "the list of classes")
        counts = self.counts
        chosen = tuple(classes or self.classes or sorted(counts))
        if not counts.keys() & {*chosen}:
            what = "any class" if classes is None else ", ".join(chosen)
            raise UserError(f"{self.source} has no box of {what}")
        dropped = sorted(counts.keys() - {*chosen})
        message = "is not among the chosen classes, boxes dropped: {}"
        return chosen, [
            Finding("warning", "class left out", name, message.format(counts[name])) for name in dropped
        ]


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
        """Plain text: one row per split, or of many classes one row per class; then every finding."""
        if len(self.classes) > _MOST_COLUMNS:
            return self._with_findings(self._table_of_classes())
        width = max(5, *map(len, self.splits))
        lines = ["  ".join(["split".ljust(width), "images", " boxes", *self.classes])]
        for name, split in self.splits.items():
            counts = [f"{split.per_class[label]:>{len(label)}}" for label in self.classes]
            lines.append("  ".join([name.ljust(width), f"{split.images:>6}", f"{split.boxes:>6}", *counts]))
        return self._with_findings(lines)

    def _table_of_classes(self) -> list[str]:
        splits = self.splits.values()
        rows = {
            "": [*self.splits],
            "images": [split.images for split in splits],
            "boxes": [split.boxes for split in splits],
            **{f"  {name}": [split.per_class[name] for split in splits] for name in self.classes},
        }
        width = max(map(len, rows))
        widths = [max(7, len(name)) for name in self.splits]
        return [
            "  ".join([name.ljust(width), *(f"{cell!s:>{w}}" for cell, w in zip(cells, widths, strict=True))])
            for name, cells in rows.items()
        ]

    def _with_findings(self, lines: list[str]) -> str:
        for finding in self.findings:
            lines.append(f"{finding.kind}: {finding.where}: {finding.what}".replace("\n", "\\n"))
        return escaped("\n".join(lines))


def require_distinct(classes: Sequence[str]) -> None:
    """UserError where the names of classes repeat."""
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise UserError(f"repeated in the classes: {', '.join(repeated)}; name each class once")


def count_boxes(images: Iterable[BoxImage]) -> Counter[str]:
    """Class -> number of its boxes."""
    return Counter(box.name for image in images for box in image.boxes)


def summary(images: Sequence[BoxImage], classes: Sequence[str]) -> Split:
    """The counts of one split, of the given classes."""
    counts = count_boxes(images)
    per_class = {name: counts[name] for name in classes}
    return Split(len(images), sum(per_class.values()), per_class)


def split_name(folder: str) -> str | None:
    """ "train", "val" or "test" of a folder called so or alike ("valid"); None for other folders."""
    return _SPLITS.get(folder.lower())


def beside_splits(root: Path, folders: Iterable[str], used: Iterable[str], *, depth: int = 2) -> str:
    """The images of folders that are in none of those of the splits, in words; "" where there are none.

    Args:
        root: the folder that the others are relative to.
        folders: where to look.
        used: the folders of the splits.
        depth: how deep a folder is named.

    Returns:
        For example "images (1 image), images/street (12 images)".
    """
    places = [(root / folder).resolve() for folder in used]
    files = [
        path
        for folder in folders
        if (root / folder).is_dir()
        for path in walk_files(root / folder, IMAGE_SUFFIXES)
    ]
    inner = {path.parent: path.parent.resolve() for path in files}
    beside = {
        path: None for path in files if not any(inner[path.parent].is_relative_to(place) for place in places)
    }
    counts = Counter("/".join(path.relative_to(root).parts[:-1][:depth]) or "." for path in beside)
    return ", ".join(f"{place} ({counted(count, 'image')})" for place, count in sorted(counts.items()))


def images_beside(named: Iterable[Path], folders: Iterable[Path]) -> list[Path]:
    """The images of folders, and of folders in them, that are none of the named ones, by whatever path."""
    named = {*named}
    files = {path for folder in {*folders} for path in walk_files(folder, IMAGE_SUFFIXES)}
    left = sorted(files - named)
    real = {real_path(path) for path in named} if left else set()
    return [path for path in left if real_path(path) not in real]


def told_left_out(files: Sequence[Path], reason: str, kind: str = "images left out") -> list[Finding]:
    """A warning with the number and the first names of files that a data set does not use; none for none.

    Args:
        files: their paths.
        reason: what is said of them after the number.
        kind: of the finding.
    """
    if not files:
        return []
    names = ", ".join(path.name for path in files[:3]) + (", …" if len(files) > 3 else "")
    return [Finding("warning", kind, str(files[0].parent), f"{len(files)} {reason}: {names}")]


def target_name(path: Path, root: Path, split: str) -> str:
    """The ``name`` of an image: its path in ``root``, or in the folder that holds ``root``, without folders
    called images; elsewhere its file name below its split."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    top = next((folder for folder in (root, root.parent) if path.is_relative_to(folder)), None)
    if top is None:
        return f"{split}/{path.name}"
    *folders, name = path.relative_to(top).parts
    return "/".join([*without_image_folders(folders), name])


def without_image_folders(parts: Iterable[str]) -> list[str]:
    """The folders of a path that are not called images, by which YOLO's readers find labels."""
    return [part for part in parts if part not in ("images", "JPEGImages")]


def upright_sizes(paths: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """(width, height) of each upright image; reads the headers alone.

    Raises:
        UserError: a file is not an image.
    """
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(paths, pool.map(lambda path: header_sizes(path)[1], paths), strict=True))


def size_conflict(stated: tuple[float | None, float | None], size: tuple[int, int]) -> str | None:
    """A stated (width, height) in words where a side that is stated, not None, is not that of the image."""
    if all(side in (None, own) for side, own in zip(stated, size, strict=True)):
        return None
    return "×".join("?" if side is None else f"{side:.10g}" for side in stated)


def outline_bounds(polygons: Iterable[Sequence[float]]) -> BoxTuple:
    """(x1, y1, x2, y2) of polygons (x1, y1, x2, y2 …)."""
    values = [value for polygon in polygons for value in polygon]
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def clip_box(corners: BoxTuple, size: tuple[int, int]) -> tuple[BoxTuple | None, list[tuple[str, str]]]:
    """A box within its image, and what was changed.

    Args:
        corners: (x1, y1, x2, y2) in pixels.
        size: (width, height) of the image.

    Returns:
        (x, y, width, height), None where nothing of it is in the image or it has no extent; then (kind,
        message) of each change beyond what rounding explains.
    """
    x1, y1, x2, y2 = corners
    width, height = size
    if x2 <= x1 or y2 <= y1:
        return None, [("box dropped", "it has no width or no height")]
    left, top, right, bottom = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
    if right <= left or bottom <= top:
        return None, [("box dropped", f"it lies outside the image of {width}×{height}")]
    beyond = max(left - x1, top - y1, x2 - right, y2 - bottom)
    changes = [("box cut", f"it leaves the image of {width}×{height}")] if beyond > _SLACK else []
    return (left, top, right - left, bottom - top), changes


def shared_images(splits: Mapping[str, Sequence[BoxImage | MaskImage]]) -> list[Finding]:
    """A warning for every image that is in several splits, and one for all copies in another split."""
    names: dict[Path, list[str]] = {}
    for split, images in splits.items():
        for image in images:
            names.setdefault(image.path, []).append(split)
    findings = [
        Finding("warning", "image in several splits", path.name, f"is in {' and '.join(of_image)}")
        for path, of_image in names.items()
        if len(of_image) > 1
    ]
    told = copies_told({split: [image.path for image in images] for split, images in splits.items()})
    return [*findings, *([Finding("warning", "image in several splits", *told)] if told else [])]


def copies_told(splits: Mapping[str, Sequence[Path]]) -> tuple[str, str] | None:
    """Which image of a split has a copy in another one, and what of it; None where there are no copies."""
    copies = copies_across(splits)
    if not copies:
        return None
    first, other = copies[0]
    more = f", and {len(copies) - 1} more have copies in other splits" if len(copies) > 1 else ""
    return str(first), f"is the same image as {other}{more}"
