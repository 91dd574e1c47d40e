"""Distillation: a segmentation model learns the labels and what trained models predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.structures import PixelData
from torch import Tensor, nn

from hardnet_suite.data.classes import class_names, given_or_known, require_same_classes
from hardnet_suite.data.options import require_known
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.inference.prepare import to_input
from hardnet_suite.losses import distillation_loss
from hardnet_suite.losses.distillation import TEMPERATURES
from hardnet_suite.networks import Preprocess, SegmentationArch, build_network, find_arch
from hardnet_suite.numeric import require_number
from hardnet_suite.openmm.models.segmentor import FCHarDNetHead
from hardnet_suite.openmm.run.checks import any_rank
from hardnet_suite.openmm.run.records import records_of
from hardnet_suite.weights import fill, open_weights

_WHERE = "DistillationHook.teachers"
_WEIGHTS = (1e-6, 1e6)
_SIZES = ("resize", "size", "resize_to", "factor", "pad")  # of an input rule: how large objects are


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
        weight: Factor on the added loss, 1e-6 to 1e6, see ``losses.distillation_loss``.
        temperature: Divides the logits of teachers and model in it, 0.01 to 100.

    Raises:
        UserError: A value out of range, a teacher that cannot be loaded, knows other classes or returns
            anything but finite logits of them per pixel, images that the pipeline has normalised already, a
            second such hook, or a model without a ``FCHarDNetHead``.
    """

    priority = "NORMAL"

    def __init__(
        self,
        teachers: Sequence[str | Path | Mapping[str, Any]],
        weight: float = 1.0,
        temperature: float = 1.0,
    ):
        if not isinstance(teachers, list | tuple) or not teachers:
            raise UserError(f"{_WHERE}: expected a list of at least one, got {teachers!r}")
        for index, teacher in enumerate(teachers):
            if not isinstance(teacher, str | Path | Mapping) or not teacher:
                raise UserError(f"{_WHERE}[{index}]: expected a path or a dict, got {teacher!r}")
        try:
            require_number("DistillationHook.weight", weight, *_WEIGHTS)
            require_number("DistillationHook.temperature", temperature, *TEMPERATURES)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.teachers, self.weight, self.temperature = teachers, weight, temperature

    def before_train(self, runner) -> None:
        head = _head_of(runner)
        if head.distillation is not None:
            raise UserError("there are two DistillationHooks: give all teachers to one of them")
        classes = runner.train_dataloader.dataset.metainfo.get("classes")
        if not classes:
            raise UserError("DistillationHook: the data set of train_dataloader has no classes in metainfo")
        rule = Preprocess.from_dict(own) if (own := records_of(runner.cfg).get("preprocess")) else None
        teachers = []
        for index, teacher in enumerate(self.teachers):
            where = f"{_WHERE}[{index}]"
            loaded = _load(teacher, where, tuple(classes))
            runner.logger.info(f"distillation: {where} is {loaded.name}")
            other = [] if None in (rule, loaded.rule) else loaded.rule.differences(rule)
            if other := [name for name in other if name in _SIZES]:
                runner.logger.warning(
                    f"{where} ({loaded.name}) is used with another {', '.join(other)} than the training: it "
                    "may see objects at another size than it has learned"
                )
            teachers.append(loaded)
        self._mean = MeanOfTeachers(teachers, len(classes), self.temperature).to(get_device())
        head.distillation = self._loss

    def after_train(self, runner) -> None:
        _head_of(runner).distillation = None

    def _loss(self, logits: Tensor, probabilities: Tensor, mask: Tensor) -> Tensor:
        return self.weight * distillation_loss(logits, probabilities, self.temperature, mask)

    def before_train_iter(self, runner, batch_idx: int, data_batch: Mapping[str, Any]) -> None:
        images, samples = data_batch["inputs"], data_batch["data_samples"]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(tuple(image.shape), []).append(index)
        problem = None
        for indices in groups.values():
            pixels = torch.stack([images[index] for index in indices]).flip(1)  # BGR, as mmseg reads it
            try:
                with runner.optim_wrapper.optim_context(self._mean):  # the training's precision
                    answers = self._mean(pixels.to(get_device(), torch.float32))
            except UserError as error:
                problem = error
                break
            for index, answer in zip(indices, answers, strict=True):
                samples[index].teacher = PixelData(data=answer)
        if any_rank(problem is not None):  # the others would wait for this one
            raise problem or UserError("a teacher has failed on another rank")


def _head_of(runner) -> FCHarDNetHead:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    head = getattr(model, "decode_head", None)
    if not isinstance(head, FCHarDNetHead):
        raise UserError(
            f"DistillationHook: expected a HarDNetSegmentor to train, got a {type(model).__name__}"
        )
    return head


class Teacher(nn.Module):
    """A module that takes pixels and returns logits, and what errors call it.

    Args:
        module: (N, 3, H, W) RGB pixels 0…255 -> (N, C, H, W) logits; with a rule it takes its inputs.
        name: For messages.
        rule: The input rule of a network of the suite.
    """

    def __init__(self, module: nn.Module, name: str, rule: Preprocess | None = None):
        super().__init__()
        self.module, self.name, self.rule = module, name, rule

    def forward(self, pixels: Tensor) -> Tensor:
        if self.rule is None:
            return self.module(pixels.clone())  # it may change them in place
        return self.module(to_input(pixels, self.rule))[..., : pixels.shape[2], : pixels.shape[3]]


class MeanOfTeachers(nn.Module):
    """(N, 3, H, W) RGB pixels 0…255 -> (N, C, H, W) probabilities, the mean of those of all teachers.

    Args:
        teachers: One logit is that of the sigmoid.
        num_classes: C.
        temperature: Divides the logits.

    Raises:
        UserError: Pixels far out of range, or logits that are not finite or of another shape.
    """

    def __init__(self, teachers: Sequence[Teacher], num_classes: int, temperature: float = 1.0):
        super().__init__()
        self.teachers = nn.ModuleList(teachers).eval().requires_grad_(False)
        self.num_classes, self.temperature = num_classes, temperature

    def train(self, mode: bool = True) -> MeanOfTeachers:
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        least, most = (float(value) for value in pixels.aminmax())
        if least < -1 or most > 256:
            raise UserError(
                f"DistillationHook: the training pipeline makes values from {least:.3g} to {most:.3g}, "
                "expected pixels 0…255: leave the normalisation to the data preprocessor"
            )
        likely = []
        for teacher in self.teachers:
            logits = teacher(pixels)
            expected = (len(pixels), self.num_classes, *pixels.shape[2:])
            if tuple(logits.shape) != expected:
                raise UserError(
                    f"the teacher {teacher.name} returns {tuple(logits.shape)} for images of "
                    f"{tuple(pixels.shape)}, expected logits {expected}"
                )
            if not logits.isfinite().all():
                raise UserError(f"the teacher {teacher.name} returns NaN or infinity")
            logits = logits.float() / self.temperature
            likely.append(logits.sigmoid() if self.num_classes == 1 else logits.softmax(1))
        return torch.stack(likely).mean(0)


def _load(teacher: str | Path | Mapping[str, Any], where: str, classes: tuple[str, ...]) -> Teacher:
    """A teacher of these classes."""
    if isinstance(teacher, Mapping) and "type" in teacher:
        module, known = _build(teacher, where)
    else:
        module, known = _open(teacher, where)
    require_same_classes(
        known,
        classes,
        where=f"{where} ({module.name})",
        expected_where="train_dataloader",
        cure="distil from a model of the same classes in the same order",
    )
    return module


def _build(teacher: Mapping[str, Any], where: str) -> tuple[Teacher, Sequence[str]]:
    try:
        module = MODELS.build(dict(teacher))
    except (KeyError, TypeError) as error:  # an unknown type, or option of it
        reason = str(error.args[0] if error.args else error).splitlines()[0]
        raise UserError(f"{where}: {reason}") from error
    name = type(module).__name__
    known = getattr(module, "classes", None)
    if known is None:
        raise UserError(f"{where}: {name} has no attribute classes, the names of what it predicts")
    if hasattr(module, "init_weights"):  # reads the file that its init_cfg names
        module.init_weights()
    return Teacher(module, name), class_names(known, f"{where}: the classes of {name}")


def _open(teacher: str | Path | Mapping[str, Any], where: str) -> tuple[Teacher, Sequence[str]]:
    options = dict(teacher) if isinstance(teacher, Mapping) else {"weights": teacher}
    require_known(options, ("weights", "model", "classes"), where)
    source, model = options.get("weights"), options.get("model")
    if not isinstance(source, str | Path) or not source:
        raise UserError(f"{where}: expected weights=…, a path, or the type of a registered module")
    try:
        checkpoint = open_weights(source, model).require_whole()
    except (UserError, ValueError) as error:
        tags = "" if model or Path(source).suffix else "; a tag needs its model: dict(model=…, weights=…)"
        raise UserError(f"{where}: {error}{tags}") from error
    arch = checkpoint.arch or find_arch(checkpoint.model)
    if not isinstance(arch, SegmentationArch):
        raise UserError(f"{where}: {checkpoint.path} is a {checkpoint.model}, expected a segmentation model")
    if checkpoint.in_chans != 3:
        raise UserError(f"{where}: {checkpoint.path} takes {checkpoint.in_chans} channels, expected 3")
    known = given_or_known(options.get("classes"), checkpoint.classes, f"{where}.classes")
    if known is None:
        raise UserError(f"{where}: {checkpoint.path} does not name its classes: add classes=[…]")
    if len(known) != checkpoint.num_classes:
        raise UserError(
            f"{where}.classes has {counted(len(known), 'name')}, but {checkpoint.path} has "
            f"{counted(checkpoint.num_classes, 'class')}"
        )
    network = build_network(
        checkpoint.model, num_classes=checkpoint.num_classes, in_chans=3, arch=checkpoint.arch
    )
    fill(network, checkpoint)
    network = network.to(memory_format=torch.channels_last)
    return Teacher(network, str(checkpoint.path), checkpoint.usage.preprocess), known
