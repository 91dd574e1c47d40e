"""Images with boxes or outlines as LabelMe's JSON files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from hardnet_suite.data.boxes import BoxData, BoxImage, ConversionReport, summary
from hardnet_suite.data.conversion.outlines import findings_with_outlines
from hardnet_suite.data.conversion.places import places_by_split, unusual_splits
from hardnet_suite.data.conversion.tree import write_tree

_VERSION = "5.5.0"  # of LabelMe, whose form this is


def write_labelme(
    data: BoxData, target: str | Path, *, classes: Sequence[str] | None = None, link: bool = False
) -> ConversionReport:
    """Writes ``target``/SPLIT with images and a JSON file beside each; arguments as of ``write_coco``.

    An object with an outline is a polygon, or several of one group_id; any other is a rectangle. Objects that
    count neither way have the flag ``difficult``.

    Raises:
        UserError: as of ``write_coco``; two images would share a JSON file, or an image is hidden.
    """
    chosen, left_out = data.choose_classes(classes)
    texts: dict[str, str | bytes] = {}
    images: dict[str, Path] = {}
    places = places_by_split(data.splits, images="{}", labels="{}", suffix=".json", named=True)
    for image, place, label in places:
        images[place] = image.path
        texts[label] = _json(image, chosen)
    findings = (
        *findings_with_outlines(data),
        *left_out,
        *unusual_splits(data.splits, "LabelMe folders"),
    )
    write_tree(data, Path(target), texts, images, link=link)
    counts = {split: summary(members, chosen) for split, members in data.splits.items()}
    return ConversionReport(chosen, counts, findings)


def _json(image: BoxImage, classes: Collection[str]) -> str:
    content = {
        "version": _VERSION,
        "flags": {},
        "shapes": [*_shapes(image, classes)],
        "imagePath": PurePosixPath(image.name).name,
        "imageData": None,
        "imageHeight": image.size[1],
        "imageWidth": image.size[0],
    }
    return json.dumps(content, indent=2) + "\n"


def _shapes(image: BoxImage, classes: Collection[str]) -> Iterator[dict]:
    group = 0
    for box in image.boxes:
        if box.name not in classes:
            continue
        group += len(box.outline) > 1
        x, y, width, height = box.bbox
        rectangle = (x, y, x + width, y + height)
        for values in box.outline or (rectangle,):
            yield {
                "label": box.name,
                "points": [[*point] for point in zip(values[::2], values[1::2], strict=True)],
                "group_id": group if len(box.outline) > 1 else None,
                "description": "",
                "shape_type": "polygon" if box.outline else "rectangle",
                "flags": {"difficult": True} if box.difficult else {},
                "mask": None,
            }
