"""Segmentation scores during training and testing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from hardnet_suite.data.segmentation import LABEL_SETS, LabelSet, prediction_path, write_label
from hardnet_suite.evaluation.segmentation import confusion_matrix, score_confusion


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
