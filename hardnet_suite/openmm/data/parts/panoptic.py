"""COCO panoptic data sets of a config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

import numpy as np

from hardnet_suite.data.classes import class_names
from hardnet_suite.data.coco import (
    COCO_CLASSES,
    COCO_STUFF,
    CocoImage,
    missing_image_cure,
    missing_images,
    read_json,
)
from hardnet_suite.data.files import is_file
from hardnet_suite.data.options import checked_indices, require_known, require_local, take
from hardnet_suite.data.panoptic import (
    VOID,
    PanopticFile,
    PanopticReport,
    check_panoptic,
    read_label_image,
    read_panoptic,
)
from hardnet_suite.data.report import counted
from hardnet_suite.data.segmentation import IGNORE, require_aligned
from hardnet_suite.data.segmentation.label_images import read_segments
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import without_nan
from hardnet_suite.evaluation.panoptic import score_segments
from hardnet_suite.evaluation.tables import format_score
from hardnet_suite.networks import Palette
from hardnet_suite.openmm.data.parts.part import (
    MOST_WORST,
    WORST,
    Part,
    ScoreSummary,
    kind_of,
    require_own_step,
    write_mistakes,
)
from hardnet_suite.visualization.canvas import (
    captioned,
    class_color,
    fitted,
    free_path,
    ranked_name,
    read_rgb,
    save_image,
    sheet,
)
from hardnet_suite.visualization.segmentation import segments_strip

_TYPE = "PanopticDataset"
_CELL = 960  # pixels of the longer side of a strip on the sheet of the worst
_OFFSET = 1000  # mmdet's answer is class + number of the instance · 1000
_OPTIONS = (
    *("ann_file", "data_root", "data_prefix", "metainfo", "indices", "test_mode", "annotated"),
    # what mmengine's data sets do the same way for every task
    *("pipeline", "serialize_data", "lazy_init", "max_refetch"),
    "backend_args",  # None, as mmdet's base configs have it
)
_FOLDERS = ("img", "seg")
# id of a segment -> (label, whether it is a crowd), or None: of none of the classes
Meanings = Mapping[int, tuple[int, bool] | None]


@dataclass(frozen=True)
class PanopticPart(Part):
    """A ``PanopticDataset`` of a config.

    Attributes:
        annotation_file: COCO panoptic annotations.
        image_folder: folder of the images.
        label_folder: folder of the label images.
        things: names of the classes that have instances, in the order of their labels.
        stuff: names of the other classes, whose labels follow.
        palette: one RGB colour per class; None for the usual ones.
        indices: which images are used, as mmengine's option; None: all.
        annotated: whether the annotations are read; if not, the images are for prediction only.
    """

    task = "panoptic"
    dataset_name = _TYPE
    results = "panoptic"
    outputs = MappingProxyType({"segments": f"{results}.json", "label images": results})
    charts = ()
    evaluator = "CocoPanoptic"
    format_only = True
    scores_one_file = True
    classes_key = "metainfo.thing_classes and stuff_classes"

    loader: str
    annotation_file: Path
    image_folder: Path
    label_folder: Path
    things: tuple[str, ...] = COCO_CLASSES
    stuff: tuple[str, ...] = COCO_STUFF
    palette: Palette | None = None
    indices: int | tuple[int, ...] | None = None
    annotated: bool = True

    @classmethod
    def of_dataset(cls, loader: str, dataset: Mapping[str, Any]) -> PanopticPart | None:
        """The part of a data set's options; None if the data set is not of this kind."""
        if kind_of(dataset) != _TYPE:
            return None
        options = {key: value for key, value in dataset.items() if key not in ("type", "_scope_")}
        return cls.of_options(f"{loader}.dataset", options, loader=loader)

    @classmethod
    def of_options(cls, where: str, options: Mapping[str, Any], *, loader: str = "") -> PanopticPart:
        """The part that the options of a ``PanopticDataset`` describe.

        Args:
            where: what messages call the data set.
            options: its options.
            loader: the data loader that it serves.

        Raises:
            UserError: an option that does not exist, has no effect, or has a value it cannot have; a pipeline
                for training that reads the annotations by other steps than ``LoadPanoptic``.
        """
        require_known(options, _OPTIONS, where)
        require_local(options, where)
        if not options.get("test_mode"):  # tests read the annotations without the pipeline
            require_own_panoptic(f"{where}.pipeline", options.get("pipeline"))
        metainfo, prefix = options.get("metainfo") or {}, options.get("data_prefix")
        if not isinstance(metainfo, Mapping):
            raise UserError(
                f"{where}.metainfo is {metainfo!r}, expected dict(thing_classes=…, stuff_classes=…)"
            )
        require_known(metainfo, ("thing_classes", "stuff_classes", "palette"), f"{where}.metainfo")
        folders = prefix if isinstance(prefix, Mapping) else {}
        require_known(folders, _FOLDERS, f"{where}.data_prefix")
        if not all(isinstance(folders.get(key), str | Path) for key in _FOLDERS):
            raise UserError(
                f"{where} has data_prefix={prefix!r}, expected dict(img=…, seg=…), the folders of the images "
                "and of their label images"
            )
        annotation_file = options.get("ann_file")
        if not isinstance(annotation_file, str | Path) or not str(annotation_file):
            raise UserError(
                f"{where} has ann_file={annotation_file!r}, expected the path of COCO panoptic annotations"
            )
        things, stuff = (
            class_names(metainfo.get(key, usual), f"{where}.metainfo.{key}")
            if metainfo.get(key, usual)
            else ()
            for key, usual in (("thing_classes", COCO_CLASSES), ("stuff_classes", COCO_STUFF))
        )
        classes = class_names([*things, *stuff], f"{where}.metainfo.thing_classes and stuff_classes")
        if len(classes) > IGNORE - 1:
            raise UserError(f"{where} has {len(classes)} classes, expected up to {IGNORE - 1}")
        annotated = options.get("annotated", True)
        if not isinstance(annotated, bool):
            raise UserError(f"{where} has annotated={annotated!r}, expected True or False")
        palette = metainfo.get("palette")
        if palette is not None:
            palette = tuple(map(tuple, palette))
            if len(palette) != len(classes) or any(len(color) != 3 for color in palette):
                raise UserError(
                    f"{where}.metainfo.palette: expected (R, G, B) for each of {len(classes)} classes"
                )
        root = Path(options.get("data_root") or "")
        return cls(
            loader,
            root / annotation_file,
            root / folders["img"],
            root / folders["seg"],
            things,
            stuff,
            palette,
            checked_indices(options.get("indices"), where),
            annotated,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        return (*self.things, *self.stuff)

    @property
    def class_counts(self) -> Mapping[str, int]:
        return {"num_things_classes": len(self.things), "num_stuff_classes": len(self.stuff)}

    @property
    def key(self) -> Hashable:
        files = self.annotation_file, self.image_folder, self.label_folder
        return *files, self.things, self.stuff, self.indices, self.annotated

    def read(self) -> PanopticFile:
        """The records of the annotation file, checked for the classes.

        Raises:
            UserError: the file is missing, cannot be used, or lacks a class.
        """
        return read_panoptic(self.annotation_file).require_classes(self.things, self.stuff)

    def images(self) -> list[CocoImage]:
        """The images of the annotation file; ``indices`` are not applied."""
        return list(self.read().images)

    def path_of(self, image: CocoImage) -> Path:
        """The file of an image."""
        return self.image_folder / image.file_name

    def annotations(self) -> list[tuple[CocoImage, Path, Meanings]]:
        """Each image with its label image and the meanings of the ids in it; ``indices`` are not applied."""
        content = self.read()
        labels = {name: label for label, name in enumerate(self.classes)}
        return [
            (
                image,
                self.label_folder / content.label_names[image.id],
                {
                    segment.id: (labels[segment.category], segment.iscrowd)
                    if segment.category in labels
                    else None
                    for segment in content.segments[image.id]
                },
            )
            for image in content.images
        ]

    def require(self) -> None:
        missing = []
        if not self.annotation_file.is_file():
            missing.append(f"no annotation file {self.annotation_file}")
        folders = (self.image_folder, self.label_folder) if self.annotated else (self.image_folder,)
        missing += [f"no folder {folder}" for folder in folders if not folder.is_dir()]
        if missing:
            raise UserError(
                f"{' and '.join(missing)}: expected ROOT/annotations/panoptic_train2017.json beside the "
                "folders ROOT/annotations/panoptic_train2017 and ROOT/train2017 (and the same for val2017); "
                "get COCO 2017 and its panoptic annotations from "
                "https://cocodataset.org/#download, or draw the built-in set with "
                "`hardnet-suite draw-shapes data/shapes`"
            )
        content = self.read()
        absent = missing_images(content.images, self.image_folder)
        if absent:
            raise UserError(
                f"{self.annotation_file}: image {absent[0].id} has no file {self.path_of(absent[0])} "
                f"({len(absent)} of the {len(content.images)} images are missing); "
                f"{missing_image_cure(absent[0].file_name, self.image_folder)}"
            )
        images = self._chosen()
        if not images:
            raise UserError(f"{self.loader}: no image of {self.annotation_file} is left after indices")
        self.prediction_names()
        if not self.annotated:
            return
        content.require_annotated()
        annotations = take(self.annotations(), self.indices, self.loader)
        pairs = [(self.path_of(image), label) for image, label, _ in annotations]
        lacking = next((label for _, label in pairs if not is_file(label)), None)
        if lacking is not None:
            raise UserError(f"{self.annotation_file}: no label image {lacking}")
        require_aligned(pairs, self.loader)
        if not any(map(_examples, annotations)):
            raise UserError(
                f"{self.loader}: the {len(images)} images used of {self.annotation_file} have no "
                f"segment of the {counted(len(self.classes), 'class')}: there is nothing to train on or to "
                "score against"
            )

    def _chosen(self) -> list[CocoImage]:
        """``images`` after ``indices``."""
        return take(self.images(), self.indices, self.loader or self.dataset_name)

    def counts(self) -> str:
        text = counted(len(self._chosen()), "image")
        if not self.annotated:
            return text
        count = sum(map(_examples, take(self.annotations(), self.indices, self.loader)))
        return f"{text}, {counted(count, 'segment')}"

    def example(self) -> Path:
        return self.path_of(self._chosen()[0])

    def files(self) -> list[Path]:
        return [self.path_of(image) for image in self._chosen()]

    def named_files(self) -> list[Path]:
        return [self.path_of(image) for image in self.images()]

    def check(self, *, read: bool = True) -> PanopticReport | None:
        if not self.annotated:
            return None
        content = read_panoptic(self.annotation_file)
        return check_panoptic(content, self.image_folder, self.label_folder, self.classes, read=read)

    def drop_labels(self, dataset: dict) -> None:
        dataset["annotated"] = False

    def prediction_names(self) -> dict[int | str, str]:
        """Id of each image -> the name of its predicted label image.

        Raises:
            UserError: two images would have the same, or an image lies outside of its folder.
        """
        for image in self._chosen():
            path = PurePosixPath(image.file_name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or PureWindowsPath(image.file_name).drive:
                raise UserError(
                    f"{self.annotation_file}: image {image.id} has file_name {image.file_name!r}, which "
                    "leads out of the folder of the images"
                )
        names = {image.id: Path(image.file_name).with_suffix(".png").as_posix() for image in self._chosen()}
        name, count = Counter(names.values()).most_common(1)[0]
        if count > 1:
            raise UserError(
                f"{self.annotation_file}: {count} images differ in their suffix alone, so that "
                f"their predictions would be one file, {name}: rename one"
            )
        return names

    def prediction_files(self, *, format_only: bool = False) -> list[str]:
        names = self.prediction_names().values()
        return [f"{self.results}.json", *(f"{self.results}/{name}" for name in names)]

    def evaluator_options(self, folder: Path, *, format_only: bool, heatmaps: bool) -> dict[str, Any]:
        return {"results_dir": str(folder), "format_only": format_only}

    @property
    def _colors(self) -> Palette:
        return self.palette or tuple(class_color(index) for index in range(len(self.classes)))

    def draw_sample(self, sample: Mapping[str, Any]) -> np.ndarray:
        ids, labels = predicted_segments(sample, len(self.classes))
        return self._strip(sample["img_id"], ids, labels)

    @cached_property
    def _annotated(self) -> dict[str, tuple[CocoImage, Path | None, Meanings]]:
        """``annotations`` by the image's id, as text; of images for prediction only, the images alone."""
        rows = self.annotations() if self.annotated else [(image, None, {}) for image in self.images()]
        return {str(row[0].id): row for row in rows}

    def _strip(self, key: int | str, ids: np.ndarray, labels: Mapping[int, int]) -> np.ndarray:
        """The image, its true segments without the crowds, and the predicted ones in a row."""
        image, label_path, known = self._annotated[str(key)]
        segments = {"prediction": (ids, labels)}
        if label_path is not None:
            true_ids, meanings = true_segments(label_path, known)
            meanings = {segment: label for segment, (label, is_crowd) in meanings.items() if not is_crowd}
            segments = {"ground truth": (true_ids, meanings), **segments}
        return segments_strip(read_rgb(self.path_of(image)), segments, self._colors, self.classes)

    def draw_summary(self, metric: Any, folder: Path, *, score: float) -> ScoreSummary:
        rows = []
        names = {image.id: image.file_name for image in self.images()}
        for key, counts in metric.counts.items():
            scores = score_segments(counts, self.classes, len(self.things))
            _, false, missed, _ = counts.sum(0)
            figures = {"PQ": scores.metrics["PQ"]}
            rows.append((key, int(missed), int(false), figures))
        rows.sort(key=lambda row: -(row[1] + row[2]))
        mistakes = write_mistakes(
            folder,
            (
                {
                    "image": key,
                    "file_name": names[key],
                    "missed": missed,
                    "false": false,
                    **without_nan(figures),
                }
                for key, missed, false, figures in rows
            ),
        )
        files = {"mistakes": mistakes}
        wrong = [row for row in rows if row[1] + row[2]]
        if wrong:
            answers, cells = self._answers(folder), []
            for key, missed, false, figures in wrong[:MOST_WORST]:
                strip = fitted(self._strip(key, *answers.read(key)), _CELL)
                what = f"{missed} missed, {false} false, PQ {format_score(figures['PQ'], 3)}"
                cells.append(captioned(strip, (what, names[key])))
            save_image(folder / WORST, sheet(cells))
            files["worst images"] = WORST
        return ScoreSummary(files, [row[0] for row in rows], len(wrong))

    def _answers(self, folder: Path) -> _Answers:
        """What ``test`` has written into a folder."""
        category_ids = self.read().category_ids
        labels = {category_ids[name]: label for label, name in enumerate(self.classes)}
        return _Answers(folder / f"{self.results}.json", folder / self.results, labels)

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
        names, numbers = {image.id: image.file_name for image in self.images()}, {}
        answers = self._answers(work_dir)
        for rank, key in enumerate(images, 1):
            name = ranked_name(f"{Path(names[key]).stem}.jpg", rank if ranked else None, len(images))
            drawing = self._strip(key, *answers.read(key))
            save_image(free_path(Path(out_dir, name), numbers), drawing)
        return len(images)


class _Answers:
    """Predicted segments in COCO's form: a file, and the folder of its label images.

    Args:
        file: the JSON file.
        folder: the folder.
        labels: id of each category -> its label.
    """

    def __init__(self, file: Path, folder: Path, labels: Mapping[int | str, int]):
        self.folder, self.labels = folder, labels
        self.entries = {str(entry["image_id"]): entry for entry in read_json(file)["annotations"]}

    def read(self, key: int | str) -> tuple[np.ndarray, dict[int, int]]:
        """(H, W) ids that were predicted for an image, and their labels."""
        entry = self.entries[str(key)]
        ids = read_segments(self.folder / entry["file_name"])
        return ids, {info["id"]: self.labels[info["category_id"]] for info in entry["segments_info"]}


def require_own_panoptic(where: str, pipeline: Any) -> None:
    """``require_own_step`` for a pipeline of a ``PanopticDataset``, of which OpenMMLab's read nothing."""
    require_own_step(where, pipeline, PanopticPart.dataset_name, "LoadPanoptic")


def _examples(annotation: tuple[CocoImage, Path, Meanings]) -> int:
    """The number of segments of the classes, without crowds."""
    return sum(meaning is not None and not meaning[1] for meaning in annotation[2].values())


def true_segments(path: Path, known: Meanings) -> tuple[np.ndarray, dict[int, tuple[int, bool]]]:
    """(H, W) ids of a label image, 0 where they are of none of the classes; and id -> (label, is a crowd).

    Raises:
        UserError: the label image is missing or broken, or has other ids than the annotations.
    """
    ids = read_label_image(path, known)
    others = [key for key, meaning in known.items() if meaning is None]
    ids[np.isin(ids, others)] = VOID
    return ids, {key: meaning for key, meaning in known.items() if meaning is not None}


def predicted_segments(sample: Mapping[str, Any], num_classes: int) -> tuple[np.ndarray, dict[int, int]]:
    """The panoptic answer of a model of mmdet as (H, W) int32 ids, from 1, 0: nothing; and id -> label.

    Args:
        sample: what the model returns for an image, as a dict.
        num_classes: its number of classes.

    Raises:
        UserError: the model predicts no panoptic segments.
    """
    if "pred_panoptic_seg" not in sample:
        raise UserError(
            "the model predicts no panoptic segments: CocoPanoptic is for panoptic models, with "
            "panoptic_on=True in their test_cfg"
        )
    pixels = sample["pred_panoptic_seg"]["sem_seg"][0].cpu().numpy()
    values, index = np.unique(pixels, return_inverse=True)
    ids = np.zeros(len(values), np.int32)
    labels: dict[int, int] = {}
    for place, value in enumerate(values.tolist()):
        label = value % _OFFSET
        if label < num_classes:
            ids[place] = len(labels) + 1
            labels[len(labels) + 1] = label
    return ids[index].reshape(pixels.shape), labels
