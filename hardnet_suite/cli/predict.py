"""``predict IMAGES… --model MODEL``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hardnet_suite.cli._options import (
    add_bf16_argument,
    add_threads_argument,
    choose_device,
    flush_denormals,
    printable,
    set_threads,
    show,
)
from hardnet_suite.cli.models import FIGURES
from hardnet_suite.config_names import own_configs
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name

if TYPE_CHECKING:
    from hardnet_suite.prediction import PredictionWriter
    from hardnet_suite.prediction.files import DrawingFile, VideoFile

    Writer = PredictionWriter | DrawingFile | VideoFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        help="images, folders, patterns, addresses, videos, or camera:0 (or 0, where no file has that name)",
    )
    parser.add_argument(
        "--model",
        required=True,
        help="a name such as hardnet68, a config (.py, which runs), a file of weights, or a run's folder",
    )
    parser.add_argument("--weights", help="a tag such as camvid, or a file (default: the published weights)")
    parser.add_argument(
        "--out",
        help="a folder for drawings, masks and predictions.jsonl; or a file: .jpg or .png for one image, "
        ".mp4 for one video",
    )
    parser.add_argument("--top", type=int, default=5, help="how many guesses of a classifier (default 5)")
    parser.add_argument("--score", type=float, default=0.3, help="least score of a box, 0 to 1 (default 0.3)")
    parser.add_argument("--batch-size", type=int, default=1, help="images at once (default 1)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add_threads_argument(parser)
    add_bf16_argument(parser)


def run(args: argparse.Namespace) -> int:
    _require_model(args.model)
    choose_device(args.device)
    set_threads(args.threads)
    if args.top < 1 or args.batch_size < 1 or not 0 <= args.score <= 1:
        raise UserError(
            f"--top {args.top} and --batch-size {args.batch_size} must be at least 1, --score {args.score} "
            "from 0 to 1"
        )
    # what OpenCV and FFmpeg print of a damaged video; the error says it in a line
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from tqdm import tqdm

    from hardnet_suite.data.sources import count_of
    from hardnet_suite.prediction import load_model, predict
    from hardnet_suite.prediction.files import VideoFile

    if args.model.endswith(".py") and Path(args.model).is_file():
        show(f"config: {args.model}, which runs as a program", sys.stderr)
    images = args.images[0] if len(args.images) == 1 else args.images
    writer = _writer(args, images)  # first, as a folder of another program's predictions is refused
    flush_denormals()
    model = load_model(args.model, weights=args.weights, device=args.device, bf16=args.bf16)
    show(f"weights: {model.weights}")
    if writer is not None:
        writer.create()
    failed: list[tuple[str, str]] = []
    shown = count = 0

    def show_skipped() -> None:
        nonlocal shown
        for _, reason in failed[shown:]:
            tqdm.write(printable(f"skipped: {reason}".replace("\n", "\\n"), sys.stderr), file=sys.stderr)
        shown = len(failed)

    is_video = isinstance(writer, VideoFile)
    with warnings.catch_warnings(), writer if is_video else nullcontext():
        warnings.simplefilter("ignore", UserWarning)  # show_skipped reports what cannot be read
        warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's, of what it reads
        predictions = predict(
            model,
            images,
            top=args.top,
            score=args.score,
            batch_size=args.batch_size,
            stream=True,
            failed=failed,
        )
        total = count_of(images)
        hidden = total == 1 or not sys.stderr.isatty()
        try:
            for prediction in tqdm(predictions, total=total, unit="image", disable=hidden):
                show_skipped()
                count += 1
                if not is_video:
                    tqdm.write(printable(str(prediction), sys.stdout), file=sys.stdout)
                if writer is not None:
                    writer.write(prediction)
        finally:
            show_skipped()
    if writer is not None:
        unit = "frame" if is_video else "image"
        show(f"{count} {unit if count == 1 else f'{unit}s'}: {args.out}")
    return 1 if failed else 0


def _require_model(model: str) -> None:
    """Checks a name before anything is imported that takes seconds; what looks like a path is left for later.

    Raises:
        UserError: it is neither a model nor a config of the suite, and no file or folder.
    """
    names = [*FIGURES, *own_configs()]
    if os.sep in model or Path(model).suffix or os.path.exists(model) or known_name(model, names):
        return
    raise UserError(
        f"{model} is not a model, config (.py) or file of weights; {did_you_mean(model, names)}models: "
        f"{', '.join(FIGURES)}"
    )


def _writer(args: argparse.Namespace, images: str | list[str]) -> Writer | None:
    from hardnet_suite.data.images import IMAGE_SUFFIXES
    from hardnet_suite.data.sources import VIDEO_SUFFIXES, count_of, is_one_video
    from hardnet_suite.prediction import PredictionWriter
    from hardnet_suite.prediction.files import DrawingFile, VideoFile, names_file, names_video

    if args.out is None:
        return None
    if not args.out:
        raise UserError("--out is empty: give the name of a folder or file")
    out = Path(args.out)
    if names_file(out):
        count = count_of(images)
        if count is None or count > 1:
            given = "a video or camera" if count is None else f"{count} images"
            raise UserError(f"--out {out} is one image, got {given}: give a folder (a video: a file .mp4)")
        return DrawingFile(out)
    if names_video(out):
        if not is_one_video(images):
            raise UserError(f"--out {out} is for the frames of one video or camera: give a folder")
        return VideoFile(out)
    if out.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not out.is_dir():
        raise UserError(f"--out {out}: expected a folder, or a file .jpg, .png or .mp4")
    if any(Path(source).is_dir() and Path(source).resolve() == out.resolve() for source in args.images):
        raise UserError(f"--out {out} is the folder of the images: choose another, or drawings mix with them")
    return PredictionWriter(out)
