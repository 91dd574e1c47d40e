"""PASCAL VOC data sets as COCO: boxes from XML files to one annotation file a split."""

from __future__ import annotations

import contextlib
import filecmp
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from PIL import Image

from hardnet_suite.data.report import Finding
from hardnet_suite.errors import UserError

SPLITS = ("train", "val", "test")
IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Split:
    """What one split came to: images, boxes, and boxes a class."""

    images: int
    boxes: int
    per_class: dict[str, int]


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote, and what it left out or changed (``findings``, each by name)."""

    classes: tuple[str, ...]
    splits: dict[str, Split]
    findings: tuple[Finding, ...]

    def table(self) -> str:
        """Plain text: a row a split, then every finding."""
        width = max(5, *map(len, self.splits))
        lines = ["  ".join(["split".ljust(width), "images", " boxes", *self.classes])]
        for name, split in self.splits.items():
            counts = [f"{split.per_class[one]:>{len(one)}}" for one in self.classes]
            lines.append("  ".join([name.ljust(width), f"{split.images:>6}", f"{split.boxes:>6}", *counts]))
        lines += [f"{finding.kind}: {finding.where}: {finding.what}" for finding in self.findings]
        return "\n".join(lines)


def convert_voc(
    source: str | Path,
    target: str | Path,
    *,
    splits: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    difficult: Literal["ignore", "keep"] = "ignore",
    link: bool = False,
) -> ConversionReport:
    """A VOC folder (Annotations/, ImageSets/Main/, JPEGImages/) as COCO: ``target``/annotations/
    instances_SPLIT.json, the images in ``target``/images.

    VOC counts pixels from 1 and its boxes hold both ends, so x = xmin − 1 and width = xmax − x. A box whose
    end is not beyond its beginning, or outside the image, is dropped; one partly outside is cut.

    Args:
        splits: names of files in ImageSets/Main; None takes those of train, val and test that are there.
        classes: in the order wanted, others are dropped; None takes all that occur, in alphabetical order.
        difficult: "ignore" marks objects that VOC calls difficult as ``iscrowd``, so that they neither count
            as found nor as missed; "keep" treats them as all others.
        link: symbolic links to the images in place of copies.

    Raises:
        UserError: a file or folder is missing or broken or cannot be written, a class is chosen twice, two
            images have one name, or there is nothing to convert. Nothing is written before all was read.
        ValueError: ``difficult`` is neither of the two.
    """
    if difficult not in ("ignore", "keep"):
        raise ValueError(f"difficult is {difficult!r}: allowed are 'ignore' and 'keep'")
    twice = [name for name, count in Counter(classes or ()).items() if count > 1]
    if twice:
        raise UserError(f"chosen twice among the classes: {', '.join(twice)}; name each class once")
    source, target = Path(source), Path(target)
    names = _read_splits(source, splits)
    findings: list[Finding] = []
    read = {
        split: [_read_image(source, stem, findings) for stem in _once(stems, split, findings)]
        for split, stems in names.items()
    }
    found = Counter(entry["name"] for images in read.values() for _, entries in images for entry in entries)
    wanted = tuple(sorted(found) if classes is None else classes)
    if not wanted or not found.keys() & {*wanted}:
        raise UserError(f"{source} has no box of {'any class' if classes is None else ', '.join(wanted)}")
    for name in sorted(found.keys() - {*wanted}):
        what = f"is not among the chosen classes, boxes dropped: {found[name]}"
        findings.append(Finding("warning", "class left out", name, what))

    contents = {split: _coco(images, wanted, difficult) for split, images in read.items()}
    for name, path in _by_name(read).items():
        _bring(path, target / "images" / name, link)
    for split, content in contents.items():
        _write(target / "annotations" / f"instances_{split}.json", content)
    return ConversionReport(wanted, {split: _summary(one) for split, one in contents.items()}, (*findings,))


def _read_splits(source: Path, splits: Sequence[str] | None) -> dict[str, list[str]]:
    lists = source / "ImageSets" / "Main"
    for folder in (source / "Annotations", source / "JPEGImages", lists):
        if not folder.is_dir():
            raise UserError(
                f"no folder {folder}: a VOC data set has Annotations/*.xml, JPEGImages/* and "
                "ImageSets/Main/train.txt"
            )
    chosen = [name for name in SPLITS if (lists / f"{name}.txt").is_file()] if splits is None else splits
    if not chosen:
        raise UserError(f"none of train.txt, val.txt, test.txt in {lists}: name the splits with --splits")
    read = {}
    for split in chosen:
        path = lists / f"{split}.txt"
        if not path.is_file():
            there = ", ".join(sorted(file.stem for file in lists.glob("*.txt"))) or "none"
            raise UserError(f"no split {split}: no file {path} (there are: {there})")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}; save it as UTF-8 text") from None
        # a list of one class has a second column, 1 or -1
        read[split] = [line.split()[0] for line in lines if line.strip()]
        if not read[split]:
            raise UserError(f"{path} names no image")
    return read


def _once(stems: list[str], split: str, findings: list[Finding]) -> list[str]:
    for stem, count in Counter(stems).items():
        if count > 1:
            what = f"stands {count} times in {split}, and is taken once"
            findings.append(Finding("warning", "image named twice", stem, what))
    return list(dict.fromkeys(stems))


def _read_image(source: Path, stem: str, findings: list[Finding]) -> tuple[dict, list[dict]]:
    """The image (path, width, height) and its objects (name, bbox, difficult), bad boxes left out."""
    file = source / "Annotations" / f"{stem}.xml"
    root = _parse(file)
    named = (root.findtext("filename") or "").strip()
    candidates = [stem + suffix for suffix in IMAGES]
    candidates += [Path(named).name] if named else []  # last: tools leave the names of other images here
    folder = source / "JPEGImages"
    path = next((folder / name for name in candidates if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{file} has no image: none of {', '.join(candidates)} in {folder}")
    size = tuple(_number(root.findtext(f"size/{side}")) for side in ("width", "height"))
    if None in size or min(size) < 1:
        try:
            with Image.open(path) as image:
                size = image.size
        except Exception as error:  # PIL raises half a dozen types on broken files
            raise UserError(f"{file} states no size, and {path} cannot be read: {error}") from None
    width, height = map(int, size)

    objects = []
    for entry in root.iter("object"):
        name = (entry.findtext("name") or "").strip()
        ends = [_number(entry.findtext(f"bndbox/{end}")) for end in ("xmin", "ymin", "xmax", "ymax")]
        box, wrong = _box(ends, width, height)
        if not name:
            box, wrong = None, "has no class name"
        if wrong:
            kind = "box dropped" if box is None else "box cut"
            findings.append(Finding("warning", kind, f"{file.name}, {name or 'object'} {ends}", wrong))
        if box is not None:
            is_difficult = (entry.findtext("difficult") or "0").strip() == "1"
            objects.append({"name": name, "bbox": box, "difficult": is_difficult})
    return {"path": path, "annotation": file, "width": width, "height": height}, objects


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, the only place for entities, before any is expanded and in every encoding."""

    def __init__(self, file: Path):
        super().__init__()
        self._file = file

    def doctype(self, *_: str | None) -> None:
        raise UserError(f"{self._file} has a DOCTYPE, which could declare entities: remove it")


def _parse(file: Path) -> ElementTree.Element:
    try:
        text = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    try:
        return ElementTree.fromstring(text, ElementTree.XMLParser(target=_WithoutDoctype(file)))
    except ElementTree.ParseError as error:
        raise UserError(f"{file} is no valid XML, or was cut short: {error}") from None
    except (LookupError, ValueError) as error:  # encodings that the parser does not know, such as GBK
        raise UserError(f"{file} cannot be decoded: {error}; save it as UTF-8") from None


def _number(text: str | None) -> float | int | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def _box(ends: list, width: int, height: int) -> tuple[list | None, str]:
    """[x, y, width, height] from VOC's ends, and what is wrong; None where nothing can be saved."""
    if None in ends:
        return None, "a coordinate is missing or no number"
    xmin, ymin, xmax, ymax = ends
    if xmax <= xmin or ymax <= ymin:
        return None, "it has no width or no height"
    x1, y1, x2, y2 = max(0, xmin - 1), max(0, ymin - 1), min(width, xmax), min(height, ymax)
    if x2 <= x1 or y2 <= y1:
        return None, f"it lies outside the image of {width}×{height}"
    cut = xmin < 0 or ymin < 0 or xmax > width or ymax > height  # a 0 is how some tools write the edge
    return [x1, y1, x2 - x1, y2 - y1], f"it leaves the image of {width}×{height}" if cut else ""


def _coco(records: list[tuple[dict, list[dict]]], classes: tuple[str, ...], difficult: str) -> dict[str, Any]:
    images, annotations = [], []
    for image_id, (record, objects) in enumerate(records, 1):
        size = {"width": record["width"], "height": record["height"]}
        images.append({"id": image_id, "file_name": record["path"].name, **size})
        for entry in objects:
            if entry["name"] in classes:
                _, _, width, height = entry["bbox"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": classes.index(entry["name"]) + 1,
                        "bbox": entry["bbox"],
                        "area": width * height,
                        "iscrowd": int(entry["difficult"] and difficult == "ignore"),
                    }
                )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _summary(content: dict[str, Any]) -> Split:
    counts = Counter(entry["category_id"] for entry in content["annotations"])
    per_class = {category["name"]: counts[category["id"]] for category in content["categories"]}
    return Split(len(content["images"]), len(content["annotations"]), per_class)


def _by_name(read: dict[str, list[tuple[dict, list[dict]]]]) -> dict[str, Path]:
    """File name -> image; the lists may name images of several folders, which become one."""
    paths: dict[str, Path] = {}
    owners: dict[Path, Path] = {}
    for images in read.values():
        for image, _ in images:
            path, file = image["path"], image["annotation"]
            first = paths.setdefault(path.name, path)
            if first != path:
                raise UserError(f"two images have one name, {first} and {path}: rename one of them")
            other = owners.setdefault(path, file)
            if other != file:
                raise UserError(f"{other} and {file} both describe {path}: correct the <filename> of one")
    return paths


def _bring(path: Path, target: Path, link: bool) -> None:
    if target.exists() and target.is_symlink() == link and filecmp.cmp(path, target, shallow=False):
        return
    with _whole(target) as partial:
        if link:
            partial.symlink_to(path.resolve())
        else:
            shutil.copyfile(path, partial)


def _write(path: Path, content: dict[str, Any]) -> None:
    with _whole(path) as partial:
        partial.write_text(json.dumps(content))


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary neighbour of ``path`` to write to: it takes its place at the end, or goes."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # of a run that was killed
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}; make room, or choose another folder") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
