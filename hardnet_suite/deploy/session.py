"""An exported file in its engine: a network, wherever one of ``create_model`` may stand."""

from __future__ import annotations

import copy
import hashlib
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardnet_suite.data.report import counted
from hardnet_suite.deploy.formats import FORMATS, Format, PrecisionError, Run
from hardnet_suite.deploy.outputs import is_class, unflatten
from hardnet_suite.deploy.record import ExportRecord, require_intact
from hardnet_suite.errors import UserError
from hardnet_suite.inference import NO_CLASS, Boxes, Guesses, Mask, Placement, answers, to_input
from hardnet_suite.inference.boxes import placed_boxes
from hardnet_suite.inference.precision import PrecisionChoice, faster_precision, usual_size
from hardnet_suite.inference.prepare import input_size
from hardnet_suite.networks import (
    DescriptorArch,
    DetectionPostprocess,
    Postprocess,
    Preprocess,
    SegmentationPostprocess,
    SSDArch,
    default_usage,
    find_arch,
)
from hardnet_suite.quiet import without_warnings
from hardnet_suite.threads import MOST_THREADS
from hardnet_suite.weights import Checkpoint
from hardnet_suite.weights.file import ENGINE_SUFFIXES, WEIGHTS_SUFFIXES, expanded

_CERTAIN = 1e4  # logit of a class that a file has already decided on
_WHOLE = 1e-2  # by which a pixel may differ from an integer after normalisation and back


def is_exported(path: str | Path) -> bool:
    """Whether ``export`` wrote a file, told by its content.

    Raises:
        UserError: the file's format needs a package that is not installed.
    """
    return _find(expanded(path)) is not None


def read_record(path: str | Path) -> ExportRecord | None:
    """What an exported file says of itself; None for any other file.

    Raises:
        UserError: as ``is_exported``; or what it says is damaged, or not what the file was written with.
    """
    path = expanded(path)
    found = _find(path)
    if found is None:
        return None
    form, text = found
    record = _record_of(path, text)
    _require_parts(form, path)
    require_intact(record, path)
    return record


def is_for_engine(path: str | Path) -> bool:
    """Whether ``open_session`` is to open a file: an exported one, or one that cannot be weights by its name.

    Raises:
        UserError: as ``is_exported``.
    """
    return is_exported(path) or (
        expanded(path).is_file() and expanded(path).suffix.lower() in ENGINE_SUFFIXES
    )


def open_session(
    path: str | Path,
    *,
    engine: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    trusted: bool = False,
) -> Session:
    """Opens an exported file in its engine.

    Args:
        path: a file that ``export`` wrote; of a format of several files the one that was named there.
        engine: the engine that is expected, such as "onnxruntime"; None: that of the file's format.
        precision: what the engine computes in, such as "fp32" or "bf16"; None: that of the file.
        threads: of the CPU; None: as many as PyTorch uses, ``torch.get_num_threads()``. ExecuTorch has one
            number for the whole process, that of the file opened last.
        trusted: also opens formats whose files may run any code of their author (.pt2).

    Raises:
        UserError: no such file, a file that ``export`` did not write, a damaged one, one that may run code,
            an engine that is not installed, or a precision that it does not compute in.
    """
    path = expanded(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    found = _find(path)
    if found is None:
        raise UserError(
            f"{path} does not say which model it is: it is damaged, or not written by hardnet-suite export"
        )
    form, text = found
    record = _record_of(path, text)
    if engine not in (None, form.engine):
        raise UserError(f"{path} is a file for {form.engine}, not for {engine}")
    if form.is_program and not trusted:
        raise UserError(
            f"{path} may run any code of its author when it is opened: export the model as ONNX, OpenVINO or "
            "TorchScript; a file of your own: hardnet_suite.deploy.open_session(path, trusted=True)"
        )
    _require_parts(form, path)
    if record.precision == "int8" and precision == "bf16":  # for the layers that stay in float
        precision = "int8+bf16"
    require_intact(record, path)
    form.require_packages()
    threads = torch.get_num_threads() if threads is None else threads
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise UserError(f"threads must be an integer from 1 to {MOST_THREADS}, got {threads!r}")
    try:
        with without_warnings(), form.importing():  # warnings of engines to their developers
            run = form.open(path, record=record, precision=precision, threads=threads)
    except UserError as error:
        message = str(error)
        raise type(error)(message if str(path) in message else f"{path}: {message}") from error
    except Exception as error:  # engines raise errors of their own for damaged files
        raise UserError(f"{path}: damaged, {form.engine} cannot open it ({_first_line(error)})") from error
    own = record.precision
    if own == "fp16" and not form.halves:  # of the weights in the file alone
        own = "fp32"
    return Session(path, record, run, form, own if precision is None else precision, threads)


def open_in_precision(
    path: str | Path, precision: str | None = None
) -> tuple[Session, PrecisionChoice | None]:
    """``open_session`` in a precision of ``inference.precision.PRECISIONS``.

    Args:
        path: the file.
        precision: "float32", "bf16", or "auto", the faster one of the file's own and bfloat16, by a few timed
            passes; None: the file's own.

    Returns:
        The session, and with "auto" why it computes in its precision.

    Raises:
        UserError: as ``open_session``.
    """
    if precision != "auto":
        return open_session(path, precision={"float32": "fp32"}.get(precision or "", precision)), None
    own = open_session(path)
    try:
        half = open_session(path, precision="bf16")
    except PrecisionError:
        return own, PrecisionChoice(own.precision, f"{own.engine} computes this file in nothing else")
    except UserError as error:  # of this machine
        return own, PrecisionChoice(own.precision, str(error))
    if own.precision == half.precision:
        return own, PrecisionChoice(own.precision, "that of the file")
    inputs = own.example()
    choice = faster_precision(
        {own.precision: lambda: own(inputs), half.precision: lambda: half(inputs)},
        f"a pass of {'×'.join(map(str, inputs.shape))} in {own.engine}",
    )
    return half if choice.precision == half.precision else own, choice


def engine_version(engine: str) -> str:
    """Version of an engine's package; PyTorch's for TorchScript."""
    try:
        return metadata.version(engine)
    except metadata.PackageNotFoundError:
        return metadata.version("torch")


def try_format(name: str) -> str:
    """Writes a file of one layer and runs it in its engine.

    Args:
        name: of ``FORMATS``.

    Returns:
        The engine and its version.

    Raises:
        UserError: a package is missing.
        RuntimeError: the engine computes something else than PyTorch.
    """
    form = FORMATS[name]
    form.require_packages(to_write=True)
    layer = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.rand(1, 3, 8, 8)
    record = ExportRecord(
        usage=default_usage("hardnet39ds"),
        arch=find_arch("hardnet39ds"),
        num_classes=2,
        in_chans=3,
        input_shape=(1, 3, 8, 8),
        outputs=("logits",),
    )
    with tempfile.TemporaryDirectory() as folder, without_warnings(), torch.no_grad():
        path = Path(folder, f"layer{form.suffixes[0]}")
        form.write(layer, images, path, record=record, dynamic="none")
        (found,) = form.open(path, record=record, precision=None, threads=None)(images.numpy())
        if not np.allclose(found, layer(images).numpy(), atol=1e-3):
            raise RuntimeError(f"{form.engine} computes something else than PyTorch")
    return f"{form.engine} {engine_version(form.engine)}"


class Session(nn.Module):
    """An exported file in its engine.

    A call takes what the network of ``create_model`` takes, (N, C, H, W) normalised inputs, and returns what
    it returns, as float32 on the device of the inputs. With the preprocessing inside, it takes uint8 RGB
    pixels (N, 3, H, W), too, as they are before ``to_input`` pads them. With the postprocessing inside, a
    detector returns "boxes" (N, K, 4) in pixels of the input, "scores" and "labels" (N, K), with −1 in unused
    rows; probabilities and masks come as logits of the same answer. It computes on the CPU, without
    gradients; threads take turns. So do copies, which share the opened file; a pickle opens the file again.

    Attributes:
        path: the file.
        record: what it says of itself.
        arch: the network's row of the architecture table.
        usage: its name, rules, classes and palette.
        num_classes: number of classes.
        in_chans: channels of the inputs.
        engine: what computes it, such as "onnxruntime".
        precision: what it computes in: "fp32", "bf16", "fp16", "int8", or "int8+bf16", bfloat16 for what
            stays in float.
        threads: of the CPU.
        run: the engine's own function, from an array to a list of arrays; see ``deploy.formats``.
        weights: which file and weights these are, in words.
        choice: of ``deploy``, why it is this form; None: opened by ``open_session``.
        folder: the temporary one of ``deploy`` that the file lies in; None: it is not temporary.
    """

    choice: Any = None
    folder: tempfile.TemporaryDirectory[str] | None = None

    def __init__(
        self, path: Path, record: ExportRecord, run: Run, form: Format, precision: str, threads: int
    ):
        super().__init__()
        self.path, self.record, self.precision, self.threads = path, record, precision, threads
        self.arch, self.usage = record.arch, record.usage
        self.num_classes, self.in_chans = record.num_classes, record.in_chans
        self.engine, self._format, self.run, self._lock = form.engine, form, run, threading.Lock()
        of = "" if record.weights is None else f" of {record.weights}"
        self.weights = f"{path}{of}, {precision} in {self.engine}"
        self.eval()

    def __copy__(self) -> Session:
        other = Session(self.path, self.record, self.run, self._format, self.precision, self.threads)
        other._lock, other.choice, other.folder = self._lock, self.choice, self.folder
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return copy.copy(self)

    def __reduce__(self) -> tuple[Callable[..., Session], tuple[Any, ...], dict[str, Any]]:
        if self._format.is_program:
            raise UserError(
                f"{self.path} may run any code of its author when it is opened, so that no pickle opens it: "
                "open it there by open_session(path, trusted=True)"
            )
        return _reopened, (self.path, self.precision, self.threads), {"choice": self.choice}

    @property
    def has_preprocess(self) -> bool:
        """Whether the file normalises pixels itself."""
        return "preprocess" in self.record.includes

    @property
    def has_postprocess(self) -> bool:
        """Whether the file turns the network's output into answers itself, by its own rule."""
        return "postprocess" in self.record.includes

    @property
    def engine_version(self) -> str:
        """Version of the engine's package."""
        return engine_version(self.engine)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, in hex; of formats of several files that of all, one after the other."""
        sha = hashlib.sha256()
        for part in self._format.parts(self.path):
            with part.open("rb") as stream:
                while block := stream.read(1 << 20):
                    sha.update(block)
        return sha.hexdigest()

    @property
    def network_digest(self) -> str | None:
        """SHA-256 of the tensors of the network, ``weights.tables.digest_of_tensors``, in hex; None where
        the file holds them in another precision than float32, or an earlier version wrote it."""
        return self.record.network_digest if self.record.precision == "fp32" else None

    @property
    def checkpoint(self) -> Checkpoint:
        """What the file says of itself, as a weights file does; without tensors."""
        usage = self.usage
        return Checkpoint(
            path=self.path,
            digest=self.digest,
            model=usage.name,
            form="exported",
            tensors={},
            left={},
            state_dict={},
            num_classes=self.num_classes,
            in_chans=self.in_chans,
            arch=self.record.arch,
            classes=usage.classes,
            palette=usage.palette,
            preprocess=usage.preprocess,
            postprocess=usage.postprocess,
            metadata={},
            content={},
            row=None,
        )

    def example(self) -> Tensor:
        """Random pixels as an input of a size that the file takes."""
        batch, _, *sides = self.record.input_shape
        size = [
            side if isinstance(side, int) else usual
            for side, usual in zip(sides, usual_size(self.usage.preprocess), strict=True)
        ]
        shape = (batch if isinstance(batch, int) else 1, 3, *size)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return pixels if self.has_preprocess else to_input(pixels, self.usage.preprocess)

    @torch.inference_mode()
    def answers(
        self,
        pixels: Tensor,
        placements: Sequence[Placement],
        *,
        preprocess: Preprocess | None = None,
        postprocess: Postprocess | None = None,
    ) -> list[Boxes] | list[Mask] | list[Guesses]:
        """What the network finds in a batch of prepared images.

        Args:
            pixels: (N, 3, h, w) uint8 RGB, as ``inference.prepare`` returns them.
            placements: where each image lies in them.
            preprocess: the input rule; None: the file's.
            postprocess: the output rule; None: the file's.

        Returns:
            One answer per image: ``Boxes``, ``Mask`` or ``Guesses``, by the task.

        Raises:
            UserError: as of a call; or another output rule than the one inside of the file.
        """
        own = self.usage
        preprocess, postprocess = preprocess or own.preprocess, postprocess or own.postprocess
        if postprocess is None:
            raise UserError(f"{self.path}: {own.name} describes patches and predicts nothing")
        inputs = pixels if self._normalizes(pixels, preprocess) else to_input(pixels, preprocess)
        rule = self.remaining_rule(postprocess)
        if self.has_postprocess and isinstance(rule, DetectionPostprocess):
            return placed_boxes(self(inputs), placements, rule)
        return answers(self, inputs, placements, arch=self.arch, rule=rule)

    def require_pixels(
        self, pixels: Tensor, preprocess: Preprocess, postprocess: Postprocess, *, fixed: bool = False
    ) -> None:
        """UserError where a file does not take an image: of free size, or as its preprocessing does not pad.

        Args:
            pixels: (3, h, w) uint8 RGB, as ``inference.prepare`` returns them.
            preprocess: the input rule.
            postprocess: the output rule.
            fixed: whether another size than the file's fixed one is an error here, too, as it is of a call.
        """
        inside = self._normalizes(pixels[None], preprocess)
        if getattr(postprocess, "window", None) is None or self.has_postprocess:  # else windows are inputs
            size = tuple(pixels.shape[1:])
            size = size if inside else input_size(*size, preprocess)
            if fixed:
                self._require_size(size, normalized=not inside)
            self._require_free_size(size)
        if self.has_preprocess and not inside:
            self._values(to_input(pixels[None], preprocess))

    def remaining_rule(self, rule: Postprocess) -> Postprocess:
        """What of an output rule is left to do with the outputs of the file.

        Raises:
            UserError: the file has the postprocessing inside, by another rule.
        """
        if not self.has_postprocess:
            return rule
        different = rule.differences(self.usage.postprocess)
        if different:
            raise UserError(
                f"{self.path} has its output rule inside, which differs in {', '.join(different)}: export it "
                "without --with postprocess, or with this rule"
            )
        if isinstance(rule, SegmentationPostprocess):
            return replace(rule, window=None, stride=None)
        return replace(rule, flip=False) if isinstance(rule, DetectionPostprocess) else rule

    def require_precision(self, precision: str | None) -> None:
        """UserError where another precision is asked for than the file was opened in."""
        if precision not in (None, self.precision):
            raise UserError(
                f"{self.path} is open in {self.precision}: {precision} is chosen when a file is opened, by "
                "load_model(…, precision=…) or open_session(…, precision=…)"
            )

    def forward(self, inputs: Tensor) -> Any:
        """See the class.

        Raises:
            UserError: another size than the file takes, inputs that its preprocessing cannot make, outputs
                that are not those of the model, or an error of the engine.
            ValueError: other than four dimensions, another number of channels, or NaN or infinity.
            TypeError: no tensor.
        """
        if not isinstance(inputs, Tensor):
            raise TypeError(f"expected a tensor, got a {type(inputs).__name__}")
        if torch.is_autocast_enabled(inputs.device.type) and not self.precision.endswith("bf16"):
            self.require_precision("bf16")
        self._require_shape(inputs)
        values = self._values(inputs).numpy(force=True)
        count = len(values)
        size = self.record.input_shape[0]
        size = size if isinstance(size, int) else max(count, 1)
        with self._lock:
            parts = [
                self._computed(_filled(values[start : start + size], size))
                for start in range(0, max(count, 1), size)
            ]
        outputs = [each[0] if len(each) == 1 else np.concatenate(each) for each in zip(*parts, strict=True)]
        tensors = [torch.from_numpy(_plain(each[:count])).to(inputs.device) for each in outputs]
        return self._network_form(unflatten(self.record.outputs, tensors))

    def _normalizes(self, pixels: Tensor, rule: Preprocess) -> bool:
        """Whether the file itself makes of these pixels what the rule says."""
        if not self.has_preprocess or rule.differences(self.usage.preprocess):
            return False
        height, width = pixels.shape[2:]
        fits = not height % rule.input_divisor and not width % rule.input_divisor
        fits = fits and height >= rule.input_size[0] and width >= rule.input_size[1]
        return fits or self._has_fixed_size  # files of a free size do not pad

    @property
    def _has_fixed_size(self) -> bool:
        return all(isinstance(side, int) for side in self.record.input_shape[2:])

    def _require_shape(self, inputs: Tensor) -> None:
        channels = 3 if inputs.dtype == torch.uint8 else self.in_chans
        if inputs.ndim != 4 or inputs.shape[1] != channels:
            raise ValueError(f"expected inputs (N, {channels}, H, W), got {tuple(inputs.shape)}")
        if inputs.dtype == torch.uint8 and not self.has_preprocess:
            raise ValueError(
                f"{self.path} takes normalised inputs, got uint8: its preprocessing is not inside"
            )
        size = tuple(inputs.shape[2:])
        self._require_size(size, normalized=inputs.dtype != torch.uint8)
        self._require_free_size(size)

    def _sides(self, *, normalized: bool) -> tuple[int | str, ...]:
        """(height, width) of what a call takes: of pixels, or of normalised inputs, which are padded."""
        sides = self.record.input_shape[2:]
        if normalized and self.has_preprocess and self._has_fixed_size:
            return input_size(*sides, self.usage.preprocess)
        return sides

    def _require_size(self, size: tuple[int, ...], *, normalized: bool) -> None:
        """UserError unless a (height, width) is that of ``_sides``, as far as it is fixed."""
        expected = self._sides(normalized=normalized)
        if any(isinstance(side, int) and side != other for side, other in zip(expected, size, strict=True)):
            cure = f"export it with --size {size[0]} {size[1]}, or with --dynamic size"
            if normalized and input_size(*size, self.usage.preprocess) != tuple(size):
                cure = "pad them as to_input does"
            sides = "×".join(map(str, expected))
            raise UserError(f"{self.path} takes inputs of {sides} pixels, got {size[0]}×{size[1]}: {cure}")

    def _require_free_size(self, size: tuple[int, ...]) -> None:
        step, least = self.record.side_multiple, self.record.least_side
        if not self._has_fixed_size and (min(size) < least or any(side % step for side in size)):
            what = f" that are multiples of {step}" if step > 1 else ""
            raise UserError(
                f"{self.path} takes inputs of at least {least}×{least} pixels{what}, got {size[0]}×{size[1]}"
            )

    def _values(self, inputs: Tensor) -> Tensor:
        """What the file takes, from what the network takes."""
        if inputs.dtype == torch.uint8:
            return inputs.contiguous()
        inputs = inputs.detach().float()
        if not self.has_preprocess:
            if not inputs.isfinite().all():  # of which engines make finite numbers
                raise ValueError("inputs must be finite")
            return inputs.contiguous()
        rule = self.usage.preprocess
        pixels = rule.denormalize(inputs)
        height, width = pixels.shape[2:]
        is_padded = (height, width) == self._sides(normalized=True)
        if is_padded:
            height, width = self._sides(normalized=False)
        whole = pixels[:, :, :height, :width].round()
        made = rule.denormalize(to_input(whole, rule)) if is_padded else whole
        if not bool(((pixels - made).abs() < _WHOLE).all() and (whole >= 0).all() and (whole <= 255).all()):
            reason = "they are padded, or normalised by another rule"
            if isinstance(self.arch, DescriptorArch):
                reason = f"patches that were resized to {height}×{width} have fractional values"
            raise UserError(
                f"{self.path} normalises pixels of 8 bits itself, and these inputs are not made of such: "
                f"{reason}; export it without --with preprocess"
            )
        return whole.to(torch.uint8).contiguous()

    def _computed(self, values: np.ndarray) -> list[np.ndarray]:
        """One run of the engine, checked."""
        try:
            outputs = self.run(values)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self.path}: {self.engine} fails: {_first_line(error)}") from error
        names = self.record.outputs
        if len(outputs) != len(names):
            raise UserError(f"{self.path}: expected the outputs {', '.join(names)}, got {len(outputs)}")
        channels = _channels(self.record)
        for name, output in zip(names, outputs, strict=True):
            wrong = name in channels and (output.ndim < 2 or output.shape[1] != channels[name])
            if wrong or output.shape[:1] != (len(values),):
                raise UserError(
                    f"{self.path}: its output {name} is {'×'.join(map(str, output.shape))}, not that of "
                    f"{self.usage.name} with {counted(self.num_classes, 'class')}: the file is damaged"
                )
        return outputs

    def _network_form(self, out: Any) -> Any:
        """Probabilities and masks as logits of the same answer, so that they are read as the network's."""
        if not isinstance(out, dict):
            return out.float()
        if "probabilities" in out:
            return out["probabilities"].float().clamp(min=torch.finfo(torch.float32).tiny).log()
        if "mask" in out:
            return _logits_of_mask(out["mask"], self.num_classes)
        if "boxes" in out:
            return out | {"boxes": out["boxes"].float(), "scores": out["scores"].float()}
        return {
            key: value.float() if isinstance(value, Tensor) else [each.float() for each in value]
            for key, value in out.items()
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Session:
        stays = False
        with suppress(RuntimeError, AssertionError):  # a device that is not here
            like = fn(torch.empty(0, dtype=torch.float32, device="cpu"))
            stays = (like.device.type, like.dtype) == ("cpu", torch.float32)
        if not stays:
            raise UserError(
                f"{self.path} runs in {self.engine}, on the CPU, in {self.precision}: it cannot be moved to "
                "another device or type"
            )
        return self

    def extra_repr(self) -> str:
        return f"{self.usage.name}: {self.weights}"


def _find(path: Path) -> tuple[Format, str] | None:
    """The format of an exported file, and the text of its record; None for any other file."""
    suffix = path.suffix.lower()
    named = [form for form in FORMATS.values() if suffix in form.suffixes]
    if not path.is_file() or (not named and suffix in (".py", *WEIGHTS_SUFFIXES)):  # which may be large
        return None
    for form in named:
        form.require_packages()
    for form in named or [form for form in FORMATS.values() if all(map(find_spec, form.packages))]:
        text = form.read_metadata(path)
        if text is not None:
            return form, text
    return None


def _record_of(path: Path, text: str) -> ExportRecord:
    try:
        return ExportRecord.from_json(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _require_parts(form: Format, path: Path) -> None:
    missing = [part for part in form.parts(path) if not part.is_file()]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing, which belongs to it: copy both")


def _reopened(path: Path, precision: str, threads: int) -> Session:
    return open_session(path, precision=precision, threads=threads)


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    """A batch filled up to the size that a file takes, with copies of its last image."""
    missing = size - len(values)
    if not missing:
        return values
    last = values[-1:] if len(values) else np.zeros((1, *values.shape[1:]), values.dtype)
    return np.concatenate([values, *[last] * missing])


def _plain(values: np.ndarray) -> np.ndarray:
    """Writable and contiguous, as PyTorch asks for."""
    return values if values.flags.writeable and values.flags.c_contiguous else values.copy()


def _channels(record: ExportRecord) -> dict[str, int]:
    """What the second dimension of each output must be, where the model says it."""
    count, arch = record.num_classes, record.arch
    known = {"logits": count, "probabilities": count, "hm": count, "wh": 2, "reg": 2}
    if isinstance(arch, SSDArch):
        for level, boxes in enumerate(arch.priors.per_location):
            known |= {f"cls_{level}": boxes * (count + 1), f"box_{level}": boxes * 4}
    return known


def _logits_of_mask(mask: Tensor, count: int) -> Tensor:
    """(N, H, W) class indices to (N, count, H, W) logits that leave no doubt; NaN where it is no class."""
    if count == 1:
        is_object = mask[:, None] != NO_CLASS
    else:
        is_object = mask[:, None] == torch.arange(count, device=mask.device).view(1, -1, 1, 1)
    logits = torch.where(is_object, _CERTAIN, -_CERTAIN)
    return logits.where(is_class(mask, count)[:, None], torch.nan)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
