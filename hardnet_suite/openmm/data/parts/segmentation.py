"""Segmentation data sets of a config."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from mmengine.config import Config

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.images import IMAGE_SUFFIXES
from hardnet_suite.data.options import checked_indices, require_known, take
from hardnet_suite.data.report import counted
from hardnet_suite.data.segmentation import (
    IGNORE,
    LABEL_SETS,
    LabelSet,
    SegmentationReport,
    check_segmentation,
    find_pairs,
    own_labels,
    prediction_path,
    require_aligned,
    require_meaning,
    require_pairs,
)
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import without_nan
from hardnet_suite.evaluation.segmentation import score_confusion
from hardnet_suite.evaluation.tables import format_score
from hardnet_suite.networks import Palette
from hardnet_suite.openmm.data.parts.part import (
    MOST_WORST,
    WORST,
    Part,
    ScoreSummary,
    inner_datasets,
    kind_of,
    require_own_step,
    write_mistakes,
)
from hardnet_suite.visualization.canvas import class_color, read_rgb
from hardnet_suite.visualization.classification import CONFUSION, draw_confusion
from hardnet_suite.visualization.segmentation import (
    Pair,
    draw_segmentation_results,
    draw_worst_segmentations,
    strip,
)

_FOLDERS = ("img_path", "seg_map_path")
_LABELS = (
    "labels",
    "metainfo",
    "stored",
    "reduce_zero_label",
    "ignore_index",
    "mask_threshold",
    "img_suffix",
    "seg_map_suffix",
)
_FILES = ("data_root", "data_prefix", "ann_file", "indices")
# what mmengine's data sets do the same way for every task
_MMENGINE = ("pipeline", "serialize_data", "test_mode", "lazy_init", "max_refetch")
_WITHOUT_EFFECT = {
    "filter_cfg": "segmentation data sets filter nothing; list the images in ann_file instead",
    "backend_args": "files are read from local folders only",
}
_OPTIONS = (*_LABELS, *_FILES, *_MMENGINE, *_WITHOUT_EFFECT)


@dataclass(frozen=True)
class SegmentationPart(Part):
    """A ``SegmentationDataset`` of a config.

    Attributes:
        image_folder: folder of the images.
        label_folder: folder of the label images; None: the images have none.
        labels: the classes, how label images store them, and how the files are named.
        list_file: the list of the images that are used; None: all.
        indices: which of them are used, as mmengine's option; None: all.
    """

    task = "segmentation"
    dataset_name = "SegmentationDataset"
    results = "predictions"
    outputs = MappingProxyType({"predictions": results})
    evaluator = "SegmentationIoU"
    format_only = True

    loader: str
    image_folder: Path
    label_folder: Path | None
    labels: LabelSet
    list_file: Path | None = None
    indices: int | tuple[int, ...] | None = None

    @classmethod
    def of_dataset(cls, loader: str, dataset: Mapping[str, Any]) -> SegmentationPart | None:
        """The part of a data set's options; None if the data set is not of this kind."""
        if kind_of(dataset) != "SegmentationDataset":
            return None
        options = {key: value for key, value in dataset.items() if key not in ("type", "_scope_")}
        return cls.of_options(f"{loader}.dataset", options, loader=loader)

    @classmethod
    def of_options(cls, where: str, options: Mapping[str, Any], *, loader: str = "") -> SegmentationPart:
        """The part that the options of a ``SegmentationDataset`` describe.

        Args:
            where: what messages call the data set.
            options: its options.
            loader: the data loader that it serves.

        Raises:
            UserError: an option that does not exist, has no effect, or has a value it cannot have; a pipeline
                that reads the label images by other rules.
        """
        _require_known(where, options)
        require_own_labels(f"{where}.pipeline", options.get("pipeline"))
        labels = label_set(where, **{key: options[key] for key in _LABELS if key in options})
        root, prefix = Path(options.get("data_root") or ""), _folders(where, options.get("data_prefix"))
        list_file = options.get("ann_file")
        return cls(
            loader,
            root / prefix["img_path"],
            None if prefix.get("seg_map_path") is None else root / prefix["seg_map_path"],
            labels,
            root / list_file if list_file else None,
            checked_indices(options.get("indices"), where),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels.classes

    @property
    def palette(self) -> Palette:
        return self.labels.palette

    @property
    def key(self) -> Hashable:
        labels = self.labels
        files = labels.image_endings, labels.label_endings, self.list_file, self.indices
        meaning = labels.name, labels.classes, tuple(sorted(labels.stored.items())), labels.mask_threshold
        return self.image_folder, self.label_folder, *files, *meaning

    def pairs(self) -> list[tuple[Path, Path | None]]:
        """(image, label image) for every image of the list, see ``find_pairs``; ``indices`` are not applied.

        Raises:
            UserError: the folders or the list do not fit, or an image has no label.
        """
        if self.label_folder is None:
            return find_pairs(self.image_folder, None, self.labels, self.list_file)
        return require_pairs(self.image_folder, self.label_folder, self.labels, self.list_file)

    def chosen_pairs(self) -> list[tuple[Path, Path | None]]:
        """``pairs`` after ``indices``."""
        return take(self.pairs(), self.indices, self.loader or self.dataset_name)

    def require(self) -> None:
        pairs = self.chosen_pairs()
        if not pairs:
            raise UserError(f"{self.loader}: indices={self.indices} leaves no image")
        labelled = [(image, label) for image, label in pairs if label is not None]
        require_aligned(labelled, self.loader)
        require_meaning([label for _, label in labelled], self.labels, self.loader, train=self._is_trained_on)

    @property
    def _is_trained_on(self) -> bool:
        return self.loader == "train_dataloader"

    def counts(self) -> str:
        return counted(len(self.chosen_pairs()), "image")

    def example(self) -> Path:
        return self.chosen_pairs()[0][0]

    def files(self) -> list[Path]:
        return [image for image, _ in self.chosen_pairs()]

    def named_files(self) -> list[Path]:
        return [image for image, _ in self.pairs()]

    def draw_sample(self, sample: Mapping[str, Any]) -> np.ndarray:
        image = read_rgb(Path(sample["img_path"]))
        truth, mask = (
            sample[key]["data"].cpu().numpy().reshape(image.shape[:2]).astype(int) if key in sample else None
            for key in ("gt_sem_seg", "pred_sem_seg")
        )
        return strip(image, truth, self.labels.hide_background(mask), self.palette, self.classes)

    def check(self, *, read: bool = True) -> SegmentationReport | None:
        if self.label_folder is None:
            return None
        return check_segmentation(
            self.image_folder,
            self.label_folder,
            self.labels,
            read=read,
            list_file=self.list_file,
            indices=self.indices,
            train=self._is_trained_on,
        )

    def drop_labels(self, dataset: dict) -> None:
        dataset["data_prefix"].pop("seg_map_path", None)

    def prediction_files(self, *, format_only: bool = False) -> list[str]:
        ids = self._prediction_ids(format_only)
        return [
            Path(self.results, prediction_path(image, self.image_folder, self.labels, ids)).as_posix()
            for image, _ in self.chosen_pairs()
        ]

    def _prediction_ids(self, format_only: bool) -> str:
        """Cityscapes' server expects the numbers of the original labels."""
        return "labelIds" if format_only and self.labels.name == "cityscapes" else "trainIds"

    def evaluator_options(self, folder: Path, *, format_only: bool, heatmaps: bool) -> dict[str, Any]:
        return {
            "image_folder": str(self.image_folder),
            "predictions_dir": str(folder / self.results),
            "prediction_ids": self._prediction_ids(format_only),
        }

    def augment_test(self, cfg: Config, *, scales: tuple[float, ...], flip: bool) -> None:
        from hardnet_suite.openmm.run.records import augmented, is_suites  # records read a config's parts

        if not is_suites(cfg):
            raise UserError(
                f"--scales and --flip average views of the suite's own segmentors: leave them out for this "
                f"{kind_of(cfg.model)}, or have mmseg average them (tta_model, tta_pipeline)"
            )
        for dataset in inner_datasets(cfg.test_dataloader.dataset):
            dataset["pipeline"] = augmented(cfg, dataset["pipeline"], scales=scales, flip=flip)
        cfg.model = {"type": "HarDNetSegmentorTTA", "module": cfg.model}

    def scores_probabilities(self, cfg: Config) -> bool:
        return bool(cfg.test_evaluator.get("masks"))

    def draw_summary(self, metric: Any, folder: Path, *, score: float) -> ScoreSummary:
        if metric.scores is None:  # no image has labels
            return ScoreSummary()
        draw_confusion(*metric.scores.chart(self.classes), folder / CONFUSION, unit="pixels")
        rows = []
        for image, confusion in metric.confusions.items():
            if confusion is None or not confusion.any():
                continue
            scores = score_confusion(confusion, self.labels)
            rows.append((image, scores.miou, scores.pixel_accuracy))
        rows.sort(key=lambda row: -1 if math.isnan(row[1]) else row[1])
        # a frame of background alone has no IoU: where all of it is right it is last
        rows.sort(key=lambda row: row[2] == 1)
        mistakes = write_mistakes(
            folder, ({"image": image, **without_nan({"mIoU": iou, "aAcc": acc})} for image, iou, acc in rows)
        )
        files = {"confusion": CONFUSION, "mistakes": mistakes}
        wrong = [row for row in rows if row[2] < 1]
        if worst := wrong[:MOST_WORST]:
            captions = [
                (f"mIoU {format_score(iou, 3)}, {100 * acc:.1f} % of the pixels right", Path(image).name)
                for image, iou, acc in worst
            ]
            pairs = self._drawn([image for image, *_ in worst], folder, format_only=False)
            draw_worst_segmentations(pairs, captions, self.labels, folder / WORST)
            files["worst images"] = WORST
        return ScoreSummary(files, [image for image, *_ in rows], len(wrong))

    def draw(
        self,
        out_dir: Path,
        work_dir: Path,
        images: Sequence,
        *,
        score: float,
        format_only: bool = False,
        ranked: bool = False,
    ) -> int:
        pairs = self._drawn(images, work_dir, format_only=format_only)
        return draw_segmentation_results(pairs, self.labels, out_dir, ranks=len(images) if ranked else None)

    def _drawn(self, images: Sequence, folder: Path, *, format_only: bool) -> Iterator[Pair]:
        """Each image with its label image and the prediction in a folder."""
        labels, ids = dict(self.pairs()), self._prediction_ids(format_only)
        for image in images:
            prediction = prediction_path(image, self.image_folder, self.labels, ids)
            yield image, labels[Path(image)], folder / self.results / prediction


def require_own_labels(where: str, pipeline: Any) -> None:
    """``require_own_step`` for a pipeline of a ``SegmentationDataset``."""
    require_own_step(where, pipeline, SegmentationPart.dataset_name, "LoadLabels")


def label_set(
    where: str = "a SegmentationDataset",
    *,
    labels: str | None = None,
    metainfo: Mapping[str, Any] | None = None,
    stored: Mapping[int, int] | None = None,
    reduce_zero_label: bool = False,
    ignore_index: int = IGNORE,
    mask_threshold: int | None = None,
    img_suffix: str | tuple[str, ...] | None = None,
    seg_map_suffix: str | tuple[str, ...] | None = None,
) -> LabelSet:
    """The label set that these options of a ``SegmentationDataset`` describe.

    Args:
        where: what messages call the data set.
        labels: name of a known set; None: a custom one.
        metainfo: for a custom set, its ``classes`` and ``palette``.
        stored: for a custom set, see ``own_labels``.
        reduce_zero_label: likewise.
        ignore_index: likewise.
        mask_threshold: likewise.
        img_suffix: how the file names of images end; None: as usual.
        seg_map_suffix: how those of label images end; None: as usual.

    Raises:
        UserError: options that contradict each other or have values they cannot have.
    """
    if labels is not None:
        if labels not in LABEL_SETS:
            raise UserError(f"labels={labels!r} is not a known label set; known: {', '.join(LABEL_SETS)}")
        if metainfo or stored or reduce_zero_label or ignore_index != IGNORE or mask_threshold is not None:
            raise UserError(
                f"labels={labels!r} defines its classes and stored values: metainfo, stored, "
                "reduce_zero_label, ignore_index and mask_threshold are for custom data, with labels=None"
            )
        made = LABEL_SETS[labels]
    else:
        if not isinstance(metainfo, Mapping) or "classes" not in metainfo:
            raise UserError(f"{where} needs labels, or metainfo=dict(classes=…)")
        require_known(metainfo, ("classes", "palette"), f"{where}.metainfo")
        classes = class_names(metainfo["classes"], f"{where}.metainfo.classes")
        palette = metainfo.get("palette") or [class_color(index) for index in range(len(classes))]
        if not isinstance(reduce_zero_label, bool):
            raise UserError(f"{where} has reduce_zero_label={reduce_zero_label!r}, expected True or False")
        options = {
            "reduce_zero_label": reduce_zero_label,
            "ignore_index": ignore_index,
            "mask_threshold": mask_threshold,
        }
        made = own_labels(classes, palette, stored, **options)
    if img_suffix is not None:
        made = replace(made, image_endings=_endings(f"{where}.img_suffix", img_suffix))
    if seg_map_suffix is not None:
        made = replace(made, label_endings=_endings(f"{where}.seg_map_suffix", seg_map_suffix))
    return made


def _endings(where: str, given: object) -> tuple[str, ...]:
    endings = (given,) if isinstance(given, str) else given
    if not isinstance(endings, list | tuple) or not all(isinstance(end, str) and end for end in endings):
        raise UserError(f"{where} is {given!r}, expected the end of the file names, such as '.png'")
    if not endings:
        raise UserError(f"{where} is empty, expected the end of the file names, such as '.png'")
    for end in endings:
        if f".{end.lower()}" in IMAGE_SUFFIXES:
            raise UserError(f"{where} is {given!r}, expected the dot as well: '.{end}'")
    return tuple(endings)


def _folders(where: str, prefix: object) -> Mapping[str, str]:
    if not isinstance(prefix, Mapping):
        raise UserError(f"{where} has data_prefix={prefix!r}, expected dict(img_path=…, seg_map_path=…)")
    require_known(prefix, _FOLDERS, f"{where}.data_prefix")
    for key, folder in prefix.items():
        if not isinstance(folder, str | Path) and not (folder is None and key == "seg_map_path"):
            raise UserError(f"{where}.data_prefix.{key} is {folder!r}, expected a folder")
    if "img_path" not in prefix:
        raise UserError(f"{where}.data_prefix has no img_path, the folder of the images")
    return prefix


def _require_known(where: str, options: Mapping[str, Any]) -> None:
    require_known(options, _OPTIONS, where)
    for key, reason in _WITHOUT_EFFECT.items():
        if options.get(key):
            raise UserError(f"{where} has {key}={options[key]!r}, which has no effect here: {reason}")
