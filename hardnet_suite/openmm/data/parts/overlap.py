"""Files that a config both trains on and scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardnet_suite.data.files import copies_across, real_path
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts.part import Part


@dataclass(frozen=True)
class Overlap:
    """What of a data set for validation or test is training data as well: its scores flatter.

    Attributes:
        loader: the data loader that the data set serves.
        twins: file of the data set -> the same file of the training data, or a copy of it.
        total: number of files of the data set.
    """

    loader: str
    twins: dict[Path, Path]
    total: int

    def __str__(self) -> str:
        path, first = next(iter(self.twins.items()))
        of = "" if real_path(path) == real_path(first) else f", a copy of {first}"
        return (
            f"{len(self.twins)} of {self.total} files of {self.loader} are training data as well, such as "
            f"{path}{of}: its scores say nothing of other images"
        )


def trained_on(part: Part, training: Iterable[Part], *, copies: bool) -> Overlap | None:
    """The overlap of a data set with the training data; None without one.

    Data sets whose files cannot be told are left out.

    Args:
        part: a data set for validation or test.
        training: those of ``train_dataloader``.
        copies: also finds files of equal content, which are read.
    """
    places = {real_path(path): path for other in training for path in files_of(other)}
    files = files_of(part) if places else ()
    twins = {path: places[real] for path in files if (real := real_path(path)) in places}
    if copies:
        rest = [path for path in files if path not in twins]
        pairs = copies_across({"training": [*places.values()], part.loader: rest})
        twins |= {path: first for first, path in pairs}
    return Overlap(part.loader, twins, len(files)) if twins else None


def beside(part: Part, others: Iterable[Part]) -> list[Part]:
    """Those of other data sets that have a folder in common with a data set, or one inside of one of its."""
    own = [Path(real_path(folder)) for folder in part.folders]
    return [
        other
        for other in others
        if any(_are_nested(Path(real_path(folder)), place) for folder in other.folders for place in own)
    ]


def files_of(part: Part) -> Sequence[Path]:
    """The files of a data set; none if they cannot be told."""
    try:
        return part.files()
    except UserError:
        return ()


def _are_nested(first: Path, second: Path) -> bool:
    return first.is_relative_to(second) or second.is_relative_to(first)
