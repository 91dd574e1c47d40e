"""Distillation: a segmentation model learns the labels and what trained models predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.structures import PixelData
from torch import Tensor, nn

from hardnet_suite.data.classes import class_names, require_same_classes
from hardnet_suite.data.options import require_known
from hardnet_suite.errors import UserError
from hardnet_suite.inference.finite import require_finite
from hardnet_suite.inference.prepare import to_input
from hardnet_suite.losses import distillation_loss
from hardnet_suite.networks import Preprocess, SegmentationArch, build_network, find_arch
from hardnet_suite.openmm.models.segmentor import FCHarDNetHead
from hardnet_suite.weights import fill, open_weights

_WHERE = "DistillationHook.teachers"


@HOOKS.register_module()
class DistillationHook(Hook):
    """Trains FC-HarDNet or HarDNet-MSEG on the mean of what other models predict, beside the labels.

    The teachers see the crops that the model sees, after all augmentation, at their own normalisation. They
    are not trained, and neither saved with the model nor needed to use it. The added loss, logged as
    ``decode.loss_distillation``, counts at all pixels of the crops, also at those without a label.

    Args:
        teachers: Each of them a file of weights or a run's folder; ``dict(weights=…)`` with, for what the
            file does not tell, ``model`` (its name, then ``weights`` may be a tag) and ``classes``; or
            ``dict(type=…)``, a registered module with an attribute ``classes`` (names in order) that takes
            (N, 3, H, W) float32 RGB pixels 0…255 and returns (N, C, H, W) logits. Their classes must be those
            of the training data.
        weight: Factor on the added loss, see ``losses.distillation_loss``.
        temperature: Divides the logits of teachers and model in it.

    Raises:
        UserError: A value out of range, a teacher that cannot be loaded or knows other classes, or a model
            without a ``FCHarDNetHead``.
    """

    priority = "NORMAL"

    def __init__(
        self,
        teachers: Sequence[str | Path | Mapping[str, Any]],
        weight: float = 1.0,
        temperature: float = 1.0,
    ):
        if isinstance(teachers, str | Path | Mapping) or not teachers:
            raise UserError(f"{_WHERE}: expected a list of at least one, got {teachers!r}")
        for name, value in (("weight", weight), ("temperature", temperature)):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 < value < float("inf"):
                raise UserError(f"DistillationHook.{name}: expected a positive number, got {value!r}")
        self.teachers, self.weight, self.temperature = teachers, weight, temperature

    def before_train(self, runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        head = getattr(model, "decode_head", None)
        if not isinstance(head, FCHarDNetHead):
            raise UserError(
                f"DistillationHook: expected a HarDNetSegmentor to train, got a {type(model).__name__}"
            )
        classes = tuple(runner.train_dataloader.dataset.metainfo["classes"])
        loaded = [_load(teacher, f"{_WHERE}[{i}]", classes) for i, teacher in enumerate(self.teachers)]
        for teacher in loaded:
            runner.logger.info(f"distillation: a teacher is {teacher.name}")
        self._mean = MeanOfTeachers(loaded, self.temperature).to(next(model.parameters()).device)
        head.distillation = self._loss

    def _loss(self, logits: Tensor, probabilities: Tensor, mask: Tensor) -> Tensor:
        return self.weight * distillation_loss(logits, probabilities, self.temperature, mask)

    def before_train_iter(self, runner, batch_idx: int, data_batch: Mapping[str, Any]) -> None:
        images, samples = data_batch["inputs"], data_batch["data_samples"]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(tuple(image.shape), []).append(index)
        for indices in groups.values():
            pixels = torch.stack([images[index] for index in indices]).flip(1)  # BGR, as mmseg reads it
            with runner.optim_wrapper.optim_context(self._mean):  # the training's precision
                answers = self._mean(pixels)
            for index, answer in zip(indices, answers, strict=True):
                samples[index].teacher = PixelData(data=answer)


class MeanOfTeachers(nn.Module):
    """(N, 3, H, W) RGB pixels 0…255 -> (N, C, H, W) probabilities, the mean of those of all teachers.

    Args:
        teachers: Take such pixels and return logits; one logit is that of the sigmoid.
        temperature: Divides the logits.
    """

    def __init__(self, teachers: Sequence[nn.Module], temperature: float = 1.0):
        super().__init__()
        self.teachers, self.temperature = nn.ModuleList(teachers).eval().requires_grad_(False), temperature

    def train(self, mode: bool = True) -> MeanOfTeachers:
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        device = next((parameter.device for parameter in self.parameters()), pixels.device)
        pixels = pixels.to(device, torch.float32)
        views = [teacher(pixels).float() / self.temperature for teacher in self.teachers]
        likely = [view.sigmoid() if view.shape[1] == 1 else view.softmax(1) for view in views]
        mean = torch.stack(likely).mean(0)
        require_finite(mean)
        return mean


class _Teacher(nn.Module):
    """A network of the suite with its input rule."""

    def __init__(self, network: nn.Module, rule: Preprocess, name: str):
        super().__init__()
        self.network, self.rule, self.name = network, rule, name

    def forward(self, pixels: Tensor) -> Tensor:
        inputs = to_input(pixels, self.rule)
        return self.network(inputs)[..., : pixels.shape[2], : pixels.shape[3]]


def _load(teacher: Any, where: str, classes: tuple[str, ...]) -> nn.Module:
    """A module that takes pixels and returns logits of these classes."""
    if isinstance(teacher, Mapping) and "type" in teacher:
        module = MODELS.build(dict(teacher))
        known, name = getattr(module, "classes", None), teacher["type"]
        if known is None:
            raise UserError(f"{where}: {name} has no attribute classes, the names of what it predicts")
        module.name = str(name)
    else:
        module, known = _load_own(teacher, where)
        name = module.name
    require_same_classes(
        class_names(known, f"{where}.classes"),
        classes,
        where=f"{where} ({name})",
        expected_where="train_dataloader",
        cure="distil from a model of the same classes in the same order",
    )
    return module


def _load_own(teacher: Any, where: str) -> tuple[_Teacher, Sequence[str]]:
    options = dict(teacher) if isinstance(teacher, Mapping) else {"weights": teacher}
    require_known(options, ("weights", "model", "classes"), where)
    if "weights" not in options:
        raise UserError(f"{where}: expected weights, or the type of a registered module")
    checkpoint = open_weights(options["weights"], options.get("model")).require_whole()
    arch = checkpoint.arch or find_arch(checkpoint.model)
    if not isinstance(arch, SegmentationArch):
        raise UserError(f"{where}: {checkpoint.path} is a {checkpoint.model}, expected a segmentation model")
    network = build_network(
        checkpoint.model,
        num_classes=checkpoint.num_classes,
        in_chans=checkpoint.in_chans,
        arch=checkpoint.arch,
    )
    fill(network, checkpoint)
    known = options.get("classes") or checkpoint.classes
    if known is None:
        raise UserError(f"{where}: {checkpoint.path} does not name its classes: add classes=[…]")
    network = network.to(memory_format=torch.channels_last)
    return _Teacher(network, checkpoint.usage.preprocess, str(checkpoint.path)), known
