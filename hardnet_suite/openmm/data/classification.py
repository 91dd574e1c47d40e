"""Classification data sets for mmengine, and torchvision's transforms for their pipelines."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from torchvision.transforms import v2

from hardnet_suite.data.options import checked_indices, take
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import classification_samples


class OnImage(BaseTransform):
    """Applies a torchvision transform to ``img``.

    The image is a PIL image, or a (H, W, 3) uint8 BGR array, which the transform gets as a (3, H, W) uint8
    RGB tensor and which must keep its size: boxes and label images of the pipeline are not transformed.

    Raises:
        ValueError: The transform changed the size or the type of an array.
    """

    def __init__(self, inner: v2.Transform):
        self.inner = inner

    def transform(self, results: dict) -> dict:
        image = results["img"]
        if not isinstance(image, np.ndarray):
            results["img"] = self.inner(image)
            return results
        out = self.inner(torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))))
        out = out.numpy().transpose(1, 2, 0)[..., ::-1]
        if (out.shape, out.dtype) != (image.shape, image.dtype):
            raise ValueError(
                f"{self} made a {out.dtype} image of {out.shape} of a {image.dtype} one of {image.shape}: on "
                "arrays only transforms that keep size and type are possible"
            )
        results["img"] = np.ascontiguousarray(out)
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
    """Converts ``img``, a PIL image, to the model's input.

    The result is a dict of ``inputs``: (3, H, W) uint8 RGB; ``labels``: a class index; and ``names``: the
    path of the image, its shard and path there, or its index in a torchvision data set.
    """

    def transform(self, results: dict) -> dict:
        pixels = torch.from_numpy(np.array(results["img"])).permute(2, 0, 1)
        return {"inputs": pixels, "labels": results["label"], "names": results["name"]}


@DATASETS.register_module()
class ClassificationDataset(BaseDataset):
    """Images and their classes. The pipeline gets ``img`` as an RGB PIL image.

    Args:
        data_root: Folder that the other paths are relative to.
        folder: A folder with one folder per class.
        csv: Instead, a CSV file with the columns file and label; the files are relative to ``folder``.
        torchvision: Instead of both, a torchvision data set in ``data_root``, for example
            ``dict(name="CIFAR10", train=True)``.
        shards: Instead of all, tar files of images and labels as WebDataset writes them, such as
            ``"train-{000..099}.tar"``.
        classes: Class names in the order of their labels; "imagenet": WordNet ids in ImageNet's order. None:
            the classes of the data, sorted.
        hold_out: Number of images held out per class, drawn at random.
        hold_out_seed: Seed of this draw.
        held_out: Use the held-out images instead of the others.
        options: Options of mmengine's ``BaseDataset``: ``pipeline``, ``indices``, ``serialize_data``,
            ``test_mode``, ``lazy_init``, ``max_refetch``.

    Raises:
        UserError: The data cannot be read, or options are unknown or exclude each other.
    """

    def __init__(
        self,
        data_root: str = "",
        folder: str | None = None,
        csv: str | None = None,
        torchvision: dict | None = None,
        shards: str | None = None,
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
                "shards": shards,
                "classes": classes,
                "hold_out": hold_out,
                "hold_out_seed": hold_out_seed,
                "held_out": held_out,
            }
        )
        known = ("pipeline", "indices", "serialize_data", "test_mode", "lazy_init", "max_refetch")
        for key in {*options} - {*known}:
            cure = "set classes=(…) instead" if key == "metainfo" else f"known options: {', '.join(known)}"
            raise UserError(f"a ClassificationDataset has no option {key!r}; {cure}")
        options["indices"] = checked_indices(options.get("indices"), "a ClassificationDataset")
        take(range(len(self._samples)), options["indices"], "a ClassificationDataset")
        super().__init__(metainfo={"classes": self._samples.classes}, **options)

    def full_init(self) -> None:
        super().full_init()
        # mmengine has serialized the paths by now; each worker would gradually copy this list
        self._samples = replace(self._samples, images=(), labels=())

    def load_data_list(self) -> list[dict]:
        samples = self._samples
        rows = [{"name": samples.name(index), "label": label} for index, label in enumerate(samples.labels)]
        if samples.dataset is None:
            return rows
        return [row | {"entry": entry} for row, entry in zip(rows, samples.images, strict=True)]

    def prepare_data(self, idx: int) -> Any:
        results = self.get_data_info(idx)
        results["img"] = self._samples.open_entry(results.pop("entry", results["name"]))
        return self.pipeline(results)

    @property
    def fingerprint(self) -> str:
        """Of shards the names of the files, as two may hold images of the same names."""
        return " ".join(os.path.basename(path) for path in getattr(self._samples.dataset, "paths", ()))

    def get_cat_ids(self, idx: int) -> list[int]:
        """The class of an image, as mmengine's ``ClassBalancedDataset`` asks for it."""
        return [self.get_data_info(idx)["label"]]
