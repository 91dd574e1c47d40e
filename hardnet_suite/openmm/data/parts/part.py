"""What every part is: one data set of a config, seen from train, test and check-data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import ClassVar

from mmengine.config import ConfigDict

from hardnet_suite.data.report import Report
from hardnet_suite.networks import Palette

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


class Part(ABC):
    """One data set of a config.

    Attributes:
        task: "detection", "segmentation" or "classification".
        results: name of the file or folder in the work dir that ``test`` writes the predictions to.
        classes_key: the option of the data set that holds its class names.
        loader: the data loader that the data set serves, such as ``train_dataloader``.
    """

    task: ClassVar[str]
    results: ClassVar[str]
    classes_key: ClassVar[str] = "metainfo.classes"
    loader: str

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their labels."""

    @property
    def palette(self) -> Palette | None:
        """One RGB colour per class; None for the usual ones."""
        return None

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Two parts of one key are the same data set."""

    @abstractmethod
    def require(self) -> None:
        """Raises ``UserError`` unless the data are there and fit for what the loader does with them."""

    @abstractmethod
    def check(self, *, read: bool = True) -> Report | None:
        """Everything that is wrong or odd in the data set; ``read`` decodes every image. None: no labels."""


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
