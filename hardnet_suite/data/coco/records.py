"""The records of a COCO annotation file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from hardnet_suite.data.report import Finding, counted, first_of
from hardnet_suite.errors import UserError


class CocoImage(NamedTuple):
    """An image; ``file_name``, ``width`` and ``height`` are None where they are not known."""

    id: int | str
    file_name: str | None
    width: int | None
    height: int | None


class CocoCategory(NamedTuple):
    """A category; ``supercategory`` is the name of its group, None where it states none."""

    id: int | str
    name: str
    supercategory: str | None = None


class CocoBox(NamedTuple):
    """A usable box.

    Attributes:
        id: of the annotation; None if it has none.
        image_id: id of its image.
        category: name of its category.
        bbox: (x, y, width, height) in pixels; width and height are above 0.
        area: above 0.
        iscrowd: it is a region that is no example and counts neither way.
        segmentation: its mask, see ``masks.read_mask``; None without one.
    """

    id: int | str | None
    image_id: int | str
    category: str
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: bool
    segmentation: Any


@dataclass(frozen=True)
class CocoFile:
    """What a COCO annotation file holds.

    Attributes:
        source: the path, or what errors call the content.
        images: in the order of the file.
        categories: in the order of the file; of each name one.
        boxes: the usable boxes, in the order of the file.
        annotations: the number of entries, unusable ones included; None: the file has no annotations.
        findings: everything that is wrong or odd.
        fatal: those of the findings with which nothing of the file can be used.
    """

    source: str
    images: tuple[CocoImage, ...]
    categories: tuple[CocoCategory, ...]
    boxes: tuple[CocoBox, ...]
    annotations: int | None
    findings: tuple[Finding, ...]
    fatal: tuple[Finding, ...]

    @cached_property
    def boxes_of_image(self) -> Mapping[int | str, Sequence[CocoBox]]:
        """Image id -> its boxes."""
        groups: defaultdict[int | str, list[CocoBox]] = defaultdict(list)
        for box in self.boxes:
            groups[box.image_id].append(box)
        return {image.id: tuple(groups[image.id]) for image in self.images}

    @cached_property
    def category_ids(self) -> Mapping[str, int | str]:
        """Name of each category -> its id."""
        return {category.name: category.id for category in self.categories}

    def require(self) -> CocoFile:
        """The file itself, if it can be used.

        Raises:
            UserError: it cannot be used.
        """
        if self.fatal:
            raise UserError(first_of(self.source, self.fatal))
        return self

    def require_boxes(self) -> CocoFile:
        """The file itself, if it holds a usable box.

        Raises:
            UserError: it cannot be used, or has no box that is not a crowd region.
        """
        if self.annotations is None:
            raise UserError(
                f"{self.source} has no 'annotations' (is it a test set?): "
                "COCO annotations need images, annotations and categories"
            )
        self.require()
        if not self.annotations:
            raise UserError(
                f"{self.source} holds no box: there is nothing to train on or to score against "
                "(is it a test set?)"
            )
        if all(box.iscrowd for box in self.boxes):
            raise UserError(
                f"{self.source} holds no box but crowd regions ('iscrowd' or 'ignore' is 1): "
                "there is nothing to train on or to score against"
            )
        return self

    def require_masks(self, boxes: Iterable[CocoBox], reader: str) -> CocoFile:
        """The file itself, if each of some of its boxes has a mask.

        Args:
            boxes: of the file.
            reader: what needs the masks, for the message.

        Raises:
            UserError: a box has none, or one that was dropped as malformed.
        """
        boxes = tuple(boxes)
        lacking = [box for box in boxes if box.segmentation is None]
        if lacking:
            first = f"annotation {lacking[0].id} of image {lacking[0].image_id}"
            raise UserError(
                f"{self.source}: {len(lacking)} of the {len(boxes)} boxes have no valid mask "
                f"('segmentation'), which {reader} needs; the first: {first} (`hardnet-suite check-data` "
                "shows malformed ones)"
            )
        return self

    def require_classes(self, classes: Sequence[str]) -> CocoFile:
        """The file itself, if it has a category of each name.

        Raises:
            UserError: it cannot be used, or a name is missing.
        """
        self.require()
        missing = [name for name in classes if name not in self.category_ids]
        if missing:
            extra = [category.name for category in self.categories if category.name not in classes]
            also = f" (it has {', '.join(map(repr, extra[:3]))} beside)" if extra else ""
            raise UserError(
                f"{self.source} has {counted(len(self.categories), 'class')} and lacks "
                f"{', '.join(map(repr, missing[:3]))} of the config's {len(classes)}{also}; "
                "set the data set's metainfo.classes and num_classes"
            )
        return self
