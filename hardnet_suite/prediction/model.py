"""From a name, a config, a file of weights or a network to a model that is ready to predict."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import torch
from torch import Tensor, nn

from hardnet_suite.config_names import own_configs, unknown_model
from hardnet_suite.data.classes import given_or_known, imagenet_classes, readable, require_same_classes
from hardnet_suite.data.coco import COCO_CLASSES
from hardnet_suite.data.images import IMAGE_SUFFIXES
from hardnet_suite.data.segmentation import LABEL_SETS
from hardnet_suite.data.sources import VIDEO_SUFFIXES
from hardnet_suite.deploy.session import Session, is_for_engine, open_in_precision
from hardnet_suite.deploy.transforms.packing import PackedConv2d
from hardnet_suite.errors import UserError
from hardnet_suite.inference import Boxes, Guesses, Mask, Placement, answers, to_input
from hardnet_suite.inference.labels import ONE_CLASS
from hardnet_suite.inference.precision import (
    PrecisionChoice,
    faster_precision,
    in_both_precisions,
    usual_size,
)
from hardnet_suite.names import known_name
from hardnet_suite.networks import (
    DescriptorArch,
    Palette,
    Postprocess,
    Preprocess,
    Usage,
    build_network,
    eval_mode,
    find_arch,
    list_models,
)
from hardnet_suite.networks.layers import is_meta, without_wrappers
from hardnet_suite.precision import Precision, settled_precision
from hardnet_suite.run_folders import find_run
from hardnet_suite.visualization.canvas import class_color
from hardnet_suite.weights import (
    ROWS,
    Checkpoint,
    WeightsRow,
    WeightsSource,
    chosen_row,
    fill,
    find,
    open_weights,
)
from hardnet_suite.weights.checkpoint import INPUT_IS_UNKNOWN
from hardnet_suite.weights.file import ENGINE_SUFFIXES, WEIGHTS_SUFFIXES, WeightsFile, expanded
from hardnet_suite.weights.identification import OTHERS_MODEL
from hardnet_suite.weights.runs import run_checkpoint

if TYPE_CHECKING:
    from hardnet_suite.prediction.options import Images, RunOptions
    from hardnet_suite.prediction.result import Prediction

_LISTED = 4  # classes in a repr


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A network with everything that a prediction needs; a call of it predicts.

    ``model(images, **options)`` is ``predict(model, images, **options)``.

    Attributes:
        name: the model's name in ``list_models()``.
        network: the network, on ``device``; of an exported file its ``deploy.Session``.
        preprocess: from an image to the input.
        postprocess: from the output to an answer.
        classes: names for people, in the order of the labels.
        palette: one RGB colour per class.
        device: where the network computes.
        bf16: whether it computes in bfloat16.
        weights: which weights these are, in words; None for a network of ``create_model``.
        weights_source: the file of ``weights``; None for an exported file and a network of ``create_model``.
        choice: with ``precision="auto"`` what was chosen, and the times that it was chosen by.
    """

    name: str
    network: nn.Module
    preprocess: Preprocess
    postprocess: Postprocess
    classes: tuple[str, ...]
    palette: Palette
    device: torch.device
    bf16: bool = False
    weights: str | None = None
    weights_source: WeightsSource | None = None
    choice: PrecisionChoice | None = None

    @property
    def task(self) -> str:
        """ "classification", "detection" or "segmentation"."""
        return self.postprocess.task

    @overload
    def __call__(
        self, images: Images, *, stream: Literal[False] = False, **options: Unpack[RunOptions]
    ) -> list[Prediction]: ...

    @overload
    def __call__(
        self, images: Images, *, stream: Literal[True], **options: Unpack[RunOptions]
    ) -> Iterator[Prediction]: ...

    @overload
    def __call__(
        self, images: Images, *, stream: bool, **options: Unpack[RunOptions]
    ) -> list[Prediction] | Iterator[Prediction]: ...

    def __call__(
        self, images: Images, *, stream: bool = False, **options: Unpack[RunOptions]
    ) -> list[Prediction] | Iterator[Prediction]:
        """Classifies, detects or segments images: ``predict`` with this model.

        Args:
            images: as for ``predict``: a path, folder, pattern, address, PIL image, array, tensor, bytes,
                open file, video, camera, or a list or iterator of these.
            stream: returns an iterator that reads on as it is asked.
            **options: of ``predict``: ``top``, ``score``, ``channels``, ``batch_size``, ``workers`` and
                ``failed``.

        Returns:
            One ``Prediction`` per image, in order.

        Raises:
            UserError: no such images, or a single one that cannot be read.
            ValueError: an option out of range, or something that is not an image.
        """
        from hardnet_suite.prediction.run import predict

        return predict(self, images, stream=stream, **options)

    def answers(
        self, pixels: Tensor, placements: Sequence[Placement]
    ) -> list[Boxes] | list[Mask] | list[Guesses]:
        """What the network finds in a batch of prepared images; its mode is left as it is.

        Args:
            pixels: (N, 3, h, w) uint8 RGB on ``device``, made by ``inference.prepare`` and ``preprocess``.
            placements: where each image lies in them.

        Returns:
            One answer per image, by the task.
        """
        network: Any = self.network
        if isinstance(network, Session):
            return network.answers(
                pixels, placements, preprocess=self.preprocess, postprocess=self.postprocess
            )
        inputs = to_input(pixels, self.preprocess)
        if (parameter := next(network.parameters(), None)) is not None:  # a packed network may have none
            inputs = inputs.to(parameter.dtype)
        is_cast = self.bf16 and _own_precision(network) is None
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=is_cast)
        with eval_mode(network), torch.inference_mode(), autocast:
            return answers(network, inputs, placements, arch=network.arch, rule=self.postprocess)

    def __repr__(self) -> str:
        return f"<LoadedModel {self.summary}>"

    @property
    def summary(self) -> str:
        """Model, task, classes, device and weights in one line."""
        listed = ", ".join(self.classes[:_LISTED]) + (", …" if len(self.classes) > _LISTED else "")
        kind = "class" if len(self.classes) == 1 else "classes"
        weights = "" if self.weights is None else f"; weights: {self.weights}"
        precision = ", bfloat16" if self.bf16 else ""
        return (
            f"{self.name}: {self.task} of {len(self.classes)} {kind} ({listed}), "
            f"{self.device}{precision}{weights}"
        )


def load_model(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    bf16: bool = False,
    precision: Precision | None = None,
) -> LoadedModel:
    """Loads a model that is ready to predict.

    Args:
        model: a name of ``list_models()``; a config, PATH.py or the name of one of the suite's; a file of
            weights, whose keys tell the model; a file that ``export`` wrote; or a run's folder (./RUN if RUN
            is one of these names), which stands for its best checkpoint, or its newest where it has no best
            one. Checkpoints of runs, converted and exported files know their classes, palette, input and
            output rule; for other files the published ones hold.
        weights: for a name or a config, a tag of the weights registry or a file, also an exported one; None
            takes the published ones, or for a config those of its ``weights_tag``.
        classes: names of the classes in the order of their labels: for weights that do not know them, or to
            rename them.
        device: "cpu", "cuda", …; None: a GPU where there is one. Exported files compute on the CPU.
        bf16: computes in bfloat16: short for ``precision="bf16"``.
        precision: what it computes in: "float32"; "bf16", where it is safe; or "auto", the faster of both on
            this machine by a few timed passes, see ``LoadedModel.choice``. None: float32; an exported file
            computes in its own precision, and in others if its engine does.

    Raises:
        UserError: no such model, weights, device or precision, weights that are unavailable, classes that
            differ between the config and the weights, or an exported file that is damaged, or lacks its
            engine.
    """
    if isinstance(model, nn.Module | LoadedModel):
        raise UserError(
            f"expected a model's name, a config or a file of weights, got a {type(model).__name__}: "
            "predict(model, images) takes it as it is"
        )
    if not isinstance(model, str | Path):
        raise UserError(
            f"expected a model's name, a config or a file of weights, got a {type(model).__name__}"
        )
    precision = settled_precision(precision, bf16=bf16)
    choice = _choose(str(model))
    if choice.file is not None and weights is not None:
        path = choice.file.path if isinstance(choice.file, WeightsFile) else None
        kind = "a file of weights already" if path is None else f"a run, with the weights {path}"
        raise UserError(f"{model} is {kind}: leave out weights={weights}")
    source = choice.file or _weights_of(choice.name, choice.weights if weights is None else weights)
    if isinstance(source, Path) and is_for_engine(source):
        session, faster = open_in_precision(source, precision)
        return replace(_of_session(session, choice, model, classes, device), choice=faster)
    checkpoint = open_weights(source, choice.name or None).require_whole()
    name = checkpoint.model or choice.name
    _require_a_task(name)
    if checkpoint.input_is_unknown and choice.preprocess is None:
        raise UserError(
            f"{checkpoint.path}: {INPUT_IS_UNKNOWN}, and state it in a config (--model CONFIG --weights "
            "FILE), or as network.usage.preprocess of a network of create_model, which predict takes"
        )
    if remark := "" if choice.name else checkpoint.twins_remark("--model NAME --weights FILE"):
        warnings.warn(f"{checkpoint.path}: {remark}", stacklevel=2)
    network = build_network(
        name, num_classes=checkpoint.num_classes, in_chans=checkpoint.in_chans, arch=checkpoint.arch
    )
    fill(network, checkpoint)
    usage = _usage(choice, checkpoint, str(model))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = _device(device)
    with _explained(device):
        network = network.eval().to(device).to(memory_format=torch.channels_last)
    words = str(checkpoint.path)
    if isinstance(source, WeightsRow):
        words = f"{source.file}, the weights {source.tag!r} of {source.model}"
    words = f"{words}, {choice.which}" if choice.which else words
    loaded = _loaded(network, usage, classes, weights=words)
    return _in_precision(replace(loaded, weights_source=checkpoint.source), precision)


def _of_session(
    session: Session,
    choice: _Choice,
    model: str | Path,
    classes: Sequence[str] | None,
    device: str | torch.device | None,
) -> LoadedModel:
    """An exported file in its engine, with what a config says of the model."""
    name = session.usage.name
    _require_a_task(name)
    if choice.name and choice.name != name:
        raise UserError(f"{session.path}: this is {name}, not {choice.name}")
    if device is not None and _device(device).type != "cpu":
        raise UserError(
            f"cannot compute on the device {device}: {session.path} runs in {session.engine}, on the CPU"
        )
    usage = _usage(choice, session.checkpoint, str(model))
    if usage.postprocess is not None:
        session.remaining_rule(usage.postprocess)  # an error comes before the first image
    loaded = _loaded(session, usage, classes, weights=session.weights)
    return replace(loaded, bf16=session.precision.endswith("bf16"))


def _own_precision(network: nn.Module) -> torch.dtype | None:
    """What a network computes in that was cast or packed; None of others, for which autocast decides."""
    packed = next((module.dtype for module in network.modules() if isinstance(module, PackedConv2d)), None)
    if packed is not None:
        return packed
    dtype = next((parameter.dtype for parameter in network.parameters()), torch.float32)
    return None if dtype == torch.float32 else dtype


def _in_precision(model: LoadedModel, precision: str | None) -> LoadedModel:
    """The model with a precision of ``PRECISIONS``; None: that of the network."""
    own = _own_precision(model.network)
    if own is not None and precision not in (
        None,
        {torch.bfloat16: "bf16", torch.float32: "float32"}.get(own),
    ):
        raise UserError(
            f"this {model.name} was cast to or packed in {str(own).removeprefix('torch.')}: "
            f"precision={precision!r} is for networks that were not"
        )
    if precision != "auto":
        return replace(model, bf16=precision == "bf16" or own == torch.bfloat16)
    network, size = model.network, usual_size(model.preprocess)
    inputs = torch.rand(1, len(model.preprocess.mean), *size, device=model.device)

    @torch.inference_mode()
    def run() -> None:
        network(inputs)

    with eval_mode(network):
        choice = faster_precision(
            in_both_precisions(run, str(model.device)),
            f"a pass of {'×'.join(map(str, inputs.shape))}",
            device=str(model.device),
        )
    return replace(model, bf16=choice.bf16, choice=choice)


def model_of_network(
    network: nn.Module,
    *,
    classes: Sequence[str] | None = None,
    bf16: bool = False,
    precision: Precision | None = None,
) -> LoadedModel:
    """A network of ``create_model``, where it is and as it is.

    Args:
        network: knows its name, records and, with pretrained weights, class names (``network.usage``).
        classes: as for ``load_model``.
        bf16: as for ``load_model``.
        precision: as for ``load_model``.

    Raises:
        UserError: a network that ``create_model`` has not made, or one without a task.
    """
    network = without_wrappers(network, compiled=False)
    usage = getattr(network, "usage", None)
    if not isinstance(usage, Usage):
        raise UserError(
            f"cannot predict with this {type(network).__name__}: expected a whole network of create_model, "
            "which knows its input and output rule"
        )
    _require_a_task(usage.name)
    if is_meta(network):
        raise UserError(f"this {usage.name} is on the meta device: it has no weights")
    precision = settled_precision(precision, bf16=bf16)
    if isinstance(network, Session):
        network.require_precision({"float32": "fp32"}.get(precision or "", precision))
        loaded = _loaded(network, usage, classes, weights=network.weights)
        return replace(loaded, bf16=network.precision.endswith("bf16"))
    if _is_untrained(network):
        warnings.warn(
            f"this {usage.name} has random weights: create_model({usage.name!r}, pretrained=…) loads trained "
            "ones",
            stacklevel=3,
        )
    return _in_precision(_loaded(network, usage, classes), precision)


@contextmanager
def _explained(device: str | torch.device) -> Iterator[None]:
    """Within, a device that is not there is a ``UserError``."""
    try:
        yield
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"cannot compute on the device {device}: {str(error).splitlines()[0]}") from None


def _device(device: str | torch.device) -> torch.device:
    with _explained(device):
        return torch.device(device)


def _is_untrained(network: nn.Module) -> bool:
    """Whether every batch norm has the statistics that it begins with."""
    means = [
        module.running_mean
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    return bool(means) and not any(mean.any() for mean in means)


def unfit_for_prediction(usage: Usage, in_chans: int, num_classes: int | None) -> str:
    """Why ``predict`` cannot use a whole network; "" where it can.

    Args:
        usage: of the network.
        in_chans: its number of input channels.
        num_classes: its number of classes.
    """
    if isinstance(find_arch(usage.name), DescriptorArch):
        return _describes_patches(usage.name)
    channels = len(usage.preprocess.mean)
    if in_chans != channels:
        return (
            f"the network takes {in_chans} channels, but its input rule makes {channels}: "
            "predict is for images in colour; call the network itself"
        )
    if not num_classes or usage.postprocess is None:
        return f"this {usage.name} has num_classes=0: it returns features, not classes"
    if num_classes == 1 and usage.postprocess.task == "classification":
        return ONE_CLASS
    return ""


def _loaded(
    network: Any, usage: Usage, classes: Sequence[str] | None, weights: str | None = None
) -> LoadedModel:
    in_chans = network.in_chans if isinstance(network, Session) else network.trunk.in_chans
    count, postprocess = network.num_classes, usage.postprocess
    reason = unfit_for_prediction(usage, in_chans, count)
    if reason or postprocess is None:
        raise UserError(f"{weights}: {reason}" if weights else reason)
    names = given_or_known(classes, usage.classes, "classes")
    if names is None:
        usual = {
            "classification": tuple(imagenet_classes()),
            "detection": COCO_CLASSES,
            "segmentation": LABEL_SETS["cityscapes"].classes,
        }[postprocess.task]
        names = usual if len(usual) == count else tuple(f"class {index}" for index in range(count))
    if len(names) != count:
        raise UserError(f"{len(names)} class names are given, but the weights have {count} classes")
    return LoadedModel(
        name=usage.name,
        network=network,
        preprocess=usage.preprocess,
        postprocess=postprocess,
        classes=readable(names),
        palette=usage.palette or _palette(postprocess.task, names),
        device=next((parameter.device for parameter in network.parameters()), torch.device("cpu")),
        weights=weights,
    )


def _palette(task: str, classes: tuple[str, ...]) -> Palette:
    for labels in LABEL_SETS.values():
        if task == "segmentation" and labels.classes == classes:
            return labels.palette
    return tuple(class_color(index) for index in range(len(classes)))


@dataclass(frozen=True)
class _Choice:
    """What a user's word for a model stands for.

    A ``file`` of weights (``which`` of a run's, in words), or the ``name`` of a model with what a config says
    of it: its ``weights`` (a tag or a file), its records, its ``classes`` and ``palette``, and every number
    of classes in it.
    """

    name: str = ""
    file: Path | WeightsFile | None = None
    which: str = ""
    weights: str | None = None
    preprocess: Preprocess | None = None
    postprocess: Postprocess | None = None
    classes: tuple[str, ...] | None = None
    palette: Palette | None = None
    counts: tuple[int, ...] = ()


def _usage(choice: _Choice, checkpoint: Checkpoint, model: str) -> Usage:
    """What the config says, then the weights, then the published usage."""
    wrong = [count for count in choice.counts if count != checkpoint.num_classes]
    if wrong:
        raise UserError(
            f"{checkpoint.path} has {checkpoint.num_classes} classes, but {model} has num_classes={wrong[0]}"
        )
    if choice.classes is not None and checkpoint.classes is not None:
        require_same_classes(
            choice.classes,
            checkpoint.classes,
            where=model,
            expected_where=str(checkpoint.path),
            cure="list the classes of the config's test data in the order of the weights",
        )
    different = checkpoint.rule_differences(choice.preprocess, choice.postprocess)
    if different:
        warnings.warn(different, stacklevel=4)
    usage = replace(checkpoint, preprocess=choice.preprocess or checkpoint.preprocess).usage
    return Usage(
        name=usage.name,
        preprocess=usage.preprocess,
        postprocess=choice.postprocess or usage.postprocess,
        classes=choice.classes or usage.classes,
        palette=choice.palette or usage.palette,
    )


def _choose(model: str) -> _Choice:
    path = os.path.expanduser(model)
    if (run := find_run(path, [*list_models(), *own_configs()])) is not None:
        file, which = run_checkpoint(run)
        return _Choice(file=file, which=which)
    if name := known_name(model, list_models()):
        return _Choice(name=name)
    named = os.sep not in path and known_name(path, own_configs()) is not None  # a name comes before a folder
    if not named and Path(path).is_dir():
        file, which = run_checkpoint(path)
        return _Choice(file=file, which=which)
    if path.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)):
        raise UserError(f"{path} is an image or video, expected a model first: predict(model, images)")
    if Path(path).is_file() and not path.endswith(".py"):
        return _Choice(file=Path(path))
    return _of_config(path)


def _weights_of(name: str, weights: str | Path | None) -> WeightsRow | Path:
    """What ``open_weights`` opens for a model: a row of the registry, or a path."""
    _require_a_task(name)
    tags = sorted(row.tag for row in ROWS if row.model == name)
    if weights is None and "published" not in tags:
        if not tags:
            raise UserError(f"there are no weights of {name}: give a file as its weights")
        raise UserError(
            f"{name} has no published weights; available: {', '.join(tags)}; or give a file as its weights"
        )
    if weights is None:
        return find(name, "published")
    if weights == "":
        raise UserError("the weights are '': expected a tag or a file")
    return chosen_row(name, weights) or expanded(weights)


class NoTaskError(UserError):
    """A patch descriptor where a model is expected that answers for images."""


def _require_a_task(name: str) -> None:
    if isinstance(find_arch(name), DescriptorArch):
        raise NoTaskError(_describes_patches(name))


def _describes_patches(name: str) -> str:
    return f"{name} describes patches and predicts nothing: call create_model({name!r})(patches)"


def _of_config(path: str) -> _Choice:
    if path.endswith((*WEIGHTS_SUFFIXES, *ENGINE_SUFFIXES)):
        raise UserError(f"{path}: no such file")
    from hardnet_suite.openmm.data.parts import class_counts
    from hardnet_suite.openmm.models.config import is_others
    from hardnet_suite.openmm.run import configs, records

    if not path.endswith(".py") and known_name(path, own_configs()) is None:
        raise unknown_model(path, list_models())
    cfg = configs.load_config(path)
    if is_others(cfg):
        raise UserError(
            f"{path} is the config of a {cfg.model.get('type')}, a model of another program: predict, "
            f"export, benchmark and serve are for the suite's own; score and draw it with {OTHERS_MODEL}"
        )
    if not records.is_suites(cfg):
        raise UserError(
            f"{path} has arch={cfg.get('arch')!r}, expected one of the suite's: {', '.join(list_models())}"
        )
    return _Choice(
        name=cfg.arch,
        weights=cfg.get("weights_tag"),
        preprocess=records.preprocess_of(cfg),
        postprocess=records.postprocess_of(cfg),
        classes=configs.class_names(cfg),
        palette=configs.class_palette(cfg),
        counts=tuple(class_counts(cfg)),
    )
