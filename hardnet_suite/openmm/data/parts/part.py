"""What every part is: one data set of a config, seen from train, test and check-data."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import TRANSFORMS

from hardnet_suite.data.report import Report
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import MISTAKE_SCORE
from hardnet_suite.networks import Palette
from hardnet_suite.outputs import write_file
from hardnet_suite.visualization.classification import CONFUSION

DRAWN_SCORE = MISTAKE_SCORE  # boxes below it are not drawn
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
WORST, MISTAKES = "worst.jpg", "mistakes.jsonl"
MOST_WORST = 9  # images on the sheet of the worst
# OpenMMLab's steps that read label images
_FOREIGN_STEPS = (
    "LoadAnnotations",
    "LoadBiomedicalAnnotation",
    "LoadBiomedicalData",
    "LoadDepthAnnotation",
    "LoadPanopticAnnotations",
)
_OPENMMLAB = ("mmcv", "mmdet", "mmseg")


def kind_of(part: Mapping[str, Any]) -> str:
    """The type that a part of a config names, without a scope: that of mmseg.Resize is Resize."""
    kind = part["type"]
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]


def steps_of(pipeline: Any, seen: dict[int, Any] | None = None) -> Iterator[Any]:
    """The steps of a pipeline, dicts or built ones, those inside of other steps included."""
    seen = {} if seen is None else seen
    if isinstance(pipeline, str | type) or id(pipeline) in seen:
        return
    parts: Iterable[Any] = ()
    if isinstance(pipeline, Mapping):
        if pipeline.get("type") is not None:
            yield pipeline
        parts = pipeline.values()
    elif isinstance(pipeline, list | tuple):
        parts = pipeline
    elif callable(pipeline):
        yield pipeline
        parts = getattr(pipeline, "__dict__", {}).values()
    else:
        return
    seen[id(pipeline)] = pipeline
    for part in parts:
        yield from steps_of(part, seen)


def step_class(step: Any) -> type | None:
    """The class of a step, a dict or a built one; None if its name is unknown, or that of a function."""
    kind = step["type"] if isinstance(step, Mapping) else type(step)
    if isinstance(kind, str):
        with TRANSFORMS.switch_scope_and_registry(None) as registry:  # the default scope's
            kind = registry.get(kind)
    return kind if isinstance(kind, type) else None


def require_own_step(where: str, pipeline: Any, dataset: str, own: str) -> None:
    """Checks that the steps of a pipeline leave the label images of a data set to the suite's own step.

    OpenMMLab's read them without the options of the data set, the orientation of EXIF and the check of their
    values, so that palettes, bits and grey masks would become other classes; so do steps derived from them.

    Args:
        where: what messages call the pipeline.
        pipeline: its steps, dicts or built ones, those inside of other steps included.
        dataset: the type of the data set.
        own: the type of the suite's step.

    Raises:
        UserError: a step is OpenMMLab's, or derived from one.
    """
    for step in steps_of(pipeline):
        kind = step_class(step)
        bases = kind.__mro__ if kind is not None else ()
        base = next((base for base in bases if base.__name__ == own or _is_foreign(base)), None)
        if base is not None and base.__name__ != own:
            package = base.__module__.partition(".")[0]
            of = "" if base is kind else f" (a {package}.{base.__name__})"
            raise UserError(
                f"{where} has {kind.__name__}{of}, which reads label images by other rules than a {dataset}: "
                f'use dict(type="{own}"), or a step of your own derived from {own} or BaseTransform'
            )


def _is_foreign(kind: type) -> bool:
    return kind.__name__ in _FOREIGN_STEPS and kind.__module__.partition(".")[0] in _OPENMMLAB


@dataclass(frozen=True)
class ScoreSummary:
    """What sums up a scored data set.

    Attributes:
        files: what messages call each file -> its name.
        order: the images that were scored, as the evaluator names them, the worst first.
        mistaken: how many of them, from the first on, have mistakes.
    """

    files: dict[str, str] = field(default_factory=dict)
    order: list = field(default_factory=list)
    mistaken: int = 0


class Part(ABC):
    """One data set of a config, and what of a run depends on its task.

    Attributes:
        task: "detection", "panoptic", "segmentation", "classification" or "descriptor".
        dataset_name: what messages call such a data set.
        results: name of the file or folder in the work dir that ``test`` writes the predictions to.
        charts: names of the images in the work dir that sum up the scores.
        outputs: what messages call each result -> its name in the work dir.
        evaluator: type of the ``test_evaluator`` that scores it.
        scores_one_file: whether the evaluator scores against the one annotation file of a data set.
        format_only: whether predictions can be saved without labels, for a test server.
        drawable: whether predictions can be drawn beside the labels.
        drawn_by: what draws them where this cannot.
        has_scores: whether drawings leave out boxes below a score.
        classes_key: the option of the data set that holds its class names.
        unit: what a sample is.
        loader: the data loader that the data set serves, such as ``train_dataloader``.
    """

    task: ClassVar[str]
    dataset_name: ClassVar[str]
    results: ClassVar[str]
    charts: ClassVar[tuple[str, ...]] = (CONFUSION,)
    evaluator: ClassVar[str]
    outputs: ClassVar[Mapping[str, str]]
    scores_one_file: ClassVar[bool] = False
    format_only: ClassVar[bool] = False
    drawable: ClassVar[bool] = True
    drawn_by: ClassVar[str] = "draw with: hardnet-suite predict FOLDER --out DIR"
    has_scores: ClassVar[bool] = False
    classes_key: ClassVar[str] = "metainfo.classes"
    unit: ClassVar[str] = "image"
    loader: str

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their labels."""

    @property
    def is_own(self) -> bool:
        """Whether the data set is the suite's, not one of OpenMMLab's that it can read as well."""
        return True

    @property
    def class_counts(self) -> Mapping[str, int]:
        """The options of models that count the classes -> what they must be."""
        return {"num_classes": len(self.classes)}

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that hold the data, in which nothing may be drawn."""
        names = ("image_folder", "label_folder")
        return tuple(folder for name in names if (folder := getattr(self, name, None)) is not None)

    @property
    def palette(self) -> Palette | None:
        """One RGB colour per class; None for the usual ones."""
        return None

    @property
    def declared_classes(self) -> tuple[str, ...] | None:
        """The class names as the config alone gives them; None if the data decide."""
        return self.classes

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Two parts of one key are the same data set."""

    @abstractmethod
    def require(self) -> None:
        """Raises ``UserError`` unless the data are there and fit for what the loader does with them."""

    @abstractmethod
    def counts(self) -> str:
        """What the loader reads: "205 images, 2,804 boxes"."""

    @abstractmethod
    def example(self) -> Path | None:
        """The file of an image of the data set; None if its images are not files."""

    def files(self) -> Sequence[Path]:
        """The files of the images; none where these are not files of their own."""
        return ()

    def named_files(self) -> Sequence[Path]:
        """The files of the images before any choice among them, of data sets that name them."""
        return ()

    @abstractmethod
    def draw_sample(self, sample: Mapping[str, Any]) -> np.ndarray:
        """The model's prediction for one image of the data set, drawn on it, beside the label if it has one.

        Args:
            sample: what the model returns for the image in validation, as a dict.

        Returns:
            (H, W, 3) uint8, RGB.
        """

    @abstractmethod
    def check(self, *, read: bool = True) -> Report | None:
        """Everything that is wrong or odd in the data set; ``read`` decodes every image. None: no labels."""

    def log_lines(self, report: Report) -> list[str]:
        """What of a report the log of a training says."""
        return report.brief()

    def drop_labels(self, dataset: dict) -> None:
        """Changes the data set's config so that its labels are not read (``format_only`` parts)."""
        raise NotImplementedError

    def result_files(self, *, format_only: bool = False) -> list[str]:
        """The files that ``test`` may write, relative to the work dir, beside the figures."""
        summary = [] if format_only else [*self.charts, WORST, MISTAKES]
        return [*self.prediction_files(format_only=format_only), *summary]

    def prediction_files(self, *, format_only: bool = False) -> list[str]:
        """Those of the predictions."""
        return [self.results]

    def evaluator_options(self, folder: Path, *, format_only: bool, heatmaps: bool) -> dict[str, Any]:
        """The evaluator's options that make it write its results into ``folder``."""
        return {"results_file": str(folder / self.results)}

    def augment_test(self, cfg: Config, *, scales: tuple[float, ...], flip: bool) -> None:
        """Puts test-time augmentation into the config.

        Raises:
            UserError: the task or the model does not support it.
        """
        raise UserError("--scales is for segmentation, and --flip for that and for CenterNet")

    def scores_probabilities(self, cfg: Config) -> bool:
        """Whether the config's evaluator scores more than the final answers of its model."""
        return False

    def has_heatmaps(self, cfg: Config) -> bool:
        """Whether the config's model makes heat maps."""
        return False

    def keep_heatmaps(self, cfg: Config) -> None:
        """Makes the config's model return its heat maps; a no-op unless it has some."""
        return

    @abstractmethod
    def draw_summary(self, metric: Any, folder: Path, *, score: float) -> ScoreSummary:
        """Writes what sums up a scored data set into ``folder``: charts, one line per image, the worst first
        (``MISTAKES``), and a sheet of the worst.

        Args:
            metric: the evaluator's, after scoring.
            folder: where to write; holds the predictions already.
            score: boxes below it are neither drawn nor counted.
        """

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
        """Draws the predictions in the work dir beside the labels.

        Args:
            out_dir: where to write.
            work_dir: where ``test`` wrote its results.
            images: what was scored, as the evaluator names it.
            score: boxes below it are not drawn.
            format_only: whether the results were written that way.
            ranked: puts the place of each image in front of the name of its drawing.

        Returns:
            The number of images drawn.
        """
        raise NotImplementedError

    def draw_heatmaps(self, out_dir: Path, work_dir: Path, images: Sequence, *, ranked: bool = False) -> int:
        """Draws the heat maps in the work dir, where ``has_heatmaps``; as ``draw``."""
        raise NotImplementedError

    @classmethod
    def evaluators(cls) -> dict[str, str]:
        """Type of each evaluator -> what it scores."""
        return {kind.evaluator: kind.dataset_name for kind in cls.__subclasses__()}


def write_mistakes(folder: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Writes one JSON line per image into ``MISTAKES``; returns the name."""
    lines = (json.dumps(dict(row), allow_nan=False) + "\n" for row in rows)
    write_file(folder / MISTAKES, "".join(lines))
    return MISTAKES


def walk(node, change: Callable[[ConfigDict], None]) -> None:
    """Calls ``change`` on every dict inside ``node``."""
    if isinstance(node, dict):
        change(node)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            walk(child, change)


def inner_datasets(dataset: dict | None) -> Iterator[dict]:
    """The data sets inside of wrappers (``ConcatDataset``, ``RepeatDataset``, ``ClassBalancedDataset``,
    ``MultiImageMixDataset`` …), to any depth; the data set itself if it wraps nothing.

    Args:
        dataset: ``dataset`` of a data loader.
    """
    if isinstance(dataset, (list, tuple)):
        for child in dataset:
            yield from inner_datasets(child)
    elif isinstance(dataset, dict):
        wrapped = [dataset[key] for key in ("dataset", "datasets") if dataset.get(key) is not None]
        if wrapped:
            yield from inner_datasets(wrapped)
        else:
            yield dataset
