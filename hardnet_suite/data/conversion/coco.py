"""Images with boxes as COCO annotations."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardnet_suite.data.boxes import BoxData, BoxImage, ConversionReport, summary
from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.conversion.target import Target, annotations_digest, bring, mark, unique_places
from hardnet_suite.data.files import sha256
from hardnet_suite.data.report import Finding
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.failures import explain
from hardnet_suite.outputs import write_file


def write_coco(
    data: BoxData, target: str | Path, *, classes: Sequence[str] | None = None, link: bool = False
) -> ConversionReport:
    """Writes one ``target``/annotations/instances_SPLIT.json per split, and the images to ``target``/images.

    Every image in an annotation file has its "sha256", and so has ``info`` that of the annotations, by which
    a later conversion knows what it may replace. Ids of images and categories that were read from COCO files
    stay, all others are numbered from 1. Annotation files of an earlier conversion that are not written anew
    stay, which is told, so that splits can be converted one by one. Nothing of the source changes: an image
    whose place in ``target`` leads to that very image is left alone.

    Args:
        data: the images and boxes.
        target: the folder to write to.
        classes: class names in the order of their category ids; None: all.
        link: create symbolic links to the images instead of copies.

    Raises:
        UserError: nothing is left to write, two images share a name, a file cannot be written, or
            ``target`` has a file of that name that no conversion wrote or that was edited since, or is in
            the source.
    """
    chosen, left_out = data.choose_classes(classes)
    named = unique_places(data.images)
    contents = {
        split: coco_content(images, chosen, mark(data.format), data.category_ids)
        for split, images in data.splits.items()
    }
    place = Target(Path(target), data.folders)
    files = [f"instances_{split}.json" for split in contents]
    due = place.images_to_write(files, named, link)
    categories = next((content["categories"] for content in contents.values()), [])
    kept = [_kept(file, categories) for file in place.kept_files(files)]
    digests = {name: sha256(path) for name, path in named.items() if name not in due}
    try:
        for name, path in due.items():
            digests[name] = bring(path, place.images / name, link)
        for split, content in contents.items():
            for entry in content["images"]:
                entry["sha256"] = digests[entry["file_name"]]
            content["info"]["sha256"] = annotations_digest(content)
            write_file(place.annotations / f"instances_{split}.json", json.dumps(content))
    except WriteError as error:
        raise UserError(explain(error)) from None
    splits = {split: summary(images, chosen) for split, images in data.splits.items()}
    return ConversionReport(chosen, splits, (*data.findings, *data.lost_ids, *left_out, *kept))


def _kept(file: Path, categories: Sequence[dict]) -> Finding:
    """What to tell of an annotation file of an earlier conversion beside new ones with these categories."""
    problem = "of an earlier conversion, stays: remove it if it is not a split of this data set"
    if read_json(file).get("categories") != categories:
        problem += "; its categories are others, or have other ids (--classes chooses and orders them)"
    return Finding("warning", "annotations", file.name, problem)


def coco_content(
    images: Sequence[BoxImage],
    classes: Sequence[str],
    description: str,
    category_ids: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The content of a COCO annotation file, boxes of other classes left out.

    Args:
        images: their ``name`` becomes the file_name. They keep their ids if all have one.
        classes: in the order of the labels.
        description: what ``info`` says.
        category_ids: class -> id; classes beyond them have the numbers that follow, from 1.
    """
    known = category_ids or {}
    following = itertools.count(max([0, *known.values()]) + 1)
    numbers = {name: known[name] if name in known else next(following) for name in classes}
    image_ids: Sequence[int] = [image.id for image in images if image.id is not None]
    if len(image_ids) < len(images):
        image_ids = range(1, len(images) + 1)
    entries, annotations = [], []
    for image_id, image in zip(image_ids, images, strict=True):
        width, height = image.size
        entries.append({"id": image_id, "file_name": image.name, "width": width, "height": height})
        for box in image.boxes:
            if box.name in numbers:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": numbers[box.name],
                        "bbox": [*box.bbox],
                        "area": box.bbox[2] * box.bbox[3] if box.area is None else box.area,
                        "iscrowd": int(box.difficult),
                    }
                )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    info = {"description": description}
    return {"info": info, "images": entries, "annotations": annotations, "categories": categories}
