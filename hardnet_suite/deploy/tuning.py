"""The fastest known form of a network on this machine, chosen by a short calibration."""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardnet_suite.data.report import counted
from hardnet_suite.deploy.agreement import TOLERANCES, DisagreementError, require_agreement
from hardnet_suite.deploy.exporting import export, height_width, model_parts, prepared_size
from hardnet_suite.deploy.formats import FORMATS
from hardnet_suite.deploy.outputs import flatten
from hardnet_suite.deploy.quantize import QUANTIZERS, Quantization, require_quantizer
from hardnet_suite.deploy.steps import PRECISIONS, casts, rewrites, transformed
from hardnet_suite.deploy.transforms.packing import can_pack
from hardnet_suite.errors import UserError
from hardnet_suite.inference.precision import usual_shape
from hardnet_suite.names import did_you_mean, known_name
from hardnet_suite.networks import Usage
from hardnet_suite.timing import interleaved, median_ratio, synchronizer

TARGETS = ("cpu", "cuda", "onnx", "openvino", "tensorrt")


@dataclass(frozen=True)
class Form:
    """A way to run a network.

    Attributes:
        steps: of ``steps.STEPS``, in order.
        precision: "fp32", "bf16", "fp16", "int8", or "int8+bf16": bfloat16 for what stays in float.
    """

    steps: tuple[str, ...]
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.precision}: {' + '.join(self.steps) or 'as it is'}"


PLAIN = Form(())


@dataclass(frozen=True)
class Choice:
    """What a calibration chose, and why.

    Attributes:
        model: the model's name.
        target: of ``TARGETS``.
        shape: of the input.
        threads: of the CPU.
        form: the chosen one.
        seconds: median of each form; ``PLAIN`` is the eager network in float32, as it was given.
        ratios: of each form, the median over the rounds of its time by that of ``PLAIN``: below 1 is faster.
        differences: of each form, the largest difference of an output from ``PLAIN``'s on random numbers, as
            a share of the largest value. Forms in int8 have been compared on the images of their calibration,
            by their answers.
        dropped: forms that failed, and why.
    """

    model: str
    target: str
    shape: tuple[int, ...]
    threads: int
    form: Form
    seconds: dict[Form, float] = field(default_factory=dict)
    ratios: dict[Form, float] = field(default_factory=dict)
    differences: dict[Form, float] = field(default_factory=dict)
    dropped: dict[Form, str] = field(default_factory=dict)

    def __str__(self) -> str:
        size = "×".join(map(str, self.shape))
        title = (
            f"{self.model} for {self.target}, input {size}, {counted(self.threads, 'thread')}: {self.form}"
        )
        rows = [f"{'':2}{'form':56}{'ms':>10}{'of plain':>10}{'difference':>12}"]
        for form in sorted(self.seconds, key=lambda form: self.ratios[form]):
            mark = "*" if form == self.form else ""
            numbers = f"{1e3 * self.seconds[form]:10.2f}{self.ratios[form]:10.2f}"
            rows.append(f"{mark:2}{form!s:56}{numbers}{self.differences[form]:12.1e}")
        rows += [f"{'-':2}{form!s:56} {reason}" for form, reason in self.dropped.items()]
        return "\n".join([title, *rows])


def forms(
    network: nn.Module, target: str, *, compile: bool = False, quantization: Quantization | None = None
) -> list[Form]:
    """The forms worth trying, of which each has been the fastest of some model or machine.

    Args:
        network: Of ``create_model``.
        target: "cpu", "cuda", "onnx" or "openvino".
        compile: with ``torch.compile``, too.
        quantization: in int8, too, for "onnx" and "openvino".
    """
    rewritten = rewrites(network)
    if target in ("onnx", "openvino"):
        bases = [(), rewritten, (*rewritten, "split")] if rewritten else [(), ("split",)]
        precisions = ("fp32", "bf16") if target == "openvino" else ("fp32",)
        exact = [Form(("fuse", *base), precision) for precision in precisions for base in bases]
        if quantization is None:
            return exact
        # sums would stay in float; and layers that are named are those of the network as it is
        bases = dict.fromkeys([(), () if quantization.keep else rewritten])
        integers = ("int8", "int8+bf16") if target == "openvino" else ("int8",)
        return exact + [Form(("fuse", *base), precision) for precision in integers for base in bases]
    found = []
    for precision in PRECISIONS if target == "cuda" else ("fp32", "bf16"):
        base = ("fuse", *rewritten, *casts(precision), "channels_last")
        found.append(Form(base, precision))
        if target == "cpu" and can_pack(PRECISIONS[precision]):
            found.append(Form((*base, "pack"), precision))
        if compile:
            found.append(Form((*base, "compile"), precision))
    return found


def deploy(
    model: Any,
    target: str = "cpu",
    *,
    size: int | tuple[int, int] | None = None,
    batch: int = 1,
    precision: str | None = None,
    compile: bool = False,
    rounds: int = 5,
    quantization: Quantization | None = None,
) -> nn.Module:
    """The fastest known form of a model on this machine: it takes and returns what the model does.

    The forms of ``forms`` are built, compared with the model and timed in turn with it. A form that fails, or
    that differs by more than an export of its precision may, is dropped: one in int8 if more answers than
    ``Quantization.max_drop`` change on the images of its calibration.

    Args:
        model: A network of ``create_model``, or what ``load_model`` returned; left as it is.
        target: "cpu" or "cuda" (PyTorch), or "onnx" or "openvino" (an exported file in its engine, deleted
            with the result and its copies).
        size: Side, or (height, width), of the input to time. Default: that of the input rule; 512 where that
            keeps the size of images. PyTorch's forms take other sizes, too, and files where the rule keeps
            the size or this is not the rule's; OpenVINO's in int8 have one size, that of the rule, so that
            there are none where it keeps the size.
        batch: Images per input.
        precision: "fp32", "bf16", "fp16" or "int8"; None: whichever is faster, int8 only with
            ``quantization``.
        compile: Tries ``torch.compile``, too, for PyTorch's targets.
        rounds: Timed passes of each form.
        quantization: On which images int8 is calibrated, and how, for "onnx" and "openvino".

    Returns:
        A module to call; its ``choice`` says, and prints, what was measured.

    Raises:
        UserError: An unknown target or precision, int8 without images or in another target, another kind of
            model, an input that it does not take, or no form that works here.
    """
    network, usage, _ = model_parts(model)
    name = known_name(target, TARGETS) if isinstance(target, str) else None
    if name is None:
        raise UserError(
            f"unknown target {target!r}; {did_you_mean(str(target), TARGETS)}known: {', '.join(TARGETS)}"
        )
    if name == "tensorrt":
        raise UserError(
            "TensorRT has a program of its own that builds engines: export with format='tensorrt-onnx' and "
            "run trtexec"
        )
    if precision not in (None, *PRECISIONS, "int8"):
        raise UserError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}, int8")
    _require_quantization(quantization, precision, name)
    if type(rounds) is not int or type(batch) is not int or min(rounds, batch) < 1:
        raise UserError(f"rounds and batch must be integers of at least 1, got {rounds!r} and {batch!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("the target cuda needs a CUDA device, and PyTorch finds none")
    tried = forms(network, name, compile=compile, quantization=quantization)
    tried = [form for form in tried if precision in (None, form.precision, form.precision.partition("+")[0])]
    if not tried:
        raise UserError(f"no form of the target {name} computes in {precision}")
    plain = copy.deepcopy(network).eval().to("cuda" if name == "cuda" else "cpu", torch.float32)
    plain.usage = usage
    example = _example(plain, usage, size, batch)
    problems = [_size_problem(usage, example, name, form.precision) for form in tried]
    if all(problems):
        raise UserError(problems[0])
    folder = tempfile.TemporaryDirectory(prefix="hardnet_suite_", ignore_cleanup_errors=True)
    build = partial(_built, folder=Path(folder.name), quantization=quantization)
    built, choice = _calibrated(
        plain, example, tried, build, target=name, rounds=rounds, plain_too=precision in (None, "fp32")
    )
    built.choice = choice
    if name in ("cpu", "cuda"):
        folder.cleanup()
    else:
        kept = {part.name for part in FORMATS[name].parts(built.path)}
        for file in Path(folder.name).iterdir():
            if file.name not in kept:
                file.unlink()
        built.folder = folder  # lives as long as the sessions that read the file
    return built


def _require_quantization(quantization: Quantization | None, precision: str | None, target: str) -> None:
    if quantization is None:
        if precision == "int8":
            raise UserError("int8 is calibrated on images: give quantization=Quantization(images)")
        return
    if precision not in (None, "int8"):
        raise UserError(f"quantization is for the precision int8, got {precision}")
    if target not in QUANTIZERS:
        raise UserError(f"the target {target} has no int8: choose from {', '.join(QUANTIZERS)}")
    require_quantizer(FORMATS[target])


def _example(network: nn.Module, usage: Usage, size: int | tuple[int, int] | None, batch: int) -> Tensor:
    """Random numbers, the same in every call, as an input of that size."""
    channels, *usual = usual_shape(network, usage.preprocess)
    height, width = usual if size is None else height_width(size)
    values = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
    return values.to(next(network.parameters()).device)


def _size_problem(usage: Usage, example: Tensor, target: str, precision: str) -> str:
    """Why no file of a precision can take the inputs and answer as the network does; "" where one can."""
    made, size = prepared_size(usage.preprocess), (example.shape[2], example.shape[3])
    if target in ("cpu", "cuda") or size == made:
        return ""
    if "size" in FORMATS[target].dynamic_in("int8" if precision.startswith("int8") else "fp32"):
        return ""
    start = f"the target {target} has int8 in files of one size alone, and the input rule of {usage.name}"
    if made is None:
        return f"{start} keeps the size of images: take another target, or a rule that makes one size"
    return f"{start} makes {made[0]}×{made[1]}, not {size[0]}×{size[1]}: leave out the size"


def _built(
    network: nn.Module,
    form: Form,
    example: Tensor,
    target: str,
    *,
    folder: Path,
    quantization: Quantization | None,
) -> nn.Module:
    """The network in a form, or a session of its exported file."""
    if problem := _size_problem(network.usage, example, target, form.precision):  # drops the form alone
        raise RuntimeError(problem)
    changed = transformed(network, form.steps, example)
    if target in ("cpu", "cuda"):
        return changed
    from hardnet_suite.deploy.session import open_session

    suffix = FORMATS[target].suffixes[0]
    path = folder / f"{len(list(folder.iterdir()))}{suffix}"
    options: dict[str, Any] = {}
    if quantization is not None and form.precision.startswith("int8"):
        options = {"precision": "int8", "quantization": quantization}
    size = (example.shape[2], example.shape[3])
    if size == prepared_size(network.usage.preprocess):
        options |= {"size": size, "batch": len(example)}
    else:
        options["dynamic"] = "size"
    file = export(changed, path, format=target, **options)
    try:
        session = open_session(file, precision=form.precision)
    except UserError as error:  # what this processor lacks drops the form alone
        raise RuntimeError(str(error)) from error
    # the file itself has been compared in int8
    if quantization is not None and form.precision == "int8+bf16":
        require_agreement(
            session.run,
            network,
            session.record,
            quantization.images,
            name=str(form),
            tolerance=quantization.tolerance,
            most=quantization.count,
        )
    return session


def _calibrated(
    plain: nn.Module,
    example: Tensor,
    tried: Sequence[Form],
    build: Callable[[nn.Module, Form, Tensor, str], nn.Module],
    *,
    target: str,
    rounds: int,
    plain_too: bool,
) -> tuple[nn.Module, Choice]:
    """The fastest of the forms that compute the same, and the measurements.

    For PyTorch's targets the network as it is may be the fastest, if its precision will do (``plain_too``).
    """
    name = plain.usage.name
    with torch.no_grad():  # tensors of the inference mode would stay so in the result
        try:
            with torch.inference_mode():
                expected = flatten(plain(example))
        except ValueError as error:  # an input of this size
            raise UserError(f"{name}: {error}") from None
        modules, differences, dropped = {PLAIN: plain}, {PLAIN: 0.0}, {}
        for form in tried:
            try:
                module = build(plain, form, example, target)
                with torch.inference_mode():
                    difference = _difference(flatten(module(example)), expected)
            except DisagreementError as error:
                dropped[form] = str(error)
                continue
            except UserError:
                raise
            except Exception as error:  # engines and compilers raise errors of their own
                dropped[form] = str(error).strip().partition("\n")[0] or type(error).__name__
                continue
            allowed = TOLERANCES.get(form.precision)  # None: int8, which has been compared by its answers
            if math.isinf(difference) or (allowed is not None and difference > allowed.values):
                dropped[form] = f"differs by {difference:.1e} of the largest value"
                continue
            modules[form], differences[form] = module, difference
        if len(modules) == 1:
            reasons = "; ".join(f"{form}: {reason}" for form, reason in dropped.items())
            raise UserError(f"{name}: no form for {target} works here ({reasons})")
        with torch.inference_mode():
            times = interleaved(
                {str(form): partial(module, example) for form, module in modules.items()},
                rounds=rounds,
                synchronize=synchronizer(example.device),
            )
    ratios = {form: median_ratio(times[str(form)], times[str(PLAIN)]) for form in modules}
    candidates = [form for form in modules if form != PLAIN or (plain_too and target in ("cpu", "cuda"))]
    best = min(candidates, key=ratios.__getitem__)
    return modules[best], Choice(
        name,
        target,
        tuple(example.shape),
        torch.get_num_threads(),
        best,
        {form: statistics.median(times[str(form)]) for form in modules},
        ratios,
        differences,
        dropped,
    )


def _difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference as a share of the largest value of each output; infinite for NaN."""
    worst = 0.0
    for ours, theirs in zip(actual, expected, strict=True):
        share = (ours.float() - theirs).abs().max() / theirs.abs().max().clamp(min=1e-20)
        worst = max(worst, share.item() if share.isfinite() else float("inf"))
    return worst
