"""``torchrun … -m hardnet_suite predict IMAGES… --model MODEL``: each process predicts a share."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hardnet_suite.cli._options import show
from hardnet_suite.cli.predict import load, open_writer, quiet_warnings, show_line, show_total
from hardnet_suite.data.sources import SourceImage, count_of, expanded, images_of, is_camera, is_single
from hardnet_suite.errors import UserError

if TYPE_CHECKING:
    from hardnet_suite.prediction import LoadedModel
    from hardnet_suite.prediction.files import LinesFile, LineStage, StagedLine
    from hardnet_suite.prediction.ranks import Ranks
    from hardnet_suite.prediction.writer import DrawingStage, PredictionWriter, StagedPrediction


@dataclass(frozen=True)
class _NumberedImage(SourceImage):
    """An image and its place among those of all processes."""

    index: int = 0


class _Outcome(NamedTuple):
    """What one image came to: ``text`` and, with ``--out``, ``staged``; or the ``reason`` for none."""

    index: int
    text: str | None = None
    reason: str | None = None
    staged: dict[str, Any] | None = None


def predict_on_ranks(args: argparse.Namespace) -> int:
    """Predicts this process's share; the first process then writes and prints all, in the images' order.

    Nothing but hidden files is written before all shares are complete.

    Returns:
        The exit status: 1 of the first process where an image of any process was skipped.

    Raises:
        UserError: as ``predict``, or a camera, or an ``--out`` that is no folder.
    """
    from hardnet_suite.prediction.files import LinesFile, LineStage, names_lines
    from hardnet_suite.prediction.ranks import Ranks
    from hardnet_suite.prediction.writer import DrawingStage, PredictionWriter

    ranks = Ranks()
    if args.device in (None, "cuda"):
        args.device = ranks.device() or args.device
    writer: PredictionWriter | LinesFile | None = None
    if ranks.rank == 0:  # alone, so that an error is told once and weights are fetched once
        if any(map(is_camera, args.images)):
            raise UserError("a camera has no end: start predict without torchrun")
        images = expanded(args.images)
        opened = open_writer(args, images)
        if opened is not None and not isinstance(opened, PredictionWriter | LinesFile):
            raise UserError(f"--out {args.out}: under torchrun, give a folder or a file .jsonl")
        writer, model = opened, load(args)
        show(f"weights: {model.weights}")
        if writer is not None:
            writer.create()
        ranks.tell("images", images)
    else:
        images = ranks.hear("images")
        model = load(args)
    stage: DrawingStage | LineStage | None = writer.stage if writer else None
    if stage is None and args.out is not None:
        stage = LineStage(args.out) if names_lines(args.out) else DrawingStage(Path(args.out))
    try:
        entries = _share(args, ranks, images, model, stage)
        if ranks.rank:
            if isinstance(stage, LineStage):
                stage.flush()
            elif stage is not None:
                for entry in entries:  # before rank 0 knows of them, and moves or discards them
                    if entry.staged:
                        stage.hand_over(_unpacked(entry.staged))
            ranks.tell(f"entries of {ranks.rank}", entries)
            if isinstance(stage, LineStage):
                ranks.hear("lines are written")  # from this rank's file
            return 0
        for rank in range(1, ranks.size):
            entries += [_Outcome(*values) for values in ranks.hear(f"entries of {rank}")]
        status = _merge(args, sorted(entries, key=lambda entry: entry.index), writer)
        ranks.tell("lines are written", True)
        return status
    finally:
        if stage is not None:
            stage.discard()


def _share(
    args: argparse.Namespace,
    ranks: Ranks,
    images: list[str],
    model: LoadedModel,
    stage: DrawingStage | LineStage | None,
) -> list[_Outcome]:
    """Predicts and draws or writes every ``ranks.size``-th image."""
    from tqdm import tqdm

    from hardnet_suite.data.report import has_live_line
    from hardnet_suite.prediction.files import LineStage
    from hardnet_suite.prediction.run import predict_sources, usual_workers
    from hardnet_suite.prediction.workers import map_ahead

    entries: list[_Outcome] = []
    single = len(args.images) == 1 and is_single(args.images[0])

    def skip(source: SourceImage, error: UserError) -> None:
        if single:
            raise error
        reason = str(error)
        line = stage.add_failure(source.name, reason) if isinstance(stage, LineStage) else None
        entries.append(_Outcome(source.index, reason=reason, staged=line and _packed(line)))

    # as of one process: where a single tar file or video breaks off, that is an error of the whole call
    given = images[0] if len(args.images) == 1 and images == args.images else images
    workers = usual_workers(images) if args.workers is None else args.workers
    count = count_of(images)
    total = None if count is None else len(range(ranks.rank, count, ranks.size))
    hidden = ranks.rank > 0 or total in (0, 1) or not has_live_line(sys.stderr)
    with warnings.catch_warnings():
        quiet_warnings()
        predictions = predict_sources(
            model,
            islice(_numbered(given), ranks.rank, None, ranks.size),
            skip,
            top=args.top,
            score=args.score,
            batch_size=args.batch_size,
            workers=workers,
        )
        drawn = map_ahead(
            lambda prediction: stage and _packed(stage.add(prediction)),
            predictions,
            workers=workers if stage else 0,
            ahead=2 * workers + 1,
        )
        with closing(predictions), closing(drawn):
            for prediction, drawing in tqdm(drawn, total=total, unit="image", disable=hidden):
                entries.append(
                    _Outcome(prediction.source.index, text=str(prediction), staged=drawing.result())
                )
    return entries


def _numbered(images: str | list[str]) -> Iterator[SourceImage]:
    for index, source in enumerate(images_of(images)):
        yield _NumberedImage(**vars(source), index=index)


def _merge(
    args: argparse.Namespace, entries: list[_Outcome], writer: PredictionWriter | LinesFile | None
) -> int:
    from hardnet_suite.prediction.files import LinesFile

    count = sum(entry.text is not None for entry in entries)
    staged = [_unpacked(entry.staged) for entry in entries if entry.staged]
    if isinstance(writer, LinesFile):
        writer.place_all(staged)
    elif writer is not None:
        writer.stage.take_over(staged)
        count = len(set(writer.place_all(staged)))
    for entry in entries:
        if entry.text is not None:
            show_line(entry.text, sys.stdout)
        else:
            show_line(f"skipped: {entry.reason}", sys.stderr)
    if writer is not None:
        show_total(count, "image", args.out)
    return int(any(entry.reason is not None for entry in entries))


def _packed(staged: StagedPrediction | StagedLine) -> dict[str, Any]:
    """As JSON holds it."""
    return staged._asdict() if isinstance(staged, tuple) else asdict(staged)


def _unpacked(staged: dict[str, Any]) -> Any:
    from hardnet_suite.prediction.files import StagedLine
    from hardnet_suite.prediction.writer import StagedPrediction

    return StagedLine(**staged) if "start" in staged else StagedPrediction(**staged)
