"""COCO annotation files: reading them, and finding what is wrong with them before training does."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from hardnet_suite.data.report import Finding, Report, decoded_size
from hardnet_suite.errors import UserError

# the 80 classes of COCO that boxes are scored for, in the order of their ids
COCO_CLASSES: tuple[str, ...] = (
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "backpack",
    "umbrella",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
)
_COCO_NAMES = ("instances_train2017.json", "instances_val2017.json")
# the annotations that mmdet's CocoDataset takes out without a word, in training and in scoring
_LEFT_OUT = frozenset(
    {
        "unknown image",
        "unknown category",
        "ignored box",
        "empty box",
        "empty area",
        "tiny box",
        "box outside the image",
    }
)


@dataclass(frozen=True, kw_only=True)
class CocoReport(Report):
    """What an annotation file holds and what was found wrong with it.

    ``boxes`` and ``per_class`` (class name -> count) leave out the ``crowds``, the regions marked
    ``iscrowd``; ``images_without_boxes`` have neither. ``sizes`` is (smallest width, smallest height, largest
    width, largest height) of the images in pixels as the file states them, None where it states none.
    """

    LEFT_OUT = _LEFT_OUT

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


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; a missing, unreadable, truncated or other file is a ``UserError``."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # json.JSONDecodeError and UnicodeDecodeError
        raise UserError(
            f"{path} is no valid JSON, or was cut short ({error}): write or download it again"
        ) from None


def load_annotations(path: str | Path) -> dict[str, Any]:
    """A COCO annotation file: a dict with the lists "images", "annotations" and "categories".

    Only this outer form is checked here (``UserError`` where it does not hold); ``check_coco`` looks inside.
    """
    return check_layout(read_json(path), str(path))


def check_layout(annotations: Any, source: str) -> dict[str, Any]:
    """``annotations`` if it has the outer form of COCO's; if not, a ``UserError`` naming ``source``."""
    if not isinstance(annotations, dict):
        kind = type(annotations).__name__
        raise UserError(
            f"{source} holds a JSON {kind}, not COCO annotations (an object): is it a results file?"
        )
    for key in ("images", "annotations", "categories"):
        entries = annotations.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            what = f"has no '{key}'" if key not in annotations else f"has '{key}' that is no list of objects"
            raise UserError(f"{source} {what}: COCO annotations need images, annotations and categories")
    return annotations


def is_box(value: Any) -> bool:
    """Whether ``value`` is a sequence of four finite numbers."""
    return hasattr(value, "__len__") and len(value) == 4 and all(is_number(item) for item in value)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite real number, of Python or NumPy."""
    # int and float stand first as asking an abstract class is slow, and COCO holds millions of numbers
    return isinstance(value, (int, float, Real)) and math.isfinite(value)


def has_ids(entry: dict[str, Any], *keys: str) -> bool:
    """Whether all these keys hold an integer or a string, so that they can be looked up."""
    return all(isinstance(entry.get(key), (int, str, Integral)) for key in keys)


def require_coco(annotation_file: str | Path, image_folder: str | Path) -> None:
    """``UserError`` where the annotation file or the image folder is missing, saying how to come by data."""
    missing = []
    if not Path(annotation_file).is_file():
        missing.append(f"no annotation file {annotation_file}")
    if not Path(image_folder).is_dir():
        missing.append(f"no image folder {image_folder}")
    if missing and Path(annotation_file).name not in _COCO_NAMES:
        raise UserError(
            f"{' and '.join(missing)}: give the folder of the data with --data-root, or correct ann_file and "
            "data_prefix in the config (VOC data: `hardnet-suite convert-dataset`)"
        )
    if missing:
        raise UserError(
            f"{' and '.join(missing)}: expected ROOT/annotations/instances_train2017.json beside "
            "ROOT/train2017/*.jpg (and the same for val2017); get COCO 2017 from "
            "https://cocodataset.org/#download, or draw the built-in set with "
            "`hardnet-suite draw-shapes data/shapes`, for `demo_ssd224_shapes --data-root data/shapes`"
        )


def check_coco(
    annotation_file: str | Path,
    image_folder: str | Path,
    class_names: Sequence[str] | None = None,
    *,
    read_images: bool = True,
) -> CocoReport:
    """Look through a COCO detection set for all that would stop or spoil a training.

    Args:
        annotation_file: an ``instances_*.json``.
        image_folder: the folder that its ``file_name`` entries are relative to.
        class_names: the classes that are to be trained; None takes those of the file.
        read_images: decode every image (truncated files, wrong sizes); False only looks whether it is there,
            which for all of COCO takes less time than reading the annotation file.

    Raises:
        UserError: the file or the folder is missing, or the file holds no COCO annotations.
    """
    require_coco(annotation_file, image_folder)
    data = load_annotations(annotation_file)
    images, annotations, categories = data["images"], data["annotations"], data["categories"]

    names = {entry["id"]: entry["name"] for entry in categories if has_ids(entry, "id", "name")}
    known_images = {entry["id"]: entry for entry in images if has_ids(entry, "id")}
    seen = {entry["image_id"] for entry in annotations if has_ids(entry, "image_id")}
    counts = Counter(
        entry["category_id"]
        for entry in annotations
        if has_ids(entry, "category_id") and not entry.get("iscrowd")
    )
    per_class = {name: counts[key] for key, name in names.items()}
    without_boxes = sum(key not in seen for key in known_images)
    crowds = sum(bool(entry.get("iscrowd")) for entry in annotations)
    sizes = [(entry["width"], entry["height"]) for entry in images if _has_size(entry)]

    findings = [
        *_incomplete("image", images, ("id", "file_name", "width", "height")),
        *_incomplete("annotation", annotations, ("id", "image_id", "category_id", "bbox", "area")),
        *_incomplete("category", categories, ("id", "name")),
        *_duplicates("image id", (entry["id"] for entry in images if has_ids(entry, "id"))),
        *_duplicates("annotation id", (entry["id"] for entry in annotations if has_ids(entry, "id"))),
        *_duplicates("category id", (entry["id"] for entry in categories if has_ids(entry, "id"))),
        *_duplicates("category name", (entry["name"] for entry in categories if has_ids(entry, "name"))),
        *_check_files(images, Path(image_folder), read_images),
        *(finding for entry in annotations for finding in _check_annotation(entry, known_images, names)),
        *_check_classes(per_class, class_names),
    ]
    if without_boxes:
        what = f"{without_boxes} of {len(images)} images have no box"
        findings.append(Finding("warning", "images without boxes", Path(annotation_file).name, what))
    return CocoReport(
        annotation_file=Path(annotation_file),
        images=len(images),
        boxes=len(annotations) - crowds,
        crowds=crowds,
        images_without_boxes=without_boxes,
        per_class=per_class,
        sizes=(*map(min, zip(*sizes, strict=True)), *map(max, zip(*sizes, strict=True))) if sizes else None,
        findings=tuple(findings),
    )


def _has_size(entry: dict[str, Any]) -> bool:
    return all(is_number(entry.get(key)) and entry[key] > 0 for key in ("width", "height"))


def _incomplete(what: str, entries: list[dict], keys: tuple[str, ...]) -> Iterable[Finding]:
    def valid(entry: dict, key: str) -> bool:
        if key == "bbox":
            return key in entry  # what it holds is looked at with the image's size
        if key == "area":
            return is_number(entry.get(key))
        if key in ("width", "height"):
            return is_number(entry.get(key)) and entry[key] > 0
        return has_ids(entry, key)

    for index, entry in enumerate(entries):
        lacking = [key for key in keys if not valid(entry, key)]
        if lacking:
            where = f"{what} {entry.get('id', f'number {index}')}"
            yield Finding("error", f"incomplete {what}", where, f"lacks a valid {', '.join(lacking)}")


def _duplicates(what: str, values: Iterable[Any]) -> Iterable[Finding]:
    for value, count in Counter(values).items():
        if count > 1:
            yield Finding(
                "error", f"duplicate {what}", f"{what} {value}", f"stands {count} times in the file"
            )


def _check_files(images: list[dict], folder: Path, read_images: bool) -> Iterable[Finding]:
    named = [entry for entry in images if isinstance(entry.get("file_name"), str)]
    listed = _list_files(folder, {os.path.dirname(entry["file_name"]) for entry in named})

    def check(entry: dict) -> Finding | None:
        path, where = folder / entry["file_name"], f"image {entry.get('id')}"
        # names may be spelt otherwise than listed ("a//1.jpg", capitals on some systems): hence the question
        if entry["file_name"] not in listed and not path.is_file():
            return Finding("error", "missing image", where, f"no file {path}")
        if not read_images:
            return None
        try:
            size = decoded_size(path)
        except Exception as error:  # PIL raises half a dozen types on broken files, SyntaxError among them
            return Finding("error", "unreadable image", where, f"{path}: {error}")
        if _has_size(entry) and size != (entry["width"], entry["height"]):
            what = "{}: the file says {}×{}, the image is {}×{}".format(
                path, entry["width"], entry["height"], *size
            )
            return Finding("error", "image size differs", where, what)
        return None

    with ThreadPoolExecutor(4) as pool:
        run = pool.map if read_images else map
        yield from filter(None, run(check, named))


def _list_files(folder: Path, parts: Iterable[str]) -> set[str]:
    """The files in these parts of a folder, relative to it: asking a network drive for each takes minutes."""
    files = set()
    for part in parts:
        with contextlib.suppress(OSError, ValueError), os.scandir(folder / part) as entries:
            files.update(os.path.join(part, entry.name) for entry in entries if entry.is_file())
    return files


def _check_annotation(entry: dict, images: dict, names: dict) -> Iterable[Finding]:
    where = f"annotation {entry.get('id')} of image {entry.get('image_id')}"
    if has_ids(entry, "image_id") and entry["image_id"] not in images:
        yield Finding("error", "unknown image", where, "the file has no image with this id")
    if has_ids(entry, "category_id") and entry["category_id"] not in names:
        what = f"category_id {entry['category_id']} is not among the categories"
        yield Finding("error", "unknown category", where, what)
    if entry.get("ignore"):
        yield Finding("warning", "ignored box", where, f"is marked 'ignore': {entry['ignore']!r}")
    if "bbox" not in entry:
        return

    box = entry["bbox"]
    if not is_box(box):
        yield Finding(
            "error", "invalid box", where, f"{box} is not four finite numbers (x, y, width, height)"
        )
        return
    x, y, w, h = box
    if w <= 0 or h <= 0:
        yield Finding("error", "empty box", where, f"{box} has no width or no height")
        return
    if is_number(entry.get("area")) and entry["area"] <= 0:
        what = f"its area is {entry['area']}, though its box is {box}: write width · height"
        yield Finding("error", "empty area", where, what)
    if w < 1 or h < 1:
        yield Finding("warning", "tiny box", where, f"{box} is narrower than one pixel")
    image = images.get(entry["image_id"]) if has_ids(entry, "image_id") else None
    if image is None or not _has_size(image):
        return
    width, height = image["width"], image["height"]
    what = f"{box} (x, y, width, height) in an image of {width}×{height}"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        yield Finding("error", "box outside the image", where, what)
    elif min(x, y) < -1 or x + w > width + 1 or y + h > height + 1:
        yield Finding("warning", "box partly outside the image", where, what)


def _check_classes(per_class: dict[str, int], class_names: Sequence[str] | None) -> Iterable[Finding]:
    wanted = list(per_class) if class_names is None else class_names
    for name in wanted:
        if name not in per_class:
            what = "is to be trained, but no category of the file has this name"
            yield Finding("error", "missing class", f"class {name}", what)
        elif not per_class[name]:
            yield Finding("warning", "class without boxes", f"class {name}", "has not a single box")
    for name in per_class:
        if name not in wanted:
            what = f"is not to be trained: its {per_class[name]} boxes are ignored"
            yield Finding("warning", "extra class", f"class {name}", what)
