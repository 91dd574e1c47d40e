"""``search INDEX QUERY … [--verify] [--out sheet.jpg]``."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hardnet_suite.cli._options import set_threads, show
from hardnet_suite.cli.describe import add_descriptor_arguments, choose_descriptor_device
from hardnet_suite.data.report import counted
from hardnet_suite.data.sources import SourceImage, images_of
from hardnet_suite.errors import UserError
from hardnet_suite.names import first_repeated
from hardnet_suite.outputs import require_replaceable, writing

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = (".png", ".jpg", ".jpeg")
_COMMAND = "search"  # whose rankings these are


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX", type=Path, help="what index wrote")
    parser.add_argument("queries", nargs="+", metavar="QUERY", help="images, folders, patterns or addresses")
    parser.add_argument("--top", type=int, default=10, help="images per query (default 10)")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="rank the best anew, 100 or --top if that is more, by the inliers of a homography",
    )
    parser.add_argument(
        "--out", type=Path, help="draw queries and what they find into this file, .png or .jpg"
    )
    parser.add_argument(
        "--ranked",
        type=Path,
        metavar="FOLDER",
        help="write QUERY.txt with all images of the index, the best first, for eval retrieval",
    )
    parser.add_argument(
        "--ground-truth",
        type=Path,
        metavar="DIR",
        help="the queries are the regions of DIR/NAME_query.txt, in the images given",
    )
    add_descriptor_arguments(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    choose_descriptor_device(args)
    set_threads(args.threads)
    from hardnet_suite.data.own_files import own_files
    from hardnet_suite.matching.index import VERIFIED, load_index

    queries = list(_regions(args) if args.ground_truth is not None else _images(args))
    index = load_index(args.index, model=args.descriptor, weights=args.weights, bf16=args.bf16)
    show(f"{args.index}: {counted(len(index), 'image')}, {index.method} of {len(index.codebook):,} words")
    show(f"weights: {index.detector.model.weights}")
    if args.ranked is not None:
        _require_rankings([name for name, *_ in queries], args.ranked, index.names)
    verify = args.verify and max(VERIFIED, args.top)
    rows, failed = [], 0
    for name, source, region in queries:
        start = time.perf_counter()
        try:
            image = _cut(source.open(), region, name)
            hits = index.search(image, top=None, verify=verify, name=name)
        except UserError as error:
            if len(queries) == 1:
                raise
            show(f"warning: skipped: {error}", sys.stderr)
            if args.ranked is not None:  # an earlier run's would be taken for this one's
                (args.ranked / f"{name}.txt").unlink(missing_ok=True)
            failed += 1
            continue
        if args.ranked is not None:
            file = f"{name}.txt"
            with own_files(args.ranked, _COMMAND, (file,)) as places, writing(args.ranked / file):
                places[file].write_bytes("".join(f"{hit.name}\n" for hit in hits).encode())
        hits = hits[: args.top]
        show(f"{name}: {1000 * (time.perf_counter() - start):.0f} ms")
        for rank, hit in enumerate(hits, 1):
            inliers = "" if hit.inliers is None else f"  {hit.inliers:5d} inliers"
            show(f"{rank:5d}  {hit.score:.3f}{inliers}  {hit.name}")
        if args.out is not None:
            rows.append((name, image, hits))
    if rows:
        _draw(rows, args.out)
    if args.ranked is not None:
        show(f"rankings: {args.ranked}")
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> None:
    if args.top < 1:
        raise UserError(f"--top {args.top}: expected at least 1")
    if args.out is not None:
        if args.out.suffix.lower() not in _SUFFIXES:
            raise UserError(f"--out {args.out}: expected a file {', '.join(_SUFFIXES)}")
        from hardnet_suite.visualization.canvas import is_drawing

        require_replaceable(args.out, is_drawing, writer="search", option="--out")


def _images(args: argparse.Namespace) -> Iterator[tuple[str, SourceImage, None]]:
    """Queries, each all of an image."""
    for source in images_of(args.queries[0] if len(args.queries) == 1 else args.queries):
        yield source.name if args.ranked is None else source.stem, source, None


def _regions(
    args: argparse.Namespace,
) -> Iterator[tuple[str, SourceImage, tuple[float, float, float, float]]]:
    """Queries with the image and region that their ground truth tells."""
    from hardnet_suite.evaluation.retrieval import image_stem, read_ground_truth

    images: dict[str, list[SourceImage]] = {}
    for source in images_of(args.queries):
        images.setdefault(image_stem(source.name), []).append(source)
    for name, query in read_ground_truth(args.ground_truth).items():
        sources = images.get(query.image, [])
        if len(sources) != 1:
            count = len(sources) or "none"
            raise UserError(
                f"query {name}: expected one image named {query.image}, {count} of those given is"
            )
        yield name, sources[0], query.region


def _require_rankings(queries: list[str], folder: Path, images: list[str]) -> None:
    """Checks that rankings can be written and scored, and replace earlier ones alone."""
    from hardnet_suite.data.own_files import require_own
    from hardnet_suite.evaluation.retrieval import image_stem

    twice = first_repeated(queries)
    if twice is not None:
        raise UserError(f"two queries are named {twice}: their rankings need a file each")
    if any(not name.strip() or name.splitlines() != [name] for name in images):
        raise UserError("the index has a name that is blank or has a line break: no ranking can list it")
    stem, count = Counter(map(image_stem, images)).most_common(1)[0] if images else ("", 0)
    if count > 1:
        raise UserError(
            f"the index has {count} images named {stem}: rankings tell images apart by name, without folder "
            "and suffix"
        )

    require_own(folder, _COMMAND, [f"{query}.txt" for query in queries], option="--ranked")


def _cut(image: Image, region: tuple[float, float, float, float] | None, name: str) -> Image:
    """The pixels of an image that a region touches."""
    if region is None:
        return image
    left, top = (max(0, math.floor(value)) for value in region[:2])
    right, bottom = (min(size, math.ceil(value)) for size, value in zip(image.size, region[2:], strict=True))
    if left >= right or top >= bottom:
        raise UserError(f"query {name}: its region lies outside the image of {image.width}×{image.height}")
    return image.crop((left, top, right, bottom))


def _draw(rows: list, path: Path) -> None:
    """A row per query: the query, then what it finds."""
    import numpy as np

    from hardnet_suite.visualization.canvas import PAPER, captioned, fitted, grid, read_rgb, save_drawing

    side = 240
    columns = 1 + max(len(hits) for _, _, hits in rows)
    cells = []
    for name, query, hits in rows:
        row = [captioned(fitted(np.array(query), side), [Path(name).name, "query"])]
        for hit in hits:
            try:
                if hit.file is None:
                    raise UserError(f"{hit.name}: the index does not say from which file it was read")
                image = fitted(read_rgb(hit.file.require_same()), side)
            except UserError as error:
                show(f"warning: not drawn: {error}", sys.stderr)
                image = np.full((side, side, 3), 224, np.uint8)
            inliers = "" if hit.inliers is None else f", {hit.inliers} inliers"
            row.append(captioned(image, [Path(hit.name).name, f"{hit.score:.3f}{inliers}"]))
        blank = np.full((1, 1, 3), PAPER, np.uint8)
        cells += row + [blank] * (columns - len(row))
    save_drawing(path, grid(cells, columns))
    show(f"drawing: {path}")
