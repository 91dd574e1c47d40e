"""The data sets of a config: where each lies, its classes, and whether they fit the model.

``parts`` is the only place that tells the tasks apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from hardnet_suite.data.classes import class_names, require_same_classes
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.classification import ClassificationPart, classification_samples
from hardnet_suite.openmm.data.parts.descriptor import DescriptorPart
from hardnet_suite.openmm.data.parts.detection import DetectionPart
from hardnet_suite.openmm.data.parts.evaluators import (
    evaluator_kind,
    require_scored,
    unknown_evaluator,
    wrong_data,
)
from hardnet_suite.openmm.data.parts.overlap import Overlap, sharing_folders, trained_on
from hardnet_suite.openmm.data.parts.panoptic import PanopticPart, require_own_panoptic
from hardnet_suite.openmm.data.parts.part import (
    LOADERS,
    Part,
    ScoreSummary,
    inner_datasets,
    kind_of,
    walk,
)
from hardnet_suite.openmm.data.parts.segmentation import SegmentationPart, label_set, require_own_labels

__all__ = [
    "LOADERS",
    "ClassificationPart",
    "DescriptorPart",
    "DetectionPart",
    "Overlap",
    "PanopticPart",
    "Part",
    "ScoreSummary",
    "SegmentationPart",
    "class_counts",
    "classification_samples",
    "evaluator_kind",
    "foreign_datasets",
    "inner_datasets",
    "kind_of",
    "label_set",
    "parts",
    "require_data",
    "require_evaluator",
    "require_same_data_classes",
    "sharing_folders",
    "trained_on",
    "unknown_evaluator",
    "walk",
    "wrong_counts",
    "wrong_data",
]

_OWN_STEPS = {
    SegmentationPart.dataset_name: require_own_labels,
    PanopticPart.dataset_name: require_own_panoptic,
}
_KINDS = (SegmentationPart, ClassificationPart, DescriptorPart, PanopticPart, DetectionPart)


def parts(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[Part]:
    """The data sets of these loaders, those inside of wrappers included, each once, whatever their task.

    Raises:
        UserError: class names that are not a list of distinct strings, or options that do not fit.
    """
    seen = set()
    for part in _all_parts(cfg, loaders):
        if (type(part), part.key) not in seen:
            seen.add((type(part), part.key))
            yield part


def _all_parts(cfg: Config, loaders: Sequence[str]) -> list[Part]:
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        for loader in loaders:
            where = f"{loader}.dataset.pipeline"
            walk((cfg.get(loader) or {}).get("dataset"), partial(_require_wrapper, where))
        if "train_dataloader" in loaders:
            data = (cfg.get("train_dataloader") or {}).get("dataset")
            for hook in cfg.get("custom_hooks") or ():  # mmdet's PipelineSwitchHook
                if isinstance(hook, dict) and data is not None:
                    node = {"pipeline": hook.get("switch_pipeline"), "dataset": data}
                    _require_wrapper("the switch_pipeline of a hook", node)
        return [
            part
            for loader in loaders
            for dataset in inner_datasets((cfg.get(loader) or {}).get("dataset"))
            if (part := _part(loader, dataset)) is not None
        ]


def _require_wrapper(where: str, node: dict) -> None:
    """UserError where the pipeline of a wrapper, such as ``MultiImageMixDataset``, reads label images."""
    if node.get("pipeline") is not None and (node.get("dataset") or node.get("datasets")):
        for dataset in inner_datasets(node):
            require = _OWN_STEPS.get(kind_of(dataset)) if "type" in dataset else None
            if require is not None and not dataset.get("test_mode"):
                require(where, node["pipeline"])


def foreign_datasets(cfg: Config, loader: str) -> list[dict]:
    """The data sets of a loader that the suite does not read itself, such as mmseg's."""
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        inner = inner_datasets((cfg.get(loader) or {}).get("dataset"))
        return [dataset for dataset in inner if _part(loader, dataset) is None]


def _require_files(loader: str, dataset: Mapping[str, Any]) -> None:
    """UserError unless the files and folders are there that a data set of OpenMMLab's names as usual."""
    if dataset.get("backend_args") is not None:
        return
    root, prefix = dataset.get("data_root") or "", dataset.get("data_prefix")
    names = {f"data_prefix.{key}": value for key, value in (prefix or {}).items()}
    names |= {"ann_file": dataset.get("ann_file")}
    for key, value in {"data_root": "", **names}.items():
        if not isinstance(value, str) or not isinstance(root, str) or "://" in root + value:
            continue
        path = os.path.join(root, value) if value else root
        if path and (value or key == "data_root") and not os.path.exists(path):
            raise UserError(
                f"{loader}: no file or folder {path} ({key} of its {dataset.get('type')}): put the data "
                "there, or correct data_root"
            )


def _part(loader: str, dataset: dict) -> Part | None:
    metainfo, own = dataset.get("metainfo"), dataset.get("classes")
    if isinstance(metainfo, dict) and metainfo.get("classes") is not None:
        class_names(metainfo["classes"], f"{loader}.dataset.metainfo.classes")
    if own is not None and own != "imagenet":
        class_names(own, f"{loader}.dataset.classes")
    return next((part for kind in _KINDS if (part := kind.of_dataset(loader, dataset))), None)


def class_counts(cfg: Config) -> set[int]:
    """Every ``num_classes`` inside the config's model."""
    counts = set()
    walk(cfg.model, lambda node: counts.add(node["num_classes"]) if "num_classes" in node else None)
    return counts


def wrong_counts(cfg: Config, part: Part) -> list[tuple[str, int, int]]:
    """(option, its value, what it must be) of the config's model where it does not fit a data set."""
    wrong: dict[tuple[str, int, int], None] = {}

    def look(node: dict) -> None:
        for option, expected in part.class_counts.items():
            if option in node and node[option] != expected:
                wrong[option, node[option], expected] = None

    walk(cfg.model, look)
    return list(wrong)


def require_data(cfg: Config, loaders: Sequence[str]) -> None:
    """Checks the data of these loaders and the classes of all loaders, before anything is built.

    Raises:
        UserError: data that are not there or not fit for use, other classes than the model's, data sets
            that differ in their class names or the order of them, an evaluator of other data, or a loader of
            validation or testing that does not visit every image once.
    """
    require_evaluator(cfg, loaders)
    for loader in loaders:
        if loader != "train_dataloader":
            require_each_image_once(cfg.get(loader) or {}, loader)
        for dataset in foreign_datasets(cfg, loader):
            _require_files(loader, dataset)
    for part in parts(cfg, loaders):
        part.require()
        for option, count, expected in wrong_counts(cfg, part):
            raise UserError(
                f"the model has {option}={count}, but {part.loader} has {counted(expected, 'class')}; "
                f"set {option} and the data set's {part.classes_key} to fit each other"
            )
    require_same_data_classes(cfg, loaders)


def require_evaluator(cfg: Config, loaders: Sequence[str]) -> None:
    """Checks that the evaluators of these loaders score their data sets.

    Args:
        cfg: the config.
        loaders: ``val_dataloader``, ``test_dataloader``; others have no evaluator.

    Raises:
        UserError: an evaluator is of another task, of OpenMMLab beside a data set of the suite, or of other
            annotations.
    """
    for loader in loaders:
        name = loader.replace("_dataloader", "_evaluator")
        if cfg.get(name) is not None:
            data_parts = _all_parts(cfg, [loader])
            with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
                require_scored(cfg[name], data_parts, name, loader)


# samplers that leave out, repeat or never end the images of a data set
_UNEVEN_SAMPLERS = (
    "InfiniteSampler",
    "WholeBatchSampler",
    "ClassAwareSampler",
    "MultiSourceSampler",
    "GroupMultiSourceSampler",
)
_REPEATING = ("RepeatDataset", "ClassBalancedDataset")


def require_each_image_once(loader: Mapping[str, Any], name: str) -> None:
    """Checks that a data loader of validation or testing visits every image once.

    Args:
        loader: its options.
        name: what messages call it.

    Raises:
        UserError: it leaves out, repeats or never runs out of images: the score would not be that of the
            data set.
    """
    for where in ("", "batch_sampler."):
        options = loader.get("batch_sampler") or {} if where else loader
        if options.get("drop_last"):
            raise UserError(
                f"{name}.{where}drop_last=True would leave the images of the last batch out of the score: "
                "remove it"
            )
    if loader.get("num_batch_per_epoch") is not None:
        raise UserError(
            f"{name}.num_batch_per_epoch={loader['num_batch_per_epoch']!r} would leave the images after "
            "these batches out of the score: remove it"
        )
    sampler = loader.get("sampler")
    if isinstance(sampler, Mapping) and "type" in sampler and kind_of(sampler) in _UNEVEN_SAMPLERS:
        raise UserError(
            f"{name}.sampler is {kind_of(sampler)}, which does not visit every image once, as a score needs: "
            'use dict(type="DefaultSampler", shuffle=False)'
        )

    def look(node: dict) -> None:
        if node.get("dataset") is not None and "type" in node and kind_of(node) in _REPEATING:
            raise UserError(
                f"{name}.dataset is a {kind_of(node)}, whose repeated images would count more than once: use "
                "the data set inside of it"
            )

    walk(loader.get("dataset"), look)


def require_same_data_classes(cfg: Config, read: Sequence[str] = ()) -> None:
    """Checks that all data sets of a config name the same classes in the same order.

    Args:
        cfg: the config.
        read: loaders whose data are there, so that they may decide; of the others only what the config itself
            says is compared.

    Raises:
        UserError: two data sets differ.
    """
    first: tuple[Part, tuple[str, ...]] | None = None
    # the data that are used come first: a difference is then told of them
    for part in sorted(_all_parts(cfg, LOADERS), key=lambda part: part.loader not in read):
        classes = part.classes if part.loader in read else part.declared_classes
        if classes is None:
            continue
        first = first or (part, classes)
        require_same_classes(
            classes,
            first[1],
            where=part.loader,
            expected_where=first[0].loader,
            cure="give all data sets of the config one list of classes",
        )
