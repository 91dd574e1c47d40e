"""The data sets of a config: where each lies, its classes, and whether they fit the model.

``parts`` is the only place that tells the tasks apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmengine.config import Config

from hardnet_suite.data.classes import require_same_classes
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.classification import ClassificationPart, classification_samples
from hardnet_suite.openmm.data.parts.detection import DetectionPart
from hardnet_suite.openmm.data.parts.part import LOADERS, Part, inner_datasets, walk
from hardnet_suite.openmm.data.parts.segmentation import SegmentationPart, label_set

__all__ = [
    "LOADERS",
    "ClassificationPart",
    "DetectionPart",
    "Part",
    "SegmentationPart",
    "class_counts",
    "classification_samples",
    "inner_datasets",
    "label_set",
    "parts",
    "require_data",
    "walk",
]

_KINDS = (SegmentationPart, ClassificationPart, DetectionPart)


def parts(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[Part]:
    """The data sets of these loaders, those inside of wrappers included, each once, whatever their task."""
    seen = set()
    for loader in loaders:
        for dataset in inner_datasets((cfg.get(loader) or {}).get("dataset")):
            part = next((part for kind in _KINDS if (part := kind.of_dataset(loader, dataset))), None)
            if part is not None and (type(part), part.key) not in seen:
                seen.add((type(part), part.key))
                yield part


def class_counts(cfg: Config) -> set[int]:
    """Every ``num_classes`` inside the config's model."""
    counts = set()
    walk(cfg.model, lambda node: counts.add(node["num_classes"]) if "num_classes" in node else None)
    return counts


def require_data(cfg: Config, loaders: Sequence[str]) -> None:
    """UserError, one line, unless the data of these loaders are there, name the same classes and fit the
    model's number of them."""
    first: Part | None = None
    for part in parts(cfg, loaders):
        part.require()
        for count in class_counts(cfg):
            if count != len(part.classes):
                raise UserError(
                    f"the model has num_classes={count}, but {part.loader} has {len(part.classes)} classes; "
                    f"set num_classes and the data set's {part.classes_key} to fit each other"
                )
        first = first or part
        require_same_classes(
            part.classes,
            first.classes,
            where=part.loader,
            expected_where=first.loader,
            cure="give both data sets one list of classes",
        )
