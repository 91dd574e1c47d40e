"""COCO detection data sets of a config."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.coco import (
    COCO_CLASSES,
    CocoBox,
    CocoFile,
    CocoImage,
    CocoReport,
    check_coco,
    missing_image_cure,
    missing_images,
    read_coco,
    require_coco,
    wrong_sizes,
)
from hardnet_suite.data.coco.masks import decode_mask
from hardnet_suite.data.images import header_sizes
from hardnet_suite.data.options import checked_indices, require_known, require_local, take
from hardnet_suite.data.report import Finding, counted
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import MISTAKE_SCORE, find_mistakes
from hardnet_suite.networks import Palette
from hardnet_suite.openmm.data.parts.part import (
    DRAWN_SCORE,
    MOST_WORST,
    WORST,
    Part,
    ScoreSummary,
    kind_of,
    step_class,
    steps_of,
    write_mistakes,
)
from hardnet_suite.visualization.canvas import beside, read_rgb
from hardnet_suite.visualization.detection import draw_boxes, draw_results, draw_worst_detections
from hardnet_suite.visualization.detection_charts import CHARTS, draw_detection_charts
from hardnet_suite.visualization.heatmap import draw_heatmaps

_CENTERNET = "HarDNetCenterNet"  # the model that predicts heat maps
_HEATMAPS = "heatmaps"
_MOST_DRAWN = 50  # boxes of a sample: an untrained network predicts hundreds
_TYPE = "DetectionDataset"
_OPTIONS = (
    *("ann_file", "data_root", "data_prefix", "metainfo", "filter_cfg", "indices", "test_mode", "annotated"),
    # what mmengine's data sets do the same way for every task
    *("pipeline", "serialize_data", "lazy_init", "max_refetch"),
    "backend_args",  # None, as mmdet's base configs have it
)
# the findings with which mmdet's CocoDataset does the same as the suite
_HARMLESS = frozenset(
    {
        *("empty box", "tiny box"),
        *("box outside the image", "box partly outside the image"),
    }
)
# the errors of a report that ``require`` refuses
_REFUSED = frozenset(
    {
        *("missing image", "unreadable image", "image size differs", "missing class", "incomplete category"),
        *("duplicate image id", "duplicate annotation id", "duplicate category id", "duplicate file name"),
        *("duplicate category name", "unknown image", "unknown category", "normalised boxes"),
        *("no usable box", "invalid iscrowd", "invalid ignore"),
    }
)


@dataclass(frozen=True)
class DetectionPart(Part):
    """A ``DetectionDataset`` of a config, or one of mmdet's ``CocoDataset``.

    Attributes:
        annotation_file: COCO annotations.
        image_folder: folder of the images.
        classes: class names in the order of their labels.
        palette: one RGB colour per class; None for the usual ones.
        filter_empty: drops images without a box.
        min_size: drops images with a shorter side, in pixels.
        indices: which images are used, as mmengine's option; None: all.
        annotated: whether the annotations are read; if not, the images are for prediction only.
        positional: the data set is mmdet's, which numbers labels by the order of the file's categories.
        masks: what of the pipeline needs a mask for each box; None: nothing.
        polygons: whether these masks must be polygons.
    """

    task = "detection"
    dataset_name = "COCO data set"
    results = "detections.json"
    outputs = MappingProxyType({"detections": results})
    charts = tuple(CHARTS.values())
    evaluator = "CocoDetection"
    has_scores = True
    format_only = True
    scores_one_file = True

    loader: str
    annotation_file: Path
    image_folder: Path
    classes: tuple[str, ...] = COCO_CLASSES
    palette: Palette | None = None
    filter_empty: bool = False
    min_size: int = 0
    indices: int | tuple[int, ...] | None = None
    annotated: bool = True
    positional: bool = False
    masks: str | None = None
    polygons: bool = False

    @property
    def is_own(self) -> bool:
        return not self.positional

    @classmethod
    def of_dataset(cls, loader: str, dataset: Mapping[str, Any]) -> DetectionPart | None:
        """The part of a data set's options; None if the data set is not of this kind."""
        kind = kind_of(dataset)
        options = {key: value for key, value in dataset.items() if key not in ("type", "_scope_")}
        if kind == _TYPE:
            return cls.of_options(f"{loader}.dataset", options, loader=loader)
        if "ann_file" not in dataset or not _is_coco(dataset["type"]):
            return None
        known = {key: options[key] for key in options if key in _OPTIONS}
        known["metainfo"] = {"classes": _own_classes(dataset["type"])} | dict(options.get("metainfo") or {})
        return cls.of_options(f"{loader}.dataset", known, loader=loader, positional=True)

    @classmethod
    def of_options(
        cls, where: str, options: Mapping[str, Any], *, loader: str = "", positional: bool = False
    ) -> DetectionPart:
        """The part that the options of a ``DetectionDataset`` describe.

        Args:
            where: what messages call the data set.
            options: its options.
            loader: the data loader that it serves.
            positional: see ``DetectionPart``.

        Raises:
            UserError: an option that does not exist, has no effect, or has a value it cannot have.
        """
        if not positional:
            require_known(options, _OPTIONS, where)
            require_local(options, where)
        metainfo = options.get("metainfo") or {}
        if not isinstance(metainfo, Mapping):
            raise UserError(f"{where}.metainfo is {metainfo!r}, expected dict(classes=…)")
        prefix, annotation_file = options.get("data_prefix"), options.get("ann_file")
        if not positional:
            require_known(metainfo, ("classes", "palette"), f"{where}.metainfo")
            require_known(prefix if isinstance(prefix, Mapping) else {}, ("img",), f"{where}.data_prefix")
        if not isinstance(prefix, Mapping) or not isinstance(prefix.get("img"), str | Path):
            raise UserError(
                f"{where} has data_prefix={prefix!r}, expected dict(img=…), the folder of the images"
            )
        if not isinstance(annotation_file, str | Path) or not str(annotation_file):
            raise UserError(
                f"{where} has ann_file={annotation_file!r}, expected the path of COCO annotations"
            )
        classes = class_names(metainfo.get("classes", COCO_CLASSES), f"{where}.metainfo.classes")
        root = Path(options.get("data_root") or "")
        filter_empty, min_size = _filters(where, options, strict=not positional)
        return cls(
            loader,
            root / annotation_file,
            root / prefix["img"],
            classes,
            _palette(f"{where}.metainfo.palette", metainfo.get("palette"), len(classes)),
            filter_empty,
            min_size,
            checked_indices(options.get("indices"), where),
            _boolean(where, "annotated", options.get("annotated", True)),
            positional,
            *_masks_of_pipeline(options.get("pipeline") or ()),
        )

    @property
    def key(self) -> Hashable:
        chosen = self.filter_empty, self.min_size, self.indices, self.annotated, self.masks, self.polygons
        return self.annotation_file, self.image_folder, self.classes, *chosen, self.positional

    def read(self) -> CocoFile:
        """The records of the annotation file, checked for the classes.

        Raises:
            UserError: the file is missing, cannot be used, or lacks a class.
        """
        return read_coco(self.annotation_file, image_folder=self.image_folder).require_classes(self.classes)

    def images(self) -> list[tuple[CocoImage, list[CocoBox]]]:
        """Each image with its boxes of the classes, after the filters; ``indices`` are not applied.

        Raises:
            UserError: as ``read``, or an image has no file name.
        """
        content, names = self.read(), frozenset(self.classes)
        pairs = []
        for image in content.images:
            if image.file_name is None:
                raise UserError(
                    f"{content.source}: image {image.id} lacks a valid file_name; give it one, or remove it"
                )
            boxes = []
            if self.annotated:
                boxes = [box for box in content.boxes_of_image[image.id] if box.category in names]
            if (boxes or not self.filter_empty) and min(self.size_of(image)) >= self.min_size:
                pairs.append((image, boxes))
        return pairs

    def path_of(self, image: CocoImage) -> Path:
        """The file of an image."""
        return self.image_folder / image.file_name

    def size_of(self, image: CocoImage) -> tuple[int, int]:
        """(width, height) of an image, read from its file if the annotations do not state it."""
        if image.width is None or image.height is None:
            return header_sizes(self.path_of(image))[1]
        return image.width, image.height

    def require(self) -> None:
        require_coco(self.annotation_file, self.image_folder)
        content = self.read()
        if self.annotated:
            content.require_boxes()
        if self.positional:
            self._require_mmdet_agrees(content)
        self._require_files(content.images)
        if self.annotated:
            self._require_sizes(content.images)
        pairs = self._chosen()
        if not pairs:
            raise UserError(
                f"{self.loader}: no image of {self.annotation_file} is left after filter_cfg and indices"
            )
        if self.annotated and all(box.iscrowd for _, boxes in pairs for box in boxes):
            raise UserError(
                f"{self.loader}: the {len(pairs)} images used of {self.annotation_file} have no box of the "
                f"{counted(len(self.classes), 'class')}: there is nothing to train on or to score against"
            )
        self.require_masks()

    def require_masks(self) -> None:
        """``UserError`` if the pipeline loads masks, and a box of the images that are used has none."""
        if self.masks is None:
            return
        content = self.read()
        boxes = [box for _, boxes in self._chosen() for box in boxes]
        content.require_masks(boxes, self.masks)
        encoded = [box for box in boxes if self.polygons and isinstance(box.segmentation, dict)]
        if encoded:
            raise UserError(
                f"{content.source}: {len(encoded)} of the {len(boxes)} masks are run-length encodings, the "
                f"first of annotation {encoded[0].id}; {self.masks} with poly2mask=False would drop them "
                "silently: remove poly2mask=False"
            )

    def _require_files(self, images: Sequence[CocoImage]) -> None:
        missing = missing_images(images, self.image_folder)
        if missing:
            count = f" ({len(missing)} of the {len(images)} images)" if len(missing) > 1 else ""
            raise UserError(
                f"{self.annotation_file}: an image does not exist{count}: image {missing[0].id} has no file "
                f"{self.path_of(missing[0])}; {missing_image_cure(missing[0].file_name, self.image_folder)}"
            )

    def _require_sizes(self, images: Sequence[CocoImage]) -> None:
        """With a wrong size, boxes would be dropped as outside, or kept though they are."""
        wrong = wrong_sizes(images, self.image_folder)
        if wrong:
            count = f" ({len(wrong)} of the {len(images)} images)" if len(wrong) > 1 else ""
            raise UserError(
                f"{self.annotation_file}: an image has another size than stated{count}: {wrong[0].where}, "
                f"{wrong[0].what}"
            )

    def _require_mmdet_agrees(self, content: CocoFile) -> None:
        """mmdet's own data set must give the labels and boxes that scoring has."""
        cure = f"set type={_TYPE!r} in {self.loader}.dataset, which reads labels by name"
        order = [category.name for category in content.categories if category.name in self.classes]
        if tuple(order) != self.classes:
            raise UserError(
                f"{self.loader} is mmdet's CocoDataset, which numbers labels by the order of the categories "
                f"in {self.annotation_file} ({', '.join(order[:4])} …), not by metainfo.classes "
                f"({', '.join(self.classes[:4])} …); {cure}"
            )
        other = next((found for found in content.findings if found.kind not in _HARMLESS), None)
        if other is not None:
            raise UserError(
                f"{self.loader} is mmdet's CocoDataset, which reads {self.annotation_file} otherwise than "
                f"scoring does: {other.where} {other.what}; {cure}"
            )

    def _chosen(self) -> list[tuple[CocoImage, list[CocoBox]]]:
        """``images`` after ``indices``."""
        return take(self.images(), self.indices, self.loader)

    def counts(self) -> str:
        pairs = self._chosen()
        count = sum(not box.iscrowd for _, boxes in pairs for box in boxes)
        images = counted(len(pairs), "image")
        return f"{images}, {counted(count, 'box')}" if self.annotated else images

    def example(self) -> Path:
        return self.path_of(next((image for image, boxes in self._chosen() if boxes), self._chosen()[0][0]))

    def files(self) -> list[Path]:
        return [self.path_of(image) for image, _ in self._chosen()]

    def named_files(self) -> list[Path]:
        return [self.path_of(image) for image in self.read().images if image.file_name is not None]

    def draw_sample(self, sample: Mapping[str, Any]) -> np.ndarray:
        found = sample["pred_instances"]
        shown = (found["scores"] >= DRAWN_SCORE) & found["bboxes"].isfinite().all(1)
        best = found["scores"].where(shown, -1).argsort(descending=True)[: min(int(shown.sum()), _MOST_DRAWN)]
        boxes, labels, scores = (
            found[key][best].float().cpu().numpy() for key in ("bboxes", "labels", "scores")
        )
        masks = None if "masks" not in found else found["masks"][best.cpu()].cpu().numpy().astype(bool)
        look = {"names": self.classes, "palette": self.palette}
        image = read_rgb(Path(sample["img_path"]))
        drawn = draw_boxes(image, boxes, labels.astype(int), scores=scores, masks=masks, **look)
        truth = self._truth.get(str(sample["img_id"]))
        if truth is None:
            return drawn
        corners = np.array([box.bbox for box in truth], float).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        names = np.array([self.classes.index(box.category) for box in truth], int)
        known = masks is not None and all(box.segmentation is not None for box in truth)
        shapes = [decode_mask(box.segmentation, *image.shape[:2]) for box in truth] if known else None
        return beside(draw_boxes(image, corners, names, masks=shapes, **look), drawn)

    @cached_property
    def _truth(self) -> dict[str, list[CocoBox]]:
        """The boxes of each image that are scored, by the image's id."""
        if not self.annotated:
            return {}
        return {str(image.id): [box for box in boxes if not box.iscrowd] for image, boxes in self._chosen()}

    def check(self, *, read: bool = True) -> CocoReport | None:
        """As ``Part.check``; what ``require`` refuses is among the errors."""
        if not self.annotated:
            return None
        report = check_coco(self.annotation_file, self.image_folder, self.classes, read_images=read)
        try:
            self.require()
        except UserError as error:
            if not any(finding.kind in _REFUSED for finding in report.errors):
                refusal = Finding("error", "unusable data set", self.loader, str(error))
                report = replace(report, findings=(*report.findings, refusal))
        return report

    def log_lines(self, report: CocoReport) -> list[str]:
        lines = report.brief()
        if report.crowds:
            lines.append(f"{report.crowds} crowd regions are not trained on, and count neither way")
        if report.sizes and min(report.sizes[:2]) < self.min_size:
            lines.append(f"images with a side under {self.min_size} pixels are dropped (filter_cfg.min_size)")
        return lines

    def drop_labels(self, dataset: dict) -> None:
        if self.positional:
            raise UserError(
                f"{self.loader} is mmdet's {dataset['type']}, which cannot leave out the annotations; set "
                f"type={_TYPE!r} for --format-only"
            )
        dataset["annotated"] = False

    def evaluator_options(self, folder: Path, *, format_only: bool, heatmaps: bool) -> dict[str, Any]:
        options = super().evaluator_options(folder, format_only=format_only, heatmaps=heatmaps)
        if format_only:  # the ids of images and categories must be those of the images
            options |= {"format_only": True, "ann_file": str(self.annotation_file)}
        return options | ({"heatmap_dir": str(folder / _HEATMAPS)} if heatmaps else {})

    def augment_test(self, cfg: Config, *, scales: tuple[float, ...], flip: bool) -> None:
        if scales != (1.0,) or cfg.model.type != _CENTERNET:
            super().augment_test(cfg, scales=scales, flip=flip)
        cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), "flip_test": True}

    def has_heatmaps(self, cfg: Config) -> bool:
        return cfg.model.type == _CENTERNET

    def keep_heatmaps(self, cfg: Config) -> None:
        if self.has_heatmaps(cfg):
            cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), "keep_heatmap": True}

    def draw_summary(self, metric: Any, folder: Path, *, score: float) -> ScoreSummary:
        scores, mistakes = metric.scores, metric.mistakes
        if score != MISTAKE_SCORE:  # what is counted is what is drawn
            which = {"image_ids": metric.image_ids, "classes": self.classes}
            place = self.annotation_file, folder / self.results
            mistakes = find_mistakes(*place, least_score=score, **which)
        draw_detection_charts(scores, mistakes, folder)
        images, order = mistakes.images, mistakes.worst_first()
        paths = {image.id: image.file_name for image in self.read().images}
        rows = ({"image": key, "file_name": paths[key], **asdict(images[key])} for key in order)
        files = {**CHARTS, "mistakes": write_mistakes(folder, rows)}
        worst = [key for key in order if images[key].total]
        if worst:
            draw_worst_detections(
                *(self.annotation_file, folder / self.results, self.image_folder, folder / WORST),
                {key: str(images[key]) for key in worst[:MOST_WORST]},
                least_score=score,
                **self._look,
            )
            files["worst images"] = WORST
        return ScoreSummary(files, order, len(worst))

    @property
    def _look(self) -> dict[str, Any]:
        return {"classes": self.classes, "palette": self.palette}

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
        place = self.annotation_file, work_dir / self.results, self.image_folder, out_dir
        return draw_results(*place, image_ids=images, least_score=score, ranked=ranked, **self._look)

    def draw_heatmaps(self, out_dir: Path, work_dir: Path, images: Sequence, *, ranked: bool = False) -> int:
        place = self.annotation_file, work_dir / _HEATMAPS, self.image_folder, out_dir
        return draw_heatmaps(*place, image_ids=images, ranked=ranked)


def require_same_annotations(ann_file: str | Path, annotation_file: str | Path, name: str, loader: str):
    """``UserError`` unless an evaluator's ``ann_file`` is the annotation file of its data set."""
    if os.path.realpath(ann_file) != os.path.realpath(annotation_file):
        raise UserError(
            f"{name}.ann_file is {ann_file}, but {loader} predicts the images of {annotation_file}; give "
            "both the same file"
        )


def _masks_of_pipeline(pipeline: Sequence[Any]) -> tuple[str | None, bool]:
    """The step of a pipeline that loads the mask of every box, as messages call it, and whether it takes
    polygons alone."""
    for step in steps_of(pipeline):
        options = _loading_options(step)
        if options.get("with_mask"):
            name = kind_of(step) if isinstance(step, Mapping) else type(step).__name__
            return f"{name}(with_mask=True)", options.get("poly2mask") is False
    return None, False


def _loading_options(step: Any) -> Mapping[str, Any]:
    """The options of a step that loads annotations; one derived from mmdet's may have other defaults."""
    from mmdet.datasets.transforms import LoadAnnotations

    if isinstance(step, LoadAnnotations):
        return vars(step)
    if not isinstance(step, Mapping):
        return {}
    kind = step_class(step)
    if kind is not None and issubclass(kind, LoadAnnotations) and not kind.__module__.startswith("mmdet."):
        try:
            return vars(TRANSFORMS.build(step))
        except Exception:  # told where the pipeline is built
            return step
    return step


def _is_coco(dataset_type: str) -> bool:
    from mmdet.datasets import CocoDataset

    with DATASETS.switch_scope_and_registry(None) as registry:  # the default scope's
        kind = registry.get(dataset_type)
    return isinstance(kind, type) and issubclass(kind, CocoDataset)


def _own_classes(dataset_type: str) -> tuple[str, ...]:
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(dataset_type).METAINFO["classes"]


def _filters(where: str, options: Mapping[str, Any], *, strict: bool) -> tuple[bool, int]:
    """filter_empty_gt and min_size."""
    filters = options.get("filter_cfg") or {}
    if not isinstance(filters, Mapping):
        raise UserError(f"{where}.filter_cfg is {filters!r}, expected dict(filter_empty_gt=…, min_size=…)")
    if strict:
        require_known(filters, ("filter_empty_gt", "min_size"), f"{where}.filter_cfg")
    if _boolean(where, "test_mode", options.get("test_mode", False)):
        if strict and (filters.get("filter_empty_gt") or filters.get("min_size")):
            raise UserError(
                f"{where} has filter_cfg, which has no effect with test_mode=True: every image is scored; "
                "leave one of them out"
            )
        return False, 0
    min_size = filters.get("min_size", 0)
    if not isinstance(min_size, int | float) or isinstance(min_size, bool) or min_size < 0:
        raise UserError(f"{where}.filter_cfg has min_size={min_size!r}, expected pixels, from 0")
    return _boolean(f"{where}.filter_cfg", "filter_empty_gt", filters.get("filter_empty_gt", False)), min_size


def _boolean(where: str, name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{where} has {name}={value!r}, expected True or False")
    return value


def _palette(where: str, palette: object, count: int) -> Palette | None:
    if palette is None:
        return None
    if (
        not isinstance(palette, list | tuple)
        or len(palette) != count
        or not all(
            isinstance(color, list | tuple)
            and len(color) == 3
            and all(isinstance(value, int) and 0 <= value <= 255 for value in color)
            for color in palette
        )
    ):
        raise UserError(
            f"{where} is {palette!r}, expected (R, G, B) from 0 to 255 for each of {count} classes"
        )
    return tuple(tuple(color) for color in palette)
