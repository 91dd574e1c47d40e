"""COCO detection data sets of a config."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from hardnet_suite.data.coco import CocoReport, check_coco, load_annotations, require_coco
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.part import Part
from hardnet_suite.visualization.detection import draw_results
from hardnet_suite.visualization.heatmap import draw_heatmaps

_CENTERNET = "HarDNetCenterNet"  # the model that predicts heat maps
_HEATMAPS = "heatmaps"


@dataclass(frozen=True)
class DetectionPart(Part):
    """A COCO data set: ``annotation_file``, ``image_folder``, and what ``filter_cfg`` leaves out."""

    task = "detection"
    dataset_name = "COCO data set"
    results = "detections.json"
    outputs = MappingProxyType({"detections": results})
    evaluator = "CocoDetection"
    has_scores = True

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

    def log_lines(self, report: CocoReport) -> list[str]:
        lines = report.brief()
        if report.crowds:
            lines.append(f"{report.crowds} regions marked iscrowd are not trained on, and count neither way")
        least = (self.filter_cfg or {}).get("min_size", 0)
        if report.sizes and min(report.sizes[:2]) < least:
            lines.append(f"images with a side under {least} pixels are left out (filter_cfg.min_size)")
        return lines

    def evaluator_options(self, folder: Path, *, format_only: bool, heatmaps: bool) -> dict[str, Any]:
        options = super().evaluator_options(folder, format_only=format_only, heatmaps=heatmaps)
        return options | ({"heatmap_dir": str(folder / _HEATMAPS)} if heatmaps else {})

    def augment_test(self, cfg: Config, *, scales: tuple[float, ...], flip: bool) -> None:
        if scales != (1.0,) or cfg.model.type != _CENTERNET:
            super().augment_test(cfg, scales=scales, flip=flip)
        cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), "flip_test": True}

    def keep_heatmaps(self, cfg: Config) -> None:
        if cfg.model.type == _CENTERNET:
            cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), "keep_heatmap": True}

    def draw(
        self, out_dir: Path, work_dir: Path, images: Sequence, *, score: float, format_only: bool
    ) -> int:
        place = self.annotation_file, work_dir / self.results, self.image_folder, out_dir
        count = draw_results(*place, image_ids=images, least_score=score)
        if (work_dir / _HEATMAPS).is_dir():
            place = self.annotation_file, work_dir / _HEATMAPS, self.image_folder, out_dir
            count += draw_heatmaps(*place, image_ids=images)
        return count


def _own_classes(dataset_type: str) -> tuple[str, ...]:
    with DATASETS.switch_scope_and_registry(None) as registry:  # the default scope's
        return registry.get(dataset_type).METAINFO["classes"]
