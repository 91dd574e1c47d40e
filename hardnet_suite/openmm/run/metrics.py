"""Scores during training and testing: COCO detection, segmentation, classification."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from PIL import Image

from hardnet_suite.data.classification import readable
from hardnet_suite.data.coco import load_annotations
from hardnet_suite.data.segmentation import LABEL_SETS, LabelSet, prediction_path, write_label
from hardnet_suite.evaluation.classification import score_guesses
from hardnet_suite.evaluation.coco import evaluate_coco
from hardnet_suite.evaluation.segmentation import confusion_matrix, score_confusion


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


@METRICS.register_module()
class SegmentationIoU(BaseMetric):
    """IoU of classes and categories, in [0, 1], named ``mIoU``, ``aAcc`` (of the pixels), ``mAcc`` (of the
    classes); images without labels are predicted, but not scored.

    predictions_dir: where to save each prediction as a label image, if at all: CITY/NAME_labelTrainIds.png
    for Cityscapes, otherwise PATH.png, beside the paths of the images in ``image_folder``.
    prediction_ids: "trainIds" saves the number of a class, "labelIds" Cityscapes' own, for its test server.
    After scoring, ``image_ids`` holds the paths of the images and ``details`` the figures of each class
    and category.
    """

    def __init__(
        self,
        predictions_dir: str | None = None,
        image_folder: str | None = None,
        prediction_ids: str = "trainIds",
        collect_device: str = "cpu",
    ):
        super().__init__(collect_device=collect_device)
        if prediction_ids not in ("trainIds", "labelIds"):
            raise ValueError(f"prediction_ids={prediction_ids!r}: allowed are 'trainIds' and 'labelIds'")
        self.predictions_dir, self.image_folder = predictions_dir, image_folder
        self.prediction_ids = prediction_ids
        self.image_ids: list[str] = []
        self.details: dict[str, Any] = {}

    @property
    def labels(self) -> LabelSet:
        name = self.dataset_meta.get("labels")
        if name is not None:
            return LABEL_SETS[name]
        classes, palette = self.dataset_meta["classes"], self.dataset_meta["palette"]
        return LabelSet("the config", tuple(classes), tuple(map(tuple, palette)))

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            found = sample["pred_sem_seg"]["data"].cpu().numpy()
            found = found.reshape(found.shape[-2:])
            confusion = None
            if "gt_sem_seg" in sample:
                target = sample["gt_sem_seg"]["data"].cpu().numpy().reshape(found.shape)
                confusion = confusion_matrix(target, found, len(self.labels.classes))
            if self.predictions_dir:
                self._save(sample["img_path"], found)
            self.results.append((sample["img_path"], confusion))

    def _save(self, image_path: str, found: np.ndarray) -> None:
        path = prediction_path(image_path, self.image_folder, self.labels, self.prediction_ids)
        stored = LABEL_SETS["cityscapes_ids"] if self.prediction_ids == "labelIds" else LabelSet("", (), ())
        write_label(Path(self.predictions_dir, path), found, stored)

    def compute_metrics(self, results: list) -> dict[str, float]:
        of_image = dict(results)  # ranks may see an image twice
        self.image_ids = list(of_image)
        scored = [confusion for confusion in of_image.values() if confusion is not None]
        if not scored:
            return {}
        labels = self.labels
        scores = score_confusion(np.sum(scored, axis=0), labels)
        self.details = scores.report(labels.classes)
        logger = MMLogger.get_current_instance()
        logger.info("\n" + scores.table(labels.classes))
        if labels.categories:
            logger.info("\n" + scores.category_table())
        return scores.metrics


@METRICS.register_module()
class ImageClassification(BaseMetric):
    """``top1`` and ``top5`` accuracy, in [0, 1].

    results_file: where to save the guesses, if at all: a JSON line an image with ``name``, ``label`` and
    the five first ``guesses`` with their ``probabilities``. After scoring, ``image_ids`` holds the names,
    ``details`` the accuracy of each class and ``confusion`` (C, C) what was taken for what.
    """

    def __init__(self, results_file: str | None = None, collect_device: str = "cpu"):
        super().__init__(collect_device=collect_device)
        self.results_file = results_file
        self.image_ids: list[str] = []
        self.details: dict[str, Any] = {}
        self.confusion = np.zeros((0, 0), np.int64)

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        for sample in data_samples:
            shares = sample["scores"].double().softmax(0).cpu()
            best = shares.sort(descending=True, stable=True)  # all the scores would fill the memory
            guesses, shares = best.indices[:5].tolist(), best.values[:5].tolist()
            self.results.append((sample["name"], int(sample["label"]), guesses, shares))

    def compute_metrics(self, results: list) -> dict[str, float]:
        classes = self.dataset_meta["classes"]
        names, labels, guesses, _ = zip(*results, strict=True)  # mmengine has cut what ranks saw twice
        self.image_ids = list(names)
        if self.results_file:
            self._save(results, classes)
        found = score_guesses(np.array(guesses), np.array(labels), len(classes))
        self.details, self.confusion = found.report(classes), found.confusion
        MMLogger.get_current_instance().info("\n" + found.table(readable(classes)))
        return found.metrics

    def _save(self, results: list, classes: Sequence[str]) -> None:
        with Path(self.results_file).open("w", encoding="utf-8") as stream:
            for name, label, guesses, shares in results:
                row = {
                    "name": name,
                    "label": classes[label],
                    "guesses": [classes[index] for index in guesses],
                    "probabilities": [round(share, 6) for share in shares],
                }
                stream.write(json.dumps(row) + "\n")
