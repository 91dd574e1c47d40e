"""Segmentation data sets of a config."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from hardnet_suite.data.segmentation import (
    LABEL_SETS,
    LabelSet,
    SegmentationReport,
    check_segmentation,
    find_pairs,
    own_labels,
    require_pairs,
)
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.part import Part
from hardnet_suite.visualization.detection import class_color


@dataclass(frozen=True)
class SegmentationPart(Part):
    """A ``SegmentationDataset``: ``image_folder``, ``label_folder`` (None: images alone), ``labels``."""

    task = "segmentation"
    results = "predictions"

    loader: str
    image_folder: Path
    label_folder: Path | None
    labels: LabelSet

    @classmethod
    def of_dataset(cls, loader: str, dataset: dict) -> SegmentationPart | None:
        """The part of a data set's options; None if the data set is not of this kind."""
        if dataset["type"] != "SegmentationDataset":
            return None
        root, prefix = Path(dataset.get("data_root") or ""), dataset["data_prefix"]
        annotations = prefix.get("seg_map_path")
        place = root / prefix["img_path"], None if annotations is None else root / annotations
        return cls(loader, *place, label_set(*(dataset.get(key) for key in ("labels", "metainfo", "stored"))))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels.classes

    @property
    def key(self) -> Hashable:
        return self.image_folder, self.label_folder

    def require(self) -> None:
        find = find_pairs if self.label_folder is None else require_pairs
        find(self.image_folder, self.label_folder, self.labels)

    def check(self, *, read: bool = True) -> SegmentationReport | None:
        if self.label_folder is None:
            return None
        return check_segmentation(self.image_folder, self.label_folder, self.labels, read=read)


def label_set(
    labels: str | None = None, metainfo: dict | None = None, stored: dict[int, int] | None = None
) -> LabelSet:
    """What these options of a ``SegmentationDataset`` say; UserError where they cannot be."""
    if labels is not None:
        if labels not in LABEL_SETS:
            raise UserError(f"labels={labels!r} is no known label set; known: {', '.join(LABEL_SETS)}")
        if metainfo or stored:
            raise UserError(
                f"labels={labels!r} brings its classes along: "
                "for metainfo and stored of your own set labels=None"
            )
        return LABEL_SETS[labels]
    classes = (metainfo or {}).get("classes")
    if not classes:
        raise UserError("a SegmentationDataset needs labels, or metainfo=dict(classes=…)")
    palette = metainfo.get("palette") or [class_color(index) for index in range(len(classes))]
    return own_labels(classes, palette, stored)
