"""Images per second of training steps, and of the data loaders apart."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

import hardnet_suite.openmm  # noqa: F401  (registers the suite's parts)
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.tables import class_table
from hardnet_suite.networks import ARCHS, DescriptorArch
from hardnet_suite.openmm.compat import repair_ssd_heads
from hardnet_suite.openmm.data.parts import kind_of
from hardnet_suite.openmm.run.amp import wrapper_in_precision
from hardnet_suite.openmm.run.compilation import compile_networks, require_compiler
from hardnet_suite.openmm.run.configs import drop_pretrained, load_config, set_data_root
from hardnet_suite.openmm.run.runner import SuiteRunner
from hardnet_suite.quiet import without_log
from hardnet_suite.timing import interleaved, median_ratio, percentile, synchronizer

PRECISIONS = ("fp32", "bf16")
ENGINES = ("eager", "compile")
PEERS = {"ssd512_vgg16": "mmdet::ssd/ssd512_coco.py"}  # names for configs of OpenMMLab's
_SIDE = 512  # of the input, where a config does not tell
_BOXES = 8  # per drawn image
_LOADER_WARMUP = 2  # batches


@dataclass(frozen=True)
class TrainingSetting:
    """How a config is trained.

    Attributes:
        config: its name.
        engine: of ``ENGINES``.
        precision: of ``PRECISIONS``.
        channels_last: memory layout of weights.
        batch: images per step.
        height: of the input.
        width: of the input.
    """

    config: str
    engine: str
    precision: str
    channels_last: bool
    batch: int
    height: int
    width: int

    @property
    def label(self) -> str:
        """In words: "ssd512_hardnet68 eager bf16 nhwc"."""
        return f"{self.config} {self.engine} {self.precision}{' nhwc' if self.channels_last else ''}"


@dataclass(frozen=True)
class StepTiming:
    """What was measured of a training.

    Attributes:
        setting: how.
        seconds: of each timed step: forward pass, loss, backward pass and optimizer.
        parameters: number of parameters.
        loader_images_per_second: of the config's data loader alone; None without data.
    """

    setting: TrainingSetting
    seconds: tuple[float, ...]
    parameters: int
    loader_images_per_second: float | None = None

    @property
    def median(self) -> float:
        """Median seconds per step."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """Seconds that 95 % of the steps do not exceed."""
        return percentile(self.seconds, 0.95)

    @property
    def images_per_second(self) -> float:
        """Of steps, at the median."""
        return self.setting.batch / self.median

    def ratio_to(self, other: StepTiming) -> float:
        """Median over the rounds of the time per image by that of another: below 1 is faster."""
        per_image = median_ratio(self.seconds, other.seconds)
        return per_image * other.setting.batch / self.setting.batch

    def to_dict(self) -> dict[str, Any]:
        """Everything as values of JSON; times in milliseconds."""
        return {
            **asdict(self.setting),
            "parameters": self.parameters,
            "loader_images_per_second": self.loader_images_per_second,
            "images_per_second": self.images_per_second,
            "median_ms": 1e3 * self.median,
            "p95_ms": 1e3 * self.p95,
            "ms": [round(1e3 * each, 4) for each in self.seconds],
        }


def find_training_config(name: str) -> Config:
    """The config of a name: of the suite's, a path, "mmdet::ssd/ssd512_coco.py", or one of ``PEERS``.

    Raises:
        UserError: There is none.
    """
    target = PEERS.get(name, name)
    package, _, inner = target.partition("::")
    if not inner:
        return load_config(target)
    spec = find_spec(package) if package in ("mmdet", "mmseg") else None
    path = None if spec is None else Path(spec.origin).parent / ".mim" / "configs" / inner
    if path is None or not path.is_file():
        raise UserError(f"no config {target}: give a path, a name of the suite's, or one as mmdet::ssd/…")
    return load_config(path)


def time_training(
    configs: Sequence[str],
    *,
    engines: Sequence[str] = ("eager",),
    precisions: Sequence[str] = ("fp32",),
    channels_last: Sequence[bool] = (True,),
    batch: int | None = None,
    size: tuple[int, int] | None = None,
    data_root: str | None = None,
    rounds: int = 5,
    passes: int = 1,
    warmup: int = 2,
    loader_batches: int = 20,
    say: Callable[[str], object] | None = None,
) -> list[StepTiming]:
    """Times training steps of configs side by side, and then each data loader alone.

    Every step takes the same drawn batch, which is in memory already: random pixels, boxes and labels. All
    trainings take turns, round after round. Weights are random; nothing is downloaded or written.

    Args:
        configs: As ``find_training_config`` takes them.
        engines: "eager", "compile" (the networks by ``torch.compile``).
        precisions: "fp32", "bf16" (autocast, as ``train --bf16``).
        channels_last: Memory layouts of the weights; ``train`` uses channels last.
        batch: Images per step; None: each config's own.
        size: (height, width) of the input; None: each config's own. A patch descriptor has no other.
        data_root: Folder of the data, to time the data loaders; None: they are not timed.
        rounds: Turns of each.
        passes: Steps per turn.
        warmup: Steps before, which are not timed.
        loader_batches: Most batches of a loader that are timed, after two that are not.
        say: Called with a line per step of the work.

    Raises:
        UserError: An unknown config, engine or precision, a count out of range, a model that is not trained
            on boxes, label images, classes or pairs of patches, or has teachers, another size for a patch
            descriptor, an optimizer wrapper whose precision cannot be chosen, or data that cannot be read.
    """
    for what, values, known in (("engine", engines, ENGINES), ("precision", precisions, PRECISIONS)):
        for value in values:
            if value not in known:
                raise UserError(f"unknown {what} {value!r} of a training; known: {', '.join(known)}")
    counts = [("batch", 1 if batch is None else batch, 1), ("rounds", rounds, 1), ("passes", passes, 1)]
    counts += [("warmup", warmup, 0), ("loader_batches", loader_batches, 1)]
    counts += [(what, side, 1) for what, side in zip(("height", "width"), size or (), strict=False)]
    for what, value, least in counts:
        if value < least:
            raise UserError(f"{what} {value}: expected an integer of at least {least}")
    if "compile" in engines:
        require_compiler({})
    read = {name: find_training_config(name) for name in dict.fromkeys(configs)}
    for name, cfg in read.items():
        hooks = [*(cfg.get("custom_hooks") or ()), *(cfg.get("default_hooks") or {}).values()]
        if any(isinstance(hook, Mapping) and kind_of(hook) == "DistillationHook" for hook in hooks):
            raise UserError(f"{name} trains with a DistillationHook, whose teachers are not timed: remove it")
        patch = _patch_side(cfg)
        if patch is not None and size not in (None, (patch, patch)):
            raise UserError(f"{name} computes patches of {patch}×{patch} pixels: leave out the size")
    if data_root is not None:
        for cfg in read.values():
            set_data_root(cfg, data_root)
    loaders = {
        name: _loader_speed(cfg, batch, loader_batches, say) if data_root is not None else None
        for name, cfg in read.items()
    }
    device = get_device()
    steps: dict[TrainingSetting, Callable[[], object]] = {}
    parameters: dict[TrainingSetting, int] = {}
    combinations = itertools.product(read.items(), engines, precisions, channels_last)
    for (name, cfg), engine, precision, last in combinations:
        height, width = _input_size(cfg) if size is None else size
        images = batch or cfg.train_dataloader.get("batch_size", 1)
        setting = TrainingSetting(name, engine, precision, last, images, height, width)
        if say is not None:
            say(f"{setting.label}: {images} × {height}×{width}")
        steps[setting], parameters[setting] = _step(cfg, setting, device)
    seconds = interleaved(
        {str(number): step for number, step in enumerate(steps.values())},
        rounds=rounds,
        passes=passes,
        warmup=warmup,
        synchronize=synchronizer(device),
    )
    return [
        StepTiming(setting, tuple(each), parameters[setting], loaders[setting.config])
        for setting, each in zip(steps, seconds.values(), strict=True)
    ]


def training_table(timings: Sequence[StepTiming]) -> str:
    """One line per training; ``ratio`` is its time per image by that of the first line."""
    none = float("nan")
    loaders = [none if (rate := each.loader_images_per_second) is None else rate for each in timings]
    columns: dict[str, list[float | int]] = {
        "images/s": [each.images_per_second for each in timings],
        "ms": [1e3 * each.median for each in timings],
        "p95": [1e3 * each.p95 for each in timings],
        "batch": [each.setting.batch for each in timings],
        "height": [each.setting.height for each in timings],
        "width": [each.setting.width for each in timings],
        "ratio": [each.ratio_to(timings[0]) for each in timings],
        "loader images/s": loaders,
        "loader/step": [rate / each.images_per_second for rate, each in zip(loaders, timings, strict=True)],
        "M params": [each.parameters / 1e6 for each in timings],
    }
    names = [each.setting.label for each in timings]
    return class_table(names, columns, digits=2, heading="training step", longest=None)


def _step(cfg: Config, setting: TrainingSetting, device: str) -> tuple[Callable[[], object], int]:
    """One training step on a drawn batch, and the number of parameters."""
    cfg = deepcopy(cfg)
    drop_pretrained(cfg)
    scope = cfg.get("default_scope") or "mmengine"
    with DefaultScope.overwrite_default_scope(scope), without_log():
        model = MODELS.build(cfg.model)
        model.init_weights()
    model = model.to(device).train()
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)
    repair_ssd_heads(model)
    data = _drawn_batch(model, setting)
    wrapper = wrapper_in_precision(cfg.optim_wrapper, bf16=setting.precision == "bf16")
    optimizer = build_optim_wrapper(model, wrapper)
    if setting.engine == "compile":
        compile_networks(model, {})

    def step() -> None:
        with DefaultScope.overwrite_default_scope(scope):
            model.train_step(deepcopy(data), optimizer)

    return step, sum(parameter.numel() for parameter in model.parameters())


def _drawn_batch(model: nn.Module, setting: TrainingSetting) -> dict[str, Any]:
    """Random pixels with the labels that a model of this kind is trained on."""
    generator = torch.Generator().manual_seed(0)
    count, height, width = setting.batch, setting.height, setting.width
    pixels = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    if type(model).__name__ == "PatchDescriptorModel":
        side = model.network.patch
        return {"inputs": torch.rand(count, 2, side, side, generator=generator)}
    if type(model).__name__ == "ImageClassifier":
        labels = torch.randint(0, model.network.num_classes, (count,), generator=generator)
        return {"inputs": pixels, "labels": labels, "names": [str(number) for number in range(count)]}
    if hasattr(model, "bbox_head"):
        classes = model.bbox_head.num_classes
        samples = [_boxes(height, width, classes, generator) for _ in range(count)]
    elif hasattr(model, "decode_head"):
        samples = [_labels(height, width, model.decode_head.num_classes, generator) for _ in range(count)]
    else:
        raise UserError(
            f"cannot draw a batch for {setting.config}: expected a one-stage detector, a segmentor, a "
            f"classifier or a patch descriptor, got a {type(model).__name__}"
        )
    return {"inputs": list(pixels), "data_samples": samples}


def _boxes(height: int, width: int, classes: int, generator: torch.Generator) -> DetDataSample:
    corner, extent = torch.rand(2, _BOXES, 2, generator=generator)
    scale = torch.tensor([width, height])
    first = corner * 0.7 * scale
    boxes = torch.cat([first, first + (0.05 + 0.25 * extent) * scale], dim=1)
    sample = DetDataSample(metainfo=_meta(height, width))
    labels = torch.randint(0, classes, (_BOXES,), generator=generator)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
    sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0])
    return sample


def _labels(height: int, width: int, classes: int, generator: torch.Generator) -> Any:
    from mmseg.structures import SegDataSample

    labels = torch.randint(0, max(classes, 2), (1, height // 8 + 1, width // 8 + 1), generator=generator)
    enlarged = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width].contiguous()
    return SegDataSample(metainfo=_meta(height, width), gt_sem_seg=PixelData(data=enlarged))


def _meta(height: int, width: int) -> dict[str, Any]:
    shape = (height, width)
    return {
        **dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), shape),
        "scale_factor": (1.0, 1.0),
        "img_id": 0,
        "img_path": "drawn",
    }


def _input_size(cfg: Config) -> tuple[int, int]:
    """(height, width) of a patch, or of the training pipeline's last step that crops or resizes to a size."""
    patch = _patch_side(cfg)
    if patch is not None:
        return patch, patch
    for step in reversed(_pipeline(cfg.train_dataloader.get("dataset", {}))):
        for key, is_width_first in (("crop_size", False), ("size", False), ("scale", True)):
            value = step.get(key)
            sides = (value, value) if isinstance(value, int) else value
            if _are_sides(sides):
                return tuple(reversed(sides)) if is_width_first else tuple(sides)
    return _SIDE, _SIDE


def _patch_side(cfg: Config) -> int | None:
    """The side of the patches that a patch descriptor computes; None for other models."""
    arch = ARCHS.get(str((cfg.get("model") or {}).get("arch")))
    return arch.patch if isinstance(arch, DescriptorArch) else None


def _are_sides(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(type(each) is int and each >= 8 for each in value)
    )


def _pipeline(dataset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of a data set, after those of the first one that it wraps."""
    inner = dataset.get("dataset") or next(iter(dataset.get("datasets") or ()), None)
    steps = _pipeline(inner) if isinstance(inner, Mapping) else []
    return [*steps, *(step for step in dataset.get("pipeline") or [] if isinstance(step, Mapping))]


def _loader_speed(cfg: Config, batch: int | None, batches: int, say: Callable[[str], object] | None) -> float:
    """Images per second of a config's training data loader, with nothing else at work."""
    loader = deepcopy(cfg.train_dataloader)
    if batch is not None:
        loader["batch_size"] = batch
    if say is not None:
        say(f"{Path(cfg.filename).stem}: data loader, {counted(loader.get('num_workers', 0), 'worker')}")
    images, began = 0, time.perf_counter()
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope") or "mmengine"), without_log():
        built = SuiteRunner.build_dataloader(loader, seed=0)
        for number, content in enumerate(itertools.islice(_endless(built), _LOADER_WARMUP + batches)):
            images += _count(content)
            if number == _LOADER_WARMUP - 1:
                images, began = 0, time.perf_counter()
    seconds = time.perf_counter() - began
    with suppress(AttributeError):
        built._iterator._shutdown_workers()
    return images / seconds


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        is_empty = True
        for content in loader:
            is_empty = False
            yield content
        if is_empty:
            raise UserError("the training data loader gives no batch: lower the batch, or add images")


def _count(content: Mapping[str, Any]) -> int:
    inputs = content["inputs"]
    return inputs.shape[0] if isinstance(inputs, Tensor) else len(inputs)
