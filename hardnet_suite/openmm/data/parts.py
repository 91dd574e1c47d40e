"""The data sets of a config: where each lies, its classes, and whether they fit the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from hardnet_suite.data.classification import (
    Samples,
    hold_out,
    imagenet_classes,
    read_csv,
    read_folder,
    read_torchvision,
)
from hardnet_suite.data.coco import load_annotations, require_coco
from hardnet_suite.data.segmentation import LABEL_SETS, LabelSet, find_pairs, own_labels, require_pairs
from hardnet_suite.errors import UserError
from hardnet_suite.visualization.detection import class_color

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def walk(node, change: Callable[[ConfigDict], None]) -> None:
    """Calls ``change`` on every dict inside ``node``."""
    if isinstance(node, dict):
        change(node)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            walk(child, change)


@dataclass(frozen=True)
class CocoPart:
    """One COCO data set of a config: which loader it serves, where it lies, its classes."""

    loader: str
    annotation_file: Path
    image_folder: Path
    classes: tuple[str, ...]
    filter_cfg: dict | None = None


def coco_parts(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[CocoPart]:
    """The COCO data sets of these loaders, each once."""
    seen = set()
    for loader in loaders:
        dataset = innermost(cfg.get(loader), "ann_file")
        if dataset is None:
            continue
        root = Path(dataset.get("data_root") or "")
        classes = (dataset.get("metainfo") or {}).get("classes") or _own_classes(dataset["type"])
        place = root / dataset["ann_file"], root / dataset["data_prefix"]["img"], tuple(classes)
        if place not in seen:
            seen.add(place)
            yield CocoPart(loader, *place, dataset.get("filter_cfg"))


@dataclass(frozen=True)
class SegmentationPart:
    """One ``SegmentationDataset`` of a config: which loader it serves, where it lies, its classes."""

    loader: str
    image_folder: Path
    label_folder: Path | None
    labels: LabelSet

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels.classes


def segmentation_parts(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[SegmentationPart]:
    """The ``SegmentationDataset``s of these loaders, each once."""
    seen = set()
    for loader in loaders:
        dataset = innermost(cfg.get(loader), "data_prefix")
        if dataset is None or dataset["type"] != "SegmentationDataset":
            continue
        root, prefix = Path(dataset.get("data_root") or ""), dataset["data_prefix"]
        annotations = prefix.get("seg_map_path")
        place = root / prefix["img_path"], None if annotations is None else root / annotations
        if place not in seen:
            seen.add(place)
            options = (dataset.get(key) for key in ("labels", "metainfo", "stored"))
            yield SegmentationPart(loader, *place, label_set(*options))


def label_set(
    labels: str | None = None, metainfo: dict | None = None, stored: dict[int, int] | None = None
) -> LabelSet:
    """What these options of a ``SegmentationDataset`` say; UserError where they cannot be."""
    if labels is not None:
        if labels not in LABEL_SETS:
            raise UserError(f"labels={labels!r} is no known label set; known: {', '.join(LABEL_SETS)}")
        if metainfo or stored:
            raise UserError(
                f"labels={labels!r} brings its classes along: "
                "for metainfo and stored of your own set labels=None"
            )
        return LABEL_SETS[labels]
    classes = (metainfo or {}).get("classes")
    if not classes:
        raise UserError("a SegmentationDataset needs labels, or metainfo=dict(classes=…)")
    palette = metainfo.get("palette") or [class_color(index) for index in range(len(classes))]
    return own_labels(classes, palette, stored)


def innermost(loader: dict | None, key: str) -> dict | None:
    """The loader's data set, inside of wrappers, that has this key."""
    dataset = (loader or {}).get("dataset")
    while dataset is not None and key not in dataset:
        dataset = dataset.get("dataset")
    return dataset


@dataclass(frozen=True)
class ClassificationPart:
    """One ``ClassificationDataset`` of a config: which loader it serves, its options."""

    loader: str
    options: dict

    @cached_property
    def samples(self) -> Samples:
        return classification_samples(self.options)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.samples.classes


def classification_parts(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[ClassificationPart]:
    """The ``ClassificationDataset``s of these loaders, each once."""
    seen = []
    for loader in loaders:
        dataset = innermost(cfg.get(loader), "data_root")
        if dataset is None or dataset["type"] != "ClassificationDataset":
            continue
        options = {key: dataset[key] for key in _SAMPLES if key in dataset}
        if options not in seen:
            seen.append(options)
            yield ClassificationPart(loader, options)


_SAMPLES = ("data_root", "folder", "csv", "torchvision", "classes", "hold_out", "hold_out_seed", "held_out")


def classification_samples(options: dict) -> Samples:
    """The images and classes that the options of a ``ClassificationDataset`` name."""
    root, folder = Path(options.get("data_root") or ""), options.get("folder")
    csv, torchvision = options.get("csv"), options.get("torchvision")
    classes = options.get("classes")
    if classes == "imagenet":
        classes = tuple(imagenet_classes())
    if torchvision:
        name = torchvision.get("name", "")
        samples = read_torchvision(name, root, **{k: v for k, v in torchvision.items() if k != "name"})
    elif csv:
        samples = read_csv(root / csv, root / (folder or ""), classes)
    elif folder is not None:
        samples = read_folder(root / folder, classes)
    else:
        raise UserError("a ClassificationDataset needs folder, csv or torchvision")
    if options.get("hold_out"):
        rest, drawn = hold_out(samples, options["hold_out"], options.get("hold_out_seed", 0))
        return drawn if options.get("held_out") else rest
    return samples


def _own_classes(dataset_type: str) -> tuple[str, ...]:
    with DATASETS.switch_scope_and_registry(None) as registry:  # the default scope's
        return registry.get(dataset_type).METAINFO["classes"]


def class_counts(cfg: Config) -> set[int]:
    """Every ``num_classes`` inside the config's model."""
    counts = set()
    walk(cfg.model, lambda node: counts.add(node["num_classes"]) if "num_classes" in node else None)
    return counts


def require_data(cfg: Config, loaders: Sequence[str]) -> None:
    """UserError, one line, unless the data of these loaders are there and fit the number of classes, and
    folders or lists that name the classes name the same."""
    for part in coco_parts(cfg, loaders):
        require_coco(part.annotation_file, part.image_folder)
        _require_fitting_model(cfg, part)
        names = {category["name"] for category in load_annotations(part.annotation_file)["categories"]}
        missing = [name for name in part.classes if name not in names]
        if missing:
            raise UserError(
                f"{part.annotation_file} has {len(names)} classes and lacks "
                f"{', '.join(map(repr, missing[:3]))} of the config's {len(part.classes)}; "
                "set the data set's metainfo.classes and num_classes"
            )
    for part in segmentation_parts(cfg, loaders):
        find = find_pairs if part.label_folder is None else require_pairs
        find(part.image_folder, part.label_folder, part.labels)
        _require_fitting_model(cfg, part)
    first = None
    for part in classification_parts(cfg, loaders):
        _require_fitting_model(cfg, part)
        first = first or part
        require_same_classes(part.loader, part.classes, first.loader, first.classes)


def require_same_classes(one: str, classes: Sequence[str], other: str, known: Sequence[str]) -> None:
    """UserError where two lists of classes, of which ``one`` and ``other`` are the holders, differ."""
    if tuple(classes) != tuple(known):
        pairs = enumerate(zip_longest(classes, known, fillvalue="none"))
        index, (name, expected) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        raise UserError(
            f"{one} has other classes than {other}: class {index} is {name}, not {expected}; "
            "give both data sets one list of classes"
        )


def _require_fitting_model(cfg: Config, part: CocoPart | SegmentationPart | ClassificationPart) -> None:
    where = "classes" if isinstance(part, ClassificationPart) else "metainfo.classes"
    for count in class_counts(cfg):
        if count != len(part.classes):
            raise UserError(
                f"the model has num_classes={count}, but {part.loader} has {len(part.classes)} classes; "
                f"set num_classes and the data set's {where} to fit each other"
            )
