"""``predict IMAGES… --model MODEL``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hardnet_suite.cli._options import (
    add_precision_arguments,
    add_threads_argument,
    choose_device,
    flush_denormals,
    is_first_rank,
    is_of_several,
    printable,
    require_threads,
    set_threads,
    settle_tag,
    show,
)
from hardnet_suite.cli.models import FIGURES
from hardnet_suite.config_names import find_config, own_configs, unknown_model
from hardnet_suite.errors import UserError
from hardnet_suite.names import known_name
from hardnet_suite.precision import settled_precision
from hardnet_suite.run_folders import find_run
from hardnet_suite.weights.file import ENGINE_SUFFIXES, WEIGHTS_SUFFIXES

if TYPE_CHECKING:
    from hardnet_suite.prediction import LoadedModel, Prediction, PredictionWriter
    from hardnet_suite.prediction.files import DrawingFile, LinesFile, VideoFile

    Writer = PredictionWriter | DrawingFile | LinesFile | VideoFile

_MOST_WORKERS = 256
_SUFFIXES = (".py", *WEIGHTS_SUFFIXES, *ENGINE_SUFFIXES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        help="images, folders, patterns, addresses, videos, or camera:0 (or 0, where no file has that name)",
    )
    parser.add_argument(
        "--model",
        required=True,
        help="a name such as hardnet68, a config (.py, which runs), a file of weights, an exported file, or "
        "a run's folder",
    )
    parser.add_argument("--weights", help="a tag such as camvid, or a file (default: the published weights)")
    parser.add_argument(
        "--out",
        help="a folder for drawings, masks and predictions.jsonl; or a file: .jpg or .png for one image, "
        ".mp4 for one video, .jsonl for lines of JSON without drawings",
    )
    parser.add_argument(
        "--top",
        type=int,
        help="at most so many guesses, boxes or classes of a mask (default: 5 guesses, or all)",
    )
    parser.add_argument("--score", type=float, help="least score, 0 to 1 (default: 0.3 of a box)")
    parser.add_argument("--batch-size", type=int, default=1, help="images at once (default 1)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add_threads_argument(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads that read images ahead, and draw (default: as many as PyTorch has, up to 8; 0: none)",
    )
    add_precision_arguments(parser)


def run(args: argparse.Namespace) -> int:
    require_model(args.model)
    if args.weights is not None:
        args.weights = settle_weights(args.model, args.weights)
    for name, number in (("top", args.top), ("batch-size", args.batch_size)):
        if number is not None and number < 1:
            raise UserError(f"--{name} {number}: expected a number of at least 1")
    if args.score is not None and not 0 <= args.score <= 1:
        raise UserError(f"--score {args.score}: expected a number from 0 to 1")
    args.precision = settled_precision(args.precision, bf16=args.bf16)
    require_threads(args.threads)
    if args.workers is not None and not 0 <= args.workers <= _MOST_WORKERS:
        raise UserError(f"--workers {args.workers}: expected 0 to {_MOST_WORKERS}")
    with warnings.catch_warnings():
        _show_left_out()
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from hardnet_suite.data.sources import require_some

    require_some(args.images)
    choose_device(args.device)
    set_threads(args.threads)
    # what OpenCV and FFmpeg print of a damaged video; the error says it in a line
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if is_first_rank() and args.model.endswith(".py") and Path(args.model).is_file():
        show(f"config: {args.model}, which runs as a program", sys.stderr)
    if is_of_several():
        if args.precision == "auto":  # and the processes could choose differently
            raise UserError("--precision auto times one process: choose float32 or bf16 under torchrun")
        from hardnet_suite.cli._predict_on_ranks import predict_on_ranks

        return predict_on_ranks(args)
    images = args.images[0] if len(args.images) == 1 else args.images
    writer = open_writer(args, images)  # first, as a folder of another program's predictions is refused
    model = load(args)
    if model.choice is not None:
        show(f"precision: {model.choice}")
    show(f"weights: {model.weights}")
    if writer is not None:
        writer.create()
    return _predict(args, images, model, writer)


def load(args: argparse.Namespace) -> LoadedModel:
    """The model of the command line."""
    from hardnet_suite.prediction import load_model

    flush_denormals()
    return load_model(args.model, weights=args.weights, device=args.device, precision=args.precision)


def _predict(
    args: argparse.Namespace, images: str | list[str], model: LoadedModel, writer: Writer | None
) -> int:
    """Prints, draws and writes the predictions in order; the exit status."""
    from tqdm import tqdm

    from hardnet_suite.data.report import has_live_line
    from hardnet_suite.data.sources import count_of
    from hardnet_suite.prediction import PredictionWriter
    from hardnet_suite.prediction.files import LinesFile, VideoFile
    from hardnet_suite.prediction.run import predict, usual_workers
    from hardnet_suite.prediction.workers import map_ahead

    workers = usual_workers(images) if args.workers is None else args.workers
    failed: list[tuple[str, str]] = []
    shown = count = 0
    drawings: set[Path] = set()  # of a folder

    def show_skipped(end: int) -> None:
        nonlocal shown
        for name, reason in failed[shown:end]:
            show_line(f"skipped: {reason}", sys.stderr)
            if isinstance(writer, LinesFile):
                writer.write_failure(name, reason)
        shown = max(shown, end)

    is_video = isinstance(writer, VideoFile)
    draw, place = _steps(writer)
    with warnings.catch_warnings(), writer if isinstance(writer, VideoFile | LinesFile) else nullcontext():
        quiet_warnings()
        predictions = predict(
            model,
            images,
            top=args.top,
            score=args.score,
            batch_size=args.batch_size,
            workers=workers,
            stream=True,
            failed=failed,
        )
        # what is skipped is shown in its place, though later images have been read
        counted = ((prediction, len(failed)) for prediction in predictions)
        drawn = map_ahead(
            lambda pair: draw(pair[0]), counted, workers=workers if writer else 0, ahead=2 * workers + 1
        )
        total = count_of(images)
        hidden = total == 1 or not has_live_line(sys.stderr)
        try:
            with closing(predictions), closing(drawn):
                for (prediction, skipped), drawing in tqdm(drawn, total=total, unit="image", disable=hidden):
                    show_skipped(skipped)
                    count += 1
                    if not is_video:
                        show_line(str(prediction), sys.stdout)
                    path = place(prediction, drawing.result())
                    if isinstance(writer, PredictionWriter):
                        drawings.add(path)
        finally:
            show_skipped(len(failed))
            discard(writer)
    if writer is not None:
        show_total(len(drawings) or count, "frame" if is_video else "image", args.out)
    return 1 if failed else 0


def _steps(writer: Writer | None) -> tuple[Callable[[Prediction], Any], Callable[[Prediction, Any], Any]]:
    """What draws a prediction, in any thread, and what writes the drawing, one after the other."""
    from hardnet_suite.prediction import PredictionWriter
    from hardnet_suite.prediction.files import LinesFile, VideoFile

    if isinstance(writer, PredictionWriter | LinesFile):
        return writer.stage.add, lambda _, staged: writer.place(staged)
    if isinstance(writer, VideoFile):
        return writer.draw, writer.add
    return lambda _: None, lambda prediction, _: writer and writer.write(prediction)


def discard(writer: Writer | None) -> None:
    """Removes drawings that an error or interruption left without their names."""
    from hardnet_suite.prediction import PredictionWriter

    if isinstance(writer, PredictionWriter):
        writer.stage.discard()


def show_line(text: str, stream: TextIO) -> None:
    """Prints a line above the progress bar."""
    from tqdm import tqdm

    tqdm.write(printable(text.replace("\n", "\\n"), stream), file=stream)


def show_total(count: int, unit: str, out: str) -> None:
    """Shows what is in ``--out``: an image that was given twice is drawn into a folder once."""
    show(f"{count} {unit if count == 1 else f'{unit}s'}: {out}")


def _show_left_out() -> None:
    """Shows what a source leaves out as a line, once."""
    from hardnet_suite.data.sources import LeftOutWarning

    usual, shown = warnings.showwarning, set()

    def show_warning(message, category, *place) -> None:
        if not issubclass(category, LeftOutWarning):
            usual(message, category, *place)
        elif str(message) not in shown and is_first_rank():
            shown.add(str(message))
            show_line(f"warning: {message}", sys.stderr)

    warnings.simplefilter("always", LeftOutWarning)
    warnings.showwarning = show_warning


def quiet_warnings() -> None:
    """Leaves what cannot be read to the lines that are shown."""
    warnings.simplefilter("ignore", UserWarning)
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's, of what it reads


def require_model(model: str) -> None:
    """Checks a name or path before anything is imported that takes seconds.

    Raises:
        UserError: it is neither a model nor a config of the suite, and no file or folder.
    """
    names = [*FIGURES, *own_configs()]
    known = known_name(model, names)
    if Path(model).is_file():
        from hardnet_suite.data.images import IMAGE_SUFFIXES
        from hardnet_suite.data.sources import VIDEO_SUFFIXES

        if model.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)):
            raise UserError(f"{model} is an image or video, expected a model after --model")
    if known is not None or os.path.exists(model) or find_run(model, names) is not None:
        return
    if is_path(model):
        if Path(model).suffix == ".py" and os.sep not in model:
            find_config(model)  # of the suite
            return
        raise UserError(f"--model {model}: no such file or folder")
    if not Path(model).suffix:
        raise unknown_model(model, FIGURES)


def is_path(model: str) -> bool:
    """Whether a name can only be that of a file or folder."""
    return os.sep in model or Path(model).suffix.lower() in _SUFFIXES


def load_any_model(model: str, weights: str | None = None) -> Any:
    """A model of ``load_model`` on the CPU; a patch descriptor as the network of ``load_descriptor``."""
    from hardnet_suite.matching import load_descriptor
    from hardnet_suite.prediction import load_model
    from hardnet_suite.prediction.model import NoTaskError

    try:
        return load_model(model, weights=weights, device="cpu")
    except NoTaskError:
        return load_descriptor(model, weights=weights, device="cpu")


def settle_weights(model: str, weights: str) -> str:
    """A tag of the model's weights as the registry has it; a path stays as it is.

    Raises:
        UserError: neither.
    """
    name = known_name(model, FIGURES)
    is_run = find_run(model, [*FIGURES, *own_configs()]) is not None
    if os.path.lexists(weights) or "://" in weights or name is None or is_run:
        return weights
    if os.sep in weights or Path(weights).suffix.lower() in _SUFFIXES:
        raise UserError(f"--weights {weights}: no such file or folder")
    return settle_tag(weights, name)


def open_writer(args: argparse.Namespace, images: str | list[str]) -> Writer | None:
    """What ``--out`` stands for.

    Raises:
        UserError: the images do not go there, or something else is there.
    """
    from hardnet_suite.data.sources import count_of, is_camera, is_one_video
    from hardnet_suite.prediction import PredictionWriter
    from hardnet_suite.prediction.files import (
        DrawingFile,
        LinesFile,
        VideoFile,
        names_file,
        names_lines,
        names_video,
    )

    if args.out is None:
        return None
    if not args.out:
        raise UserError("--out is empty: give the name of a folder or file")
    out = Path(args.out)
    if names_file(out):
        count = count_of(images)
        if count is None or count > 1:
            given = "a video, camera or tar file" if count is None else f"{count} images"
            raise UserError(f"--out {out} is one image, got {given}: give a folder (a video: a file .mp4)")
        return DrawingFile(out)
    if names_video(out):
        if not is_one_video(images):
            raise UserError(f"--out {out} is for the frames of one video or camera: give a folder")
        return VideoFile(out)
    if names_lines(out):
        return LinesFile(out, recording=is_camera(images))
    if any(Path(source).is_dir() and Path(source).resolve() == out.resolve() for source in args.images):
        raise UserError(f"--out {out} is the folder of the images: choose another, or drawings mix with them")
    return PredictionWriter(out)
