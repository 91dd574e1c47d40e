"""Latency, throughput, memory and counts of models, measured side by side."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardnet_suite.data.report import counted
from hardnet_suite.deploy.exporting import height_width
from hardnet_suite.deploy.memory import peak_memory
from hardnet_suite.deploy.peers import PEERS, PublishedFigure, own_size, published
from hardnet_suite.deploy.runners import (
    PRECISIONS,
    PYTORCH,
    EngineForm,
    Setting,
    device_name,
    find_engine,
    integer_engines,
    is_integer,
    make_pass,
    prepare,
    require_integers,
)
from hardnet_suite.deploy.session import Session
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name
from hardnet_suite.networks import (
    CenterNetArch,
    DescriptorArch,
    SSDArch,
    Usage,
    build_network,
    convolutional_io,
    count_parameters,
    list_models,
    multiply_adds,
)
from hardnet_suite.threads import MOST_THREADS
from hardnet_suite.timing import interleaved, median_ratio, percentile, synchronizer
from hardnet_suite.weights import WeightsSource

MARK = "hardnet-suite benchmark"  # of the JSON files
SCHEMA = 1
_SIDE = 512  # of the batch whose statistics a detector of random weights has
_LEAST_SIDE = 32
_MOST_PIXELS, _MOST_BATCH, _MOST_ROUNDS = 1 << 26, 1 << 14, 1_000_000
_VERSIONS = (
    "torch",
    "torchvision",
    "timm",
    "kornia",
    "onnxruntime",
    "openvino",
    "nncf",
    "ai-edge-litert",
    "ncnn",
)


@dataclass(frozen=True)
class Protocol:
    """A way of measuring that others have published.

    Attributes:
        size: (height, width) of the random input.
        passes: forward passes of each model.
        source: who measured so, on what.
    """

    size: tuple[int, int]
    passes: int
    source: str


_AUTHORS = "https://github.com/PingoLH/Pytorch-HarDNet"
PROTOCOLS = {
    "paper-1024": Protocol((1024, 1024), 300, f"{_AUTHORS}: GTX 1080 Ti, PyTorch 1.1"),
    "nano-320": Protocol((320, 320), 500, f"{_AUTHORS}: Jetson Nano, TensorRT"),
}


@dataclass(frozen=True)
class Timing:
    """What was measured of a model in one setting.

    Attributes:
        model: its name; with a file of weights, that too.
        setting: engine, precision, memory layout, device and threads.
        height: of the input.
        width: of the input.
        batch: images per forward pass.
        seconds: of each timed pass. Passes of the same index, of timings of one run, are of one round.
        parameters: number of parameters.
        macs: multiply-adds per pass, of the whole batch.
        cio: elements that convolutions read and write per pass, of the whole batch.
        peak_memory: bytes, see ``memory.peak_memory``; None where it was not measured.
        input_seconds: from an image file to the network's input on the device, per image: not part of a
            pass. None for networks without an input rule.
        weights: the file of its weights; None for a name, whose weights are random, and for a network that
            was given as such.
    """

    model: str
    setting: Setting
    height: int
    width: int
    batch: int
    seconds: tuple[float, ...]
    parameters: int
    macs: int
    cio: int
    peak_memory: int | None = None
    input_seconds: float | None = None
    weights: WeightsSource | None = None

    @property
    def median(self) -> float:
        """Median seconds per pass."""
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        """Least seconds of a pass."""
        return min(self.seconds)

    @property
    def p95(self) -> float:
        """Seconds that 95 % of the passes do not exceed."""
        return percentile(self.seconds, 0.95)

    @property
    def throughput(self) -> float:
        """Images per second, at the median."""
        return self.batch / self.median

    @property
    def bytes_moved(self) -> int:
        """Bytes of a pass if each convolution reads its input and weights, and writes its output, once.

        Layers that stay in float32 are counted in the precision of the setting, too.
        """
        return (self.cio + self.parameters) * PRECISIONS[self.setting.precision].itemsize

    def ratio_to(self, other: Timing) -> float:
        """Median over the rounds of the time by that of another timing of the same run: below 1 is faster."""
        return median_ratio(self.seconds, other.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Everything as values of JSON; times in milliseconds."""
        values = asdict(self)
        setting = values.pop("setting")
        return {
            "model": values.pop("model"),
            "weights": None if self.weights is None else self.weights.to_dict(),
            **setting,
            **{key: values[key] for key in ("height", "width", "batch", "parameters", "macs", "cio")},
            "peak_memory": self.peak_memory,
            "input_ms": None if self.input_seconds is None else 1e3 * self.input_seconds,
            "median_ms": 1e3 * self.median,
            "min_ms": 1e3 * self.minimum,
            "p95_ms": 1e3 * self.p95,
            "images_per_second": self.throughput,
            "ms": [round(1e3 * each, 4) for each in self.seconds],
        }


@dataclass(frozen=True)
class Failure:
    """A setting in which a model could not be measured.

    Attributes:
        model: its name.
        setting: engine, precision, …
        height: of the input.
        width: of the input.
        batch: images per forward pass.
        reason: in one line.
    """

    model: str
    setting: Setting
    height: int
    width: int
    batch: int
    reason: str


@dataclass
class Comparison:
    """Timings of one call of ``compare``, in the order in which they were asked for.

    Attributes:
        timings: What was measured.
        failures: What could not be.
        machine: Where, and with which versions.
    """

    timings: list[Timing] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def groups(self) -> Iterator[tuple[tuple[int, int, int], list[Timing]]]:
        """((height, width, batch), the timings that were interleaved) in order."""
        keys = dict.fromkeys((each.height, each.width, each.batch) for each in self.timings)
        for key in keys:
            yield key, [each for each in self.timings if (each.height, each.width, each.batch) == key]

    def to_json(self, **more: Any) -> str:
        """A JSON text of one object; ``more`` are further entries."""
        failures = [asdict(each) for each in self.failures]
        failures = [{**each.pop("setting"), **each} for each in failures]
        content = {
            MARK: SCHEMA,
            "machine": self.machine,
            **more,
            "timings": [each.to_dict() for each in self.timings],
            "failures": failures,
        }
        return json.dumps(content, indent=1) + "\n"


def benchmark(
    model: str | nn.Module,
    *,
    engine: str = "eager",
    precision: str = "fp32",
    channels_last: bool = False,
    size: int | tuple[int, int] | None = None,
    batch: int = 1,
    **options: Any,
) -> Timing:
    """Times one model in one setting; ``deploy.benchmark.compare`` is for several of either.

    Args:
        model: A name of ``list_models()``, a peer such as "resnet50", a network, or a model of
            ``load_model``.
        engine: One of ``compare``'s ``engines``.
        precision: One of its ``precisions``.
        channels_last: Whether the memory layout is NHWC, in an engine of PyTorch.
        size: Side or (height, width) of the input; None: the usual one of the model.
        batch: Images per pass.
        options: ``device``, ``threads``, ``rounds``, ``passes``, ``warmup``, ``memory`` and ``say``, as of
            ``compare``.

    Raises:
        UserError: As ``compare``, the engine cannot run the model, or several values of an option.
    """
    for name in ("engines", "precisions", "sizes", "batches"):
        if name in options:
            raise UserError(f"benchmark times one setting, got {name}={options[name]!r}: use compare instead")
    kinds: dict[str, tuple[Any, type]] = {
        "engine": (engine, str),
        "precision": (precision, str),
        "channels_last": (channels_last, bool),
    }
    for name, (value, kind) in kinds.items():
        if not isinstance(value, kind):
            raise UserError(f"{name}={value!r}: expected one {kind.__name__}; compare takes several")
    comparison = compare(
        [model],
        engines=[engine],
        precisions=[precision],
        channels_last=[channels_last],
        sizes=None if size is None else [size],
        batches=[batch],
        **options,
    )
    if comparison.failures:
        failure = comparison.failures[0]
        raise UserError(f"{failure.model} does not run in {failure.setting.engine}: {failure.reason}")
    return comparison.timings[0]


def compare(
    models: Iterable[str | nn.Module],
    *,
    engines: Sequence[str] = ("eager",),
    precisions: Sequence[str] = ("fp32",),
    channels_last: Sequence[bool] = (False,),
    sizes: Sequence[int | tuple[int, int]] | None = None,
    batches: Sequence[int] = (1,),
    device: str | torch.device | None = None,
    threads: int | None = None,
    rounds: int = 10,
    passes: int = 3,
    warmup: int = 3,
    memory: bool = True,
    say: Callable[[str], object] | None = None,
) -> Comparison:
    """Times models side by side, in every combination of engine, precision and layout.

    For each input size and batch, all models and settings take turns, round after round in one process, so
    that other load on the machine meets all alike. A pass takes an input that is on the device already and
    ends when the device has finished; reading and preparing images is measured apart. Networks that are made
    by name have random weights, and batch-norm statistics of a random batch, so that no activation vanishes.

    Args:
        models: Names of ``list_models()`` or of peers such as "resnet50", networks in any precision, or
            models of ``load_model``.
        engines: Of ``runners.engine_names()``: "eager", "fused", "compile", "onnxruntime", …
        precisions: "fp32", "bf16", "fp16"; "int8" in the engines "onnxruntime" and "openvino", calibrated on
            the random input that is timed. That serves the speed alone: how accurate a network is in int8,
            ``export`` and ``test`` say. "int8+bf16", in "openvino", computes what stays in float in bfloat16.
        channels_last: Memory layouts; the engines of PyTorch run in each, others once.
        sizes: Side or (height, width) of the input. None: the usual one of each model; peers get those of the
            suite's models of their task.
        batches: Images per pass.
        device: "cpu", "cuda" or "cuda:N"; None: a GPU where there is one.
        threads: Of the CPU; None: as many as PyTorch uses.
        rounds: Turns of each, at least 1.
        passes: Timed passes per turn, at least 1.
        warmup: Passes before the first round, which are not timed.
        memory: Whether to measure the peak memory, each in a process of its own.
        say: Called with a line per step.

    Raises:
        UserError: An unknown model, engine or precision, int8 in none of the engines, a missing package, a
            size that a network cannot take, a count out of range, or one value in place of a sequence.
    """
    _require_sequences(
        models=models,
        engines=engines,
        precisions=precisions,
        channels_last=channels_last,
        sizes=sizes,
        batches=batches,
    )
    device = _settled_device(device)
    _require_counts(rounds=rounds, passes=passes, batches=batches, threads=threads, warmup=warmup)
    _require_precisions(precisions)
    settings = list(_settings(engines, precisions, channels_last, device, threads))
    subjects = _subjects(models)
    groups = _groups(subjects, sizes, batches)
    comparison = Comparison(machine=machine(device, threads))
    with _process(threads):
        for (height, width, batch), members in groups.items():
            for member in members:
                member.require_size(batch, height, width)
            if say is not None:
                say(
                    f"{height}×{width}, batch {batch}: {counted(len(members), 'model')} × "
                    f"{counted(len(settings), 'setting')}"
                )
            _measure_group(
                comparison,
                [(member, setting) for member in members for setting in settings],
                (height, width, batch),
                counts={"rounds": rounds, "passes": passes, "warmup": warmup},
                memory=memory,
                say=say,
            )
    return comparison


@dataclass
class Subject:
    """A model to time: a network that is built when it is first asked for."""

    name: str
    build: Callable[[], nn.Module]
    usual_size: tuple[int, int]
    in_chans: int
    task: str | None = None
    usage: Usage | None = None
    least_size: tuple[int, int] = (1, 1)
    divisor: int = 1
    fixed_size: tuple[int, int] | None = None
    is_peer: bool = False
    weights: WeightsSource | None = None
    _network: nn.Module | None = None

    @property
    def network(self) -> nn.Module:
        if self._network is None:
            self._network = self.build()
        return self._network

    def require_size(self, batch: int, height: int, width: int) -> None:
        """UserError unless the network takes such an input; nothing is computed."""
        at = f"{self.name} at {height}×{width}"
        if self.fixed_size is not None and (height, width) != self.fixed_size:
            raise UserError(f"{at}: it takes {self.fixed_size[0]}×{self.fixed_size[1]} pixels alone")
        if height < self.least_size[0] or width < self.least_size[1]:
            raise UserError(f"{at}: it takes {self.least_size[0]}×{self.least_size[1]} pixels or more")
        if height % self.divisor or width % self.divisor:
            raise UserError(f"{at}: both sides must be multiples of {self.divisor}")
        try:
            self.counts(batch, height, width)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{at}: {_first_line(error)}") from None

    def input(self, batch: int, height: int, width: int) -> Tensor:
        """Random numbers in [0, 1), the same in every call."""
        return _random_input((batch, self.in_chans, height, width))

    def counts(self, batch: int, height: int, width: int) -> dict[str, int]:
        """Parameters, multiply-adds and CIO of a pass."""
        shape = (batch, self.in_chans, height, width)
        return {
            "parameters": count_parameters(self.network),
            "macs": multiply_adds(self.network, shape),
            "cio": convolutional_io(self.network, shape),
        }


def reason_for_no_chart(
    models: Iterable[str | nn.Module],
    *,
    sizes: Sequence[int | tuple[int, int]] | None = None,
    precisions: Sequence[str] = ("fp32",),
) -> str:
    """Why no pass that ``compare`` would time has a place in a chart of published accuracy; "": one has.

    Args:
        models: as of ``compare``, as are ``sizes`` and ``precisions``.
    """
    _require_precisions(precisions)
    cases = [
        (subject.name, figure_of(subject.name, subject.weights), (height, width), precision)
        for (height, width, _), members in _groups(_subjects(models), sizes, [1]).items()
        for subject in members
        for precision in precisions
    ]
    return "" if any(has_place(*case[1:]) for case in cases) else without_place(cases)


def figure_of(model: str, weights: WeightsSource | None) -> PublishedFigure | None:
    """The published accuracy of a model by its name; of a file, which is that of the registry's row it is."""
    if weights is None:
        return published(model)
    return None if weights.row is None else published(weights.row)


def has_place(figure: PublishedFigure | None, size: tuple[int, int], precision: str) -> bool:
    """Whether a pass on inputs of that (height, width) has the published accuracy."""
    return figure is not None and figure.size == size and not is_integer(precision)


def without_place(cases: Iterable[tuple[str, PublishedFigure | None, tuple[int, int], str]]) -> str:
    """Which of (model, figure, size, precision) have no published accuracy, and why; "" for none."""
    models: dict[str, dict[str, None]] = {}
    for model, figure, size, precision in cases:
        if has_place(figure, size, precision):
            continue
        if figure is None:
            reason = "no accuracy is published of {}"
        elif figure.size != size:
            at, not_at = ("×".join(map(str, each)) for each in (figure.size, size))
            reason = f"the accuracy of {{}} is published at {at}, not at {not_at}"
        else:
            reason = "the accuracy of {} is published in float, not in int8"
        models.setdefault(reason, {})[model] = None
    return "; ".join(reason.format(", ".join(names)) for reason, names in models.items())


def _subjects(models: Iterable[str | nn.Module]) -> list[Subject]:
    """The models to time, each with a name of its own."""
    subjects = [_subject(model) for model in models]
    if not subjects:
        raise UserError("no model to time")
    _name_files(subjects)
    _number_equal_names(subjects)
    return subjects


def _name_files(subjects: Sequence[Subject]) -> None:
    """Names of models say their files: hardnet68 (best.pth); with as many folders as tell these apart."""
    paths = {id(each): Path(os.path.abspath(each.weights.path)).parts for each in subjects if each.weights}
    count = 1
    while len({parts[-count:] for parts in paths.values()}) < len({*paths.values()}):
        count += 1
    for subject in subjects:
        if parts := paths.get(id(subject)):
            subject.name = f"{subject.name} ({'/'.join(parts[-count:])})"


def _number_equal_names(subjects: Sequence[Subject]) -> None:
    """Tells models of one name apart: hardnet68, hardnet68 (2)."""
    seen: Counter[str] = Counter()
    for subject in subjects:
        name = subject.name
        seen[name] += 1
        if seen[name] > 1:
            subject.name = f"{name} ({seen[name]})"


def _subject(model: str | nn.Module | Any) -> Subject:
    if isinstance(model, str):
        name = known_name(model, list_models())
        return _own(name, None) if name else _peer(model)
    network = getattr(model, "network", model) if not isinstance(model, nn.Module) else model
    if isinstance(network, Session):
        raise UserError(
            f"{network.path} is an exported file: give its model, {network.usage.name} or the file of its "
            f"weights, with the engine {network.engine} and the precision {network.precision}"
        )
    if not isinstance(network, nn.Module):
        raise UserError(f"expected a model's name or a network, got a {type(model).__name__}")
    usage = getattr(network, "usage", None)
    if isinstance(usage, Usage):
        subject = _own(usage.name, network)
        subject.weights = getattr(model, "weights_source", None)
        return subject
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    return Subject(type(network).__name__, lambda: network, (224, 224), channels)


def _own(name: str, network: nn.Module | None) -> Subject:
    """One of the suite's networks: the given one, or with random weights."""
    with torch.device("meta"):
        shell = build_network(name) if network is None else network
    arch, usage = shell.arch, shell.usage
    rule = usage.preprocess
    is_descriptor = isinstance(arch, DescriptorArch)
    channels = shell.in_chans if is_descriptor else shell.trunk.in_chans
    subject = Subject(
        name,
        lambda: network,
        own_size(arch, rule),
        channels,
        task="descriptor" if is_descriptor else usage.postprocess.task,
        usage=usage,
        least_size=tuple(max(least, _LEAST_SIDE) for least in rule.input_size),
        divisor=32 if isinstance(arch, CenterNetArch) else 1,
    )
    if is_descriptor or isinstance(arch, SSDArch):
        subject.fixed_size = subject.usual_size
    if network is None:
        subject.build = lambda: _with_statistics(build_network(name), subject)
    return subject


def _peer(model: str) -> Subject:
    name = known_name(model, PEERS)
    if name is None:
        known = [*list_models(), *PEERS]
        raise UserError(
            f"unknown model {model!r}; {did_you_mean(model, known)}known: {', '.join(list_models())}; "
            f"of other packages: {', '.join(PEERS)}"
        )
    peer = PEERS[name]
    peer.require_package(name)
    subject = Subject(name, peer.build, peer.size, peer.in_chans, task=peer.task, is_peer=True)
    if peer.task == "descriptor":
        subject.fixed_size = peer.size
    subject.build = lambda: _with_statistics(peer.build(), subject)
    return subject


def _with_statistics(network: nn.Module, subject: Subject) -> nn.Module:
    """The network in eval mode; its batch norms have the statistics of a random batch.

    With those that they begin with, activations of deep networks vanish or grow, and numbers near zero take
    other paths of the hardware than those of a trained network.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    most = _SIDE if subject.task == "detection" else _SIDE // 2
    height, width = (min(side, most) for side in subject.usual_size)
    before = [(norm.momentum, norm) for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    try:
        with torch.no_grad():
            network.train()(_random_input((2, subject.in_chans, height, width)))
    finally:
        for momentum, norm in before:
            norm.momentum = momentum
    return network.eval()


def _random_input(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _groups(
    subjects: Sequence[Subject], sizes: Sequence[int | tuple[int, int]] | None, batches: Sequence[int]
) -> dict[tuple[int, int, int], list[Subject]]:
    """(height, width, batch) -> the models to time with such an input."""
    own = [subject for subject in subjects if not subject.is_peer]
    groups: dict[tuple[int, int, int], list[Subject]] = {}
    wanted = None if sizes is None else dict.fromkeys(map(_height_width, sizes))
    for subject in subjects:
        usual = {subject.usual_size: None}
        if subject.is_peer:
            usual = {each.usual_size: None for each in own if each.task == subject.task} or usual
        for (height, width), batch in product(usual if wanted is None else wanted, dict.fromkeys(batches)):
            groups.setdefault((height, width, batch), []).append(subject)
    return groups


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = height_width(size)
    if height * width > _MOST_PIXELS:
        raise UserError(f"the size {height}×{width} is out of range: at most {_MOST_PIXELS} pixels")
    return height, width


def _measure_group(
    comparison: Comparison,
    cases: Sequence[tuple[Subject, Setting]],
    key: tuple[int, int, int],
    *,
    counts: Mapping[str, int],
    memory: bool,
    say: Callable[[str], object] | None,
) -> None:
    height, width, batch = key
    ready: dict[str, tuple[Subject, Setting, int | None]] = {}
    runs: dict[str, Callable[[], object]] = {}

    def fail(subject: Subject, setting: Setting, error: Exception) -> None:
        reason = _first_line(error).replace(f"{folder}{os.sep}", "")
        failure = Failure(subject.name, setting, height, width, batch, reason)
        comparison.failures.append(failure)
        if say is not None:
            say(f"{label(setting)} cannot run {subject.name}: {failure.reason}")

    with tempfile.TemporaryDirectory() as folder:
        prepared: list[tuple[Subject, EngineForm]] = []
        for subject, setting in cases:
            try:  # an engine may raise anything; the others are still measured
                form = prepare(subject.network, subject.input(batch, height, width), setting, Path(folder))
            except Exception as error:
                fail(subject, setting, error)
            else:
                prepared.append((subject, form))
        shapes = [(batch, subject.in_chans, height, width) for subject, _ in prepared]
        peaks = [None] * len(prepared)
        if memory:
            peaks = peak_memory([form for _, form in prepared], shapes)
        for number, ((subject, form), peak) in enumerate(zip(prepared, peaks, strict=True)):
            try:
                run = make_pass(form, subject.input(batch, height, width))
                run()
            except Exception as error:
                fail(subject, form.setting, error)
            else:
                runs[str(number)] = run
                ready[str(number)] = (subject, form.setting, peak)
        prepared.clear()
        devices = {setting.device for _, setting, _ in ready.values()} - {"cpu"}  # one at most
        seconds = interleaved(runs, **counts, synchronize=synchronizer(*devices or {"cpu"}))
        runs.clear()
    counted: dict[int, dict[str, int]] = {}
    inputs_of: dict[int, float | None] = {}
    for number, (subject, setting, peak) in ready.items():
        key = id(subject)
        if key not in counted:
            counted[key] = subject.counts(batch, height, width)
            inputs_of[key] = input_seconds(subject.usage, (height, width), setting.device)
        comparison.timings.append(
            Timing(
                subject.name,
                setting,
                height,
                width,
                batch,
                tuple(seconds[number]),
                **counted[key],
                peak_memory=peak,
                input_seconds=inputs_of[key],
                weights=subject.weights,
            )
        )


def input_seconds(usage: Usage | None, size: tuple[int, int], device: str, passes: int = 3) -> float | None:
    """Median seconds from a JPEG file to one input on the device: decoding, resizing, normalising, copying.

    Args:
        usage: Of the network; None, or that of a patch descriptor, is not measured.
        size: (height, width) of the input.
        device: Where the input goes.
        passes: Timed ones, after one that is not counted.
    """
    if usage is None or usage.postprocess is None:
        return None
    from hardnet_suite.data.images import open_rgb
    from hardnet_suite.inference.prepare import prepare as place
    from hardnet_suite.inference.prepare import to_input

    rule = replace(usage.preprocess, resize="stretch", size=size, resize_to=None, factor=None, pad=None)
    file = Path(__file__).parents[1] / "data" / "samples" / "street.jpg"

    def run() -> None:
        pixels, _ = place(open_rgb(file), rule)
        to_input(pixels[None], rule).to(device)

    seconds = interleaved({"input": run}, rounds=passes, synchronize=synchronizer(device))
    return statistics.median(seconds["input"])


def label(setting: Setting) -> str:
    """A setting in words: "onnxruntime fp32", "eager bf16 nhwc"."""
    layout = " nhwc" if setting.channels_last else ""
    return f"{setting.engine} {setting.precision}{layout}"


def best_of_each(timings: Sequence[Timing]) -> dict[str, Timing]:
    """Model -> its fastest timing."""
    best: dict[str, Timing] = {}
    for timing in timings:
        if timing.model not in best or timing.median < best[timing.model].median:
            best[timing.model] = timing
    return best


def machine(device: str, threads: int | None = None) -> dict[str, Any]:
    """Where and with what a figure is measured; ``load`` is the system's average over a minute, before."""
    return {
        "cpu": _cpu_name(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads or torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": dict(filter(None, map(_version, _VERSIONS))),
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> tuple[str, str] | None:
    try:
        return package, version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _settings(
    engines: Sequence[str],
    precisions: Sequence[str],
    channels_last: Sequence[bool],
    device: str,
    threads: int | None,
) -> Iterator[Setting]:
    found = list(dict.fromkeys(map(find_engine, engines)))
    if any(channels_last) and not any(engine in PYTORCH for engine in found):
        raise UserError(
            f"the layout nhwc is for the engines of PyTorch ({', '.join(PYTORCH)}), not for "
            f"{', '.join(found)}: leave it out"
        )
    if any(map(is_integer, precisions)):
        able = [engine for engine in found if engine in integer_engines()]
        if not able:
            raise UserError(
                f"no int8 in {', '.join(found)}; the engines that have: {', '.join(integer_engines())}"
            )
        for engine in able:
            require_integers(engine)
    for engine, precision in product(found, dict.fromkeys(precisions)):
        if engine not in PYTORCH:
            yield Setting(engine, precision, False, "cpu", threads)
            continue
        if engine == "cudagraphs" and not device.startswith("cuda"):
            raise UserError("the engine cudagraphs needs a CUDA device: choose another, or --device cuda")
        for last in dict.fromkeys(channels_last):
            yield Setting(engine, precision, last, device, threads)


def _settled_device(device: str | torch.device | None) -> str:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
        return device_name(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"cannot compute on the device {device}: {_first_line(error)}") from None


def _require_sequences(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, str | int):  # also a boolean; the letters of a string would be taken one by one
            raise UserError(f"{name}={value!r}: expected a sequence, such as [{value!r}]")


def _require_precisions(precisions: Iterable[str]) -> None:
    for precision in precisions:
        if precision not in PRECISIONS:
            raise UserError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")


def _require_counts(
    *, rounds: int, passes: int, batches: Sequence[int], threads: int | None, warmup: int
) -> None:
    ranges = [
        ("rounds", rounds, 1, _MOST_ROUNDS),
        ("passes", passes, 1, _MOST_ROUNDS),
        ("warmup", warmup, 0, _MOST_ROUNDS),
        ("threads", 1 if threads is None else threads, 1, MOST_THREADS),
        *(("batch", batch, 1, _MOST_BATCH) for batch in batches),
    ]
    for name, value, least, most in ranges:
        if type(value) is not int or not least <= value <= most:
            raise UserError(f"{name} {value}: expected an integer from {least} to {most}")


@contextmanager
def _process(threads: int | None) -> Iterator[None]:
    """Within, PyTorch has so many threads, and cuDNN chooses its convolutions by timing them."""
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = True
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
