"""Images and their classes."""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hardnet_suite.data.files import folder_entries, is_file
from hardnet_suite.data.images import open_rgb, to_rgb
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError


class NamedImages(ABC):
    """A data set, as torchvision's are, whose images have names."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What an image is called, for people."""

    @abstractmethod
    def find(self, name: str) -> int:
        """The index of the image that is called so."""


@dataclass(frozen=True)
class Samples:
    """Images and their classes.

    Attributes:
        where: the folder or file they come from.
        classes: the names, in the order of their labels.
        images: a path each, or the index in ``dataset``.
        labels: for each image an index into ``classes``.
        dataset: one of torchvision's, or ``NamedImages``, if the images are its.
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
        return self.open_entry(self.images[index])

    def open_entry(self, image: str | Path | int):
        """As ``open``, by an entry of ``images``, which may have been emptied since."""
        return open_rgb(image) if self.dataset is None else to_rgb(self.dataset[image][0])

    def name(self, index: int) -> str:
        """The path of an image; its shard and path there; or its index in one of torchvision's data sets."""
        image = self.images[index]
        return self.dataset.name(image) if isinstance(self.dataset, NamedImages) else str(image)

    def open_named(self, name: str):
        """As ``open``, by the ``name`` of an image; ``images`` may have been emptied since."""
        if isinstance(self.dataset, NamedImages):
            return self.open_entry(self.dataset.find(name))
        return self.open_entry(name if self.dataset is None else int(name))


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
                f"{samples.where}: the class {name} has {counted(len(own), 'image')}, {per_class} cannot be "
                "kept aside"
            )
        random.Random(f"{seed} {label}").shuffle(own)
        drawn += sorted(own[:per_class])
        kept += sorted(own[per_class:])
    return choose(samples, kept), choose(samples, drawn)


def require_files(samples: Samples, where: str) -> None:
    """Checks that every image is there, with one listing per folder; torchvision's are not looked for.

    Args:
        samples: the images.
        where: what the error calls the data set.

    Raises:
        UserError: images are missing, or links to nothing.
    """
    missing = missing_files(samples)
    if missing:
        more = f" (and {len(missing) - 1} more of {len(samples)})" if len(missing) > 1 else ""
        raise UserError(
            f"{where}: no image {missing[0]}{more}, which {samples.where} names: add the files, or "
            "remove their entries"
        )


def missing_files(samples: Samples) -> list[Path]:
    """The paths among the images that are no file, in their order."""
    present: dict[str, set[str]] = {}

    def is_there(path: Path) -> bool:
        folder, name = os.path.split(path)
        if folder not in present:
            present[folder] = _file_names(folder or ".")
        return name in present[folder] or is_file(path)  # file systems may fold case and accents

    return [image for image in samples.images if isinstance(image, Path) and not is_there(image)]


def _file_names(folder: str) -> set[str]:
    try:
        return {entry.name for entry in folder_entries(folder) if entry.is_file()}
    except (OSError, ValueError):
        return set()


def choose(samples: Samples, indices: Sequence[int]) -> Samples:
    """The images of these indices, in this order."""
    return replace(
        samples,
        images=tuple(samples.images[index] for index in indices),
        labels=tuple(samples.labels[index] for index in indices),
    )
