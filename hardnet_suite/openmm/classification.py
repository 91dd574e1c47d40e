"""HarDNet classifiers in mmengine: the model, its data, torchvision's transforms for pipelines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from hardnet_suite.data.pictures import open_rgb, to_rgb
from hardnet_suite.networks import build_network
from hardnet_suite.openmm.configs import classification_samples


class OnPicture(BaseTransform):
    """One of torchvision's transforms on ``img``."""

    def __init__(self, inner: v2.Transform):
        self.inner = inner

    def transform(self, results: dict) -> dict:
        results["img"] = self.inner(results["img"])
        return results

    def __repr__(self) -> str:
        return repr(self.inner)


def _builder(kind: type[v2.Transform]) -> Callable[..., OnPicture]:
    def build(**options: Any) -> OnPicture:
        return OnPicture(kind(**options))

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
    """Pictures and their classes; ``img`` comes to the pipeline as a PIL image, RGB.

    Args:
        folder: a folder of one folder for each class, relative to ``data_root``.
        csv: in place of it a CSV list with the columns file and label, relative to ``data_root``; the files
            are relative to ``folder``.
        torchvision: in place of both a data set of torchvision in ``data_root``: ``dict(name="CIFAR10",
            train=True)``.
        classes: the names in the order of their labels; "imagenet": WordNet ids in ImageNet's order.
            None: those there are, sorted.
        hold_out: this many pictures of each class are kept aside, drawn by ``hold_out_seed``; ``held_out``
            takes these in place of the rest.
        options: the further ones of mmengine's ``BaseDataset``, such as ``pipeline`` and ``indices``.
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
        super().__init__(metainfo={"classes": self._samples.classes}, **options)

    def full_init(self) -> None:
        super().full_init()
        # workers would copy a million paths each, sooner or later; mmengine has packed them by now
        self._samples = replace(self._samples, pictures=(), labels=())

    def load_data_list(self) -> list[dict]:
        pairs = zip(self._samples.pictures, self._samples.labels, strict=True)
        return [{"name": str(picture), "label": label} for picture, label in pairs]

    def prepare_data(self, idx: int) -> Any:
        results = self.get_data_info(idx)
        dataset = self._samples.dataset
        results["img"] = to_rgb(dataset[int(results["name"])][0]) if dataset else open_rgb(results["name"])
        return self.pipeline(results)


@MODELS.register_module()
class PicturePreprocessor(BaseDataPreprocessor):
    """(N, 3, H, W) uint8 RGB -> float32, less ``mean``, by ``std``, numbers of 0…255 a channel.

    mixup, cutmix: in training, the alpha of torchvision's MixUp and CutMix, of which one is drawn for each
    batch; 0 leaves it out. Labels become (N, num_classes) shares then.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        num_classes: int | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
    ):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        ways = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
        ways += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []
        self.mix = v2.RandomApply([v2.RandomChoice(ways)], p=mix_probability) if ways else None
        self.num_classes = num_classes

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        images = (data["inputs"].float() - self.mean) / self.std
        labels = data["labels"]
        if training and self.mix is not None:
            images, labels = self.mix(images, labels)
            if labels.ndim == 1:
                labels = F.one_hot(labels, self.num_classes).float()
        return {"inputs": images, "labels": labels, "names": data["names"]}


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """The classifier ``arch`` of ``list_models()`` with its loss, cross entropy.

    Scored it gives for each picture ``scores`` (C,) logits, ``label`` and ``name``.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int,
        data_preprocessor: dict,
        label_smoothing: float = 0.0,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        self.arch, self.label_smoothing = arch, label_smoothing
        self.network = build_network(arch, num_classes=num_classes)

    def forward(self, inputs: Tensor, labels: Tensor, names: Sequence[str], mode: str = "tensor") -> Any:
        logits = self.network(inputs.contiguous(memory_format=torch.channels_last))
        if mode == "tensor":
            return logits
        if mode == "loss":
            return {"loss": F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)}
        rows = zip(logits.float(), labels, names, strict=True)
        return [{"scores": scores, "label": label, "name": name} for scores, label, name in rows]
