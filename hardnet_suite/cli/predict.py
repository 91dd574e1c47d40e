"""``predict IMAGES… --model MODEL``."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from hardnet_suite.cli._options import add_bf16_argument, choose_device, flush_denormals
from hardnet_suite.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="images, folders, patterns, addresses, videos, or camera:0")
    parser.add_argument(
        "--model",
        required=True,
        help="a name such as hardnet68, a config (.py), a file of weights, or a run's folder",
    )
    parser.add_argument("--weights", help="a tag such as camvid, or a file (default: the published weights)")
    parser.add_argument("--out", help="write drawings, masks and predictions.jsonl into this folder")
    parser.add_argument("--top", type=int, default=5, help="how many guesses of a classifier (default 5)")
    parser.add_argument("--score", type=float, default=0.3, help="least score of a box, 0 to 1 (default 0.3)")
    parser.add_argument("--batch-size", type=int, default=1, help="images at once (default 1)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add_bf16_argument(parser)


def run(args: argparse.Namespace) -> int:
    choose_device(args.device)
    if args.top < 1 or args.batch_size < 1 or not 0 <= args.score <= 1:
        raise UserError(
            f"--top {args.top} and --batch-size {args.batch_size} must be at least 1, --score {args.score} "
            "from 0 to 1"
        )
    from tqdm import tqdm

    from hardnet_suite.data.sources import JSON_LINES, count_of, drawn_in
    from hardnet_suite.prediction import load_model, predict
    from hardnet_suite.prediction.result import free_stem

    out = Path(args.out) if args.out else None
    if out is not None and any(Path(source).is_dir() and _same(source, out) for source in args.images):
        raise UserError(f"--out {out} is the folder of the images: choose another, or drawings mix with them")
    flush_denormals()
    model = load_model(args.model, weights=args.weights, device=args.device, bf16=args.bf16)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / JSON_LINES).open("a").close()
        except OSError as error:
            raise UserError(f"cannot write into {out}: {error.strerror}; choose another --out") from None
    images = args.images[0] if len(args.images) == 1 else args.images
    failed: list[tuple[str, str]] = []
    shown = count = 0
    # an earlier run's drawings may be written over, anything else in that folder may not
    foreign = _files(out) - {name.casefold() for name in drawn_in(out)} if out is not None else set()

    def is_free(stem: str) -> bool:
        return not foreign & {f"{stem}.jpg".casefold(), f"{stem}_mask.png".casefold()}

    def show_skipped() -> None:
        nonlocal shown
        for _, reason in failed[shown:]:
            tqdm.write(f"skipped: {reason}", file=sys.stderr)
        shown = len(failed)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what cannot be read is said by show_skipped
        found = predict(
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
            for prediction in tqdm(found, total=total, unit="image", disable=hidden):
                show_skipped()
                tqdm.write(str(prediction), file=sys.stdout)
                count += 1
                if out is not None:
                    if count == 1:  # now that there is something new, an earlier run's lines may go
                        (out / JSON_LINES).write_text("", encoding="utf-8")
                    stem = free_stem(prediction.source.stem, is_free)
                    foreign |= {f"{stem}.jpg".casefold(), f"{stem}_mask.png".casefold()}
                    prediction.save(out, stem)
        finally:
            show_skipped()
    if out is not None:
        print(f"{count} {'image' if count == 1 else 'images'}: {out}")
    return 1 if failed else 0


def _same(one: str, other: Path) -> bool:
    return Path(one).resolve() == other.resolve()


def _files(folder: Path) -> set[str]:
    """The names in a folder, as a file system sees them that knows no case."""
    return {path.name.casefold() for path in folder.iterdir()}
