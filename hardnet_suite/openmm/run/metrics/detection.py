"""COCO detection scores during training and testing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from PIL import Image

from hardnet_suite.data.coco import load_annotations
from hardnet_suite.evaluation.coco import evaluate_coco


@METRICS.register_module()
class CocoDetection(BaseMetric):
    """The 12 COCO figures of bounding boxes, by pycocotools, named ``coco/bbox_mAP`` and so on.

    ann_file: the annotations, COCO JSON. results_file: where to save the raw detections (COCO result
    format), if at all. heatmap_dir: where to save the heat maps of a model that predicts them, as 8-bit grey
    IMAGE_ID.png, 255 being 1. After scoring, ``image_ids`` names the images that were scored; ``details``
    stays empty.
    """

    default_prefix = "coco"

    def __init__(
        self,
        ann_file: str,
        results_file: str | None = None,
        heatmap_dir: str | None = None,
        collect_device: str = "cpu",
    ):
        super().__init__(collect_device=collect_device)
        self.ann_file, self.results_file, self.heatmap_dir = ann_file, results_file, heatmap_dir
        self.image_ids: list = []
        self.details: dict[str, Any] = {}

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            if self.heatmap_dir and "pred_heatmap" in sample:
                heat = sample["pred_heatmap"]["data"][0].float().mul(255).round().byte().cpu().numpy()
                folder = Path(self.heatmap_dir)
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(heat).save(folder / f"{sample['img_id']}.png")
            found = sample["pred_instances"]
            boxes = found["bboxes"].float().cpu().numpy()
            boxes[:, 2:] -= boxes[:, :2]
            self.results.append(
                (
                    sample["img_id"],
                    boxes.tolist(),
                    found["scores"].float().cpu().tolist(),
                    found["labels"].cpu().tolist(),
                )
            )

    def compute_metrics(self, results: list) -> dict[str, float]:
        annotations = load_annotations(self.ann_file)
        ids = {category["name"]: category["id"] for category in annotations["categories"]}
        category_ids = [ids[name] for name in self.dataset_meta["classes"]]
        of_image = {image_id: rest for image_id, *rest in results}  # ranks may see an image twice
        detections = [
            {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
            for image_id, found in of_image.items()
            for box, score, label in zip(*found, strict=True)
        ]
        self.image_ids = list(of_image)
        if self.results_file:
            Path(self.results_file).write_text(json.dumps(detections))
        scores = evaluate_coco(annotations, detections, image_ids=self.image_ids)
        MMLogger.get_current_instance().info("\n" + scores.table())
        return {f"bbox_{name}": value for name, value in scores.metrics.items()}
