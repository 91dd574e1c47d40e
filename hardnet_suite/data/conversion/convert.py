"""Data sets of boxes or masks from any format to any other."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from hardnet_suite.data.boxes import BoxData, ConversionReport
from hardnet_suite.data.coco.folder import is_coco, read_coco_folder
from hardnet_suite.data.conversion.coco import write_coco
from hardnet_suite.data.conversion.cvat import write_cvat, write_cvat_masks
from hardnet_suite.data.conversion.labelme import write_labelme
from hardnet_suite.data.conversion.masks import write_masks
from hardnet_suite.data.conversion.target import SourceFolders
from hardnet_suite.data.conversion.voc import write_voc
from hardnet_suite.data.conversion.yolo import write_yolo
from hardnet_suite.data.cvat import FILE, is_cvat_xml, read_cvat_boxes
from hardnet_suite.data.labelme import is_labelme, read_labelme, read_labelme_masks
from hardnet_suite.data.masks import MaskData, MaskReport
from hardnet_suite.data.segmentation.cvat import is_cvat, read_cvat
from hardnet_suite.data.voc import read_voc
from hardnet_suite.data.yolo import find_yaml, has_label_files, read_yolo
from hardnet_suite.errors import UserError

SOURCES = ("coco", "voc", "yolo", "labelme", "cvat", "cvat-masks")
TARGETS = ("coco", "voc", "yolo", "labelme", "cvat", "masks", "cvat-masks")
_Data = TypeVar("_Data", BoxData, MaskData)
_BOX_READERS = {"yolo": read_yolo, "labelme": read_labelme, "cvat": read_cvat_boxes}
_BOX_WRITERS = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "labelme": write_labelme,
    "cvat": write_cvat,
}
_MASK_READERS = {"labelme": read_labelme_masks, "cvat-masks": read_cvat}
_MASK_WRITERS = {"masks": write_masks, "cvat-masks": write_cvat_masks}
_DIFFICULT = ("voc", "labelme", "cvat")  # whose objects can have that mark


def detect_format(source: str | Path) -> str | None:
    """The format of a data set, one of ``SOURCES``; None where it is none of them.

    Args:
        source: a folder, the JSON file of a COCO data set, the YAML file of a YOLO one, or CVAT's XML file.

    Raises:
        UserError: it is of two formats, or does not exist.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"no folder {source}: check the path")
    if source.is_file():
        kinds = {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}
        kinds[".xml"] = "cvat" if is_cvat_xml(source) else None
        return kinds.get(source.suffix.lower())
    found = _formats_of(source)
    if len(found) > 1:
        raise UserError(
            f"{source} is a data set of {' and of '.join(found)}: choose one, with "
            f"`hardnet-suite convert-dataset --from {found[0]} {shlex.quote(str(source))} TARGET`"
        )
    return found[0] if found else None


def _formats_of(source: Path) -> list[str]:
    """The formats whose files a folder has."""
    found = []
    if (source / "Annotations").is_dir() and (source / "JPEGImages").is_dir():
        found.append("voc")
    if find_yaml(source) or has_label_files(source):
        found.append("yolo")
    if is_coco(source):
        found.append("coco")
    if is_cvat_xml(source / FILE):
        found.append("cvat")
    if is_cvat(source):
        found = ["cvat-masks"]  # whose folders are named like VOC's
    elif not found and is_labelme(source):
        found.append("labelme")
    return found


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
        splits: which of its splits; None: all (of VOC and YOLO, those of train, val and test that exist).
        difficult: "keep" treats objects that are marked difficult like all others.

    Raises:
        UserError: it has none of the formats, or cannot be read.
    """
    kind = source_format or detect_format(source)
    if kind is None:
        raise UserError(
            f"{source} is not a data set of boxes: expected COCO (annotations/*.json), VOC (Annotations/, "
            "ImageSets/Main/, JPEGImages/), YOLO (data.yaml, images/, labels/), LabelMe (a JSON file "
            "beside each image) or CVAT (annotations.xml, images/)"
        )
    if kind == "voc":
        return read_voc(source, splits=splits, difficult=difficult)
    if difficult == "keep" and kind not in _DIFFICULT:
        raise UserError("--difficult keep is for VOC, LabelMe and CVAT, whose objects have such a mark")
    if kind == "coco":
        return read_coco_folder(source, splits=splits)
    if kind in _MASK_READERS and kind not in _BOX_READERS:
        raise UserError(f"{source} has masks, no boxes: convert it with --to masks")
    if kind not in _BOX_READERS:
        raise UserError(f"unknown format {kind}; known are {', '.join(SOURCES)}")
    data = _BOX_READERS[kind](source)
    if difficult == "keep":
        data = _without_marks(data)
    return data if splits is None else _only(data, splits)


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
        source: its folder, COCO's JSON, YOLO's YAML or CVAT's XML file; nothing of it changes.
        target: the folder to write to: neither the source nor in it, and without data of another format.
        source_format: one of ``SOURCES``; None: as detected.
        target_format: one of ``TARGETS``; None: "masks" for "cvat-masks", else "coco".
        splits: which of its splits; None: all (of VOC and YOLO, those of train, val and test that exist).
        classes: class names in the order of their labels, boxes of others are dropped; None: all, in the
            order of the source, or sorted where it has none.
        difficult: "ignore": objects that are marked difficult count neither as detected nor as missed;
            "keep": they are like all others.
        link: create symbolic links to the images instead of copies.

    Returns:
        The classes, the counts per split, and what was dropped or changed.

    Raises:
        UserError: the source cannot be read, or the target cannot be written, see ``write_coco``.
    """
    if target_format not in (None, *TARGETS):
        raise UserError(f"unknown format {target_format}; known are {', '.join(TARGETS)}")
    kind = source_format or detect_format(source)
    if kind == "cvat" and is_cvat(Path(source)):
        kind = "cvat-masks"
    to = target_format or ("masks" if kind == "cvat-masks" else "coco")
    if to in _MASK_WRITERS:
        if difficult == "keep":
            raise UserError("--difficult is for boxes: masks have no such mark")
        return _convert_masks(source, target, kind, to, splits=splits, classes=classes, link=link)
    data = read_boxes(source, kind, splits=splits, difficult=difficult)
    _require_free(Path(target), Path(source), to)
    return _BOX_WRITERS[to](data, target, classes=classes, link=link)


def _require_free(target: Path, source: Path, to: str) -> None:
    """UserError where a target is the source or in it, or would be of two formats, which no reader takes."""
    SourceFolders([source] if source.is_dir() else []).require_outside(target)
    others = [kind for kind in _formats_of(target) if kind != to] if target.is_dir() else []
    if others:
        raise UserError(
            f"{target} is a data set of {others[0]}, and would be one of {to} as well: choose another folder"
        )


def _convert_masks(
    source: str | Path,
    target: str | Path,
    kind: str | None,
    to: str,
    *,
    splits: Sequence[str] | None,
    classes: Sequence[str] | None,
    link: bool,
) -> MaskReport:
    if kind not in _MASK_READERS:
        raise UserError(
            f"masks are made of LabelMe's shapes or CVAT's masks, got {kind or source}: leave out --to {to}"
        )
    if classes is not None:
        raise UserError("--classes is for boxes: masks keep every class")
    data = _MASK_READERS[kind](source)
    _require_free(Path(target), Path(source), to)
    return _MASK_WRITERS[to](data if splits is None else _only(data, splits), target, link=link)


def _without_marks(data: BoxData) -> BoxData:
    """The data with no object marked as difficult."""
    splits = {
        split: [
            replace(image, boxes=tuple(replace(box, difficult=False) for box in image.boxes))
            for image in members
        ]
        for split, members in data.splits.items()
    }
    return replace(data, splits=splits)


def _only(data: _Data, splits: Sequence[str]) -> _Data:
    if missing := [name for name in splits if name not in data.splits]:
        raise UserError(f"no split {missing[0]} in {data.source} (there are: {', '.join(data.splits)})")
    kept = {name: data.splits[name] for name in splits}
    return replace(data, splits=kept)
