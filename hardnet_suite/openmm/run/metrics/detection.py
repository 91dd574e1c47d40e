"""COCO detection scores during training and testing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from PIL import Image

from hardnet_suite.data.coco import annotation_lines, read_coco
from hardnet_suite.data.coco.masks import encode_pixels
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import (
    CocoMistakes,
    CocoScores,
    evaluate_coco,
    find_mistakes,
    require_backend,
)
from hardnet_suite.evaluation.tables import MOST_CLASSES
from hardnet_suite.openmm.data.parts.detection import require_same_annotations
from hardnet_suite.outputs import write_file, writing
from hardnet_suite.visualization.heatmap import heatmap_name


@METRICS.register_module()
class CocoDetection(BaseMetric):
    """The 12 COCO figures of bounding boxes, named ``coco/bbox_mAP`` and so on, and those of masks.

    Args:
        ann_file: COCO annotations.
        results_file: where to save the raw detections, in COCO's result format; None: nowhere.
        heatmap_dir: where to save the heat maps of a model that predicts them: 8-bit grey PNG, 255 is 1.
        format_only: the detections are saved without being scored.
        collect_device: as in mmengine.
        backend: what computes the figures, as of ``evaluate_coco``.
        masks: the model predicts a mask for each box. The figures of masks are named ``coco/segm_mAP`` and so
            on; ``results_file`` has each mask as a compressed run-length encoding.

    What scoring needs is checked when the metric learns the data set, before any image is predicted.

    Attributes:
        image_ids: after scoring, the ids of the images.
        details: after scoring, the figures per class; with ``masks`` also those of "masks".
        summary: after scoring, the figures as a table, of many classes the best and the worst.
        scores: after scoring, all figures of boxes.
        mistakes: after scoring with a ``results_file``, what is missed, false or of another class.
    """

    default_prefix = "coco"

    def __init__(
        self,
        ann_file: str,
        results_file: str | None = None,
        heatmap_dir: str | None = None,
        format_only: bool = False,
        collect_device: str = "cpu",
        backend: str = "pycocotools",
        masks: bool = False,
    ):
        super().__init__(collect_device=collect_device)
        require_backend(backend)
        self.backend = backend
        if format_only and results_file is None:
            raise ValueError("format_only=True saves the detections only: give results_file")
        self.ann_file, self.results_file, self.heatmap_dir = ann_file, results_file, heatmap_dir
        self.format_only, self.masks = format_only, masks
        self.image_ids: list = []
        self.details: dict[str, Any] = {}
        self.summary = ""
        self.scores: CocoScores | None = None
        self.mistakes: CocoMistakes | None = None
        self._warned = self._warned_of_masks = False

    @property
    def dataset_meta(self) -> dict | None:
        """``classes`` of the data set; ours adds ``annotation_file`` and ``image_folder``."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        if "annotation_file" in meta:
            require_same_annotations(self.ann_file, meta["annotation_file"], "the evaluator", "the data set")
        content = read_coco(self.ann_file, image_folder=meta.get("image_folder"))
        if not self.format_only:
            content.require_boxes()
        content.require_classes(tuple(meta["classes"]))
        if self.masks and not self.format_only:
            boxes = (box for box in content.boxes if box.category in set(meta["classes"]))
            content.require_masks(boxes, "the evaluator's masks=True")
        self._dataset_meta = meta

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            if self.heatmap_dir and "pred_heatmap" in sample:
                heat = sample["pred_heatmap"]["data"][0].float().mul(255).round().byte().cpu().numpy()
                folder = Path(self.heatmap_dir)
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / heatmap_name(sample["img_id"])
                with writing(path):
                    Image.fromarray(heat).save(path)
            instances = sample["pred_instances"]
            boxes = instances["bboxes"].float().cpu().numpy()
            boxes[:, 2:] -= boxes[:, :2]
            self.results.append(
                (
                    sample["img_id"],
                    boxes.tolist(),
                    instances["scores"].float().cpu().tolist(),
                    instances["labels"].cpu().tolist(),
                    *self._encoded(instances),
                )
            )

    def _encoded(self, instances: Mapping[str, Any]) -> list[list[dict]]:
        """A list of the boxes' masks as run-length encodings; with boxes alone, none."""
        masks = instances.get("masks")
        if self.masks and masks is None:
            raise UserError(
                "the evaluator has masks=True, but the model predicts boxes alone: remove masks=True"
            )
        if self.masks:
            return [encode_pixels(torch.as_tensor(masks).cpu().numpy().astype(bool))]
        if masks is not None and not self._warned_of_masks:
            MMLogger.get_current_instance().warning(
                "the model predicts masks, which are neither scored nor saved: set masks=True in the "
                "evaluator"
            )
            self._warned_of_masks = True
        return []

    def compute_metrics(self, results: list) -> dict[str, float]:
        annotations = read_coco(self.ann_file, image_folder=self.dataset_meta.get("image_folder"))
        classes = tuple(self.dataset_meta["classes"])
        ids = annotations.require_classes(classes).category_ids
        category_ids = [ids[name] for name in classes]
        of_image = {image_id: rest for image_id, *rest in results}  # ranks may see an image twice
        detections = [
            {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
            | ({"segmentation": mask[0]} if mask else {})
            for image_id, instances in of_image.items()
            for box, score, label, *mask in zip(*instances, strict=True)
        ]
        self.image_ids = list(of_image)
        if self.results_file:
            write_file(self.results_file, json.dumps(detections))
        if self.format_only:
            return {}
        which = {"image_ids": self.image_ids, "classes": classes}
        scores = self.scores = evaluate_coco(annotations, detections, backend=self.backend, **which)
        if self.results_file:
            self.mistakes = find_mistakes(annotations, detections, **which)
        self.details = {"per_class": scores.report()["per_class"]}
        figures = {f"bbox_{name}": value for name, value in scores.metrics.items()}
        self.summary = f"{scores.table()}\n\n{scores.class_table(MOST_CLASSES)}"
        tables = f"{scores.table()}\n\n{scores.class_table()}"
        if self.masks:
            of_masks = evaluate_coco(annotations, detections, iou_type="segm", backend=self.backend, **which)
            self.details["masks"] = {"per_class": of_masks.report()["per_class"]}
            figures |= {f"segm_{name}": value for name, value in of_masks.metrics.items()}
            self.summary = (
                f"boxes\n{self.summary}\n\nmasks\n{of_masks.table()}\n\n{of_masks.class_table(MOST_CLASSES)}"
            )
            tables = f"boxes\n{tables}\n\nmasks\n{of_masks.table()}\n\n{of_masks.class_table()}"
        logger = MMLogger.get_current_instance()
        if not self._warned:  # at the first of a run's validations
            for line in annotation_lines(annotations):
                logger.warning(f"{self.ann_file}: {line}")
            self._warned = True
        logger.info(f"\n{tables}")
        return figures
