"""``export --model MODEL --out FILE``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from hardnet_suite.cli._options import (
    add_threads_argument,
    choose_device,
    flush_denormals,
    require_threads,
    set_threads,
    show,
)
from hardnet_suite.cli.predict import load_any_model, require_model, settle_weights
from hardnet_suite.data.report import counted
from hardnet_suite.deploy.formats import DYNAMIC, FORMATS, PRESETS, find_format
from hardnet_suite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help="a name such as hardnet68, a config (.py, which runs), a file of weights, or a run's folder",
    )
    parser.add_argument("--weights", help="a tag such as camvid, or a file (default: the published weights)")
    parser.add_argument("--out", required=True, help="the file to write")
    parser.add_argument("--format", choices=FORMATS, help="default: told by the end of --out")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width of the images, or both as one number (default: as the model takes them)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images per batch (default 1)")
    parser.add_argument(
        "--dynamic",
        choices=DYNAMIC,
        help="what is free: the number of images (batch), also their height and width (size), or none",
    )
    parser.add_argument(
        "--precision",
        choices=sorted({each for format in FORMATS.values() for each in format.precisions}),
        default="fp32",
        help="of the numbers in the file (default fp32)",
    )
    parser.add_argument(
        "--with",
        dest="includes",
        nargs="+",
        choices=("preprocess", "postprocess"),
        default=[],
        help="what is inside: normalisation of uint8 RGB pixels, decoding to boxes, masks or probabilities",
    )
    parser.add_argument(
        "--calibration", metavar="IMAGES", help="int8: images, or their folder, like those that it will see"
    )
    parser.add_argument(
        "--calibration-images", type=int, metavar="N", help="int8: how many of them are used (default 128)"
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="int8: how many of 100 answers (best classes, pixels, boxes) may change (default 10)",
    )
    parser.add_argument(
        "--keep-float",
        nargs="+",
        metavar="LAYER",
        help="int8: layers that stay in float, by the beginnings of their names, such as trunk.stem fc",
    )
    parser.add_argument("--preset", choices=PRESETS, help="int8: maps with a zero point (mixed) or without")
    parser.add_argument("--images", help="images, or their folder, to compare the file with PyTorch on")
    add_threads_argument(parser)


def run(args: argparse.Namespace) -> int:
    require_model(args.model)
    if args.weights is not None:
        args.weights = settle_weights(args.model, args.weights)
    require_threads(args.threads)
    format = find_format(args.format, args.out)
    format.require_precision(args.precision)
    format.require_packages(to_write=True)
    folders = [images for images in (args.images, args.calibration) if images is not None]
    if folders:
        from hardnet_suite.data.sources import require_some

        require_some(folders)
    _require_calibration(args)
    choose_device("cpu")
    set_threads(args.threads)
    from hardnet_suite.deploy.agreement import DisagreementError
    from hardnet_suite.deploy.exporting import export_file, require_dimensions

    size = _size(args.size)
    require_dimensions(format, size=size, batch=args.batch, dynamic=args.dynamic, precision=args.precision)
    flush_denormals()
    quantization = _quantization(args)
    model = _load(args)
    show(f"weights: {model.weights}")
    try:
        exported = export_file(
            model,
            args.out,
            format=args.format,
            size=size,
            batch=args.batch,
            dynamic=args.dynamic,
            precision=args.precision,
            includes=args.includes,
            images=args.images,
            quantization=quantization,
        )
    except DisagreementError as error:
        if args.debug:
            raise
        show(f"error: {error}", sys.stderr)
        return 1
    record = exported.record
    shape = "×".join(map(str, record.input_shape))
    least = ""
    if "H" in record.input_shape:
        least = f", H and W of at least {record.least_side}"
        least += f", multiples of {record.side_multiple}" if record.side_multiple > 1 else ""
    show(f"input: {record.input_name} {shape}{least}")
    show(f"outputs: {', '.join(record.outputs)}")
    show(f"{exported.path} {exported.agreement}")
    if quantization is not None and exported.agreement.drop is not None:
        where = f"{counted(exported.agreement.images, 'image')} of {args.images or args.calibration}"
        show(
            f"drop: {exported.agreement.drop:.2f} of 100 {exported.agreement.unit} differ from PyTorch's in "
            f"float32 on {where}; what that costs on labels says hardnet-suite test"
        )
    if exported.format == "tensorrt-onnx":
        from hardnet_suite.deploy.formats.tensorrt_onnx import trtexec

        show(f"to build an engine: {trtexec(exported.path, record)}")
    return 0


# option of int8 -> field of ``Quantization``
_OF_INT8 = {
    "calibration": "images",
    "calibration_images": "count",
    "max_drop": "max_drop",
    "keep_float": "keep",
    "preset": "preset",
}


def _require_calibration(args: argparse.Namespace) -> None:
    """The options of int8 belong together."""
    if args.precision == "int8" and args.calibration is None:
        raise UserError("int8 is calibrated on images: give them, or their folder, with --calibration")
    for option in _OF_INT8:
        if args.precision != "int8" and getattr(args, option) is not None:
            raise UserError(f"--{option.replace('_', '-')} is for --precision int8")


def _quantization(args: argparse.Namespace) -> Any:
    """How to quantise; None for other precisions."""
    from hardnet_suite.deploy.quantize import Quantization

    if args.precision != "int8":
        return None
    given = {
        field: getattr(args, option)
        for option, field in _OF_INT8.items()
        if getattr(args, option) is not None
    }
    return Quantization(**given | {"keep": tuple(given.get("keep", ()))})


def _load(args: argparse.Namespace) -> Any:
    """A model with weights; a patch descriptor as a network."""
    if args.model.endswith(".py"):
        show(f"config: {args.model}, which runs as a program", sys.stderr)
    return load_any_model(args.model, args.weights)


def _size(values: list[int] | None) -> int | list[int] | None:
    if values is not None and len(values) > 2:
        raise UserError(f"--size: expected height and width, got {len(values)} numbers")
    return values[0] if values is not None and len(values) == 1 else values
