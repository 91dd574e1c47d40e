"""Checks of COCO detection data sets: what is wrong with one, before training does."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hardnet_suite.data.coco.entries import DROPPED, NO_AREA
from hardnet_suite.data.coco.files import missing_images, wrong_size
from hardnet_suite.data.coco.hints import missing_image_cure, suspect_corners
from hardnet_suite.data.coco.reader import read_coco
from hardnet_suite.data.coco.records import CocoFile, CocoImage
from hardnet_suite.data.images import image_size
from hardnet_suite.data.report import Finding, Report, brief_lines, counted
from hardnet_suite.errors import UserError

# the kinds of findings whose boxes or categories are used, but not as the file has them
_EXPLAINED = 20  # missing images whose folders are looked into
_READ_OTHERWISE = frozenset(
    {
        "ignored box",
        "id of another type",
        "unused category",
        "normalised boxes",
        "missing area",
        "empty area",
        "area beyond the box",
    }
)
_COCO_NAMES = ("instances_train2017.json", "instances_val2017.json")


@dataclass(frozen=True, kw_only=True)
class CocoReport(Report):
    """What an annotation file holds, and what is wrong with it.

    Attributes:
        annotation_file: its path.
        images: number of images.
        boxes: number of usable boxes, crowd regions left out.
        crowds: number of crowd regions.
        images_without_boxes: number of images with neither.
        per_class: class name -> number of boxes.
        sizes: (smallest width, smallest height, largest width, largest height) of the images in pixels, as
            the file states them, or as their files have them where it states none.
    """

    LEFT_OUT = DROPPED

    annotation_file: Path
    images: int
    boxes: int
    crowds: int
    images_without_boxes: int
    per_class: dict[str, int]
    sizes: tuple[int, int, int, int] | None

    def summary(self) -> dict[str, str]:
        used = {name: count for name, count in self.per_class.items() if count}
        frequent = ", ".join(f"{name} {count}" for name, count in Counter(used).most_common(5))
        return {
            "annotation file": str(self.annotation_file),
            "images": str(self.images),
            "images without boxes": str(self.images_without_boxes),
            "boxes": str(self.boxes),
            "crowd regions": str(self.crowds),
            "classes with boxes": f"{len(used)} of {len(self.per_class)}",
            "most frequent": frequent or "none",
            "image sizes": "{}×{} to {}×{}".format(*self.sizes) if self.sizes else "not stated",
        }


def require_coco(annotation_file: str | Path, image_folder: str | Path) -> None:
    """``UserError`` where the annotation file or the image folder is missing, with where to get data."""
    missing = []
    if not Path(annotation_file).is_file():
        missing.append(f"no annotation file {annotation_file}")
    if not Path(image_folder).is_dir():
        missing.append(f"no image folder {image_folder}")
    other = _other_format(Path(annotation_file)) if missing else ""
    if other:
        raise UserError(f"{missing[0]}: {other}")
    if missing and Path(annotation_file).name not in _COCO_NAMES:
        raise UserError(
            f"{' and '.join(missing)}: give the folder of the data with --data-root, or correct ann_file and "
            "data_prefix in the config (VOC and YOLO data: `hardnet-suite convert-dataset`)"
        )
    if missing:
        raise UserError(
            f"{' and '.join(missing)}: expected ROOT/annotations/instances_train2017.json beside "
            "ROOT/train2017/*.jpg (and the same for val2017); get COCO 2017 from "
            "https://cocodataset.org/#download, or draw the built-in set with "
            "`hardnet-suite draw-shapes data/shapes`, for `demo_ssd224_shapes --data-root data/shapes`"
        )


def _other_format(annotation_file: Path) -> str:
    """What to do with the data set of another format, or layout, that is where annotations are looked for."""
    from hardnet_suite.data.conversion.convert import detect_format  # which reads COCO's records

    root = annotation_file.parent.parent if annotation_file.parent.name == "annotations" else None
    if root is None or not root.is_dir():
        return ""
    try:
        kind = detect_format(root)
    except UserError:
        return ""
    if kind is None or (kind == "coco" and annotation_file.parent.is_dir()):
        return ""
    folder = shlex.quote(str(root))
    name = "a COCO data set of another layout" if kind == "coco" else f"a {kind.upper()} data set"
    return (
        f"{root} is {name}: convert it with `hardnet-suite convert-dataset {folder} TARGET`, or train "
        f"without a config: `hardnet-suite train MODEL --data {folder}`"
    )


def check_coco(
    annotation_file: str | Path,
    image_folder: str | Path,
    class_names: Sequence[str] | None = None,
    *,
    read_images: bool = True,
) -> CocoReport:
    """Everything in a COCO detection data set that would stop or spoil a training.

    Args:
        annotation_file: an ``instances_*.json``.
        image_folder: the folder that its ``file_name`` entries are relative to.
        class_names: the classes to train; None: those of the file.
        read_images: decode every image (truncated files); False reads only the header of each (wrong sizes).

    Raises:
        UserError: the file or the folder is missing, or the file holds no COCO annotations.
    """
    require_coco(annotation_file, image_folder)
    content = read_coco(annotation_file, image_folder=image_folder)
    if content.annotations is None:
        content.require_boxes()
    counts = Counter(box.category for box in content.boxes if not box.iscrowd)
    per_class = {category.name: counts[category.name] for category in content.categories}
    without_boxes = sum(not boxes for boxes in content.boxes_of_image.values())
    crowds = sum(box.iscrowd for box in content.boxes)
    sizes = [(image.width, image.height) for image in content.images if image.width is not None]
    findings = [
        *content.findings,
        *suspect_corners(content.images, content.boxes),
        *_check_files(content.images, Path(image_folder), read_images),
        *_check_classes(per_class, class_names),
    ]
    if without_boxes:
        problem = f"{without_boxes} of {len(content.images)} images have no box"
        name = Path(annotation_file).name
        findings.append(Finding("warning", "images without boxes", name, problem))
    return CocoReport(
        annotation_file=Path(annotation_file),
        images=len(content.images),
        boxes=len(content.boxes) - crowds,
        crowds=crowds,
        images_without_boxes=without_boxes,
        per_class=per_class,
        sizes=(*map(min, zip(*sizes, strict=True)), *map(max, zip(*sizes, strict=True))) if sizes else None,
        findings=tuple(findings),
    )


def annotation_lines(content: CocoFile) -> list[str]:
    """What a user of a scored annotation file must know: the boxes that are dropped, or read with a warning.

    One line per kind, with the number of entries and the first of them.
    """
    kinds = DROPPED | _READ_OTHERWISE
    findings = tuple(
        finding
        for finding in content.findings
        if finding.kind in kinds and not finding.what.startswith(NO_AREA)
    )
    lines = brief_lines(findings, DROPPED, "dropped; a detection of it counts as false")
    unknown = sum(image.width is None for image in content.images)
    if unknown:
        lines.append(
            f"warning: {unknown} of the {len(content.images)} images state no valid width and height: their "
            "boxes were not checked against the image"
        )
    return lines


def _check_files(images: Sequence[CocoImage], folder: Path, read_images: bool) -> Iterable[Finding]:
    missing = missing_images(images, folder)
    for number, image in enumerate(missing):
        cure = missing_image_cure(image.file_name, folder) if number < _EXPLAINED else "as the others"
        problem = f"no file {folder / image.file_name}; {cure}"
        yield Finding("error", "missing image", f"image {image.id}", problem)
    absent = set(missing)
    readable = [image for image in images if image.file_name is not None and image not in absent]

    def check(image: CocoImage) -> Finding | None:
        path, where = folder / image.file_name, f"image {image.id}"
        try:
            if read_images:
                image_size(path)
            return wrong_size(image, folder)
        except Exception as error:  # PIL raises half a dozen types on broken files, SyntaxError among them
            return Finding("error", "unreadable image", where, f"{path}: {error}")

    with ThreadPoolExecutor(4) as pool:
        yield from filter(None, pool.map(check, readable))


def _check_classes(per_class: dict[str, int], class_names: Sequence[str] | None) -> Iterable[Finding]:
    trained = list(per_class) if class_names is None else class_names
    for name in trained:
        if name not in per_class:
            problem = "is to be trained, but no category of the file has this name"
            yield Finding("error", "missing class", f"class {name}", problem)
        elif not per_class[name]:
            yield Finding("warning", "class without boxes", f"class {name}", "has no box")
    for name in per_class:
        if name not in trained:
            problem = f"is not to be trained: {counted(per_class[name], 'box')} ignored"
            yield Finding("warning", "extra class", f"class {name}", problem)
