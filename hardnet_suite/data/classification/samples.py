"""Images and their classes, and ImageNet's names."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hardnet_suite.data.images import open_rgb, to_rgb
from hardnet_suite.errors import UserError


@dataclass(frozen=True)
class Samples:
    """Images and their classes.

    Attributes:
        where: the folder or file they come from.
        classes: the names, in the order of their labels.
        images: a path each, or the index in ``dataset``.
        labels: for each image an index into ``classes``.
        dataset: one of torchvision's, if the images are its.
        strays: files that were found beside the images and are not used.
    """

    where: str
    classes: tuple[str, ...]
    images: tuple[Path | int, ...]
    labels: tuple[int, ...]
    dataset: Any = None
    strays: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def open(self, index: int):
        """The image as a PIL image, RGB; UserError where it cannot be read."""
        if self.dataset is None:
            return open_rgb(self.images[index])
        return to_rgb(self.dataset[self.images[index]][0])


@cache
def imagenet_classes() -> dict[str, str]:
    """WordNet id -> name of the 1000 classes of ImageNet, in the order of their indices (258: Samoyed)."""
    with Path(__file__).parents[1].joinpath("imagenet_classes.csv").open(encoding="utf-8") as stream:
        return {row["wnid"]: row["name"] for row in csv.DictReader(stream)}


def readable(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes for people: ImageNet's WordNet ids become its names, others stay."""
    names = imagenet_classes()
    return tuple(names.get(name, name) for name in classes)


def hold_out(samples: Samples, per_class: int, seed: int = 0) -> tuple[Samples, Samples]:
    """(the rest, ``per_class`` images drawn of each class): one to train on, the other to choose by.

    UserError where a class has no more than that many images.
    """
    kept: list[int] = []
    drawn: list[int] = []
    by_label: dict[int, list[int]] = {}
    for index, label in enumerate(samples.labels):
        by_label.setdefault(label, []).append(index)
    for label, own in sorted(by_label.items()):
        if len(own) <= per_class:
            name = samples.classes[label]
            raise UserError(
                f"{samples.where}: the class {name} has {len(own)} images, {per_class} cannot be kept aside"
            )
        random.Random(f"{seed} {label}").shuffle(own)
        drawn += sorted(own[:per_class])
        kept += sorted(own[per_class:])
    return _chosen(samples, kept), _chosen(samples, drawn)


def _chosen(samples: Samples, indices: Sequence[int]) -> Samples:
    return replace(
        samples,
        images=tuple(samples.images[index] for index in indices),
        labels=tuple(samples.labels[index] for index in indices),
    )
