"""HarDNet classifiers as an mmengine model, and their data preprocessor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from hardnet_suite.errors import UserError
from hardnet_suite.inference.labels import ONE_CLASS
from hardnet_suite.networks import build_network
from hardnet_suite.numeric import require_number
from hardnet_suite.openmm.models.forms import LoadsEveryForm
from hardnet_suite.openmm.models.inference import ReplaceableNetwork


@MODELS.register_module()
class ClassificationPreprocessor(BaseDataPreprocessor):
    """Normalises batches: (N, 3, H, W) uint8 RGB -> (N, 3, H, W) float32, (x − mean) / std.

    In training it can also apply MixUp or CutMix, one of them drawn at random for each batch; the labels
    become (N, num_classes) class weights then.

    Args:
        mean: Mean of each channel, for x in 0…255.
        std: Standard deviation of each channel, for x in 0…255.
        num_classes: Number of classes; required with ``mixup`` or ``cutmix``.
        mixup: Alpha of torchvision's MixUp; 0 disables it.
        cutmix: Alpha of torchvision's CutMix; 0 disables it.
        mix_probability: Probability that a batch is mixed.

    Raises:
        UserError: An alpha or the probability is out of range.
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
        for name, value, most in (
            ("mixup", mixup or 0, math.inf),
            ("cutmix", cutmix or 0, math.inf),
            ("mix_probability", mix_probability, 1),
        ):
            _require_between(f"data_preprocessor.{name}", value, most)
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        ways = [v2.MixUp(alpha=float(mixup), num_classes=num_classes)] if mixup else []
        ways += [v2.CutMix(alpha=float(cutmix), num_classes=num_classes)] if cutmix else []
        self.mix = v2.RandomApply([v2.RandomChoice(ways)], p=float(mix_probability)) if ways else None
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
class ImageClassifier(LoadsEveryForm, ReplaceableNetwork, BaseModel):
    """A classifier with cross entropy as its loss.

    In mode "predict", ``forward`` returns one dict per image, with ``scores``: (num_classes,) logits,
    ``label`` and ``name``.

    Args:
        arch: A classifier of ``list_models()``.
        num_classes: Number of classes.
        data_preprocessor: Config of the data preprocessor.
        label_smoothing: Label smoothing of the loss, in [0, 1].
        init_cfg: mmengine's config of the initialisation.

    Raises:
        UserError: A single class, or label smoothing out of range.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int,
        data_preprocessor: dict,
        label_smoothing: float = 0.0,
        init_cfg: dict | None = None,
    ):
        if num_classes == 1:
            raise UserError(f"model.num_classes is 1: {ONE_CLASS}")
        _require_between("label_smoothing", label_smoothing, 1)
        super().__init__(data_preprocessor, init_cfg)
        self.arch, self.label_smoothing = arch, label_smoothing
        self.network = build_network(arch, num_classes=num_classes)

    def forward(self, inputs: Tensor, labels: Tensor, names: Sequence[str], mode: str = "tensor") -> Any:
        logits = self.outputs(inputs)
        if mode == "tensor":
            return logits
        if mode == "loss":
            return {"loss": F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)}
        rows = zip(logits.float(), labels, names, strict=True)
        return [{"scores": scores, "label": label, "name": name} for scores, label, name in rows]

    def own_outputs(self, inputs: Tensor) -> Tensor:
        return self.network(inputs.contiguous(memory_format=torch.channels_last))


def _require_between(name: str, value: Any, most: float) -> None:
    """UserError unless an option of the model is a number from 0 to ``most``."""
    try:
        require_number(f"model.{name}", value, 0, most)
    except ValueError as error:
        raise UserError(str(error)) from None
