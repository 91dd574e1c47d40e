"""Networks to files for other runtimes."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from hardnet_suite.data.classes import readable
from hardnet_suite.deploy.agreement import Agreement, file_inputs, require_agreement
from hardnet_suite.deploy.formats import DYNAMIC, FORMATS, Format, find_format
from hardnet_suite.deploy.graph import Graph
from hardnet_suite.deploy.outputs import answer_names, output_names
from hardnet_suite.deploy.quantize import Quantization, require_quantizer, write_quantized
from hardnet_suite.deploy.record import INCLUDES, ExportRecord, require_intact
from hardnet_suite.deploy.session import Session
from hardnet_suite.deploy.steps import PRECISIONS
from hardnet_suite.deploy.transforms import fuse_batch_norms
from hardnet_suite.deploy.transforms.norms import require_plain_weights
from hardnet_suite.errors import UserError
from hardnet_suite.inference import NO_CLASS
from hardnet_suite.inference.prepare import input_size
from hardnet_suite.names import known_name
from hardnet_suite.networks import (
    CenterNetArch,
    DescriptorArch,
    PatchDescriptor,
    Preprocess,
    SegmentationPostprocess,
    SSDArch,
    Usage,
)
from hardnet_suite.networks.centernet import INPUT_MULTIPLE
from hardnet_suite.networks.hardnet import least_side
from hardnet_suite.networks.layers import is_meta, without_wrappers
from hardnet_suite.networks.preprocess import MAX_SIDE
from hardnet_suite.outputs import require_replaceable, temporary_folder, writing
from hardnet_suite.quiet import without_messages
from hardnet_suite.weights.file import expanded
from hardnet_suite.weights.tables import digest_of_tensors

_MOST_PIXELS = 1 << 26  # of a batch
_one_at_a_time = RLock()
_EXAMPLE_SIDES = (256, 320)  # of an input of any size


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: the file.
        format: its format, a key of ``FORMATS``.
        record: what it says of itself.
        agreement: how it agrees with PyTorch.
    """

    path: Path
    format: str
    record: ExportRecord
    agreement: Agreement


def export(
    model: Any,
    path: str | Path,
    *,
    format: str | None = None,
    weights: str | None = None,
    size: int | Sequence[int] | None = None,
    batch: int = 1,
    dynamic: str | None = None,
    precision: str = "fp32",
    preprocess: bool = False,
    postprocess: bool = False,
    images: Any = None,
    quantization: Quantization | None = None,
) -> Path:
    """Writes a network for another runtime, and checks that the file agrees with it.

    Batch norms are folded into the convolutions. The file has one input: "images" (N, C, H, W) float32 as
    ``inference.to_input`` returns them, or "patches"; with ``preprocess`` "pixels" (N, 3, H, W) uint8 RGB as
    ``inference.prepare`` returns them. Its outputs are the tensors of the network's ``forward`` in float32;
    with ``postprocess`` the answers of ``inference.answers`` in pixels of the input: "boxes" (N, K, 4),
    "scores" and "labels" (N, K), best first, with −1 as score and label of unused rows; "mask" (N, H, W)
    uint8; "probabilities" (N, classes). Patch descriptors are of unit length anyway.

    The file carries its record in its metadata: the model's name, classes, input and output rule. It is run
    in its engine on images, and takes its place only if the outputs, and then the answers, agree.

    Args:
        model: a network of ``create_model``, or what ``load_model`` returned; it is left as it is.
        path: the file to write.
        format: "onnx", "torchscript", …, see ``hardnet_suite.deploy.FORMATS``; None: told by the suffix of
            ``path``.
        weights: which weights these are, in words, for the record.
        size: (height, width), or both as one number, of the images that the file takes; None: that of the
            input rule. An input rule that keeps the size of images becomes one that resizes to it.
        batch: images per batch, where it is not free.
        dynamic: "none", "batch" (any number of images) or "size" (any number, height and width); None: "size"
            where the input rule keeps the size of images and ``size`` is not given, "batch" for patch
            descriptors, else "none".
        precision: of the network's numbers: "fp32", or "fp16", "bf16" and "int8" where the format has them.
            Inputs and outputs are float32 in any case.
        preprocess: whether channel order, normalisation and padding of the input are inside.
        postprocess: whether decoding is inside, non-maximum suppression included.
        images: whatever ``predict`` takes but a camera, to compare on; None: the package's sample images,
            with "int8" those that it is calibrated on.
        quantization: with the precision "int8": on which images it is calibrated, and how.

    Returns:
        The path.

    Raises:
        UserError: another kind of model, an unknown format, what the format cannot express, a missing
            package, a file that is in the way, or a written file that does not agree (``DisagreementError``).
    """
    return export_file(
        model,
        path,
        format=format,
        weights=weights,
        size=size,
        batch=batch,
        dynamic=dynamic,
        precision=precision,
        includes=[name for name, inside in zip(INCLUDES, (preprocess, postprocess), strict=True) if inside],
        images=images,
        quantization=quantization,
    ).path


def export_file(
    model: Any,
    path: str | Path,
    *,
    format: str | None = None,
    weights: str | None = None,
    size: int | Sequence[int] | None = None,
    batch: int = 1,
    dynamic: str | None = None,
    precision: str = "fp32",
    includes: Collection[str] = (),
    images: Any = None,
    quantization: Quantization | None = None,
) -> Exported:
    """``export``, with what was written; ``includes`` of ``record.INCLUDES``."""
    path = expanded(path)
    chosen = find_format(format, path)
    network, usage, known_weights = model_parts(model)
    if dynamic is not None and (dynamic := known_name(dynamic, DYNAMIC)) is None:
        raise UserError(f"dynamic must be one of {', '.join(DYNAMIC)}")
    record, dynamic = _record(
        network,
        usage,
        size=size,
        batch=batch,
        dynamic=dynamic,
        precision=precision,
        includes=includes,
        format=chosen,
        weights=weights or known_weights,
    )
    chosen.require_packages(to_write=True)
    if (quantization is None) == (precision == "int8"):
        raise UserError(
            "int8 needs a quantization, with images to calibrate on"
            if quantization is None
            else f"quantization is for the precision int8, got {precision}"
        )
    if quantization is not None:
        require_quantizer(chosen)
    require_free(path, chosen)
    require_plain_weights(network)
    with writing(path):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with writing(path), temporary_folder(path) as folder, _plain_torch():
        temporary = folder / path.name
        # weights in PyTorch's usual layout: LiteRT and ExecuTorch take no other
        layout = torch.contiguous_format
        reference = copy.deepcopy(network).to("cpu", torch.float32, memory_format=layout).eval()
        record = replace(record, network_digest=digest_of_tensors(reference.state_dict()))
        select = chosen.select if chosen.suppression else _no_suppression
        dtype = PRECISIONS[chosen.network_precision(precision)]
        graph = Graph(fuse_batch_norms(reference).to(dtype), record, select).eval()
        example = _example(record)
        with without_messages(), torch.no_grad(), chosen.importing():
            if quantization is None:
                chosen.write(graph, example, temporary, record=record, dynamic=dynamic)
            else:
                write_quantized(
                    chosen,
                    graph,
                    example,
                    temporary,
                    record=record,
                    dynamic=dynamic,
                    inputs=file_inputs(record, quantization.images, quantization.count),
                    keep=quantization.keep,
                    preset=quantization.preset,
                )
            threads = torch.get_num_threads()
            run = chosen.open(temporary, record=record, precision=None, threads=threads)
        if quantization is None:
            agreement = require_agreement(run, reference, record, images, name=path)
        else:
            agreement = require_agreement(
                run,
                reference,
                record,
                quantization.images if images is None else images,
                name=path,
                tolerance=quantization.tolerance,
                most=quantization.count,
            )
        del run
        # the named file first: beside it alone, another call after an interruption may replace the others
        for part, place in zip(chosen.parts(temporary), chosen.parts(path), strict=True):
            os.replace(part, place)
    return Exported(path, chosen.name, record, agreement)


@contextmanager
def _plain_torch() -> Iterator[None]:
    """float32 on the CPU, whatever the caller's defaults are: the file has the precision that is asked for.

    One thread at a time: torch.export and what builds on it, and the default dtype, are the process's.
    """
    with _one_at_a_time:
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.autocast("cpu", enabled=False), torch.device("cpu"):
                yield
        finally:
            torch.set_default_dtype(dtype)


def require_free(path: Path, format: Format) -> None:
    """UserError unless the files of an export may take their place: an earlier export, or nothing."""
    require_replaceable(
        path, lambda file: format.read_metadata(file) is not None, writer="export", option="path"
    )
    for part in format.parts(path)[1:]:
        owner = _owner(part)
        if owner is not None and owner != path:
            raise UserError(
                f"{part} holds the weights of {owner}, another export: choose another path, or move both away"
            )
        if not path.is_file():
            require_replaceable(part, lambda file: False, writer="export", option="path")


def _owner(part: Path) -> Path | None:
    """The exported file that another one beside it belongs to."""
    if not part.is_file():
        return None
    for path in part.parent.iterdir():
        for format in FORMATS.values():
            if part not in format.parts(path)[1:] or path.suffix.lower() not in format.suffixes:
                continue
            with suppress(UserError):  # a damaged one, or with another file beside it
                if (text := format.read_metadata(path)) is not None:
                    require_intact(ExportRecord.from_json(text), path)
                    return path
    return None


def model_parts(model: Any) -> tuple[nn.Module, Usage, str | None]:
    """The network of a model, how it is used, and which weights it has, in words."""
    if isinstance(model, nn.Module):
        network = without_wrappers(model)
        usage, weights = getattr(network, "usage", None), getattr(network, "weights", None)
    elif isinstance(getattr(model, "network", None), nn.Module):  # a LoadedModel
        network, weights = without_wrappers(model.network), model.weights
        usage = Usage(model.name, model.preprocess, model.postprocess, model.classes, model.palette)
    else:
        raise UserError(
            f"this {type(model).__name__} is no model: expected a network of create_model, or what "
            "load_model returned"
        )
    if isinstance(network, Session):
        raise UserError(f"{network.path} is an exported file: give the weights that it was made of")
    if not isinstance(usage, Usage):
        raise UserError(
            f"this {type(network).__name__} is no whole model: expected a network of create_model, which "
            "knows its input and output rule"
        )
    if not network.num_classes and not isinstance(network, PatchDescriptor):
        raise UserError(f"this {usage.name} has num_classes=0: it returns features, not classes")
    if is_meta(network):
        raise UserError(f"this {usage.name} is on the meta device: it has no weights")
    return network, usage, weights if isinstance(weights, str) else None


def _record(
    network: Any,
    usage: Usage,
    *,
    size: int | Sequence[int] | None,
    batch: int,
    dynamic: str | None,
    precision: str,
    includes: Collection[str],
    format: Format,
    weights: str | None,
) -> tuple[ExportRecord, str]:
    """What the file will do, and which dimensions are free; UserError for what cannot be."""
    arch, name = network.arch, usage.name
    channels = network.in_chans if isinstance(network, PatchDescriptor) else network.trunk.in_chans
    format.require_precision(precision)
    unknown = sorted({*includes} - {*INCLUDES})
    if unknown:
        raise UserError(f"cannot include {unknown[0]!r}: choose from {', '.join(INCLUDES)}")
    if "preprocess" in includes and channels != len(usage.preprocess.mean):
        raise UserError(
            f"the network takes {channels} channels, but its input rule makes {len(usage.preprocess.mean)}: "
            "leave the preprocessing out"
        )
    if dynamic is None:
        dynamic = "none"
        if isinstance(arch, DescriptorArch):
            dynamic = "batch" if batch == 1 and "batch" in format.dynamic_in(precision) else "none"
        elif size is None and prepared_size(usage.preprocess) is None:
            dynamic = "size"
    require_dimensions(format, size=size, batch=batch, dynamic=dynamic, precision=precision)
    if dynamic == "size":
        if isinstance(arch, SSDArch | DescriptorArch):
            side = arch.size if isinstance(arch, SSDArch) else arch.patch
            raise UserError(f"{name} takes inputs of {side}×{side} alone: dynamic size is impossible")
        preprocess = usage.preprocess
        height: int | str = "H"
        width: int | str = "W"
        if "preprocess" in includes and not _makes_multiples(preprocess):
            raise UserError(
                f"the input rule of {name} pads normalised images to multiples of "
                f"{preprocess.input_divisor}, which a file of dynamic size cannot: leave the preprocessing "
                "out, or give a size"
            )
    else:
        preprocess = _for_size(usage.preprocess, size, name)
        shown = prepared_size(preprocess)
        taken = input_size(*shown, preprocess)
        height, width = shown if "preprocess" in includes else taken
        _require_size(arch, taken, name)
        if batch * height * width > _MOST_PIXELS:
            raise UserError(f"{batch} images of {height}×{width} pixels are too many for a batch")
    rule = usage.postprocess
    if isinstance(rule, SegmentationPostprocess) and network.num_classes > NO_CLASS:
        raise UserError(
            f"cannot export this {name}: masks of 8 bits hold up to {NO_CLASS} classes, got "
            f"{network.num_classes}"
        )
    window = getattr(rule, "window", None)
    if "postprocess" not in includes and window is not None and (height, width) not in (window, ("H", "W")):
        raise UserError(
            f"the output rule of {name} slides a window of {window[0]}×{window[1]} over images: leave their "
            "size dynamic, or have the postprocessing inside"
        )
    if "postprocess" in includes:
        if isinstance(arch, SSDArch) and not format.suppression:
            raise UserError(
                f"the format {format.name} has no non-maximum suppression: leave the postprocessing out"
            )
        if dynamic == "size" and window is not None:
            raise UserError("a sliding window over images of any size cannot be inside: give a size")
    record = ExportRecord(
        usage=replace(usage, preprocess=preprocess),
        arch=arch,
        num_classes=network.num_classes,
        in_chans=channels,
        input_shape=(
            batch if dynamic == "none" else "N",
            3 if "preprocess" in includes else channels,
            height,
            width,
        ),
        outputs=answer_names(arch) if "postprocess" in includes else output_names(arch),
        precision=precision,
        includes=tuple(each for each in INCLUDES if each in includes),
        weights=weights,
    )
    try:
        record.require_valid()
        if usage.classes is not None:  # for programs that print them, the names that ``predict`` prints
            record = replace(record, usage=replace(record.usage, classes=readable(usage.classes)))
            record.require_valid()
    except ValueError as error:
        raise UserError(f"cannot export this {name}: {error}") from None
    return record, dynamic


def require_dimensions(
    format: Format, *, size: int | Sequence[int] | None, batch: int, dynamic: str | None, precision: str
) -> None:
    """UserError for an input that no file of a format has, whatever the model.

    Args:
        format: of the file.
        size: as of ``export``.
        batch: as of ``export``.
        dynamic: of ``DYNAMIC``; None: up to the model.
        precision: of the numbers in the file.
    """
    if type(batch) is not int or batch < 1:
        raise UserError(f"batch must be an integer of at least 1, got {batch!r}")
    if size is not None:
        height_width(size)
    if dynamic is None:
        return
    allowed = format.dynamic_in(precision)
    if dynamic not in allowed:
        cure = ": give a size" if dynamic == "size" else f": choose from {', '.join(allowed)}"
        kind = f"{format.name} and {precision}" if dynamic in format.dynamic else format.name
        raise UserError(f"a file in format {kind} has no dynamic {dynamic}{cure}")
    if dynamic != "none" and batch != 1:
        raise UserError(f"batch {batch} fixes the number of images, but dynamic {dynamic} leaves it free")
    if dynamic == "size" and size is not None:
        raise UserError("size fixes what dynamic size leaves free: give one of them")


def prepared_size(rule: Preprocess) -> tuple[int, int] | None:
    """(height, width) of images as ``inference.prepare`` returns them; None where it depends on the image."""
    if rule.pad is not None and rule.pad.to is not None:
        return rule.pad.to
    if rule.resize == "stretch" or (rule.resize == "short" and rule.size is not None):
        height, width = rule.height_width
        return (height, width) if rule.pad is None else rule.pad.size(height, width)
    return None


def height_width(size: Any) -> tuple[int, int]:
    """(height, width) of a size that may be one number; UserError for anything else."""
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, tuple | list) or len(sides) != 2:
        raise UserError(f"a size is height and width in pixels, or both as one number, got {size!r}")
    if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        shown = "×".join(map(str, sides))
        raise UserError(f"the size {shown} is out of range: expected sides of 1 to {MAX_SIDE} pixels")
    return sides[0], sides[1]


def _for_size(rule: Preprocess, size: int | Sequence[int] | None, name: str) -> Preprocess:
    """The input rule for images of a size: the same where it has that size, else one that resizes to it."""
    usual = prepared_size(rule)
    if size is None:
        if usual is None:
            raise UserError(
                f"the input rule of {name} keeps the size of images: give a size, or dynamic size"
            )
        return rule
    sides = height_width(size)
    if sides == usual:
        return rule
    if rule.pad is not None and rule.pad.to is not None:
        if rule.resize == "fit" and rule.height_width == tuple(rule.pad.to):  # a letterbox, of another size
            return replace(rule, size=sides, pad=replace(rule.pad, to=sides))
        raise UserError(
            f"the input rule of {name} pads images to {rule.pad.to[0]}×{rule.pad.to[1]}, and does not tell "
            f"how they fill {sides[0]}×{sides[1]}: leave the size out, or change the rule"
        )
    try:
        if rule.resize == "short" and rule.size is not None and rule.pad is None:
            height, width = rule.height_width
            factor = max(sides[0] / height, sides[1] / width)
            short = None if rule.resize_to is None else round(rule.resize_to * factor)
            return replace(rule, size=sides, resize_to=short)
        return replace(rule, resize="stretch", size=sides, factor=None, resize_to=None, pad=None)
    except ValueError as error:
        raise UserError(f"size {sides[0]}×{sides[1]}: {error}") from None


def _require_size(arch: Any, size: tuple[int, int], name: str) -> None:
    height, width = size
    if isinstance(arch, SSDArch | DescriptorArch):
        side = arch.size if isinstance(arch, SSDArch) else arch.patch
        if size != (side, side):
            raise UserError(f"{name} takes inputs of {side}×{side} alone, got {height}×{width}")
    elif isinstance(arch, CenterNetArch) and (height % INPUT_MULTIPLE or width % INPUT_MULTIPLE):
        raise UserError(
            f"{name} takes inputs whose sides are multiples of {INPUT_MULTIPLE}, got {height}×{width}"
        )
    elif min(size) < (least := least_side(getattr(arch, "trunk", arch))):
        raise UserError(f"{name} takes inputs of at least {least}×{least}, got {height}×{width}")


def _makes_multiples(rule: Preprocess) -> bool:
    """Whether ``to_input`` has nothing to pad, but for images that are too small."""
    return rule.input_divisor == 1 or (rule.pad is not None and rule.pad.multiple % rule.input_divisor == 0)


def _example(record: ExportRecord) -> Tensor:
    """An input as the record says: random, of a free size where it may."""
    usual = dict(zip((2, 3), _EXAMPLE_SIDES, strict=True)) | {0: 2}  # not 1, which is never free
    step = record.side_multiple
    shape = []
    for index, size in enumerate(record.input_shape):
        if isinstance(size, str):
            size = usual[index] if index == 0 else -(-max(usual[index], record.least_side) // step) * step
        shape.append(size)
    generator = torch.Generator().manual_seed(0)
    if "preprocess" in record.includes:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.rand(shape, generator=generator)


def _no_suppression(*_: Any) -> Tensor:
    raise AssertionError("checked before")
