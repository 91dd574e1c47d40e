"""Segmentation scores during training and testing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from hardnet_suite.data.report import counted
from hardnet_suite.data.segmentation import IGNORE, LABEL_SETS, LabelSet, prediction_path, write_label
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.binary import MaskScores, score_mask, summarize_masks
from hardnet_suite.evaluation.coco import without_nan
from hardnet_suite.evaluation.segmentation import SegmentationScores, count_pixels, score_confusion
from hardnet_suite.evaluation.tables import MOST_CLASSES, format_score


@METRICS.register_module()
class SegmentationIoU(BaseMetric):
    """``mIoU``, ``aAcc`` (pixel accuracy) and ``mAcc`` (mean accuracy of the classes), in [0, 1].

    Images without labels are predicted, but not scored. With one class, ``mIoU`` is the IoU of that class;
    the background has no IoU, but counts for ``aAcc``.

    Args:
        predictions_dir: Folder to save the predictions to, as label images of class indices (255: no class):
            CITY/NAME_labelTrainIds.png for Cityscapes, otherwise PATH.png. None saves nothing.
        image_folder: Folder of the images, whose subfolders are kept; None keeps none.
        prediction_ids: "trainIds" saves class indices, "labelIds" the ids of Cityscapes' test server.
        masks: With one class, also score each image as papers on polyps do: the ``summarize_masks`` of
            ``evaluation.binary``. Ignored pixels are not for it.
        collect_device: As in mmengine.

    Attributes:
        image_ids: After scoring, the paths of the images.
        details: After scoring, the metrics and the scores per class and category.
        summary: After scoring, the scores as a table, of many classes the best and the worst.
        scores: After scoring, all scores.
        confusions: After scoring, path of each image -> its confusion matrix; None without labels.
        mask_scores: After scoring with ``masks``, path of each image with labels -> its ``MaskScores``.
    """

    def __init__(
        self,
        predictions_dir: str | None = None,
        image_folder: str | None = None,
        prediction_ids: str = "trainIds",
        masks: bool = False,
        collect_device: str = "cpu",
    ):
        super().__init__(collect_device=collect_device)
        if prediction_ids not in ("trainIds", "labelIds"):
            raise ValueError(f"prediction_ids={prediction_ids!r}, expected 'trainIds' or 'labelIds'")
        self.predictions_dir, self.image_folder = predictions_dir, image_folder
        self.prediction_ids = prediction_ids
        self.masks = masks
        self.image_ids: list[str] = []
        self.details: dict[str, Any] = {}
        self.summary = ""
        self.scores: SegmentationScores | None = None
        self.confusions: dict[str, np.ndarray | None] = {}
        self.mask_scores: dict[str, MaskScores] = {}

    @property
    def labels(self) -> LabelSet:
        meta = self.dataset_meta
        palette = tuple(map(tuple, meta["palette"]))
        labels = LABEL_SETS.get(meta.get("labels")) or LabelSet("the config", tuple(meta["classes"]), palette)
        return replace(labels, image_endings=tuple(meta.get("image_endings", labels.image_endings)))

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        labels = self.labels
        for sample in data_samples:
            prediction = sample["pred_sem_seg"]["data"].cpu().numpy()
            # mmseg returns floating-point masks for one logit
            prediction = prediction.reshape(prediction.shape[-2:]).astype(np.int64)
            confusion = mask = None
            if "gt_sem_seg" in sample:
                target = sample["gt_sem_seg"]["data"].cpu().numpy().reshape(prediction.shape)
                confusion = count_pixels(target, prediction, labels)
                if self.masks:
                    mask = self._mask_scores(target, prediction, sample, labels)
            if self.predictions_dir:
                self._save(sample["img_path"], labels.hide_background(prediction), labels)
            self.results.append((sample["img_path"], confusion, mask))

    def _mask_scores(
        self, target: np.ndarray, prediction: np.ndarray, sample: dict, labels: LabelSet
    ) -> MaskScores:
        if labels.background is None:
            raise UserError(
                f"SegmentationIoU has masks=True, but the data has {counted(len(labels.classes), 'class')}"
            )
        if (target == IGNORE).any():
            raise UserError(
                f"{sample['img_path']} has ignored pixels, which the scores of masks=True cannot leave out: "
                "remove masks=True from the evaluator"
            )
        logits = sample["seg_logits"]["data"].float().cpu()
        return score_mask(target == 0, prediction == 0, logits.sigmoid()[0].numpy())

    def _save(self, image_path: str, prediction: np.ndarray, labels: LabelSet) -> None:
        path = prediction_path(image_path, self.image_folder, labels, self.prediction_ids)
        stored = LABEL_SETS["cityscapes_ids"] if self.prediction_ids == "labelIds" else LabelSet("", (), ())
        write_label(Path(self.predictions_dir, path), prediction, stored)

    def compute_metrics(self, results: list) -> dict[str, float]:
        # ranks may see an image twice
        of_image = self.confusions = {image: confusion for image, confusion, _ in results}
        self.mask_scores = {image: mask for image, _, mask in results if mask is not None}
        self.image_ids = list(of_image)
        confusions = [confusion for confusion in of_image.values() if confusion is not None]
        if not confusions:
            return {}
        labels = self.labels
        scores = self.scores = score_confusion(np.sum(confusions, axis=0), labels)
        self.details = scores.report(labels.classes)
        categories = f"\n\n{scores.category_table()}" if labels.categories else ""
        self.summary = scores.table(labels.classes, MOST_CLASSES) + categories
        MMLogger.get_current_instance().info(f"\n{scores.table(labels.classes)}{categories}")
        if not self.masks:
            return scores.metrics
        masks = summarize_masks([*self.mask_scores.values()])
        self.details["masks"] = without_nan(masks)
        table = "\n".join(f"{name:<8}  {format_score(value, 4)}" for name, value in masks.items())
        self.summary += f"\n\n{table}"
        MMLogger.get_current_instance().info(f"\n{table}")
        return scores.metrics | masks
