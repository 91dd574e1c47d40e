"""Panoptic scores during training and testing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from PIL import Image

from hardnet_suite.data.panoptic import segment_colors
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.panoptic import PanopticScores, TrueSegment, match_segments, score_segments
from hardnet_suite.evaluation.tables import MOST_CLASSES
from hardnet_suite.openmm.data.parts.panoptic import PanopticPart, predicted_segments, true_segments
from hardnet_suite.outputs import write_file, writing


@METRICS.register_module()
class CocoPanoptic(BaseMetric):
    """Panoptic quality ``coco/PQ``, ``SQ``, ``RQ``, also of ``_things`` and ``_stuff``, in [0, 1].

    They are scored against the annotations of the ``PanopticDataset``.

    Args:
        results_dir: where to save the predictions in COCO's form: ``panoptic.json``, and ``panoptic/`` with a
            label image per image; None: nowhere.
        format_only: the predictions are saved without being scored.
        collect_device: as in mmengine.

    Attributes:
        image_ids: after scoring, the ids of the images.
        details: after scoring, the figures per class.
        summary: after scoring, the figures as a table, of many classes the best and the worst.
        scores: after scoring, all figures.
        counts: after scoring, id of each image -> its ``match_segments``.
    """

    default_prefix = "coco"

    def __init__(
        self, results_dir: str | None = None, format_only: bool = False, collect_device: str = "cpu"
    ):
        super().__init__(collect_device=collect_device)
        if format_only and results_dir is None:
            raise ValueError("format_only=True saves the predictions only: give results_dir")
        self.results_dir, self.format_only = results_dir, format_only
        self.image_ids: list = []
        self.details: dict[str, Any] = {}
        self.summary = ""
        self.scores: PanopticScores | None = None
        self.counts: dict[int | str, np.ndarray] = {}

    @property
    def dataset_meta(self) -> dict | None:
        """``classes`` of the data set, and where its annotations are."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        if "label_folder" not in meta:
            raise UserError("CocoPanoptic scores a PanopticDataset with test_mode=True: make it the loader's")
        part = PanopticPart(
            "the evaluator",
            *(Path(meta[key]) for key in ("annotation_file", "image_folder", "label_folder")),
            tuple(meta["thing_classes"]),
            tuple(meta["stuff_classes"]),
        )
        content = part.read()
        if not self.format_only:
            content.require_annotated()
            self._truth = {image.id: rest for image, *rest in part.annotations()}
        self._names = part.prediction_names()
        self._dataset_meta, self.part = meta, part

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        part = self.part
        for sample in data_samples:
            key = sample["img_id"]
            ids, labels = predicted_segments(sample, len(part.classes))
            counts = None
            if not self.format_only:
                path, meanings = self._truth[key]
                truth, known = true_segments(path, meanings)
                if truth.shape != ids.shape:
                    sizes = *truth.shape[::-1], *ids.shape[::-1]
                    raise UserError(
                        "the label image {} is {}×{} pixels, the prediction {}×{}".format(path, *sizes)
                    )
                meanings = {segment: TrueSegment(*meaning) for segment, meaning in known.items()}
                counts = match_segments(truth, meanings, ids, labels, len(part.classes))
            if self.results_dir:
                path = Path(self.results_dir, part.results, self._names[key])
                path.parent.mkdir(parents=True, exist_ok=True)
                with writing(path):
                    Image.fromarray(segment_colors(ids)).save(path)
            self.results.append((key, labels, counts))

    def compute_metrics(self, results: list) -> dict[str, float]:
        part = self.part
        of_image = {key: (labels, counts) for key, labels, counts in results}  # ranks may see an image twice
        self.image_ids = list(of_image)
        if self.results_dir:
            self._save({key: labels for key, (labels, _) in of_image.items()})
        if self.format_only:
            return {}
        self.counts = {key: counts for key, (_, counts) in of_image.items()}
        total = np.sum(list(self.counts.values()), axis=0)
        scores = self.scores = score_segments(total, part.classes, len(part.things))
        self.details = {"per_class": scores.report()["per_class"]}
        self.summary = scores.table(MOST_CLASSES)
        MMLogger.get_current_instance().info(f"\n{scores.table()}")
        return scores.metrics

    def _save(self, labels_of_image: dict[int | str, dict[int, int]]) -> None:
        part = self.part
        ids = part.read().category_ids
        entries = [
            {
                "image_id": key,
                "file_name": self._names[key],
                "segments_info": [
                    {"id": segment, "category_id": ids[part.classes[label]]}
                    for segment, label in labels.items()
                ],
            }
            for key, labels in labels_of_image.items()
        ]
        write_file(Path(self.results_dir, f"{part.results}.json"), json.dumps({"annotations": entries}))
