"""COCO detection data sets of a config."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

from mmengine.registry import DATASETS

from hardnet_suite.data.coco import CocoReport, check_coco, load_annotations, require_coco
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.part import Part


@dataclass(frozen=True)
class DetectionPart(Part):
    """A COCO data set: ``annotation_file``, ``image_folder``, and what ``filter_cfg`` leaves out."""

    task = "detection"
    results = "detections.json"

    loader: str
    annotation_file: Path
    image_folder: Path
    classes: tuple[str, ...] = ()
    filter_cfg: dict | None = None

    @classmethod
    def of_dataset(cls, loader: str, dataset: dict) -> DetectionPart | None:
        """The part of a data set's options; None if the data set is not of this kind."""
        if "ann_file" not in dataset:
            return None
        root = Path(dataset.get("data_root") or "")
        classes = (dataset.get("metainfo") or {}).get("classes") or _own_classes(dataset["type"])
        place = root / dataset["ann_file"], root / dataset["data_prefix"]["img"]
        return cls(loader, *place, tuple(classes), dataset.get("filter_cfg"))

    @property
    def key(self) -> Hashable:
        return self.annotation_file, self.image_folder, self.classes

    def require(self) -> None:
        require_coco(self.annotation_file, self.image_folder)
        names = {category["name"] for category in load_annotations(self.annotation_file)["categories"]}
        missing = [name for name in self.classes if name not in names]
        if missing:
            raise UserError(
                f"{self.annotation_file} has {len(names)} classes and lacks "
                f"{', '.join(map(repr, missing[:3]))} of the config's {len(self.classes)}; "
                "set the data set's metainfo.classes and num_classes"
            )

    def check(self, *, read: bool = True) -> CocoReport:
        return check_coco(self.annotation_file, self.image_folder, self.classes, read_images=read)


def _own_classes(dataset_type: str) -> tuple[str, ...]:
    with DATASETS.switch_scope_and_registry(None) as registry:  # the default scope's
        return registry.get(dataset_type).METAINFO["classes"]
