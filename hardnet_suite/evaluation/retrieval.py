"""Image retrieval by the protocol of Oxford5k (Philbin et al., CVPR 2007): mean average precision.

An image is named without folder and suffix: ``all_souls_000013``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardnet_suite.data.files import read_text
from hardnet_suite.data.images import IMAGE_SUFFIXES
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.tables import class_table
from hardnet_suite.names import first_repeated

__all__ = [
    "RetrievalQuery",
    "average_precision",
    "image_stem",
    "read_ground_truth",
    "read_ranked",
    "retrieval_ap",
    "retrieval_table",
]

_QUERY = "_query.txt"
_PREFIX = "oxc1_"  # before the names of images in Oxford's files of queries, and there alone


@dataclass(frozen=True)
class RetrievalQuery:
    """A region of an image, and which images show the same.

    Attributes:
        image: the name of the image.
        region: left, top, right, bottom in pixels.
        good: images that show the object clearly.
        ok: images that show more than a quarter of it.
        junk: images that show less; they are ignored, wherever they are ranked.
    """

    image: str
    region: tuple[float, float, float, float]
    good: frozenset[str]
    ok: frozenset[str]
    junk: frozenset[str]


def average_precision(
    ranked: Sequence[str], positive: Collection[str], ignored: Collection[str] = ()
) -> float:
    """Area under precision over recall by trapezia, as Oxford's program ``compute_ap`` has it.

    Precision is 1 at recall 0. Ignored images are taken out of the ranking, also where they are positive;
    positive images that are not ranked count as never found.

    Args:
        ranked: names, the best first.
        positive: names that are to be found, at least one: good and ok ones.
        ignored: names of junk images.

    Returns:
        0 to 1.

    Raises:
        ValueError: nothing is positive, or a name is ranked twice.
    """
    if len(set(ranked)) < len(ranked):
        raise ValueError("a name is ranked twice")
    positive, ignored = set(positive), set(ignored)
    if not positive:
        raise ValueError("expected at least one positive image")
    area, recall, precision, hits = 0.0, 0.0, 1.0, 0
    for rank, name in enumerate((name for name in ranked if name not in ignored), 1):
        hits += name in positive
        previous, recall = recall, hits / len(positive)
        before, precision = precision, hits / rank
        area += (recall - previous) * (before + precision) / 2
    return area


def retrieval_ap(
    ranked: Mapping[str, Sequence[str]], queries: Mapping[str, RetrievalQuery]
) -> dict[str, float]:
    """The average precision of each query; their mean is the mAP.

    Args:
        ranked: query -> names of images, the best first.
        queries: query -> its ground truth, as ``read_ground_truth`` reads it.

    Raises:
        UserError: a query has no ranking, no positive images, or a name ranked twice.
    """
    scores = {}
    for name, query in queries.items():
        if name not in ranked:
            raise UserError(f"no ranking of the query {name}")
        try:
            scores[name] = average_precision(ranked[name], query.good | query.ok, query.junk)
        except ValueError as error:
            raise UserError(f"query {name}: {error}") from None
    return scores


def retrieval_table(scores: Mapping[str, float]) -> str:
    """What ``retrieval_ap`` returns as text, in percent, with the mean."""
    columns = {"AP, %": [100 * score for score in scores.values()]}
    totals = {"mAP": (100 * sum(scores.values()) / len(scores),)}
    return class_table(list(scores), columns, totals=totals, digits=2, heading="query")


def read_ground_truth(folder: str | Path) -> dict[str, RetrievalQuery]:
    """Reads ``NAME_query.txt``, ``NAME_good.txt``, ``NAME_ok.txt`` and ``NAME_junk.txt`` of each query.

    A query's line is the image, with or without Oxford's ``oxc1_``, and its region: left, top, right, bottom.

    Returns:
        Query -> its ground truth, by name.

    Raises:
        UserError: no queries, or a file that is missing or malformed.
    """
    folder = Path(folder)
    files = sorted(folder.glob(f"*{_QUERY}"))
    if not files:
        raise UserError(f"no queries in {folder}: expected NAME{_QUERY}, NAME_good.txt, NAME_ok.txt, …")
    return {file.name.removesuffix(_QUERY): _read_query(file) for file in files}


def read_ranked(folder: str | Path, queries: Collection[str]) -> dict[str, list[str]]:
    """Reads rankings ``QUERY.txt``: one image per line, the best first, without folders and suffixes.

    Raises:
        UserError: a file is missing, cannot be read, or ranks an image twice.
    """
    rankings = {}
    for query in queries:
        path = Path(folder, f"{query}.txt")
        names = [image_stem(line) for line in _lines(path)]
        if (twice := first_repeated(names)) is not None:
            raise UserError(f"{path} ranks {twice} twice (images are told apart by name, without folder)")
        rankings[query] = names
    return rankings


def image_stem(name: str) -> str:
    """The name of an image without folder and suffix; dots within the name stay."""
    path = Path(name.strip())
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def _read_query(file: Path) -> RetrievalQuery:
    name = file.name.removesuffix(_QUERY)
    try:
        image, *corners = " ".join(_lines(file)).split()
        left, top, right, bottom = map(float, corners)
    except ValueError:
        raise UserError(f"{file}: expected an image and its region: left top right bottom") from None
    if not (all(map(math.isfinite, (left, top, right, bottom))) and left < right and top < bottom):
        raise UserError(f"{file}: expected a region left < right, top < bottom, got {' '.join(corners)}")
    sets = [
        frozenset(map(image_stem, _lines(file.with_name(f"{name}_{kind}.txt"))))
        for kind in ("good", "ok", "junk")
    ]
    return RetrievalQuery(image_stem(image.removeprefix(_PREFIX)), (left, top, right, bottom), *sets)


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from None
