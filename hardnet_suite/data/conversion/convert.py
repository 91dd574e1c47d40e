"""Data sets of boxes from any format to any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from hardnet_suite.data.boxes import BoxData, ConversionReport
from hardnet_suite.data.coco.folder import annotation_files, read_coco_folder
from hardnet_suite.data.conversion.coco import write_coco
from hardnet_suite.data.conversion.masks import write_masks
from hardnet_suite.data.conversion.voc import write_voc
from hardnet_suite.data.conversion.yolo import write_yolo
from hardnet_suite.data.labelme import is_labelme, read_labelme, read_labelme_masks
from hardnet_suite.data.masks import MaskData, MaskReport
from hardnet_suite.data.segmentation.cvat import is_cvat, read_cvat
from hardnet_suite.data.voc import read_voc
from hardnet_suite.data.yolo import find_yaml, has_label_files, read_yolo
from hardnet_suite.errors import UserError

SOURCES = ("coco", "voc", "yolo", "labelme", "cvat")
TARGETS = ("coco", "voc", "yolo", "masks")
_Data = TypeVar("_Data", BoxData, MaskData)
_BOX_WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}
_MASK_READERS = {"labelme": read_labelme_masks, "cvat": read_cvat}


def detect_format(source: str | Path) -> str | None:
    """The format of a data set, one of ``SOURCES``; None where it is none of them.

    Args:
        source: a folder, the JSON file of a COCO data set, or the YAML file of a YOLO one.

    Raises:
        UserError: it is of two formats, or does not exist.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"no folder {source}: check the path")
    if source.is_file():
        return {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}.get(source.suffix.lower())
    found = []
    if (source / "Annotations").is_dir() and (source / "JPEGImages").is_dir():
        found.append("voc")
    if find_yaml(source) or has_label_files(source):
        found.append("yolo")
    if annotation_files(source):
        found.append("coco")
    if is_cvat(source):
        found = ["cvat"]  # whose folders are named like VOC's
    elif not found and is_labelme(source):
        found.append("labelme")
    if len(found) > 1:
        raise UserError(
            f"{source} is a data set of {' and of '.join(found)}: choose one with --from {found[0]}"
        )
    return found[0] if found else None


def read_boxes(
    source: str | Path,
    source_format: str | None = None,
    *,
    splits: Sequence[str] | None = None,
    difficult: Literal["ignore", "keep"] = "ignore",
) -> BoxData:
    """The images and boxes of a data set.

    Args:
        source: as of ``detect_format``.
        source_format: one of ``SOURCES``; None: as detected.
        splits: which of its splits; None: all.
        difficult: "keep" treats VOC's difficult objects like all others.

    Raises:
        UserError: it has none of the formats, or cannot be read.
    """
    kind = source_format or detect_format(source)
    if kind is None:
        raise UserError(
            f"{source} is no data set of boxes: expected COCO (annotations/*.json), VOC (Annotations/, "
            "ImageSets/Main/, JPEGImages/), YOLO (data.yaml, images/, labels/) or LabelMe (a JSON file "
            "beside each image)"
        )
    if kind == "voc":
        return read_voc(source, splits=splits, difficult=difficult)
    if difficult == "keep":
        raise UserError("--difficult keep is for VOC, whose objects have such a mark")
    if kind == "coco":
        return read_coco_folder(source, splits=splits)
    if kind in ("yolo", "labelme"):
        data = read_yolo(source) if kind == "yolo" else read_labelme(source)
        return data if splits is None else _only(data, splits)
    if kind == "cvat":
        raise UserError(f"{source} has masks, no boxes: convert it with --to masks")
    raise UserError(f"unknown format {kind}; known are {', '.join(SOURCES)}")


def convert_dataset(
    source: str | Path,
    target: str | Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    splits: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    difficult: Literal["ignore", "keep"] = "ignore",
    link: bool = False,
) -> ConversionReport | MaskReport:
    """Converts a data set of boxes or masks; nothing is written before everything has been read.

    Args:
        source: its folder, COCO's JSON file or YOLO's YAML file; nothing of it changes.
        target: the folder to write to.
        source_format: one of ``SOURCES``; None: as detected.
        target_format: one of ``TARGETS``; None: "masks" for CVAT's masks, else "coco".
        splits: which of its splits; None: all (of VOC, those of train, val and test that exist).
        classes: class names in the order of their labels, boxes of others are dropped; None: all, in the
            order of the source, or sorted where it has none.
        difficult: "ignore": VOC's difficult objects count neither as detected nor as missed.
        link: create symbolic links to the images instead of copies.

    Returns:
        The classes, the counts per split, and what was dropped or changed.

    Raises:
        UserError: the source cannot be read, or the target cannot be written, see ``write_coco``.
    """
    if target_format not in (None, *TARGETS):
        raise UserError(f"unknown format {target_format}; known are {', '.join(TARGETS)}")
    kind = source_format or detect_format(source)
    if (target_format or ("masks" if kind == "cvat" else "coco")) == "masks":
        return _convert_masks(source, target, kind, splits=splits, classes=classes, link=link)
    data = read_boxes(source, kind, splits=splits, difficult=difficult)
    return _BOX_WRITERS[target_format or "coco"](data, target, classes=classes, link=link)


def _convert_masks(
    source: str | Path,
    target: str | Path,
    kind: str | None,
    *,
    splits: Sequence[str] | None,
    classes: Sequence[str] | None,
    link: bool,
) -> MaskReport:
    if kind not in _MASK_READERS:
        raise UserError(f"masks are made of LabelMe's or CVAT's files, got {kind or source}; leave out --to")
    if classes is not None:
        raise UserError("--classes is for boxes: masks keep every class")
    data = _MASK_READERS[kind](source)
    return write_masks(data if splits is None else _only(data, splits), target, link=link)


def _only(data: _Data, splits: Sequence[str]) -> _Data:
    if missing := [name for name in splits if name not in data.splits]:
        raise UserError(f"no split {missing[0]} in {data.source} (there are: {', '.join(data.splits)})")
    kept = {name: data.splits[name] for name in splits}
    return replace(data, splits=kept)
