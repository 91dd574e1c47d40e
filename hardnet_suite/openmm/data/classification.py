"""HarDNet classifiers in mmengine: the model, its data, torchvision's transforms for pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from torchvision.transforms import v2

from hardnet_suite.data.images import open_rgb, to_rgb
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import classification_samples


class OnImage(BaseTransform):
    """One of torchvision's transforms on ``img``."""

    def __init__(self, inner: v2.Transform):
        self.inner = inner

    def transform(self, results: dict) -> dict:
        results["img"] = self.inner(results["img"])
        return results

    def __repr__(self) -> str:
        return repr(self.inner)


def _builder(kind: type[v2.Transform]) -> Callable[..., OnImage]:
    def build(**options: Any) -> OnImage:
        return OnImage(kind(**options))

    build.__name__ = build.__qualname__ = kind.__name__
    return build


for _name in v2.__all__ if hasattr(v2, "__all__") else dir(v2):
    _kind = getattr(v2, _name)
    if isinstance(_kind, type) and issubclass(_kind, v2.Transform) and _kind is not v2.Transform:
        # in a config: dict(type="torchvision/RandomResizedCrop", size=224)
        TRANSFORMS.register_module(name=f"torchvision/{_name}", module=_builder(_kind))


@TRANSFORMS.register_module()
class PackClass(BaseTransform):
    """``img``, a PIL image -> the sample that the model takes: ``inputs`` (3, H, W) uint8 RGB, ``labels`` an
    index, ``names`` the path, or the number in a data set of torchvision."""

    def transform(self, results: dict) -> dict:
        pixels = torch.from_numpy(np.array(results["img"])).permute(2, 0, 1)
        return {"inputs": pixels, "labels": results["label"], "names": results["name"]}


@DATASETS.register_module()
class ClassificationDataset(BaseDataset):
    """Images and their classes; the pipeline gets ``img`` as a PIL image, RGB.

    Args:
        data_root: folder that the other paths are relative to.
        folder: a folder with one folder per class.
        csv: instead, a CSV list with the columns file and label; the files are relative to ``folder``.
        torchvision: instead of both, a data set of torchvision in ``data_root``: ``dict(name="CIFAR10",
            train=True)``.
        classes: the names in the order of their labels; "imagenet": WordNet ids in ImageNet's order. None:
            those of the data, sorted.
        hold_out: how many images of each class are held out, drawn by ``hold_out_seed``.
        hold_out_seed: of that draw.
        held_out: take the held-out images instead of the rest.
        options: of mmengine's ``BaseDataset``: ``pipeline``, ``indices``, ``serialize_data``, ``test_mode``,
            ``lazy_init``, ``max_refetch``.

    Raises:
        UserError: data that cannot be read, or options that do not exist or exclude each other.
    """

    def __init__(
        self,
        data_root: str = "",
        folder: str | None = None,
        csv: str | None = None,
        torchvision: dict | None = None,
        classes: str | Sequence[str] | None = None,
        hold_out: int = 0,
        hold_out_seed: int = 0,
        held_out: bool = False,
        **options: Any,
    ):
        self._samples = classification_samples(
            {
                "data_root": data_root,
                "folder": folder,
                "csv": csv,
                "torchvision": torchvision,
                "classes": classes,
                "hold_out": hold_out,
                "hold_out_seed": hold_out_seed,
                "held_out": held_out,
            }
        )
        known = ("pipeline", "indices", "serialize_data", "test_mode", "lazy_init", "max_refetch")
        for key in {*options} - {*known}:
            cure = "give classes=(…) instead" if key == "metainfo" else f"known are {', '.join(known)}"
            raise UserError(f"a ClassificationDataset has no option {key!r}; {cure}")
        super().__init__(metainfo={"classes": self._samples.classes}, **options)

    def full_init(self) -> None:
        super().full_init()
        # workers would copy a million paths each, sooner or later; mmengine has packed them by now
        self._samples = replace(self._samples, images=(), labels=())

    def load_data_list(self) -> list[dict]:
        pairs = zip(self._samples.images, self._samples.labels, strict=True)
        return [{"name": str(image), "label": label} for image, label in pairs]

    def prepare_data(self, idx: int) -> Any:
        results = self.get_data_info(idx)
        dataset = self._samples.dataset
        results["img"] = to_rgb(dataset[int(results["name"])][0]) if dataset else open_rgb(results["name"])
        return self.pipeline(results)
